"""`RegionPanel`: the exact linear regions round an image, of one model or of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import torch
from pydantic import Field

from workbench import levelsets
from workbench.data import ImageDataset
from workbench.figures import plane_map
from workbench.levelsets import Plane, Regions, Slice, ascent
from workbench.params import Parameters
from workbench.steps import Step

from .blocks import section, status
from .labels import called, other_images
from .panel import Panel

LIMIT = 4000  # regions that a page can show
SIDE = 65  # points of the plane, each way


class RegionPanelParameters(Parameters):
    """What `RegionPanel` does beside the data, the model and the image."""

    plane: Literal["random", "gradient", "two images"] = Field(
        "gradient",
        title="spanned by",
        description="what spans the plane; gradient: that of the class, and chance",
    )
    extent: float = Field(
        0.1,
        ge=0.01,
        le=100,
        title="reach, L2",
        description="how far the window reaches from the image",
        json_schema_extra={"log": True},
    )
    colour: Literal["class", "gradient", "region"] = Field(
        "gradient", description="what colours the regions"
    )
    compare: str = Field(
        "", title="beside it", description="a second model on the same window, under one pointer"
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random directions")


@dataclass(frozen=True, eq=False)
class RegionView:
    """What the panel shows: the slice; by model its answers there, and regions or why none."""

    images: ImageDataset
    index: int
    at: Slice
    planes: dict[str, Plane]
    regions: dict[str, Regions]
    refused: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """Plain numbers of each model's regions."""
        return {name: cut.summary() for name, cut in self.regions.items()}


class RegionPanel(Panel[RegionPanelParameters, RegionView]):
    """See a slice cut into the regions in which the model is linear; compare two models.

    Args and Raises: as of `Panel`; the parameters are `RegionPanelParameters`.
    """

    Params = RegionPanelParameters
    title = "Region panel"
    matter = ("extent", "colour", "compare")

    def check(self, params: RegionPanelParameters) -> None:
        """Check that there is the model to compare with."""
        for name in (self.selection.model, params.compare or self.selection.model):
            self.selection.classifier(name)

    def slice(self) -> Slice:
        """The plane through the image."""
        (images, index), p = self.image(), self.params
        x = images.images[index]
        generator = torch.Generator().manual_seed(p.seed)
        u, v = torch.randn(2, *x.shape, generator=generator)
        if p.plane == "gradient":
            model = self.selection.classifier()
            label = model.predict(x[None]).label
            u = ascent(model, x[None].to(model.device), label)[1][0].cpu()
        elif p.plane == "two images":
            others = torch.tensor(other_images(images, index))
            chosen = others[torch.randperm(len(others), generator=generator)[:2]]
            if len(chosen) < 2:
                raise ValueError(
                    f"plane: {images.name} has no two other images to span a plane; choose another"
                )
            u, v = images.images[chosen] - x
        return levelsets.through(x, u, v, p.extent)

    def steps(self) -> Iterator[Step[RegionView]]:
        """What the model says in the slice and its regions, then those of the one compared."""
        view = RegionView(*self.image(), self.slice(), {}, {}, {})
        names = self.names()
        yield Step(0, 2 * len(names), "looking", view)
        for i, name in enumerate(names):
            for step in levelsets.plane.steps(self.selection.classifier(name), view.at, SIDE):
                if step.value is not None:
                    view = replace(view, planes={**view.planes, name: step.value})
                yield part(i, 2 * len(names), step, f"{name}: {step.message}", view)
        for i, name in enumerate(names, len(names)):
            model = self.selection.classifier(name)
            try:
                for step in levelsets.regions.steps(model, view.at, limit=LIMIT):
                    if step.value is not None:
                        view = replace(view, regions={**view.regions, name: step.value})
                    yield part(i, 2 * len(names), step, f"{name}: {step.message}", view)
            except ValueError as error:
                view = replace(view, refused={**view.refused, name: str(error)})
                yield Step(i + 1, 2 * len(names), f"{name}: none", view)

    def names(self) -> list[str]:
        """The model, and the one it is compared with."""
        return [n for n in dict.fromkeys([self.selection.model, self.params.compare]) if n]

    def draw(self, result: RegionView) -> str:
        """Each model's regions over what it says, and the image under the pointer."""
        name, blocks = called(result.images, result.index), []
        for model in self.names():
            words, cut = "linear regions being computed", result.regions.get(model)
            if cut is not None:
                low, high = (f"{g:.3g}" for g in (cut.gradient.min(), cut.gradient.max()))
                words = f"{len(cut):,} linear regions, gradients of the margin {low} to {high}"
            words = escape(result.refused.get(model, words))
            role = 'role="alert"' if model in result.refused else 'class="wb-soft"'
            blocks.append(f"<p {role}><b>{escape(model)}</b>: {words}</p>")
        if not result.planes:
            return section(status("being computed"))
        picture = plane_map(
            {model: result.planes.get(model) for model in self.names()},
            marks={f"image {result.index}: {name}": torch.zeros(2)},
            regions=result.regions,
            colour=self.params.colour,
            beside="".join(blocks),
        )
        return section(picture.html)

    def code(self) -> str:
        """The calls that give the result shown."""
        p, index = self.params, self.result.index if self.result else self.selection.index
        lines = [
            *self.code_head("import torch", "from workbench import data, levelsets, models"),
            f"x = images.images[{index}]",
            f"generator = torch.Generator().manual_seed({p.seed})",
            "u, v = torch.randn(2, *x.shape, generator=generator)",
        ]
        if p.plane == "gradient":
            lines.append("label = model.predict(x[None]).label")
            lines.append("u = levelsets.ascent(model, x[None], label)[1][0]")
        elif p.plane == "two images":
            others = f"images.labels != images.labels[{index}]"
            if int(self.selection.images().labels[index]) < 0:
                others = f"torch.arange(len(images)) != {index}"
            lines.append(f"others = ({others}).nonzero().flatten()")
            lines.append("chosen = others[torch.randperm(len(others), generator=generator)[:2]]")
            lines.append("u, v = images.images[chosen] - x")
        lines.append(f"at = levelsets.through(x, u, v, {p.extent})")
        lines.append(f"plane = levelsets.plane(model, at, {SIDE})")
        lines.append("regions = levelsets.regions(model, at)")
        if p.compare:
            other = self.selection.code("model", p.compare)
            lines.append(f"other = levelsets.regions({other}, at)")
        return "\n".join(lines)

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """The models to compare with."""
        fit = self.selection.models_for(self.selection.dataset)
        return {"compare": [("no other model", ""), *((name, name) for name in fit)]}

    def changed(self, before: RegionPanelParameters) -> None:
        """Another colour draws the same regions anew."""
        if self.params.changed(colour=before.colour) == before and self.result is not None:
            self.redraw()
        else:
            self.begin()

    def followed(self, change: Any) -> None:
        """What was chosen of other data would not fit."""
        if change["name"] == "dataset":
            self.params = self.params.changed(compare="")
        super().followed(change)


def part(i: int, of: int, step: Step[Any], message: str, view: RegionView) -> Step[RegionView]:
    """A step of part `i` of the work, as a step of the whole."""
    return Step(i * step.total + step.done, of * step.total, message, view)
