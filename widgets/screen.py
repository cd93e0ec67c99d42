"""`Screen`: the bench as one sees it, and the plain values it is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import torch
import traitlets

from workbench.data import ImageDataset
from workbench.figures import CLASSES, colourise, png_data, points, size
from workbench.files import STYLE

if TYPE_CHECKING:
    from workbench.robustness import Breaking

    from .model_panel import ModelView

FILM = 24  # images on the strip
THUMB = 44  # pixels on the screen, of their height
BARS = 10  # classes with a bar
SURE = ((0.99, "surely"), (0.9, "most likely"), (0.5, "probably"))
TILES = ("attack", "prototypes", "map", "pattern", "monitor")


class Screen(anywidget.AnyWidget):
    """Filmstrip, stage, answer and tiles. What is clicked or typed comes back as `asked`.

    asked: {"what", "value"}. The other traits are made by the functions below; each is sent
    when it changes, so that what came first is seen first.
    """

    _esm = "".join(Path(__file__).with_name(f"bench{n}.js").read_text() for n in ("_parts", ""))
    _css = STYLE.read_text() + Path(__file__).with_name("bench.css").read_text()
    bar = traitlets.Dict().tag(sync=True)
    film = traitlets.Dict().tag(sync=True)
    stage = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)
    breaking = traitlets.Dict().tag(sync=True)
    mode = traitlets.Unicode("image").tag(sync=True)
    attack, prototypes, map, pattern, monitor = (traitlets.Dict().tag(sync=True) for _ in TILES)
    asked = traitlets.Dict().tag(sync=True)


def frame(images: ImageDataset, index: int, answer: int | None) -> dict[str, Any]:
    """An image of the strip, with what the model says of it; None: it was not asked yet."""
    label, says = int(images.labels[index]), None if answer is None else images.classes[answer]
    name = images.classes[label] if label >= 0 else ""
    wrong = answer is not None and label >= 0 and label != answer
    words = f"image {index}" + f", {name}" * bool(name) + f", the model says {says}" * wrong
    tag = points.tag(images.images[index], words, THUMB, images.space)
    return {"index": index, "html": tag, "words": words, "says": says, "wrong": wrong}


def stage(view: ModelView) -> dict[str, Any]:
    """The image, and a map of the pixels that matter to each model, on one scale."""
    assert view.index is not None
    image = view.images.images[view.index]
    maps = [look.saliency for look in view.looks if look.saliency and not view.images.space]
    most = max((float(m.values.abs().max()) for m in maps), default=0.0) or 1.0
    layers = points.why(view.images.space, view.looks)
    for look, found in zip(view.looks, maps, strict=False):
        strength = found.values[0].abs().numpy() / most
        rgb = colourise(found.values[0], "diverging", (-most, most))
        alpha = np.rint(255 * np.clip(strength, 0, 1) ** 0.5).astype(np.uint8)
        name = look.model.classes[int(found.target[0])]
        how = "orange speaks for it, blue against" if found.signed else "the more orange, the more"
        about = f"{found.method}: where {name} comes from; {how}"
        layer = {"src": png_data(np.dstack([rgb, alpha])), "words": about}
        layers.append({**layer, "model": look.model.card.name})
    words = f"image {view.index} of {view.images.name}"
    words += f", labelled {view.label}" if view.label else ", without a label"
    return {
        "image": points.address(image, view.images.space),
        "words": words,
        "maps": layers,
        "shape": list(image.shape),
        "index": view.index,
    }


def answer(view: ModelView, breaking: Sequence[Breaking], drawn: bool) -> dict[str, Any]:
    """What the models say: a sentence, what is right, and a row a class.

    drawn: whether the image was drawn, so that one may say what it is.
    """
    first = view.looks[0]
    p = [look.prediction.probabilities[0].cpu() for look in view.looks]
    order = list(range(len(p[0])))
    if len(p[0]) > BARS:  # those that a model takes to be likely
        most = torch.stack(p).amax(0) if len({len(q) for q in p}) == 1 else p[0]
        order = most.argsort(descending=True, stable=True)[:BARS].tolist()
    same = [first.prediction.classes == look.prediction.classes for look in view.looks]
    rows = [
        {
            "k": k,
            "name": first.prediction.classes[k],
            "p": [float(q[k]) if fit else None for q, fit in zip(p, same, strict=True)],
            "label": k == first.label,
        }
        for k in order
    ]
    rest = {"names": [look.model.card.name for look in view.looks], "rows": rows}
    return {
        "head": head(p[0], first.prediction.classes),
        "says": right(view),
        "then": held(breaking),
        **rest,
    } | {
        "ask": drawn and first.label is None,
        "wrong": first.label is not None and int(first.prediction.label[0]) != first.label,
        "classes": list(first.prediction.classes) if drawn else [],
    }


def head(p: torch.Tensor, classes: Sequence[str]) -> str:
    """An answer, `(K,)` probabilities, as sure as it is."""
    first, second = (classes[k] for k in p.argsort(descending=True, stable=True)[:2].tolist())
    for least, word in SURE:
        if float(p.max()) >= least:
            return f"{first}, {word}."
    return f"{first} or {second}?"


def right(view: ModelView) -> str:
    """Which model is right."""
    known = [look for look in view.looks if look.label is not None]
    if not view.label:
        return "No label: no answer is right or wrong."
    if not known:
        return f"Labelled {view.label}, which is no class of this model."
    ends = [int(look.prediction.label[0]) == look.label for look in known]
    word = "right" if all(ends) else "wrong"
    if len(known) == 2 and len(set(ends)) == 1:
        return f"Labelled {view.label}: both models are {word}."
    look = known[ends.index(word == "right")]
    says = f" and says {look.prediction.classes[int(look.prediction.label[0])]}"
    return f"Labelled {view.label}: {look.model.card.name} is {word}{says * (word == 'wrong')}."


def held(breaking: Sequence[Breaking]) -> str:
    """How much it takes to change the answers."""
    words = []
    for b in breaking:
        if b.breaks is None:
            words.append(f"{b.model} holds up to {size(float(b.radii[-1]), b)}.")
        else:
            answer = b.classes[int(b.predicted[b.radii.tolist().index(b.breaks)])]
            words.append(f"At {size(b.breaks, b)} {b.model} says {answer}.")
    return " ".join(words)


def frames(breaking: Sequence[Breaking], space: Any = None) -> dict[str, Any]:
    """The attacked images as one strip, and every confidence at every budget."""
    if not breaking:
        return {}
    first = breaking[0]
    strip, shape = points.strip(first.images, space)
    colours = [CLASSES[k % len(CLASSES)] for k in range(len(first.classes))]
    flips = [None if b.breaks is None else b.radii.tolist().index(b.breaks) for b in breaking]
    return {
        "strip": strip,
        "shape": shape,
        "drawn": space is not None,
        "radii": first.radii.tolist(),
        "sizes": [size(float(r), first) for r in first.radii],
        "models": [b.model for b in breaking],
        "heads": [head(p, first.classes) for p in first.probabilities],
        "p": [b.probabilities.tolist() for b in breaking],
        "labels": [b.label for b in breaking],
        "flips": flips,
        "classes": list(first.classes),
        "colours": colours,
        "attack": first.attack,
    }
