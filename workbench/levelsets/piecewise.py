"""A piecewise-linear network under given choices of its ReLUs and poolings: affine in its input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from workbench.levelsets.slices import Slice
from workbench.models import Classifier, heard, private_copy

ADVICE = "levelsets.plane shows a slice of any classifier, on a grid"
PROBES = 61  # a batch size that no other tensor of a network is likely to have


class Kink(NamedTuple):
    """A layer of n units, each of which chooses what to pass on.

    scores: `(K, N, n)`; a unit chooses 0 where all are negative, else the largest, from 1.
    passed: from the choices `(B, n)` to the output, for the N = S * B inputs in order.
    shape: of the output for one image.
    """

    scores: torch.Tensor
    passed: Callable[[torch.Tensor], torch.Tensor]
    shape: tuple[int, ...]


def leaky_relu(input: torch.Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Kink:
    """A unit chooses between 0, off, and 1, on."""

    def passed(choices: torch.Tensor) -> torch.Tensor:
        on = choices.bool().view(-1, *input.shape[1:])
        x = input.unflatten(0, (-1, len(on)))
        return torch.where(on, x, negative_slope * x).flatten(0, 1)

    return Kink(input.flatten(1)[None], passed, input.shape[1:])


def max_pool2d(
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Kink:
    """A unit chooses among the pixels of its window inside the image, row by row."""
    shape = F.max_pool2d(input, kernel_size, stride or None, padding, dilation, ceil_mode).shape[1:]
    size, step, pad, gap = map(_pair, (kernel_size, stride or kernel_size, padding, dilation))
    room = []  # left, right, top, bottom
    for axis in (1, 0):
        reach = (shape[1 + axis] - 1) * step[axis] + gap[axis] * (size[axis] - 1) + 1
        room += [pad[axis], reach - input.shape[2 + axis] - pad[axis]]
    x = input.flatten(2)
    pixels = torch.arange(x.shape[2]).double().view(1, 1, *input.shape[2:])
    windows = F.unfold(F.pad(pixels, room, value=torch.inf), size, gap, 0, step)[0].sort(0).values
    windows = torch.where(windows.isinf(), windows[0], windows).long()  # padding never wins
    if len(windows) == 1:  # two equal choices, of which the first wins
        windows = windows.repeat(2, 1)

    def passed(choices: torch.Tensor) -> torch.Tensor:
        place = windows.gather(0, choices.view(-1, windows.shape[1]))
        place = place.view(-1, x.shape[1], windows.shape[1])
        return x.gather(2, place.repeat(len(x) // len(place), 1, 1)).view(-1, *shape)

    first, *others = (x[..., window].flatten(1) for window in windows)
    scores = torch.stack([other - first for other in others])
    return Kink(scores, passed, shape)


KINKS: dict[str, Callable[..., Kink]] = {
    "relu": lambda input, inplace=False: leaky_relu(input, 0.0),
    "leaky_relu": leaky_relu,
    "max_pool2d": max_pool2d,
}


class Reached(Exception):
    """The pass came to a layer without known choices."""

    def __init__(self, kink: Kink) -> None:
        self.kink = kink


class Chosen(TorchFunctionMode):
    """A network whose kinks choose what is given: a copy in float64 on the CPU.

    Every torch function of its forward pass is seen, whether a module or a plain call makes
    it. Points are in the window of `plane` as a unit square. layers: the shape of each layer
    that chooses, by name, in the order they run. width: the most numbers that an image needs.

    Raises:
        ValueError: some function in it is neither affine nor one of `KINKS`.
    """

    def __init__(self, model: Classifier, plane: Slice) -> None:
        super().__init__()
        parts = {n: getattr(plane, n).to("cpu", torch.float64) for n in ("origin", "u", "v")}
        self.plane = dataclasses.replace(plane, **parts)
        left, right, bottom, top = plane.window
        self.corner = np.array([left, bottom], dtype=np.float64)
        self.sides = np.array([right, top]) - self.corner
        self.model = private_copy(model, share=False).to("cpu", torch.float64)
        self.path: list[str] = []
        self.names = {
            module: name or type(module).__name__
            for name, module in self.model.body.named_modules()  # type: ignore[union-attr]
        }
        for module, name in self.names.items():
            if isinstance(module, torch.jit.ScriptModule):
                raise ValueError(f"model: {name} is compiled, which hides what it does. {ADVICE}")
        self.layers: dict[str, tuple[int, ...]] = {}
        self.width = plane.origin.numel()
        self.draw = torch.Generator().manual_seed(0)
        # Near and far: a smooth function looks affine near by, a saturated one far away.
        spread = torch.logspace(-1, 2, PROBES, dtype=torch.float64)[:, None]
        drawn = torch.randn((PROBES, 2), generator=self.draw, dtype=torch.float32)
        points = spread * drawn
        self.basis = torch.linalg.qr(torch.cat([torch.ones_like(points[:, :1]), points], 1)).Q
        self.probing = True
        self.run(self.plane.images(points), [])
        self.probing = False

    def images(self, points: np.ndarray) -> torch.Tensor:
        """Images at points `(M, 2)`."""
        return self.plane.images(torch.from_numpy(self.corner + self.sides * points))

    def run(self, x: torch.Tensor, choices: Iterable[np.ndarray]) -> torch.Tensor:
        """Logits of images `(S * B, C, H, W)` under the choices `(B, n)` of each layer.

        Raises:
            Reached: there are more layers than choices.
        """
        self.choices, self.calls = [torch.from_numpy(c).long() for c in choices], 0
        self.rows = len(x)
        self.path.clear()

        def enter(module: nn.Module, _: object) -> None:
            self.path.append(self.names[module])

        def leave(*_: object) -> None:
            self.path.pop()

        with torch.no_grad(), heard(self.names, leave, before=enter), self:
            return self.model(x)

    def coefs(self, choices: Iterable[np.ndarray], n: int) -> np.ndarray:
        """Scores of the next layer in n polygons `(3, K, n, units)`, or logits `(3, K, n, 1)`."""
        x = self.images(np.array([[0.0, 0], [1, 0], [0, 1]])).repeat_interleave(n, 0)
        try:
            z = self.run(x, choices).T[..., None]
        except Reached as reached:
            z = reached.kink.scores
        # The choices make it affine: three corners of the square give the function.
        at, right, above = z.unflatten(1, (3, n)).unbind(1)
        return torch.stack([at, right - at, above - at]).numpy()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Choose at a kink; else do as asked, and while probing see that it is affine."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        x = next(iter((*args, *kwargs.values())), None)
        if name not in KINKS or not isinstance(x, torch.Tensor) or x.shape[:1] != (self.rows,):
            out = func(*args, **kwargs)
            if self.probing:
                for part in out if isinstance(out, (tuple, list)) else [out]:
                    self.check(part, name)
            return out
        kink = KINKS[name](*args, **kwargs)
        if self.probing:
            again = f" ({self.calls + 1})" if self.path[-1] in self.layers else ""
            self.layers[self.path[-1] + again] = tuple(kink.shape)
            self.width = max(self.width, kink.scores[:, 0].numel())
            size = (1, kink.scores.shape[2])
            self.choices.append(torch.randint(1 + len(kink.scores), size, generator=self.draw))
        elif self.calls == len(self.choices):
            raise Reached(kink)
        out = kink.passed(self.choices[self.calls])
        self.calls += 1
        return x.copy_(out) if kwargs.get("inplace") else out

    def check(self, out: Any, name: str) -> None:
        """See that `out`, which the function `name` made of the probes, is affine in them."""
        if not (isinstance(out, torch.Tensor) and out.is_floating_point()):
            return
        if out.shape[:1] != (PROBES,):
            return
        y = out.reshape(PROBES, -1)
        # An affine function of the points lies in the span of (1, s, t): nothing is left over.
        rest = (y - self.basis @ (self.basis.T @ y)).abs().max()
        if rest > 1e-7 * (y - y[0]).abs().max() + 1e-12 * y.abs().max():
            raise ValueError(
                f"model: what {name} makes in {self.path[-1] if self.path else 'the network'} is "
                "not piecewise linear in the image, or not in a way known here (known: affine "
                f"layers, {', '.join(KINKS)}). {ADVICE}"
            )
