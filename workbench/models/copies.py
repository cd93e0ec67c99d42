"""Copies of modules, whose own are never touched."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

# What every module has, beside which its own attributes stand.
COMMON = frozenset(vars(nn.Module()))


def private_copy(module: nn.Module, *, share: bool) -> nn.Module:
    """A copy of `module` in eval mode, with its own weights or sharing them.

    Raises:
        ValueError: the module cannot be copied.
    """
    shared = itertools.chain(module.parameters(), module.buffers()) if share else ()
    twin = duplicate(module, shared)
    try:
        twin.eval()
    except NotImplementedError:  # what torch.export makes has but one mode
        for part in twin.modules():
            part.training = False
    for _, part in unregistered(twin):
        part.eval()
    return twin


def duplicate(module: nn.Module, shared: Iterable[torch.Tensor]) -> nn.Module:
    """A copy in the same modes that has the `shared` tensors in common with `module`.

    Raises:
        ValueError: the module cannot be copied.
    """
    memo = {id(tensor): tensor for tensor in shared}
    # Computed before each pass, as the weights of weight_norm or prune: torch copies only leaves.
    for _, value in attributes(module):
        if isinstance(value, torch.Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"module: {type(module).__name__} cannot be copied ({error}){culprit(module)}; keep "
            "locks, sessions and computed tensors out of the module's attributes"
        ) from error


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the modules in `module` keep in attributes of their own, and what is in lists there."""
    for name, part in module.named_modules():
        own = {} if isinstance(part, torch.jit.ScriptModule) else vars(part)
        for key, value in own.items():
            if key not in COMMON:
                for item in (value, *inside(value)):
                    yield f"{name}.{key}".lstrip("."), item


def inside(value: Any) -> Iterator[Any]:
    """What is in lists, tuples, sets and dictionaries."""
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield item
            yield from inside(item)


def unregistered(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules in plain attributes, which `eval`, `to` and `parameters` pass over."""
    known = set(module.modules())
    for name, value in attributes(module):
        if isinstance(value, nn.Module) and value not in known:
            known |= set(value.modules())
            yield name, value


def culprit(module: nn.Module) -> str:
    """The first attribute that cannot be copied, in words."""
    for name, value in attributes(module):
        try:
            copy.deepcopy(value)
        except Exception:
            return f" for its attribute {name!r}"
    return ""
