"""The parameters of a notebook: read from its `parameters` cell, checked by annotation.

Nothing in the notebook is executed: the cell is read with `ast`.
"""

from __future__ import annotations

import ast
import io
import json
import operator
import re
import tokenize
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, get_args, get_origin

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from pydantic import ConfigDict, TypeAdapter, ValidationError

from workbench import checks
from workbench.params import pieces

SCALARS: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
ALLOWED = "int, float, str, bool, a Literal, a list of one of these, or one of these | None"
OTHERS = re.compile(r"(ir|julia|bash|xcpp|deno|javascript|rust|octave|matlab|sagemath)\b")
ARITHMETIC = {ast.Div: operator.truediv, ast.Mult: operator.mul, ast.Pow: operator.pow}
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
        ValueError: another language than Python; two such cells; or a line that is neither
            an import from typing nor an annotated assignment of a literal (a product, quotient
            or power of numbers, such as 8/255, counts as one).
    """
    content = read_notebook(notebook)
    if (language := _language(content)).lower() not in ("python", "ipython"):
        raise ValueError(
            f"{notebook} is written in {language}, and reports run Python; if its cells are "
            "Python, choose a Python kernel in JupyterLab (Kernel > Change Kernel) and save it"
        )
    cells = [
        cell.source
        for cell in content.cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) > 1:
        raise ValueError(f"{notebook}: {len(cells)} cells are tagged 'parameters', expected one")
    try:
        return declared(cells[0]) if cells else {}
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
        checks.known("parameter", name, declared)
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
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        content.setdefault("metadata", {})
        for cell in content.get("cells", ()):
            if not isinstance(cell.setdefault("metadata", {}).get("tags", []), list):
                del cell["metadata"]["tags"]
        notebook = nbformat.reads(json.dumps(content), as_version=4)
        if any(cell.cell_type not in ("code", "markdown", "raw") for cell in notebook.cells):
            raise ValueError("a cell is neither code nor markdown nor raw")
        return notebook
    except OSError:
        raise
    except Exception as error:  # nbformat leaks KeyError, AttributeError and its own kinds
        raise ValueError(f"notebook: {path} is not a Jupyter notebook: {error!r:.200}") from None


def reassigned(notebook: nbformat.NotebookNode, names: Mapping[str, Parameter]) -> Iterator[str]:
    """What a later cell sets, with no regard to its value: each as "cell 3 sets eps"."""
    later = False
    for number, cell in enumerate(notebook.cells, 1):
        try:
            lines = ast.parse(cell.source).body if cell.cell_type == "code" and later else []
        except UNREADABLE:  # commands of IPython, perhaps
            lines = []
        later |= cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
        for node in lines:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                used = {getattr(inner, "id", "") for inner in ast.walk(node.value)}
                for name in {getattr(t, "id", "") for t in targets} & {*names} - used:
                    yield f"cell {number} sets {name}"


def texts(source: str) -> list[str]:
    """Every text in quotes in a cell, and in such a text in its turn.

    So the name of a model is one, with the names in its quotes: "a | Distil(teacher='b')".
    """
    try:
        tree = ast.parse(TransformerManager().transform_cell(source))
    except UNREADABLE:  # no code
        return []
    values = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    whole = [value for value in values if isinstance(value, str)]
    return whole + [text for value in whole if re.search("['\"]", value) for text in texts(value)]


def _language(notebook: nbformat.NotebookNode) -> str:
    """The language of a notebook: Python, where it names none."""
    kernel = notebook.metadata.get("kernelspec") or {}
    named = (notebook.metadata.get("language_info") or {}).get("name")
    other = OTHERS.match(str(kernel.get("name", "")))
    return str(kernel.get("language") or named or (other and other[1]) or "python")


def declared(source: str) -> dict[str, Parameter]:
    """The parameters in the source of a parameters cell; a ValueError says what is wrong."""
    command = re.search(r"^\s*([%!?].*)", source, re.MULTILINE)
    try:
        lines = ast.parse(source).body
    except UNREADABLE as error:
        why = f"`{command[1]}` is for IPython: put it into another cell" if command else error
        raise ValueError(f"not plain Python: {why}") from None
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    helps = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found: dict[str, Parameter] = {}
    for node in lines:
        if isinstance(node, ast.ImportFrom) and node.module in ("typing", "__future__"):
            continue
        if not isinstance(node, ast.AnnAssign) or node.value is None or not node.simple:
            raise ValueError(
                f"line {node.lineno}: expected `name: annotation = value  # help`, "
                f"got {short(ast.unparse(node))}"
            )
        name = ast.unparse(node.target)
        if name in found:
            raise ValueError(f"line {node.lineno}: expected one line for {name}, got another")
        try:
            value = _literal(node.value)
        except UNREADABLE:
            got = short(ast.unparse(node.value))
            raise ValueError(f"{name}: expected a literal value, got {got}") from None
        annotation = ast.unparse(node.annotation)
        default = _checked(name, annotation, value, text=False)
        found[name] = Parameter(name, annotation, default, helps.get(node.end_lineno or 0, ""))
    return found


def _literal(node: ast.expr) -> Any:
    """The value of a literal, of a product, quotient or power of numbers, or of a list."""
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = _literal(node.left), _literal(node.right)
        small = not isinstance(node.op, ast.Pow) or (abs(left) <= 1e6 and abs(right) <= 64)
        if {type(left), type(right)} <= {int, float} and small:  # 9**9**9 would take for ever
            return ARITHMETIC[type(node.op)](left, right)
    return ast.literal_eval(node)


def _checked(name: str, annotation: str, value: Any, *, text: bool = True) -> Any:
    """`value` in the annotated type; with `text`, strings are read by the annotation."""
    try:
        item, many, optional = _kind(ast.parse(annotation, mode="eval").body)
    except UNREADABLE:
        raise ValueError(f"{name}: expected {ALLOWED}, got {annotation}") from None
    read = value.tolist() if hasattr(value, "tolist") else value
    if optional and (read is None or (text and str(read).strip().lower() == "none")):
        return None
    kind = list[item] if many else item  # type: ignore[valid-type]
    adapter = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        read = _read(read, item, many) if text else read
        checked = adapter.validate_python(read)
        if repr(read) != repr(checked) and get_origin(item) is Literal:
            raise ValueError  # pydantic takes True for 1
        return checked
    except (*UNREADABLE, ValidationError):
        choices = "" if many else " or ".join(map(repr, get_args(item)))
        raise ValueError(f"{name}: expected {choices or annotation}, got {short(value)}") from None


def _kind(node: ast.expr) -> tuple[Any, bool, bool]:
    """Of an annotation: the type of a value or of an item, whether a list, whether None too."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # in quotes
        return _kind(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        some = [side for side in (node.left, node.right) if ast.unparse(side) != "None"]
        if len(some) == 1:
            return *_kind(some[0])[:2], True
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).rpartition(".")[2]
        if outer == "Literal":
            options = ast.literal_eval(node.slice)
            options = options if isinstance(options, tuple) else (options,)
            if {type(option) for option in options} <= {*SCALARS.values(), type(None)}:
                return Literal[options], False, None in options
            raise ValueError
        item, many, optional = _kind(node.slice)
        if outer == "Optional":
            return item, many, True
        if outer in ("list", "List") and not many and not optional:
            return item, True, False
    if ast.unparse(node) not in SCALARS:
        raise ValueError
    return SCALARS[ast.unparse(node)], False, False


def _read(value: Any, item: Any, many: bool) -> Any:
    """Text read as an item or a list of items; any other value is left as it is."""
    if many:
        items = _items(value) if isinstance(value, str) else value
        return [_read(each, item, False) for each in items] if isinstance(items, list) else items
    if not isinstance(value, str) or item is str:
        return value
    if get_origin(item) is Literal:
        options = {str(option): option for option in get_args(item)}
        return options.get(value, options.get(value.strip(), value))
    if item is bool:
        return BOOLEANS.get(value.strip().lower(), value)
    return _literal(ast.parse(value.strip(), mode="eval").body)


def _items(text: str) -> Any:
    """The items of "[1, 2]", "['a', 'b']", "(1, 2)" or "1, 2"; "" has none."""
    text = text.strip()
    if text.startswith(("[", "(")):
        read = _literal(ast.parse(text, mode="eval").body)
        return list(read) if isinstance(read, tuple) else read
    return pieces(text, ",") if text else []
