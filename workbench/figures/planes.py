"""Pictures of slices of image space: what a model says in them, and its linear regions."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench import checks
from workbench.figures.images import Picture, img_tag
from workbench.figures.inputs import percent
from workbench.figures.maps import LINE, ROW, SOFT, WIDE, Frame, Labels, Window, cover, face, layers
from workbench.figures.palettes import CLASSES, colourise, rgb
from workbench.figures.points import in_units, point_words

if TYPE_CHECKING:
    from workbench.levelsets import Plane, Regions, Slice
    from workbench.spaces import InputSpace

SIDE = 360  # CSS pixels of a map of regions alone
IMAGE = 132  # and of the image at a point, its height
WORDS = 21  # points a side of which is said what they are, where they are no images
BARS = 11  # classes with a bar, where there are more
COLOURS = {
    "class": "Colour: the class, white where it changes inside.",
    "gradient": "Lighter: the margin's gradient is longer.",
    "region": "Colour: only to tell neighbours apart.",
}
DASHES = ("", "5 3", "2 3")
TONES = ("var(--wb-a,#0072b2)", "var(--wb-b,#b84d00)")  # of the first model, and the second


def plane_map(
    plane: Plane | Mapping[str, Plane | None],
    *,
    marks: Mapping[str, torch.Tensor] | None = None,
    path: torch.Tensor | None = None,
    levels: Sequence[float] = (),
    regions: Mapping[str, Regions] | Regions | None = None,
    colour: str = "class",
    here: tuple[torch.Tensor, Sequence[torch.Tensor]] | None = None,
    pick: str = "",
    beside: str = "",
    waiting: str = "",
    space: InputSpace | None = None,
) -> Picture:
    """Classes of a plane by colour and name, paler where less sure, hatched outside [0, 1].

    Beside it stand the image at one point and what is said there. Panels and reports bring the
    script by which both follow the pointer (`workbench/map.js`); without it they are still.

    plane: one, or of two models on the same slice by their names, None while it is computed.
    marks: names with points `(2,)`. path: `(T, 2)`. levels: confidences of the class followed
    whose contours are drawn. regions: drawn over the plane, of two models by their names.
    colour: as of `region_map`; "class" leaves that to the plane. here: the point `(2,)` shown at
    first, and each model's probabilities `(K,)` there; else the point of the grid nearest to the
    origin. All in plane coordinates. pick: makes the map clickable under this name, where
    something listens. beside: HTML below the bars. waiting: dims the map, and says why. space: of
    points that are no images, and said in words.

    Raises:
        ValueError: no plane at all, planes of other slices or classes, an unknown colour.
    """
    checks.known("colour", colour, COLOURS)
    named = plane if isinstance(plane, Mapping) else {"": plane}
    planes = {name: each for name, each in named.items() if each is not None}
    cuts = regions if isinstance(regions, Mapping) else {"": regions} if regions else {}
    if not planes or len({(p.slice, p.classes) for p in planes.values()}) > 1:
        raise ValueError(f"plane: expected some of one slice and the same classes, got {named}")
    first = next(iter(planes.values()))
    frame, faces, alts = Frame.of(first.slice.window), [], []
    for (name, each), tone in zip(named.items(), TONES, strict=False):
        if each is None:
            faces.append(face(name, tone, frame, cover("being computed"), "&nbsp;"))
            continue
        cut = cuts.get(name)
        alts.append((f"{name}: " if name else "") + in_words(each, cut))
        labels = Labels(frame)
        labels.scale()
        labels.marks(marks or {}, path)
        labels.classes(each)
        drawn = "".join(lines(each, frame, cut, colour, path, levels))
        shown = layers(each, frame, drawn, alts[-1], pick) + "".join(labels.parts)
        shown += cover(waiting)
        about = caption(each, levels, "class" if cut is None else colour)
        about = in_units(space, each.slice, about)
        faces.append(face(name, tone, frame, shown, about))
    spot = Spot.of(planes, here, space)
    live = "" if waiting else f'data-map="{spot.data()}"'
    return Picture(together(faces, spot, live, beside), "; ".join(alts))


def together(faces: Sequence[str], spot: Spot, live: str, beside: str) -> str:
    """Maps and what is said at a point; beside one map there is room for more, else below."""
    below = beside if len(faces) > 1 else ""
    return (
        f'<div class="wb-plane" {live} style="{ROW};font:13px system-ui,sans-serif">'
        f'<div style="flex:2 1 {500 if below else 420}px;max-width:{WIDE * len(faces)}px">'
        f'<div style="{ROW};min-height:{240 if below else 0}px">{"".join(faces)}</div>{below}</div>'
        f'<div class="wb-plane-side" style="flex:1 1 250px;max-width:440px">{spot.html(len(faces))}'
        f'{"" if below else beside}<p data-region style="{SOFT};margin:0"></p></div></div>'
    )


def in_words(plane: Plane, regions: Regions | None = None) -> str:
    """The share of each class, and of the box, in a plane; and its regions."""
    summary = plane.summary()
    shares = ", ".join(f"{name} on {percent(s)}" for name, s in summary["shares"].items())
    words = f"plane: {shares}; {percent(summary['inside'])} of it inside [0, 1]"
    return words if regions is None else f"{words}; {regions_in_words(regions)}"


def caption(plane: Plane, levels: Sequence[float], colour: str) -> str:
    """What colours, hatching and lines mean."""
    sure = "Paler: less sure." if colour == "class" else COLOURS[colour]
    words = f"{sure} Hatched: outside [0, 1], where there are no images."
    if levels:
        at = " and ".join(f"{p:.3g}" for p in levels)
        words += f" Lines: {escape(plane.classes[plane.label])} at {at}."
    return words


def lines(
    plane: Plane,
    frame: Frame,
    regions: Regions | None,
    colour: str,
    path: torch.Tensor | None,
    levels: Sequence[float],
) -> Iterator[str]:
    """What is drawn over a plane: regions, contours, a path."""
    if regions is not None:
        home = max(0, int(regions.locate(np.zeros((1, 2)))[0]))
        yield from region_parts(regions, frame, "" if colour == "class" else colour, home)
    for i, level in enumerate(levels):
        style = f'{LINE} stroke-width="1.5" stroke-dasharray="{DASHES[i % 3]}"'
        for contour in plane.contours(level):
            yield frame.line(contour.numpy(), style)
    if path is not None and len(path) > 1:
        for tone, width in (("#fff", 4), ("#000", 2)):
            style = LINE.replace("#000", tone) + f' stroke-width="{width}"'
            yield frame.line(path.cpu().numpy(), style)


@dataclass(frozen=True, eq=False)
class Spot:
    """A point of planes of one slice: the image there, and what each model says of it.

    shown: the classes with a bar. values: by model their probabilities, and the rest's, if any.
    """

    planes: Mapping[str, Plane]
    shown: list[int]
    point: torch.Tensor
    values: list[list[float]]
    space: InputSpace | None = None

    @classmethod
    def of(
        cls,
        planes: Mapping[str, Plane],
        here: tuple[torch.Tensor, Sequence[torch.Tensor]] | None = None,
        space: InputSpace | None = None,
    ) -> Spot:
        """At a point with the models' own probabilities, or where the grids have a point."""
        known = [*planes.values()]
        shown = bars(known)
        if here is None:
            coarse = min(known, key=lambda p: len(p.predicted))
            grid = coarse.slice.grid(len(coarse.predicted))
            point = grid[grid.square().sum(1).argmin()]
            near = [(p.slice.grid(len(p.predicted)) - point).square().sum(1) for p in known]
            said = [
                p.probabilities.flatten(0, 1)[d.argmin()] for p, d in zip(known, near, strict=True)
            ]
            here = point, said
        kept = [kept_of(p.detach().cpu().numpy(), shown).tolist() for p in here[1]]
        return cls(planes, shown, here[0].cpu(), kept, space)

    @property
    def first(self) -> Plane:
        """The plane of the first model."""
        return next(iter(self.planes.values()))

    @property
    def classes(self) -> list[str]:
        """The names with a bar."""
        names = self.first.classes
        return [names[k] for k in self.shown] + ["others"] * (len(self.shown) < len(names))

    @property
    def colours(self) -> list[str]:
        """Their colours on the map."""
        hues = [CLASSES[k % len(CLASSES)] for k in self.shown]
        return hues + ["#999999"] * (len(self.classes) - len(hues))

    def html(self, models: int) -> str:
        """The image, and what each model says of it; there is room for so many `models`."""
        image = self.first.slice.images(self.point[None])[0]
        words = point_words(self.space, self.first.slice, self.point[None])
        return said(image, self.planes, self.classes, self.colours, self.values, models, words)

    def data(self) -> str:
        """What the script needs, as an attribute: basis images, probabilities, colours."""
        at, planes = self.first.slice, self.planes.values()
        frame = Frame.of(at.window)
        x, y = frame.share(frame.at(self.point))
        scales, basis = packed_basis(at)
        data = {
            "window": at.window,
            "shape": list(at.origin.shape),
            "scales": scales,
            "basis": basis,
            "classes": self.classes,
            "colours": rgb(self.colours).tolist(),
            "names": list(self.planes),
            "sides": [len(p.predicted) for p in planes],
            "grids": [packed_grid(p, tuple(self.shown)) for p in planes],
            "here": [x / 100, y / 100, self.values],
            "words": point_words(self.space, at, at.grid(WORDS)),
        }
        return escape(json.dumps(data, ensure_ascii=False), quote=True)


