"""`wrap`: any `nn.Module` that maps images to logits becomes a `Classifier`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import index
from os import PathLike
from typing import Any

import torch
from torch import nn

from workbench import checks
from workbench.models.classifier import Classifier, finite
from workbench.models.copies import private_copy, unregistered
from workbench.models.model_card import ModelCard
from workbench.models.probing import Probe, last_channels

__all__ = ["private_copy", "wrap"]

# What people hand over in place of a module, and what to do with it.
INSTEAD = {
    "type": "make one first: {name}()",
    "str": "models.load reads names and files",
    "PosixPath": "models.load('state_dict:PATH', ...) and 'onnx:PATH' read files",
    "WindowsPath": "models.load('state_dict:PATH', ...) and 'onnx:PATH' read files",
    "dict": "weights alone are no model: give the module, and the file as weights=",
    "OrderedDict": "weights alone are no model: give the module, and the file as weights=",
    "ExportedProgram": "give its .module(), exported with a dynamic batch dimension",
    "ModelProto": "models.load('onnx:PATH') reads the file",
    "InferenceSession": "models.load('onnx:PATH') reads the file",
}


@torch.inference_mode(False)  # wherever it is called: gradients are asked for
def wrap(
    module: nn.Module,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str] | Mapping[Any, Any] | int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    weights: str | PathLike[str] | None = None,
    name: str = "my model",
    licence: str = "",
) -> Classifier:
    """Make a `Classifier` of `module`, checked on a few images of noise.

    The classifier works on a copy of the module's structure that shares its weights, in
    eval mode: the module keeps its own mode and hooks, and training it further shows
    (unless its weights are of another type than float32, or it is compiled by torch.jit: then
    they are copied too).

    Args:
        module: maps float32 `(N, C, H, W)` to logits `(N, K)`, alone or as a part of what it
            returns; which part is taken is said.
        input_shape: `(C, H, W)` of one image.
        classes: the names of the K outputs (see `checks.class_names`), or K; found from the
            output when None.
        mean, std: normalisation that the module expects of images in [0, 1], one number a
            channel; it then happens inside the classifier.
        weights: a file of weights to load into a copy first (see `state_dicts.read`);
            the module itself stays as it is.

    Warns:
        UserWarning: about whatever would make figures mislead: probabilities in place of
            logits, randomness, a mean for images in 0..255, images changed in place.

    Raises:
        TypeError: not an `nn.Module`.
        ValueError: it fails on a batch, it gives no `(N, K)` logits, an answer depends on the
            other images of the batch or on the calls before, its weights or outputs are not
            finite, or the classes do not fit.
    """
    module, shape = given_module(module), given_shape(input_shape, mean)
    shared = weights is None and not frozen(module)
    body = body_of(module, weights, share=shared)
    card = ModelCard(
        name=name,
        classes=(),
        input_shape=shape,
        architecture=getattr(module, "original_name", type(module).__name__),  # if scripted
        parameters=sum(p.numel() for p in module.parameters()),
        licence=licence,
    )
    make = partial(classifier, card=card, mean=mean, std=std)
    probe, remarks = probed(module, body, make, count(classes))
    model = probe.model
    names, named = class_names(classes, probe.n_outputs)
    model.card = card.model_copy(update={"classes": names, "named": named})
    remarks += [*about_shape(shape), *about_normalisation(mean, std), *probe.remarks]
    for remark in [*remarks, *about_modes(module, probe)]:
        warnings.warn(remark, stacklevel=3)  # past the decorator, where wrap was called
    return model


def probed(
    module: nn.Module, body: nn.Module, make: Callable[..., Classifier], n_classes: int | None
) -> tuple[Probe, list[str]]:
    """The classifier of a body as it was asked, and remarks: in float32 where it takes that."""
    remarks = about_types(module)
    try:
        return Probe(make(body), n_classes), remarks if frozen(module) else []
    except ValueError:
        if not remarks:
            raise
        return Probe(make(private_copy(body, share=False).float()), n_classes), remarks


def body_of(module: nn.Module, weights: Any, *, share: bool) -> nn.Module:
    """The copy of a module that becomes a classifier's body, with other weights where given.

    Raises:
        ValueError: it cannot be copied or does not leave train mode, or weights that do not
            fit or are not finite.
    """
    body = private_copy(module, share=share)
    if weights is not None:
        from workbench.models import state_dicts

        state_dicts.load_into(body, str(weights).removeprefix("state_dict:"))
    for name, part in body.named_modules():
        if part.training:
            raise ValueError(
                f"module: {name or type(module).__name__} stays in train mode after eval(); "
                "do without its own train() or eval(), or wrap what it holds"
            )
    finite(body)
    return body


def classifier(body: nn.Module, card: ModelCard, mean: Any, std: Any) -> Classifier:
    """The classifier of a body, with its normalisation where the body is."""
    model = Classifier(body, card, mean, std)
    if model.mean is not None:
        model.mean = model.mean.to(model.device)
    if model.std is not None:
        model.std = model.std.to(model.device)
    return model


def given_module(module: Any) -> nn.Module:
    """The module to wrap; without what torch.compile or DataParallel put around it.

    Raises:
        TypeError: not an `nn.Module`.
        ValueError: one without weights yet.
    """
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        hint = INSTEAD.get(kind, "").format(name=getattr(module, "__name__", ""))
        raise TypeError(
            f"module: expected a torch nn.Module, got {kind}" + (f"; {hint}" if hint else "")
        )
    around = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, around) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, around) else module._orig_mod
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"module: {name} is lazy and has no weights yet; give the module one batch, "
                "module(torch.zeros(1, C, H, W)), and train it or load its weights"
            )
        if tensor.is_meta:
            raise ValueError(
                f"module: {name} is on the meta device, without values; make it with "
                "module.to_empty(device='cpu') and load its weights"
            )
    return module


def given_shape(input_shape: Any, mean: Any = None) -> tuple[int, int, int]:
    """The shape of one image.

    Raises:
        ValueError: not three positive whole numbers, or the channels last, as `mean` shows.
    """
    try:
        channels, height, width = (index(checks.plain(n)) for n in input_shape)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise ValueError(
            f"input_shape: expected (channels, height, width), whole numbers, got {input_shape}"
        )
    shape = channels, height, width
    hint = last_channels(shape)
    if hint and mean is not None and width == torch.as_tensor(mean).numel() > 1:
        raise ValueError(f"input_shape={shape} has {channels} channels, mean {width}{hint}")
    return shape


def frozen(module: nn.Module) -> bool:
    """Whether weights were made in inference mode: no gradient passes such."""
    return any(t.is_inference() for t in [*module.parameters(), *module.buffers()])


def about_types(module: nn.Module) -> list[str]:
    """A remark on weights that are not float32, or of which no gradient can be had."""
    kinds = {t.dtype for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()}
    odd = sorted(str(kind).removeprefix("torch.") for kind in kinds - {torch.float32})
    odd += ["inference-mode"] if frozen(module) else []
    return [
        f"{type(module).__name__} has {kind} weights: the classifier has a float32 copy of them, "
        "so that training the module further does not show in it"
        for kind in odd[:1]
    ]


def about_shape(shape: tuple[int, int, int]) -> list[str]:
    """A remark on an input shape in the wrong order."""
    hint = last_channels(shape)
    return [f"input_shape={shape} has {shape[0]} channels{hint}"] if hint else []


def about_normalisation(mean: Any, std: Any) -> list[str]:
    """A remark on numbers that are no mean and deviation of images in [0, 1]."""
    values = {"mean": mean, "std": std}
    flat = {
        key: torch.as_tensor(value, dtype=torch.float32).flatten()
        for key, value in values.items()
        if value is not None
    }
    remarks = []
    for key, value in flat.items():
        if bool((value > 1).any()):
            remarks.append(
                f"{key}={values[key]} looks like that of images in 0..255, and images here are in "
                f"[0, 1]: divide {key} by 255"
            )
        elif key == "mean" and bool((value < 0).any()):
            remarks.append(f"mean={mean}: images in [0, 1] have no negative mean; is it -mean?")
    if remarks or len(flat) < 2:
        return remarks
    centre, spread = flat["mean"], flat["std"]
    if bool((centre > 0).all()) and float(torch.cat([centre, spread]).max()) < 0.01:
        return [f"mean={mean}, std={std} look as if they were divided by 255 twice"]
    # The deviation of numbers in [0, 1] with mean m is at most sqrt(m (1 - m)).
    impossible = (spread > (centre * (1 - centre)).sqrt() + 1e-3) & (centre > 0) & (spread < 1)
    if bool(impossible.any()):
        return [
            f"mean={mean}, std={std}: images in [0, 1] of that mean cannot deviate so much; are "
            "the two in each other's place?"
        ]
    return []


def about_modes(module: nn.Module, probe: Probe) -> list[str]:
    """Remarks on parts in train mode, and on such as eval() does not reach."""
    kind, remarks = type(module).__name__, []
    for name, part in unregistered(module):
        remarks.append(
            f"{kind} keeps a {type(part).__name__} in a plain attribute ({name!r}), where eval(), "
            "to() and parameters() pass over it; register it (nn.ModuleList, nn.ModuleDict)"
        )
    if any(part.training for part in module.modules()) and probe.unlike(module):
        remarks.append(
            f"{kind} is in train mode, in which it answers otherwise; the classifier looks at it "
            "in eval mode, and the module stays as it is"
        )
    return remarks


def count(classes: Any) -> int | None:
    """How many classes these are, where that is known."""
    classes = checks.plain(classes)
    if isinstance(classes, int) and not isinstance(classes, bool):
        return classes
    sized = hasattr(classes, "__len__") and not isinstance(classes, (str, bytes))
    return len(classes) if sized else None


def class_names(classes: Any, n_outputs: int) -> tuple[tuple[str, ...], bool]:
    """K names for K outputs, and whether they are more than numbers.

    Raises:
        TypeError, ValueError: as `checks.class_names`.
    """
    number = checks.plain(classes)
    if number is None or (isinstance(number, int) and not isinstance(number, bool)):
        if number not in (None, n_outputs):
            raise ValueError(
                f"classes: expected {n_outputs} names, one an output of the module, got {classes!r}"
            )
        return tuple(str(k) for k in range(n_outputs)), False
    return checks.class_names(classes, n_outputs), True
