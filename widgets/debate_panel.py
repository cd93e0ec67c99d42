"""`DebatePanel`: two sides show squares of an image, in turn, to a judge who sees nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, get_args

import torch
from pydantic import Field

from workbench import checks, reasoning
from workbench.data import ImageDataset
from workbench.params import Parameters
from workbench.reasoning import Debate
from workbench.reasoning.pixels import Judge, Way
from workbench.steps import Step

from .blocks import column, figure, row, section, signed, thumbs
from .panel import Panel
from .searched import BLUE, ORANGE, Plot

ABOUT = {
    "debate": "each side in turn shows what speaks most for its claim",
    "consultancy": "one side shows all, its best first",
    "no side": "an expert shows what matters most, whomever it helps",
    "random": "squares are drawn",
}
HUES = {1: (1.0, 0.75, 0.3), -1: (0.35, 0.75, 1.0), 0: (1.0, 1.0, 1.0)}  # orange, blue, neither


class DebatePanelParameters(Parameters):
    """What `DebatePanel` shows, and to whom."""

    k: int = Field(6, ge=1, le=64, title="squares shown", description="one after the other")
    way: str = Field("debate", description="who chooses what the judge sees")
    against: str = Field("", description="the other claim; the likeliest wrong class when empty")
    compare: str = Field("", title="judge", description="the judge; the expert itself when empty")
    square: int = Field(0, ge=0, le=64, description="pixels a side; a sixteenth of the image: 0")
    wrong: bool = Field(False, title="for the wrong side", description="whose consultant it is")
    seed: int = Field(0, ge=0, le=10**6, description="of squares that are drawn")


@dataclass(frozen=True, eq=False)
class DebateView:
    """What the panel shows: an image, the two claims by name, and what was shown for them."""

    images: ImageDataset
    index: int
    claims: tuple[str, str]
    judge: str
    debate: Debate
    whole: float | None  # the first claim's share, for a model that judges and sees all

    def summary(self) -> dict[str, Any]:
        """The claims, how much was shown, and what the judge says."""
        share, said = float(self.debate.shares[-1]), self.claims
        told = {"claims": " or ".join(said), "shown": len(self.debate.order)}
        return {**told, "judge": said[share < 0.5], "share of the first": share}


class DebatePanel(Panel[DebatePanelParameters, DebateView]):
    """The true class against another: watch the judge's mind as squares are shown.

    Args and Raises: as of `Panel`; the parameters are `DebatePanelParameters`. The model selected
    is the expert of both sides; what is hidden stands at the mean of the images. judge: in place of
    a model, from what is seen `(N, C, H, W)` and masks `(N, 1, H, W)` to logits `(N, classes)`.
    """

    Params = DebatePanelParameters
    title = "Debate panel"
    matter = ("k", "way", "against")

    def __init__(self, *args: Any, judge: Judge | None = None, **parameters: Any) -> None:
        self.judge = judge
        super().__init__(*args, **parameters)

    def check(self, params: DebatePanelParameters) -> None:
        """Check that there are such a way, such a class and such a judge."""
        checks.known("way", params.way, get_args(Way))
        if params.against:
            checks.known("against", params.against, self.selection.class_names())
        if params.compare:
            self.selection.classifier(params.compare)

    def steps(self) -> Iterator[Step[DebateView]]:
        """One square after another."""
        p, (images, index) = self.params, self.image()
        expert, x = self.selection.classifier(), images.images[index]
        z, label = expert.predict(x[None]).logits[0].cpu(), int(images.labels[index])
        first = label if label >= 0 else int(z.argmax())
        others = z.clone()
        others[first] = -torch.inf
        names = self.selection.class_names()
        second = names.index(p.against) if p.against else int(others.argmax())
        options: dict[str, Any] = {"way": p.way, "side": -1 if p.wrong else 1, "seed": p.seed}
        options |= {"hidden": images.images.mean(0), "judge": self.listens}
        options["square"] = self.square(images)
        debate = reasoning.debate(expert, x, (first, second), p.k, **options)
        whole = None  # one's own judge need not know what to do with all
        if self.judge is None:
            all_seen = self.selection.classifier(p.compare or None).predict(x[None]).logits[0]
            whole = float(all_seen[[first, second]].softmax(0)[0])
        claims, judge = (names[first], names[second]), self.judging
        view = DebateView(images, index, claims, judge, debate, whole)
        for turn in range(p.k + 1):
            now = replace(view, debate=debate.until(turn))
            yield Step(turn, p.k, f"{turn} squares", now)

    def square(self, images: ImageDataset) -> int:
        """Pixels a side of what is shown at once."""
        return self.params.square or max(1, min(images.shape[1:]) // 16)

    @property
    def listens(self) -> Judge | None:
        """The judge: one's own, or another model; None for the expert itself."""
        if self.judge is not None or not self.params.compare:
            return self.judge
        model = self.selection.classifier(self.params.compare)
        return lambda seen, _: model(seen)

    @property
    def judging(self) -> str:
        """What the judge is called."""
        return "your judge" if self.judge else self.params.compare or self.selection.model

    def draw(self, result: DebateView) -> str:
        """What is said, what is seen, and the judge's mind after each turn."""
        d, (a, b), x = result.debate, result.claims, result.images.images[result.index]
        space, k = result.images.space, len(d.order)
        share = float(d.shares[-1])
        says = f"{a if share >= 0.5 else b} ({max(share, 1 - share):.0%})"
        way = ABOUT[self.params.way].capitalize()
        words = f"Image {result.index}: {a} or {b}? {way}. After {k} squares {result.judge} "
        words += f"says {says}"
        words += (
            "." if result.whole is None else f"; of the whole image {a} has {result.whole:.0%}."
        )
        worth = d.worth[None].cpu()
        tiles = [
            figure(x, f"the whole image, {a}", "the whole image", 120, space),
            signed(worth, told(worth, a, b), f"says the expert: orange {a}, blue {b}"),
            figure(shown(result), seen(result), "what the judge sees"),
        ]
        return section(
            f"<p>{escape(words)}</p>", row(*tiles), column(mind(result), width=f"{Plot.width}px")
        )

    def tile(self, result: DebateView) -> tuple[str, str]:
        """What the judge says; what it sees."""
        share, (a, b) = float(result.debate.shares[-1]), result.claims
        words = f"{a} or {b}? {a if share >= 0.5 else b}, {len(result.debate.order)} squares"
        return words, thumbs([shown(result)], [seen(result)], 60)

    def code(self) -> str:
        """The calls that give the same."""
        p, s = self.params, self.selection
        r = self.result or self.first()
        lines = self.code_head("from workbench import data, models, reasoning")
        lines += [f"image = images.images[{r.index}]", "hidden = images.images.mean(0)"]
        judge = "judge" if self.judge else ""
        if p.compare and not judge:
            lines.append(f"other = {s.code('model', p.compare)}")
            judge = "lambda seen, masks: other(seen)"
        given = {"way": repr(p.way), "hidden": "hidden", "judge": judge}
        given["square"] = str(self.square(r.images))
        given |= {"side": "-1" * p.wrong, "seed": str(p.seed) * bool(p.seed)}
        options = ", ".join(f"{name}={value}" for name, value in given.items() if value)
        call = f"model, image, {r.debate.claims}, {p.k}"
        return "\n".join([*lines, f"held = reasoning.debate({call}, {options})"])

    def choices(self) -> dict[str, list[Any]]:
        """The ways, the classes, and the models that may judge."""
        s = self.selection
        others = [n for n in s.models_for(s.dataset) if n != s.model]
        classes = [("the likeliest other", ""), *s.class_names()]
        judges = [("the expert itself", ""), *others]
        return {"way": [*get_args(Way)], "against": classes, "compare": judges}

    def followed(self, change: Any) -> None:
        """What was chosen of another model's classes, or beside other data, would not fit."""
        s, p = self.selection, self.params
        if p.against not in s.class_names():
            self.params = self.params.changed(against="")
        if p.compare not in s.models_for(s.dataset) or p.compare == s.model:
            self.params = self.params.changed(compare="")
        self.choose_anew()
        super().followed(change)


