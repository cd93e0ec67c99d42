"""Marabou in a process of its own, which can be ended: its preprocessing looks at no clock.

`python -m workbench.proofs.marabou` reads a query in JSON, and writes the answer.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

from workbench.proofs.clock import LATE


def solve(code: str, unsafe: Any, inside: float, seconds: float) -> list[float] | None:
    """The image that Marabou finds in the unsafe set and `inside` it by so much, None for none.

    code: the fields of an `Encoding`, in JSON. unsafe: its rows.

    Raises:
        TimeoutError: it takes longer than that many seconds, or gives up.
        RuntimeError: it fails.
    """
    # Its own limit, in whole seconds, is for a process that nobody waits for any more.
    task = {"unsafe": unsafe, "inside": inside, "seconds": math.ceil(seconds) + 1}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", __name__],
            input=f"{code}\n{json.dumps(task)}\n",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            timeout=max(0.01, seconds),
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(LATE) from None
    if ended.returncode:
        reason = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
        raise RuntimeError(f"backend: Marabou failed: {reason}")
    status, values = json.loads(ended.stdout.splitlines()[-1])
    if status not in ("sat", "unsat"):
        raise TimeoutError(f"Marabou says {status}")
    return values if status == "sat" else None


def answer(code: dict[str, Any], task: dict[str, Any]) -> tuple[str, list[float]]:
    """What Marabou says in this process, and the image."""
    from maraboupy import MarabouCore as core

    query = core.InputQuery()
    query.setNumberOfVariables(code["count"])
    for i, (low, high) in enumerate(code["sides"]):
        query.setLowerBound(i, low)
        query.setUpperBound(i, high)
        query.markInputVariable(i, i)

    def add(kind: Any, terms: list[tuple[float, int]], scalar: float) -> None:
        equation = core.Equation(kind)
        for weight, variable in terms:
            equation.addAddend(weight, variable)
        equation.setScalar(scalar)
        query.addEquation(equation)

    for z, bias, terms in code["sums"]:
        add(core.Equation.EQ, [*terms, (-1.0, z)], -bias)
    for z, y, phase in code["relus"]:
        core.addReluConstraint(query, z, y)
        query.setLowerBound(y, 0.0)
        if phase:
            (query.setLowerBound if phase > 0 else query.setUpperBound)(z, phase * task["inside"])
    for terms, bound in task["unsafe"]:
        add(core.Equation.LE, terms, bound - task["inside"])
    options = core.Options()
    options._verbosity = 0
    options._timeoutInSeconds = task["seconds"]
    status, values, _ = core.solve(query, options, "")
    return status, [values[i] for i in range(len(code["sides"]))] if status == "sat" else []


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(answer(*map(json.loads, sys.stdin))) + "\n")
