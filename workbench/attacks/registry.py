"""Every attack by name: our own, and those that installed packages offer."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from workbench import checks
from workbench.attacks.apgd import APGD, APGDT
from workbench.attacks.base import Attack
from workbench.attacks.black_box import FeatureGuided, RandomSearch, Spatial, Transfer
from workbench.attacks.carlini import CW
from workbench.attacks.cascade import Cascade
from workbench.attacks.minimum import DDN, FMN, DeepFool
from workbench.attacks.pgd import BIM, FGSM, PGD
from workbench.attacks.square import Square
from workbench.attacks.topk import CWK, AdversarialDistillation, QuadAttacK

OWN: tuple[type[Attack], ...] = (
    *(FGSM, BIM, PGD, APGD, APGDT, Cascade),
    *(DeepFool, CW, DDN, FMN),
    *(Square, FeatureGuided, RandomSearch, Transfer, Spatial),
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
    """An attack by name.

    Raises:
        ValueError: no such attack, or parameters out of bounds.
    """
    known = available()
    if name not in known:
        raise checks.unknown("attack", name, known)
    return known[name](**parameters)
