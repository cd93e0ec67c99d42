"""`LevelSetPanel`: carry an image towards another while the model keeps its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import levelsets
from workbench.data import ImageDataset
from workbench.figures import confidence_table, img_tag, plane_map
from workbench.levelsets import LevelSetTraversal, Plane, Regions, Slice, Traversal
from workbench.params import Parameters
from workbench.steps import Step

from .form import Form
from .labels import called, one_of_each, other_images
from .panel import Panel, guarded
from .pick_view import PickView
from .region_panel import LIMIT

HEIGHT = 120
NUDGE = 0.02  # of the plane's side, for an arrow key
ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, 1), "ArrowDown": (0, -1)}


class LevelSetPanelParameters(Parameters):
    """What `LevelSetPanel` does beside the data, the model and the source image."""

    target: int = Field(-1, ge=-1, description="index of the target image; -1: of another class")
    delta: float = Field(0.05, ge=0.01, le=0.5, description="confidence that may be lost")
    n_steps: int = Field(300, ge=1, le=5000, description="steps of the traversal")
    extent: float = Field(0.25, ge=0, le=2, description="room round the images in the plane")
    side: int = Field(101, ge=17, le=401, description="points of the plane, each way")
    regions: bool = Field(False, description="draw the exact linear regions over the plane")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the start")


@dataclass(frozen=True, eq=False)
class LevelSetView:
    """What the panel shows: the pair, and what is known of the way between them so far."""

    images: ImageDataset
    index: int
    target: int
    label: int
    traversal: Traversal | None = None
    plane: Plane | None = None
    regions: Regions | None = None
    remark: str = ""

    def summary(self) -> dict[str, Any]:
        """Plain numbers of the traversal and the plane."""
        row: dict[str, Any] = {"index": self.index, "target": self.target}
        if self.traversal is not None:
            row |= self.traversal.summary()
        if self.plane is not None:
            row |= self.plane.summary()
        return row


class LevelSetPanel(Panel[LevelSetPanelParameters, LevelSetView]):
    """Pick a target, watch the image go there at kept confidence, look into the plane.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them; index is the source.
        parameters: see `LevelSetPanelParameters`.

    Raises:
        ValueError: an unknown name, or a value out of bounds.
    """

    Params = LevelSetPanelParameters
    title = "Level set panel"
    follows = (*Panel.follows, "towards")

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.view = PickView()
        self.view.observe(guarded(self, self._picked), "picked")
        self.point: torch.Tensor | None = None

    def check(self, params: LevelSetPanelParameters) -> None:
        """Check that there is such a target."""
        self._pair(params)

    # The work.

    def _pair(self, params: LevelSetPanelParameters | None = None) -> tuple[ImageDataset, int, int]:
        """The images, and the indices of source and target.

        Raises:
            ValueError: a target that is not there, or is the source.
        """
        images, target = self.selection.images(), (params or self.params).target
        index = min(self.selection.index, len(images) - 1)
        if target >= len(images) or target == index:
            raise ValueError(
                f"target: expected an image other than the source {index}, below {len(images)}; "
                f"got {target}"
            )
        if target < 0:
            others = other_images(images, index)
            if not others:
                raise ValueError(
                    f"target: {images.name} has no other image to go to; a second one is needed"
                )
            target = others[0]
        return images, index, target

    def peek(self) -> Iterator[Step[LevelSetView]]:
        """The pair, and what the model says of the source."""
        images, index, target = self._pair()
        said = self.selection.classifier().predict(images.images[index : index + 1])
        yield Step(1, 1, "answered", LevelSetView(images, index, target, int(said.label[0])))

    def steps(self) -> Iterator[Step[LevelSetView]]:
        """The traversal, then the plane of both images and the one reached, then regions."""
        params, model = self.params, self.selection.classifier()
        view = next(self.peek()).value
        assert view is not None
        pair = view.images.images[[view.index, view.target]]
        method = LevelSetTraversal(n_steps=params.n_steps, delta=params.delta)
        total = 3 if params.regions else 2
        for step in method.steps(model, pair[:1], pair[1:], seed=params.seed):
            view = replace(view, traversal=step.value)
            yield Step(step.done, total * step.total, step.message, view)
        assert view.traversal is not None
        at = plane_of(view.traversal, params.extent)
        for tick in levelsets.plane.steps(model, at, params.side, label=view.label):
            view = replace(view, plane=tick.value or view.plane)
            yield Step(tick.total + tick.done, total * tick.total, tick.message, view)
        if params.regions:
            try:
                for found in levelsets.regions.steps(model, at, limit=LIMIT):
                    view = replace(view, regions=found.value)
                    done = 2 * found.total + found.done
                    yield Step(done, total * found.total, f"regions: {found.message}", view)
            except ValueError as error:
                yield Step(1, 1, "no regions", replace(view, remark=str(error)))

    # The picture.

    def draw(self, result: LevelSetView) -> str:
        """Source, image reached and target; the plane with the path; the point picked."""
        return self.draw_at(result, self._moment(result))

    def _moment(self, view: LevelSetView) -> int | None:
        """The moment scrubbed to, as long as the path has not grown; None: the last."""
        if self.picker is None or self.scrub.max != last_moment(view):
            return None
        return cast("int", self.scrub.value)

    def draw_at(self, view: LevelSetView, moment: int | None) -> str:
        """The picture at one moment of the path; of the image reached when None."""
        images, classes = view.images, view.images.classes
        source, target = images.images[view.index], images.images[view.target]
        label = classes[view.label]
        blocks = [figure(source, f"source {view.index}: taken for {label}")]
        found = view.traversal
        if found is not None:
            moment = len(found.moments) - 1 if moment is None else moment
            reached = found.images[0] if found.path is None else found.path[moment, 0]
            held, left = float(found.confidence[moment, 0]), float(found.distance[moment, 0])
            share = left / float(found.distance[0, 0])
            words = (
                f"step {found.moments[moment]}: still {label}, {held:.2f} "
                f"(at first {float(found.confidence[0, 0]):.2f}); RMSE to the target {left:.3f}, "
                f"{share:.0%} of the way left"
            )
            blocks.append(figure(reached, words))
        blocks.append(figure(target, f"target {view.target}: {called(images, view.target)}"))
        hint = "" if found is not None else "<p>Pick a target, or press <b>Run</b>.</p>"
        return (
            f'<div style="font:13px/1.4 system-ui,sans-serif">{row(blocks)}{hint}'
            f"{self._targets(view)}{self._plane(view, moment)}</div>"
        )

    def _targets(self, view: LevelSetView) -> str:
        """One image of each class, or the first of those without a label, to be picked."""
        images, blocks = view.images, []
        for place in one_of_each(images, view.index):
            tag = img_tag(images.images[place], f"target: {called(images, place)}", height=36)
            about = f'data-pick="target:{place}" tabindex="0" role="button"'
            blocks.append(f'<span {about} style="cursor:pointer">{tag}</span>')
        style = "display:flex;gap:4px;flex-wrap:wrap;margin-top:8px"
        return f'<div style="{style}">{"".join(blocks)}</div>'

    def _plane(self, view: LevelSetView, moment: int | None) -> str:
        """The plane with the path in it, and what the model says at the point picked."""
        plane, found = view.plane, view.traversal
        if plane is None or found is None:
            return ""
        at = plane.slice
        ends = torch.cat([found.source, found.target, found.images])
        marks = dict(zip(("source", "target", "reached"), at.points(ends), strict=True))
        path = at.points(found.path[:, 0]) if found.path is not None else None
        if path is not None and moment is not None and moment < len(path) - 1:
            marks["here"] = path[moment]
        if self.point is not None:
            marks["picked"] = self.point
        floor = float(found.confidence[0, 0]) - found.delta
        polygons = view.regions.polygons if view.regions is not None else ()
        drawn = plane_map(
            *(plane,), marks=marks, path=path, levels=(round(floor, 3), 0.5), lines=polygons,
            pick="plane",
        )  # fmt: skip
        blocks = [drawn.html]
        if self.point is None:
            blocks.append("<p>Click into the plane, or move in it with the arrow keys.</p>")
        else:
            blocks.append(self._picked_image(view, at))
        said = view.remark
        if view.regions is not None:
            said = f"{len(view.regions.polygons):,} linear regions"
        return row(blocks) + (f"<p>{escape(said)}</p>" if said else "")

    def _picked_image(self, view: LevelSetView, at: Slice) -> str:
        """The image at the point picked, in [0, 1], and what the model says of it."""
        assert self.point is not None
        image = at.images(self.point[None])
        clipped = image.clamp(0, 1)
        lost = float((image - clipped).flatten().norm())
        said = self.selection.classifier().predict(clipped)
        words = "the point picked" + (f", clipped by L2 {lost:.2f}" if lost > 1e-3 else "")
        table = confidence_table(said.probabilities[0], view.images.classes)
        return f"<div>{figure(clipped[0], words)}{table.html}</div>"

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p = self.selection, self.params
        _, index, target = self._pair()
        seed = f", seed={p.seed}" if p.seed else ""
        method = LevelSetTraversal(n_steps=p.n_steps, delta=p.delta).code()
        lines = [
            "from workbench import data, levelsets, models",
            "",
            f"images = {s.code('dataset')}.images",
            f"source, target = images[{index}:{index + 1}], images[{target}:{target + 1}]",
            f"model = {s.code('model')}",
            f"found = levelsets.{method}(model, source, target{seed})",
            f"at = levelsets.span(source[0], target[0], found.images[0], {p.extent})",
            f"plane = levelsets.plane(model, at, {p.side})",
        ]
        return "\n".join(lines + (["regions = levelsets.regions(model, at)"] * p.regions))

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form; run and scrub."""
        self.form = Form(self.params)
        self.form.observe(guarded(self, self._form_changed))
        self.scrub = ipw.IntSlider(
            description="step", disabled=True, max=0, tooltip="Moment of the path to look at",
            style={"description_width": "5em"}, layout={"width": "36em"},
        )  # fmt: skip
        self.scrub.observe(guarded(self, self._scrubbed), "value")
        if self.result is not None:
            self.shown(self.result)
        return ipw.VBox([self.form.widget, self.button("Run", "Traverse"), self.scrub])

    def shown(self, result: LevelSetView) -> None:
        """Give the slider the moments there are."""
        if self.picker is None:
            return
        last, moment = last_moment(result), self._moment(result)
        self.scrub.unobserve_all("value")
        self.scrub.disabled, self.scrub.max = last == 0, last
        self.scrub.value = last if moment is None else moment
        self.scrub.observe(guarded(self, self._scrubbed), "value")

    def _scrubbed(self, change: Any) -> None:
        if self.result is not None and self.result.traversal is not None:
            self.view.value = self.draw_at(self.result, change["new"])

    def _picked(self, change: Any) -> None:
        """A target or a point of the plane was clicked, or a key pressed on one."""
        event, view = change["new"], self.result
        name, key = event.get("name", ""), event.get("key", "")
        if name.startswith("target:"):
            self._set(target=int(name.removeprefix("target:")))
            self.start()
        elif name == "plane" and view is not None and view.plane is not None:
            left, right, bottom, top = view.plane.slice.window
            side = torch.tensor([right - left, top - bottom])
            if key in ARROWS:
                here = torch.zeros(2) if self.point is None else self.point
                self.point = here + NUDGE * side * torch.tensor(ARROWS[key])
            else:
                share = torch.tensor([event["x"], 1 - event["y"]])
                self.point = torch.tensor([left, bottom]) + share * side
            self.view.value = self.draw(view)

    def _set(self, **values: Any) -> None:
        self.params = self.params.changed(**values)
        self.point = None
        if self.picker is not None:
            self.form.set(self.params)

    def _form_changed(self, values: Parameters) -> None:
        params = cast("LevelSetPanelParameters", values)
        self.check(params)
        self.params, self.point = params, None
        self.start()

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel: show the pair, traverse nothing."""
        self.point = None
        if change["name"] != "model":  # another source or data set: a target is chosen anew
            self._set(target=self._first())
        self.start(self.peek())

    def _first(self) -> int:
        """The first image of the class gone towards; -1 without one, or if it is the source."""
        images, towards = self.selection.images(), self.selection.towards
        if towards not in images.classes:
            return -1
        found = (images.labels == images.classes.index(towards)).nonzero().flatten().tolist()
        return next((i for i in found if i != self.selection.index), -1)


def last_moment(view: LevelSetView) -> int:
    """The number of the last moment of the path there is."""
    return len(view.traversal.moments) - 1 if view.traversal is not None else 0


def plane_of(found: Traversal, margin: float) -> Slice:
    """The plane through source, target and the image reached; where these line up, beside them."""
    source, target, reached = found.source[0], found.target[0], found.images[0]
    try:
        return levelsets.span(source, target, reached, margin)
    except ValueError:
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
        beside = source + noise.to(source) * (target - source).norm() / noise.norm()
        return levelsets.span(source, target, beside, margin)


def figure(image: torch.Tensor, caption: str) -> str:
    """An image with its caption, which is its alt text."""
    tag = img_tag(image.cpu(), caption, height=HEIGHT)
    return (
        f'<figure style="margin:0;max-width:16em">{tag}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def row(blocks: list[str]) -> str:
    """Blocks side by side, wrapped where there is no room."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:20px">{"".join(blocks)}</div>'
