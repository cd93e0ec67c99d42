"""What is in a file of weights, read without running anything in it."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from workbench.models import checkpoints

PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar", ".pkl")
SUFFIXES = (*PICKLED, ".safetensors")
INDEX = ".index.json"  # names the file of each tensor, where they are spread over several
USUAL = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin")
HOW_TO_SAVE = "save a plain state dict with torch.save(model.state_dict(), path)"
# What training scripts leave beside weights; see `Inert`.
HARMLESS = ("numpy.", "argparse.", "types.", "pathlib.", "datetime.", "typing.", "omegaconf.")


class Inert:
    """Stands for an object of a checkpoint that is no tensor: nothing of it is kept or run."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Whatever it is made of."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def content(path: Path) -> Any:
    """What a file of weights holds, or a folder or an index (`….index.json`) of such files.

    Raises:
        FileNotFoundError: no such file, or a part of it is missing.
        ValueError: another kind of file, a damaged one, or one that holds code.
    """
    if path.is_dir():
        path = usual(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.name.endswith(INDEX):
        return sharded(path)
    if path.suffix == ".safetensors":
        return checkpoints.read_tensors(path)
    if path.suffix in PICKLED:
        return read_pickled(path)
    expected = ", ".join(SUFFIXES)
    raise ValueError(f"{path}: expected a file of weights ({expected})")


def usual(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        ValueError: there is none, or several that are not of one index.
    """
    found = [folder / name for name in USUAL if (folder / name).is_file()]
    found = found or sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    if len(found) == 1 or (found and found[0].name in USUAL):
        return found[0]
    names = ", ".join(path.name for path in found[:5]) or "none"
    raise ValueError(f"{folder}: expected one file of weights in it, got {names}; name the file")


def sharded(index: Path) -> dict[str, Any]:
    """The tensors of the files that an index names.

    Raises:
        FileNotFoundError: one of these is missing.
        ValueError: a damaged index, or one that names files elsewhere.
    """
    try:
        files = {str(k): str(v) for k, v in json.loads(index.read_text())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} is no index of weights ({type(error).__name__}: {error})"
        ) from None
    weights: dict[str, Any] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not file.endswith(SUFFIXES):
            raise ValueError(f"{index} names {file!r}, which is no file of weights beside it")
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index} names {file}, which is not beside it; fetch it too")
        part = content(index.parent / file)
        weights |= {name: part[name] for name in files if files[name] == file and name in part}
    if absent := [name for name in files if name not in weights]:
        raise ValueError(f"{index}: {absent[0]} is not in {files[absent[0]]}")
    return weights


def read_pickled(path: Path) -> Any:
    """What `torch.save` wrote, by torch's weights-only reader; harmless objects are `Inert`."""
    inert: dict[str, type[Inert]] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(inert.values())):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            if found and found[1].startswith(HARMLESS) and found[1] not in inert:
                module, _, name = found[1].rpartition(".")
                # torch goes by these names; nothing of them is imported.
                inert[found[1]] = type(name, (Inert,), {"__module__": module})
                continue
            reason = f"it holds {found[1]}" if found else "it is damaged or holds code"
            raise ValueError(
                f"{path} is refused: {reason}; nothing is unpickled here, so {HOW_TO_SAVE}"
            ) from error
        except Exception as error:  # torch raises a dozen kinds on damaged files
            # torch's message goes on to advise unsafe loading.
            reason, *_ = f"{type(error).__name__}: {error}".split(". ")
            raise ValueError(
                f"{path} is truncated, corrupt or no file of weights ({reason})"
            ) from error
