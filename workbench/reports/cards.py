"""`card`: what can be said of a model, and all it takes to check that, as JSON and HTML."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from workbench import checks, data, models, robustness
from workbench.attacks import APGD, FGSM, PGD
from workbench.files import write
from workbench.reports.grid_page import PAGE, html_table
from workbench.reports.needs import digest, hashed, labels
from workbench.reports.runner import versions
from workbench.steps import Step, work

ATTACKS = (FGSM(), PGD(), APGD(loss="margin"))  # the last is the one diagnosed
DIAGNOSED = 100  # images for the indicators, which take some fifteen runs of the attack


@dataclass(frozen=True, eq=False)
class Card:
    """A card: its files, and `content`, which the JSON file holds."""

    json: Path
    html: Path
    content: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """The accuracies by name, and how many indicators say what."""
        levels = [row["level"] for row in self.content["indicators"]]
        rates = {row["accuracy"]: row["rate"] for row in self.content["accuracies"]}
        return {**rates, **{level: levels.count(level) for level in sorted(set(levels))}}

    def frame(self) -> pd.DataFrame:
        """One row an accuracy, with its interval."""
        return pd.DataFrame(self.content["accuracies"])


@work
def card(
    model: str,
    output: str | Path | None = None,
    *,
    n: int = 200,
    eps: float | None = None,
    seed: int = 0,
    report: str | Path | None = None,
) -> Iterator[Step[Card]]:
    """Measure a named model and write its card into the folder `output` (or `cards`).

    n: test images, drawn by `seed`. eps: radius of the L-infinity ball, by default the
    card's. report: the page of a report, with its results.json beside it, to whose figures the
    card then links.

    Raises:
        ValueError: no such model; its card names no data set or eps; n out of range.
        FileNotFoundError: no such report.
    """
    classifier = models.load(model)
    card, folder = classifier.card, Path(output or "cards").absolute()
    checks.known(f"data set of {model}", card.dataset, data.available())
    if eps is None and card.eps is None:
        raise ValueError(f"eps: the card of {model} names none; give one, such as 0.1")
    budget = float(card.eps if eps is None else eps)  # type: ignore[arg-type]
    figures = {} if report is None else linked(Path(report).absolute(), folder)
    images = data.load(card.dataset).sample(n, seed=seed)
    few, strongest = images[:DIAGNOSED], ATTACKS[-1].changed(eps=budget)
    evaluation = yield from _hundred(
        robustness.evaluate.steps(classifier, images, ATTACKS, eps=[budget], seed=seed), 0
    )
    diagnosis = yield from _hundred(
        robustness.diagnose.steps(classifier, few, strongest, seed=seed), 100
    )
    content = {
        "model": card.model_dump(mode="json"),
        "accuracies": accuracies(evaluation),
        "indicators": records(diagnosis.frame()),
        "attacks": evaluation.attacks,
        "seed": seed,
        "sample": {"data": images.name, "split": images.split, "sha256": images.sha256()},
        "diagnosed": {"attack": diagnosis.attack, "images": len(few), "sha256": few.sha256()},
        "files": {label: digest(Path(), label) for label in labels(Path(), model)},
        "versions": versions(),
        "figures": figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", model).strip("-")
    if len(stem) > 80:  # what is cut off tells two names apart
        stem = f"{stem[:71]}-{hashed(model)[:8]}"
    path = folder / f"{stem}.json"
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    write(path.with_suffix(".html"), to_html(content))
    yield Step(201, 201, "written", Card(path, path.with_suffix(".html"), content))


def _hundred(steps: Iterator[Step[Any]], before: int) -> Generator[Step[Any], None, Any]:
    """The value at the end of `steps`, which are a hundred of the card's 201 from `before` on."""
    for step in steps:
        yield Step(before + 100 * step.done // max(1, step.total), 201, step.message)
    return step.value


def accuracies(evaluation: robustness.Evaluation) -> list[dict[str, Any]]:
    """The clean accuracy, with its interval, then those under attack: one row each."""
    judged = evaluation.rows.drop_duplicates("image")["right"].dropna()  # those with a label
    right, known = int(judged.sum()), len(judged)
    low, high = robustness.wilson(right, known)
    clean = {"accuracy": "clean", "norm": "", "eps": 0.0, "rate": right / known if known else None}
    clean |= {"low": low, "high": high, "images": known, "failed": 0}
    names = {"attack": "accuracy", "robust_accuracy": "rate"}
    return [clean, *records(evaluation.curve().rename(columns=names))]


def linked(page: Path, folder: Path) -> dict[str, str]:
    """The figures of a report by their text, as links from `folder`; results.json names them."""
    link = quote(Path(os.path.relpath(page, folder)).as_posix())
    if not page.is_file():
        raise FileNotFoundError(f"report: no page {page}; give one that `workbench report` wrote")
    content = json.loads(page.with_name("results.json").read_text("utf-8"))
    return {figure["alt"]: f"{link}#{figure['id']}" for figure in content.get("figures", [])}


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as JSON has them: NaN is None."""
    return json.loads(frame.to_json(orient="records", double_precision=15))


def to_html(content: dict[str, Any]) -> str:
    """The page of a card's content."""
    rates = pd.DataFrame(content["accuracies"]).drop(columns="failed")
    found = pd.DataFrame(content["indicators"])[["name", "level", "says", "why"]]
    shown = ("accuracies", "indicators", "figures")
    facts = pd.DataFrame([(k, json.dumps(v)) for k, v in content.items() if k not in shown])
    figures = content["figures"].items()
    parts = {
        "Accuracies, with 95% intervals": html_table(rates, index=False, na_rep="not known"),
        "What the indicators say": html_table(found, index=False),
        "To check it": html_table(facts, index=False, header=False),
        "Figures in the report": "".join(
            f'<p><a href="{escape(to)}">{escape(text)}</a></p>' for text, to in figures
        ),
    }
    body = "".join(f"<h2>{title}</h2>\n{part}\n" for title, part in parts.items() if part)
    return PAGE.format(title=escape(f"Card: {content['model']['name']}"), body=body)
