"""`claim`: what may be said of a model, with all it takes to check that: JSON and HTML."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from workbench import checks, data, models, robustness, steps
from workbench.attacks import APGD, FGSM, PGD, Attack
from workbench.reports.runner import versions, write
from workbench.steps import Step

if TYPE_CHECKING:
    import pandas as pd

ATTACKS: tuple[Attack, ...] = (FGSM(), PGD(), APGD(loss="margin"))
DIAGNOSED = 100  # images for the indicators, which take some fifteen runs of an attack
FIGURE = re.compile(r"""<figure aria-label=(["'])(.*?)\1[^>]*>.*?id="(figure-\d+)\"""", re.DOTALL)
STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; } caption { text-align: left; font-weight: bold; }
th, td { border-bottom: 1px solid #ccc; padding: .3em .8em; text-align: left; }
"""


@dataclass(frozen=True, eq=False)
class Claim:
    """A claim card. content: what the JSON file holds; findings: of the indicators."""

    content: dict[str, Any]
    evaluation: robustness.Evaluation
    findings: robustness.Diagnosis
    json: Path
    html: Path

    def summary(self) -> dict[str, Any]:
        """The accuracies and the worst level of the indicators."""
        return {**self.evaluation.summary(), "indicators": self.findings.summary()["worst"]}

    def frame(self) -> pd.DataFrame:
        """One row an accuracy, with its interval."""
        import pandas as pd

        return pd.DataFrame(self.content["accuracies"])


def claim(model: str, output: str | Path | None = None, **options: Any) -> Claim:
    """Run `claim_steps` behind a progress bar."""
    return steps.run(claim_steps(model, output, **options))


def claim_steps(
    model: str,
    output: str | Path | None = None,
    *,
    n: int = 500,
    eps: float | None = None,
    seed: int = 0,
    report: str | Path | None = None,
) -> Iterator[Step[Claim]]:
    """Measure a named model and write its claim card, `<output>/<model>.json` and `.html`.

    n: test images, drawn by `seed`. eps: of the L-infinity ball, by default the card's.
    report: the page of a report, whose figures the card links to. output: a folder, by
    default `claims`.

    Raises:
        ValueError: no such model, or its card names no data set or no eps; n out of range.
        FileNotFoundError: no such report.
    """
    classifier = models.load(model)
    card = classifier.card
    if card.dataset not in data.available():
        raise checks.unknown(f"data set of {model}", card.dataset, data.available())
    budget = card.eps if eps is None else eps
    if budget is None:
        raise ValueError(f"eps: the card of {model} names none; give one, such as 0.1")
    folder = Path(output or "claims").absolute()
    path = folder / f"{re.sub(r'[^A-Za-z0-9._]+', '-', model).strip('.')[:80]}.json"
    figures = []
    if report is not None:
        page = Path(report).absolute()
        link = quote(Path(os.path.relpath(page, folder)).as_posix())
        for _, label, place in FIGURE.findall(page.read_text("utf-8")):
            figures.append({"figure": unescape(label), "link": f"{link}#{place}"})
    images = data.load(card.dataset).sample(n, seed=seed)
    half = 100
    work = robustness.evaluation_steps(classifier, images, ATTACKS, eps=[budget], seed=seed)
    for step in work:
        yield Step(half * step.done // step.total, 2 * half, step.message)
        evaluation = step.value
    strongest = ATTACKS[-1].changed(eps=budget)
    few = images[: min(n, DIAGNOSED)]
    for tick in robustness.diagnosis_steps(classifier, few, strongest, seed=seed):
        yield Step(half + (half - 1) * tick.done // tick.total, 2 * half, tick.message)
        findings = tick.value
    assert evaluation is not None and findings is not None  # noqa: PT018
    content = {
        "model": card.model_dump(mode="json"),
        "weights_sha256": weights_hash(classifier),
        "data": {"name": images.name, "split": images.split, "images": n},
        "sample_sha256": images.sha256(),
        "seed": seed,
        "attacks": evaluation.attacks,
        "accuracies": accuracies(evaluation),
        "indicators": json.loads(findings.frame().to_json(orient="records")),
        "diagnosed": {"attack": findings.attack, "images": len(few), "sample_sha256": few.sha256()},
        "figures": figures,
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    write(path.with_suffix(".html"), to_html(content))
    result = Claim(content, evaluation, findings, path, path.with_suffix(".html"))
    yield Step(2 * half, 2 * half, "card written", result)
