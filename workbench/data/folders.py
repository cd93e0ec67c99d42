"""`folder:PATH`: your own pictures, one sub-folder a class, or all in one folder."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from workbench import checks
from workbench.data import arrays, pictures
from workbench.data.dataset import ImageDataset

MODES = {1: "L", 3: "RGB"}
FITS = ("stretch", "crop")
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "__pycache__"}  # systems leave it
SEVERAL = 3  # names of files that a message has
WHITE = "laid on white where transparent"
BESIDE = "beside the class folders, hence without a label"
DEEP = "sub-folders, taken as of their class folder (load that one, if they are the classes)"
OTHER = "passed over, not pictures"
HEIC = "passed over, HEIC (readable once pillow_heif.register_heif_opener() has been called)"
DAMAGED = "passed over, cannot be read"
EMPTY = "classes without a picture, which keep their number"
_Notes = dict[str, list[str]]


def load(
    path: str,
    split: str,
    limit: int | None,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    fit: str = "stretch",
) -> ImageDataset:
    """Pictures of a folder, `(N, channels, H, W)`, labelled by sub-folder.

    PATH/CLASS/*: names of classes that are all numbers are in their order, others in that of
    text; what lies deeper is of the same class. Pictures beside class folders, or in a folder
    without any, have label -1. Where the sub-folders are train and test (or val), these are
    the splits and theirs the classes; else all is test set. One picture of each class comes in
    turn, by file name (2 before 10), so that the first n have every class.

    A picture is known by its content and read as it looks, see `pictures.read`. One warning
    counts what is laid on white, what is passed over, by kind, and classes without a picture.

    size: height and width of all pictures, one number or (height, width); may be left out
    where all have the same. fit: "stretch" to that size, or "crop", which keeps the
    proportions and cuts what is over at both ends. channels: 3 for colour, 1 for grey.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no such split, no picture, or pictures of different sizes without `size`.
    """
    import torch

    if channels not in MODES:
        raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels!r}")
    checks.known("fit", fit, FITS)
    sides = None if size is None else _sides(size)
    name, notes = f"folder:{path}", defaultdict[str, list[str]](list)
    place, classes, loose = _layout(name, _root(path), split)
    queues = {k: _readable(place, c, MODES[channels], notes) for k, c in enumerate(classes)}
    if loose:
        queues[-1] = _readable(place, "", MODES[channels], notes)
    labels, chosen = [], list[Path]()
    images: list[np.ndarray] = []
    for label, file, picture in islice(_in_turn(queues), limit):
        labels.append(label)
        chosen.append(file)
        images.append(_pixels(picture, sides, fit))
        if images[-1].shape != images[0].shape:
            raise _different(name, chosen, images)
        if label < 0 and classes:
            notes[BESIDE].append(file.name)
    if not images:
        raise ValueError(
            f"{name}: no picture in {place.absolute()}; expected one sub-folder a class with "
            f"PNG, JPEG or other pictures, or pictures without classes; {_text(notes)}".rstrip("; ")
        )
    pixels = np.stack(images)
    if text := "; ".join(filter(None, (_text(notes), arrays.dark(pixels)))):
        warnings.warn(f"{name}: {text}", stacklevel=3)
    x = torch.from_numpy(pixels.astype(np.float32) / np.float32(255))
    named = not classes or not arrays.mere(classes)
    return ImageDataset(x, torch.tensor(labels), classes, name, split, named=named)


def _different(name: str, chosen: list[Path], images: list[np.ndarray]) -> ValueError:
    """The error for pictures of different sizes."""
    (_, h, w), (_, other_h, other_w) = images[0].shape, images[-1].shape
    return ValueError(
        f"{name}: {chosen[0]} is {h}x{w} but {chosen[-1]} is {other_h}x{other_w} (height x width); "
        f"pass size={h} or size=({h}, {w}), say, best the size that the model takes; all are "
        "stretched to it, or cut with fit='crop'"
    )


def files(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """The files of a folder, with `deep` of its sub-folders too, each folder by name.

    Hidden files and what systems leave behind are left out; a link is followed once.
    """
    yield from _files(folder, deep, {folder.resolve()})


def _files(folder: Path, deep: bool, visited: set[Path]) -> Iterator[Path]:
    try:
        inside = _visible(folder)
    except OSError:
        yield folder  # reading it raises again, where it is counted
        return
    for entry in inside:
        if entry.is_file() or (entry.is_symlink() and not entry.exists()):
            yield entry
        elif deep and entry.is_dir() and entry.resolve() not in visited:
            visited.add(entry.resolve())
            yield from _files(entry, deep, visited)


def _visible(folder: Path) -> list[Path]:
    shown = (p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in LITTER)
    return sorted(shown, key=lambda p: (_natural(p.name), p.name))


def _natural(name: str) -> list[Any]:
    """A key by which 2 comes before 10."""
    return [int(p) if k % 2 else p for k, p in enumerate(re.split(r"(\d+)", name))]


def _root(path: str) -> Path:
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        given = root.absolute() if path else "no path"
        raise FileNotFoundError(f"folder:{path}: expected a folder of pictures, got {given}")
    return root


def _layout(name: str, root: Path, split: str) -> tuple[Path, tuple[str, ...], bool]:
    """Where the pictures of a split are, the classes, and whether pictures lie beside them."""
    place, inside = root, _folders(root)
    parts = {
        kind: [p for known in names for p in inside if p.name.lower() == known]
        for kind, names in SPLITS.items()
    }
    both = [part for some in parts.values() for part in some]
    if both and len(both) == len(inside) and (len(both) > 1 or _folders(both[0])):
        if not parts[split]:
            raise ValueError(f"{name} has no {split!r} split, only {both[0].name}/ in {root}")
        place = parts[split][0]
        inside = [p for part in both for p in _folders(part)]
    elif split != "test":
        raise ValueError(
            f"{name} has no {split!r} split, only 'test': give other pictures a folder of their "
            "own, or put them into sub-folders train and test"
        )
    classes = arrays.in_order(p.name for p in inside)
    loose = any(_is_picture(file) for file in files(place, deep=False))
    if loose and not any(_is_picture(file) for c in classes for file in files(place / c)):
        classes = ()  # sub-folders of something else
    return place, classes, loose or not classes


def _folders(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.is_dir()]


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in pictures.SUFFIXES


def _in_turn(queues: dict[int, Iterator[Any]]) -> Iterator[tuple[int, Path, Any]]:
    """One of each queue, again and again, with the label."""
    while queues:
        for label in list(queues):
            if (found := next(queues[label], None)) is None:
                del queues[label]
            else:
                yield label, *found


def _readable(place: Path, class_name: str, mode: str, notes: _Notes) -> Iterator[tuple[Path, Any]]:
    """The pictures of a class, in sub-folders too; of no class, those in the folder itself."""
    folder, any_yet = place / class_name, False
    for file in files(folder, deep=bool(class_name)) if folder.is_dir() else ():
        name = file.relative_to(place).as_posix()
        try:
            picture, transparent = pictures.read(file, mode)
        except Exception as error:  # Pillow raises a dozen types for a damaged file
            _pass_over(file, name, error, notes)
            continue
        any_yet = True
        if transparent:
            notes[WHITE].append(name)
        deeper = file.parent.relative_to(place).as_posix()
        if file.parent != folder and notes[DEEP][-1:] != [deeper]:
            notes[DEEP].append(deeper)
        yield file, picture
    if class_name and not any_yet:
        notes[EMPTY].append(class_name)


def _pass_over(file: Path, name: str, error: Exception, notes: _Notes) -> None:
    from PIL import UnidentifiedImageError

    kind, reason = file.suffix.lower(), str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        if kind not in pictures.SUFFIXES:
            heic = kind in (".heic", ".heif")
            notes[HEIC if heic else OTHER].append(name if heic else kind or "no suffix")
            return
        reason = "an empty file" if not file.stat().st_size else "of no kind that Pillow reads"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    notes[DAMAGED].append(f"{name}: {reason.rstrip('.')}")


def _text(notes: _Notes) -> str:
    """What there is to say of a folder, each with a count and the first names or the kinds."""
    parts = []
    for what, names in notes.items():
        some = names[:SEVERAL] + ["…"] * (len(names) > SEVERAL)
        if what == OTHER:
            some = [f"{n} {kind}" for kind, n in Counter(names).most_common()]
        parts += [f"{what}: {len(names)} ({', '.join(some)})"] if names else []
    return "; ".join(parts)


def _sides(size: Any) -> tuple[int, int]:
    """Height and width."""
    sides = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(sides) != 2:
        raise ValueError(
            f"size: expected one number or (height, width), got {size!r}; of a model, "
            "model.input_shape[1:]"
        )
    height, width = (checks.positive("size", checks.plain(side)) for side in sides)
    return height, width


def _pixels(picture: Any, sides: tuple[int, int] | None, fit: str) -> np.ndarray:
    """Bytes `(C, H, W)`, at the size asked for; Pillow's bilinear is antialiased."""
    from PIL import Image, ImageOps

    if sides is not None:
        change = ImageOps.fit if fit == "crop" else Image.Image.resize
        picture = change(picture, sides[::-1], Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
