"""Complete verification: a search for counterexamples, then branch and bound.

Bunel et al. (2020), branch and bound over ReLUs; De Palma et al. (2021), filtered smart
branching; Wang et al. (2021), beta-CROWN.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from workbench.proofs.bounds import interval, relax, tighten
from workbench.proofs.properties import TOLERANCE, Answer, Verdict
from workbench.proofs.query import Query
from workbench.steps import Step

# Steps to a better relaxation: of each neuron and of the root, at first and if need be, and of
# each branch.
EFFORTS, ASCENT = [(0, 10), (20, 50)], 12
RESTARTS = 10  # of the search, for each unsafe set
FILTERED = 4  # neurons of each layer of which both halves are tried before one is split
BATCH = 16, 256, 2**24  # branches at a time: at least, at most, times the weights
LARGE = 1e8  # beyond, the rounding of float64 may reach TOLERANCE
EMPTY = "no image in the box follows the phases"


class Branches(NamedTuple):
    """B subproblems that are open.

    value: a lower bound of each, float64 `(B,)`. which: its unsafe set, int64 `(B,)`.
    sign: of the neurons that are split or given, int8 `(B, N)`. alpha, beta, cost: of its
    relaxation, float32 `(B, N)`.
    """

    value: torch.Tensor
    which: torch.Tensor
    sign: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor
    cost: torch.Tensor

    def some(self, rows: torch.Tensor) -> Branches:
        """Those of the rows."""
        return Branches(*(part[rows] for part in self))


def branching_steps(query: Query, seed: int = 0) -> Iterator[Step[Answer]]:
    """Search for a counterexample; then split ReLUs, the lowest bound first, till all is proved."""
    net, root = query.net, query.root
    draw = torch.Generator().manual_seed(seed)
    which = torch.arange(len(query.a)).repeat(RESTARTS)
    noise = 2 * torch.rand((len(which), net.sizes[0]), generator=draw).double() - 1
    for batch in torch.arange(len(which)).split(net.rows):
        x = search(query, root.centre + root.radius * noise[batch], which[batch], 20)
        if x is not None:
            yield last(query, "refuted", counterexample=x)
            return
    which = torch.arange(len(query.a))
    for again, (ascent, steps) in enumerate(EFFORTS):
        if (yield from opening(query, ascent, again > 0)):
            return
        remaining, _ = bounded(query, root.sign.expand(len(which), -1), which, steps)
        which = remaining.which
        if not len(which):
            break
    query.branches = len(query.a)
    weights = sum(matrix.numel() for matrix in net.weight.values())
    size = min(max(BATCH[0], BATCH[2] // weights), BATCH[1])
    while len(remaining.value):
        query.open = len(remaining.value) + query.doubts
        query.bound = min(float(remaining.value.min()), query.floor)
        message = f"bound {query.bound:.4g}, {query.open:,} branches open"
        so_far = query.answer("open", bound=query.bound)
        yield Step(query.branches - query.open, query.branches, message, so_far)
        order = remaining.value.argsort()
        branches, remaining = remaining.some(order[:size]), remaining.some(order[size:])
        # Nothing is left to split where each ReLU is on or off: a linear program decides exactly.
        decided = ~root.under(branches.sign).unstable.any(1)
        for i in decided.nonzero().flatten().tolist():
            depth, x = leaf(query, branches.sign[i : i + 1], int(branches.which[i]))
            if x is not None:
                yield last(query, "refuted", counterexample=x)
                return
            closed = depth > TOLERANCE  # not so where it is NaN
            query.doubts += not closed
            query.floor = min(query.floor, TOLERANCE if closed else float(branches.value[i]))
        branches = branches.some(~decided)
        if len(branches.value):
            parents = torch.arange(len(branches.value)).repeat(2)
            sign, branches = split(query, branches), branches.some(parents)
            children, x = bounded(query, sign, branches.which, ASCENT, branches)
            query.branches += len(sign)
            x = nearby(query, children, x)
            if x is not None:
                yield last(query, "refuted", counterexample=x)
                return
            remaining = Branches(*map(torch.cat, zip(remaining, children, strict=True)))
    yield conclusion(query)


def opening(query: Query, steps: int, again: bool) -> Generator[Step[Answer], None, bool]:
    """Bound every neuron; whether that ends it, with an empty region or in trouble."""
    root = query.root
    for name in tighten(query.net, root, steps, again=again):
        yield Step(0, 1, f"bounds of {name}", query.answer("open"))
        query.clock.check()
    widest = torch.cat([root.lower, root.upper, *interval(query.net, root, query.net.top)], 1)
    if not bool((widest.abs() < LARGE).all()):
        yield last(query, "open", note=f"numerical trouble: bounds are not all below {LARGE:g}")
        return True
    if root.empty:
        yield last(query, "proved", note=EMPTY)
    return root.empty


def last(query: Query, verdict: Verdict, **more: Any) -> Step[Answer]:
    """The last step of a backend."""
    return Step(1, 1, verdict, query.answer(verdict, **more))


def conclusion(query: Query) -> Step[Answer]:
    """The last step where all branches are closed, some of them perhaps in doubt."""
    query.open = query.doubts
    if query.doubts:
        note = f"numerical trouble: {query.doubts} branches are too near to tell"
        return last(query, "open", note=note)
    note = "" if query.followed else f"it may be that {EMPTY}: none was met"
    bound = query.floor if math.isfinite(query.floor) else None
    return last(query, "proved", bound=bound, note=note)


def bounded(
    query: Query, sign: torch.Tensor, which: torch.Tensor, steps: int, old: Branches | None = None
) -> tuple[Branches, torch.Tensor]:
    """The branches that stay open, lowest first, and the images that reach their bounds."""
    slopes = (None, None) if old is None else (old.alpha, old.beta)
    region, rows = query.root.under(sign), (query.a[which], query.b[which])
    relaxed = relax(query.net, region, query.net.top, *rows, *slopes, steps=steps)
    value = relaxed.value if old is None else torch.maximum(relaxed.value, old.value)
    closed = value > TOLERANCE  # not so where it is NaN
    query.floor = min([query.floor, *value[closed].tolist()])
    open_ = (~closed).nonzero().flatten()
    open_ = open_[value[open_].argsort()]
    kept = (part[open_].float() for part in (relaxed.alpha, relaxed.beta, relaxed.cost))
    return Branches(value[open_], which[open_], sign[open_], *kept), relaxed.x[open_]


def split(query: Query, branches: Branches) -> torch.Tensor:
    """The signs of both halves of each of B branches, `(2 * B, N)`: first all on, then all off.

    Of the neurons whose relaxation costs most, a few in each layer, the one is split whose
    worse half is bounded best.
    """
    net, root = query.net, query.root
    free = root.under(branches.sign).unstable
    cost = torch.where(free, branches.cost, -1.0)
    costly = [
        cost[:, p].topk(min(FILTERED, p.stop - p.start)).indices + p.start for p in net.parts[1:]
    ]
    candidates = torch.cat(costly, 1)
    values = []
    for batch in torch.arange(len(candidates)).split(max(1, net.rows // (2 * candidates.shape[1]))):
        parents = batch.repeat_interleave(candidates.shape[1])
        signs, parents = (
            halves(branches.sign[parents], candidates[batch].flatten()),
            parents.repeat(2),
        )
        rows = query.a[branches.which[parents]], query.b[branches.which[parents]]
        relaxed = relax(
            net, root.under(signs), net.top, *rows, branches.alpha[parents], branches.beta[parents]
        )
        values.append(relaxed.value.clamp(max=TOLERANCE).view(2, len(batch), -1))
    value = torch.cat(values, 1)
    # A branch is closed when both halves are: the worse one decides, the better one breaks ties.
    merit = value.amin(0) + 0.01 * value.amax(0)
    best = torch.where(free.gather(1, candidates), merit, -torch.inf).argmax(1)
    return halves(branches.sign, candidates.gather(1, best[:, None])[:, 0])


def halves(sign: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """The signs `(B, N)` with neuron j `(B,)` on, then off: `(2 * B, N)`."""
    on, off = sign.clone(), sign.clone()
    on.scatter_(1, j[:, None], 1)
    off.scatter_(1, j[:, None], -1)
    return torch.cat([on, off])


def search(query: Query, x: torch.Tensor, which: torch.Tensor, steps: int) -> torch.Tensor | None:
    """Descend from images `(B, n_0)` to the unsafe sets `which` `(B,)` inside the phases.

    Signed gradients (Madry et al., 2018) of the worst row, as long as it is not met, and of
    what breaks the phases; a counterexample that holds on the real network, or None.
    """
    net, root = query.net, query.root
    low, high = root.centre - root.radius, root.centre + root.radius
    for i in range(steps + 1):
        query.clock.check()
        _, *z = net.run(x)
        slack = (query.a[which] @ z[-1][:, :, None])[:, :, 0] - query.b[which]
        row = slack.argmax(1)
        unmet = slack.gather(1, row[:, None])
        signed = torch.cat([x[:, :0], *z[:-1]], 1) * root.sign
        broken = (root.sign > 0) & (signed <= 0) | (root.sign < 0) & (signed < 0)
        follows = ~broken.any(1)
        query.followed |= bool(follows.any())
        candidates = follows & (unmet[:, 0] <= 0)
        counterexample = query.counterexample(x[candidates]) if bool(candidates.any()) else None
        if counterexample is not None or i == steps:
            return counterexample
        # Gradients by hand, back through the ReLUs: of the worst row, and of each broken sign.
        breaks = root.sign * (signed < 1e-3)
        coefs = {net.top: query.a[which, row] * (unmet > -0.01)}
        for j in range(net.top - 1, 0, -1):
            coefs[j] = net.pulled(j, coefs, len(x)) * (z[j - 1] > 0) - breaks[:, net.parts[j]]
        step = root.radius * (1 - i / steps) / 2
        x = (x - step * net.pulled(0, coefs, len(x)).sign()).clamp(low, high)
    return None


def nearby(query: Query, branches: Branches, x: torch.Tensor) -> torch.Tensor | None:
    """A counterexample near the images `(B, n_0)` that reach the bounds of branches, or None.

    By search from the lowest few, and in the region where the lowest one's ReLUs are settled as
    they are at its image.
    """
    lowest = slice(8)
    counterexample = search(query, x[lowest], branches.which[lowest], 10)
    if counterexample is not None or not len(x):
        return counterexample
    if query.clock.left < query.slowest:
        return None  # a solver cannot be stopped while it reads so large a program
    sign = branches.sign[:1]
    sign = torch.where(sign != 0, sign, settled(query, x[:1]))
    started = query.clock.seconds
    _, counterexample = leaf(query, sign, int(branches.which[0]))
    query.slowest = max(query.slowest, query.clock.seconds - started)
    return counterexample


def settled(query: Query, x: torch.Tensor) -> torch.Tensor:
    """The signs `(1, N)` of the neurons that can be on or off, as they are at an image."""
    z = torch.cat([x[:, :0], *query.net.run(x)[1:-1]], 1)
    return torch.where(query.root.unstable, 2 * (z > 0).to(torch.int8) - 1, query.root.sign)


def leaf(query: Query, sign: torch.Tensor, which: int) -> tuple[float, torch.Tensor | None]:
    """Decide a branch `(1, N)` in which every ReLU is settled, by a linear program (HiGHS).

    It finds the image deepest inside: the least that the unsafe rows and what breaks the signs
    can be brought to. Gives a proved bound of that, above 0 where the branch has no
    counterexample and NaN in trouble; and the image, if it holds on the real network.
    """
    from scipy.optimize import linprog

    net, region = query.net, query.root.under(sign)
    a, b = query.rows(which)
    # With every ReLU settled the network is affine: its values at unit vectors and 0 are all of it.
    corners = torch.eye(net.sizes[0] + 1, net.sizes[0]).double()
    fixed, chunks = sign[0] != 0, []
    for batch in corners.split(net.rows):
        query.clock.check()
        y, z = [batch], [batch[:, :0]]
        for k, part in enumerate(net.parts[1:], 1):
            z.append(net.z(k, y))
            y.append(z[k] * (region.lower[:, part] >= 0))
        violations = -(torch.cat(z, 1) * sign)[:, fixed]
        chunks.append(torch.cat([violations, net.z(net.top, y) @ a.T - b], 1))
    values = torch.cat(chunks)
    matrix = torch.cat([values[:-1] - values[-1], -torch.ones(1, values.shape[1])]).T
    low, high = region.centre - region.radius, region.centre + region.radius
    solution = linprog(
        np.eye(1, len(low) + 1, len(low))[0],
        *(matrix.numpy(), -values[-1].numpy()),
        bounds=[*zip(low.tolist(), high.tolist(), strict=True), (None, None)],
        options={"time_limit": max(0.01, query.clock.left)},
    )
    if solution.status != 0:
        return math.nan, None
    # What the multipliers prove, whatever the tolerance of the solver (Neumaier, 2004).
    mix = torch.from_numpy(-solution.ineqlin.marginals).clamp(min=0)
    mix /= mix.sum()
    slope = mix @ matrix[:, :-1]
    depth = float(mix @ values[-1] + slope @ region.centre - slope.abs() @ region.radius)
    x = torch.from_numpy(solution.x[None, :-1])
    return depth, None if depth > TOLERANCE else query.counterexample(x)
