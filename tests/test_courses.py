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
SPOKEN = """from workbench import courses

with courses.check("there is a built-in", "it is `sum`") as found:
    assert total == 7, f"{total} is not the sum of <the> numbers"
    assert double(2) == 4, "double(2) should be 4"
    found.why = "3 and 4 make 7"
"""
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


# --- what a check says ------------------------------------------------------------------


def said(capsys, code, *hints, why=""):
    """The lines that a check prints outside of a notebook, and the check."""
    with courses.check(*hints) as found:
        exec(code)
        found.why = why
    return capsys.readouterr().out.strip().splitlines(), found


def test_a_check_says_in_a_line_what_is_right_or_wrong_and_goes_on(capsys):
    lines, found = said(capsys, "assert 1 + 1 == 2, 'no sum'", why="two")
    assert (lines, found.right) == (["Right: two"], True)
    lines, found = said(capsys, "assert 1 + 1 == 3, '1 + 1 is less'")
    assert (lines, found.right) == (["Not yet: 1 + 1 is less"], False)
    lines, _ = said(capsys, "missing")
    assert lines == ["Not yet: name 'missing' is not defined: run the cells above first"]
    lines, _ = said(capsys, "[][1]")
    assert lines == ["Not yet: the code ends in IndexError: list index out of range"]
    with pytest.raises(KeyboardInterrupt), courses.check():
        raise KeyboardInterrupt


def test_each_wrong_answer_brings_a_hint_more_until_one_is_right(capsys):
    hints = ("there is a built-in", "it is called sum")
    wrong, shown = "assert False, 'no'", []
    for code in (wrong, wrong, wrong, wrong, "pass", wrong):
        lines, _ = said(capsys, code, *hints)
        shown.append(lines[1:])
    first, second = "Hint 1 of 2: there is a built-in", "Hint 2 of 2: it is called sum"
    assert shown == [[], [first], [first, second], [first, second], [], []]


def test_a_check_for_nbgrader_ends_in_an_error_of_one_line(capsys):
    whole = courses.nbgrader(master(check=SPOKEN))
    source = whole.cells[5].source
    assert source == SPOKEN.replace("courses.check(", "courses.graded(")
    with pytest.raises(AssertionError, match="8 is not the sum") as caught:
        exec(source, {"total": 8, "double": lambda x: 2 * x})
    assert caught.value._render_traceback_() == ["Not yet: 8 is not the sum of <the> numbers"]
    exec(source, {"total": 7, "double": lambda x: 2 * x})
    assert capsys.readouterr().out.splitlines()[-1] == "Right: 3 and 4 make 7"


# --- how far a class has come -------------------------------------------------------------


def answered(source=None, *, right=None, order=(1, 2), check=SPOKEN):
    """A student's copy as it is saved: the exercise's source, and what its check put out."""
    made = courses.student(master(check=check))
    exercise, checked = made.cells[4:6]
    exercise.source = source or exercise.source
    exercise.execution_count, checked.execution_count = order
    if right is not None:
        mark = [{"says": "<b>7</b>", "holds": right}]
        data = {"application/vnd.workbench.checks+json": mark, "text/plain": "7"}
        checked.outputs = [new_output("display_data", data)]
    return made


@pytest.mark.parametrize(
    ("made", "state"),
    [
        (answered(order=(None, None)), "not tried"),
        (answered(right=False), "not tried"),
        (answered("total = 8", right=False), "wrong"),
        (answered("total = 7", right=True), "right"),
        (answered("total = 7", right=True, order=(5, 2)), "not checked"),
        (answered("total = 7", order=(1, None)), "not checked"),
        (answered("total = 7", check=CHECK), "right"),  # ran, and nothing went wrong
    ],
)
def test_progress_reads_a_state_off_a_saved_copy(made, state, tmp_path):
    write(tmp_path / "ada" / "one.ipynb", made)
    table = courses.progress(tmp_path).table
    assert table[["student", "notebook", "exercise", "state"]].to_numpy().tolist() == [
        ["ada", "one", 1, state]
    ]


def test_progress_reads_a_failed_assert_and_nbgraders_copies(tmp_path):
    failed = answered("total = 8", check=CHECK)
    failed.cells[5].outputs = [
        new_output("error", ename="AssertionError", evalue="8", traceback=[])
    ]
    write(tmp_path / "one.ipynb", failed)
    theirs = courses.nbgrader(master())
    theirs.cells[4].source = "# YOUR CODE HERE\nraise NotImplementedError()"
    write(tmp_path / "two.ipynb", theirs)
    found = courses.progress(tmp_path).table
    assert set(found["student"]) == {tmp_path.name}
    assert found.set_index("notebook")["state"].to_dict() == {"one": "wrong", "two": "not tried"}
    assert found["says"].iloc[0] == "AssertionError: 8"


