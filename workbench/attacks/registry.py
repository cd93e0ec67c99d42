"""Every attack by name: our own, and those that installed packages offer."""

from __future__ import annotations

from functools import cache
from typing import Any

from workbench import attacks, registry
from workbench.attacks.base import Attack


@cache
def available() -> dict[str, type[Attack]]:
    """The attacks by name; packages add theirs by the entry-point group workbench.attacks.

    Raises:
        TypeError: an entry point that is no attack.
    """
    return registry.listed(attacks, attacks.TABLE, Attack)


def get(name: str, /, **parameters: Any) -> Attack:
    """An attack by name, or by its call as `Attack.code` writes it: `PGD(n_steps=100)`.

    Raises:
        ValueError: no such attack, or parameters out of bounds.
    """
    return registry.made("attack", available(), name, parameters)
