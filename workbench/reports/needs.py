"""The files that a run needs, found on any machine by name and by hash."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from workbench import data, models

STORE = "WORKBENCH_STORE"  # the address of a data folder served by HTTP
KINDS = ("file", "onnx", "state_dict", "folder")  # of names that are KIND:PATH


def labels(base: Path, name: str) -> list[str]:
    """The files that a name of a model or a data set stands for; none if it is neither.

    A label is a path in the data folder (models/mnist/cnn.safetensors, which may be shipped),
    or KIND:PATH as it stands, with a path relative to `base`.
    """
    if "|" in name:
        return [label for part in made_of(name) for label in labels(base, part)]
    kind, _, path = name.partition(":")
    if path and kind in KINDS:
        return [name] if os.path.exists(base / path) else []
    home = data.folder()
    if name in data.available():
        found = (path for path in (home / name).rglob("[!.]*") if path.is_file())
        return sorted(path.relative_to(home).as_posix() for path in found)
    label = f"models/{name}.safetensors"
    if ".." in name or not os.path.isfile(_path(base, label)):
        return []
    with suppress(ValueError):  # a damaged card, which the run itself reports
        return [label, *labels(base, models.card(name).dataset)]
    return [label]


def made_of(name: str) -> list[str]:
    """The models and data sets that a name with stages is made of; none of what is no such name."""
    from workbench import treatments

    try:
        base, chain = treatments.stages(name)
        dataset = models.card(base).dataset
    except (ValueError, FileNotFoundError):  # which the run itself reports
        return []
    return [base, *(other for stage in chain for other in stage.depends()), dataset]


def _path(base: Path, label: str) -> Path:
    """Where a label is on this machine; what is shipped wins, as in `models.load`."""
    kind, _, path = label.partition(":")
    if path and kind in KINDS:
        return base / path
    shipped = Path(models.__file__).with_name("weights") / label.removeprefix("models/")
    return shipped if os.path.isfile(shipped) else data.folder() / label


def digest(base: Path, label: str) -> str:
    """sha256 of a file, or of the names and hashes of the pictures in a folder."""
    path = _path(base, label)
    if path.is_dir():
        inside = sorted(data.files(path))
        return hashed([(str(p.relative_to(path)), digest(path, f"file:{p}")) for p in inside])
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def ensure(base: Path, label: str, sha256: str, store: str) -> None:
    """Have what a label names on this machine, by its hash; a process asks once.

    What is absent comes from the store, if there is one. A data set may stay absent, since
    `data.load` fetches it, by the hash that is published.
    """
    path = _path(base, label)
    if store and not path.exists() and ":" not in label:
        import pooch

        pooch.retrieve(f"{store}/{label}", f"sha256:{sha256}", path.name, path.parent)
    expected = f"expected {path} on {platform.node()} with sha256 {sha256[:12]}…, got"
    if path.exists() and (found := digest(base, label)) != sha256:
        raise ValueError(f"{expected} {found[:12]}…; replace it")
    if not path.exists() and label.split("/")[0] not in data.available():
        raise FileNotFoundError(f"{expected} no file; copy it there, or set {STORE}")


def hashed(content: Any) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