def test_the_progress_of_a_class_is_a_table_and_a_page_and_runs_nothing(tmp_path):
    flag = tmp_path / "ran"
    code = f"open({str(flag)!r}, 'w')"
    write(tmp_path / "class" / "ada" / "one.ipynb", answered("total = 7", right=True))
    write(tmp_path / "class" / "b & b" / "one.ipynb", answered(code, right=False))
    write(tmp_path / "class" / "cy" / "two.ipynb", answered(right=False))
    write(tmp_path / "class" / "cy" / ".ipynb_checkpoints" / "two.ipynb", answered(right=False))
    write(tmp_path / "class" / "cy" / "plain.ipynb", new_notebook(cells=[new_code_cell("1")]))
    broken = {"text.ipynb": "{]", "list.ipynb": "[]", "cells.ipynb": '{"cells": 3, "nbformat": 4}'}
    for name, text in broken.items():
        (tmp_path / "class" / "cy" / name).write_text(text)
    words = ["course", "progress", str(tmp_path / "class"), "--page", str(tmp_path / "page.html")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert rows[0] == ["notebook", "right", "wrong", "not checked", "not tried"]
    assert ["one", "1", "1", "0", "0"] in rows
    assert ["cy", "0", "0", "0", "1"] in rows
    assert "3 students, 3 exercises: 1 right, 1 wrong, 0 not checked, 1 not tried." in result.stdout
    assert "3 of the files could not be read" in result.stdout
    for name in broken:
        assert f"not read: cy/{name}: " in result.stderr
    page = (tmp_path / "page.html").read_text()
    assert "b &amp; b" in page
    assert "<b>7</b>" not in page
    assert 'title="&lt;b&gt;7&lt;/b&gt;"' in page
    assert all(f"cy/{name}" in page for name in broken)
    assert not re.search(r"https?://|src=", page)
    assert not flag.exists()


def test_progress_says_where_there_is_nothing_to_see(tmp_path):
    with pytest.raises(NotADirectoryError, match="name that of the notebooks"):
        courses.progress(tmp_path / "nowhere")
    (tmp_path / "one.ipynb").write_text("{]")
    with pytest.raises(ValueError, match=r"no notebook in .* has an exercise; one\.ipynb: "):
        courses.progress(tmp_path)


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
    spoken = write(tmp_path / "spoken.ipynb", master(check=SPOKEN))
    untrue = write(tmp_path / "untrue.ipynb", master(check=SPOKEN.replace("== 7", "== 9")))
    easily = SPOKEN.replace("total == 7", "total < 9").replace("== 4", "< 9")
    soft = write(tmp_path / "soft.ipynb", master(check=easily))
    masters = [good, easy, bad, false, wrong, spoken, untrue, soft]
    work = courses.student_set.steps(masters, tmp_path / "out", pool, verify=True)
    with pytest.raises(RuntimeError, match="notebooks that failed: 6") as caught:
        steps.run(work, progress=False)
    _, *lines = str(caught.value).splitlines()
    assert "bad.ipynb: students' copy: check-1 ends in AssertionError: not a word" in lines[0]
    assert "easy.ipynb: students' copy: check-1 passes before the exercise is done" in lines[1]
    assert lines[2] == "false.ipynb: checks that do not hold: start at 4 (cell 5)"
    assert lines[3] == "soft.ipynb: students' copy: check-1 passes before the exercise is done"
    assert (
        lines[4] == "untrue.ipynb: checks that do not hold: 7 is not the sum of <the> numbers "
        "(cell 7)"
    )
    assert lines[5].startswith("wrong.ipynb: cell 7 `assert total == 7")
    assert "8 is not the sum" in lines[5]
    right = nbformat.read(tmp_path / "out" / "teacher" / "spoken.ipynb", as_version=4)
    (output,) = right.cells[6].outputs
    assert 'role="status"' in output.data["text/html"]
    assert "Right</strong>3 and 4 make 7</div>" in output.data["text/html"]
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
        *("index.html", "one.html", "two.html", "one.ipynb", "two.ipynb")
    }
    index, page = ticks[-1].value.read_text(), (site / "one.html").read_text()
    assert '<a href="one.html">Sums &amp; &lt;such&gt;</a>' in index
    assert "<p>add two numbers.</p>" in index
    assert "1 minute." in index
    assert "<p>claims of papers: ✗ 1 refuted here</p>" in index
    assert index.count("claims of papers") == 1
    assert '<b class="wb-warn">1 of 2 checks hold</b>' in index
    assert picture in index
    assert re.findall(r'points="([^"]*)"', index) == ["2,78 118,27", "2,53 118,2"]
    for address in re.findall(r'(?:href|src)="([^"]*)"', index):
        assert address.startswith("data:") or (site / address).is_file(), address
    assert not re.search(r"https?://", index)
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
