"""What the neurons of a ReLU network can do over a box: intervals, and linear relaxation.

Zhang et al. (2018), CROWN; Xu et al. (2021), alpha-CROWN; Wang et al. (2021), beta-CROWN.
Everything is float64, and every comparison that decides leaves `TOLERANCE` for rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.nn import functional as F

from workbench import checks
from workbench.models import Classifier
from workbench.proofs.network import Network, chunk, slices
from workbench.proofs.properties import TOLERANCE, Property
from workbench.proofs.query import Query, Region

if TYPE_CHECKING:
    import pandas as pd

RATE, DECAYS = 0.1, (0.9, 0.98)  # of the ascent
METHODS: dict[str, list[int | None]] = {
    "interval": [None],
    "crown": [0],
    "alpha-crown": [0, 20],
}  # steps of ascent


class Relaxed(NamedTuple):
    """What the best relaxation found says of B subproblems.

    value: the lower bound, `(B,)`. x: the image in the box that reaches it, `(B, n_0)`.
    cost: what the upper line of each neuron takes off the bound, alpha, beta: `(B, N)`.
    """

    value: torch.Tensor
    x: torch.Tensor
    cost: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor


def relax(
    net: Network,
    region: Region,
    k: int,
    rows: torch.Tensor,
    offset: torch.Tensor,
    alpha: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    steps: int = 0,
    above: bool = False,
) -> Relaxed:
    """A lower bound of `max over m of (rows[m] . z_k - offset[m])` in each of B subproblems.

    rows: `(B, m, n_k)`; offset: `(B, m)`. Each ReLU lies between two lines: above, from
    (lower, 0) to (upper, upper); below, one through 0 with slope alpha. alpha, the multipliers
    beta of the signs and the weights of the m rows take `steps` steps of Adam to a higher
    bound, or until all are proved or the time is up. Any of them is sound; the best is kept.
    above: the signs of layers after k, whose bounds must be known, count too.

    Raises:
        TimeoutError: the time was up before each had a bound.
    """
    highest = net.top - 1 if above else min(k, net.top - 1)
    seen = slice(net.parts[highest].stop)  # the neurons that count
    relaxed = []
    for batch in slices(len(rows), chunk(max(net.sizes[0], seen.stop))):
        net.clock.check()
        subproblems = Region(*region[:2], *(part[batch, seen] for part in region[2:]))
        alphas, betas = (None if part is None else part[batch, seen] for part in (alpha, beta))
        relaxed.append(
            ascent(net, subproblems, k, highest, rows[batch], offset[batch], alphas, betas, steps)
        )
    return Relaxed(*map(torch.cat, zip(*relaxed, strict=True)))


def ascent(
    net: Network,
    region: Region,
    k: int,
    highest: int,
    rows: torch.Tensor,
    offset: torch.Tensor,
    alpha: torch.Tensor | None,
    beta: torch.Tensor | None,
    steps: int,
) -> Relaxed:
    """`relax` of a few subproblems, which fit in a cache, by the ReLUs up to layer `highest`."""
    unstable, sign = region.unstable, region.sign.double()
    low, high = region.lower.clamp(max=0), region.upper.clamp(min=0)
    rise = high / (high - low).clamp(min=1e-300)
    fall = -rise * low  # the upper line is rise * z + fall
    # The lower line alpha * z, 0 <= alpha <= 1: at first that of the smaller triangle (CROWN).
    start = (rise > 0.5).double() if alpha is None else alpha.double()
    alpha = torch.where(unstable, start, (region.lower >= 0).double())
    beta = torch.zeros_like(rise) if beta is None else beta.double()
    # A maximum is at least any convex mix of its rows: then one linear function is bounded.
    mix = torch.full_like(offset, 1 / offset.shape[1])
    adam = Adam(alpha, beta, mix)
    best: Relaxed | None = None
    while True:
        objective = (mix[:, :, None] * rows).sum(1)
        value = objective @ net.bias[k] - (mix * offset).sum(1)
        lines = (alpha, rise, fall)
        value, a, pulled, slope, shift = substituted(
            net, k, highest, objective, value, lines, beta * sign
        )
        cost = -pulled * shift
        # The least of a linear function over a box: at each pixel the side against its sign.
        value = value - cost.sum(1) + a @ region.centre - a.abs() @ region.radius
        y = [region.centre - region.radius * a.sign()]
        current = Relaxed(value, y[0], cost, alpha.clone(), beta.clone())
        best = current if best is None else better(current, best)
        proved = bool((best.value > TOLERANCE).all())
        if steps == 0 or proved or net.clock.late:
            return best
        steps -= 1
        # The gradient (Danskin): the image that reaches the bound and the lines that were taken
        # stay as they are, so one pass of that image through those lines gives it.
        z = torch.zeros_like(rise)
        for j in range(1, highest + 1):
            part = net.parts[j]
            z[:, part] = net.z(j, y)
            y.append(slope[:, part] * z[:, part] + shift[:, part])
        z_k = net.z(k, y) if k == net.top else z[:, net.parts[k]]
        mix_gradient = offset - (rows @ z_k[:, :, None])[:, :, 0]
        # Alpha moves the bound only where the lower line was taken, by pulled * z; beta by what
        # its sign asks of z; the mix by each row's value. Adam goes down, the bound up.
        adam.step(-(pulled.clamp(min=0) * z * unstable), sign * z, mix_gradient)
        alpha.clamp_(0, 1)
        beta.clamp_(min=0)
        mix.clamp_(min=1e-9)
        mix /= mix.sum(1, keepdim=True)


def substituted(
    net: Network,
    k: int,
    highest: int,
    objective: torch.Tensor,
    value: torch.Tensor,
    lines: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    pushes: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """`objective . z_k` as a linear function of the image below it: lines in place of ReLUs.

    value: its constant so far. lines: alpha, rise, fall. pushes: multipliers of z, for the
    signs. Gives the constant but for the shifts, the coefficients of the image and of the
    outputs of ReLUs, and the slope and shift of the lines that were taken.
    """
    alpha, rise, fall = lines
    coefs = {k: objective} if k == net.top else {}
    slope, shift, pulled = alpha.clone(), torch.zeros_like(rise), torch.zeros_like(rise)
    for j in range(highest, 0, -1):
        part = net.parts[j]
        a = pulled[:, part] = net.pulled(j, coefs, len(objective))
        # Where an output counts against the bound its upper line is the safe one, else the lower.
        slope[:, part] = torch.where(a < 0, rise[:, part], alpha[:, part])
        shift[:, part] = torch.where(a < 0, fall[:, part], 0.0)
        # Lagrange: where sign * z >= 0 is asked, taking beta * sign * z off keeps a lower bound.
        coefs[j] = a * slope[:, part] - pushes[:, part]
        value = value + coefs[j] @ net.bias[j]
        if j == k:
            coefs[j] = coefs[j] + objective
    return value, net.pulled(0, coefs, len(objective)), pulled, slope, shift


class Adam:
    """Kingma and Ba (2015). That of torch takes seconds to import, of a time limit's few."""

    def __init__(self, *points: torch.Tensor) -> None:
        self.points = [(x, torch.zeros_like(x), torch.zeros_like(x)) for x in points]
        self.steps = 0

    def step(self, *gradients: torch.Tensor) -> None:
        """Move each point against its gradient."""
        self.steps += 1
        scales = [1 - decay**self.steps for decay in DECAYS]
        for (x, mean, square), gradient in zip(self.points, gradients, strict=True):
            mean.lerp_(gradient, 1 - DECAYS[0])
            square.mul_(DECAYS[1]).addcmul_(gradient, gradient, value=1 - DECAYS[1])
            x.addcdiv_(mean, (square / scales[1]).sqrt_().add_(1e-8), value=-RATE / scales[0])


