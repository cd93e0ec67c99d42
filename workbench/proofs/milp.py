"""Verification as mixed-integer linear programs, one for each unsafe set, by HiGHS.

Tjeng, Xiao and Tedrake (2019): a binary variable for each ReLU whose phase is open, with the
bounds of its input as big M. A phase that is given, or that bounds decide, needs none.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from workbench.proofs.branching import (
    EFFORTS,
    conclusion,
    last,
    leaf,
    opening,
    settled,
)
from workbench.proofs.network import Network
from workbench.proofs.properties import Answer
from workbench.proofs.query import Query
from workbench.steps import Step

MARGIN = 1e-5  # an unsafe set is taken as that much larger, for the tolerance of the solver
DEEP = 1e-3  # that far inside it, and inside the phases, an image is as good as any
INFEASIBLE = 2  # what SciPy calls it, and a model that HiGHS cannot read: the message tells


def milp_steps(query: Query, seed: int = 0) -> Iterator[Step[Answer]]:
    """Ask HiGHS about the unsafe sets one by one, without any search before."""
    for again, (ascent, _) in enumerate(EFFORTS):
        if (yield from opening(query, ascent, again > 0)):
            return
    total = len(query.a)
    program = Program(query)
    for which in range(total):
        query.open = total - which
        yield Step(which, total, f"{which} of {total} unsafe sets", query.answer("open"))
        solution = milp(
            **program.variables,
            constraints=[*program.relus, program.unsafe(query, which)],
            options={"time_limit": max(0.01, query.clock.left)},
        )
        query.branches += 1 + int(solution.get("mip_node_count") or 0)
        if solution.status == INFEASIBLE and "infeasible" in solution.message.lower():
            continue
        if solution.x is not None:
            image = torch.from_numpy(solution.x[None, : query.net.sizes[0]])
            _, x = leaf(query, settled(query, image), which)
            if x is not None:
                yield last(query, "refuted", counterexample=x)
                return
        query.clock.check()
        query.doubts += 1
    yield conclusion(query)


class Program:
    """A query in variables: the image, the N outputs of ReLUs, for each ReLU that bounds leave
    open whether it is on, and how far the unsafe rows and the phases are broken at most.

    variables: their bounds, which are whole, and that the last is minimised. relus: the
    constraints that make the outputs what they are, inside the phases.
    """

    def __init__(self, query: Query) -> None:
        net, root = query.net, query.root
        low, high, sign = (part[0].double().numpy() for part in root[2:])
        on, free, fixed = low >= 0, root.unstable[0].numpy(), sign != 0
        live = on | free
        n, total, open_ = net.sizes[0], len(low), int(free.sum())
        width = n + total + open_ + 1
        sums = sparse.vstack([inputs(net, k, width) for k in range(1, net.top + 1)], "csr")
        biases = torch.cat(net.bias).numpy()
        self.logits, self.bias = sums[total:], biases[total:]
        z, b = sums[:total], biases[:total]
        y = sparse.eye_array(total, width, k=n, format="csr")
        places = free.nonzero()[0], np.arange(n + total, width - 1)
        is_on = sparse.csr_array((np.ones(open_), places), shape=(total, width))
        last_one = np.arange(total), np.full(total, width - 1)
        broken = sparse.csr_array((np.ones(total), last_one), shape=(total, width))
        pushed = scaled(sign, z)
        # y >= z, y <= z - low * (1 - is_on), y <= high * is_on: so y is z where on, 0 where off.
        self.relus = [
            LinearConstraint((y - z)[live], b[live], np.where(on, b, np.inf)[live]),
            LinearConstraint((y - z - scaled(low, is_on))[free], -np.inf, (b - low)[free]),
            LinearConstraint((y - scaled(high, is_on))[free], -np.inf, 0),
            LinearConstraint(pushed[fixed], (-sign * b)[fixed], np.inf),
            LinearConstraint((pushed + broken)[fixed], (-sign * b)[fixed], np.inf),
        ]
        self.relus = [each for each in self.relus if each.A.shape[0]]
        x_low, x_high = root.centre - root.radius, root.centre + root.radius
        zeros, ones = np.zeros(open_), np.ones(open_)
        lowest = np.concatenate([x_low, np.where(live, low.clip(0), 0), zeros, [-DEEP]])
        highest = np.concatenate([x_high, np.where(live, high.clip(0), 0), ones, [MARGIN]])
        self.variables = {
            "c": np.eye(1, width, width - 1)[0],
            "integrality": np.concatenate([np.zeros(n + total), ones, [0]]),
            "bounds": Bounds(lowest, highest),
        }

    def unsafe(self, query: Query, which: int) -> LinearConstraint:
        """That the logits are in the unsafe set, but for the last variable."""
        a, b = (part.numpy() for part in query.rows(which))
        rows = (a @ self.logits).copy()
        rows[:, -1] = -1
        return LinearConstraint(rows, -np.inf, b - a @ self.bias)


def inputs(net: Network, k: int, width: int) -> sparse.csr_array:
    """The sums of `z_k`, without bias, of the image and the outputs of ReLUs: `(n_k, width)`."""
    blocks = [
        scipy_matrix(net.weight[k, j]) if (k, j) in net.weight else empty(net.sizes[k], n)
        for j, n in enumerate(net.sizes[:-1])
    ]
    return sparse.hstack([*blocks, empty(net.sizes[k], width - sum(net.sizes[:-1]))], "csr")


def empty(rows: int, columns: int) -> sparse.csr_array:
    """A sparse matrix of zeros."""
    return sparse.csr_array((rows, columns))


def scipy_matrix(matrix: torch.Tensor) -> sparse.csr_array:
    """SciPy's form of a dense or CSR matrix."""
    if matrix.layout is torch.strided:
        return sparse.csr_array(matrix.numpy())
    parts = matrix.values(), matrix.col_indices(), matrix.crow_indices()
    return sparse.csr_array(tuple(part.numpy() for part in parts), shape=tuple(matrix.shape))


def scaled(factors: np.ndarray, matrix: sparse.csr_array) -> sparse.csr_array:
    """Each row times its factor."""
    return sparse.diags_array(factors) @ matrix