def shown(view: DebateView) -> torch.Tensor:
    """What the judge sees `(3, H, W)`, in the colour of who showed it; the rest is dark."""
    d, x = view.debate, view.images.images[view.index].cpu()
    picture = torch.full((3, *x.shape[1:]), 0.08)
    grey = 0.25 + 0.75 * x.mean(0)
    for turn, side in enumerate(d.sides.tolist(), 1):
        new = (d.masks[turn] - d.masks[turn - 1])[0].cpu() > 0
        hue = torch.tensor(HUES[side])[:, None]
        picture[:, new] = hue * grey[new]
    return picture


def seen(view: DebateView) -> str:
    """What the judge sees, in words."""
    d, (a, b) = view.debate, view.claims
    places = [divmod(i, d.worth.shape[1]) for i in d.order.tolist()]
    names = {1: a, -1: b, 0: "nobody"}
    turns = zip(places, d.sides.tolist(), strict=True)
    said = "; ".join(f"row {r + 1}, column {c + 1} for {names[s]}" for (r, c), s in turns)
    return f"{len(places)} squares of {d.worth.numel()}: {said}"


def told(worth: torch.Tensor, a: str, b: str) -> str:
    """What the expert thinks of the squares, in words."""
    most, least = (
        divmod(int(worth.argmax()), worth.shape[2]),
        divmod(int(worth.argmin()), worth.shape[2]),
    )
    at = "row {}, column {}".format
    best = f"most for {a}: {at(most[0] + 1, most[1] + 1)}, {float(worth.max()):+.2f}"
    return f"{best}; most for {b}: {at(least[0] + 1, least[1] + 1)}, {float(worth.min()):+.2f}"


def mind(view: DebateView) -> str:
    """The judge's share for the first claim after each turn."""
    d, (a, b) = view.debate, view.claims
    shares = d.shares.tolist()
    plot = Plot((0, len(shares) - 1), (0, 1))
    parts = plot.line([(0, 0.5), (len(shares) - 1, 0.5)], "stroke:currentColor;opacity:.6")
    dashes = "stroke:currentColor;stroke-dasharray:6 3;opacity:.7"
    if view.whole is not None:
        parts += plot.line([(0, view.whole), (len(shares) - 1, view.whole)], dashes)
    parts += plot.line([*enumerate(shares)], f"stroke:{BLUE};stroke-width:2.5")
    colours = {1: ORANGE, -1: BLUE, 0: "currentColor"}
    for turn, side in enumerate(d.sides.tolist(), 1):
        x, y = plot.at(turn, shares[turn])
        parts += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{colours[side]}"/>'
    values = ", ".join(f"{share:.0%}" for share in shares)
    alt = f"{view.judge} for {a} after 0 to {len(shares) - 1} squares: {values}"
    head = f"<b>The judge's share for {escape(a)}</b> <small>(against {escape(b)})</small>"
    below = "Dot: who showed the square, orange for "
    below += f"{escape(a)}, blue for {escape(b)}"
    below += "." if view.whole is None else "; dashes: who sees the whole image."
    return f"{head}<div>{plot.svg(parts, 'squares shown', alt)}</div><small>{below}</small>"