def point_view(x: torch.Tensor, probabilities: torch.Tensor, classes: Sequence[str]) -> Picture:
    """An image `(C, H, W)` and its probabilities `(K,)`, as beside a `plane_map`."""
    k = len(classes)
    shown = sorted(probabilities.topk(k if k <= BARS + 1 else BARS).indices.tolist())
    names = [classes[i] for i in shown] + ["others"] * (len(shown) < k)
    hues = [CLASSES[i % len(CLASSES)] for i in shown] + ["#999999"] * (len(shown) < k)
    values = kept_of(probabilities.cpu().numpy(), shown).tolist()
    return Picture(said(x, [""], names, hues, [values]), sentence("", names, values))


def said(
    image: torch.Tensor,
    models: Iterable[str],
    classes: Sequence[str],
    colours: Sequence[str],
    values: Sequence[Sequence[float]],
    room: int = 1,
    points: Sequence[str] = (),
) -> str:
    """An image, a sentence for each model, and bars of the classes, paired by model."""
    high = f"line-height:1.2;min-height:{1.2 * room:.1f}em"
    shown = image.cpu().clamp(0, 1)
    lost = float((image.cpu() - shown).norm())
    box = f"clipped by L2 {lost:.2f}" if lost >= 0.005 else "inside [0, 1]"
    words = "\n".join(sentence(m, classes, p) for m, p in zip(models, values, strict=True))
    rows = "".join(
        bar_row(name, hue, [p[k] for p in values])
        for k, (name, hue) in enumerate(zip(classes, colours, strict=True))
    )
    tag = img_tag(shown, "the image at the point", IMAGE)
    if points:
        tag = f'<p data-words style="margin:0;width:{IMAGE}px">{escape(points[0])}</p>'
    return (
        '<p data-said role="status" style="white-space:pre-line;margin:0;font-weight:600;'
        f'{high}">{escape(words)}</p>'
        f'<p data-note style="{SOFT};margin:0 0 6px">{box}; as the model says</p>'
        f'<div style="{ROW}"><div data-image style="position:relative">{tag}</div>'
        f'<table style="border-spacing:6px 0;line-height:1.3;margin:0">{rows}</table></div>'
    )


