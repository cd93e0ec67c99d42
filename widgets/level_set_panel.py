"""`LevelSetPanel`: carry an image towards another while the model keeps its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import ipywidgets as ipw
import numpy as np
import torch
from pydantic import Field

from workbench import levelsets
from workbench.data import ImageDataset
from workbench.figures import CLASSES, plane_map, png_data, points, rgb
from workbench.figures.planes import point_view
from workbench.levelsets import LevelSetTraversal, Plane, Regions, Slice, Traversal
from workbench.models import Classifier, Prediction
from workbench.params import Parameters
from workbench.steps import Step

from .blocks import figure, pickable, row, section, slider, thumbs
from .labels import called, one_of_each, other_images
from .panel import Panel
from .region_panel import LIMIT
from .views import Answered, filled

SMALL = 64  # pixels on the screen of an image beside the map


class LevelSetPanelParameters(Parameters):
    """What `LevelSetPanel` does beside the data, the model and the source image."""

    target: int = Field(
        -1, ge=-1, title="target index", description="of the target image; -1: of another class"
    )
    delta: float = Field(
        0.05, ge=0.01, le=0.5, title="confidence to lose", description="at most, on the way"
    )
    n_steps: int = Field(300, ge=1, le=5000, description="steps of the traversal")
    extent: float = Field(
        0.25, ge=0, le=2, title="room around", description="of the images in the plane, a share"
    )
    side: int = Field(
        101, ge=17, le=401, title="points each way", description="of the grid on the plane"
    )
    regions: bool = Field(
        False, title="linear regions", description="draw the exact ones over the plane"
    )
    compare: str = Field(
        "", title="beside it", description="a second model on the same plane, under one pointer"
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the start")


@dataclass(frozen=True, eq=False)
class Picked:
    """A point of the plane, `(2,)`, and the image there `(1, C, H, W)`, clipped to [0, 1].

    probabilities: of the image as it is, `(K,)`, one a model. prediction: of the clipped one.
    """

    point: torch.Tensor
    image: torch.Tensor
    probabilities: list[torch.Tensor]
    prediction: Prediction


@dataclass(frozen=True, eq=False)
class LevelSetView(Answered):
    """What the panel shows: the pair, and what is known of the way between them so far."""

    target: int
    traversal: Traversal | None = None
    plane: Plane | None = None
    compared: Plane | None = None
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
    matter = ("n_steps", "delta", "compare")
    picks = True
    point: torch.Tensor | None = None  # of the plane, where it was clicked
    before: LevelSetView | None = None  # the last with a plane

    def check(self, params: LevelSetPanelParameters) -> None:
        """Check that there are such a target and the model to compare with."""
        self._pair(params)
        if params.compare:
            self.selection.classifier(params.compare)

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
        total = 2 + bool(params.compare) + params.regions
        view = yield from filled(view, "traversal", way, of=total)
        assert view.traversal is not None
        at = plane_of(view.traversal, params.extent)
        plane = levelsets.plane.steps(view.model, at, params.side, label=view.label)
        view = yield from filled(view, "plane", plane, 1, total)
        if params.compare:
            other = self.selection.classifier(params.compare)
            plane = levelsets.plane.steps(other, at, params.side, label=view.label)
            view = yield from filled(view, "compared", plane, 2, total)
        if params.regions:
            try:
                cut = levelsets.regions.steps(view.model, at, limit=LIMIT)
                view = yield from filled(view, "regions", cut, total - 1, total, "regions: ")
            except ValueError as error:
                yield Step(1, 1, "no regions", replace(view, remark=str(error)))

    def updated(self, result: LevelSetView) -> LevelSetView:
        """The image at the point picked, in [0, 1], and what is said of it."""
        before = None if result.picked is None else result.picked.point
        if self.point is before or result.plane is None:
            return result
        if self.point is None:
            return replace(result, picked=None)
        image = result.plane.slice.images(self.point[None])
        clipped = image.clamp(0, 1)
        names = [self.params.compare] * (result.compared is not None)
        models = [result.model, *map(self.selection.classifier, names)]
        said = [probabilities(model, image) for model in models]
        return replace(
            result, picked=Picked(self.point, clipped, said, result.model.predict(clipped))
        )

    # The picture.

    def draw(self, result: LevelSetView) -> str:
        """The plane with the path; source, image reached and target; targets to choose from."""
        # The moment scrubbed to, as long as the path has not grown.
        scrubbed = self.live and self.scrub.max == moments(result)[-1]
        return self.draw_at(result, nearest(result, self.scrub.value) if scrubbed else None)

    def draw_at(self, view: LevelSetView, moment: int | None) -> str:
        """The picture at one moment of the path; of the image reached when None."""
        images, way = view.images, view.traversal
        label, towards = images.classes[view.label], called(images, view.target)
        x, space = view.x[0], images.space
        trio = [figure(x, f"source {view.index}: {label}", "", SMALL, space)]
        words = ""
        if way is not None:
            moment = len(way.moments) - 1 if moment is None else moment
            reached = way.images[0] if way.path is None else way.path[moment, 0]
            remaining = float(way.distance[moment, 0])
            step = way.moments[moment]
            trio.append(figure(reached, f"step {step}: {label}", "", SMALL, space, x))
            words = (
                f"step {step}: still {label}, {way.confidence[moment, 0]:.3f} "
                f"(at first {way.confidence[0, 0]:.3f}); RMSE to the target {remaining:.3f}, "
                f"{remaining / float(way.distance[0, 0]):.0%} of the way left"
            )
        alt = f"target {view.target}: {towards}"
        trio.append(figure(images.images[view.target], alt, "", SMALL, space))
        beside = f'{row(*trio)}<p class="wb-two">{escape(words)}</p>'
        return section(self._map(view, moment, beside), targets(view))

    def _map(self, view: LevelSetView, moment: int | None, beside: str) -> str:
        """The plane with the path in it; until it is there the last one, dimmed."""
        last = self.before if self.live else None
        of, waiting = view, ""
        if view.plane is None and last is not None:
            of, waiting = last, "being computed" if self.whole else "not computed for this pair"
        plane, way = of.plane, of.traversal
        if plane is None or way is None:
            first = point_view(view.x[0], view.prediction.probabilities[0], view.images.classes)
            hint = one_line("Pick a target below, or press Run.", "wb-live")
            return map_to_come(first.html + hint + beside)
        at = plane.slice
        ends = torch.cat([way.source, way.target, way.images])
        marks = dict(zip(("source", "target", "reached"), at.points(ends), strict=True))
        path = at.points(way.path[:, 0]) if way.path is not None else None
        if of is view and path is not None and moment is not None and moment < len(path) - 1:
            marks["this step"] = path[moment]
        keys = "Click keeps a point; arrow keys move it, by five with shift, and Enter keeps it."
        hint, here = one_line(keys, "wb-live"), None
        if of.picked is not None:
            p, here = of.picked.prediction, (of.picked.point, of.picked.probabilities)
            clipped = f"{p.classes[int(p.label)]}, {float(p.confidence):.3f}"
            hint = one_line(f"Kept. Clipped to [0, 1]: {clipped}.")
        other = self.params.compare
        name = self.selection.model if other else ""
        picture = plane_map(
            {name: plane} | ({other: of.compared} if other else {}),
            marks=marks,
            path=path,
            levels=(round(float(way.confidence[0, 0]) - way.delta, 3), 0.5),
            regions={name: of.regions} if of.regions is not None else None,
            here=here,
            pick="plane",
            beside=hint + beside,
            waiting=waiting,
            space=view.images.space,
        )
        found = of.regions
        remark = of.remark if found is None else f"{len(found.polygons):,} linear regions"
        return picture.html + (f"<p>{escape(remark)}</p>" if remark else "")

    def tile(self, result: LevelSetView) -> tuple[str, str]:
        """How far the image goes at kept confidence, and the plane."""
        images, way = result.images, result.traversal
        ends = [images.images[result.index], images.images[result.target]]
        if way is None or result.plane is None:
            words = ["the image", f"target: {called(images, result.target)}"]
            return f"towards {called(images, result.target)}", thumbs(ends, words)
        name, left = images.classes[result.label], float(way.distance[-1, 0] / way.distance[0, 0])
        return f"still {name}, {1 - left:.0%} of the way", small_plane(result.plane)

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
        if p.compare:
            other = self.selection.code("model", p.compare)
            lines.append(f"other = levelsets.plane({other}, at, {p.side}, label=plane.label)")
        return "\n".join(lines + (["regions = levelsets.regions(model, at)"] * p.regions))

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form; the step of the way to look at."""
        about = "Step of the traversal to look at"
        self.scrub = slider(ipw.IntSlider, "step", about, disabled=True, max=0)
        self.listen(self.scrub, self._scrubbed)
        return ipw.VBox([super().controls(), self.scrub])

    def choices(self) -> dict[str, list[Any]]:
        """The models to compare with."""
        fit = self.selection.models_for(self.selection.dataset)
        others = [name for name in fit if name != self.selection.model]
        return {"compare": [("no other model", ""), *others]}

    def shown(self, result: LevelSetView) -> None:
        """Give the slider the steps there are; keep a view that has a plane."""
        steps = moments(result)
        stays = self.live and self.scrub.max == steps[-1]
        self.scrub.disabled, self.scrub.max = len(steps) == 1, steps[-1]
        self.scrub.step = steps[1] - steps[0] if len(steps) > 1 else 1
        self.scrub.value = self.scrub.value if stays else steps[-1]
        self.before = result if result.plane is not None else self.before

    def _scrubbed(self, step: int) -> None:
        if self.result is not None and self.result.traversal is not None:
            self.view.value = self.draw_at(self.result, nearest(self.result, step))

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A target or a point of the plane was picked."""
        view = self.result
        if what == "target":
            self.point = None
            self.set(target=int(which))
            self.start()
        elif what == "plane" and view is not None and view.plane is not None:
            left, right, bottom, top = view.plane.slice.window
            share = torch.tensor([event["x"], 1 - event["y"]])
            side = torch.tensor([right - left, top - bottom])
            self.point = torch.tensor([left, bottom]) + share * side
            self.redraw()

    def changed(self, before: LevelSetPanelParameters) -> None:
        """The form was changed: another way."""
        self.point = None
        self.start()

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel: show the pair, traverse nothing."""
        self.point = None
        if change["name"] == "dataset" or self.params.compare == self.selection.model:
            self.set(compare="")
            self.choose_anew()
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


