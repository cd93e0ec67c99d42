"""Errors that name the argument, the value given, and what was expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-6  # -1e-8 below zero is floating-point rounding, not an error


def unknown(kind: str, name: object, options: Iterable[str]) -> ValueError:
    """The error for a name that is not there: suggests the nearest, lists the rest."""
    names = list(options)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:20]) + f", … ({len(names)} in all)" * (len(names) > 20)
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {listed or 'none'}.")


def known(kind: str, name: object, options: Collection[str]) -> None:
    """Raise `unknown` where a name is none of the options."""
    if name not in options:
        raise unknown(kind, name, options)


def images(
    x: Tensor, input_shape: tuple[int, ...] | None = None, *, name: str = "images"
) -> Tensor:
    """Check `x` is float32 `(N, C, H, W)` in [0, 1] and return it.

    Rounding (at most 1e-6 outside) is clamped; anything else raises.

    Raises:
        TypeError: not a tensor, or not float32.
        ValueError: wrong shape, NaN, or values outside [0, 1].
    """
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype != torch.float32:
        advice = "divide by 255 and" if not x.is_floating_point() else "please"
        raise TypeError(f"{name}: expected float32 in [0, 1], got {x.dtype}; {advice} use .float()")
    if x.ndim != 4:
        raise ValueError(
            f"{name}: expected shape (N, C, H, W), got {tuple(x.shape)}; "
            "a single image needs a batch dimension: x[None]"
        )
    if input_shape is not None and tuple(x.shape[1:]) != tuple(input_shape):
        raise ValueError(
            f"{name}: expected images of shape {tuple(input_shape)}, got {tuple(x.shape[1:])}"
        )
    if x.numel() == 0:
        return x
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also true for NaN
        advice = "normalisation belongs inside the model (models.wrap(..., mean=, std=))"
        advice = "divide by 255" if low >= 0 and 1 < high <= 255 else advice
        got = f"[{low:.4g}, {high:.4g}]"
        raise ValueError(f"{name}: expected values in [0, 1], got {got}; {advice}")
    return x.clamp(0, 1) if low < 0 or high > 1 else x


def labels(
    y: Tensor, n_classes: int, n: int | None = None, *, name: str = "labels", unknown: bool = False
) -> None:
    """Check `y` is int64 `(N,)` with values in [0, n_classes), or -1 too where `unknown`.

    Raises:
        TypeError: not a tensor, or not int64.
        ValueError: wrong shape or length, or a label outside the classes.
    """
    import torch

    if not isinstance(y, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(y).__name__}")
    if y.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64, got {y.dtype}; use .long()")
    if y.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,), got {tuple(y.shape)}")
    if n is not None and len(y) != n:
        raise ValueError(f"{name}: expected {n} labels, one an image, got {len(y)}")
    if len(y) == 0:
        return
    low, high = int(y.min()), int(y.max())
    if low < -int(unknown) or high >= n_classes:
        expected = f"0..{n_classes - 1}" + ", or -1 where the class is not known" * unknown
        raise ValueError(f"{name}: expected values in {expected}, got {low}..{high}")


def class_names(classes: Any, n: int | None = None) -> tuple[str, ...]:
    """The names of classes by number.

    classes: names in order; or a mapping, from numbers to names (`id2label`) or from names
    to numbers (`class_to_idx`). n: how many there have to be, where that is known.

    Raises:
        TypeError: text, a set, or something else without an order.
        ValueError: another count than `n`, numbers other than 0 to K - 1, a name twice.
    """
    if isinstance(classes, (str, bytes, set, frozenset)) or not isinstance(classes, Iterable):
        why = "; a set has no order" if isinstance(classes, (set, frozenset)) else ""
        raise TypeError(f"classes: expected names in order, got {classes!r}{why}")
    names = by_number(classes) if isinstance(classes, Mapping) else list(classes)
    names = [name.decode() if isinstance(name, bytes) else str(plain(name)) for name in names]
    if n is not None and len(names) != n:
        some = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
        raise ValueError(
            f"classes: expected {n} names, one an output of the module, got {len(names)}: {some}"
        )
    for name, times in Counter(names).items():
        if times > 1:
            first, second = [k for k, other in enumerate(names) if other == name][:2]
            raise ValueError(
                f"classes: expected a name of its own for each class, got {name!r} for {first} "
                f"and for {second}; call them '{name} ({first})' and '{name} ({second})', say"
            )
    return tuple(names)


def by_number(classes: Mapping[Any, Any]) -> list[Any]:
    """The names of a mapping between names and numbers, whichever way it goes, by number."""
    pairs = [(plain(key), plain(value)) for key, value in classes.items()]
    if all(isinstance(k, str) and isinstance(v, Integral) for k, v in pairs):  # class_to_idx
        pairs = [(number, name) for name, number in pairs]
    try:
        numbered = {int(str(number)): name for number, name in pairs}
    except (TypeError, ValueError):
        numbered = {}
    if len(numbered) != len(pairs) or sorted(numbered) != list(range(len(pairs))):
        numbers = ", ".join(str(number) for number, _ in pairs[:12])
        raise ValueError(
            f"classes: expected the numbers 0 to {len(pairs) - 1}, each with one name, got "
            f"{numbers}{', …' if len(pairs) > 12 else ''}"
        )
    return [numbered[k] for k in range(len(numbered))]


def plain(value: Any) -> Any:
    """A single value of numpy or torch as Python's own; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Names, with its number behind each that occurs twice: for lists that are not one's own."""
    listed = list(names)
    counts = Counter(listed)
    return tuple(f"{n} ({k})" if counts[n] > 1 else n for k, n in enumerate(listed))


def positive(name: str, value: int, *, least: int = 1) -> int:
    """Check `value` is a whole number of at least `least` and return it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return value