def sentence(model: str, classes: Sequence[str], values: Sequence[float]) -> str:
    """What a model says, and how surely."""
    sure = ">0.999" if 0.9995 <= max(values) < 1 else f"{max(values):.3f}"
    return f"{model or 'here'}: {classes[int(np.argmax(values))]}, {sure}"


def bar_row(name: str, colour: str, shares: Sequence[float]) -> str:
    """A class: its colour on the map, its name, and a bar and a number of each model."""
    tracks, numbers = "", ""
    for tone, share in zip(TONES, shares, strict=False):
        style = f"height:{12 // len(shares)}px;width:{share:.1%};background:{tone}"
        tracks += f'<div data-bar style="{style}"></div>'
        numbers += f'<td data-number style="color:{tone}">{share:.3f}</td>'
    mark = f'<i style="display:inline-block;width:9px;height:9px;background:{colour}"></i>'
    head = 'scope="row" style="text-align:left;font-weight:normal"'
    track = f'<td><div style="width:100px;background:#8883">{tracks}</div></td>'
    return f"<tr><th {head}>{mark} {escape(name)}</th>{track}{numbers}</tr>"


def bars(planes: Sequence[Plane]) -> list[int]:
    """The classes with a bar: all, or those that lead on most of the planes, then the likeliest."""
    k = len(planes[0].classes)
    if k <= BARS + 1:
        return list(range(k))
    areas = [p.predicted.flatten().bincount(minlength=k) for p in planes]
    most = [p.probabilities.amax((0, 1)) for p in planes]
    order = (torch.stack(areas).sum(0) + torch.stack(most).amax(0)).argsort(descending=True)
    return sorted(order[:BARS].tolist())


def kept_of(probabilities: np.ndarray, shown: Sequence[int]) -> np.ndarray:
    """Of probabilities `(..., K)` those with a bar; where others are left, their sum too."""
    kept = probabilities[..., list(shown)]
    rest = (1 - kept.sum(-1, keepdims=True)).clip(0, 1)
    return kept if len(shown) == probabilities.shape[-1] else np.concatenate([kept, rest], -1)


