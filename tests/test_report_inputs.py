"""Notebooks that people bring to a report: run right, or refused in a sentence."""

import json
import warnings
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from workbench import reports
from workbench.reports import ReportError, inputs

RECORD = "from workbench import reports\nreports.result(eps=eps)"


def tagged(source, *tags):
    return new_code_cell(source, metadata={"tags": [*tags]})


def book(path, *cells, parameters=None, **metadata):
    """A notebook file; `parameters` is the source of its parameters cell."""
    made = [new_code_cell(c) if isinstance(c, str) else c for c in cells]
    if parameters is not None:
        made.insert(0, tagged(parameters, "parameters"))
    nbformat.write(new_notebook(cells=made, metadata=metadata), path)
    return path


def declared(tmp_path, source):
    return reports.parameters(book(tmp_path / "n.ipynb", parameters=source))


def coerced(annotation, value, default: Any = None):
    return reports.coerce({"x": reports.Parameter("x", annotation, default)}, {"x": value})["x"]


def content(report):
    return json.loads(report.results_path.read_text())


# --- annotations --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "readings"),
    [
        ("Literal['Linf', 'L2']", "L2", ["L2", " L2 "]),
        ("typing.Literal['Linf', 'L2']", "Linf", ["Linf"]),
        ("Literal[1, 2]", 2, [2, "2", " 2"]),
        ("Literal[0.1, 0.3]", 0.3, ["0.3", 0.3]),
        ("Literal[True, 'auto']", True, [True, "True"]),
        ("Literal['only']", "only", ["only"]),
        ("Literal['a', 'b'] | None", None, ["none", None]),
        ("None | Literal['a', 'b']", "b", ["b"]),
        ("Optional[Literal['a', 'b']]", None, ["None", None]),
        ("Literal['a', None]", None, ["None", None]),
        ("list[Literal['a', 'b']]", ["b", "a"], ["b,a", "['b', 'a']", "('b', 'a')", ["b", "a"]]),
        ("list[Literal[1, 2]] | None", [2], ["2", "[2]", [2]]),
        ("List[int]", [1, 2], ["1,2", "(1, 2)"]),
        ("list[bool]", [True, False], ["yes,no", [True, False]]),
        ("Optional[float]", 0.5, ["1/2"]),
        ("'int | None'", 4, ["4"]),
        ("float", 8.0, ["2**3", "2 * 4", "16/2"]),
        ("int", 1024, ["2**10", "1_024"]),
        ("float", 0.001, ["1e-3", "10**-3"]),
    ],
)
def test_what_contributing_promises_is_read(annotation, value, readings):
    for reading in readings:
        read = coerced(annotation, reading)
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "value", "word"),
    [
        ("Literal['Linf', 'L2']", "L3", "x: expected 'Linf' or 'L2', got 'L3'"),
        ("Literal['Linf', 'L2']", "", "x: expected 'Linf' or 'L2', got ''"),
        ("Literal['Linf', 'L2']", None, "expected 'Linf' or 'L2', got None"),
        ("Literal[1, 2]", True, "expected 1 or 2, got True"),
        ("Literal['1']", 1, "expected '1', got 1"),
        ("list[Literal['a', 'b']]", "a,c", r"expected list\[Literal\['a', 'b'\]\], got 'a,c'"),
        ("int", "1-5", "expected int, got '1-5'"),
        ("int", "9**9**9", "expected int"),
        ("float", "1e3 + 1", "expected float"),
        ("int", "8/2", "expected int, got '8/2'"),
        ("list[list[int]]", "1", "a Literal, a list of one of these"),
        ("int | float", "1", r"one of these \| None, got int \| float"),
        ("Literal[[1]]", "1", "expected int, float, str, bool, a Literal"),
        ("Literal", "1", "expected int, float"),
        ("list", "1", "expected int, float"),
        ("Any", "1", "expected int, float"),
        ("not Python", "1", "got not Python"),
    ],
)
def test_what_is_not_is_named(annotation, value, word):
    with pytest.raises(ValueError, match=word):
        coerced(annotation, value)


