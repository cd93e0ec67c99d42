"""What decides the result of an attack, as a hash; so that nothing kept is ever stale.

One's own code counts by what it says: the code of functions and classes, the values that they
hold, and whatever they name, as far as it goes. Installed packages count by their version, the
workbench by its source. What cannot be followed is refused, and then nothing is kept.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import cache, cached_property, partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

import workbench
from workbench.attacks import Attack

# Names by which code asks for more than it is given: files, clocks, the system's randomness.
OUTSIDE = (
    *("open", "input", "eval", "exec", "globals", "__import__", "import_module", "reload", "load"),
    *("read", "read_text", "read_bytes", "read_csv", "loadtxt", "genfromtxt", "fromfile"),
    *("environ", "getenv", "urlopen", "urlretrieve", "urandom", "SystemRandom", "default_rng"),
    *("RandomState", "time", "now", "perf_counter", "monotonic", "process_time"),
)
USED = ("torch", "numpy", "scipy", "scikit-image")  # by the shipped attacks
PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range, slice)
TORCH = (torch.dtype, torch.device, torch.memory_format, torch.layout)
CONTAINERS = (dict, tuple, list, set, frozenset, Enum)
CALLED = (FunctionType, classmethod, staticmethod, property)
ALIKE = (
    *(BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, np.ufunc),
    *(MemberDescriptorType, GetSetDescriptorType),
)


class Undecided(Exception):
    """Something has a part in the result that cannot be followed."""


class Ordinary:
    """All that an instance has is in its `__dict__`, as with most of Python's classes."""


def key(*values: Any) -> str:
    """A hash of values and of everything that decides what they do, 64 hex digits.

    Raises:
        Undecided: saying what cannot be followed.
    """
    walk = Walk()
    try:
        walk.add((sys.version, [version(name) for name in USED], LOADED, source_hash(), values))
    except Undecided:
        raise
    except Exception as error:  # whatever something foreign raises when it is looked at
        raise Undecided(f"it cannot be followed ({type(error).__name__}: {error})") from None
    return walk.digest.hexdigest()


