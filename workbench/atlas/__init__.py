"""The literature behind the bench: what each paper does, in a sentence, and where it runs here.

`papers()`, `search("level set")`, `frame(family="attacks")`. The rows are in `papers.toml`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from workbench import checks
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


def frame(text: str = "", family: str | None = None, live: bool | None = None) -> pd.DataFrame:
    """What `search` finds: title, family, mechanism, year, runs (a tuple) and live, a row each."""
    import pandas as pd

    rows = [{**dict(paper), "live": paper.live} for paper in search(text, family, live)]
    return pd.DataFrame(rows, columns=[*Paper.model_fields, "live"]).astype({"year": "Int64"})
