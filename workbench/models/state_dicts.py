"""Plain weights files: `.pt`, `.pth`, `.th`, `.bin` and `.safetensors`, tensors only."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.models import checkpoints

PICKLED = (".pt", ".pth", ".th", ".bin")
WRAPPERS = ("state_dict", "model")  # keys under which training scripts put the weights
PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile
# A counter that only training uses; files from before torch 0.4.1 do not have it.
OPTIONAL = "num_batches_tracked"
HOW_TO_SAVE = "save a plain state dict with torch.save(model.state_dict(), path)"


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights in a file, by name, on the CPU; nothing in the file is ever run.

    `{"state_dict": ...}` and `{"model": ...}` are unwrapped, and a prefix `module.` or
    `_orig_mod.` that all names share is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a damaged one, one that holds anything else than
            tensors, or a tensor with NaN or infinity; each by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix == ".safetensors":
        content: Any = checkpoints.read_tensors(path)
    elif path.suffix in PICKLED:
        content = read_pickled(path)
    else:
        raise ValueError(f"{path}: expected a file of weights (.pt, .pth, .th, .bin, .safetensors)")
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        got = type(content).__name__
        raise ValueError(f"{path}: expected named tensors, got {got}; {HOW_TO_SAVE}")
    for name, tensor in content.items():
        check_tensor(path, name, tensor)
    return {name: tensor.detach() for name, tensor in without_prefix(content).items()}


def load_into(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a file into `module`; on any error the module is as it was.

    Raises:
        FileNotFoundError, ValueError: as `read` says.
        ValueError: names or shapes that do not fit the module; the first five of each.
    """
    weights = read(path)
    own = without_prefix(module.state_dict(keep_vars=True))
    own = {name: tensor for name, tensor in own.items() if isinstance(tensor, torch.Tensor)}
    missing = [k for k in own if k not in weights and k.split(".")[-1] != OPTIONAL]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f"{k} {tuple(weights[k].shape)} in the file, {tuple(own[k].shape)} in the module"
        for k in own.keys() & weights.keys()
        if weights[k].shape != own[k].shape
    ]
    complaints = {"missing": missing, "unexpected": unexpected, "shapes": sorted(shapes)}
    if any(complaints.values()):
        said = "; ".join(
            f"{kind}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
            for kind, names in complaints.items()
            if names
        )
        raise ValueError(f"{path} does not fit {type(module).__name__}: {said}")
    converted = {name: tensor.to(own[name]) for name, tensor in weights.items()}
    for name, tensor in converted.items():  # float64 may overflow in float32
        check_tensor(Path(path), name, tensor)
    with torch.no_grad():
        for name, tensor in converted.items():
            own[name].copy_(tensor)


def read_pickled(path: Path) -> Any:
    """What `torch.save` wrote, by torch's weights-only reader."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {found[1]}" if found else "it is damaged or holds code"
        raise ValueError(
            f"{path} is refused: {reason}; nothing is unpickled here, so {HOW_TO_SAVE}"
        ) from error
    except Exception as error:  # torch raises a dozen kinds on damaged files
        # torch's message goes on to advise unsafe loading.
        said, *_ = f"{type(error).__name__}: {error}".split(". ")
        raise ValueError(f"{path} is truncated, corrupt or no file of weights ({said})") from error


def check_tensor(path: Path, name: object, tensor: object) -> None:
    """Refuse what is not an ordinary tensor of finite numbers."""
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        got = f"{type(tensor).__name__} under {name!r}"
        raise ValueError(f"{path}: expected tensors only, got {got}; {HOW_TO_SAVE}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError(f"{path}: tensor {name!r} is sparse, quantised or without values")
    if tensor.is_floating_point() and not bool(tensor.double().isfinite().all()):
        raise ValueError(f"{path}: tensor {name!r} holds NaN or infinity")


def without_prefix(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same weights, without a prefix that all their names share."""
    names = dict(weights)
    for _ in PREFIXES:  # either may be inside the other
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names
