"""`wrap`: any `nn.Module` that maps images to logits becomes a `Classifier`."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from workbench import checks
from workbench.models.classifier import Classifier, finite
from workbench.models.model_card import ModelCard

# What answers otherwise in train mode, where single images would come out wrong.
CHANGES_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def wrap(
    module: nn.Module,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str] | Mapping[Any, Any] | int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = None,
    name: str = "my model",
    licence: str = "",
) -> Classifier:
    """Make a `Classifier` of `module`, checked on one batch.

    The classifier works on a copy of the module's structure that shares its weights, in
    eval mode: the module keeps its own mode and hooks, and training it further shows.

    Args:
        module: maps float32 `(N, C, H, W)` to logits `(N, K)`.
        input_shape: `(C, H, W)` of one image.
        classes: the names of the K outputs (see `checks.class_names`), or K; found from the
            output when None.
        mean, std: normalisation that the module expects of images in [0, 1], one number a
            channel; it then happens inside the classifier.
        weights: a file of weights to load into a copy first (see `state_dicts.read`);
            the module itself stays as it is.

    Raises:
        TypeError: not an `nn.Module`.
        ValueError: it fails on a batch, its output is not `(N, K)` logits, its weights or
            outputs are not finite, or the classes do not fit.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch nn.Module, got {type(module).__name__}")
    shape = tuple(int(n) for n in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"input_shape: expected (channels, height, width), got {input_shape}")
    if any(m.training and isinstance(m, CHANGES_IN_TRAINING) for m in module.modules()):
        warnings.warn(
            f"{type(module).__name__} is in train mode; the classifier looks at it in eval mode, "
            "and the module stays as it is",
            stacklevel=2,
        )
    body = private_copy(module, share=weights is None)
    if weights is not None:
        from workbench.models import state_dicts

        state_dicts.load_into(body, weights.removeprefix("state_dict:"))
    finite(body)
    card = ModelCard(
        name=name,
        classes=(),
        input_shape=shape,
        architecture=type(module).__name__,
        parameters=sum(p.numel() for p in module.parameters()),
        licence=licence,
    )
    model = Classifier(body, card, mean, std)  # type: ignore[arg-type]
    n_outputs = probe(model)
    names, named = class_names(classes, n_outputs)
    model.card = card.model_copy(update={"classes": names, "named": named})
    return model


def private_copy(module: nn.Module, *, share: bool) -> nn.Module:
    """A copy of `module` in eval mode, with its own weights or sharing them.

    Raises:
        ValueError: the module cannot be copied.
    """
    tensors = itertools.chain(module.parameters(), module.buffers())
    memo = {id(tensor): tensor for tensor in tensors} if share else {}
    try:
        return copy.deepcopy(module, memo).eval()
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"module: {type(module).__name__} cannot be copied ({error}); keep locks, sessions "
            "and computed tensors out of the module's attributes"
        ) from error


def probe(model: Classifier) -> int:
    """Run one batch of two images through `model`; return the number of outputs.

    Raises:
        ValueError: the batch fails or the output is not `(2, K)` finite floats.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2, *model.input_shape), generator=generator).to(model.device)
    name = model.card.architecture
    try:
        with torch.no_grad():
            first, second = model(x), model(x)
    except Exception as error:  # whatever a foreign module raises
        raise ValueError(
            f"module: {name} failed on a batch of shape {tuple(x.shape)} "
            f"({type(error).__name__}: {error}); is input_shape={model.input_shape} right?"
        ) from error
    if not isinstance(first, torch.Tensor) or first.ndim != 2 or len(first) != 2:
        got = tuple(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
        raise ValueError(f"module: expected logits of shape (2, K) for 2 images, got {got}")
    if first.shape[1] < 2:
        raise ValueError(
            f"module: expected logits for 2 classes or more, got {first.shape[1]} output; turn a "
            "single score s into two logits (0, s)"
        )
    if not first.is_floating_point() or not bool(first.isfinite().all()):
        raise ValueError(f"module: expected finite floating-point logits, got {first[0].tolist()}")
    if not torch.equal(first, second):
        warnings.warn(
            f"{name} answers the same images differently each time (dropout left on?): "
            "every figure about it will vary",
            stacklevel=3,
        )
    rows = first.float().sum(1)
    if bool((first >= 0).all()) and torch.allclose(rows, torch.ones_like(rows), atol=1e-4):
        warnings.warn(
            f"the outputs of {name} look like probabilities, not logits: remove the final "
            "softmax, or confidences and attacks will mislead",
            stacklevel=3,
        )
    return int(first.shape[1])


def class_names(classes: Any, n_outputs: int) -> tuple[tuple[str, ...], bool]:
    """K names for K outputs, and whether they are more than numbers.

    Raises:
        TypeError, ValueError: as `checks.class_names`.
    """
    count = checks.plain(classes)
    if count is None or (isinstance(count, int) and not isinstance(count, bool)):
        if count not in (None, n_outputs):
            raise ValueError(
                f"classes: expected {n_outputs} names, one an output of the module, got {classes!r}"
            )
        return tuple(str(k) for k in range(n_outputs)), False
    return checks.class_names(classes, n_outputs), True
