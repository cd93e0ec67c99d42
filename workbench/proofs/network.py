"""A ReLU network as matrices, read off any module by what it does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from workbench.models import Classifier, heard, private_copy, ready
from workbench.proofs.clock import LATE, Clock

PROBES = 61  # a batch size that no other tensor of a network is likely to have
# Rows at a time, at least and at most, and numbers at a time: what fits a cache is quickest, and
# between two chunks the clock is looked at.
CHUNK, NUMBERS = (16, 256), 2**18
ADVICE = (
    "Verified can be networks of affine layers and nn.ReLU modules, each of which runs once: "
    "write every ReLU as a module of its own"
)
Source = Callable[[int, int], torch.Tensor]
Matrices = dict[tuple[int, int], torch.Tensor]


class Network:
    """A network as its ReLUs see it: `z_k = bias_k + sum of W_kj y_j` over j < k, from k = 1.

    y_0 is the image, flat; the other y_j are relu(z_j); the last z are the logits. Affine
    layers of any kind and shortcuts are read off a copy that is given unit vectors: float64,
    on the CPU, sparse where it pays (convolutions).

    names: of the ReLU layers, in the order they run. sizes: of y_0, of each z, and of the
    logits. weight: `(n_k, n_j)` by (k, j), where not all are zero. parts: the columns of each
    ReLU layer in a tensor `(B, N)` of all neurons, from 1. rows: how many of its B to work on
    at a time.

    Raises:
        ValueError: something is neither affine nor an nn.ReLU, or an nn.ReLU runs twice.
        TimeoutError: the limit of the clock is over.
    """

    def __init__(self, model: Classifier, clock: Clock | None = None) -> None:
        ready(model)
        self.clock = clock or Clock()
        self.shape = model.input_shape
        self.sizes = [math.prod(self.shape)]
        watch = Watch(model)
        probed = watch.probe()
        self.names = tuple(watch.seen)
        self.sizes += [z.shape[1] for z in probed]
        self.top = len(probed)
        ends = torch.tensor(self.sizes).cumsum(0) - self.sizes[0]
        self.parts = [slice(int(ends[max(k - 1, 0)]), int(ends[k])) for k in range(self.top)]
        self.rows = chunk(max(self.sizes[0], self.parts[-1].stop))
        self.bias = [torch.zeros(0).double()]
        self.weight: Matrices = {}
        self.transposed: Matrices = {}
        self.size: Matrices = {}  # the absolute values of the weights
        for j, n in enumerate(self.sizes[:-1]):
            columns: list[list[torch.Tensor]] = [[] for _ in self.sizes]
            for batch in torch.arange(n).split(chunk(sum(self.sizes) // 16)):
                # Zeros come last in the same batch: what they make is rounded the same way.
                eye = nn.functional.one_hot(torch.cat([batch, batch[:1]]), n).double()
                eye[-1] = 0
                self.clock.check(f"{LATE} while the network was read")
                zs = watch.run(units(j, eye))
                for k in range(j + 1, self.top + 1):
                    columns[k].append((zs[k - 1][:-1] - zs[k - 1][-1]).to_sparse())
            if j == 0:
                self.bias += [z[-1].clone() for z in zs]
            for k in range(j + 1, self.top + 1):
                matrix = torch.cat(columns[k]).coalesce()
                if matrix.values().numel():
                    self.transposed[k, j] = stored(matrix)
                    self.weight[k, j] = stored(matrix.T.coalesce())
                    self.size[k, j] = self.weight[k, j].abs()

    def z(self, k: int, y: Sequence[torch.Tensor]) -> torch.Tensor:
        """Layer k's input `(B, n_k)` from y_0 to y_k-1, `(B, n_j)` each."""
        return self.bias[k] + self.added(self.weight, k, y)

    def added(self, matrices: Matrices, k: int, y: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum over j < k of the matrices (k, j) times y_j."""
        start = y[0].new_zeros(len(y[0]), self.sizes[k])
        return sum((times(matrices[k, j], y[j]) for j in range(k) if (k, j) in matrices), start)

    def pulled(self, j: int, coefs: dict[int, torch.Tensor], rows: int) -> torch.Tensor:
        """The coefficients of y_j, `(rows, n_j)`, that come of those of later z."""
        start, back = torch.zeros(rows, self.sizes[j]).double(), self.transposed
        return sum((times(back[k, j], a) for k, a in coefs.items() if (k, j) in back), start)

    def run(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The images `(B, n_0)` and every z of them, the logits last."""
        y, zs = [x], [x]
        for k in range(1, self.top + 1):
            zs.append(self.z(k, y))
            y.append(zs[-1].relu())
        return zs


class Watch:
    """A copy of a model whose ReLUs pass on what is given; seen: what came to each."""

    def __init__(self, model: Classifier) -> None:
        self.copy = private_copy(model, share=False).to("cpu", torch.float64)
        self.shape = model.input_shape
        self.seen: dict[str, torch.Tensor] = {}
        self.basis: torch.Tensor | None = None
        body: nn.Module = self.copy.body  # type: ignore[assignment]
        self.names = {module: name for name, module in body.named_modules()}

    def where(self, module: nn.Module) -> str:
        """What a module is called in errors."""
        name, kind = self.names[module], type(module).__name__
        return f"{name} ({kind})" if name else kind

    def enter(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Keep what comes to a ReLU."""
        self.check("what comes to " + self.where(module), inputs)
        if type(module) is nn.ReLU:
            name = self.names[module]
            if name in self.seen:
                raise ValueError(f"model: {name} runs more than once a pass. {ADVICE}")
            self.seen[name] = inputs[0].flatten(1).clone()

    def leave(self, module: nn.Module, _: object, out: Any) -> torch.Tensor | None:
        """After a ReLU: pass on what is given; one in place has written to its input."""
        if type(module) is nn.ReLU:
            return out.copy_(self.source(len(self.seen), out[0].numel()).view_as(out))
        self.check(self.where(module), out)
        return None

    def check(self, where: str, value: Any) -> None:
        """While probing, see that a value, or the first of a tuple, is affine in the points."""
        value = next(iter(value), None) if isinstance(value, tuple) else value
        if self.basis is None or not isinstance(value, torch.Tensor):
            return
        if value.shape[:1] != (PROBES,):
            return
        y = value.reshape(PROBES, -1).double()
        if not bool(y.isfinite().all()):
            raise ValueError(f"model: {where} is NaN or infinite; see to the weights")
        # An affine function of the points lies in the span of (1, s, t): nothing is left over.
        rest = (y - self.basis @ (self.basis.T @ y)).abs().amax(0)
        if bool((rest > 1e-7 * (y - y[0]).abs().amax(0) + 1e-12 * y.abs().max()).any()):
            raise ValueError(f"model: {where} is not affine. {ADVICE}")

    def run(self, source: Source) -> list[torch.Tensor]:
        """Every z, flat, and the logits, of what `source` gives for each y_j, `(B, n_j)`."""
        self.source = source
        self.seen.clear()
        with torch.no_grad(), heard(self.names, self.leave, before=self.enter):
            logits = self.copy(source(0, math.prod(self.shape)).view(-1, *self.shape))
        return [*self.seen.values(), logits]

    def probe(self) -> list[torch.Tensor]:
        """Run on points of random planes through everything that is given."""
        draw = torch.Generator().manual_seed(0)
        # Near and far: a smooth function looks affine near by, a saturated one far away.
        for far in (2, 6):
            spread = torch.logspace(-1, far, PROBES, dtype=torch.float64)[:, None]
            points = spread * torch.randn((PROBES, 2), generator=draw)
            points = torch.cat([torch.ones(PROBES, 1), points], 1)
            self.basis = torch.linalg.qr(points).Q
            zs = self.run(partial(planar, points, draw))
            self.check("what it says", zs[-1])
        self.basis = None
        return zs


def planar(points: torch.Tensor, draw: torch.Generator, _: int, n: int) -> torch.Tensor:
    """The points `(B, 3)` in a random plane of n dimensions."""
    return points @ torch.randn((3, n), generator=draw).double()


def units(j: int, eye: torch.Tensor) -> Source:
    """A source of these unit vectors for y_j, and of zeros for the others."""
    return lambda i, n: eye if i == j else eye.new_zeros(len(eye), n)


def chunk(width: int) -> int:
    """How many rows of that many numbers to work on at a time."""
    return min(max(CHUNK[0], NUMBERS // max(1, width)), CHUNK[1])


def slices(n: int, size: int) -> list[slice]:
    """0 to n, `size` at a time."""
    return [slice(start, start + size) for start in range(0, n, size)]


def stored(matrix: torch.Tensor) -> torch.Tensor:
    """A COO matrix as it is quickest to multiply with."""
    if matrix.values().numel() > 0.05 * matrix.numel():
        return matrix.to_dense()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return matrix.to_sparse_csr()


def times(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`matrix` `(m, n)` times each row of x `(B, n)`: `(B, m)`."""
    return x @ matrix.T if matrix.layout is torch.strided else (matrix @ x.T).T
