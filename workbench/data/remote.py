"""The data folder, and what is downloaded into it: `mnist`, `fashion_mnist`, `kmnist`, `cifar10`.

Files already there are used as they are, `.gz` or plain, and never downloaded again; a
folder that cannot be written to will do when they are all there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from workbench.data import readers
from workbench.data.dataset import ImageDataset

VARIABLE = "WORKBENCH_DATA"
TIMEOUT = (5, 30)  # seconds to connect and to read: an offline machine is told so at once

CLOTHES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
OBJECTS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

URLS = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    "kmnist": ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
}
MEANWHILE = {
    **{"mnist": "mnist-sample", "fashion_mnist": "fashion-sample"},
    **{"kmnist": "mnist-sample", "cifar10": "shapes"},
}
IDX_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
IDX_SHA256 = {  # of the .gz files: in the order of IDX_FILES
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion_mnist": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "kmnist": (
        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    ),
}
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")


def folder() -> Path:
    """The data folder: `WORKBENCH_DATA` where it is set, else this system's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("dnn-workbench"))


def load_idx(name: str, classes: tuple[str, ...], split: str, limit: int | None) -> ImageDataset:
    """MNIST or one of its like: images `(N, 1, 28, 28)` and labels.

    Raises:
        FileNotFoundError: not in the data folder, and not to be had.
        ValueError: a damaged file, or images and labels that do not belong together.
    """
    found = _ensure(name, split)
    published = dict(zip(IDX_FILES, IDX_SHA256[name], strict=True))
    for file, path in found.items():
        zipped = path.suffix == ".gz"  # the hash of a plain file is not known
        if zipped and hashlib.sha256(path.read_bytes()).hexdigest() != published[file]:
            warnings.warn(f"{path} is not the published file (another sha256)", stacklevel=3)
    images, labels = (readers.read_idx(path) for path in found.values())
    highest = labels.max(initial=0)
    if images.shape != (labels.size, 28, 28) or highest >= len(classes):
        raise ValueError(
            f"{' and '.join(map(str, found.values()))}: expected N images of 28x28 and N labels "
            f"in 0..{len(classes) - 1}, got shapes {images.shape} and {labels.shape}, labels up "
            f"to {highest}; delete both to fetch them again"
        )
    return ImageDataset.from_arrays(images[:limit], labels[:limit], classes, name=name, split=split)


def load_cifar10(split: str, limit: int | None) -> ImageDataset:
    """CIFAR-10 from its binary batches: images `(N, 3, 32, 32)` and labels.

    Training batches that are already there are used even if some are missing, with a
    warning.

    Raises:
        FileNotFoundError: not in the data folder, and not to be had.
        ValueError: a damaged batch.
    """
    found = _ensure("cifar10", split)
    if missing := [file for file in _files("cifar10", split) if file not in found]:
        partial = f"the training set in {_home('cifar10')} is partial: {', '.join(missing)}"
        warnings.warn(f"cifar10: {partial} not there", stacklevel=3)
    batches = [readers.read_cifar10(path, limit) for path in found.values()]
    images, labels = (np.concatenate(arrays)[:limit] for arrays in zip(*batches, strict=True))
    return ImageDataset.from_arrays(images, labels, OBJECTS, name="cifar10", split=split)


def is_present(name: str, split: str) -> bool:
    """Whether the files of a split are in the data folder (some, for CIFAR-10's training)."""
    found = _find(name, split)
    return bool(found) if name == "cifar10" else len(found) == 2


def _files(name: str, split: str) -> tuple[str, ...]:
    files, n_train = (CIFAR_BATCHES, 5) if name == "cifar10" else (IDX_FILES, 2)
    return files[:n_train] if split == "train" else files[n_train:]


def _home(name: str) -> Path:
    """Where the files of a data set are."""
    return folder() / name / (CIFAR_FOLDER if name == "cifar10" else "")


def _find(name: str, split: str) -> dict[str, Path]:
    """Those files of a split that are in the data folder, plain or gzipped."""
    home = _home(name)
    return {
        file: path
        for file in _files(name, split)
        for path in (home / f"{file}.gz", home / file)
        if path.is_file()
    }


def _ensure(name: str, split: str) -> dict[str, Path]:
    """The files of a split, downloaded if need be, by one process at a time.

    Raises:
        FileNotFoundError: not to be had; says which, why, and what to do.
    """
    from filelock import FileLock

    if is_present(name, split):
        return _find(name, split)
    parent = folder() / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / ".lock"):
            if not is_present(name, split):  # else another process was faster
                _download(name, split)
    except OSError as error:
        archive = f" (or {CIFAR_ARCHIVE} into {parent})" if name == "cifar10" else ""
        raise FileNotFoundError(
            f"{name}: {', '.join(_files(name, split))} not in {_home(name)}, and not to be "
            f"downloaded ({error}). Put the files there yourself{archive}; the environment "
            f"variable {VARIABLE} names another data folder. Or use {MEANWHILE[name]!r} meanwhile, "
            "which needs no network"
        ) from None
    return _find(name, split)


def _download(name: str, split: str) -> None:
    """Fetch what is missing of a split."""
    import pooch

    home = _home(name)
    if name != "cifar10":
        for file in _files(name, split):
            if file not in _find(name, split):
                sha256 = IDX_SHA256[name][IDX_FILES.index(file)]
                _fetch([f"{base}{file}.gz" for base in URLS[name]], home / f"{file}.gz", sha256)
        return
    if home.exists():
        raise FileExistsError(f"remove {home}, which lacks them, to have it filled anew")
    with tempfile.TemporaryDirectory(dir=home.parent) as stage:
        urls, archive = [base + CIFAR_ARCHIVE for base in URLS[name]], home.parent / CIFAR_ARCHIVE
        _fetch(urls, archive, CIFAR_SHA256, pooch.Untar(extract_dir=stage))
        os.replace(Path(stage, CIFAR_FOLDER), home)  # all batches at once


def _fetch(urls: list[str], path: Path, sha256: str, processor: Callable | None = None) -> None:
    """Download to `path` from the first of `urls` that serves the right file, if need be.

    The file appears whole or not at all, and one with another hash is deleted.

    Raises:
        FileNotFoundError: no url served it; the message says why, one by one.
    """
    import pooch

    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 16)
    failures = [f"{path} has another sha256"] if path.exists() else []
    for url in urls:
        try:
            pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, processor, downloader)
            return
        except OSError as error:  # requests' errors are OSErrors too
            lost = any(word in type(error).__name__ for word in ("Connection", "Timeout", "SSL"))
            failures.append(f"{url}: {'no connection' if lost else error}")
        except ValueError:  # how pooch says that the hash is another, having deleted the file
            failures.append(f"{url} served a file with another sha256, which was deleted")
    raise FileNotFoundError("; ".join(failures))
