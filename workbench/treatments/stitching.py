"""The first layers of one network, a linear map, the last layers of another."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from workbench import checks
from workbench.models import Classifier, private_copy, ready, unmeasured


def stitch(
    a: Classifier, b: Classifier, at: tuple[str, str], images: Tensor, *, share: bool = False
) -> Classifier:
    """`a` up to a layer, a linear map found by least squares, and `b` after a layer.

    The map comes as near as it can to what `b`'s layer gives (Pan, Cai and Zhuang, Stitchable
    Neural Networks, 2023). Where both layers give channels it is a 1x1 convolution, on `a`'s
    averaged to `b`'s size. at: the two layers. images: `(N, C, H, W)`, a few hundred. share:
    whether the weights stay those of `a` and `b`, to be trained together.

    Raises:
        ValueError: other images or classes, no images, an unknown layer, or a network that is not
            a row of layers (nn.Sequential).
    """
    pairs = {"input_shape": (a.input_shape, b.input_shape), "classes": (a.classes, b.classes)}
    for name, (own, other) in pairs.items():
        if own != other:
            raise ValueError(f"b: expected the {name} of a, {own}, got {other}")
    x = checks.images(images, a.input_shape)
    checks.positive("images: number of images", len(x))
    front, back = parted(a, at[0], share)[0], parted(b, at[1], share)[1]
    with torch.no_grad():
        given = front(a.normalised(x.to(a.device)))
        wanted = parted(b, at[1], share)[0](b.normalised(x.to(b.device))).to(given)
    body = nn.Sequential(OrderedDict(front=front, stitch=between(given, wanted), back=back))
    facts = {
        "name": f"{a.card.name} to {at[0]}, {b.card.name} after {at[1]}",
        "architecture": "stitched",
        "parameters": sum(p.numel() for p in body.parameters()),
    }
    model = Classifier(body.eval(), unmeasured(a.card, **facts))
    for name in ("mean", "std"):
        value = getattr(a, name)
        setattr(model, name, None if value is None else value.clone())
    return model.to(a.device)


def parted(model: Classifier, layer: str, share: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """The layers of a model up to one, and those after it; see `stitch`."""
    ready(model)
    if not isinstance(model.body, nn.Sequential):
        kind = type(model.body).__name__
        raise ValueError(f"{model.card.name} is no row of layers (nn.Sequential), but a {kind}")
    row = list(model.body.named_children())
    names = [name for name, _ in row]
    if layer not in names:
        raise checks.unknown(f"layer of {model.card.name}", layer, names)
    n = names.index(layer) + 1
    parts = [(name, private_copy(m, share=share)) for name, m in row]
    return nn.Sequential(OrderedDict(parts[:n])), nn.Sequential(OrderedDict(parts[n:]))


def between(given: Tensor, wanted: Tensor) -> nn.Module:
    """The linear layer that maps `given` nearest to `wanted`, a row an image in both."""
    before: list[nn.Module] = []
    spatial = given.ndim == wanted.ndim == 4
    if spatial and given.shape[2:] != wanted.shape[2:]:
        before = [nn.AdaptiveAvgPool2d(tuple(wanted.shape[2:]))]
    elif not spatial and given.ndim > 2:
        before = [nn.Flatten()]
    for part in before:
        given = part(given)
    inputs, outputs = (
        t.movedim(1, -1).flatten(0, -2) if spatial else t.flatten(1) for t in (given, wanted)
    )
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    rows = torch.cat([inputs.double().cpu(), ones], 1)  # the last weight is the bias
    # "gelsd" also where units are dead or images few: then the smallest of the best.
    found = torch.linalg.lstsq(rows, outputs.double().cpu(), driver="gelsd").solution.float()
    made, size = (nn.Conv2d, (1,)) if spatial else (nn.Linear, ())
    layer = skip_init(made, inputs.shape[1], outputs.shape[1], *size)  # nothing is drawn
    weight = found[:-1].T.reshape(layer.weight.shape).contiguous()
    layer.weight.data, layer.bias.data = weight, found[-1].clone()
    after = [nn.Unflatten(1, tuple(wanted.shape[1:]))] if not spatial and wanted.ndim > 2 else []
    return nn.Sequential(*before, layer, *after).to(given.device)
