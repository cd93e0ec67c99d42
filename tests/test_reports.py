import asyncio
import dataclasses
import hashlib
import json
import os
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from workbench import reports
from workbench.reports import ReportError
from workbench.reports.contents import PLOTLY
from workbench.reports.kernel import Client
from workbench.reports.results import MIME, plain, short

HOSTILE = "quote ' and \" and ''' \\n \\ \n\ttab {braces} % $ é 漢字 🙂 \x00 </script><b>"


def write(path, *cells, parameters=None):
    """A notebook file of code cells; `parameters` is the source of its parameters cell."""
    made = [new_code_cell(c) if isinstance(c, str) else c for c in cells]
    if parameters is not None:
        made.insert(0, tagged(parameters, "parameters"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made), path)
    return path


def tagged(source, tag):
    return new_code_cell(source, metadata={"tags": [tag]})


def coerced(annotation, value):
    return reports.coerce({"x": reports.Parameter("x", annotation, None)}, {"x": value})["x"]


# --- parameters ---------------------------------------------------------------------------


def test_parameters_are_read_without_running_them(tmp_path):
    source = (
        "eps: float = 8/255  # L-inf radius, in [0, 1]\n"
        "layers: list[int] = [\n    1,\n    2,\n]  # which to show\n"
        "limit: int | None = None\n"
        "eps_list: list[float] = [0, -1/2]\n"
    )
    found = reports.parameters(write(tmp_path / "n.ipynb", parameters=source))
    assert list(found) == ["eps", "layers", "limit", "eps_list"]
    assert found["eps"] == reports.Parameter("eps", "float", 8 / 255, "L-inf radius, in [0, 1]")
    assert (found["layers"].default, found["layers"].help) == ([1, 2], "which to show")
    assert found["limit"].default is None
    assert found["eps_list"].default == [0.0, -0.5]
    assert reports.parameters(write(tmp_path / "none.ipynb", "1 + 1")) == {}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("eps = 0.1", "name: annotation = value"),
        ("eps: float", "name: annotation = value"),
        ("eps: float = 'a'", "eps: expected float"),
        ("eps: tuple = (1, 2)", "eps: expected int, float"),
        ("eps: float = open('x')", "eps: expected a literal"),
        ("eps: float = 1/0", "eps: expected a literal"),
        ("%matplotlib inline", "not plain Python"),
        ("eps: int = 1\nos.remove('x')", "line 2"),
    ],
)
def test_a_parameters_cell_holds_only_typed_literals(tmp_path, source, said):
    with pytest.raises(ValueError, match="parameters cell") as caught:
        reports.parameters(write(tmp_path / "n.ipynb", parameters=source))
    assert said in str(caught.value)


def test_two_parameters_cells_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 cells"):
        reports.parameters(write(tmp_path / "n.ipynb", tagged("", "parameters"), parameters=""))


@pytest.mark.parametrize(
    ("annotation", "value", "readings"),
    [
        ("float", 1 / 4, ["1/4", " 2.5e-1 ", 0.25, np.float64(0.25)]),
        ("float", 1.0, [1, "1"]),
        ("int", -7, ["-7", np.int64(-7)]),
        ("bool", False, ["false", "False", "0", False]),
        ("str", "8/255", ["8/255"]),
        ("str", "", [""]),
        ("str | None", None, ["none", None]),
        ("int | None", 4, ["4"]),
        ("list[int]", [1, 2], ["1, 2", "[1, 2]", [1, 2], np.array([1, 2])]),
        ("list[float]", [0.5, 1.0], ["1/2,1", "[1/2, 1]", ["1/2", 1]]),
        ("list[str]", ["a", "b"], ["a,b", '["a", "b"]']),
        ("list[str]", [], [""]),
        ("list[int] | None", None, ["none"]),
    ],
)
def test_text_is_read_by_the_annotation(annotation, value, readings):
    for reading in readings:
        read = coerced(annotation, reading)
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        ("float", ["eight", "1/0", "nan", "1e999", float("inf"), True, None, "-" * 100_000]),
        ("int", ["1.5", 1.0, True, "9" * 5000, object()]),
        ("bool", ["maybe", 1]),
        ("str", [3, ["a"]]),
        ("list[int]", ["1,two", 3, "[" * 100_000]),
        ("list[str]", [{"a": 1}]),
    ],
)
def test_an_ill_typed_value_names_parameter_value_and_type(annotation, values):
    for value in values:
        with pytest.raises(ValueError, match="x: expected ") as caught:
            coerced(annotation, value)
        assert f"expected {annotation}, got" in str(caught.value)
        assert len(str(caught.value)) < 300


