"""Which part of what a module returns is its logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

Path = tuple[Any, ...]
# Names of logits in the field's modules, the plainest first.
LOGITS = (
    *("logits", "logit", "out", "output", "outputs", "prediction", "predictions", "pred"),
    *("preds", "scores", "class_logits", "cls_logits", "pred_logits", "y_hat", "y"),
)
# What stands beside logits and has their shape at times.
OTHERS = ("feature", "embed", "hidden", "pool", "loss", "attention", "aux", "box", "mask", "proto")
DEEPEST = 3
HOW = (
    "wrap a module whose forward returns the logits alone, for example "
    "`def forward(self, x): return self.net(x)[0]`"
)


class Answer(nn.Module):
    """A module whose logits are a part of what it returns: the one at `path`."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        super().__init__()
        self.model, self.path = model, path
        self.train(model.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` -> `(N, K)`."""
        return self.taken(self.model(x), x)

    def taken(self, output: Any, x: torch.Tensor) -> torch.Tensor:
        """The logits of an output, in the type of the images; itself where it is just that."""
        for key in self.path:
            output = (
                output[key] if isinstance(output, (Mapping, tuple, list)) else vars(output)[key]
            )
        return (output if output.ndim == 2 else output.flatten(1)).to(x.dtype)


def parts(output: Any, path: Path = ()) -> Iterator[tuple[Path, torch.Tensor]]:
    """Every tensor in an output, at most three levels deep, with the keys that lead to it."""
    if isinstance(output, torch.Tensor):
        yield path, output
    elif len(path) < DEEPEST:
        items: Any = ()
        if isinstance(output, Mapping):  # those of transformers too
            items = output.items()
        elif isinstance(output, (tuple, list)):
            items = enumerate(output)
        elif dataclasses.is_dataclass(output) or not callable(output):
            items = getattr(output, "__dict__", {}).items()
        for key, value in items:
            yield from parts(value, (*path, key))


def logits_of(output: Any, n: int, expected: int | None, name: str) -> tuple[Path, str]:
    """Where the logits of n images are in an output, and a remark where that is not plain.

    expected: the number of classes, where it is known.

    Raises:
        ValueError: nothing in it has the shape of logits, or several things have.
    """
    found = dict(parts(output))
    fit = {path: t for path, t in found.items() if shaped(t, n)}
    plain = {path: t for path, t in fit.items() if not path or not said_of(path, OTHERS)}
    exact = {path: t for path, t in plain.items() if t.shape[1] == expected}
    choice = named(exact or plain)
    if choice is None:
        raise ValueError(
            f"module: expected logits of shape ({n}, K) for {n} images, got "
            f"{listed(output, found)}; {advice(found, fit, n)}"
        )
    shape, path = tuple(found[choice].shape), "".join(f"[{key!r}]" for key in choice)
    if choice:
        return choice, f"the logits of {name} are taken to be output{path}, of shape {shape}"
    if len(shape) > 2:
        return choice, f"{name} answers with {shape}, which is read as {shape[:2]}"
    return choice, ""


def shaped(tensor: torch.Tensor, n: int) -> bool:
    """Whether a tensor can be the logits of n images; `(N, K, 1, 1)` is as good as `(N, K)`."""
    shape = tensor.shape
    many = len(shape) > 1 and shape[0] == n and shape[1] > 1
    usual = tensor.is_floating_point() and tensor.layout == torch.strided
    return many and usual and all(side == 1 for side in shape[2:])


def said_of(path: Path, words: tuple[str, ...]) -> bool:
    """Whether a key of the path has one of the words in it."""
    return any(word in str(key).lower() for key in path for word in words)


def named(plain: dict[Path, torch.Tensor]) -> Path | None:
    """The only path, or the only one with the plainest name."""
    for name in LOGITS:
        same = [path for path in plain if path and str(path[-1]).lower() == name]
        if len(same) == 1:
            return same[0]
    return next(iter(plain)) if len(plain) == 1 else None


def listed(output: Any, found: dict[Path, torch.Tensor]) -> str:
    """An output in words."""
    kind = type(output).__name__
    if isinstance(output, torch.Tensor):
        return f"{tuple(output.shape)} of {output.dtype}"
    items = [
        "".join(f"[{key!r}]" for key in path) + f" {tuple(t.shape)}" for path, t in found.items()
    ]
    return f"{kind} with {', '.join(items[:8]) or 'no tensor'}" + (", …" if items[8:] else "")


def advice(found: dict[Path, torch.Tensor], fit: dict[Path, torch.Tensor], n: int) -> str:
    """What to do about an output without logits."""
    shapes = [tuple(t.shape) for t in found.values()]
    keys = {str(path[-1]) for path in found if path}
    if keys & {"boxes", "pred_boxes", "masks", "pred_masks"}:
        return f"this looks like a detector, which has no class for an image as a whole; {HOW}"
    if fit and all(path and said_of(path, OTHERS) for path in fit):
        return f"by their names these are features, so the head is missing; else {HOW}"
    if fit:
        return f"which of them the logits are is not clear: {HOW}"
    if not any(t.is_floating_point() for t in found.values()) and shapes:
        return f"as floating-point numbers, before any argmax or rounding; {HOW}"
    if shapes and all(shape in ((n,), (n, 1)) for shape in shapes):
        return (
            "for 2 classes or more; turn a single score s into two logits (0, s): "
            "torch.cat([0 * s, s], 1)"
        )
    if any(len(shape) == 4 and shape[0] == n for shape in shapes):
        return (
            "a class for each pixel, or a map of features: make one answer of it, for example "
            "its mean over the pixels, output.mean((2, 3))"
        )
    return HOW
