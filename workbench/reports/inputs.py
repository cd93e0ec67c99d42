"""The parameters of a notebook: read from its `parameters` cell, checked by annotation.

Nothing in the notebook is executed: the cell is read with `ast`.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

import nbformat
from pydantic import ConfigDict, TypeAdapter, ValidationError

from workbench import checks

KINDS: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
KINDS |= {"list[int]": list[int], "list[float]": list[float], "list[str]": list[str]}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True}
BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}
UNREADABLE = (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell, `name: annotation = default  # help`."""

    name: str
    annotation: str
    default: Any
    help: str = ""


def parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters a notebook declares in its cell tagged `parameters`, in order.

    A notebook without such a cell has none.

    Raises:
        FileNotFoundError, ValueError: no such notebook, or not a notebook.
        ValueError: two such cells, or a line that is not an annotated assignment of a
            literal (a quotient of numbers, such as 8/255, counts as one).
    """
    cells = [
        cell.source
        for cell in read_notebook(notebook).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) > 1:
        raise ValueError(f"{notebook}: {len(cells)} cells are tagged 'parameters', expected one")
    try:
        return _declared(cells[0]) if cells else {}
    except ValueError as error:
        raise ValueError(f"{notebook}, parameters cell: {error}") from None


def coerce(declared: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, Any]:
    """The given values, each in the type its parameter is annotated with.

    Text is read by the annotation: "8/255" for a float, "false" for a bool, "1,2,3" or
    "[1, 2, 3]" for a list, "none" for None where None is allowed. Names that are not
    given are left out.

    Raises:
        ValueError: an unknown name, or a value of another type.
    """
    values = {}
    for name, value in given.items():
        if name not in declared:
            raise checks.unknown("parameter", name, declared)
        values[name] = _checked(name, declared[name].annotation, value)
    return values


def load_parameters(path: str | Path) -> dict[str, object]:
    """The values in a parameters file: .toml or .json, one top-level key each.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a broken one, or one that holds no table.
    """
    path = Path(path)
    readers = {".toml": tomllib.loads, ".json": json.loads}
    if path.suffix not in readers:
        raise ValueError(f"parameters file: expected one that ends in .toml or .json, got {path}")
    try:
        values = readers[path.suffix](path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected names with values, got {type(values).__name__}")
    return values


def read_notebook(path: str | Path) -> nbformat.NotebookNode:
    """Read a notebook file; a ValueError says that it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except OSError:
        raise
    except Exception as error:  # nbformat leaks KeyError, AttributeError and its own kinds
        raise ValueError(f"notebook: {path} is not a Jupyter notebook: {error!r:.200}") from None


def _declared(source: str) -> dict[str, Parameter]:
    try:
        lines = ast.parse(source).body
    except UNREADABLE as error:
        raise ValueError(f"not plain Python: {error}") from None
    helps = _comments(source)
    found = {}
    for node in lines:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            raise ValueError(
                f"line {node.lineno}: expected `name: annotation = value  # help`, "
                f"got {short(ast.unparse(node))}"
            )
        name = ast.unparse(node.target)
        try:
            value = _literal(node.value)
        except UNREADABLE:
            got = short(ast.unparse(node.value))
            raise ValueError(f"{name}: expected a literal value, got {got}") from None
        annotation = ast.unparse(node.annotation)
        default = _checked(name, annotation, value, text=False)
        found[name] = Parameter(name, annotation, default, helps.get(node.end_lineno, ""))
    return found


def _comments(source: str) -> dict[int | None, str]:
    """The comment at the end of each line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _literal(node: ast.expr) -> Any:
    """The value of a literal, of a quotient of numbers, or of a list of those."""
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        above, below = ast.literal_eval(node.left), ast.literal_eval(node.right)
        if {type(above), type(below)} <= {int, float}:
            return above / below
    return ast.literal_eval(node)


def _checked(name: str, annotation: str, value: Any, *, text: bool = True) -> Any:
    """`value` in the annotated type; with `text`, strings are read by the annotation."""
    kind = annotation.removesuffix(" | None")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"{name}: expected {known} or one of them | None, got {annotation}")
    read = value.tolist() if hasattr(value, "tolist") else value
    if kind != annotation and (read is None or (text and str(read).strip().lower() == "none")):
        return None
    adapter = TypeAdapter(KINDS[kind], config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        return adapter.validate_python(_read(read, kind) if text else read)
    except (*UNREADABLE, ValidationError):
        raise ValueError(f"{name}: expected {annotation}, got {short(value)}") from None


def _read(value: Any, kind: str) -> Any:
    """Text read as `kind`; any other value is left as it is."""
    if kind.startswith("list["):
        items = _items(value) if isinstance(value, str) else value
        item_kind = kind.removeprefix("list[").removesuffix("]")
        return [_read(item, item_kind) for item in items] if isinstance(items, list) else items
    if not isinstance(value, str) or kind == "str":
        return value
    if kind == "bool":
        return BOOLEANS.get(value.strip().lower(), value)
    return _literal(ast.parse(value.strip(), mode="eval").body)


def _items(text: str) -> Any:
    """The items of "[1, 2]", "['a', 'b']" or "1, 2"; "" has none."""
    text = text.strip()
    if text.startswith("["):
        return _literal(ast.parse(text, mode="eval").body)
    return [item.strip() for item in text.split(",")] if text else []
