"""Every attack by name: our own, and those that installed packages offer."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import entry_points
from itertools import chain
from typing import Any, TypeGuard

from workbench import attacks, checks
from workbench.attacks.base import Attack

GROUP = "workbench.attacks"


@cache
def available() -> dict[str, type[Attack]]:
    """The attacks by name; packages add theirs by the entry-point group workbench.attacks.

    Raises:
        TypeError: an entry point that is no attack.
    """
    public = {name: getattr(attacks, name) for name in chain(*attacks.TABLE.values())}
    known = {name: kind for name, kind in public.items() if _is_attack(kind)}
    for entry in entry_points(group=GROUP):
        kind = entry.load()
        if not _is_attack(kind):
            raise TypeError(
                f"entry point {entry.name!r} of {entry.value}: expected an Attack with a title"
            )
        known[entry.name] = kind
    return known


def _is_attack(kind: object) -> TypeGuard[type[Attack]]:
    """Whether it is one to choose: what several attacks share has no title."""
    return isinstance(kind, type) and issubclass(kind, Attack) and hasattr(kind, "title")


def get(name: str, **parameters: Any) -> Attack:
    """An attack by name, or by its call as `Attack.code` writes it: `PGD(n_steps=100)`.

    Raises:
        ValueError: no such attack, or parameters out of bounds.
    """
    if "(" in name:
        name, written = parsed(name)
        parameters = {**written, **parameters}
    known = available()
    if name not in known:
        raise checks.unknown("attack", name, known)
    return known[name](**parameters)


def parsed(code: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a call with literal values; nothing is run.

    Raises:
        ValueError: not such a call.
    """
    try:
        call = ast.parse(code, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            return call.func.id, values
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"attack: expected a name, or a call such as PGD(n_steps=100), got {code!r}")