@given(st.lists(st.sampled_from(["a", "b c", "d'e", "10", "None"]), min_size=1, unique=True))
def test_every_option_can_be_chosen_by_its_text(options):
    for option in options:
        assert coerced(f"Literal[{', '.join(map(repr, options))}]", option) == option


# --- the parameters cell ------------------------------------------------------------------


def test_a_parameters_cell_imports_what_its_annotations_need(tmp_path):
    source = (
        "from __future__ import annotations\n"
        "from typing import Literal, Optional\n\n"
        'norm: Literal["Linf", "L2"] = "Linf"  # which ball\n'
        "größe: Optional[int] = 2**5\n"
        "eps: float = 4 * 8/255\n"
    )
    found = declared(tmp_path, source)
    assert found["norm"] == reports.Parameter("norm", "Literal['Linf', 'L2']", "Linf", "which ball")
    assert found["größe"].default == 32
    assert found["eps"].default == pytest.approx(32 / 255)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("norm: Literal['a', 'b'] = 'c'", "norm: expected 'a' or 'b', got 'c'"),
        ("%matplotlib inline\neps: float = 1", "`%matplotlib inline` is for IPython: put it into"),
        ("eps: float = 1\n!pip install x", "`!pip install x` is for IPython"),
        ("%%time\neps: float = 1", "`%%time` is for IPython"),
        ("eps: float = 1\neps: float = 2", "line 2: expected one line for eps, got another"),
        ("a.eps: float = 1", "line 1: expected `name: annotation = value"),
        ("import os\neps: float = 1", "line 1: expected `name: annotation = value"),
        ("pair: list[int] = (1, 2)", r"pair: expected list\[int\], got \(1, 2\)"),
        ("eps: float = 9**9**9", "eps: expected a literal value"),
        ("eps: float = 1 +", "not plain Python: invalid syntax"),
    ],
)
def test_a_parameters_cell_that_cannot_be_read_says_why(tmp_path, source, word):
    with pytest.raises(ValueError, match=rf"n\.ipynb, parameters cell: .*{word}"):
        declared(tmp_path, source)


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}}, "R"),
        ({"kernelspec": {"name": "julia-1.10", "display_name": "Julia"}}, "julia"),
        ({"kernelspec": {"name": "ir", "display_name": "R"}}, "ir"),
        ({"language_info": {"name": "bash"}}, "bash"),
        ({"kernelspec": {"name": "k", "display_name": "k", "language": "C++17"}}, r"C\+\+17"),
    ],
)
def test_another_language_is_refused_by_name(tmp_path, metadata, language):
    source = book(tmp_path / "n.ipynb", parameters="eps <- 0.1", **metadata)
    with pytest.raises(ValueError, match=f"n.ipynb is written in {language}, and reports run"):
        reports.execute.steps(source, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- files that differ from what nbformat writes ------------------------------------------

CODE = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
CELLS = [
    {**CODE, "source": ["eps: float = 0.1"], "metadata": {"tags": ["parameters"]}},
    {**CODE, "source": RECORD},
]
PLAIN = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": CELLS}
BARE = [{k: v for k, v in CELLS[1].items() if k not in ("metadata", "outputs", "execution_count")}]
OLD = {
    "nbformat": 3,
    "nbformat_minor": 0,
    "metadata": {"name": ""},
    "worksheets": [{"cells": [{**CODE, "input": CELLS[0]["source"], "language": "python"}]}],
}
OLD["worksheets"][0]["cells"][0]["metadata"] = CELLS[0]["metadata"]
CONDA = {"kernelspec": {"name": "conda-env-foo-py", "language": "python", "display_name": "foo"}}


@pytest.mark.filterwarnings("ignore:.*id")
@pytest.mark.parametrize(
    "text",
    {
        "a BOM": "\ufeff" + json.dumps(PLAIN),
        "no metadata": json.dumps({k: v for k, v in PLAIN.items() if k != "metadata"}),
        "a bare cell": json.dumps(PLAIN | {"cells": CELLS[:1] + BARE}),
        "tags of None": json.dumps(
            PLAIN | {"cells": [CELLS[0], {**CELLS[1], "metadata": {"tags": None}}]}
        ),
        "no ids": json.dumps(PLAIN | {"nbformat_minor": 5}),
        "one id twice": json.dumps(
            PLAIN | {"nbformat_minor": 5, "cells": [{**cell, "id": "a"} for cell in CELLS]}
        ),
        "format 3": json.dumps(OLD),
        "a later minor": json.dumps(PLAIN | {"nbformat_minor": 99}),
        "a kernel that is not here": json.dumps(PLAIN | {"metadata": CONDA}),
        "kernelspec of None": json.dumps(PLAIN | {"metadata": {"kernelspec": None}}),
    }.items(),
    ids=lambda item: item[0],
)
def test_an_odd_file_has_its_parameters(tmp_path, text):
    path = tmp_path / "n.ipynb"
    path.write_text(text[1], encoding="utf-8")
    assert reports.parameters(path)["eps"].default == 0.1
    steps = reports.execute.steps(path, {"eps": 0.3}, tmp_path / "out")
    steps.close()


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< HEAD\n" + json.dumps(PLAIN),
        json.dumps(PLAIN)[:-1] + ",}",
        json.dumps(PLAIN | {"nbformat": 9}),
        json.dumps(PLAIN | {"cells": [*CELLS, {"cell_type": "heading", "source": "x"}]}),
        json.dumps(PLAIN | {"cells": None}),
        json.dumps(PLAIN | {"cells": ["eps = 1"]}),
        "null",
    ],
)
def test_a_file_that_is_no_notebook_is_said(tmp_path, text):
    (tmp_path / "n.ipynb").write_text(text)
    with pytest.raises(ValueError, match=r"n\.ipynb is not a Jupyter notebook: "):
        reports.execute.steps(tmp_path / "n.ipynb", output=tmp_path / "out")
    (tmp_path / "n.ipynb").write_bytes(json.dumps(PLAIN).encode("utf-16"))
    with pytest.raises(ValueError, match="is not a Jupyter notebook: UnicodeDecodeError"):
        reports.parameters(tmp_path / "n.ipynb")