def packed(values: np.ndarray) -> str:
    """Numbers as text, deflated."""
    return base64.b64encode(zlib.compress(values.tobytes(), 6)).decode("ascii")


@lru_cache(maxsize=8)
def packed_basis(at: Slice) -> tuple[list[float], str]:
    """Origin and axes of a slice, each in 16 bits, and what to multiply them by."""
    images = torch.stack([at.origin, at.u, at.v]).cpu().double().flatten(1).numpy()
    scales = np.abs(images).max(1, keepdims=True).clip(1e-12) / 32767
    return scales.ravel().tolist(), packed(np.rint(images / scales).astype("<i2"))


@lru_cache(maxsize=4)
def packed_grid(plane: Plane, shown: tuple[int, ...]) -> str:
    """The probabilities shown, at all points of a grid, in 16 bits."""
    return packed(np.rint(kept_of(plane.probabilities.cpu().numpy(), shown) * 65535).astype("<u2"))


def region_map(regions: Regions, window: Window, colour: str = "class", home: int = 0) -> Picture:
    """The linear regions of a slice, each with words under the pointer.

    colour: "class" (the one predicted; white where it changes inside), "gradient" (the length
    of the margin's, from dark, small, to light) or "region" (neighbours apart). home: the
    region whose neurons the others are compared with.

    Raises:
        ValueError: another colour.
    """
    checks.known("colour", colour, COLOURS)
    frame = Frame(window, SIDE, SIDE)
    x, y = frame.at((0.0, 0.0))
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="#000"/>'
    parts = "".join(region_parts(regions, frame, colour, home)) + dot
    alt = regions_in_words(regions)
    svg = (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}" viewBox="0 0 {SIDE} {SIDE}" '
        f'width="{SIDE}" height="{SIDE}" style="max-width:100%;height:auto">{parts}</svg>'
    )
    words = f"Thick: the decision boundary; the dot: the image. {COLOURS[colour]}"
    style = f"margin:8px 0;font:13px system-ui,sans-serif;max-width:{SIDE}px"
    html = f'<figure style="{style}">{svg}<figcaption style="{SOFT}">{words}</figcaption></figure>'
    return Picture(html, alt)


def regions_in_words(regions: Regions) -> str:
    """How many there are, of what shape, and what the model says in them."""
    summary, names = regions.summary(), sorted(set(regions.frame()["predicted"]) - {""})
    return (
        f"{summary['regions']} linear regions, mean {summary['mean_vertices']:.1f} corners; "
        f"predicted {', '.join(names)}; decision boundary "
        f"{summary['boundary_length']:.3g} long; gradients "
        f"{regions.gradient.min():.3g} to {regions.gradient.max():.3g}"
    )


def region_parts(regions: Regions, frame: Frame, colour: str, home: int) -> Iterator[str]:
    """Regions as polygons, clear where there is no `colour`, and the decision boundary."""
    fills = ['none" pointer-events="all'] * len(regions)
    if colour == "gradient":
        shades = colourise(regions.gradient[None])[0]
    else:
        places = regions.label if colour == "class" else np.arange(len(regions))
        hues = rgb(CLASSES)[places % len(CLASSES)]
        hues[(places < 0) if colour == "class" else []] = 255
        shades = 255 - (255 - hues) * (0.7 if colour == "class" else 0.5)
    if colour:
        fills = ["rgb({},{},{})".format(*(round(float(c)) for c in shade)) for shade in shades]
    table = regions.frame().itertuples()
    for i, (polygon, row) in enumerate(zip(regions.polygons, table, strict=True)):
        tooltip = (
            f"region {i}: {row.predicted or 'the class changes inside'}, area {row.area:.3g}, "
            f"gradient {row.gradient:.3g}; {neurons(regions, i, home)}"
        )
        edge = 'stroke="#000" stroke-opacity="0.3" stroke-width="0.5"'
        yield frame.polygon(polygon, f'fill="{fills[i]}" {edge}', tooltip)
    for each in regions.boundary:
        yield frame.line(each, f'{LINE} stroke-width="2.5"')


def neurons(regions: Regions, i: int, home: int) -> str:
    """How many neurons are on in region `i`, and which are not as in region `home`."""
    described = []
    for name, choices in regions.choices.items():
        here, there = choices[i].ravel(), choices[home].ravel()
        differing = np.flatnonzero(here != there)
        few = ", ".join(map(str, differing[:8])) + (", ..." if len(differing) > 8 else "")
        changed = f", other than at the image: {few}" if len(differing) else ""
        described.append(f"{name} {np.count_nonzero(here)} of {here.size} on{changed}")
    return "; ".join(described)
