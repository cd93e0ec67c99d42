"""Methods by name: our own, from a package's table, and those that installed packages offer."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from itertools import chain
from types import ModuleType
from typing import Any, TypeVar

from workbench import checks

Kind = TypeVar("Kind")


def listed(
    package: ModuleType, table: Mapping[str, Sequence[str]], base: type[Kind]
) -> dict[str, type[Kind]]:
    """The subclasses of `base` with a title, by name: those that the table names, in its order.

    Installed packages add theirs by the entry-point group of the package's name.

    Raises:
        TypeError: an entry point that is none.
    """

    def chosen(kind: object) -> bool:  # what several methods share has no title
        return isinstance(kind, type) and issubclass(kind, base) and hasattr(kind, "title")

    public = {name: getattr(package, name) for name in chain(*table.values())}
    known = {name: kind for name, kind in public.items() if chosen(kind)}
    for entry in entry_points(group=package.__name__):
        kind = entry.load()
        if not chosen(kind):
            raise TypeError(
                f"entry point {entry.name!r} of {entry.value}: expected a subclass of "
                f"{base.__name__} with a title"
            )
        known[entry.name] = kind
    return known


def made(what: str, known: Mapping[str, type[Kind]], name: str, parameters: dict[str, Any]) -> Kind:
    """A method by name, or by its call as `Parameters.code` writes it: `PGD(n_steps=100)`.

    Raises:
        ValueError: no such method, or parameters out of bounds.
    """
    if "(" in name:
        name, written = parsed(what, name, example(known))
        parameters = {**written, **parameters}
    if name not in known:
        raise checks.unknown(what, name, known)
    return known[name](**parameters)


def example(known: Mapping[str, type[Any]]) -> str:
    """A call of the first method that has a parameter."""
    name, kind = next((n, k) for n, k in known.items() if k.model_fields)
    field, about = next(iter(kind.model_fields.items()))
    return f"{name}({field}={about.default!r})"


def parsed(what: str, code: str, example: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a call with literal values; nothing is run.

    Raises:
        ValueError: not such a call.
    """
    try:
        call = ast.parse(code.strip(), mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            return call.func.id, values
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"{what}: expected a name, or a call such as {example}, got {code!r}")
