"""Which rows of a model's weights make a unit, and which columns take it: one pass is followed.

A unit is a channel or a hidden number. Rows that a sum of branches joins are of one unit: a
zero-invariant group of Chen et al., OTOv2 (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Functions of each number alone; what only moves, picks or averages numbers is found by a probe.
OF_EACH = frozenset(
    ["gelu", "silu", "tanh", "hardswish", "selu", "mul", "imul", "rmul", "div", "truediv", "pad"]
)


@dataclass(frozen=True, eq=False)
class Flow:
    """What is known of a tensor on its way: the unit of each place along `dim`, and whether it
    is zero there whatever the image. The tensor is held, so that its id stays its own."""

    tensor: Tensor
    dim: int
    unit: Tensor
    zero: Tensor


class Follow(TorchFunctionMode):
    """Follows units, numbered from 0, through the functions of a pass without gradients.

    rows, columns: by the name of a tensor of the model, the unit that each row (dimension 0)
    makes, or each column (dimension 1) takes. used: the units that some column takes with a
    weight that is not 0, where they are not always 0. fixed: why a unit has to stay as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(t): n for n, t in [*model.named_parameters(), *model.named_buffers()]}
        self.flows: dict[int, Flow] = {}
        self.same: list[int] = []  # of each unit another that it goes with, or itself
        self.rows: dict[str, Tensor] = {}
        self.columns: dict[str, Tensor] = {}
        self.used: set[int] = set()
        self.fixed: dict[int, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note which units its output holds."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        flows = [self.flows[id(t)] for t in tensors if id(t) in self.flows]
        name, flow = getattr(func, "__name__", "").strip("_"), None
        if isinstance(out, Tensor):
            if name in ("conv1d", "conv2d", "conv3d", "linear") and len(args) > 1:
                flow = self.layer(name, out, *args, **kwargs)
            elif flows:
                flow = self.passed(func, name, flows, len(tensors), out, args, kwargs)
        elif not any(isinstance(t, (Tensor, float)) for t in tree_leaves(out)):
            return out  # sizes and types tell nothing of values
        self.flows.pop(id(out), None)  # it may have been changed in place
        if flow is not None:
            self.flows[id(out)] = flow
        else:
            for each in flows:
                self.fix(each.unit, f"goes into {name!r}")
        return out

    def layer(
        self, name: str, out: Tensor, x: Tensor, w: Tensor, *rest: Any, **named: Any
    ) -> Flow | None:
        """It takes the units of its input by columns, and makes its own by rows."""
        bias = rest[0] if rest else named.get("bias")
        groups = 1 if name == "linear" else rest[4] if len(rest) > 4 else named.get("groups", 1)
        dim = out.ndim - 1 if name == "linear" else 1
        tensors = [w] if bias is None else [w, bias]
        flow = self.flows.get(id(x))
        if not all(id(t) in self.names for t in tensors) or (flow and flow.dim != dim):
            return None  # weights that are computed, or a mixing of positions
        unbiased = torch.ones(len(w), dtype=torch.bool) if bias is None else (bias == 0).cpu()
        zero = (w.flatten(1) == 0).all(1).cpu() & unbiased
        if flow and groups == len(flow.unit) == len(w) > 1:  # depthwise: its input's units
            unit, zero = flow.unit, zero | (flow.zero & unbiased)
        else:
            unit = self.new(len(w))
            if groups > 1:
                self.fix(unit, f"is made by {groups} groups of filters")
                self.fix(unit if flow is None else flow.unit, f"goes into {groups} groups")
            elif flow:
                wanted = (w.movedim(1, 0).flatten(1) != 0).any(1).cpu()
                self.used.update(flow.unit[wanted & ~flow.zero].tolist())
                self.mark(self.columns, w, flow.unit)
        for tensor in tensors:
            self.mark(self.rows, tensor, unit)
        return Flow(out, dim, unit, zero)

    def passed(
        self,
        func: Callable[..., Any],
        name: str,
        flows: list[Flow],
        count: int,
        out: Tensor,
        args: Any,
        kwargs: Any,
    ) -> Flow | None:
        """The flow out of any other function of `count` tensors; None where it cannot be said."""
        flow, dim, several = flows[0], flows[0].dim, len(flows) > 1
        x, alike = flow.tensor, all(each.dim == dim for each in flows)
        if name == "batch_norm":
            return self.norm(func, flow, out, *args, **kwargs)
        if name in ("add", "iadd") and several and alike and flows[1].tensor.shape == x.shape:
            self.join(flow.unit, flows[1].unit)
            return Flow(out, dim, flow.unit, flow.zero & flows[1].zero)
        places = sum(len(each.unit) for each in flows)
        if name in ("cat", "concat") and alike and len(flows) == count and out.shape[dim] == places:
            return Flow(
                out, dim, torch.cat([f.unit for f in flows]), torch.cat([f.zero for f in flows])
            )
        if count > 1 or not args or args[0] is not x:
            return None
        if bool(func(torch.zeros_like(x), *args[1:], **kwargs).any()):
            return None
        if name in OF_EACH and out.shape[dim : dim + 1] == x.shape[dim : dim + 1]:
            return Flow(out, dim, flow.unit, flow.zero)
        return self.moved(func, flow, out, args, kwargs)

    def moved(
        self, func: Callable[..., Any], flow: Flow, out: Tensor, args: Any, kwargs: Any
    ) -> Flow | None:
        """The flow out of what picks or averages within each unit: told by two marks of each.

        A maximum over units would pick another one by the second mark.
        """
        n, shape = len(flow.unit), [1] * flow.tensor.ndim
        first = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        shape[flow.dim] = n
        answers = []
        for order in (first, (first + 1) % n):
            marks = ((order + 1) / (n + 1)).view(shape).expand(flow.tensor.shape).contiguous()
            answers.append(func(marks.to(flow.tensor), *args[1:], **kwargs).cpu() * (n + 1) - 1)
        for dim in sorted(range(1, out.ndim), key=lambda d: d != flow.dim):
            lines = [each.movedim(dim, -1).reshape(-1, out.shape[dim]) for each in answers]
            place = first.argsort()[lines[0][0].round().long().clamp(0, n - 1)]
            wanted = (first[place], (first[place] + 1) % n)
            if all(bool((a - b).abs().max() < 0.01) for a, b in zip(lines, wanted, strict=True)):
                return Flow(out, dim, flow.unit[place], flow.zero[place])
        return None

    def norm(self, func: Any, flow: Flow, out: Tensor, *args: Any, **kwargs: Any) -> Flow | None:
        """A batch norm has rows for its channels; of zeros it makes its offset, which may be 0."""
        weight = args[3] if len(args) > 3 else kwargs.get("weight")
        bias = args[4] if len(args) > 4 else kwargs.get("bias")
        tensors = [t for t in (weight, bias, *args[1:3]) if t is not None]
        if flow.dim != 1 or not all(id(t) in self.names for t in tensors):
            return None
        offset = func(torch.zeros_like(flow.tensor), *args[1:], **kwargs).movedim(1, 0).flatten(1)
        silent = flow.zero if weight is None else flow.zero | (weight == 0).cpu()
        for tensor in tensors:
            self.mark(self.rows, tensor, flow.unit)
        return Flow(out, 1, flow.unit, silent & (offset == 0).all(1).cpu())

    def new(self, count: int) -> Tensor:
        """Units that nothing is known of."""
        start = len(self.same)
        self.same += range(start, start + count)
        return torch.arange(start, start + count)

    def root(self, unit: int) -> int:
        """The first of the units that go with this one."""
        while self.same[unit] != unit:
            self.same[unit] = unit = self.same[self.same[unit]]
        return unit

    def join(self, ones: Tensor, others: Tensor) -> None:
        """From now on they go together, place by place."""
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            first, second = sorted((self.root(one), self.root(other)))
            self.same[second] = first

    def mark(self, where: dict[str, Tensor], tensor: Tensor, unit: Tensor) -> None:
        """Note the unit of each row or column; a tensor that is used twice joins them."""
        self.join(where.setdefault(self.names[id(tensor)], unit), unit)

    def fix(self, unit: Tensor, why: str) -> None:
        """These have to stay."""
        for each in unit.tolist():
            self.fixed.setdefault(each, why)
