"""Plain weights, tensors only: what is in a file, and how it goes into a module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench import checks
from workbench.models import weights_files
from workbench.models.weights_files import HOW_TO_SAVE

PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile
# A counter that only training uses; files from before torch 0.4.1 do not have it.
OPTIONAL = "num_batches_tracked"
# Of the keys of a checkpoint, those that hold tensors which are not the weights of a model.
TRAINING = ("optim", "sched", "scaler", "rng", "callback", "loops", "hyper", "args", "config")
DEEPEST = 4

Weights = Mapping[str, Any]


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights in a file, by name, on the CPU; nothing in the file is ever run.

    path: a file, a folder, an index of several files; behind a `#` the key of one of several
    models (`run.pth#generator`), or the prefix of some of the names (`run.ckpt#backbone`).
    A checkpoint that holds one model beside epoch, optimiser and the like is unwrapped, and a
    prefix `module.` or `_orig_mod.` that all names share is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a damaged one, one that holds several models or
            anything else than tensors, or a tensor with NaN or infinity; each by name.
    """
    file, found = models_of(path)
    if len(found) > 1:
        raise several(file, found)
    ((_, weights),) = found.items()
    return checked(file, weights)


def load_into(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a file into `module`; on any error the module is as it was.

    path: as for `read`. Of several models in it, the only one that fits is taken. A prefix
    that makes the names fit (`model.`, `backbone.`) is dropped or added.

    Raises:
        FileNotFoundError, ValueError: as `read` says.
        ValueError: names or shapes that do not fit the module; the first five of each.
    """
    file, found = models_of(path)
    own = without_prefix(module.state_dict(keep_vars=True))
    own = {name: tensor for name, tensor in own.items() if isinstance(tensor, torch.Tensor)}
    aligned = {key: align(weights, own, file) for key, weights in found.items()}
    reasons = {key: misfit(weights, own) for key, weights in aligned.items()}
    fit = [key for key, reason in reasons.items() if not reason]
    if len(found) > 1 and len(fit) != 1:
        raise several(file, found, fit)
    key = fit[0] if fit else next(iter(found))
    weights = checked(file, aligned[key])
    if not fit:
        raise ValueError(f"{file} does not fit {type(module).__name__}: {reasons[key]}")
    converted = {name: tensor.to(own[name]) for name, tensor in weights.items()}
    checked(file, converted)  # float64 may overflow in float32
    with torch.no_grad():
        for name, tensor in converted.items():
            own[name].copy_(tensor)


def models_of(path: str | Path) -> tuple[Path, dict[str, Weights]]:
    """The file of `path`, and the models in it by their keys; that of the key in `path` alone.

    Raises:
        FileNotFoundError, ValueError: as `read`, but for the tensors themselves.
    """
    file, key = Path(path).expanduser(), ""
    if not file.exists() and "#" in str(path):
        name, _, key = str(path).rpartition("#")
        file = Path(name).expanduser()
    content = weights_files.content(file)
    found = models_in(content)
    if not found:
        got = type(content).__name__
        keys = (
            f" with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, dict) else ""
        )
        raise ValueError(f"{file}: expected named tensors, got {got}{keys}; {HOW_TO_SAVE}")
    found = {name: without_prefix(weights) for name, weights in found.items()}
    if not key or key in found:
        return file, {key: found[key]} if key else found
    parts: dict[str, Weights] = {
        name: {k.removeprefix(f"{key}."): w for k, w in weights.items() if k.startswith(f"{key}.")}
        for name, weights in found.items()
    }
    parts = {name: part for name, part in parts.items() if part}
    if not parts:
        inside = {k.split(".")[0] for weights in found.values() for k in weights}
        raise checks.unknown(f"model in {file}", key, [*filter(None, found), *sorted(inside)])
    return file, parts


def models_in(content: Any, path: tuple[str, ...] = ()) -> dict[str, Weights]:
    """The state dicts in a checkpoint, by the keys that lead to them, joined by points."""
    if not isinstance(content, Mapping) or len(path) > DEEPEST:
        return {}
    tensors = [value for value in content.values() if isinstance(value, torch.Tensor)]
    weights = any(t.ndim for t in tensors) and all(isinstance(key, str) for key in content)
    found: dict[str, Weights] = {}
    if not weights or len(tensors) < len(content):
        for key, value in content.items():
            if isinstance(key, str) and not any(word in key.lower() for word in TRAINING):
                found |= models_in(value, (*path, key))
    return found or ({".".join(path): content} if weights else {})


def several(file: Path, found: Iterable[str], fit: Iterable[str] = ()) -> ValueError:
    """The error for a file with several models."""
    keys = list(found)
    fitting = f" (those that fit: {', '.join(fit) or 'none'})" if fit else ""
    return ValueError(
        f"{file} holds several models: {', '.join(keys)}{fitting}; say which one behind a #, as in "
        f"{file.name}#{keys[0]}"
    )


def align(weights: Weights, own: Weights, file: Path) -> dict[str, Any]:
    """The weights by the names that a module has for them, where a prefix makes the difference.

    Raises:
        ValueError: several prefixes do.
    """
    needed = [name for name in own if name.split(".")[-1] != OPTIONAL]
    if not needed or all(name in weights for name in needed):
        return dict(weights)
    ends = [k.removesuffix(needed[0]) for k in weights if k.endswith(f".{needed[0]}")]
    ends = [end for end in ends if all(end + name in weights for name in needed)]
    if len(ends) > 1:  # every part that has a weight and a bias, say
        ends = [end for end in ends if all(shape(weights[end + k]) == own[k].shape for k in needed)]
    if len(ends) > 1:
        raise several(file, [end.rstrip(".") for end in ends])
    if ends:
        fit = {name: weights[ends[0] + name] for name in own if ends[0] + name in weights}
        if len(fit) < len(weights):
            others = [k for k in weights if not k.startswith(ends[0])]
            warnings.warn(
                f"{file}: the weights under {ends[0]!r} fit; passed over: {', '.join(others[:5])}"
                + (f" and {len(others) - 5} more" if others[5:] else ""),
                stacklevel=3,
            )
        return fit
    first = next(iter(weights))
    for start in [name.removesuffix(first) for name in own if name.endswith(f".{first}")]:
        if {start + name for name in weights} >= set(needed):
            return {start + name: weight for name, weight in weights.items()}
    return dict(weights)


def shape(value: Any) -> Any:
    """The shape of a tensor; None of anything else."""
    return getattr(value, "shape", None)


def misfit(weights: Weights, own: Weights) -> str:
    """How weights do not fit a module's own; empty where they do."""
    missing = [k for k in own if k not in weights and k.split(".")[-1] != OPTIONAL]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f"{k} {tuple(weights[k].shape)} in the file, {tuple(own[k].shape)} in the module"
        for k in own.keys() & weights.keys()
        if shape(weights[k]) != own[k].shape
    ]
    complaints = {"missing": missing, "unexpected": unexpected, "shapes": sorted(shapes)}
    return "; ".join(
        f"{kind}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
        for kind, names in complaints.items()
        if names
    )


def checked(file: Path, weights: Weights) -> dict[str, torch.Tensor]:
    """The weights, of which each is an ordinary tensor of finite numbers.

    Raises:
        ValueError: one is not.
    """
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            got = f"{type(tensor).__name__} under {name!r}"
            raise ValueError(f"{file}: expected tensors only, got {got}; {HOW_TO_SAVE}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"{file}: tensor {name!r} is sparse, quantised or without values")
        if tensor.is_floating_point() and not bool(tensor.double().isfinite().all()):
            raise ValueError(f"{file}: tensor {name!r} holds NaN or infinity")
    return {name: tensor.detach() for name, tensor in weights.items()}


def without_prefix(weights: Weights) -> dict[str, Any]:
    """The same weights, without a prefix that all their names share."""
    names = dict(weights)
    for _ in PREFIXES:  # either may be inside the other
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names
