"""Properties in VNN-LIB 1.0 files: a box of inputs X and linear constraints on the outputs Y.

The format of the verification competition, a subset of SMT-LIB (Demarchi, Guidotti, Pulina and
Tacchella, 2023). A file describes the counterexamples, not what should hold.
"""

from __future__ import annotations

import math
import re
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from workbench.checks import ROUNDING
from workbench.models import Classifier
from workbench.patterns.verify.properties import Property

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
VARIABLE = re.compile(r"[XY]_\d+")
DEEP = 100


class Term(NamedTuple):
    """A word, or the parts of a bracket, and the line on which it begins."""

    word: str
    parts: list[Term]
    line: int

    def __str__(self) -> str:
        return self.word or f"({' '.join(map(str, self.parts))})"


class Row(NamedTuple):
    """The constraint `low <= high` between variables and numbers, and its line."""

    low: str | float
    high: str | float
    line: int

    def of(self, kind: str) -> list[str]:
        """The inputs (X) or outputs (Y) in it."""
        return [name for name in self[:2] if isinstance(name, str) and name[0] == kind]


def read_vnnlib(path: str | Path, model: Classifier) -> Property:
    """The property in a VNN-LIB 1.0 file; X are the pixels of the flattened image, in [0, 1].

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed file (with the line and what was expected), other numbers of
            inputs and outputs than the model's, inputs that are no box in [0, 1].
    """
    path = Path(path)
    try:
        return property_of(path.read_text(encoding="utf-8"), model, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def property_of(text: str, model: Classifier, name: str) -> Property:
    """The property that the text of a file describes."""
    names: set[str] = set()
    asserted, end = [], 1
    for term in terms(text):
        end = term.line
        command, arguments = head(term)
        if command == "declare-const" and [str(a) for a in arguments[1:]] == ["Real"]:
            variable = str(arguments[0])
            if not VARIABLE.fullmatch(variable) or variable in names:
                raise expected("a new name such as X_0 or Y_0", arguments[0])
            names.add(variable)
        elif command == "assert" and len(arguments) == 1:
            asserted.append(alternatives(arguments[0], names))
        else:
            raise expected("(declare-const X_0 Real) or (assert ...)", term)
    pixels, classes = math.prod(model.input_shape), len(model.classes)
    for kind, count in (("X", pixels), ("Y", classes)):
        declared = {variable for variable in names if variable[0] == kind}
        if declared != {f"{kind}_{i}" for i in range(count)}:
            raise malformed(
                end, f"expected {kind}_0 to {kind}_{count - 1} declared, got {len(declared)} {kind}"
            )
    ways = [list(chain(*choice)) for choice in product(*asserted)]
    inputs = [{row[:2]: row for row in way if row.of("X")} for way in ways]
    for rows in inputs:
        if differ := rows.keys() ^ inputs[0].keys():
            line = min((rows | inputs[0])[key].line for key in differ)
            raise malformed(line, "expected one box of inputs, got (or ...) over boxes: split it")
    lower, upper = box([*inputs[0].values()], pixels, end).view(2, *model.input_shape)
    unsafe = tuple(polyhedron([row for row in way if row.of("Y")], classes, end) for way in ways)
    return Property(lower, upper, unsafe, name=name)


def terms(text: str) -> list[Term]:
    """The text as nested brackets."""
    stack = [Term("", [], 0)]
    for line, row in enumerate(text.splitlines(), 1):
        for word in re.findall(r"[()]|[^\s()]+", row.partition(";")[0]):
            if len(stack) > DEEP:
                raise malformed(line, f"expected at most {DEEP} brackets within each other")
            if word == "(":
                stack.append(Term("", [], line))
            elif word != ")":
                stack[-1].parts.append(Term(word, [], line))
            elif len(stack) > 1:
                stack[-2].parts.append(stack.pop())
            else:
                raise malformed(line, "expected a '(' before this ')'")
    if len(stack) > 1:
        raise malformed(stack[-1].line, "expected a ')' for the '(' of this line")
    return stack[0].parts


def head(term: Term) -> tuple[str, list[Term]]:
    """The first word of a bracket, and the rest."""
    return (term.parts[0].word, term.parts[1:]) if term.parts else ("", [])


def alternatives(term: Term, names: set[str]) -> list[list[Row]]:
    """A formula as a choice (or) between lists of rows that all hold (and)."""
    sign, parts = head(term)
    if sign in ("and", "or") and parts:
        each = [alternatives(part, names) for part in parts]
        if sign == "or":
            return list(chain(*each))
        return [list(chain(*choice)) for choice in product(*each)]
    if sign not in ("<=", ">=") or len(parts) != 2:
        raise expected("(and ...), (or ...), (<= a b) or (>= a b)", term)
    values: list[str | float] = []
    for part in parts:
        if part.word not in names and not NUMBER.fullmatch(part.word):
            raise expected("a number or a declared variable", part)
        values.append(part.word if part.word in names else float(part.word))
    low, high = values if sign == "<=" else values[::-1]
    row = Row(low, high, term.line)
    if bool(row.of("X")) == bool(row.of("Y")):
        raise expected("a constraint on inputs X alone or on outputs Y alone", term)
    return [[row]]


def box(rows: list[Row], pixels: int, end: int) -> torch.Tensor:
    """The box `(2, pixels)` of lower and upper bounds, rounded outwards to float32."""
    sides = np.repeat([[-np.inf], [np.inf]], pixels, axis=1)
    for low, high, line in rows:
        bound, name = (low, high) if isinstance(low, float) else (high, low)
        if isinstance(bound, str):
            raise malformed(line, f"expected a bound of one input, got {low} <= {high}")
        if not -ROUNDING <= bound <= 1 + ROUNDING:
            raise malformed(line, f"{name}: expected bounds in [0, 1], got {bound:g}")
        i = int(str(name)[2:])
        if name == high:
            sides[0, i] = max(sides[0, i], bound)
        else:
            sides[1, i] = min(sides[1, i], bound)
        if sides[0, i] > sides[1, i]:
            raise malformed(line, f"{name}: its lower bound is above its upper bound")
    if np.isinf(sides).any():
        i = int(np.isinf(sides).any(0).argmax())
        raise malformed(end, f"X_{i}: expected a lower and an upper bound")
    found = sides.astype(np.float32)
    away = np.array([[-np.inf], [np.inf]], np.float32)
    cut = np.stack([found[0] > sides[0], found[1] < sides[1]])
    return torch.from_numpy(np.where(cut, np.nextafter(found, away), found))


def polyhedron(rows: list[Row], classes: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as `A @ logits <= b`: `(m, K)` and `(m,)`."""
    if not rows:
        raise malformed(end, "expected a constraint on the outputs Y")
    a, b = torch.zeros(len(rows), classes).double(), torch.zeros(len(rows)).double()
    for i, (low, high, _) in enumerate(rows):
        for sign, value in ((1.0, low), (-1.0, high)):
            if isinstance(value, str):
                a[i, int(value[2:])] += sign
            else:
                b[i] -= sign * value
    return a, b


def expected(what: str, term: Term) -> ValueError:
    """The error for something else than `what`."""
    got = str(term)
    return malformed(
        term.line, f"expected {what}, got {got if len(got) < 60 else got[:57] + '...'}"
    )


def malformed(line: int, message: str) -> ValueError:
    """An error of one line of the file."""
    return ValueError(f"line {line}: {message}")
