"""Properties in VNN-LIB 1.0 files: boxes of inputs X and linear constraints on the outputs Y.

The format of the verification competition, a subset of SMT-LIB (Demarchi, Guidotti, Pulina and
Tacchella, 2023). A file describes the counterexamples, not what should hold.
"""

from __future__ import annotations

import gzip
import math
import operator
import re
import zlib
from functools import reduce
from itertools import chain, pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from workbench.models import Classifier
from workbench.proofs.properties import Properties, Property

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
VARIABLE = re.compile(r"[XY]_\d+")
DEEP = 100
MANY = 100_000  # ways in which alternatives can be combined
LARGEST = float(np.finfo(np.float32).max)
GZIP = b"\x1f\x8b"
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


class Term(NamedTuple):
    """A word, or the parts of a bracket, and the line on which it begins."""

    word: str
    parts: list[Term]
    line: int

    def __str__(self) -> str:
        return self.word or f"({' '.join(map(str, self.parts))})"


class Row(NamedTuple):
    """The constraint `low <= high` between variables and numbers (`<` if strict), its line."""

    low: str | float
    high: str | float
    line: int
    strict: bool = False

    def of(self, kind: str) -> list[str]:
        """The inputs (X) or outputs (Y) in it."""
        return [name for name in self[:2] if isinstance(name, str) and name[0] == kind]


class Empty(ValueError):
    """A box whose bounds contradict each other."""


def read_vnnlib(
    path: str | Path, model: Classifier, n_outputs: int | None = None
) -> Property | Properties:
    """The property in a VNN-LIB 1.0 file, which may be packed (gzip).

    X are the inputs of the model, an image flattened channel by channel, row by row; they may
    lie outside [0, 1]. Y are its outputs, or the first `n_outputs`. A file with several boxes of
    inputs gives `Properties`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed file (with the line and what was expected), other numbers of
            inputs and outputs than the model's, inputs that are no boxes.
    """
    path = Path(path)
    try:
        # What is no UTF-8 can only stand in a comment; anywhere else it is no word of ours.
        text = unpacked(path).decode("utf-8-sig", errors="replace")
        return property_of(text, model, Path(path.name.removesuffix(".gz")).stem, n_outputs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def unpacked(path: Path) -> bytes:
    """What a file holds, unpacked where it is a gzip file.

    Raises:
        ValueError: a gzip file that is damaged.
    """
    content = path.read_bytes()
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"a gzip file that is damaged or cut short ({error})") from None


def property_of(
    text: str, model: Classifier, name: str, n_outputs: int | None = None
) -> Property | Properties:
    """The property that the text of a file describes."""
    pixels, classes = math.prod(model.input_shape), len(model.classes)
    asserted, end = assertions(text, {"X": pixels, "Y": n_outputs or classes})
    # What is asserted without alternatives holds in each way: it is looked at once.
    always = list(chain(*(ways[0] for ways in asserted if len(ways) == 1)))
    choices = [ways for ways in asserted if len(ways) > 1]
    if math.prod(map(len, choices)) > MANY:
        raise malformed(end, f"expected at most {MANY:,} ways to combine the alternatives (or)")
    outer = narrowed(np.repeat([[-np.inf], [np.inf]], pixels, axis=1), always)
    unsafe = [row for row in always if row.of("Y")]
    boxes: dict[bytes, tuple[np.ndarray, list[tuple[torch.Tensor, torch.Tensor]]]] = {}
    contradiction = None
    for way in product(*choices):
        rows = list(chain(*way))
        try:
            sides = narrowed(outer, rows) if any(row.of("X") for row in rows) else outer
        except Empty as error:
            contradiction = contradiction or error
            continue
        _, sets = boxes.setdefault(sides.tobytes(), (sides, []))
        sets.append(polyhedron([*unsafe, *(row for row in rows if row.of("Y"))], classes, end))
    if contradiction and not boxes:
        raise contradiction
    parts = []
    for i, (sides, sets) in enumerate(boxes.values()):
        if np.isinf(sides).any():
            missing = int(np.isinf(sides).any(0).argmax())
            raise malformed(end, f"X_{missing}: expected a lower and an upper bound")
        outside, inside = (part.view(2, *model.input_shape) for part in rounded(sides))
        inner = None if torch.equal(outside, inside) else (inside[0], inside[1])
        title = name if len(boxes) == 1 else f"{name}, box {i}"
        parts.append(Property(outside[0], outside[1], tuple(sets), name=title, inner=inner))
    return parts[0] if len(parts) == 1 else Properties(tuple(parts), name)


def assertions(text: str, counts: dict[str, int]) -> tuple[list[list[list[Row]]], int]:
    """Each asserted formula as alternatives, and the last line; the variables are as many as
    `counts` says."""
    names: set[str] = set()
    formulas, end = [], 1
    for term in terms(text):
        end = term.line
        command, arguments = head(term)
        kind = [str(argument) for argument in arguments[1:]]
        if (command, *kind) in (("declare-const", "Real"), ("declare-fun", "()", "Real")):
            variable = str(arguments[0])
            if not VARIABLE.fullmatch(variable) or variable in names:
                raise expected("a new name such as X_0 or Y_0", arguments[0])
            names.add(variable)
        elif command == "assert" and len(arguments) == 1:
            formulas.append(arguments[0])
        else:
            raise expected("(declare-const X_0 Real) or (assert ...)", term)
    for kind_, count in counts.items():
        declared = {variable for variable in names if variable[0] == kind_}
        if declared != {f"{kind_}_{i}" for i in range(count)}:
            raise malformed(
                end,
                f"expected {kind_}_0 to {kind_}_{count - 1} declared, got {len(declared)} {kind_}",
            )
    return [alternatives(formula, names) for formula in formulas], end


