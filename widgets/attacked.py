"""What `AttackPanel` shows: the image, what was added to it, and what the model says then."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any, cast

import torch

from workbench.attacks import Attack, AttackResult, FixedBudget
from workbench.figures import (
    confidence_curve,
    confidence_pair,
    confidence_table,
    drag_eps,
    heat_overlay,
)
from workbench.figures.inputs import count, percent
from workbench.robustness import Breaking
from workbench.robustness.breaks import RADII
from workbench.saliency import Saliency

from .blocks import column, figure, live, pick, row, section, signed, status
from .views import Answered

HEIGHT = 150  # pixels on the screen for an image, whatever its own size
# Multiplications in about a second on one core: those of a convolution, and what calls cost beside.
SECOND, CALL = 2.5e11, 2e7
LOOKED_THROUGH = (4, 64)  # images after a wrong one, where a right one is looked for: large, small
VALUES = 200_000  # of these images together, about


@dataclass(frozen=True, eq=False)
class AttackView(Answered):
    """What the panel shows: the image, what the model says of it, and the attack so far.

    remark: why there is nothing to attack. right: the next image that the model gets right,
    where it is wrong about this one. n_steps: of the attack, found or not. breaking: the same
    attack at budgets up to its own, for eps to be dragged.
    """

    attack: Attack
    result: AttackResult | None = None
    n_steps: int = 0
    breaking: Breaking | None = None
    maps: tuple[Saliency, ...] = ()
    remark: str = ""
    right: int | None = None

    @property
    def known(self) -> int | None:
        """The class of the image as the model numbers them; None where it is not known."""
        label = int(self.images.labels[self.index])
        return label if label >= 0 else None

    @property
    def wrong(self) -> bool:
        """Whether the model is wrong before anything is changed."""
        return self.known is not None and self.label != self.known

    @property
    def budget(self) -> float:
        """The eps to drag up to; 0 where there is none, as with a target."""
        free = self.result is not None and self.result.target is None
        return self.attack.eps if free and isinstance(self.attack, FixedBudget) else 0.0

    @property
    def quick(self) -> bool:
        """Whether all budgets together take no more than about a second: by a count, no clock."""
        weights = sum(weight.numel() for weight in self.model.parameters())
        return self.n_steps * RADII * max(weights * self.x.numel(), CALL) <= SECOND

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the image, and the attack's own summary."""
        row: dict[str, Any] = {"index": self.index, "attack": self.attack.code()}
        return row | (self.result.summary() if self.result is not None else {})


def spans(attack: Attack, colour: bool) -> dict[str, tuple[float, float, float]]:
    """Where the slider of the budget goes, and its step."""
    if not isinstance(attack, FixedBudget):
        return {}
    ends = {"Linf": (0, 64 / 255, 1 / 255) if colour else (0, 1, 0.01)}
    return {"eps": {**ends, "L2": (0, 10, 0.1), "L1": (0, 100, 1)}[attack.norm]}


