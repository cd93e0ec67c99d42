"""What a model costs to keep and to ask, and what a training has spent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from workbench import checks
from workbench.models.classifier import Classifier, ready
from workbench.models.hooks import heard

WARM_UP = 3  # passes that are not timed
aten = torch.ops.aten
# What torch counts, and attention as a CPU computes it, which its table leaves out.
FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
}
DENSE = 32  # bits of a number that nobody has quantised


@dataclass(frozen=True)
class Cost:
    """parameters, nonzero: numbers; bytes: as packed (see `packed`); macs: multiply-adds of one
    image, in matrix products and convolutions (attention included)."""

    parameters: int
    nonzero: int
    bytes: int
    macs: int

    def summary(self) -> dict[str, int]:
        """The four numbers by their names."""
        return asdict(self)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a pass: the median, and the quartiles below and above it."""

    median: float
    low: float
    high: float

    def summary(self) -> dict[str, float]:
        """The three numbers by their names."""
        return {f"{name}_ms": value for name, value in asdict(self).items()}


@dataclass
class Ledger:
    """What a training has spent. A comparison of trainings names the line that is equal.

    images: taken from the data. forwards, backwards: passes of one image through the model.
    bytes_sent: between workers, where a treatment has some. peak_activations: numbers held for
    the backward pass of one batch. seconds: by the clock, and so of this machine and its load.
    """

    images: int = 0
    forwards: int = 0
    backwards: int = 0
    bytes_sent: int = 0
    peak_activations: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """The lines by their names."""
        return asdict(self)


def cost(model: Classifier) -> Cost:
    """What a classifier costs; it is asked about one image.

    Raises:
        ValueError: a model in train mode.
    """
    ready(model)
    weights, card = list(model.parameters()), model.card
    image = torch.full((1, *model.input_shape), 0.5, device=model.device, dtype=torch.float32)
    with Operations() as counter, torch.no_grad():
        model(image)
    return Cost(
        parameters=sum(p.numel() for p in weights),
        nonzero=sum(int(p.count_nonzero()) for p in weights),
        bytes=sum(
            packed(t, card.bits.get(n, DENSE)) + 4 * card.codebooks.get(n, 0)
            for n, t in tensors(model)
        ),
        macs=counter.n // 2,
    )


class Operations(TorchDispatchMode):
    """Counts the multiplications and additions of this thread by torch's own formulas.

    Its `FlopCounterMode` would hook the modules of all threads.
    """

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation, or those that it is made of."""
        kwargs, formula = kwargs or {}, FORMULAS.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.n += formula(*args, **kwargs, out_val=out)
        return out


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The numbers that have to be kept: weights, and the statistics beside them."""
    yield from model.named_parameters()
    yield from ((n, t) for n, t in model.named_buffers() if t.is_floating_point())


def packed(tensor: Tensor, bits: int = DENSE) -> int:
    """The bytes of a tensor at `bits` a number: all of it, or a bit a place and what is not zero.

    The smaller of the two; a scale of four bytes a row is added to what is quantised.
    """
    n, nonzero = tensor.numel(), int(tensor.count_nonzero())
    scales = 4 * len(tensor) if bits < DENSE and tensor.ndim else 0
    return -(-min(n * bits, n + nonzero * bits) // 8) + scales


def latency(model: Classifier, *, batch: int = 1, repeats: int = 30) -> Latency:
    """How long a pass over `batch` images takes, by the clock of this machine.

    Wide quartiles say that it was busy with something else.

    Raises:
        ValueError: no images, or fewer than two repeats; a model in train mode.
    """
    checks.positive("batch", batch)
    if repeats < 2:
        raise ValueError(f"repeats: expected at least 2 passes to time, got {repeats}")
    ready(model)
    x = torch.full((batch, *model.input_shape), 0.5, device=model.device, dtype=torch.float32)
    times = []
    with torch.no_grad():
        for _ in range(WARM_UP + repeats):
            start = time.perf_counter()
            model(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
    low, median, high = quantiles(times[WARM_UP:], n=4, method="inclusive")
    return Latency(median, low, high)


@contextmanager
def counted(model: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Enter the passes through `model` into the ledger, and the time they take."""

    def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        n = len(inputs[0])
        ledger.forwards += n
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda _: setattr(ledger, "backwards", ledger.backwards + n))

    start = time.perf_counter() - ledger.seconds
    with heard([model], note):
        try:
            yield
        finally:
            ledger.seconds = time.perf_counter() - start


@contextmanager
def held(ledger: Ledger) -> Iterator[None]:
    """Enter how many numbers autograd keeps at one time, at most; each storage once, no weights."""
    now: Counter[tuple[int, int]] = Counter()

    def note(tensor: Tensor) -> Tensor:
        if any(isinstance(t, nn.Parameter) for t in (tensor, tensor._base)):
            return tensor
        key = (storage := tensor.untyped_storage()).data_ptr(), storage.size() // 4
        now[key] += 1
        ledger.peak_activations = max(ledger.peak_activations, sum(n for _, n in +now))
        finalize(kept := tensor.detach(), now.subtract, [key])  # its graph would keep it for good
        return kept

    with saved_tensors_hooks(note, lambda kept: kept):
        yield
