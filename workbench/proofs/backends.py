"""Other people's solvers as backends: Marabou, and Z3 for tiny networks. Neither is required.

Wu et al. (2024), "Marabou 2.0"; de Moura and Bjorner (2008), "Z3". They are given the network
and the property, and none of our bounds.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch

from workbench.proofs import marabou
from workbench.proofs.properties import Answer
from workbench.proofs.query import Query
from workbench.steps import Step

Terms = list[tuple[float, int]]
Rows = list[tuple[Terms, float]]  # each at most its number
# A solver likes the edge of a set, where rounding decides: then it is asked again, further in.
MARGINS = (0.0, 1e-4, 1e-2, 1e-1)


class Encoding:
    """A query as numbered variables: the image, the N outputs of neurons y, their inputs z,
    and the logits.

    sums: each z and logit with its bias and its terms. relus: each z, its y, and its phase
    (+1 on, -1 off, 0 free). sides: of each pixel. logits: the first. count: of all variables.
    """

    def __init__(self, query: Query) -> None:
        net, signs = query.net, query.root.sign[0].tolist()
        starts = [0, *accumulate(net.sizes[: net.top])]
        first = starts[-1]
        self.sides = torch.stack([query.prop.lower, query.prop.upper]).view(2, -1).T.tolist()
        self.relus = [(first + i, starts[1] + i, sign) for i, sign in enumerate(signs)]
        self.logits = first + len(signs)
        self.count = self.logits + net.sizes[-1]
        self.sums: list[tuple[int, float, Terms]] = []
        for k in range(1, net.top + 1):
            blocks = [(starts[j], net.weight.get((k, j))) for j in range(k)]
            dense = [(start, w.to_dense().tolist()) for start, w in blocks if w is not None]
            for i, bias in enumerate(net.bias[k].flatten().tolist()):
                query.clock.check()
                terms = [(w, s + c) for s, rows in dense for c, w in enumerate(rows[i]) if w]
                self.sums.append((first + len(self.sums), bias, terms))


def marabou_steps(query: Query, seed: int = 0) -> Iterator[Step[Answer]]:
    """Marabou, one query for each unsafe set, on one core. Its arithmetic rounds.

    Raises:
        ImportError: maraboupy is not installed.
    """
    solver("maraboupy.MarabouCore", "maraboupy")
    code = ""

    def ask(query: Query, encoding: Encoding, unsafe: Rows, inside: float) -> list[float] | None:
        nonlocal code
        code = code or json.dumps(vars(encoding))
        return marabou.solve(code, unsafe, inside, query.clock.left)

    return one_by_one(query, ask)


def z3_steps(query: Query, seed: int = 0) -> Iterator[Step[Answer]]:
    """Z3 in exact fractions: for networks of a few dozen neurons.

    Raises:
        ImportError: z3-solver is not installed.
    """
    z3 = solver("z3", "z3-solver")

    def ask(query: Query, code: Encoding, unsafe: Rows, inside: float) -> list[float] | None:
        exact = z3.Solver()
        v = z3.RealVector("v", code.count)

        def total(terms: Terms) -> Any:
            return z3.Sum([number(weight) * v[i] for weight, i in terms])

        def number(value: float) -> Any:
            return z3.Q(*value.as_integer_ratio())

        for i, (low, high) in enumerate(code.sides):
            exact.add(v[i] >= number(low), v[i] <= number(high))
        for z, bias, terms in code.sums:
            query.clock.check()
            exact.add(v[z] == total(terms) + number(bias))
        for z, y, phase in code.relus:
            on, off = z3.And(v[y] == v[z], v[z] >= 0), z3.And(v[y] == 0, v[z] <= 0)
            exact.add(z3.Or(on, off), phase * v[z] >= number(inside if phase else 0.0))
        for terms, bound in unsafe:
            exact.add(total(terms) <= number(bound - inside))
        exact.set("timeout", max(1, int(1000 * query.clock.left)))
        status = exact.check()
        if status == z3.unknown:
            raise TimeoutError(f"Z3 says {exact.reason_unknown()}")
        if status == z3.unsat:
            return None
        assignment = exact.model()
        values = (assignment.eval(v[i], model_completion=True) for i in range(len(code.sides)))
        return [float(value.as_fraction()) for value in values]

    return one_by_one(query, ask)


def one_by_one(
    query: Query, ask: Callable[[Query, Encoding, Rows, float], list[float] | None]
) -> Iterator[Step[Answer]]:
    """Ask about the unsafe sets, the nearest to the centre of the box first.

    `ask` gives an image that a solver found `inside` the set and the phases by so much, None
    where there is none, and raises TimeoutError when it is late.
    """
    prop = query.prop
    code, total = Encoding(query), len(prop.unsafe)
    logits = query.net.run(query.root.centre[None])[-1][0]
    order = [float((a.double() @ logits - b.double()).max()) for a, b in prop.unsafe]
    doubt = ""
    for done, i in enumerate(sorted(range(total), key=order.__getitem__)):
        query.branches, query.open = done, total - done
        yield Step(done, total, f"{done} of {total} unsafe sets", query.answer("open"))
        a, b = (part.double() for part in prop.unsafe[i])
        unsafe = [
            ([(w, code.logits + k) for k, w in enumerate(row) if w], bound)
            for row, bound in zip(a.tolist(), b.tolist(), strict=True)
        ]
        for inside in MARGINS:
            query.clock.check()
            image = ask(query, code, [row for row in unsafe if row[0]], inside)
            if image is None:
                break
            x = query.counterexample(torch.tensor([image], dtype=torch.float64))
            if x is not None:
                answer = query.answer("refuted", counterexample=x)
                yield Step(total, total, answer.verdict, answer)
                return
            doubt = "a counterexample of the solver does not hold on the real network"
    query.branches, query.open = total, 0
    answer = query.answer("open" if doubt else "proved", note=doubt)
    yield Step(total, total, answer.verdict, answer)


def solver(module: str, package: str) -> Any:
    """A solver's module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f"backend: {name} is not installed; pip install {package}") from error
