"""The notebooks of the suite: where they are, and copies of them in a folder of one's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import workbench
from workbench.files import write

START = "00_start_here.ipynb"
MASTERS = "[0-9][0-9]_*.ipynb"
FILES = (MASTERS, "README.md", "images/*")
RECORD = ".dnn-workbench.json"  # in a folder of copies: the sha256 of each as it was put there


def folder() -> Path:
    """The folder of the notebooks: the package's, else the checkout's, else ./notebooks.

    Raises:
        FileNotFoundError: none of them holds a notebook.
    """
    package = Path(workbench.__file__).resolve().parent
    places = [place / "notebooks" for place in (package, package.parent, Path.cwd())]
    for place in places:
        if any(place.glob(MASTERS)):
            return place
    raise FileNotFoundError(
        f"no notebooks: expected them in {' or '.join(map(str, places))}; "
        "install dnn-workbench again, or run this in a copy of the repository"
    )


def notebooks() -> list[Path]:
    """The notebooks, in order; raises a FileNotFoundError as `folder`."""
    return sorted(folder().glob(MASTERS))


def find(notebook: str | Path) -> Path:
    """The file that is meant: this path, or for a bare name that is not here, the suite's."""
    path = Path(notebook)
    if path.exists() or path.name != str(path):
        return path
    return next((master for master in notebooks() if master.name == path.name), path)


def put(target: str | Path, *, update: bool = False) -> dict[str, list[str]]:
    """Copy the notebooks, their plan and their pictures to a folder; nothing changed is lost.

    update: bring what is newer in the package; beside a file that was changed, as `NAME.new`.

    Returns:
        File names by what became of each: `new` or `same`; `changed`: kept as it is, and the
        package has nothing newer; `older`: kept, but `update` would bring a newer one;
        `replaced` by a newer one; `beside`: a newer one that was put beside.

    Raises:
        FileExistsError: `target` is a file.
        FileNotFoundError: no notebooks; see `folder`.
    """
    source, target = folder(), Path(target).absolute()
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"folder: {target} is a file; name a folder for the notebooks")
    record = target / RECORD
    try:
        before = dict(json.loads(record.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        before = {}  # then what differs counts as changed
    known = dict(before)  # sha256 of what was last put under each name
    done: dict[str, list[str]] = {}
    for path in sorted(path for pattern in FILES for path in source.glob(pattern)):
        name, content = path.relative_to(source).as_posix(), path.read_bytes()
        state = _put(target, name, content, known, update)
        if update and state == "older":
            newest, name = name, Path(name).with_suffix(f".new{path.suffix}").as_posix()
            if _put(target, name, content, known, update) != "older":
                known[newest], state = known[name], "beside"
        done.setdefault(state, []).append(name)
    if known != before:
        write(record, json.dumps(known, indent=1))
    return done


def _put(target: Path, name: str, content: bytes, known: dict[str, str], update: bool) -> str:
    """Put one file where that loses nothing, enter it in `known`; returns its state."""
    path, newest = target / name, hashlib.sha256(content).hexdigest()
    here = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    untouched = here == known.get(name)
    if here not in (None, newest):
        if known.get(name) == newest:
            return "changed"
        if not (update and untouched):
            return "older"
    known[name] = newest
    if here == newest:
        return "same"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)
    return "replaced" if here else "new"
