"""The literature behind the bench: what each paper does, in a sentence, and where it runs here.

`papers()`, `search("level set")`, `frame(family="attacks")`. The rows are in `papers.toml`, what
became of their claims in `claims.toml`: `claims()`, `paper.verdict`.
"""

from __future__ import annotations

import tomllib
from functools import cache, partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from workbench import checks
from workbench.atlas.verdicts import CLAIMS as CLAIMS
from workbench.atlas.verdicts import Run as Run
from workbench.atlas.verdicts import Tested as Tested
from workbench.atlas.verdicts import as_toml as as_toml
from workbench.atlas.verdicts import claims as claims
from workbench.atlas.verdicts import together as together
from workbench.atlas.verdicts import verdict_of
from workbench.params import Parameters

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = {
    "attacks": "images or prompts made to mislead, and what they give away",
    "fooling": "images of nothing that a classifier is sure of",
    "levelsets": "images that a model cannot tell apart",
    "prototypes": "models that compare an image with learned examples",
    "explanations": "what a model goes by: concepts, relevance, cues, rules",
    "patterns": "what neurons fire, and what can be proved of it",
    "defences": "training and filtering against attacks",
    "detectors": "telling inputs that do not belong",
    "poisoning": "attacks on training data, and backdoors",
    "robustness": "measuring how well a model holds up",
    "geometry": "what networks compute, and why they generalise",
    "training": "losses, optimisers, regularisation, learning without backpropagation",
    "architectures": "networks designed, searched for, or made by other networks",
    "compression": "pruning, quantisation, distillation, effort that fits the input",
    "continual": "learning task after task, adapting to a domain or user",
    "language": "models of language: supervision, reasoning, agents",
    "generative": "diffusion models and adversarial generators of images and maps",
    "applications": "data sets, systems, reviews, and uses in one field",
}
LONGEST = 35  # words in a sentence
PLACE = r"^(notebooks/\w+\.ipynb#\S.*|workbench(\.\w+)+)$"


class Paper(Parameters):
    """A paper, how it works, and where it runs here.

    year: of the first preprint; None where it is not known. mechanism: one sentence of at most
    35 words. runs: sections, "notebooks/07_level_sets.ipynb#The star", and dotted names,
    "workbench.attacks.PGD", that do what the paper does; empty: not yet.
    """

    title: str = Field(min_length=1)
    family: str
    mechanism: str
    year: int | None = Field(None, ge=1950, le=2100)
    runs: tuple[Annotated[str, Field(pattern=PLACE)], ...] = ()

    @field_validator("mechanism")
    @classmethod
    def _one_sentence(cls, text: str) -> str:
        if not text.endswith(".") or ". " in text or len(text.split()) > LONGEST:
            raise ValueError(f"expected one sentence of at most {LONGEST} words, with a full stop")
        return text

    @property
    def live(self) -> bool:
        """Whether anything of it runs here."""
        return bool(self.runs)

    @property
    def verdict(self) -> str:
        """What became of its claims here: holds, partly, refuted here; "" where none was tested."""
        return verdict_of(self.title)


def read(path: Path) -> tuple[Paper, ...]:
    """The papers of a TOML file: `[[family]]` tables of title, year, mechanism and runs.

    Raises:
        ValueError: not TOML, a table that is no paper, or a title given twice.
    """
    found: dict[str, Paper] = {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: not TOML: {error}") from None
    for family, rows in tables.items():
        if family not in FAMILIES:
            raise ValueError(f"{path.name}: {checks.unknown('family', family, FAMILIES)}")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path.name}: {family}: expected [[{family}]] tables, one a paper")
        for number, row in enumerate(rows, 1):
            place = f"{path.name}: [[{family}]] number {number}, {row.get('title')!r}"
            try:
                paper = Paper(family=family, **row)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{place}: {error}") from None
            if found.setdefault(paper.title.casefold(), paper) is not paper:
                raise ValueError(f"{place}: expected every title once, this one was there before")
    return tuple(found.values())


@cache
def papers() -> tuple[Paper, ...]:
    """All papers, by family, the oldest first."""
    return read(Path(__file__).with_name("papers.toml"))


def the_one(words: str) -> Paper:
    """The paper of this title, or the only one whose title has all the words.

    Raises:
        ValueError: none, or several.
    """
    said = words.casefold()
    exact = [paper for paper in papers() if paper.title.casefold() == said]
    found = exact or [p for p in papers() if all(w in p.title.casefold() for w in said.split())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise checks.unknown("paper", words, [paper.title for paper in papers()])
    titles = "; ".join(paper.title for paper in found[:5])
    raise ValueError(f"paper: {words!r} is in {len(found)} titles: {titles}; give more of it")


def search(text: str = "", family: str | None = None, live: bool | None = None) -> list[Paper]:
    """The papers that have every word of `text` somewhere, in any case.

    family: one of `FAMILIES`; None: all. live: those that run here, or (False) do not yet.

    Raises:
        ValueError: an unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise checks.unknown("family", family, FAMILIES)
    words = text.casefold().split()
    return [
        paper
        for paper in papers()
        if family in (None, paper.family) and live in (None, paper.live)
        if all(word in " ".join(map(str, dict(paper).values())).casefold() for word in words)
    ]


def as_text(found: list[Paper]) -> str:
    """Papers for a terminal: how each works, what became of its claims, where it runs."""
    wrap = partial(fill, width=98, initial_indent="  ", subsequent_indent="    ")
    lines = []
    for paper in found:
        lines.append(f"{paper.title} ({paper.year or 'year unknown'}; {paper.family})")
        lines.append(wrap(paper.mechanism))
        mine = (claim for claim in claims() if claim.paper == paper.title)
        lines += [wrap(f"= {claim.verdict} ({claim.share}): {claim.says}") for claim in mine]
        lines += [f"  -> {place}" for place in paper.runs] + [""]
    live, judged = sum(p.live for p in found), sum(bool(p.verdict) for p in found)
    counts = f"{len(found)} of {len(papers())} papers, of which {live} run here"
    return "\n".join([*lines, f"{counts} and {judged} have a verdict."])


def frame(text: str = "", family: str | None = None, live: bool | None = None) -> pd.DataFrame:
    """What `search` finds, a row each: the fields of `Paper` (runs is a tuple), live, verdict."""
    import pandas as pd

    more = ["live", "verdict"]
    found = search(text, family, live)
    rows = [{**dict(paper), **{name: getattr(paper, name) for name in more}} for paper in found]
    return pd.DataFrame(rows, columns=[*Paper.model_fields, *more]).astype({"year": "Int64"})