def better(first: Relaxed, second: Relaxed) -> Relaxed:
    """The better of two in each subproblem."""
    mask = first.value > second.value
    pairs = zip(first, second, strict=True)
    return Relaxed(*(torch.where(mask if a.ndim == 1 else mask[:, None], a, b) for a, b in pairs))


def interval(net: Network, region: Region, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle and the radius of layer k's input, `(B, n_k)`, from bounds of those before."""
    # An affine map takes the middle to the middle, and the radius by the weights' absolute values.
    middle, radius = [region.centre[None]], [region.radius[None]]
    for part in net.parts[1:k]:
        low, high = region.lower[:, part].clamp(min=0), region.upper[:, part].clamp(min=0)
        middle.append((low + high) / 2)
        radius.append((high - low) / 2)
    return net.z(k, middle), net.added(net.size, k, radius)


def tighten(
    net: Network, region: Region, steps: int | None, *, again: bool = False
) -> Iterator[str]:
    """Fill in the bounds of one subproblem, layer by layer; says which layer it is at.

    By intervals, then by relaxation where those leave a neuron free; intervals alone where
    `steps` is None. It ends early where the region is empty. again: there are bounds already,
    which are made better, also by the signs of later layers.
    """
    above = again and bool(region.sign.any())  # with no sign, later layers say nothing
    for k, part in enumerate(net.parts[1:], 1):
        middle, radius = interval(net, region, k)
        lower, upper = region.lower[:, part], region.upper[:, part]
        lower.copy_(torch.maximum(middle - radius, lower) if again else middle - radius)
        upper.copy_(torch.minimum(middle + radius, upper) if again else middle + radius)
        region.obey()
        unstable = region.unstable[0, part].nonzero().flatten()
        # Of the first layer intervals are exact: it is affine in a box, and no sign cuts that.
        exact = k == 1 and not bool(region.sign.any())
        if steps is None or exact:
            unstable = unstable[:0]
        for neurons in (
            unstable.split(chunk(max(net.sizes[0], part.stop)) // 2) if len(unstable) else ()
        ):
            eye = F.one_hot(neurons, net.sizes[k]).double()
            rows = torch.cat([eye, -eye])[:, None]  # the least of z, and of -z: its largest
            subproblems = region.under(region.sign.expand(len(rows), -1))
            zero = torch.zeros(len(rows), 1).double()
            relaxed = relax(net, subproblems, k, rows, zero, steps=steps or 0, above=above)
            low, high = relaxed.value.split(len(neurons))
            lower[0, neurons] = torch.maximum(lower[0, neurons], low)
            upper[0, neurons] = torch.minimum(upper[0, neurons], -high)
            yield net.names[k - 1]
        if region.empty:
            return
        region.upper[:, part] = torch.maximum(region.lower[:, part], region.upper[:, part])
        yield net.names[k - 1]


@dataclass(frozen=True, eq=False)
class Bounds:
    """What the inputs of the ReLUs and the outputs can be, in the box of a property.

    lower, upper: by ReLU layer, float64 `(n,)`; of images that follow the phases. slack: for
    each unsafe set the least value of its worst row, `(G,)`; above 0 no image reaches the
    set. empty: no image follows the phases.
    """

    lower: dict[str, torch.Tensor]
    upper: dict[str, torch.Tensor]
    slack: torch.Tensor
    empty: bool

    def summary(self) -> dict[str, Any]:
        """Neurons, how many can be on or off, the least slack, and the unsafe sets left."""
        table = self.frame()
        return {
            "neurons": int(table[["on", "off", "unstable"]].sum().sum()),
            "unstable": int(table["unstable"].sum()),
            "slack": float(self.slack.min()),
            "open": int((self.slack <= TOLERANCE).sum()),
            "empty": self.empty,
        }

    def frame(self) -> pd.DataFrame:
        """One row a layer: neurons always on, always off, unstable, and the mean width."""
        import pandas as pd

        rows = []
        for name, lower in self.lower.items():
            upper = self.upper[name]
            on, off = lower >= 0, upper <= 0
            counts = {"on": int(on.sum()), "off": int((off & ~on).sum())}
            counts["unstable"] = int((~on & ~off).sum())
            rows.append({"layer": name, **counts, "width": float((upper - lower).mean())})
        return pd.DataFrame(rows, columns=["layer", "on", "off", "unstable", "width"])


def bounds_of(
    model: Classifier,
    prop: Property,
    method: Literal["interval", "crown", "alpha-crown"] = "alpha-crown",
) -> Bounds:
    """Bounds of every neuron and of the unsafe sets, without any branching.

    "interval" is the quickest, "alpha-crown" the tightest; "crown" has fixed slopes.

    Raises:
        ValueError: an unknown method, a network or a property that cannot be verified.
    """
    if method not in METHODS:
        raise checks.unknown("method", method, METHODS)
    query = Query(model, prop)
    net, root = query.net, query.root
    for again, steps in enumerate(METHODS[method]):
        deque(tighten(net, root, steps, again=again > 0), maxlen=0)
    slack = torch.full((len(query.a),), torch.inf).double()
    if not root.empty:
        middle, radius = (part[0] for part in interval(net, root, net.top))
        # One row that stays above its bound keeps a set out of reach: the best row counts.
        slack = (query.a @ middle - query.a.abs() @ radius - query.b).amax(1)
        if steps is not None:
            subproblems = root.under(root.sign.expand(len(slack), -1))
            value = relax(net, subproblems, net.top, query.a, query.b, steps=steps).value
            slack = torch.maximum(slack, value)
    lower, upper = (
        {name: side[0, part] for name, part in zip(net.names, net.parts[1:], strict=True)}
        for side in (root.lower, root.upper)
    )
    return Bounds(lower, upper, slack, root.empty)
