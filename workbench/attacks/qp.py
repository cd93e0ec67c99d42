"""The nearest features whose logits come in a wanted order: many small quadratic programmes.

For each image: the z nearest its features f with `logit[higher] - logit[lower] >= margin`
for M pairs of classes, the logits being W z + b. The dual has a multiplier of at least 0
for each pair, and z = f + W' D' multipliers, where D takes the differences of the pairs.
So the programme needs only the logits of the features, and W W' of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGE = 1e-13  # of the mean of diag(W W'): keeps systems solvable where W lacks rank
TOGETHER = 15  # rounds in which all wrong pairs are swapped
SOFT = 1e-3  # the same for an order that no features reach: the violation is made small


@dataclass(frozen=True, eq=False)
class OrderProgrammes:
    """gram: W W' `(C, C)`, float64; higher, lower: the pairs, int64 `(N, M)` each."""

    gram: torch.Tensor
    higher: torch.Tensor
    lower: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, target: torch.Tensor) -> OrderProgrammes:
        """With `target` `(N, K)` on top, in order, for a head of this weight `(C, d)`.

        Each target comes before the next, and the last before every class that is none.
        """
        (n, k), n_classes = target.shape, len(weight)
        free = torch.ones(n, n_classes, dtype=torch.bool, device=target.device)
        others = free.scatter(1, target, False).nonzero()[:, 1].view(n, n_classes - k)
        higher = torch.cat([target[:, :-1], target[:, -1:].expand_as(others)], 1)
        gram = weight.double() @ weight.double().T
        return cls(gram, higher, torch.cat([target[:, 1:], others], 1))

    def differences(self, logits: torch.Tensor) -> torch.Tensor:
        """D logits, by how much each pair is in order: `(N, C)` -> `(N, M)`."""
        return logits.gather(1, self.higher) - logits.gather(1, self.lower)

    def spread(self, multipliers: torch.Tensor) -> torch.Tensor:
        """D' multipliers: `(N, M)` -> `(N, C)`; times W, it is how far the features move."""
        classes = multipliers.new_zeros(len(multipliers), len(self.gram))
        classes = classes.scatter_add(1, self.higher, multipliers)
        return classes.scatter_add(1, self.lower, -multipliers)

    def solve(
        self, logits: torch.Tensor, margin: float, bound: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The multipliers `(N, M)`, float64, for features with these logits `(N, C)`.

        bound: bool `(N, M)`, a guess at the pairs that end exactly at the margin, such as
        the last step's. Where no features have the order, a soft margin stands in.
        """
        shortfall = margin - self.differences(logits.double())
        scale = self.gram.diagonal().mean().clamp(min=1e-30)
        guess = shortfall > 0 if bound is None else bound
        found = self.pivot(shortfall, guess, RIDGE * scale)
        left = shortfall - self.differences(self.spread(found) @ self.gram)
        failed = ~(left.amax(1) < 1e-5)  # also true for NaN
        if bool(failed.any()):
            hard = OrderProgrammes(self.gram, self.higher[failed], self.lower[failed])
            short = shortfall[failed]
            found[failed] = hard.pivot(short, short > 0, SOFT * scale)
        return found

    def pivot(
        self, shortfall: torch.Tensor, bound: torch.Tensor, ridge: torch.Tensor
    ) -> torch.Tensor:
        """Block principal pivoting (Kim and Park, 2011): guess what is bound, solve, swap.

        All wrong pairs are swapped at once, which nearly always ends in a few rounds; after
        TOGETHER rounds only the last wrong one, which cannot go in circles (Murty, 1974).
        """
        m = shortfall.shape[1]
        places = torch.arange(m, device=shortfall.device)
        tolerance = 1e-10 * (1 + shortfall.abs().amax(1, keepdim=True))
        found = torch.zeros_like(shortfall)
        for attempt in range(TOGETHER + 10 * m):
            found = self.solve_bound(shortfall, bound, ridge)
            left = shortfall - self.differences(self.spread(found) @ self.gram) - ridge * found
            wrong = torch.where(bound, found < 0, left > tolerance)
            if not bool(wrong.any()):
                break
            if attempt >= TOGETHER:
                wrong &= places == torch.where(wrong, places, -1).amax(1, keepdim=True)
            bound = bound ^ wrong
        return found.clamp(min=0)

    def solve_bound(
        self, shortfall: torch.Tensor, bound: torch.Tensor, ridge: torch.Tensor
    ) -> torch.Tensor:
        """The multipliers that put the bound pairs at the margin; 0 for the others."""
        most = int(bound.sum(1).amax())
        chosen = bound.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        inside = bound.gather(1, chosen)
        high, low = self.higher.gather(1, chosen), self.lower.gather(1, chosen)
        rows = self.gram[high] - self.gram[low]  # (N, most, C)
        shape = (len(chosen), most, most)
        system = rows.gather(2, high[:, None].expand(shape))
        system = system - rows.gather(2, low[:, None].expand(shape))
        system = system * (inside[:, :, None] & inside[:, None])  # a place to spare: 1 * x = 0
        system = system + torch.diag_embed(torch.where(inside, ridge, 1.0))
        wanted = shortfall.gather(1, chosen) * inside
        found = torch.linalg.solve_ex(system, wanted[:, :, None])[0][:, :, 0]
        return torch.zeros_like(shortfall).scatter(1, chosen, found)
