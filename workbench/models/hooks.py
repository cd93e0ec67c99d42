"""Layers as they run: hooks on a model that other threads may be asking meanwhile.

A layer that runs more than once a pass is read a call at a time: "act", "act#2", "act#3".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench import checks

if TYPE_CHECKING:
    from workbench.models.classifier import Classifier

Hook = Callable[[nn.Module, Any, Any], Any]
Before = Callable[[nn.Module, Any], Any]
PLAIN = (bool, int, float, str, type(None))
# What every module has: of these only what it holds is looked at, by itself.
TORCH = {*vars(nn.Module()), "_listed"}


@contextmanager
def heard(
    modules: Iterable[nn.Module], hook: Hook | None = None, *, before: Before | None = None
) -> Iterator[None]:
    """Call `hook(module, inputs, output)` when a module has run in this thread.

    As PyTorch's forward hooks: what it returns takes the place of the output, unless None.
    before: `before(module, inputs)` likewise, when it is about to run: its inputs as they were.
    They are removed at the end.

    Raises:
        ValueError: a module is compiled.
    """
    owner = get_ident()

    def mine(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: call(*args) if get_ident() == owner else None

    with _hooked(modules, hook and mine(hook), before and mine(before)):
        yield


@contextmanager
def outputs(
    model: Classifier, names: Sequence[str], read: Callable[[torch.Tensor], Any] = torch.clone
) -> Iterator[Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, Any]]]]:
    """A function from images to logits and what `read` makes of what each layer gave.

    names: from `model.layers()`. `read` must copy, since a later layer may work in place.

    Raises:
        ValueError: as `edited`.
    """
    given: dict[str, Any] = {}

    def keep(name: str) -> Callable[[torch.Tensor], None]:
        return lambda output: given.__setitem__(name, read(output))

    with edited(model, {name: keep(name) for name in names}) as run:

        def ask(x: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            given.clear()
            logits = run(x)
            return logits, {name: given[name] for name in names}

        yield ask


@contextmanager
def edited(
    model: Classifier, edits: Mapping[str, Callable[[torch.Tensor], torch.Tensor | None]]
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """A function from images to logits; `edits[name](output)` is called when a layer has run.

    What it returns takes the place of the output, unless None. Images are not checked.

    Raises:
        ValueError: an unknown layer, or one that is compiled, that does not run, that runs
            more or less often on some images, or whose output is not one row an image.
    """
    listing = model.listing()
    runs, usual = Counter[nn.Module](), listing.runs
    at: dict[tuple[nn.Module, int], list[str]] = {}
    modules: dict[nn.Module, str] = {}
    for name in edits:
        module, own, number = listing.places.get(name) or place(model, name)
        if not usual.get(own):
            raise ValueError(
                f"layer: {name} does not run when {model.card.name} is asked, or is compiled; "
                "model.layers() names those that can be looked at"
            )
        modules[module] = own
        at.setdefault((module, number), []).append(name)
    asker = rows = 0

    def hook(module: nn.Module, _: object, output: Any) -> Any:
        if get_ident() != asker:  # another thread asks the same model
            return None
        runs[module] += 1
        new = None
        for name in at.get((module, runs[module]), ()):
            check_rows(name, output if new is None else new, rows)
            changed = edits[name](output if new is None else new)
            new = new if changed is None else changed
        return new

    def ask(x: torch.Tensor) -> torch.Tensor:
        nonlocal asker, rows
        asker, rows = get_ident(), len(x)
        runs.clear()
        logits = model(x.to(model.device))
        for module, own in modules.items():
            if runs[module] != usual[own]:
                raise ValueError(
                    f"layer: {own} ran {runs[module]} times on these images and {usual[own]} "
                    "times on a grey one, so its calls cannot be told apart; take a layer that "
                    "always runs as often"
                )
        return logits

    with _hooked(modules, hook):
        yield ask


def place(model: Classifier, name: str) -> tuple[nn.Module, str, int]:
    """The module that a layer's name stands for, its own name, and which of its calls.

    Raises:
        ValueError: there is none; the nearest name is suggested.
    """
    modules = {key: m for key, m in model.body.named_modules(remove_duplicate=False) if key}
    base, mark, number = name.rpartition("#")
    numbered = name not in modules and bool(mark) and number.isdecimal() and base in modules
    base, call = (base, int(number)) if numbered else (name, 1)
    if base not in modules:
        raise checks.unknown(f"layer of {model.card.name}", name, modules)
    module = modules[base]
    own = next(key for key, other in modules.items() if other is module)
    if numbered or own != base:
        times = model.listing().runs.get(own, 0)
        if not 1 <= call <= times:
            raise ValueError(f"layer: {own} runs {times} times a pass, got {name!r}")
        if own != base and times > 1:
            raise ValueError(
                f"layer: {base} is {own} under another name, which runs {times} times a pass; "
                f"ask for {own!r} or {own + '#2'!r}"
            )
    return module, own, call


def check_rows(name: str, output: Any, n: int) -> None:
    """Check that a layer's output is a tensor of one row an image.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(output, torch.Tensor):
        raise ValueError(
            f"layer: {name} gives a {type(output).__name__}, not a tensor; model.layers() names "
            "those that can be looked at"
        )
    if output.ndim < 2 or len(output) != n:
        raise ValueError(
            f"layer: {name} gives {tuple(output.shape)} for {n} images, not a row for each; "
            "take a layer around it"
        )


