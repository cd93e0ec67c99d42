"""The structure of a module as plain values, so that a changed one can be kept and made again.

No code is stored and nothing is unpickled: a description names classes that are already loaded
here, with their plain attributes, and the shapes of their tensors.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.models.copies import COMMON

PLAIN = (bool, int, float, str, type(None))
OURS = ("torch.nn.", "workbench.")  # modules that are imported for a description; no others
FUNCTIONS = {"torch": torch, "torch.nn.functional": F}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def pack(value: Any, tensors: dict[str, torch.Tensor], where: str = "value") -> Any:
    """A value fit for JSON; its tensors go into `tensors`, by number.

    Raises:
        ValueError: something that is neither plain, nor a tensor, nor made of those.
    """
    if isinstance(value, torch.Tensor):
        tensors[key := f"#{len(tensors)}"] = value.detach()
        return {"tensor": key}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list):
        return [pack(item, tensors, where) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors, where) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(k, tensors), pack(v, tensors, where)] for k, v in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    for home, functions in FUNCTIONS.items():
        name = getattr(value, "__name__", "")
        if callable(value) and getattr(functions, name, None) is value:
            return {"function": [home, name]}
    raise ValueError(f"{where} holds a {type(value).__name__}, which cannot be kept in a file")


def unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value that `pack` was given."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in inside)
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in inside}
    if kind == "dtype":
        return getattr(torch, inside)
    return getattr(FUNCTIONS[inside[0]], inside[1])


def outline(module: nn.Module) -> list[Any]:
    """What two modules have in common that run alike: classes, plain attributes, shapes."""
    return [
        (
            name,
            type(part),
            {k: v for k, v in vars(part).items() if k not in COMMON and isinstance(v, PLAIN)},
            {k: t.shape for k, t in part.named_parameters(recurse=False)},
        )
        for name, part in module.named_modules()
    ]


def describe(module: nn.Module, tensors: dict[str, torch.Tensor]) -> Any:
    """A module as values fit for JSON. What is in no state dict goes into `tensors`.

    Raises:
        ValueError: a part of it cannot be described; says which, and what to do.
    """
    seen: dict[int, str] = {}
    return _describe(module, "", seen, tensors)


def _describe(part: nn.Module, at: str, seen: dict[int, str], tensors: dict) -> Any:
    if id(part) in seen:
        return {"same": seen[id(part)]}
    seen[id(part)] = at
    kind, where = type(part), f"module: {at or type(part).__name__}"
    path = f"{kind.__module__}:{kind.__qualname__}"
    if any(getattr(part, hooks, None) for hooks in HOOKS):
        raise ValueError(f"{where} has hooks, which cannot be kept in a file; remove them first")
    try:
        found = _class(path)
    except ValueError:
        found = None
    if found is not kind:
        raise ValueError(
            f"{where} is of the class {kind.__qualname__}, which cannot be found by its name "
            "again; define it at the top of a module or of the notebook, and undo "
            "parametrisations (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    own = {k: v for k, v in vars(part).items() if k not in COMMON}
    persistent = {k: k not in part._non_persistent_buffers_set for k in part._buffers}
    return {
        "class": path,
        "attributes": {k: pack(v, tensors, f"{where}.{k}") for k, v in own.items()},
        "parameters": {k: _tensor(t, f"{at}.{k}", seen) for k, t in part._parameters.items()},
        "buffers": {
            k: _tensor(t, f"{at}.{k}", seen) if persistent[k] else {"value": pack(t, tensors)}
            for k, t in part._buffers.items()
        },
        "children": {
            k: child and _describe(child, f"{at}.{k}".lstrip("."), seen, tensors)
            for k, child in part._modules.items()
        },
    }


def _tensor(tensor: torch.Tensor | None, at: str, seen: dict[int, str]) -> Any:
    if tensor is None:
        return None
    if id(tensor) in seen:  # tied to another
        return {"same": seen[id(tensor)]}
    seen[id(tensor)] = at.lstrip(".")
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def build(description: Any, tensors: dict[str, torch.Tensor], device: str = "meta") -> nn.Module:
    """The module that `describe` was given, its weights without values.

    Raises:
        ValueError: a class that is not loaded here, or a description that is damaged.
    """
    try:
        with torch.device(device):
            return _build(description, "", {}, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its description is damaged ({error!r})") from None


def _build(about: Any, at: str, made: dict[str, Any], tensors: dict) -> nn.Module:
    if "same" in about:
        return made[about["same"]]
    kind = _class(about["class"])
    part = kind.__new__(kind)
    nn.Module.__init__(part)
    made[at] = part
    vars(part).update({k: unpack(v, tensors) for k, v in about["attributes"].items()})
    for name, facts in about["parameters"].items():
        empty = facts and _empty(facts, f"{at}.{name}", made, nn.Parameter)
        part.register_parameter(name, empty)
    for name, facts in about["buffers"].items():
        kept = bool(facts) and "value" in facts
        value = unpack(facts["value"], tensors) if kept else None
        buffer = value if kept else facts and _empty(facts, f"{at}.{name}", made, lambda t: t)
        part.register_buffer(name, buffer, persistent=not kept)
    for name, child in about["children"].items():
        inner = f"{at}.{name}".lstrip(".")
        part._modules[name] = child and _build(child, inner, made, tensors)
    return part


def _empty(facts: dict[str, Any], at: str, made: dict[str, Any], kind: Any) -> Any:
    if "same" in facts:
        return made[facts["same"]]
    dtype = getattr(torch, facts["dtype"])
    made[at.lstrip(".")] = value = kind(torch.empty(facts["shape"], dtype=dtype))
    return value


def _class(path: str) -> type[nn.Module]:
    """A class of modules by its name. Only what is loaded already, torch's and ours are looked at.

    Raises:
        ValueError: it is not there, or no module.
    """
    home, _, name = path.partition(":")
    if home.startswith(OURS):
        __import__(home)
    found: Any = sys.modules.get(home)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        where = "in this notebook" if home == "__main__" else f"by importing {home}"
        raise ValueError(f"its class {name} is not known here; define it {where}, then load again")
    return found