def small_plane(plane: Plane) -> str:
    """The classes of a plane by colour, paler where less sure, as a picture of a tile."""
    colours = rgb(CLASSES)[plane.predicted.cpu().numpy() % len(CLASSES)]
    pixels = 255 + 0.8 * plane.confidence.cpu().numpy()[..., None] * (colours - 255)
    source = png_data(np.flipud(np.rint(pixels)).astype(np.uint8))
    return f'<img class="wb-tiny-map" alt="classes in the plane of three images" src="{source}">'


def targets(view: LevelSetView) -> str:
    """One image of each class, or the first of those without a label, to be picked."""
    images, blocks = view.images, []
    for place in one_of_each(images, view.index):
        image, alt = images.images[place], f"target: {called(images, place)}"
        tag = points.tag(image, alt, 36, images.space)
        blocks.append(pickable(f"target:{place}", tag))
    return f'<div class="wb-targets wb-live"><span>go towards</span>{"".join(blocks)}</div>'


def one_line(words: str, kind: str = "") -> str:
    """Words that take one line whatever they are; all of them show on hover."""
    return f'<p class="wb-one {kind}" title="{escape(words)}">{escape(words)}</p>'


def map_to_come(beside: str) -> str:
    """The room of a map that is not there yet."""
    words = "the plane through source, target and the image reached"
    room = f'<div class="wb-plane-room wb-live">{words}</div>'
    side = f'<div class="wb-plane-side">{beside}</div>'
    return f'<div class="wb-plane wb-row" style="font:13px system-ui,sans-serif">{room}{side}</div>'


def moments(view: LevelSetView) -> tuple[int, ...]:
    """The steps of the way that there are."""
    return view.traversal.moments if view.traversal is not None else (0,)


def nearest(view: LevelSetView, step: int) -> int:
    """The place of the step noted that is nearest to one."""
    steps = moments(view)
    return min(range(len(steps)), key=lambda i: abs(steps[i] - step))


def probabilities(model: Classifier, x: torch.Tensor) -> torch.Tensor:
    """What a model says of one image `(1, C, H, W)`, which may leave [0, 1]: `(K,)`."""
    with torch.no_grad():
        return model(x.to(model.device)).softmax(1)[0].cpu()


def plane_of(way: Traversal, margin: float) -> Slice:
    """The plane through source, target and the image reached; where these line up, beside them."""
    source, target, reached = way.source[0], way.target[0], way.images[0]
    try:
        return levelsets.span(source, target, reached, margin)
    except ValueError:
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
        beside = source + noise.to(source) * (target - source).norm() / noise.norm()
        return levelsets.span(source, target, beside, margin)
