"""Every attack by name: our own, and those that installed packages offer."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from workbench import checks
from workbench.attacks.apgd import APGD, APGDT
from workbench.attacks.base import Attack
from workbench.attacks.black_box import FeatureGuided, RandomSearch, Transfer
from workbench.attacks.carlini import CW
from workbench.attacks.cascade import Cascade
from workbench.attacks.minimum import DDN, FMN, DeepFool
from workbench.attacks.pgd import BIM, FGSM, PGD
from workbench.attacks.square import Square
from workbench.attacks.topk import CWK, AdversarialDistillation, QuadAttacK
from workbench.attacks.transformations import Natural, Spatial

OWN: tuple[type[Attack], ...] = (
    *(FGSM, BIM, PGD, APGD, APGDT, Cascade),
    *(DeepFool, CW, DDN, FMN),
    *(Square, FeatureGuided, RandomSearch, Transfer, Spatial, Natural),
    *(QuadAttacK, CWK, AdversarialDistillation),
)
GROUP = "workbench.attacks"


@cache
def available() -> dict[str, type[Attack]]:
    """The attacks by name; packages add theirs by the entry-point group workbench.attacks.

    Raises:
        TypeError: an entry point that is no attack.
    """
    found = {kind.__name__: kind for kind in OWN}
    for entry in entry_points(group=GROUP):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, Attack)):
            raise TypeError(f"entry point {entry.name!r} of {entry.value}: expected an Attack")
        found[entry.name] = kind
    return found


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
