"""`heard`: hooks on a model that other threads may be asking meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn


@contextmanager
def heard(
    modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], Any]
) -> Iterator[None]:
    """Call `hook(module, inputs, output)` when a module has run in this thread.

    As PyTorch's forward hooks: what it returns takes the place of the output, unless None.
    They are removed at the end.
    """
    owner = get_ident()

    def mine(module: nn.Module, inputs: Any, output: Any) -> Any:
        return hook(module, inputs, output) if get_ident() == owner else None

    handles = [module.register_forward_hook(mine) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
