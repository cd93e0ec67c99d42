"""`LevelSetPanel`: carry an image towards another while the model keeps its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import levelsets
from workbench.data import ImageDataset
from workbench.figures import confidence_table, img_tag, plane_map
from workbench.levelsets import LevelSetTraversal, Plane, Regions, Slice, Traversal
from workbench.models import Prediction
from workbench.params import Parameters
from workbench.steps import Step

from .blocks import figure, live, pickable, row, section, slider
from .labels import called, one_of_each, other_images
from .panel import Panel
from .pick_view import ARROWS
from .region_panel import LIMIT
from .views import Answered, filled

NUDGE = 0.02  # of the plane's side, for an arrow key


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
class Picked:
    """A point of the plane, `(2,)`; the image there `(1, C, H, W)`, and what the model says.

    lost: how far the image was moved by clipping it to [0, 1], L2.
    """

    point: torch.Tensor
    image: torch.Tensor
    lost: float
    prediction: Prediction


@dataclass(frozen=True, eq=False)
class LevelSetView(Answered):
    """What the panel shows: the pair, and what is known of the way between them so far."""

    target: int
    traversal: Traversal | None = None
    plane: Plane | None = None
    regions: Regions | None = None
    picked: Picked | None = None
    remark: str = ""

    def summary(self) -> dict[str, Any]:
        """Plain numbers of the traversal and the plane."""
        summary: dict[str, Any] = {"index": self.index, "target": self.target}
        for part in (self.traversal, self.plane):
            summary |= part.summary() if part is not None else {}
        return summary


class LevelSetPanel(Panel[LevelSetPanelParameters, LevelSetView]):
    """Pick a target, watch the image go there at kept confidence, look into the plane.

    Args and Raises: as of `Panel`; index is the source, the parameters are
    `LevelSetPanelParameters`.
    """

    Params = LevelSetPanelParameters
    title = "Level set panel"
    follows = (*Panel.follows, "towards")
    action = ("Run", "Traverse")
    picks = True
    point: torch.Tensor | None = None  # of the plane, where it was clicked

    def check(self, params: LevelSetPanelParameters) -> None:
        """Check that there is such a target."""
        self._pair(params)

    def _pair(self, params: LevelSetPanelParameters | None = None) -> tuple[ImageDataset, int, int]:
        """The images, and the indices of source and target.

        Raises:
            ValueError: a target that is not there, or is the source.
        """
        (images, index), target = self.image(), (params or self.params).target
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
        target = self._pair()[2]
        yield Step(1, 1, "answered", LevelSetView(*self.answer(), target))

    def steps(self) -> Iterator[Step[LevelSetView]]:
        """The traversal, then the plane of both images and the one reached, then regions."""
        view, params = self.first(), self.params
        pair = view.images.images[[view.index, view.target]]
        method = LevelSetTraversal(n_steps=params.n_steps, delta=params.delta)
        way = method.steps(view.model, pair[:1], pair[1:], seed=params.seed)
        total = 3 if params.regions else 2
        view = yield from filled(view, "traversal", way, of=total)
        assert view.traversal is not None
        at = plane_of(view.traversal, params.extent)
        plane = levelsets.plane.steps(view.model, at, params.side, label=view.label)
        view = yield from filled(view, "plane", plane, 1, total)
        if params.regions:
            try:
                cut = levelsets.regions.steps(view.model, at, limit=LIMIT)
                view = yield from filled(view, "regions", cut, 2, total, "regions: ")
            except ValueError as error:
                yield Step(1, 1, "no regions", replace(view, remark=str(error)))

    def updated(self, result: LevelSetView) -> LevelSetView:
        """The image at the point picked, in [0, 1], and what the model says of it."""
        before = None if result.picked is None else result.picked.point
        if self.point is before or result.plane is None:
            return result
        if self.point is None:
            return replace(result, picked=None)
        image = result.plane.slice.images(self.point[None])
        clipped = image.clamp(0, 1)
        prediction = result.model.predict(clipped)
        lost = float((image - clipped).flatten().norm())
        return replace(result, picked=Picked(self.point, clipped, lost, prediction))

    # The picture.

    def draw(self, result: LevelSetView) -> str:
        """Source, image reached and target; the plane with the path; the point picked."""
        # The moment scrubbed to, as long as the path has not grown.
        scrubbed = self.live and self.scrub.max == last_moment(result)
        return self.draw_at(result, self.scrub.value if scrubbed else None)

    def draw_at(self, view: LevelSetView, moment: int | None) -> str:
        """The picture at one moment of the path; of the image reached when None."""
        images, way = view.images, view.traversal
        label, hint = images.classes[view.label], live("Pick a target, or press <b>Run</b>.")
        blocks = [figure(view.x[0], f"source {view.index}: taken for {label}")]
        if way is not None:
            hint, moment = "", len(way.moments) - 1 if moment is None else moment
            reached = way.images[0] if way.path is None else way.path[moment, 0]
            remaining = float(way.distance[moment, 0])
            words = (
                f"step {way.moments[moment]}: still {label}, {way.confidence[moment, 0]:.2f} "
                f"(at first {way.confidence[0, 0]:.2f}); RMSE to the target {remaining:.3f}, "
                f"{remaining / float(way.distance[0, 0]):.0%} of the way left"
            )
            blocks.append(figure(reached, words))
        target = f"target {view.target}: {called(images, view.target)}"
        blocks.append(figure(images.images[view.target], target))
        return section(row(*blocks), hint, targets(view), self._plane(view, moment))

    def _plane(self, view: LevelSetView, moment: int | None) -> str:
        """The plane with the path in it, and what the model says at the point picked."""
        plane, way = view.plane, view.traversal
        if plane is None or way is None:
            return ""
        at = plane.slice
        ends = torch.cat([way.source, way.target, way.images])
        marks = dict(zip(("source", "target", "reached"), at.points(ends), strict=True))
        path = at.points(way.path[:, 0]) if way.path is not None else None
        if path is not None and moment is not None and moment < len(path) - 1:
            marks["here"] = path[moment]
        beside = live("Click into the plane, or move in it with the arrow keys.")
        if view.picked is not None:
            marks["picked"], lost = view.picked.point, view.picked.lost
            words = "the point picked" + (f", clipped by L2 {lost:.2f}" if lost > 1e-3 else "")
            shares = view.picked.prediction.probabilities[0]
            table = confidence_table(shares, view.images.classes).html
            beside = f"<div>{figure(view.picked.image[0], words)}{table}</div>"
        floor = float(way.confidence[0, 0]) - way.delta
        polygons = view.regions.polygons if view.regions is not None else ()
        map_ = plane_map(
            *(plane,), marks=marks, path=path, levels=(round(floor, 3), 0.5), lines=polygons,
            pick="plane",
        )  # fmt: skip
        remark = view.remark
        if view.regions is not None:
            remark = f"{len(view.regions.polygons):,} linear regions"
        return row(map_.html, beside) + (f"<p>{escape(remark)}</p>" if remark else "")

    def code(self) -> str:
        """The calls that give the result shown."""
        p, (_, index, target) = self.params, self._pair()
        seed = f", seed={p.seed}" if p.seed else ""
        method = LevelSetTraversal(n_steps=p.n_steps, delta=p.delta).code()
        lines = [
            *self.code_head("from workbench import data, levelsets, models"),
            f"source = images.images[{index}:{index + 1}]",
            f"target = images.images[{target}:{target + 1}]",
            f"way = levelsets.{method}(model, source, target{seed})",
            f"at = levelsets.span(source[0], target[0], way.images[0], {p.extent})",
            f"plane = levelsets.plane(model, at, {p.side})",
        ]
        return "\n".join(lines + (["regions = levelsets.regions(model, at)"] * p.regions))

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form; run and scrub."""
        about = "Moment of the path to look at"
        self.scrub = slider(ipw.IntSlider, "step", about, disabled=True, max=0)
        self.listen(self.scrub, self._scrubbed)
        return ipw.VBox([super().controls(), self.scrub])

    def shown(self, result: LevelSetView) -> None:
        """Give the slider the moments there are."""
        last = last_moment(result)
        stays = self.live and self.scrub.max == last
        self.scrub.disabled, self.scrub.max = last == 0, last
        self.scrub.value = self.scrub.value if stays else last

    def _scrubbed(self, moment: int) -> None:
        if self.result is not None and self.result.traversal is not None:
            self.view.value = self.draw_at(self.result, moment)

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A target or a point of the plane was clicked, or a key pressed on one."""
        view = self.result
        if what == "target":
            self.point = None
            self.set(target=int(which))
            self.start()
        elif what == "plane" and view is not None and view.plane is not None:
            left, right, bottom, top = view.plane.slice.window
            side = torch.tensor([right - left, top - bottom])
            if event["key"] in ARROWS:
                here = torch.zeros(2) if self.point is None else self.point
                self.point = here + NUDGE * side * torch.tensor(ARROWS[event["key"]])
            else:
                share = torch.tensor([event["x"], 1 - event["y"]])
                self.point = torch.tensor([left, bottom]) + share * side
            self.redraw()

    def changed(self, before: LevelSetPanelParameters) -> None:
        """The form was changed: another way."""
        self.point = None
        self.start()

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel: show the pair, traverse nothing."""
        self.point = None
        if change["name"] != "model":  # another source or data set: a target is chosen anew
            self.set(target=self._first())
        self.start(self.peek())

    def _first(self) -> int:
        """The first image of the class gone towards; -1 without one, or if it is the source."""
        images, towards = self.selection.images(), self.selection.towards
        if towards not in images.classes:
            return -1
        same = (images.labels == images.classes.index(towards)).nonzero().flatten().tolist()
        return next((i for i in same if i != self.selection.index), -1)


def targets(view: LevelSetView) -> str:
    """One image of each class, or the first of those without a label, to be picked."""
    images, blocks = view.images, []
    for place in one_of_each(images, view.index):
        tag = img_tag(images.images[place], f"target: {called(images, place)}", height=36)
        blocks.append(pickable(f"target:{place}", tag))
    style = "display:flex;gap:4px;flex-wrap:wrap;margin-top:8px"
    return f'<div style="{style}">{"".join(blocks)}</div>'


def last_moment(view: LevelSetView) -> int:
    """The number of the last moment of the path there is."""
    return len(view.traversal.moments) - 1 if view.traversal is not None else 0


def plane_of(way: Traversal, margin: float) -> Slice:
    """The plane through source, target and the image reached; where these line up, beside them."""
    source, target, reached = way.source[0], way.target[0], way.images[0]
    try:
        return levelsets.span(source, target, reached, margin)
    except ValueError:
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
        beside = source + noise.to(source) * (target - source).norm() / noise.norm()
        return levelsets.span(source, target, beside, margin)
