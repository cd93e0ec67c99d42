"""`card`: what can be said of a model, and all it takes to check that, as JSON and HTML."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pandas as pd

from workbench import checks, data, figures, models, robustness
from workbench.attacks import APGD, FGSM, PGD, FixedBudget
from workbench.files import write
from workbench.reports.needs import digest, hashed, labels
from workbench.reports.results import short, words
from workbench.reports.runner import versions
from workbench.reports.sheet import document, in_words
from workbench.steps import Step, run, work

ATTACKS = (FGSM(), PGD(), APGD(loss="margin"))  # the last is the one diagnosed
MISTAKES = 8  # that a card shows
SHOWN = ("model", "accuracies", "indicators", "figures")  # of the content, before the rest
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
    links = {} if report is None else linked(Path(report).absolute(), folder)
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
        "figures": links,
    }
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", model).strip("-")
    if len(stem) > 80:  # what is cut off tells two names apart
        stem = f"{stem[:71]}-{hashed(model)[:8]}"
    path = folder / f"{stem}.json"
    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    doubled = strongest.changed(eps=min(1.0, 2 * budget))
    shown = pictures(classifier, images, doubled, seed) if budget else ""
    write(path.with_suffix(".html"), to_html(content, shown))
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


def pictures(
    classifier: models.Classifier, images: data.ImageDataset, attack: FixedBudget, seed: int
) -> str:
    """One image, the first that is right, on which the attack is dragged; and the mistakes."""
    prediction, labels = classifier.predict(images.images), images.labels
    right = (prediction.label == labels).nonzero().flatten()[:1]
    wrong = ((prediction.label != labels) & (labels >= 0)).nonzero().flatten()
    worst = wrong[prediction.confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    html = ""
    if len(right):
        x = images.images[right]
        breaking = run(robustness.breaking.steps(classifier, x, attack, seed=seed), progress=False)
        html += f'<div class="wb-card">{figures.drag_eps([breaking]).html}</div>'
    shown = (each[worst] for each in (images.images, labels, prediction.label))
    grid = figures.image_grid(*shown, prediction.confidence[worst], classifier.classes).html
    if not len(worst):
        grid = f"<p>No mistake among {len(labels)} images.</p>"
    return f"{html}<h2>The most confident mistakes</h2>{grid}"


def to_html(content: dict[str, Any], pictures: str = "") -> str:
    """The page of a card's content; pictures: HTML that stands below its first lines."""
    rates, model = pd.DataFrame(content["accuracies"]), content["model"]
    worst = rates.iloc[-1]
    budget = f"{worst['norm']} eps {worst['eps']:.3g}"
    said = f"Right on {_rate(rates.iloc[0])} of {rates.iloc[0]['images']} test images, on "
    said += f"{_rate(worst)} of them in the {worst['accuracy']} of the attacks ({budget})."
    told = [("data", "dataset"), ("architecture",) * 2, ("parameters",) * 2, ("licence",) * 2]
    facts = " · ".join(f"{name} {in_words(model[key])}" for name, key in told if model.get(key))
    folded = {
        "model": {k: v for k, v in model.items() if k not in ("name", "classes", "named")},
        **{k: v for k, v in content.items() if k not in SHOWN},
    }
    rows = "".join(
        f'<tr><th scope="row">{words(name)}</th><td>{escape(in_words(value))}</td></tr>'
        for name, value in folded.items()
    )
    links = "".join(
        f'<li><a href="{escape(to)}">{escape(text)}</a></li>'
        for text, to in content["figures"].items()
    )
    findings = [SimpleNamespace(**row) for row in content["indicators"]]
    parts = [
        f'<p class="wb-head">{escape(said)}</p><p class="wb-soft">{escape(facts)}</p>{pictures}',
        f"<h2>Accuracy, and under attack ({escape(budget)}), with 95 % intervals</h2>",
        interval_chart(rates),
        f"<h2>Can it be trusted?</h2>{figures.health_table(findings).html}",
        f"<h2>Figures in the report</h2><ul>{links}</ul>" if links else "",
        f"<details><summary>To check it</summary><table>{rows}</table></details>",
    ]
    return document(f"Card: {model['name']}", "\n".join(parts))


def interval_chart(rates: pd.DataFrame) -> str:
    """A bar an accuracy, with its interval as a line on it."""
    rows = []
    for row in rates.to_dict("records"):
        shown = "not known" if pd.isna(row["rate"]) else short(row["rate"], "rate")
        bar = ""
        if not pd.isna(row["rate"]):
            low, high = row["low"], row["high"]
            about = f"{short(low, 'rate')} to {short(high, 'rate')}, {row['images']} images"
            bar = (
                f'<div class="wb-bar" title="{about}"><i style="width:{row["rate"]:.1%}"></i>'
                f'<b style="left:{low:.1%};width:{high - low:.1%}"></b></div>'
            )
            shown += f" <small>{short(low, 'rate')} to {short(high, 'rate')}</small>"
        name = escape(row["accuracy"])
        rows.append(f'<tr><th scope="row">{name}</th><td>{bar}</td><td>{shown}</td></tr>')
    return f'<table class="wb-bars">{"".join(rows)}</table>'


def _rate(row: pd.Series) -> str:
    """A rate as percent, or that it is not known."""
    return "an unknown share" if pd.isna(row["rate"]) else short(row["rate"], "rate")