@given(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.fractions(max_denominator=2**53),
    st.lists(st.text()),
)
def test_values_survive_the_command_line(number, real, fraction, texts):
    assert coerced("int", str(number)) == number
    assert coerced("list[int]", f"{number},{number}") == [number, number]
    assert coerced("float", repr(real)) == real
    assert coerced("float", str(fraction)) == float(fraction)
    assert coerced("str", repr(texts)) == repr(texts)
    assert coerced("list[str]", repr(texts)) == texts


@pytest.mark.parametrize(("name", "text"), [("p.toml", "eps = 0.1"), ("p.json", '{"eps": 0.1}')])
def test_a_parameters_file_is_read_or_named(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert reports.load_parameters(path) == {"eps": 0.1}
    for broken in ("[1, 2]", "[" * 100_000, '{"eps": '):
        path.write_text(broken)
        with pytest.raises(ValueError, match=name):
            reports.load_parameters(path)
    with pytest.raises(ValueError, match=r"ends in \.toml or \.json, got .*p\.yaml"):
        reports.load_parameters(path.with_suffix(".yaml"))


@pytest.mark.parametrize("read", [reports.load_parameters, reports.execute])
def test_a_missing_file_is_said(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"No such file.*gone\.json"):
        read(tmp_path / "gone.json")


# --- record -------------------------------------------------------------------------------


def test_record_outside_a_notebook_only_checks():
    torch = pytest.importorskip("torch")
    assert reports.result(a=1, b=np.float32(0.5), c=torch.tensor(2), d=[{"e": None}]) is None
    with pytest.warns(UserWarning, match="scores is not finite"):
        reports.result(scores=[1.0, float("nan")])


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize("value", [object(), np.zeros(3), 1j, b"x", [1, {2}], {(1, 2): 3}, LOOP])
def test_record_names_what_json_cannot_hold(value):
    with pytest.raises(TypeError, match="accuracy"):
        reports.result(accuracy=value)


SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
JSON = st.recursive(SCALARS, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8)


@pytest.mark.filterwarnings("ignore:.*is not finite")
@given(JSON)
def test_whatever_is_recorded_is_strict_json(value):
    kept = plain("value", value)
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept == value or "inf" in repr(value)


def shown(**data):
    """A notebook with one cell that displays the bundle `data`."""
    output = new_output("display_data", data=data)
    return new_notebook(cells=[new_code_cell("show()", outputs=[output])])


# --- a good run ---------------------------------------------------------------------------

GOOD = (
    new_markdown_cell("# A small report\n\n[a link](https://example.org)"),
    "import plotly.graph_objects as go\n"
    "layout = {'title': 'Curve', 'meta': {'alt': 'A curve that \"peaks\" <at> 3'}}\n"
    "go.Figure(go.Scatter(y=[1, 3, 2]), layout=layout)",
    "go.Figure(go.Bar(y=[1, 2]), layout={'title': 'Bars </script>'}).show()",
    "import ipywidgets\n"
    "class Panel:\n"
    "    def _repr_mimebundle_(self, **_):\n"
    "        view = ipywidgets.IntSlider()._repr_mimebundle_()\n"
    "        return {**view, 'text/html': '<p>static twin</p>', 'text/plain': 'Panel'}\n"
    "Panel()",
    "import os\n"
    "from IPython.display import HTML, clear_output, display\n"
    "from workbench import reports\n"
    "reports.result(text=text, size=len(big), eps=eps, flag=flag, folder=os.getcwd())\n"
    "reports.result(eps=eps, worst=float('nan'), tqdm=os.environ['TQDM_DISABLE'])\n"
    "print('PRINTED', 1)\n"
    "with ipywidgets.Output():\n"
    "    clear_output()\n"
    "    print('PRINTED', 2)\n"
    "    reports.result(inside='an Output')",
    "display(HTML('<script>fetch(\"https://example.org/\").catch(() => 0)</script>'))",
    tagged("1 / 0", "raises-exception"),
    tagged("raise SystemError", "skip-execution"),
    new_markdown_cell("## Check\n\n```\n# no heading\n```"),
    tagged(
        "def below(v):\n"
        "    assert v < 2, f'{v} is not below 2'\n"
        "assert eps < 1, 'the ball is small'\n"
        "for v in range(4): below(v)\n"
        "assert flag, 'the <flag> is set'\n"
        "reports.result(last=True)\n"
        'HTML(\'<img alt="a dot" src="data:image/png;base64,AAAA">\')',
        "checks",
    ),
    "try:\n    below(7)\nexcept AssertionError as error:\n    print('LATER', error)",
)
CHECKS = [
    ("2 is not below 2 (2 of 4 times)", False),
    ("the ball is small", True),
    ("the <flag> is set", False),
]
DECLARED = "text: str = 'a'\nbig: str = ''\neps: float = 0.5\nflag: bool = True\nn: int = 3\n"


@pytest.fixture(scope="module")
def ticks(tmp_path_factory):
    """The steps of a run with hostile values, in a folder with a hostile name."""
    home = tmp_path_factory.mktemp("good")
    source = write(home / "a {b} folder" / "the {n} book.ipynb", *GOOD, parameters=DECLARED)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    values = {"text": HOSTILE, "big": "x" * 1_000_000, "eps": "8/255", "flag": "false"}
    ticks = list(reports.execute.steps(source, values, home / "out"))
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    assert [p.name for p in source.parent.iterdir()] == [source.name]
    return ticks


@pytest.fixture(scope="module")
def good(ticks):
    return ticks[-1].value


def test_steps_tick_once_a_cell(ticks):
    assert [tick.done for tick in ticks] == list(range(len(GOOD) + 3))
    assert {tick.total for tick in ticks} == {len(GOOD) + 2}
    assert "import plotly" in ticks[3].message


def test_values_arrive_as_they_were_given_and_come_back_in_strict_json(good):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(good.results_path.read_text(), parse_constant=refuse)
    assert content["notebook"] == "the {n} book.ipynb"
    assert content["parameters"]["n"] == 3
    assert content["parameters"]["text"] == HOSTILE
    assert content["results"] == good.results
    assert {"python", "workbench", "torch"} <= set(content["versions"])
    assert content["seconds"] > 0
    folder = str(good.notebook.parent.parent / "a {b} folder")
    assert good.results == {
        "text": HOSTILE,
        "size": 1_000_000,
        "eps": 8 / 255,
        "flag": False,
        "folder": folder,
        "worst": None,
        "tqdm": "1",
        "inside": "an Output",
        "last": True,
    }


def test_a_check_that_does_not_hold_is_told_and_ends_nothing(good):
    assert [(check.says, check.holds) for check in good.checks] == CHECKS
    assert {(check.cell, check.section) for check in good.checks} == {(12, "Check")}
    html = good.html.read_text()
    assert "1 of 3 checks hold" in html
    assert html.count("Does not hold:") == 2
    assert "the &lt;flag&gt; is set" in html
    assert "LATER 7 is not below 2" in html  # called by another cell it is an assert


def test_the_results_name_the_cell_and_the_section_of_everything(good):
    content = json.loads(good.results_path.read_text())
    assert content["checks"] == [dataclasses.asdict(check) for check in good.checks]
    top, check = content["sections"]
    assert (top["title"], check["title"]) == ("A small report", "Check")
    assert (top["cells"][-1], check["cells"]) == (10, [11, 12, 13])
    assert [(call["cell"], call["section"]) for call in content["recorded"]] == [
        *[(7, "A small report")] * 3,
        (12, "Check"),
    ]
    assert content["recorded"][1]["values"]["eps"] == content["recorded"][0]["values"]["eps"]
    shown = [(f["id"], f["cell"], f["alt"]) for f in content["figures"]]
    assert shown == [
        ("figure-1", 4, 'A curve that "peaks" <at> 3'),
        ("figure-2", 5, "Bars"),
        ("figure-3", 12, "a dot"),
    ]
    html = good.html.read_text()
    assert all(f'id="{name}"' in html for name, *_ in shown)
    assert content["claims"] == []


def test_the_folder_holds_three_files_without_widget_state(good):
    names = sorted(p.name for p in good.notebook.parent.iterdir())
    assert names == ["results.json", "the {n} book.html", "the {n} book.ipynb"]
    executed = nbformat.read(good.notebook, as_version=4)
    assert "widgets" not in executed.metadata
    assert len(executed.cells) == len(GOOD) + 2


def test_the_page_is_one_file_with_everything_inside(good):
    html = good.html.read_text()
    for said in ('<html lang="en">', "<title>A small report</title>", "static twin"):
        assert said in html
    assert "PRINTED 1" in html
    assert "PRINTED 2" in html  # in an Output, which cleared only itself
    assert "https://example.org" in html
    assert len(re.findall(r'Plotly.newPlot\(\s*"figure-', html)) == 2
    assert html.count("* plotly.js v") == 1
    labels = re.findall(r"""<figure aria-label=(["'])(.*?)\1>""", html)
    curve = 'A curve that "peaks" <at> 3'
    assert [unescape(label) for _, label in labels] == [curve, curve, "Bars"]  # head, then places
    assert "vnd.workbench.record" not in html
    assert "cdn" not in html.split("<body")[0].split("* plotly.js v")[0]
    assert len(html) < 8_000_000


def test_the_head_says_what_came_out_and_each_parameter_is_shown_once_as_it_was_run(good):
    html = good.html.read_text().split("plotly.js v")[1]
    head = html[html.index("wb-report") : html.index("a link")]
    assert "✗ 1 of 3 checks hold" in head
    assert "<dt>size</dt><dd>1,000,000</dd>" in head
    assert "<dt>eps</dt>" not in head  # a parameter
    assert re.search(r"run on \d{1,2} \w+ 20\d\d · DNN Workbench 0\.1\.0", head)
    assert re.search(r'newPlot\(\s*"headline"', head)
    table = re.search(r'<table class="wb-parameters">.*?</table>', html, re.DOTALL)[0]
    cells = [[*re.findall(r">([^<>]*)</t[hd]>", row)] for row in table.split("</tr>")[:-1]]
    shown = {name: (value, note) for name, value, note, _ in cells}
    assert list(shown) == ["text", "big", "eps", "flag", "n"]
    assert (shown["eps"], shown["n"]) == (("0.0313725", "by default 0.5"), ("3", ""))
    assert len(shown["big"][0]) < 300
    assert "eps: float" not in re.sub("<[^>]*>", "", html)


def test_the_contents_link_to_each_section():
    titles = ["One & two", "With `code`", "Last"]
    cells = [new_markdown_cell(text) for text in ["# Title", *(f"## {t}" for t in titles)]]
    html = reports.to_html(new_notebook(cells=cells))
    nav = re.search('<nav class="wb wb-contents".*?</nav>', html)[0]
    assert re.findall('href="#([^"]*)">([^<]*)', nav) == [
        ("section-1", "One &amp; two"),
        ("section-2", "With code"),
        ("section-3", "Last"),
    ]
    assert all(f'<h2 id="section-{n}">' in html for n in (1, 2, 3))
    assert "wb-contents" not in reports.to_html(new_notebook(cells=cells[:3])).split("</style>")[-1]


def with_html(*outputs, tags=()):
    cells = [
        new_code_cell("1", outputs=shown(**{"text/html": html}).cells[0].outputs)
        for html in outputs
    ]
    for at in tags:
        cells[at].metadata.tags = ["headline"]
    return new_notebook(cells=cells)


DOT = '<img alt="{}" src="data:image/png;base64,AAAA">'
TWIN = f'<section aria-label="Panel">{DOT.format("panel")}</section>'
MOVES = f'<div data-drag="eps"><div>{DOT.format("drag")}</div></div>'
MOVES = f'<section aria-label="Eps"><i></i>{MOVES}!</section>'


@pytest.mark.parametrize(
    ("notebook", "expected"),
    [
        (with_html(DOT.format("first"), DOT.format("second")), "first"),
        (with_html(TWIN, DOT.format("second")), "second"),
        (with_html(TWIN, DOT.format("second"), MOVES), "drag"),
        (with_html(MOVES, DOT.format("second"), tags=[1]), "second"),
        (with_html(TWIN, DOT.format("second"), tags=[0]), "panel"),
        (with_html(TWIN), None),
        (with_html("<p>words</p>"), None),
    ],
)
def test_the_headline_is_what_is_tagged_what_moves_or_the_first(notebook, expected):
    body = reports.to_html(notebook).split("<main>")[1]
    found = re.search('<div class="wb-headline">.*?alt="(.*?)"', body, re.DOTALL)
    assert (found and found[1]) == expected


def test_of_a_panel_that_moves_the_head_has_the_moving_part_alone():
    body = reports.to_html(with_html(MOVES)).split("<main>")[1]
    part = MOVES[MOVES.index("<div") : MOVES.index("!")]
    assert f'<div class="wb-headline">{part}</div>' in body


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (0.9455, "accuracy", "94.5\u2009%"),
        (0.000123456, "gap", "0.000123"),
        (1_234_567, "n", "1,234,567"),
        (0.5, "depth", "0.5"),
        (True, "fooled", "yes"),
        ("mnist/cnn", "model", "mnist/cnn"),
        ([1, 2], "list", ""),
        (None, "none", ""),
    ],
)
def test_a_result_is_shown_to_three_figures(value, name, text):
    assert short(value, name) == text