def source_hash() -> str:
    """A hash of the workbench's own files as they are now."""
    digest = hashlib.sha256(workbench.__version__.encode())
    folder = Path(workbench.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


LOADED = source_hash()  # a file that is edited without being loaded again is another key


@cache
def release(package: str) -> str | None:
    """The version of an installed package or of Python's own; None for one's own code."""
    if package in sys.stdlib_module_names:
        return ""  # of which every key has the version
    if package == "workbench":
        return workbench.__version__
    if package in ("", "__main__") or not (spec := find_spec(package)):
        return None
    places = [Path(p).parts for p in (spec.origin or "", *(spec.submodule_search_locations or ()))]
    if not any({"site-packages", "dist-packages"}.intersection(parts) for parts in places):
        return None
    names = packages_distributions().get(package, [])
    return " ".join(version(name) for name in sorted(set(names))) or None


def installed(module: str) -> str | None:
    """The version behind a module's name; None for one's own code."""
    return release(module.partition(".")[0])


def draws() -> tuple[Any, ...]:
    """Where the global generators stand: who draws from them is decided by them too."""
    numpy = repr(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy, random.getstate()


def replaced(method: FunctionType) -> bool:
    """Whether a method of an installed class is one's own, put there in place of another."""
    home = method.__globals__.get("__name__", "")
    return home in sys.modules and installed(home) is None


class Walk:
    """Goes through values, each once, and hashes what it meets."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}  # kept alive, so that no id is used twice

    def note(self, kind: str, text: str | bytes) -> None:
        """Hash one thing, so that no two sequences of things look the same."""
        data = text.encode() if isinstance(text, str) else text
        self.digest.update(f"{kind} {len(data)} ".encode() + data)

    def add(self, value: Any) -> None:
        """Hash a value and what it leads to."""
        kind = type(value)
        if kind in PLAIN or kind in TORCH:
            return self.note(kind.__name__, repr(value))
        if id(value) in self.seen:
            return self.note("again", str(self.seen[id(value)][0]))
        self.seen[id(value)] = (len(self.seen), value)
        self.note("kind", f"{kind.__module__}.{kind.__qualname__}")
        ways: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (torch.Tensor, self.tensor),
            ((np.ndarray, np.generic), self.array),
            (CodeType, self.note_code),
            (FunctionType, self.function),
            (ALIKE, self.named),
            (ModuleType, self.module),
            (type, self.kind),
        )
        for types, go in ways:
            if isinstance(value, types):
                return go(value)
        for part in self.parts(value):
            self.add(part)

    def parts(self, value: Any) -> Iterator[Any]:
        """What an object consists of.

        Raises:
            Undecided: it has something that Python does not show, such as a state.
        """
        kind = type(value)
        if isinstance(value, CONTAINERS) and installed(kind.__module__) is None:
            yield from (kind, getattr(value, "__dict__", None))
        if isinstance(value, dict):
            yield from (part for pair in value.items() for part in pair)
        elif isinstance(value, (tuple, list)):
            yield from (len(value), *value)
        elif isinstance(value, (set, frozenset)) and all(type(v) in PLAIN for v in value):
            yield from sorted(map(repr, value))
        elif isinstance(value, Enum):
            yield from (value.name, value.value)
        elif isinstance(value, Path):
            yield str(value)
        elif kind is partial:
            yield from (value.func, value.args, value.keywords)
        elif kind is MethodType:
            yield from (value.__func__, value.__self__)
        elif kind in (staticmethod, classmethod):
            yield value.__func__
        elif kind is property:
            yield from (value.fget, value.fset, value.fdel)
        elif kind.__module__ == "operator":  # itemgetter and its like
            yield value.__reduce__()
        elif kind is cached_property:
            yield value.func
        elif isinstance(value, BaseModel):
            yield from (kind, dict(value), value.__pydantic_private__)
            if isinstance(value, Attack):
                yield value.depends()
        elif kind.__basicsize__ == Ordinary.__basicsize__ and hasattr(value, "__dict__"):
            yield from (kind, vars(value))
        else:
            raise Undecided(f"it holds a {kind.__module__}.{kind.__qualname__}")

    def tensor(self, value: torch.Tensor) -> None:
        """The numbers of a tensor."""
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise Undecided("it holds a tensor without plain numbers")
        self.note("shape", f"{value.dtype} {tuple(value.shape)}")
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        self.note("tensor", flat.view(torch.uint8).numpy().tobytes())

    def array(self, value: np.ndarray | np.generic) -> None:
        """The numbers of an array."""
        if value.dtype.hasobject:
            raise Undecided("it holds an array of objects")
        self.note("array", f"{value.dtype.str} {value.dtype.descr} {value.shape}")
        self.note("values", value.tobytes())

    def named(self, value: Any) -> None:
        """A function written in C: by its name, unless it belongs to an object with a state."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, (type(None), type, ModuleType)):
            raise Undecided(f"it holds {value.__qualname__} of a {type(owner).__qualname__}")
        self.note("name", f"{getattr(owner, '__name__', '')} {value!r}".partition(" at 0x")[0])

    def module(self, value: ModuleType) -> None:
        """A module: by the version of its package."""
        if (found := installed(value.__name__)) is None:
            raise Undecided(f"it uses the module {value.__name__}, which may change")
        self.note("module", f"{value.__name__} {found}")

    def function(self, value: FunctionType) -> None:
        """A function: its code, its defaults, what it closes over, and the globals it names."""
        home = value.__globals__.get("__name__", "")
        found = installed(home)
        if found is not None:
            self.note("function", f"{home} {value.__code__.co_qualname} {found}")
            if "<locals>" not in value.__code__.co_qualname:  # what decorates another has cells
                return
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # empty
                self.add(cell.cell_contents)
        self.add((value.__defaults__, value.__kwdefaults__, vars(value)))
        if found is None:
            self.code(value.__code__, value.__globals__)

    def note_code(self, value: CodeType) -> None:
        """The code of a function within a function."""
        self.code(value, {})

    def code(self, code: CodeType, names: dict[str, Any]) -> None:
        """What code does, and the globals that it names."""
        outside = sorted(set(OUTSIDE) & set(code.co_names))
        if outside:
            raise Undecided(f"it asks for more than it is given ({', '.join(outside)})")
        self.note("code", code.co_code + code.co_exceptiontable)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self.add((counts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
        for const in code.co_consts:
            if isinstance(const, CodeType):
                self.code(const, names)
            else:
                self.add(const)
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in names:
                self.note("global", step.argval)
                self.add(names[step.argval])
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not hasattr(builtins, step.argval):
                self.note("missing", step.argval)
            elif step.opname == "IMPORT_NAME" and installed(step.argval or "?") is None:
                raise Undecided(f"it imports {step.argval or 'its own package'}, which may change")

    def kind(self, value: type) -> None:
        """A class: by the version of its package, or by all it has; and its bases."""
        found = installed(value.__module__)
        own = found is None or "<locals>" in value.__qualname__
        self.note("class", f"{value.__qualname__} {found}")
        self.add(value.__bases__)
        for name, part in sorted(vars(value).items()):
            theirs = own and (isinstance(part, CALLED) or not name.startswith(("__", "_abc_")))
            if theirs or (isinstance(part, FunctionType) and replaced(part)):
                self.note("attribute", name)
                self.add(part)