def next_right(view: AttackView) -> int | None:
    """The next image that the model gets right, of those that follow; None without one."""
    n, (least, most) = len(view.images), LOOKED_THROUGH
    near = min(n, max(least, min(most, VALUES // view.x.numel())))
    places = [(view.index + i) % n for i in range(1, near)]
    if not places:
        return None
    some = view.images[torch.tensor(places)]
    right = (view.model.predict(some.images).label == some.labels).tolist()
    return next((place for place, is_right in zip(places, right, strict=True) if is_right), None)


def nothing_to_do(view: AttackView, target: str) -> str:
    """Why there is nothing to attack; empty where there is something."""
    classes, label, answer = view.images.classes, view.known, view.label
    if target and label is not None and target == classes[label]:
        return f"The image is of class {target} already: choose another target."
    if target == classes[answer]:
        return f"The model says {target} already: choose another target."
    if label is not None and answer != label and not target:
        return (
            f"Already wrong: this is {classes[label]}, and the model says {classes[answer]} before "
            "anything is changed. Go on to an image that it gets right, or choose a target class."
        )
    return ""


def picture(view: AttackView, step: int | None) -> str:
    """What is shown, at one step of the trace; of the best image when None."""
    x, classes, label = view.x[0], view.images.classes, view.known
    space = view.images.space
    name = "no label" if label is None else classes[label]
    clean = figure(x, f"{name}, as it is", f"as it is: <b>{escape(name)}</b>", HEIGHT, space)
    if view.result is None:
        table = confidence_table(view.prediction.probabilities[0], classes, label).html
        hint = live("Press <b>Launch</b> to attack this image.") + unlabelled(view)
        return section(row(clean, column(ways_on(view) or hint, table)))
    image, logits = view.result.x_adv[0], view.result.logits[0]
    if step is not None:
        moment = view.result.trace[step]
        assert moment.images is not None
        assert moment.logits is not None
        image, logits = moment.images[0], moment.logits[0]
    answer, largest = classes[int(logits.argmax())], float((image - x).abs().max())
    words = f"what was added, at most {largest:.3g} a pixel: blue darker, orange brighter"
    alt, caption = f"attacked image: the model says {answer}", f"attacked: <b>{escape(answer)}</b>"
    shares = view.prediction.probabilities[0], logits.softmax(0)
    blocks = [
        clean,
        signed(image - x, words, "what was added", HEIGHT) if space is None else moved(view),
        figure(image, alt, caption, HEIGHT, space, x),
        confidence_pair(*shares, classes, ("as it is", "attacked"), label).html,
    ]
    parts = row(*blocks), row(course(view, step), row(*maps(view)))
    return section(verdict(view), budgets(view), *parts)


def moved(view: AttackView) -> str:
    """Of a point that is no image: the nearest that exists, and what the model says of it."""
    assert view.result is not None
    x, space, real = view.x[0], view.images.space, view.result.existing
    if real is None:  # before the attack has ended
        return ""
    answer = escape(view.images.classes[int(real.predicted[0])])
    caption = f"the nearest that exists: <b>{answer}</b>"
    return figure(real.x_adv[0], f"the nearest that exists, {answer}", caption, HEIGHT, space, x)


def budgets(view: AttackView) -> str:
    """The same attack at every budget up to its own, to be dragged; its room before it is there."""
    if not view.budget:
        return ""
    if view.breaking is None and not view.quick:
        words = f"To drag eps, the attack is run at {RADII} budgets. Here that takes a while."
        return live(words) + pick("drag:", "Run it, to drag eps")
    if view.breaking is None:
        words = "When the attack has come to its end, eps can be dragged here."
        return f'<div class="wb-drag-room wb-live wb-soft">{words}</div>'
    words = f"The same attack, run anew at {RADII} budgets up to its own: drag eps."
    return (
        f'<div class="wb-drag-room"><p class="wb-soft">{words}</p>'
        f"{drag_eps([view.breaking], view.images.space).html}</div>"
    )


def ways_on(view: AttackView) -> str:
    """Why there is nothing to attack, and what to do instead."""
    if not view.remark:
        return ""
    words = status(escape(view.remark))
    if view.right is not None:
        words += pick(f"image:{view.right}", f"Show image {view.right}, which it gets right")
    return words


def unlabelled(view: AttackView) -> str:
    """What it means that the class of an image is not known."""
    if view.known is not None:
        return ""
    said = view.images.classes[view.label]
    return status(f"Without a label the attack starts from what the model says, {escape(said)}.")


def course(view: AttackView, step: int | None) -> str:
    """How the confidences went, step by step."""
    assert view.result is not None
    moments = [m for m in view.result.trace if m.logits is not None]
    if len(moments) < 2:
        return ""
    shares = torch.stack([cast("torch.Tensor", m.logits)[0] for m in moments]).softmax(1)
    shown = {int(view.result.labels[0]), int(view.result.predicted[0])}
    if view.result.target is not None:
        shown.add(int(view.result.target[0]))
    lines = {view.images.classes[k]: shares[:, k].tolist() for k in sorted(shown)}
    return confidence_curve(lines, mark=step).html


def maps(view: AttackView) -> list[str]:
    """Saliency before and after, on one scale."""
    most = max((float(pixels.values.abs().max()) for pixels in view.maps), default=0.0) or 1.0
    blocks = []
    for when, pixels in zip(("as it is", "attacked"), view.maps, strict=False):
        title = f"{when}: why {view.images.classes[int(pixels.target[0])]}"
        kind, ends = ("diverging", (-most, most)) if pixels.signed else ("sequential", (0, most))
        options: dict[str, Any] = {"limits": ends, "height": HEIGHT, "title": title}
        blocks.append(heat_overlay(None, pixels.values[0], kind, **options).html)
    return blocks


def verdict(view: AttackView) -> str:
    """What came of the attack, in a sentence, with its numbers below."""
    result = view.result
    assert result is not None
    classes = view.images.classes
    label, answer = int(result.labels[0]), int(result.predicted[0])
    success = bool(result.success[0])
    if view.known is None and result.target is None:  # nothing was right to begin with
        outcome = "Changed its answer" if success else "Kept its answer"
    elif success:
        outcome = "Fooled" if result.target is None else "Fooled into the class chosen"
    elif answer != label:
        outcome = "Fooled, but not into the class chosen"
    else:
        outcome = "Not fooled"
    was, now = escape(classes[view.label]), escape(classes[answer])
    change = f"{was} became {now}" if was != now else f"it still says {now}"
    before, after = float(view.prediction.confidence[0]), float(result.confidence[0])
    sizes = ", ".join(f"{norm} {float(size[0]):.3g}" for norm, size in result.norms.items())
    spent = count(int(result.queries["forwards"][0]), "forward pass")
    if backwards := int(result.queries["backwards"][0]):
        spent += f", {count(backwards, 'gradient')}"
    head = status(f'<b class="wb-head">{outcome}: {change}.</b>')
    shares = f"confidence {percent(before)}, then {percent(after)}"
    return (
        f'{head}<p class="wb-soft">Perturbation: {sizes}. {shares.capitalize()}. '
        f"Cost: {spent}.</p>{larger(view)}"
    )


def larger(view: AttackView) -> str:
    """A way on where a budget fools nobody."""
    attack, result = view.attack, view.result
    if result is None or bool(result.success[0]) or not isinstance(attack, FixedBudget):
        return ""
    most = 1.0 if attack.norm == "Linf" else float("inf")
    if attack.eps >= most:
        words = "No change of a pixel can be larger: try another attack, or more steps."
        return status(words)
    eps = min(most, float(f"{2 * attack.eps or 0.01:.3g}"))
    words = f"Within {attack.norm} {attack.eps:.3g} this attack finds nothing."
    return status(words) + pick(f"eps:{eps}", f"Try {eps:.3g}")
