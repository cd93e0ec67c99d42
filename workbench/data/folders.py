"""`folder:PATH`: your own pictures, one sub-folder a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench import checks
from workbench.data.dataset import ImageDataset

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif"}
MODES = {1: "L", 3: "RGB"}


def load(
    path: str, split: str, limit: int | None, size: int | None = None, channels: int = 3
) -> ImageDataset:
    """Pictures of a folder, `(N, channels, H, W)`, labelled by sub-folder.

    PATH/CLASS/*.png: PNG, JPEG, BMP and GIF (first frame); other and hidden files are
    passed over. All are test set. The order takes one picture of each class in turn, by
    file name, so that the first n have every class.

    size: height and width to stretch every picture to; may be left out where all have the
    same size. channels: 3 for colour, 1 for grey.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no such split, no classes, an empty class, pictures of different sizes
            without `size`, or a picture that is damaged or not 8-bit.
    """
    if channels not in MODES:
        raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels!r}")
    if size is not None:
        checks.positive("size", size)
    name = f"folder:{path}"
    if split != "test":
        raise ValueError(
            f"{name} has no {split!r} split, only 'test': give other pictures a folder of their own"
        )
    classes, files = _scan(path)
    pictures: list[np.ndarray] = []
    for file, _ in files[:limit]:
        picture = _read(file, MODES[channels], size)
        if pictures and picture.shape != pictures[0].shape:
            (_, h, w), (_, other_h, other_w) = pictures[0].shape, picture.shape
            raise ValueError(
                f"{name}: {files[0][0]} is {h}x{w} but {file} is {other_h}x{other_w} "
                f"(height x width); pass size={h}, say, to stretch all to one size"
            )
        pictures.append(picture)
    labels = [label for _, label in files[:limit]]
    return ImageDataset.from_arrays(np.stack(pictures), labels, classes, name=name, split=split)


def _scan(path: str) -> tuple[list[str], list[tuple[Path, int]]]:
    """The classes, and the pictures with their labels."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder:{path}: {root.absolute()} is not a folder")
    classes = sorted(p.name for p in root.glob("[!.]*") if p.is_dir())
    if not classes:
        raise ValueError(
            f"folder:{path}: no class folders in {root.absolute()}; expected one sub-folder a class"
        )
    turns = []
    for label, name in enumerate(classes):
        files = (root / name).glob("[!.]*")
        pictures = sorted(file for file in files if file.suffix.lower() in SUFFIXES)
        if not pictures:
            raise ValueError(
                f"folder:{path}: no pictures in class folder {name}; expected {name}/*.png, "
                "*.jpg, *.bmp or *.gif"
            )
        turns += [(turn, label, file) for turn, file in enumerate(pictures)]
    return classes, [(file, label) for _, label, file in sorted(turns)]


def _read(file: Path, mode: str, size: int | None) -> np.ndarray:
    """One picture, upright: bytes `(C, H, W)`."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError("more than 8 bits a channel; save it as 8-bit")
            upright = ImageOps.exif_transpose(picture).convert(mode)
    except Exception as error:  # Pillow raises a dozen types for a damaged file
        raise ValueError(f"{file} cannot be read as a picture: {error}") from None
    if size is not None:
        upright = upright.resize((size, size), Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(upright)).transpose(2, 0, 1)