# --- what is recorded is what ran ---------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*injected-parameters")
@pytest.mark.parametrize("given", [{}, {"eps": 0.2}])
def test_a_cell_that_an_earlier_run_injected_has_no_say(tmp_path, given):
    old = [tagged("# Parameters\neps = 0.3\n", "injected-parameters")] * 2
    raw = new_raw_cell("", metadata={"tags": ["parameters"]})  # papermill would inject here
    cells = [raw, tagged("eps: float = 0.1", "parameters"), *old, RECORD]
    source = book(tmp_path / "n.ipynb", *cells, **CONDA)
    source.write_text("\ufeff" + source.read_text(), encoding="utf-8")
    report = reports.execute(source, given, tmp_path / "out")
    assert content(report)["parameters"] == content(report)["results"] == {"eps": 0.1} | given
    executed = nbformat.read(report.notebook, as_version=4)
    injected = [c.source for c in executed.cells if "injected-parameters" in c.metadata.tags]
    assert injected == ["# Parameters\neps = 0.2\n"] * len(given)
    assert content(report)["cells"] == {"eps": len(executed.cells)}
    assert (
        nbformat.reads(source.read_text("utf-8-sig"), as_version=4).cells[2].source in old[0].source
    )


def test_an_injected_cell_that_is_left_out_is_said(tmp_path):
    cells = [tagged("eps = 0.3", "injected-parameters"), RECORD]
    with pytest.warns(UserWarning, match=r"n\.ipynb: its injected-parameters cell.* is left out"):
        reports.execute.steps(
            book(tmp_path / "n.ipynb", *cells, parameters="eps: float = 0.1")
        ).close()


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ("eps = 0.5", "cell 3 sets eps again"),
        ("eps: float = 0.5", "cell 3 sets eps again"),
        ("a = eps = 0.5", "cell 3 sets eps again"),
        ("%time\neps = 0.5", ""),
        ("eps = float(eps)", ""),
        ("eps = eps or 0.1", ""),
        ("eps += 1", ""),
        ("for eps in (1, 2): pass", ""),
        ("def f():\n    eps = 1", ""),
        ("other = eps", ""),
    ],
)
def test_a_parameter_that_a_later_cell_sets_is_said(tmp_path, later, said):
    cells = ["eps = 1", tagged("eps: float = 0.1", "parameters"), later]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reports.execute.steps(book(tmp_path / "n.ipynb", *cells), output=tmp_path / "out").close()
    assert [said in str(w.message) for w in caught] == [True] * bool(said)


