"""Single weights that are removed: how they are ranked, and how those that stay make up for them.

"activation" ranks as Wanda does (Sun, Liu, Bair, Kolter, 2024), "second-order" as Optimal Brain
Surgeon within each row (Hassibi, Stork, 1993), whose update SparseGPT made fast (Frantar,
Alistarh, 2023). Here the update is the least squares that these approach.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import Classifier, heard
from workbench.treatments.base import share_of, weighted

Scores = dict[str, Tensor]  # by layer, a number for each weight
OF_WEIGHTS = ("activation", "second-order")
DAMPING = 0.01  # of the mean second moment: what the images do not show is not known to be zero


def remove_weights(
    model: Classifier,
    some: ImageDataset | None,
    generator: torch.Generator,
    criterion: str,
    share: float,
    scope: str,
    update: bool,
) -> Iterator[tuple[int, int]]:
    """Set to zero the weights whose score is lowest; one layer after the other."""
    layers = weighted(model)
    scores = weight_scores(model, some, criterion, generator)
    masks = lowest(scores, share, scope)
    if update and some is not None:
        refit(model, some.images, masks)
    for done, (name, layer) in enumerate(layers.items(), 1):
        if name in masks:
            layer.weight.data[masks[name].to(layer.weight.device)] = 0
        yield done, len(layers)


def weight_scores(
    model: Classifier, some: ImageDataset | None, criterion: str, generator: torch.Generator
) -> Scores:
    """By layer a number for each weight; where inputs are looked at, of layers that run."""
    layers = weighted(model)
    weights = [layer.weight for layer in layers.values()]
    if criterion == "random":
        scores = [torch.rand(w.shape, generator=generator) for w in weights]
    elif criterion == "magnitude" or some is None:
        scores = [w.detach().abs().cpu() for w in weights]
    elif criterion in OF_WEIGHTS:
        found: Scores = {}
        names = {layer: name for name, layer in layers.items()}

        def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            w, x = layer.weight.detach(), inputs_of(layer, inputs[0])
            rows = w.reshape(len(x), -1, x.shape[2])
            if criterion == "activation":
                score = rows.abs() * x.norm(dim=1, keepdim=True)
            else:  # by the inverse of the error's second derivatives, which are the moments
                inverse = torch.linalg.inv(moments(x)).diagonal(dim1=1, dim2=2)
                score = rows.square() / inverse[:, None]
            found.setdefault(names[layer], score.view_as(w).cpu())

        with heard(names, before=note), torch.no_grad():
            model(some.images.to(model.device))
        return {name: found[name] for name in layers if name in found}
    else:
        with torch.enable_grad():
            x, y = some.images.to(model.device), some.labels.to(model.device)
            loss = F.cross_entropy(model(x), y)
            slopes = torch.autograd.grad(loss, weights)
        with_weight = criterion == "taylor"  # what the loss changes by, to first order
        pairs = zip(slopes, weights, strict=True)
        scores = [(g * w.detach() if with_weight else g).abs().cpu() for g, w in pairs]
    return dict(zip(layers, scores, strict=True))


def lowest(scores: Scores, share: float, scope: str = "model") -> Scores:
    """Bool, as the scores: the share of them that is lowest in the model, a layer, or a row."""
    rows = [s.flatten(1) if scope == "row" else s.reshape(1, -1) for s in scores.values()]
    together = [torch.cat(rows, 1)] if scope == "model" else rows
    masks = []
    for part in together:
        gone = part.argsort(dim=1, stable=True)[:, : share_of(part.shape[1], share)]
        masks.append(torch.zeros_like(part, dtype=torch.bool).scatter_(1, gone, True))
    if scope == "model":
        masks = list(masks[0].split([r.shape[1] for r in rows], 1))
    return {n: mask.view_as(s) for (n, s), mask in zip(scores.items(), masks, strict=True)}


def inputs_of(layer: Any, x: Tensor) -> Tensor:
    """What each weight of a row is multiplied by: `(groups, places, weights of a row)`."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return patches.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def moments(x: Tensor) -> Tensor:
    """Second moments of inputs `(groups, places, d)`, damped: `(groups, d, d)`."""
    h = x.mT @ x
    h.diagonal(dim1=1, dim2=2).add_(DAMPING * h.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
    return h


def refit(model: Classifier, images: Tensor, masks: Scores, n_steps: int = 50) -> None:
    """Give each layer, on the outputs of those before it, the best weights that are zero there.

    Least squares on the layer's own output, by conjugate gradients on all rows at once.
    """
    waiting = {layer: masks[name] for name, layer in weighted(model).items() if name in masks}

    def solve(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        if layer not in waiting:
            return
        x, w = inputs_of(layer, inputs[0]), layer.weight.data
        h, w0 = moments(x), w.reshape(len(x), -1, x.shape[2])
        kept = ~waiting.pop(layer).to(w.device).view_as(w0)
        size = h.diagonal(dim1=1, dim2=2)[:, None].clamp(min=1e-12)
        v = w0 * kept
        rest = ((w0 - v) @ h) * kept  # minus the gradient of (v - w0) h (v - w0)' / 2
        move = rest / size
        drop = (rest * move).sum(2, keepdim=True)
        for _ in range(n_steps):
            bend = (move @ h) * kept
            step = drop / (move * bend).sum(2, keepdim=True).clamp(min=1e-20)
            v, rest = v + step * move, rest - step * bend
            last, drop = drop, (rest * rest / size).sum(2, keepdim=True)
            move = rest / size + move * drop / last.clamp(min=1e-20)
        layer.weight.data = v.view_as(w)

    with heard(list(waiting), before=solve), torch.no_grad():
        model(images.to(model.device))
