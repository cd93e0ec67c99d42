"""Copies for students and nbgrader, what a verifier finds in masters, sets and galleries."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from workbench import cli, courses, steps, suite

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MASTERS = sorted(NOTEBOOKS.glob("*.ipynb"))
HEAD = (
    "# Sums & <such>\n\n**Goal:** add *two* [numbers](x.ipynb).\n\n**Time:** 1 minute. **Needs:** -"
)
STUB = "total: int = 0\n\n\ndef double(x):\n    return x\n"
SOLUTION = "total = sum(numbers)\n\n\ndef double(x):\n    return x * 2"
CHECK = (
    'assert total == 7, f"{total} is not the sum of the numbers"\n'
    'assert double(2) == 4, "double(2) should be 4"'
)
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def master(*, stub=STUB, solution=SOLUTION, check=CHECK, hint="*Hint:* there is a built-in."):
    """A notebook with one exercise in its sixth cell."""
    cells = [
        new_markdown_cell(HEAD),
        new_code_cell("start: int = 3  # the first", metadata={"tags": ["parameters"]}),
        new_code_cell("numbers = [start, 4]"),
        new_markdown_cell(hint),
        new_code_cell("secret = 'for teachers'", metadata={"tags": ["solution"]}),
        new_code_cell(f"{stub}# solution\n{solution}", metadata={"tags": ["solution", "mine"]}),
        new_code_cell(check),
        new_markdown_cell("## Next\n\n[the other](two.ipynb)"),
    ]
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [new_output("stream", text="seven\n")], 1
    return new_notebook(cells=cells)


def sources(notebook):
    return [cell.source for cell in notebook.cells]


def write(path, notebook):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


# --- one notebook -------------------------------------------------------------------------


def test_students_get_the_stub_the_hint_and_the_check_and_no_more():
    whole = master()
    whole.cells[6].metadata.tags = ["checks"]
    before = nbformat.writes(whole)
    made = courses.student(whole)
    nbformat.validate(made)
    assert nbformat.writes(whole) == before, "the master must stay as it was"
    assert sources(made)[4] == f"{STUB.strip()}\n\n# Your code goes here."
    assert sources(made)[5] == CHECK
    assert sources(made)[3] == "*Hint:* there is a built-in."
    assert not any("secret" in text or "sum(numbers)" in text for text in sources(made))
    assert made.cells[4].metadata.tags == ["mine", "exercise-1", "raises-exception"]
    assert made.cells[5].metadata.tags == ["check-1", "raises-exception"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in made.cells)


def test_outputs_are_kept_where_they_give_nothing_away():
    made = courses.student(master(), outputs=True)
    shown = [bool(cell.get("outputs")) for cell in made.cells]
    assert shown == [False, True, True, False, False, False, False]


def test_nbgrader_gets_its_marks_and_its_metadata():
    made = courses.nbgrader(master())
    nbformat.validate(made)
    exercise, check = made.cells[4:6]
    assert exercise.source == (
        f"{STUB.strip()}\n\n### BEGIN SOLUTION\n{SOLUTION}\n### END SOLUTION"
    )
    assert exercise.metadata.nbgrader.solution
    assert not exercise.metadata.nbgrader.grade
    assert check.metadata.nbgrader.grade
    assert check.metadata.nbgrader.points == 1
    assert check.metadata.nbgrader.locked
    assert exercise.metadata.nbgrader.grade_id != check.metadata.nbgrader.grade_id
    assert "secret" not in nbformat.writes(made)


def test_a_good_exercise_has_no_problems():
    assert courses.problems(master()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stub": "totl: int = 0\n"}, "the check reads 'total'"),
        ({"stub": "totl: int = 0\n"}, "binds no name of the stub"),
        ({"stub": ""}, "the check reads 'double'"),
        (
            {"stub": STUB.replace("(x)", "(x, y)")},
            r"stub has `def double\(x, y\):`, the solution `def",
        ),
        ({"stub": "total = \n"}, "not Python"),
        ({"check": "print(total)"}, "no cell with an assert follows"),
        ({"check": "assert total == 7"}, "`assert total == 7` does not say what is wrong"),
        ({"stub": STUB + "# Solution\nx = 1\n"}, "`# Solution` cuts nothing"),
        ({"stub": STUB + "    # solution: sum them\n"}, "cuts nothing"),
        ({"hint": f"Try `total = sum(numbers)` and\n{SOLUTION}"}, "students see the solution in"),
        ({"check": f"{CHECK}\n{SOLUTION}"}, "students see the solution in `assert total"),
        ({"stub": "power = 57\n", "solution": "power = 57  # digits"}, "students see the solution"),
    ],
)
def test_a_broken_stub_and_a_leaked_solution_are_found(change, said):
    found = courses.problems(master(**change))
    assert any(re.search(said, text) for text in found), found


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_every_master_is_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    assert courses.exercises(notebook)
    assert courses.problems(notebook) == []
    for made in (courses.student(notebook), courses.nbgrader(notebook)):
        nbformat.validate(made)
        assert "# solution" not in nbformat.writes(made)


# --- a course for a class -----------------------------------------------------------------


def test_a_course_holds_every_notebook_and_the_plan(tmp_path):
    folder = courses.new_course(tmp_path / "autumn" / "class", MASTERS)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", *(path.name for path in MASTERS)]
    )
    text = (folder / "00_start_here.ipynb").read_text()
    assert "confidence.argmin()" not in text
    assert [path.name for path in folder.parent.iterdir()] == ["class"]


def test_a_course_is_never_written_over(tmp_path):
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    for name in ("taken", "full"):
        result = CliRunner().invoke(cli.app, ["course", "new", str(tmp_path / name)])
        assert result.exit_code == 1
        assert f"{name} is there already" in result.stderr
    assert (tmp_path / "taken").read_text() == (tmp_path / "full" / "note").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert CliRunner().invoke(cli.app, ["course", "new", str(tmp_path / "empty")]).exit_code == 0


def test_a_course_that_fails_leaves_nothing(tmp_path):
    broken = write(tmp_path / "one.ipynb", master(stub=""))
    with pytest.raises(ValueError, match=r"one\.ipynb: exercise 1: the check reads"):
        courses.new_course(tmp_path / "class", [broken])
    assert [path.name for path in tmp_path.iterdir()] == ["one.ipynb"]


def test_without_notebooks_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run this in a copy of the repository"):
        suite.notebooks()
    here = write(tmp_path / "notebooks" / "01_sums.ipynb", master())
    assert suite.notebooks() == [here]


# --- sets and galleries, run --------------------------------------------------------------


def checked(says, notebook):
    """The notebook with a cell of checks, one of which does not hold."""
    source = f'assert start == 3, "the start"\nassert start == 4, "{says}"'
    notebook.cells[4:4] = [new_code_cell(source, metadata={"tags": ["checks"]})]
    return notebook


@pytest.mark.notebook
def test_masters_pass_and_students_copies_fail_only_in_their_checks(tmp_path, pool):
    good = write(tmp_path / "good.ipynb", master())
    easy = write(tmp_path / "easy.ipynb", master(check='assert total >= 0, "a sum is not below 0"'))
    bad = master(check='assert total == 7, ""\nassert double(1) / total == 2 / 7, "halve"')
    bad = write(tmp_path / "bad.ipynb", bad)
    false = write(tmp_path / "false.ipynb", checked("start at 4", master()))
    wrong = write(tmp_path / "wrong.ipynb", master(solution="total = 8\ndouble = abs"))
    masters = [good, easy, bad, false, wrong]
    work = courses.student_set.steps(masters, tmp_path / "out", pool, verify=True)
    with pytest.raises(RuntimeError, match="notebooks that failed: 4") as caught:
        steps.run(work, progress=False)
    _, *lines = str(caught.value).splitlines()
    assert "bad.ipynb: students' copy: check-1 ends in AssertionError: not a word" in lines[0]
    assert "easy.ipynb: students' copy: check-1 passes before the exercise is done" in lines[1]
    assert lines[2] == "false.ipynb: checks that do not hold: start at 4 (cell 5)"
    assert lines[3].startswith("wrong.ipynb: cell 7 `assert total == 7")
    assert "8 is not the sum" in lines[3]
    teacher = nbformat.read(tmp_path / "out" / "teacher" / "good.ipynb", as_version=4)
    assert teacher.cells[6].execution_count
    assert "sum(numbers)" in teacher.cells[5].source
    assert "<h1" in (tmp_path / "out" / "teacher" / "good.html").read_text()
    assert "sum(numbers)" not in (tmp_path / "out" / "student" / "good.ipynb").read_text()
    assert (tmp_path / "out" / "nbgrader" / "source" / "good" / "good.ipynb").is_file()
    assert sorted(p.name for p in (tmp_path / "out" / "student").iterdir()) == sorted(
        path.name for path in masters
    )


def test_masters_are_never_written_over(tmp_path, pool):
    one = write(tmp_path / "student" / "one.ipynb", master())
    before = one.read_text()
    for work in (
        courses.student_set.steps([one], tmp_path, pool),
        courses.gallery.steps([one], one.parent, pool),
    ):
        with pytest.raises(ValueError, match="holds the notebooks themselves"):
            steps.run(work, progress=False)
    assert one.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.notebook
def test_a_gallery_shows_results_and_no_solutions_and_stays_offline(tmp_path, pool):
    picture = f'<img alt="a &lt; dot" src="data:image/png;base64,{PNG}">'
    code = f"from IPython.display import HTML\nHTML({picture!r})"
    chart = (
        "import numpy as np\nimport plotly.graph_objects as go\n"
        "ys = [1, None, 3], np.array([2.0, 4.0]), ['a', 'b']\n"
        "go.Figure([go.Scatter(y=y, mode='lines') for y in ys] + [go.Bar(y=[9])])"
    )
    claim = (
        "from workbench import reports\nreports.claim('gradient noise very deep', 'It helps.', "
        "ours=1, holds=False, setting='x')"
    )
    cells = [new_markdown_cell("# Two"), *map(new_code_cell, (code, chart, claim))]
    two = new_notebook(cells=cells)
    one = checked("here it <is> not", master())
    paths = [write(tmp_path / "one.ipynb", one), write(tmp_path / "two.ipynb", two)]
    ticks = list(courses.gallery.steps(paths, tmp_path / "site", pool))
    assert [tick.done for tick in ticks] == [1, 2, 2]
    site = tmp_path / "site"
    assert {path.name for path in site.iterdir()} == {
        *("index.html", "gallery.css", "one.html", "two.html", "one.ipynb", "two.ipynb")
    }
    index, page = ticks[-1].value.read_text(), (site / "one.html").read_text()
    assert '<a href="one.html">Sums &amp; &lt;such&gt;</a>' in index
    assert "<p>add two numbers.</p>" in index
    assert "1 minute." in index
    assert "<p>Claims of papers, tested: 1 refuted here</p>" in index
    assert index.count("Claims of papers") == 1
    assert picture in index
    assert re.findall(r'points="([^"]*)"', index) == ["2,78 118,27", "2,53 118,2"]
    for address in re.findall(r'(?:href|src)="([^"]*)"', index):
        assert address.startswith("data:") or (site / address).is_file(), address
    assert not re.search(r"https?://", index + (site / "gallery.css").read_text())
    assert 'href="two.html"' in page
    assert "1 of 2 checks hold" in page
    assert "here it &lt;is&gt; not" in page
    assert 'href="index.html"' in page
    for text in (page, (site / "one.ipynb").read_text()):
        assert "sum(numbers)" not in re.sub(r"<[^>]*>", "", text)
        assert "for teachers" not in text
    assert "outputs" in json.loads((site / "one.ipynb").read_text())["cells"][1]


@pytest.mark.slow
@pytest.mark.notebook
def test_a_notebook_of_the_suite_is_verified_by_the_command(tmp_path):
    chosen = str(NOTEBOOKS / "00_start_here.ipynb")
    words = ["student", chosen, "--verify", "--workers", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "teacher").iterdir()} == {
        *("00_start_here.ipynb", "00_start_here.html")
    }
