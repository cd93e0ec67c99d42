"""Every treatment by name: our own, and those that installed packages offer."""

from __future__ import annotations

from functools import cache
from typing import Any

from workbench import registry, treatments
from workbench.treatments.base import Treatment


@cache
def available() -> dict[str, type[Treatment]]:
    """The treatments by name; packages add theirs by the entry-point group workbench.treatments.

    Raises:
        TypeError: an entry point that is no treatment.
    """
    return registry.listed(treatments, treatments.TABLE, Treatment)


def get(name: str, /, **parameters: Any) -> Treatment:
    """A treatment by name, or by its call as `Treatment.code` writes it: `Prune(share=0.5)`.

    Raises:
        ValueError: no such treatment, or parameters out of bounds.
    """
    return registry.made("treatment", available(), name, parameters)
