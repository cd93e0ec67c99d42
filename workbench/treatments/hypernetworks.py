"""`Hypernetwork`: a network that writes the weights of another network, by a condition."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from workbench import checks
from workbench.models import Classifier, private_copy, unmeasured, wrap

CHUNK = 64  # weights written at a time
Form = Literal["full", "chunked", "recurrent"]
Parametrisation = Literal["plain", "encoding", "residual", "mip"]


class Hypernetwork(nn.Module):
    """Two hidden layers, or an LSTM, that map a condition to the weights of `target`.

    target: any module called with one tensor, never touched. Those weights of a copy are written
    that need a gradient; frozen ones, and buffers as BatchNorm's, are shared by all conditions.
    conditions: how many there are, each a learned code of `size` numbers (8); or None, where a
    condition is itself `size` numbers (1) in [0, 1]. form: "full" writes all at once; "chunked"
    64 weights at a time, by a learned code of each chunk (von Oswald et al., 2020); "recurrent"
    the same by an LSTM that remembers the chunks before (Chandra et al., 2023). parametrisation:
    "plain" takes the condition as it is; "encoding" at constant norm, a number g as cos and sin
    of pi g / 2; "residual" adds what is written to learned weights that start as the target's;
    "mip" does both (Ortiz et al., 2024). Seeded, and in eval mode at first.

    Raises:
        ValueError: an unknown form or parametrisation, a count below 1, a target all frozen.
    """

    scale: Tensor
    chunks: Tensor | None
    trunk: nn.Module

    def __init__(
        self,
        target: nn.Module,
        conditions: int | None = None,
        *,
        size: int | None = None,
        hidden: int = 64,
        form: Form = "full",
        parametrisation: Parametrisation = "mip",
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.known("form", form, get_args(Form))
        checks.known("parametrisation", parametrisation, get_args(Parametrisation))
        self.form, self.parametrisation = form, parametrisation
        usual = 1 if conditions is None else 8
        self.size = checks.positive("size", usual if size is None else size)
        own = {name: p.detach() for name, p in target.named_parameters() if p.requires_grad}
        if not own:
            raise ValueError("target: expected weights that need a gradient, got none to write")
        self.target = private_copy(target, share=False).requires_grad_(False)
        self.shapes = {name: p.shape for name, p in own.items()}
        # Each tensor starts about as large as the target's; biases of nought as the mean tensor.
        spreads = torch.stack([p.float().square().mean().sqrt() for p in own.values()])
        spreads[spreads == 0] = spreads.mean()
        start = torch.cat([p.flatten().float() for p in own.values()])
        each = torch.tensor([p.numel() for p in own.values()], device=start.device)
        self.register_buffer("scale", spreads.repeat_interleave(each))
        self.base = nn.Parameter(start) if parametrisation in ("residual", "mip") else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(conditions, checks.positive("hidden", hidden), len(start))
        self.to(start.device).eval()
        known = [torch.ones(self.size)] if conditions is None else range(conditions)
        with torch.no_grad():  # numbers of about 1; of a tenth beside weights of their own
            found = torch.stack([self.numbers(c) for c in known]).square().mean().sqrt()
            self.out.weight.mul_((1 if self.base is None else 0.1) / found)

    def build(self, conditions: int | None, hidden: int, total: int) -> None:
        """Codes and layers; biases start at nought, so that nothing hides the condition."""
        n = None if conditions is None else checks.positive("conditions", conditions)
        self.codes = None if n is None else nn.Parameter(torch.randn(n, self.size))
        count = 0 if self.form == "full" else math.ceil(total / CHUNK)
        self.chunks = nn.Parameter(torch.randn(count, 8)) if count else None
        twice = n is None and self.parametrisation in ("encoding", "mip")
        given = self.size * (1 + twice) + 8 * bool(count)
        first, second = nn.Linear(given, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, CHUNK if count else total)
        for layer in (first, second, self.out):
            nn.init.kaiming_normal_(layer.weight, a=0.1)
            nn.init.zeros_(layer.bias)
        self.trunk = nn.Sequential(first, nn.LeakyReLU(0.1), second, nn.LeakyReLU(0.1))
        if self.form == "recurrent":
            self.trunk = nn.LSTM(given, hidden)

    def encoded(self, condition: Any) -> Tensor:
        """What the layers see of a condition: its numbers or its code, with or without a norm."""
        if self.codes is not None and not isinstance(condition, Tensor):
            if condition not in range(len(self.codes)):
                known = f"a number from 0 to {len(self.codes) - 1}"
                raise ValueError(f"condition: expected {known}, got {condition!r}")
            condition = self.codes[int(condition)]
        c = torch.as_tensor(condition, dtype=torch.float32, device=self.scale.device).flatten()
        if len(c) != self.size:
            raise ValueError(f"condition: expected {self.size} numbers, got {len(c)}")
        norm = self.parametrisation in ("encoding", "mip")
        if self.codes is not None:
            return F.normalize(c, dim=0) * self.size**0.5 if norm else c
        if not bool(((c >= 0) & (c <= 1)).all()):
            raise ValueError(f"condition: expected numbers in [0, 1], got {c.tolist()}; rescale")
        return torch.cat([(c * math.pi / 2).cos(), (c * math.pi / 2).sin()]) if norm else c

    def numbers(self, condition: Any) -> Tensor:
        """What the layers write, one number a weight, before it is scaled and added."""
        seen = self.encoded(condition)
        if self.chunks is not None:
            seen = torch.cat([seen.expand(len(self.chunks), -1), self.chunks], 1)
        hidden = self.trunk(seen)
        hidden = hidden[0] if self.form == "recurrent" else hidden
        return self.out(hidden).flatten()[: len(self.scale)]

    def weights(self, condition: Any) -> dict[str, Tensor]:
        """The weights that a condition writes, by their names in the target's state_dict.

        condition: which of the learned ones, from 0; or `(size,)` numbers in [0, 1]; or, as a
        tensor `(size,)`, a code between the learned ones.

        Raises:
            ValueError: there is no such condition, or it is of another size.
        """
        written = self.scale * self.numbers(condition)
        written = written if self.base is None else written + self.base
        parts = written.split([shape.numel() for shape in self.shapes.values()])
        return {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def forward(self, x: Tensor, condition: Any) -> Tensor:
        """What the target says of `x` with the weights of one condition; see `weights`."""
        return functional_call(self.target, self.weights(condition), (x,))

    def classifier(self, condition: Any, **facts: Any) -> Classifier:
        """The network of one condition, its weights frozen in: a model like any other.

        facts: as of `models.wrap` (`input_shape=`), where the target is not a Classifier itself.

        Raises:
            ValueError: as `weights`.
        """
        body = private_copy(self.target, share=False).requires_grad_(True)
        with torch.no_grad():
            for name, values in self.weights(condition).items():
                body.get_parameter(name).copy_(values)
        said = condition.tolist() if isinstance(condition, Tensor) else condition
        if not isinstance(body, Classifier):
            return wrap(body, **{"name": f"{type(body).__name__} at {said}", **facts})
        body.card = unmeasured(body.card, name=f"{body.card.name} at {said}")
        return body
