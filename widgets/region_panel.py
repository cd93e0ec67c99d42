"""`RegionPanel`: the exact linear regions round an image, of one model or of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import levelsets
from workbench.data import ImageDataset
from workbench.figures import img_tag, region_map
from workbench.levelsets import Regions, Slice, ascent
from workbench.params import Parameters
from workbench.steps import Step

from .form import Form
from .labels import called, other_images
from .panel import Panel, guarded

LIMIT = 4000  # regions that a page can show


class RegionPanelParameters(Parameters):
    """What `RegionPanel` does beside the data, the model and the image."""

    plane: Literal["random", "gradient", "two images"] = Field(
        "gradient", description="what spans the plane; gradient: that of the class, and chance"
    )
    extent: float = Field(
        0.1,
        ge=0.01,
        le=100,
        description="how far the window reaches from the image, L2",
        json_schema_extra={"log": True},
    )
    colour: Literal["class", "gradient", "region"] = Field(
        "gradient", description="what colours the regions"
    )
    compare: str = Field("", description="a second model on the same window")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random directions")


@dataclass(frozen=True, eq=False)
class RegionView:
    """What the panel shows: the slice, and by model its regions or why there are none."""

    images: ImageDataset
    index: int
    at: Slice
    regions: dict[str, Regions]
    refused: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """Plain numbers of each model's regions."""
        return {name: found.summary() for name, found in self.regions.items()}


class RegionPanel(Panel[RegionPanelParameters, RegionView]):
    """See a slice cut into the regions in which the model is linear; compare two models.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them.
        parameters: see `RegionPanelParameters`.

    Raises:
        ValueError: an unknown name, or a value out of bounds.
    """

    Params = RegionPanelParameters
    title = "Region panel"

    def check(self, params: RegionPanelParameters) -> None:
        """Check that there is the model to compare with."""
        for name in (self.selection.model, params.compare or self.selection.model):
            self.selection.classifier(name)

    # The work.

    def slice(self) -> Slice:
        """The plane through the image."""
        images, p = self.selection.images(), self.params
        index = min(self.selection.index, len(images) - 1)
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
        """The regions of the model, then of the one it is compared with."""
        images, p = self.selection.images(), self.params
        view = RegionView(images, min(self.selection.index, len(images) - 1), self.slice(), {}, {})
        names = list(dict.fromkeys([self.selection.model] + [p.compare] * bool(p.compare)))
        yield Step(0, len(names), "cutting", view)
        for i, name in enumerate(names):
            model = self.selection.classifier(name)
            try:
                for found in levelsets.regions.steps(model, view.at, limit=LIMIT):
                    if found.value is not None:
                        view = replace(view, regions={**view.regions, name: found.value})
                    done = i * found.total + found.done
                    yield Step(done, len(names) * found.total, f"{name}: {found.message}", view)
            except ValueError as error:
                view = replace(view, refused={**view.refused, name: str(error)})
                yield Step(i + 1, len(names), f"{name}: none", view)

    # The picture.

    def draw(self, result: RegionView) -> str:
        """The image, and each model's regions."""
        name = called(result.images, result.index)
        image = img_tag(result.images.images[result.index], f"{name}, index {result.index}")
        blocks = [
            f'<figure style="margin:8px 0">{image}<figcaption>{escape(name)}</figcaption></figure>'
        ]
        for model, found in result.regions.items():
            home = int(found.locate(torch.zeros(1, 2))[0])
            picture = region_map(found, result.at.window, self.params.colour, home)
            blocks.append(f"<div><b>{escape(model)}</b>{picture.html}</div>")
        for model, reason in result.refused.items():
            blocks.append(f'<p role="alert"><b>{escape(model)}</b>: {escape(reason)}</p>')
        style = "display:flex;flex-wrap:wrap;gap:20px;font:13px/1.4 system-ui,sans-serif"
        return f'<div style="{style}">{"".join(blocks)}</div>'

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p = self.selection, self.params
        index = self.result.index if self.result is not None else s.index
        lines = [
            "import torch",
            "from workbench import data, levelsets, models",
            "",
            f"images = {s.code('dataset')}",
            f"x = images.images[{index}]",
            f"model = {s.code('model')}",
            f"generator = torch.Generator().manual_seed({p.seed})",
            "u, v = torch.randn(2, *x.shape, generator=generator)",
        ]
        if p.plane == "gradient":
            lines.append("label = model.predict(x[None]).label")
            lines.append("u = levelsets.ascent(model, x[None], label)[1][0]")
        elif p.plane == "two images":
            unlabelled = int(self.selection.images().labels[index]) < 0
            wanted = (
                f"torch.arange(len(images)) != {index}"
                if unlabelled
                else f"images.labels != images.labels[{index}]"
            )
            lines.append(f"others = ({wanted}).nonzero().flatten()")
            lines.append("chosen = others[torch.randperm(len(others), generator=generator)[:2]]")
            lines.append("u, v = images.images[chosen] - x")
        lines.append(f"at = levelsets.through(x, u, v, {p.extent})")
        lines.append("regions = levelsets.regions(model, at)")
        if p.compare:
            lines.append(f"other = levelsets.regions(models.load({p.compare!r}), at)")
        return "\n".join(lines)

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form."""
        self.form = Form(self.params, choices={"compare": self._others()})
        self.form.observe(guarded(self, self._form_changed))
        return self.form.widget

    def _others(self) -> list[tuple[str, str]]:
        fit = self.selection.models_for(self.selection.dataset)
        return [("no other model", ""), *((name, name) for name in fit)]

    def _form_changed(self, values: Parameters) -> None:
        before, self.params = self.params, cast("RegionPanelParameters", values)
        only = self.params.changed(colour=before.colour) == before
        if only and self.result is not None:  # the same regions in other colours
            self.view.value = self.draw(self.result)
        else:
            self.start()

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel."""
        if change["name"] == "dataset":
            self.params = self.params.changed(compare="")
        if self.picker is not None:
            self.form.choose_from("compare", self._others(), self.params.compare)
        self.start()