@pytest.mark.browser
def test_the_figures_are_drawn_and_the_network_is_refused(good, page):
    page.goto(good.html.as_uri())
    page.wait_for_selector("#figure-2 .bars path", state="attached")
    drawn = page.evaluate(
        "[...document.querySelectorAll('.main-svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert min(drawn) > 300
    assert [p for p in page.problems if "Content Security Policy" not in p] == []  # the refusal
    assert page.requested == [good.html.as_uri()]  # the fetch above never left


# --- runs that fail -----------------------------------------------------------------------


def failure(tmp_path, *cells, parameters=None, **options) -> ReportError:
    source = write(tmp_path / "book" / "bad.ipynb", *cells, parameters=parameters)
    with pytest.raises(ReportError) as caught:
        reports.execute(source, output=tmp_path / "out", **options)
    return caught.value


def tell_pid(tmp_path):
    return f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"


def kernel_gone(tmp_path):
    try:
        os.kill(int((tmp_path / "pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_a_raising_cell_is_named_with_its_line(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")  # of an earlier run
    raising = tagged("\n# compute\nassert a > 1, 'a'\nraise KeyError('lost')", "checks")
    error = failure(tmp_path, "a = 1", raising, "print('never')")
    assert (error.cell, error.ename) == (2, "KeyError")
    for said in ("bad.ipynb", "cell 2 `# compute`", "KeyError: 'lost'"):
        assert said in str(error)
    assert str(error.notebook) in str(error)
    executed = nbformat.read(error.notebook, as_version=4)
    assert [cell.execution_count for cell in executed.cells] == [1, 2, None]
    assert executed.cells[1].outputs[0].ename == "KeyError"
    assert not (tmp_path / "out" / "results.json").exists()
    assert pickle.loads(pickle.dumps(error)).cell == 2  # crosses a process pool


def test_what_a_value_raises_when_it_is_shown_is_said(tmp_path):
    source = """
class Shown:
    def _repr_mimebundle_(self, **_):
        raise ValueError("cannot be drawn")
Shown()"""
    error = failure(tmp_path, source)
    assert (error.cell, error.ename, error.evalue) == (1, "ValueError", "cannot be drawn")


@pytest.mark.parametrize("cell", [new_markdown_cell("# text"), "", tagged("1", "skip-execution")])
def test_a_notebook_that_runs_no_cell_fails(tmp_path, cell):
    error = failure(tmp_path, cell, parameters="a: int = 1")
    assert "no code cell" in str(error)
    assert error.notebook.is_file()


def test_a_cell_that_hangs_in_native_code_is_killed(tmp_path, monkeypatch):
    limit = Client.limit  # of the second cell alone: a busy machine has its time for the first
    monkeypatch.setattr(
        Client, "limit", lambda self, cell: limit(self, cell) if "re" in cell.source else 60
    )
    hang = "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"  # never lets go of the interpreter
    error = failure(tmp_path, tell_pid(tmp_path), hang, cell_timeout=1)
    assert error.cell == 2
    assert "limit of 1 s (cell_timeout)" in str(error)
    assert "import re" in str(error)
    assert kernel_gone(tmp_path)
    outputs = nbformat.read(error.notebook, as_version=4).cells[1].outputs
    assert outputs[-1].ename == "TimeoutError"


def test_many_short_cells_run_into_the_limit_of_the_notebook(tmp_path, monkeypatch):
    source = write(tmp_path / "n.ipynb", *["import time; time.sleep(1)"] * 30)
    ticks = reports.execute.steps(source, output=tmp_path / "out", timeout=600)
    cell = next(tick.done + 1 for tick in ticks if tick.done == 2)
    late = SimpleNamespace(monotonic=lambda: time.monotonic() + 601)
    monkeypatch.setattr("workbench.reports.kernel.time", late)
    with pytest.raises(ReportError, match=r"whole notebook.*600 s \(timeout\)") as caught:
        list(ticks)
    assert caught.value.cell == cell


def test_a_page_that_cannot_be_made_fails_the_run(tmp_path):
    loads = "from IPython.display import HTML\nHTML('<img src=\"https://a.org/x.png\">')"
    error = failure(tmp_path, loads)
    assert "https://a.org/x.png" in str(error)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["bad.ipynb"]


def test_a_kernel_that_dies_is_said(tmp_path):
    error = failure(tmp_path, "import os; os._exit(1)")
    assert error.cell == 1
    assert "the kernel died" in str(error)


FAIL = """
import asyncio, ipywidgets, logging, threading, time
def fail(wait=0):
    time.sleep(wait)
    raise ValueError('boom')
def job():
    try: fail()
    except ValueError: logging.getLogger('w').exception('Exception in job')
"""
LATE = {
    "thread": "threading.Thread(target=fail, args=[0.5]).start()",
    "job": "asyncio.get_running_loop().call_later(0.1, job)",
}
SILENT = {
    "interact": "ipywidgets.interact(fail, wait=0)",
    "output": "with ipywidgets.Output(): fail()",
    "thread": "t = threading.Thread(target=fail); t.start(); t.join()",
    "job": "job()",
}


@pytest.mark.parametrize("name", LATE)
def test_an_error_that_no_cell_raises_is_a_failure(tmp_path, name):
    error = failure(tmp_path, "fine = 1", FAIL + LATE[name], "await asyncio.sleep(0.3)")
    assert error.cell == 2 or name == "thread"  # whose it is can be lost once other cells run
    assert (error.ename, error.evalue) == ("ValueError", "boom")


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The client of a run in which every cell fails, and the last one alone may not."""
    cells = [new_code_cell(FAIL), *(tagged(cell, "raises-exception") for cell in SILENT.values())]
    path = tmp_path_factory.mktemp("silent") / "n.ipynb"
    client = Client(new_notebook(cells=cells), path, path, 60, 60)
    list(client.run_cells())
    return client


@pytest.mark.parametrize("name", SILENT)
def test_an_error_in_a_widget_or_a_thread_is_its_cells(silent, name):
    index = 1 + [*SILENT].index(name)
    silent.nb.cells[index].metadata.tags = []
    with pytest.raises(ReportError, match="boom") as caught:
        silent._check_silent_errors()
    silent.nb.cells[index].metadata.tags = ["raises-exception"]
    assert (caught.value.cell, caught.value.ename) == (index + 1, "ValueError")


def test_closing_the_steps_kills_the_kernel(tmp_path):
    source = write(tmp_path / "n.ipynb", tell_pid(tmp_path), "import time; time.sleep(60)")
    ticks = reports.execute.steps(source, output=tmp_path / "out")
    assert [next(ticks).done, next(ticks).done] == [0, 1]
    ticks.close()
    assert kernel_gone(tmp_path)


def test_a_report_made_inside_a_running_event_loop_goes_to_its_default_folder(
    tmp_path, monkeypatch
):
    async def cell():  # as in a notebook
        return reports.execute(write(tmp_path / "n.ipynb", "1"))

    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(1) as thread:  # here a browser's event loop may be running
        report = thread.submit(asyncio.run, cell()).result()
    assert report.html == tmp_path / "reports" / "n" / "n.html"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parameters": {"epz": 1}}, r"unknown parameter 'epz'. Did you mean 'eps'\?.*Known: eps"),
        ({"parameters": {"eps": "much"}}, "eps: expected float, got 'much'"),
        ({"timeout": 0}, "timeout: expected a positive"),
        ({"cell_timeout": float("nan")}, "cell_timeout: expected a positive"),
        ({"output": "book"}, "never overwrites"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "book" / "n.ipynb", "1", parameters="eps: float = 1")
    with pytest.raises(ValueError, match=said):
        reports.execute.steps(source, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["book"]


@pytest.mark.parametrize("content", ["", "not json", "{}", "[1]", '{"nbformat": 4}'])
def test_what_is_no_notebook_is_said(tmp_path, content):
    (tmp_path / "n.ipynb").write_text(content)
    with pytest.raises(ValueError, match="is not a Jupyter notebook"):
        reports.execute(tmp_path / "n.ipynb", output=tmp_path / "out")


# --- the page -----------------------------------------------------------------------------


LOADING = """\
<img src="https://a.org/x.png">
<img srcset="https://a.org/x.png 2x">
<script src="//a.org/x.js"></script>
<link rel="stylesheet" href="HTTP://a.org/x.css">
<iframe src='https://a.org'></iframe>
<svg><image xlink:href="https://a.org/x.png"/></svg>
<style>p { background: url('https://a.org/x.png') }</style>
<style>@import 'https://a.org/x.css';</style>
<p style="background: url(//a.org/x.png)">"""
HARMLESS = """\
<a href="https://a.org">a link</a>
<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>
<img alt="dot" src="data:image/png;base64,AAAA">
<p>see src=https://a.org in the text</p>"""


HTML_IMAGES = f"""{HARMLESS.replace("<img", "<i")}<img alt="one" src="data:image/png;base64,AAAA">
<img src='data:image/png;base64,BBBB' alt='a &lt;two&gt;'>"""


@pytest.mark.parametrize("html", LOADING.splitlines())
def test_a_page_that_would_load_from_the_network_is_refused(html):
    with pytest.raises(ValueError, match=r"a\.org.* from the network"):
        reports.to_html(shown(**{"text/html": html}))


def test_links_and_embedded_pictures_are_fine():
    page = reports.to_html(shown(**{"text/html": HARMLESS}))
    assert page.rstrip().endswith("</html>")
    assert "plotly.js" not in page


def test_a_page_names_itself_and_drops_records_and_widget_state():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "Box()"}
    notebook = shown(**view)
    notebook.cells += shown(**{MIME: {"a": 1}, "text/plain": "recorded a = 1"}).cells
    notebook.cells += [new_markdown_cell("# A < B & C")]
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    html = reports.to_html(notebook)
    assert "<title>A &lt; B &amp; C</title>" in html
    assert "recorded a" not in html
    assert "Box()" in html
    assert "widgets" in notebook.metadata  # of the one it was given


@pytest.mark.parametrize(
    ("data", "alt"),
    [
        ({"text/html": HTML_IMAGES, "text/plain": "two of them"}, "two of them"),
        ({"text/html": HTML_IMAGES, "text/plain": "Panel({'a': 1})"}, "one; a <two>"),
        ({"text/html": HTML_IMAGES, "text/plain": "<HTML object>"}, "one; a <two>"),
        ({"image/png": "AAAA\n", "text/plain": "<Figure size 1x1>"}, "Figure 1"),
        ({PLOTLY: {"layout": {"title": {"text": "a<br>b &amp; c"}}}}, "a b & c"),
        ({PLOTLY: {}}, "Figure 1"),
    ],
)
def test_a_figure_is_known_by_its_words(data, alt):
    (figure,) = reports.figures(shown(**data))
    assert (figure.id, figure.cell, figure.alt) == ("figure-1", 1, alt)
    assert "text/html" not in data or figure.pictures == [("one", "AAAA"), ("a <two>", "BBBB")]


def test_a_picture_without_html_keeps_its_size_and_gets_words():
    notebook = shown(**{"image/png": "AAAA\n", "text/plain": "<Figure>"})
    notebook.cells[0].outputs[0].metadata["image/png"] = {"width": 30}
    image = '<img alt="Figure 1" src="data:image/png;base64,AAAA" width="30"'
    assert image in reports.to_html(notebook)


def test_sections_are_headings_and_no_comments_in_code():
    cells = ["before", "# C# ##\n\n```\n# no\n```", "text", "## a\n\n### b  ", "#no"]
    found = reports.sections(new_notebook(cells=[new_markdown_cell(text) for text in cells]))
    named = [(section["title"], section["cells"]) for section in found]
    assert named == [("C#", [2, 3]), ("a", [4]), ("b", [4, 5])]


def test_pictures_beside_the_notebook_are_embedded(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    source = write(tmp_path / "n.ipynb", new_markdown_cell("![a dot](dot.png)"))
    assert "data:image/png;base64," in reports.to_html(source)


@pytest.mark.browser
def test_what_to_press_is_not_said_where_there_is_nothing_to_press(page, tmp_path):
    html = '<p class="wb-live">Press <b>Launch</b>.</p><p>The image.</p>'
    (tmp_path / "page.html").write_text(reports.to_html(shown(**{"text/html": html})))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.get_by_text("The image.").is_visible()
    assert not page.get_by_text("Press").is_visible()
