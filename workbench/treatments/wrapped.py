"""Any function as a treatment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import ConfigDict
from torch import nn

from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.treatments.base import Change


class Wrapped(Change):
    """What `wrap` makes. It has no name by which it could be made again elsewhere."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    function: Callable[..., Any]
    name: str

    def code(self) -> str:
        """What the card of a treated model says of it."""
        return f"{self.name}()"

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """Call the function on the body; what it returns, if a module, takes its place."""
        changed = self.function(model.body)
        if isinstance(changed, nn.Module):
            model.body = changed
        elif changed is not None:
            raise TypeError(
                f"{self.name}: expected a module, or None where the one given was changed, "
                f"got {type(changed).__name__}"
            )
        yield 1, 1


def wrap(function: Callable[[nn.Module], nn.Module | None], *, name: str = "") -> Change:
    """Any function of a module as a treatment: of torch.ao, a library, one's own.

    It is given the body of a copy, which it changes or for which it returns another; what it
    raises is raised. name: the function's own if none is given.
    """
    own = getattr(function, "__name__", type(function).__name__)
    return Wrapped(function=function, name=name or own)
