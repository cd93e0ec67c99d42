"""Confidences in words and as an HTML table, which is ready in a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch

from workbench import checks
from workbench.figures import inputs
from workbench.figures.images import Picture
from workbench.figures.inputs import count, percent
from workbench.figures.palettes import CLASSES


class Answer(NamedTuple):
    """A model's answer, checked: `p` in [0, 1], the classes to show, and what to say of it."""

    p: np.ndarray
    names: list[str]
    label: int | None
    chosen: int
    order: list[int]
    verdict: str
    alt: str


def answer(
    probabilities: Any, classes: Sequence[str], label: Any, predicted: Any, top: int
) -> Answer:
    """The `top` most likely classes, most likely first, then the chosen and the true one."""
    p = inputs.probabilities(probabilities)
    names = inputs.class_names(classes, len(p))
    label = inputs.class_index("label", label, len(p))
    chosen = inputs.class_index("predicted", predicted, len(p))
    chosen = int(p.argmax()) if chosen is None else chosen
    first = np.argsort(-p, kind="stable")[: checks.positive("top", top)].tolist()
    order = list(dict.fromkeys([*first, chosen] if label is None else [*first, chosen, label]))
    verdict = f"Predicted {names[chosen]} with confidence {percent(p[chosen])}"
    if label is not None:
        verdict += ", which is right" if chosen == label else f", but it is {names[label]}"
    listed = ", ".join(f"{names[k]} {percent(p[k])}" for k in order)
    alt = f"{verdict}; of {count(len(p), 'class')}: {listed}"
    return Answer(p, names, label, chosen, order, verdict, alt)


def confidence_table(
    probabilities: torch.Tensor | np.ndarray,
    classes: Sequence[str],
    label: int | None = None,
    predicted: int | None = None,
    *,
    top: int = 5,
) -> Picture:
    """The `top` most likely classes with bars, most likely first, and always the true one.

    probabilities: `(K,)`, summing to 1. classes: K names. label: the true class, if known.
    predicted: the model's answer, where that is not the most likely class.
    """
    shown = answer(probabilities, classes, label, predicted, top)
    rows = "".join(
        _row(shown.names[k], shown.p[k], k == shown.chosen, k == shown.label) for k in shown.order
    )
    head = '<th scope="col" style="text-align:left;padding:2px 12px 2px 0">'
    table = (
        '<table style="border-collapse:collapse;font-family:system-ui,sans-serif;font-size:13px">'
        '<caption style="caption-side:top;text-align:left;padding:4px 0">'
        f"{escape(shown.verdict)}</caption>"
        f"<thead><tr>{head}class</th>{head}confidence</th><td></td></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    return Picture(table, shown.alt)


def _row(name: str, share: float, chosen: bool, true: bool) -> str:
    marks = [word for word, yes in (("◀ predicted", chosen), ("✓ true", true)) if yes]
    cell = 'style="text-align:left;padding:2px 12px 2px 0'
    # The empty track keeps every bar on the same scale, 0 to 100%.
    bar = (
        '<div style="width:160px;background:rgba(128,128,128,0.2)">'
        f'<div style="width:{100 * share:.1f}%;height:12px;background:{CLASSES[0]}"></div></div>'
    )
    return (
        f'<tr><th scope="row" {cell};font-weight:{"bold" if marks else "normal"}">{escape(name)}'
        f'</th><td {cell}"><div style="display:flex;gap:8px;align-items:center">{bar}'
        f"{escape(percent(share))}</div></td>"
        f'<td {cell};white-space:nowrap">{" ".join(marks)}</td></tr>'
    )


LEVELS = {  # mark and colour: told apart by shape and word too
    "red": ("■", "#D55E00"),
    "error": ("✕", "#D55E00"),
    "amber": ("▲", "#E69F00"),
    "green": ("●", "#009E73"),
    "not applicable": ("○", "#777777"),
}


def health_table(findings: Sequence[Any]) -> Picture:
    """What the indicators of `robustness.diagnose` say: alarms in full, the rest folded.

    findings: each with name, level, says, why and remedy.
    """
    by_level = {level: [f for f in findings if f.level == level] for level in LEVELS}
    counted = [f"{len(group)} {level}" for level, group in by_level.items() if group]
    alt = f"health of the evaluation: {', '.join(counted) or 'no indicator asked yet'}"
    alarms = [f for level in ("red", "error", "amber") for f in by_level[level]]
    alt += "".join(f"; {f.level}: {f.name}" for f in alarms)
    calm = [f for level in ("green", "not applicable") for f in by_level[level]]
    blocks = [f'<p style="margin:4px 0">{escape(alt.split(";")[0].capitalize())}</p>']
    for finding in alarms:
        advice = f"<br><i>Why it matters:</i> {escape(finding.why)}"
        advice += f"<br><i>Try:</i> {escape(finding.remedy)}" if finding.remedy else ""
        blocks.append(f'<p style="margin:4px 0">{_level(finding)}{advice}</p>')
    if calm:
        rows = "".join(f"<li>{_level(finding)}</li>" for finding in calm)
        blocks.append(
            f"<details><summary>{len(calm)} indicators without alarm</summary>"
            f'<ul style="list-style:none;padding-left:0">{rows}</ul></details>'
        )
    style = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.4"
    html = f'<div role="group" aria-label="{escape(alt, quote=True)}" style="{style}">'
    return Picture(f"{html}{''.join(blocks)}</div>", alt)


def _level(finding: Any) -> str:
    mark, colour = LEVELS[finding.level]
    return (
        f'<span style="color:{colour}" aria-hidden="true">{mark}</span> <b>{finding.level}</b> '
        f"{escape(finding.name)}: {escape(finding.says)}"
    )
