"""Confidences in words and as an HTML table, which is ready in a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch

from workbench import checks
from workbench.figures import inputs
from workbench.figures.images import Picture, bar, table
from workbench.figures.inputs import count, percent


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
    p = inputs.probabilities(probabilities)
    names = inputs.class_names(classes, len(p))
    label = inputs.class_index("label", label, len(p))
    answer = inputs.class_index("predicted", predicted, len(p))
    answer = int(p.argmax()) if answer is None else answer
    first = np.argsort(-p, kind="stable")[: checks.positive("top", top)].tolist()
    order = dict.fromkeys([*first, answer, *([] if label is None else [label])])
    verdict = f"Predicted {names[answer]} with confidence {percent(p[answer])}"
    if label is not None:
        verdict += ", which is right" if answer == label else f", but it is {names[label]}"
    rows = []
    for k in order:
        marks = ["◀ answer"] * (k == answer) + ["✓ true"] * (k == label)
        name = f"<b>{escape(names[k])}</b>" if marks else escape(names[k])
        share = f'<div style="display:flex;gap:8px;align-items:center">{bar(p[k])}'
        words = "◀ answer ✓" if len(marks) == 2 else "".join(marks)
        words = f'<span style="white-space:nowrap">{words}</span>'
        rows.append([name, f"{share}{escape(percent(p[k]))}</div>", words])
    listed = ", ".join(f"{names[k]} {percent(p[k])}" for k in order)
    html = table(rows, ("<b>class</b>", "<b>confidence</b>"), escape(verdict))
    return Picture(html, f"{verdict}; of {count(len(p), 'class')}: {listed}")


def confidence_pair(
    one: torch.Tensor,
    other: torch.Tensor,
    classes: Sequence[str],
    names: tuple[str, str],
    label: int | None = None,
    *,
    top: int = 5,
) -> Picture:
    """Two answers over the same classes, such as before and after an attack: paired bars.

    one, other: `(K,)`, each summing to 1. names: of the two. label: the true class, if known.
    The `top` classes that are likeliest in either, and the true one.
    """
    shares = [inputs.probabilities(one), inputs.probabilities(other)]
    known = inputs.class_names(classes, len(shares[0]))
    first = np.argsort(-np.maximum(*shares), kind="stable")[:top].tolist()
    rows, listed = [], []
    for k in dict.fromkeys([*first, *([] if label is None else [label])]):
        said = [percent(float(p[k])) for p in shares]
        bars = "".join(thin(float(p[k]), c) for p, c in zip(shares, PAIR, strict=True))
        numbers = "<br>".join(
            f'<span style="color:{c}">{escape(n)}</span>' for c, n in zip(PAIR, said, strict=True)
        )
        mark = " ✓" if k == label else ""
        track = f'<div style="width:120px">{bars}</div>'
        rows.append(
            [escape(known[k]) + mark, track, f'<div style="line-height:1.1">{numbers}</div>']
        )
        listed.append(f"{known[k]} {said[0]}, then {said[1]}")
    head = "".join(
        f'<span style="color:{c};white-space:nowrap">■ {escape(n)}</span> '
        for c, n in zip(PAIR, names, strict=True)
    )
    alt = f"confidence, {names[0]} and {names[1]}: {'; '.join(listed)}"
    html = table(rows, caption=head)
    return Picture(f'<div title="{escape(alt, quote=True)}">{html}</div>', alt)


PAIR = ("var(--wb-a, #0072b2)", "var(--wb-b, #b84d00)")


def thin(share: float, colour: str) -> str:
    """A thin bar of a pair."""
    style = f"height:7px;margin:1px 0;width:{100 * share:.1f}%;min-width:1px;background:{colour}"
    return f'<div style="{style}"></div>'


LEVELS = {  # mark and colour: told apart by shape and word too
    "red": ("■", "var(--wb-warn, #b3261e)"),
    "error": ("✕", "var(--wb-warn, #b3261e)"),
    "amber": ("▲", "var(--wb-b, #b84d00)"),
    "green": ("●", "var(--wb-ok, #0a7a52)"),
    "not applicable": ("○", "var(--wb-soft, #57606a)"),
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