def audible(body: nn.Module) -> dict[nn.Module, str]:
    """The modules inside `body` that hooks can be put on, with their names."""
    parts = [part for part in body.modules() if compiled(part)]
    hidden = {id(inner) for part in parts for inner in part.modules()}
    return {m: name for name, m in body.named_modules() if name and id(m) not in hidden}


def unheard(model: Classifier) -> str:
    """Why nothing can be said of a model's layers; empty if something can.

    Where only a part is compiled, its layers are left out of `model.layers()`.
    """
    parts = [part for part in model.body.modules() if compiled(part)]
    inside = {id(p) for part in parts for p in part.parameters()}
    if not parts or any(id(p) not in inside for p in model.body.parameters()):
        return ""
    return (
        f"model: {model.card.name} is compiled ({type(parts[0]).__name__}), which hides what its "
        "layers give; wrap the module as it was before torch.jit or torch.compile"
    )


def compiled(module: nn.Module) -> bool:
    """Whether a module was scripted, traced or compiled: then hooks inside it do not run."""
    jit = isinstance(module, torch.jit.ScriptModule)
    return jit or hasattr(module, "_orig_mod") or bool(getattr(module, "_compiled_call_impl", None))


def anatomy(model: nn.Module) -> list[Any]:
    """What decides which layers of a model run, to be compared: modules, attributes, weights."""
    seen: set[int] = set()
    parts: list[Any] = []
    for name, module in model.named_modules():
        own = {k: _plain(v, seen) for k, v in [*vars(module).items()] if k not in TORCH}
        tensors = [*module._parameters.values(), *module._buffers.values()]
        parts.append((name, id(module), own, [_version(t) for t in tensors if t is not None]))
    return parts


def _plain(value: Any, seen: set[int], depth: int = 3) -> Any:
    """A value to be compared with what it is later, also where it was changed in place."""
    if isinstance(value, PLAIN):
        return value
    known = id(value) in seen or depth == 0
    if known or isinstance(value, (nn.Module, torch.Tensor, type)):
        return id(value)
    seen.add(id(value))
    if isinstance(value, (tuple, list, set, frozenset)):
        return [_plain(part, seen, depth - 1) for part in value]
    items = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if not isinstance(items, dict):
        return id(value)
    return [(key, _plain(part, seen, depth - 1)) for key, part in [*items.items()]]


def _version(tensor: torch.Tensor) -> tuple[int, int]:
    return id(tensor), 0 if tensor.is_inference() else tensor._version


@contextmanager
def _hooked(
    modules: Iterable[nn.Module], hook: Hook | None, before: Before | None = None
) -> Iterator[None]:
    """Forward hooks on modules, removed at the end."""
    handles: list[Any] = []
    try:
        for module in modules:
            if compiled(module):
                raise ValueError(
                    f"model: {type(module).__name__} is compiled, which hides what its layers "
                    "give; wrap the module as it was before torch.jit or torch.compile"
                )
            handles += [module.register_forward_pre_hook(before)] if before else []
            handles += [module.register_forward_hook(hook)] if hook else []
        yield
    finally:
        for handle in handles:
            handle.remove()