def terms(text: str) -> list[Term]:
    """The text as nested brackets."""
    stack = [Term("", [], 0)]
    # Only these end a line, and so a comment: a form feed in one does not.
    for line, row in enumerate(re.split(r"\r\n?|\n", text), 1):
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
        if math.prod(map(len, each)) > MANY:
            raise malformed(term.line, f"expected at most {MANY:,} ways to combine alternatives")
        return [list(chain(*choice)) for choice in product(*each)]
    if sign not in ("<=", ">=", "<", ">", "=") or len(parts) < 2:
        raise expected("(and ...), (or ...), (<= a b) or (>= a b)", term)
    rows = []
    for low, high in pairwise(part.word if part.word in names else number(part) for part in parts):
        if sign in (">=", ">"):
            low, high = high, low
        rows.append(Row(low, high, term.line, strict=sign in ("<", ">")))
        if sign == "=":
            rows.append(Row(high, low, term.line))
    if any(bool(row.of("X")) == bool(row.of("Y")) for row in rows):
        raise expected("a constraint on inputs X alone or on outputs Y alone", term)
    return [rows]


def number(term: Term) -> float:
    """A number, or arithmetic on numbers such as (- 1.5) or (/ 1 3)."""
    value = math.nan
    if NUMBER.fullmatch(term.word):
        value = float(term.word)
    elif not term.word:
        sign, parts = head(term)
        if sign not in OPERATIONS or not parts:
            raise expected("a number or a declared variable", term)
        try:
            values = [number(part) for part in parts]
            value = (
                -values[0] if (sign, len(parts)) == ("-", 1) else reduce(OPERATIONS[sign], values)
            )
        except (ValueError, ArithmeticError):
            value = math.nan
    if not math.isfinite(value):
        raise expected("a number or a declared variable", term)
    return value


def narrowed(sides: np.ndarray, rows: list[Row]) -> np.ndarray:
    """The lower and upper bounds `(2, pixels)` with those of rows on X, float64."""
    sides = sides.copy()
    for row in rows:
        if not row.of("X"):
            continue
        bound, name = (row.low, row.high) if isinstance(row.low, float) else (row.high, row.low)
        if isinstance(bound, str):
            raise malformed(row.line, f"expected a bound of one input, got {row.low} <= {row.high}")
        if abs(bound) > LARGEST:
            raise malformed(row.line, f"{name}: expected bounds that float32 can hold, got {bound}")
        i, lower = int(str(name)[2:]), name == row.high
        if row.strict:
            bound = math.nextafter(bound, math.inf if lower else -math.inf)
        if lower:
            sides[0, i] = max(sides[0, i], bound)
        else:
            sides[1, i] = min(sides[1, i], bound)
        if sides[0, i] > sides[1, i]:
            raise Empty(f"line {row.line}: {name}: its lower bound is above its upper bound")
    return sides


def rounded(sides: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The box in float32, rounded outwards, for a proof, and inwards, for counterexamples.

    Where no number of float32 is inside, the nearest ones are.
    """
    near = sides.astype(np.float32)
    away = np.array([[-np.inf], [np.inf]], np.float32)
    cut = np.stack([near[0] > sides[0], near[1] < sides[1]])
    beyond = np.stack([near[0] < sides[0], near[1] > sides[1]])
    outside = np.where(cut, np.nextafter(near, away), near)
    inside = np.where(beyond, np.nextafter(near, -away), near)
    inside = np.where(inside[0] > inside[1], near, inside)
    return torch.from_numpy(outside), torch.from_numpy(inside)


def polyhedron(rows: list[Row], classes: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as `A @ logits <= b`: `(m, K)` and `(m,)`, float64."""
    if not rows:
        raise malformed(end, "expected a constraint on the outputs Y")
    a, b = np.zeros((len(rows), classes)), np.zeros(len(rows))
    for i, row in enumerate(rows):
        for sign, value in ((1.0, row.low), (-1.0, row.high)):
            if isinstance(value, str):
                a[i, int(value[2:])] += sign
            else:
                b[i] -= sign * value
        if row.strict:
            b[i] = math.nextafter(b[i], -math.inf)
        if b[i] < 0 and not a[i].any():
            b[i] = -1.0  # it never holds, and by no margin that rounding could hide
    return torch.from_numpy(a), torch.from_numpy(b)


def expected(what: str, term: Term) -> ValueError:
    """The error for something else than `what`."""
    got = str(term)
    return malformed(
        term.line, f"expected {what}, got {got if len(got) < 60 else got[:57] + '...'}"
    )


def malformed(line: int, message: str) -> ValueError:
    """An error of one line of the file."""
    return ValueError(f"line {line}: {message}")