def test_literals_and_unicode_reach_the_notebook(tmp_path):
    parameters = (
        "from typing import Literal\n"
        "norm: Literal['Linf', 'L2'] = 'Linf'\n"
        "größe: list[Literal[1, 2]] = [1]"
    )
    use = "from workbench import reports\nreports.result(norm=norm, größe=größe)"
    source = book(tmp_path / "n.ipynb", use, parameters=parameters)
    report = reports.execute(source, {"norm": "L2", "größe": "2,1"}, tmp_path / "out")
    assert content(report)["parameters"] == report.results == {"norm": "L2", "größe": [2, 1]}


# --- cells that end the kernel ------------------------------------------------------------

LATE = """import os, threading
class Late(threading.Thread):  # dies when it is waited for, after the last cell
    def run(self): threading.Event().wait()
    def join(self, timeout=None): os._exit(1)
Late().start()"""


@pytest.mark.parametrize(
    ("cells", "number", "word"),
    [
        (["a = 1", "exit()"], 2, r"cell 2 `exit\(\)`: SystemExit: exit\(\) ended Python here"),
        (["a = 1", "quit", "b = 2"], 2, "cell 2 `quit`: SystemExit: exit"),
        (["import sys; sys.exit()", "b = 2"], 1, r"sys\.exit\(\)`: SystemExit\. The executed"),
        (["import os, signal; os.kill(os.getpid(), 9)"], 1, "cell 1 .*the kernel died"),
        (
            [LATE],
            None,
            "bad.ipynb: after the last cell: DeadKernelError: the kernel died",
        ),
    ],
)
def test_a_cell_that_ends_the_kernel_is_named(tmp_path, cells, number, word):
    source = book(tmp_path / "bad.ipynb", *cells)
    with pytest.raises(ReportError, match=word) as caught:
        reports.execute(source, output=tmp_path / "out")
    assert caught.value.cell == number
    executed = nbformat.read(caught.value.notebook, as_version=4)
    assert len(executed.cells) == len(cells)


def test_an_exit_that_keeps_the_kernel_is_none(tmp_path):
    cells = [new_markdown_cell("# kept"), "exit(keep_kernel=True)", "eps = 2", RECORD]
    report = reports.execute(book(tmp_path / "n.ipynb", *cells), output=tmp_path / "out")
    assert report.results == {"eps": 2}
    assert content(report)["cells"] == {"eps": 4}


# --- names in a notebook ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("models.load('digits/cnn')", ["digits/cnn"]),
        ("x = \"it's\"\ny = 'digits/cnn'", ["it's", "digits/cnn"]),
        (
            "models.load(\"digits/cnn | Distil(teacher='digits/mlp')\")",
            ["digits/cnn | Distil(teacher='digits/mlp')", "digits/mlp"],
        ),
        ("%%time\nmodels.load('digits/cnn')", ["digits/cnn"]),
        ("%matplotlib inline\nmodels.load('digits/cnn')  # don't", ["digits/cnn"]),
        ("x = ['a' 'b', '''c''', \"\\\"d\"]", ["ab", "c", '"d']),
        ("def (", []),
    ],
)
def test_the_names_in_a_cell_are_whole(source, names):
    assert set(names) <= set(inputs.texts(source))
    assert not any(
        "'" in text and text.count("'") % 2 for text in inputs.texts(source) if "/" in text
    )
