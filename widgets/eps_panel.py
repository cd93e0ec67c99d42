"""`EpsPanel`: drag the largest change of a pixel, and watch the answer break."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, cast

import torch
from pydantic import Field

from workbench import attacks, checks, robustness
from workbench.attacks import FixedBudget
from workbench.data import ImageDataset
from workbench.figures import colourise, drag_eps, size
from workbench.params import Parameters
from workbench.robustness import Breaking
from workbench.steps import Step

from .blocks import section, status, thumbs
from .labels import called
from .panel import Panel


class EpsPanelParameters(Parameters):
    """What `EpsPanel` attacks with, and beside which model."""

    attack: str = Field("PGD", description="an attack with a budget")
    eps: float = Field(
        0.0,
        ge=0,
        le=1,
        title="up to (eps)",
        description="the largest budget; 0: 0.3 for grey images, 16/255 else",
    )
    compare: str = Field("", title="beside it", description="a second model under the same attack")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the attack")


@dataclass(frozen=True, eq=False)
class EpsView:
    """What the panel shows: an image, and how each model's answer breaks."""

    images: ImageDataset
    index: int
    breaking: tuple[Breaking, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Where each answer breaks."""
        return {"index": self.index} | {b.model: b.summary() for b in self.breaking}


class EpsPanel(Panel[EpsPanelParameters, EpsView]):
    """Drag eps: the attacked image, the confidences and the verdict follow, without the kernel.

    Args and Raises: as of `Panel`; the parameters are `EpsPanelParameters`.
    """

    Params = EpsPanelParameters
    title = "Eps panel"
    matter = ("attack", "compare", "eps")
    picks = True

    def check(self, params: EpsPanelParameters) -> None:
        """Check that there is such an attack, with a budget, and the model to compare with."""
        checks.known("attack with a budget", params.attack.partition("(")[0], budgeted())
        attacks.get(params.attack)
        if params.compare:
            self.selection.classifier(params.compare)

    @property
    def attack(self) -> FixedBudget:
        """The attack, with the largest budget."""
        colour = self.selection.as_it_is().shape[0] == 3
        eps = self.params.eps or (16 / 255 if colour else 0.3)
        attack = cast("FixedBudget", attacks.get(self.params.attack).changed(eps=eps))
        # The strongest inside each budget, and not the first that fools.
        whole = "exhaustive" in type(attack).model_fields
        return attack.changed(exhaustive=True) if whole else attack

    def peek(self) -> Iterator[Step[EpsView]]:
        """The image, before it is attacked."""
        yield Step(1, 1, "image", EpsView(*self.image()))

    def steps(self) -> Iterator[Step[EpsView]]:
        """The model's answer at every budget, then that of the one it is compared with."""
        view, seed = EpsView(*self.image()), self.params.seed
        x = view.images.images[view.index : view.index + 1]
        names = [n for n in dict.fromkeys([self.selection.model, self.params.compare]) if n]
        for i, name in enumerate(names):
            model, before = self.selection.classifier(name), view.breaking
            for step in robustness.breaking.steps(model, x, self.attack, seed=seed):
                if step.value is not None:
                    view = replace(view, breaking=(*before, step.value))
                done, total = i * step.total + step.done, len(names) * step.total
                yield Step(done, total, f"{name}: {step.message}", view)

    def draw(self, result: EpsView) -> str:
        """The image as it is, and what happens to it."""
        label, known = called(result.images, result.index), result.images.labels[result.index] >= 0
        words = f"Index {result.index}, labelled {label}."
        for b in result.breaking:
            if known and b.classes[b.label] != label:
                words += f" {b.model} says {b.classes[b.label]} before anything is changed."
        figure = status("Not attacked yet.")
        if result.breaking:
            figure = drag_eps(result.breaking, result.images.space).html
        return section(f"<p>{escape(words)}</p>", figure)

    def tile(self, result: EpsView) -> tuple[str, str]:
        """Where the answer breaks; the image there, and the change."""
        x = result.images.images[result.index]
        if not result.breaking:
            return "drag eps, watch it break", thumbs([x], ["the image"], 60, result.images.space)
        b = result.breaking[0]
        at = len(b.radii) - 1 if b.breaks is None else b.radii.tolist().index(b.breaks)
        words = (
            f"{'holds up to' if b.breaks is None else 'breaks at'} {size(float(b.radii[at]), b)}"
        )
        if (space := result.images.space) is not None:
            return words, thumbs([b.images[at]], ["attacked"], 60, space, x)
        largest = float(b.radii[at])
        change = torch.from_numpy(
            colourise((b.images[at] - x).mean(0), "diverging", (-largest, largest))
        )
        pictures = [x, change.permute(2, 0, 1) / 255, b.images[at]]
        return words, thumbs(pictures, ["the image", "the change", "the image attacked"], 48)

    def _repr_mimebundle_(self, **options: object) -> dict[str, Any]:
        if self.result is None:  # shown by itself, and not in a bench: it is attacked at once
            self.run()
        return super()._repr_mimebundle_(**options)

    def code(self) -> str:
        """The calls that give the result shown."""
        p, index = self.params, self.result.index if self.result else self.selection.index
        lines = [
            *self.code_head("from workbench import attacks, data, models, robustness"),
            f"x = images.images[{index}:{index + 1}]",
            f"attack = attacks.get({self.attack.code()!r})",
            f"breaking = robustness.breaking(model, x, attack, seed={p.seed})",
        ]
        if p.compare:
            other = self.selection.code("model", p.compare)
            lines.append(f"other = robustness.breaking({other}, x, attack, seed={p.seed})")
        return "\n".join(lines)

    def choices(self) -> dict[str, list[Any]]:
        """The attacks with a budget, and the models to compare with."""
        model = self.selection.model
        others = [n for n in self.selection.models_for(self.selection.dataset) if n != model]
        chosen = dict.fromkeys([*budgeted(), self.params.attack])
        return {"attack": [*chosen], "compare": [("no other model", ""), *others]}

    def shown(self, result: EpsView) -> None:
        """Say the largest budget where none was chosen, too."""
        self.form.set(self.params.changed(eps=self.attack.eps))

    def followed(self, change: Any) -> None:
        """What was chosen beside other data, or beside this model, would not fit."""
        s, compare = self.selection, self.params.compare
        if change["name"] == "dataset" and s.dataset == s.origin:  # and not a drawing
            self.params = self.params.changed(eps=0.0)
        if compare not in s.models_for(s.dataset) or compare == s.model:
            self.params = self.params.changed(compare="")
        super().followed(change)


def budgeted() -> list[str]:
    """The attacks that stay inside a ball of a radius."""
    return [name for name, kind in attacks.available().items() if issubclass(kind, FixedBudget)]
