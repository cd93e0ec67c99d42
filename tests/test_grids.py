import base64
import json
import re
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from workbench import cli, figures, reports
from workbench.reports import grid_charts, grid_page, grids, inputs, needs
from workbench.steps import run

DECLARED = "name: str = 'a'\neps: float = 0.1\nfew: list[int] = [1]\n"
NOISE = torch.rand(1, 60, 60, generator=torch.Generator().manual_seed(0))
PIXEL = base64.b64encode(figures.png(NOISE)).decode()
BODY = f"""
from IPython.display import HTML
from workbench import reports
if name == 'bad': raise ValueError('bad is bad')
reports.result(double=2 * eps, name=name.upper(), parts={{'n': len(few), 'few': few}})
HTML('<img alt="a dot" src="data:image/png;base64,{PIXEL}">')
"""
CHECKS = "assert name, 'a name'\nassert len(name) < 9, 'a short name'"
HOSTILE = ["../x; rm -rf $HOME `id`", "/etc/passwd", "<script>alert(1)</script>\x00\n", "é" * 10**6]
THREADS = partial(ThreadPoolExecutor, 2)


def written(path, body=BODY, parameters=DECLARED):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(body)]
    cells.append(new_code_cell(CHECKS, metadata={"tags": ["checks"]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def grid(notebook, values, output, **options):
    return run(grids.grid.steps(notebook, values, output, **options), progress=False)


def only_job(monkeypatch, *grid):
    """The job of a grid of one run, which is not begun."""
    jobs = []
    with monkeypatch.context() as patch:
        patch.setattr(grids, "_steps", lambda made, *_: jobs.extend(made))
        grids.grid.steps(*grid)
    (job,) = jobs
    return job


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A notebook, and `work` that runs nothing: it notes the job and returns results."""
    seen = []

    def perform(job):
        seen.append(job)
        content = {"results": {"double": 2 * job.given.get("eps", 1)}, "seconds": 1.0}
        return {"results.json": zlib.compress(json.dumps(content).encode())}, ""

    monkeypatch.setattr(grids, "perform", perform)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    return seen


# --- a grid of real runs --------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A grid in which one run fails and one has a hostile value."""
    home = tmp_path_factory.mktemp("grid")
    notebook = written(home / "a book" / "tiny.ipynb")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    values = {"name": ["fine", "bad", HOSTILE[0]], "few": ["[1, 2]"]}
    made = grid(notebook, values, home / "out", parameters={"eps": "1/4"}, executor=THREADS)
    outside = {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and "out" not in p.parts}
    assert outside == before
    return made


def test_every_combination_is_a_row_and_a_failure_stops_none(made):
    assert made.summary()["runs"] == 3
    assert made.summary()["failed"] == 1
    table = made.frame().set_index("name")
    fine, bad = table.loc["fine"], table.loc["bad"]
    assert (fine["double"], fine["eps"], fine["parts.n"], fine["parts.few"]) == (
        0.5,
        0.25,
        2,
        "[1, 2]",
    )
    assert fine["name (recorded)"] == "FINE"
    assert "ValueError: bad is bad" in bad["error"]
    assert (fine["checks"], table.loc[HOSTILE[0], "checks"]) == ("2 of 2", "1 of 2")
    assert pd.isna(bad["checks"])
    assert list(made.table)[:2] == ["run", "checks"]  # seen before one scrolls
    assert pd.isna(bad["double"])
    executed = made.page.parent / bad["run"] / "tiny.ipynb"
    assert executed.is_file()
    assert str(executed) in bad["error"]


def test_csv_and_parquet_hold_the_same_table(made):
    pytest.importorskip("pyarrow")
    csv = pd.read_csv(made.page.with_name("results.csv")).convert_dtypes()
    parquet = pd.read_parquet(made.parquet).convert_dtypes()
    pd.testing.assert_frame_equal(csv, parquet.assign(error=parquet["error"].replace("", pd.NA)))


def test_the_folder_holds_the_runs_and_nothing_else(made):
    folder = made.page.parent
    names = {path.name for path in folder.iterdir()} - {".lock", "results.parquet"}
    assert names == {"index.html", "results.csv", *made.table["run"]}
    fine = folder / made.table["run"][0]
    files = {"complete.txt", "picture.png", "results.json", "tiny.html", "tiny.ipynb"}
    assert {path.name for path in fine.iterdir()} == files
    assert (folder / made.table["run"][1] / "complete.txt").exists() is False


def test_the_index_links_each_page_and_shows_its_picture(made):
    html = made.page.read_text()
    assert "1 of 2" in html
    links = re.findall(r'(?:href|src)="([^"]+)"', html)
    assert links
    assert all((made.page.parent / link).is_file() for link in links)
    assert html.count("<img ") == 2
    assert html.count('alt="largest picture of') == 2
    assert "bad is bad" in html
    assert "(failed)" in html


def test_what_is_complete_is_left_out(made, monkeypatch):
    monkeypatch.setattr(grids, "perform", lambda job: ({}, f"again: {job.given['name']}"))
    source = made.page.parent.parent / "a book" / "tiny.ipynb"
    values = {"name": ["fine", "bad", HOSTILE[0]], "few": ["[1, 2]"]}
    options = {"parameters": {"eps": 0.25}, "executor": THREADS, "resume": True}
    ticks = list(grids.grid.steps(source, values, made.page.parent, **options))
    assert [(tick.done, tick.total) for tick in ticks] == [(0, 2), (1, 2), (2, 2)]
    assert ticks[0].message == "2 of 3 runs are complete already"
    assert list(ticks[-1].value.table["error"]) == ["", "again: bad", ""]


def test_a_machine_without_the_notebook_runs_the_text_it_was_sent(tmp_path, monkeypatch):
    job = only_job(monkeypatch, written(tmp_path / "n.ipynb"), {"name": ["x"]}, tmp_path / "out")
    (tmp_path / "n.ipynb").unlink()  # nor is the folder there
    files, error = grids.perform(job)
    assert error == ""
    assert json.loads(zlib.decompress(files["results.json"]))["results"]["name"] == "X"
    assert list(tmp_path.iterdir()) == []


# --- what is run, and under which name ------------------------------------------------------


def test_values_are_combined_checked_and_told_apart():
    declared = {n: reports.Parameter(n, "float", 0.0) for n in "ab"}
    made = grids.combinations(declared, {"a": ["0.5", 1 / 2, "1"]}, {"b": 2})
    assert made == [{"b": 2.0, "a": 0.5}, {"b": 2.0, "a": 1.0}]
    assert grids.combinations(declared, {}, {}) == [{}]


@pytest.mark.parametrize(
    ("values", "fixed", "said"),
    [
        ({"epz": [1]}, {}, r"unknown parameter 'epz'. Did you mean 'eps'"),
        ({"eps": [1, "much"]}, {}, "eps: expected float, got 'much'"),
        ({"eps": [1]}, {"eps": 1}, "eps: expected in the grid or as a parameter, got both"),
        ({"eps": []}, {}, "expected 1 to 100,000 combinations, got 0"),
        ({"eps": [*range(400)], "few": [[i] for i in range(400)]}, {}, "got 160,000"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(tmp_path, values, fixed, said):
    notebook = written(tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match=said):
        grids.grid.steps(notebook, values, tmp_path / "out", parameters=fixed)
    assert not (tmp_path / "out").exists()


@given(st.lists(st.text() | st.floats(allow_nan=False) | st.lists(st.text()), max_size=4))
def test_a_folder_name_is_short_safe_and_the_runs_own(values):
    made = {str(i): value for i, value in enumerate(values)}
    name = grids.folder_name("n", made, made)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", name)
    assert name != grids.folder_name("m", made, made)
    assert name != grids.folder_name("n", made | {"more": 1}, made)


def test_hostile_values_stay_inside_the_output(fake, tmp_path):
    notebook = written(tmp_path / "n.ipynb")
    made = grid(notebook, {"name": HOSTILE}, tmp_path / "deep" / "out", executor=THREADS)
    assert {p.name for p in tmp_path.iterdir()} == {"n.ipynb", "deep"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]
    assert sorted(made.table["name"]) == sorted(HOSTILE)
    html = made.page.read_text()
    assert "<script>alert" not in html
    assert len(html) < 20_000


# --- resume ---------------------------------------------------------------------------------


def change_notebook(home, monkeypatch):
    written(home / "n.ipynb", BODY + "\n")


def change_version(home, monkeypatch):
    monkeypatch.setattr("workbench.__version__", "99")


def change_source(home, monkeypatch):
    monkeypatch.setattr("workbench.robustness.source_hash", lambda: "edited")


def change_module(home, monkeypatch):
    (home / "own.py").write_text("EPS = 0.2\n")


def change_weights(home, monkeypatch):
    (home / "data/models/my/net.safetensors").write_bytes(b"other")


def change_data(home, monkeypatch):
    (home / "data/mnist/t10k-images-idx3-ubyte").write_bytes(b"other")


def lose_results(home, monkeypatch):
    for path in home.glob("out/*/results.json"):
        path.write_text("{")


def lose_mark(home, monkeypatch):
    for path in home.glob("out/*/complete.txt"):
        path.unlink()


def change_nothing(home, monkeypatch):
    (home / "data/models/my/other.safetensors").write_bytes(b"not named")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (change_nothing, 0),
        (change_notebook, 2),
        (change_version, 2),
        (change_source, 2),
        (change_module, 2),
        (change_weights, 1),
        (change_data, 2),
        (lose_results, 2),
        (lose_mark, 2),
    ],
)
def test_a_changed_input_is_run_again(change, again, fake, tmp_path, monkeypatch):
    for name in ("models/my/net.safetensors", "mnist/t10k-images-idx3-ubyte"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(b"as it was")
    notebook = written(tmp_path / "n.ipynb", "from workbench import data\ndata.load('mnist')")
    values = {"name": ["my/net", "a"]}
    first = grid(notebook, values, tmp_path / "out", executor=THREADS)
    assert len(fake) == 2
    change(tmp_path, monkeypatch)
    second = grid(notebook, values, tmp_path / "out", executor=THREADS, resume=True)
    assert len(fake) == 2 + again
    pd.testing.assert_frame_equal(first.table, second.table)


def test_without_resume_all_is_run_again(fake, tmp_path):
    notebook = written(tmp_path / "n.ipynb")
    for times in (1, 2):
        grid(notebook, {}, tmp_path / "out", executor=THREADS)
        assert len(fake) == times


def test_a_run_that_fails_again_is_no_longer_complete(fake, tmp_path, monkeypatch):
    notebook = written(tmp_path / "n.ipynb")
    grid(notebook, {}, tmp_path / "out", executor=THREADS)
    monkeypatch.setattr(grids, "perform", lambda job: ({}, "no luck"))
    assert grid(notebook, {}, tmp_path / "out", executor=THREADS).summary()["failed"] == 1
    assert list(tmp_path.glob("out/*/complete.txt")) == []
    assert list(tmp_path.glob("out/*/results.json")) == []


def test_two_grids_never_share_a_folder(fake, tmp_path):
    notebook = written(tmp_path / "n.ipynb")
    first = grids.grid.steps(notebook, {"eps": [1, 2]}, tmp_path / "out", executor=THREADS)
    next(first)
    with pytest.raises(RuntimeError, match="another grid is writing into"):
        grid(notebook, {}, tmp_path / "out", executor=THREADS)
    first.close()
    grid(notebook, {}, tmp_path / "out", executor=THREADS)


# --- processes that die ---------------------------------------------------------------------


class Fragile:
    """An executor of two whose process dies under some jobs, and takes what runs with it."""

    _max_workers = 2

    def __init__(self, deadly, log):
        self.deadly, self.log, self.running = deadly, log, []
        self.lock, self.broken = threading.Lock(), False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, work, job):
        with self.lock:
            if self.broken:
                raise BrokenExecutor("broken")
            self.running.append((Future(), job))
            self.log.append(job.given["name"])
            threading.Timer(0.05, self.end, (work, self.running[-1])).start()
            return self.running[-1][0]

    def end(self, work, run):
        with self.lock:
            future, job = run
            if run not in self.running:
                return
            self.running.remove(run)
            if job.given["name"] not in self.deadly:
                future.set_result(work(job))
                return
            self.broken = True
            for other in (future, *(neighbour for neighbour, _ in self.running)):
                other.set_exception(BrokenExecutor("a process died"))
            self.running = []


def test_a_run_that_kills_its_process_takes_no_other_with_it(fake, tmp_path):
    log = []
    values = {"name": ["a", "deadly", "b", "c"]}
    made = grid(
        written(tmp_path / "n.ipynb"),
        values,
        tmp_path / "o",
        executor=lambda: Fragile({"deadly"}, log),
    )
    errors = dict(zip(made.table["name"], made.table["error"], strict=True))
    assert "its process died 3 times" in errors.pop("deadly")
    assert set(errors.values()) == {""}
    assert log.count("deadly") == 3
    assert max(log.count(name) for name in "abc") <= 2


def test_a_pool_that_never_works_is_given_up(fake, tmp_path):
    class Broken(Fragile):
        def submit(self, work, job):
            raise BrokenExecutor("no process starts")

    made = grid(
        written(tmp_path / "n.ipynb"),
        {"eps": [1, 2]},
        tmp_path / "o",
        executor=lambda: Broken((), []),
    )
    assert made.summary()["failed"] == 2


def test_what_an_executor_raises_is_the_error_of_the_run(fake, tmp_path, monkeypatch):
    def perform(job):
        raise ConnectionError("gone")

    monkeypatch.setattr(grids, "perform", perform)
    made = grid(written(tmp_path / "n.ipynb"), {}, tmp_path / "o", executor=THREADS)
    assert list(made.table["error"]) == ["ConnectionError: gone"]


COUNTED = """
import os, signal, time
from pathlib import Path
from workbench import reports
note = Path(folder, name)
times = int(note.read_text()) + 1 if note.exists() else 1
note.write_text(str(times))
if name == 'deadly' and (forever or times == 1):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
time.sleep(wait)
reports.result(times=times)
"""
COUNTED_PARAMETERS = "name: str = 'a'\nfolder: str = ''\nforever: bool = False\nwait: float = 0.0\n"


@pytest.fixture
def counted(tmp_path):
    (tmp_path / "times").mkdir()
    return written(tmp_path / "n.ipynb", COUNTED, COUNTED_PARAMETERS)


def times(tmp_path):
    return {path.name: int(path.read_text()) for path in (tmp_path / "times").iterdir()}


@pytest.mark.slow
def test_a_killed_worker_loses_no_finished_result(counted, tmp_path):
    values = {"name": ["a", "b", "deadly"]}
    fixed = {"folder": str(tmp_path / "times")}
    pool = partial(grids.processes, 2)
    made = grid(counted, values, tmp_path / "out", parameters=fixed, executor=pool)
    assert set(made.table["error"]) == {""}
    assert times(tmp_path)["deadly"] == 2
    assert sum(times(tmp_path).values()) <= 5  # the neighbour too was under way, at most
    assert [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".run-")] == []


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along_and_resume_does_the_rest(counted, tmp_path):
    words = ["report", str(counted), "--grid", "name=a,b,c", "-p", "wait", "1"]
    words += ["-p", "folder", str(tmp_path / "times"), "--output", str(tmp_path / "out")]
    code = "from workbench.cli import app; app()"
    command = [sys.executable, "-c", code, *words, "--workers", "2"]
    parent = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*/complete.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    complete = [path.parent.name for path in tmp_path.glob("out/*/complete.txt")]
    assert 1 <= len(complete) < 3
    deadline = time.monotonic() + 20
    while members(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(parent.pid) == []  # workers and kernels are gone
    result = CliRunner().invoke(cli.app, [*words, "--workers", "2", "--resume"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("run")
    assert (table.loc[complete, "times"] == 1).all()
    assert len(table) == 3


def members(session):
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_a_cluster_of_processes_gives_the_same_numbers(tmp_path):
    distributed = pytest.importorskip("distributed")
    notebook = written(tmp_path / "n.ipynb")
    values = {"eps": [0.1, 0.3]}
    pool = grid(notebook, values, tmp_path / "pool", executor=partial(grids.processes, 2))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with distributed.LocalCluster(**options, dashboard_address=None) as made:
        executor = partial(grids.cluster, made.scheduler_address)
        clustered = grid(notebook, values, tmp_path / "cluster", executor=executor)
    left, right = (g.table.drop(columns="seconds") for g in (pool, clustered))
    pd.testing.assert_frame_equal(left, right)
    assert clustered.summary()["failed"] == 0


@pytest.mark.slow
def test_a_killed_worker_of_a_cluster_loses_nothing(counted, tmp_path):
    distributed = pytest.importorskip("distributed")
    values, fixed = {"name": ["a", "deadly", "b"]}, {"folder": str(tmp_path / "times")}
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with distributed.LocalCluster(**options, dashboard_address=None) as made:
        executor = partial(grids.cluster, made.scheduler_address)
        done = grid(counted, values, tmp_path / "out", parameters=fixed, executor=executor)
    assert set(done.table["error"]) == {""}
    assert times(tmp_path)["deadly"] == 2


@pytest.mark.slow
def test_no_scheduler_is_said(fake, tmp_path):
    pytest.importorskip("distributed")
    executor = partial(grids.cluster, "tcp://127.0.0.1:9")
    with pytest.raises((OSError, ValueError), match=r"127\.0\.0\.1:9"):
        grid(written(tmp_path / "n.ipynb"), {}, tmp_path / "out", executor=executor)


def test_a_cluster_without_distributed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"dnn-workbench\[cluster\]"), grids.cluster("x"):
        pass


# --- weights and data, by name and hash -----------------------------------------------------


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """The data folder of a worker, empty."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "worker"))
    needs.ensure.cache_clear()
    return tmp_path / "worker"


def test_a_name_stands_for_its_files(worker, tmp_path):
    assert needs.labels(tmp_path, "digits/cnn") == ["models/digits/cnn.safetensors"]
    (tmp_path / "w.onnx").write_text("w")
    (tmp_path / "it's mine.onnx").write_text("w")
    (name,) = inputs.texts("""models.load("onnx:it's mine.onnx")""")
    assert needs.labels(tmp_path, name) == [name]
    assert needs.labels(tmp_path, "onnx:w.onnx") == ["onnx:w.onnx"]
    nothing = ("no/such", "../w", "x" * 100_000, "a\x00", "hf:some/net", "file:", "folder")
    for name in (*nothing, *HOSTILE):
        assert needs.labels(tmp_path, name) == []


def test_a_folder_of_pictures_is_hashed_as_a_whole(tmp_path):
    for name in ("cats/1.png", "dogs/1.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True)
        (tmp_path / "pets" / name).write_text(name)
    before = needs.digest(tmp_path, "folder:pets")
    assert before == needs.digest(tmp_path, f"folder:{tmp_path / 'pets'}")
    (tmp_path / "pets/cats/1.png").rename(tmp_path / "pets/cats/2.png")
    assert needs.digest(tmp_path, "folder:pets") != before
    for name in ("flat.png", "cats/deeper/3.png"):  # as `data.load` reads them
        before = needs.digest(tmp_path, "folder:pets")
        (tmp_path / "pets" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pets" / name).write_text(name)
        assert needs.digest(tmp_path, "folder:pets") != before


def test_a_worker_with_other_weights_or_none_says_so(worker, tmp_path):
    label = "models/my/net.safetensors"
    with pytest.raises(FileNotFoundError, match=r"my/net\.safetensors.*WORKBENCH_STORE"):
        needs.ensure(tmp_path, label, "0" * 64, "")
    (worker / label).parent.mkdir(parents=True)
    (worker / label).write_bytes(b"weights")
    with pytest.raises(ValueError, match="with sha256 000000000000"):
        needs.ensure(tmp_path, label, "0" * 64, "")
    needs.ensure(tmp_path, label, needs.digest(tmp_path, label), "")
    needs.ensure(tmp_path, "mnist/absent.gz", "0" * 64, "")  # data.load fetches it


def test_absent_weights_come_from_the_store_by_their_hash(worker, tmp_path):
    label = "models/my/net.safetensors"
    stored = tmp_path / "store" / label
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"weights")
    sha256 = needs.digest(tmp_path, f"file:{stored}")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=tmp_path / "store")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ValueError, match="hash"):
            needs.ensure(tmp_path, label, "0" * 64, store)
        assert not (worker / label).exists()
        needs.ensure(tmp_path, label, sha256, store)
        server.shutdown()
    assert (worker / label).read_bytes() == b"weights"


def test_a_worker_of_another_version_refuses(tmp_path, monkeypatch):
    job = only_job(monkeypatch, written(tmp_path / "n.ipynb"), {}, tmp_path)
    monkeypatch.setattr("workbench.__version__", "99")
    files, error = grids.perform(job)
    assert files == {}
    assert "has workbench 99" in error


# --- the index, the files, the command ------------------------------------------------------


def test_without_pyarrow_there_is_csv_alone(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "find_spec", lambda name: None)
    notebook = written(tmp_path / "n.ipynb")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.parquet").write_text("of an earlier grid")
    words = ["report", str(notebook), "--grid", "eps=1,2", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(reports, "processes", lambda workers: ThreadPoolExecutor(workers))
    result = CliRunner().invoke(cli.app, [*words, "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert "no results.parquet: pip install 'dnn-workbench[cluster]'" in result.stderr
    assert not (tmp_path / "out" / "results.parquet").exists()
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == 2


@pytest.mark.parametrize("values", [["a", 1], [True, None, 2.5], [10**30, 1], [[1], {"k": 1}]])
def test_any_recorded_json_fits_a_table(values, fake, tmp_path, monkeypatch):
    def perform(job):
        found = values[int(job.given["eps"])]
        content = json.dumps({"results": {"x": found}, "seconds": 1})
        return {"results.json": zlib.compress(content.encode())}, ""

    monkeypatch.setattr(grids, "perform", perform)
    notebook = written(tmp_path / "n.ipynb")
    eps = {"eps": list(range(len(values)))}
    made = grid(notebook, eps, tmp_path / "out", executor=THREADS)
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == len(values)
    if made.parquet:
        assert len(pd.read_parquet(made.parquet)) == len(values)


def test_a_grid_in_words():
    words = ["model=mnist/cnn,mnist/cnn-robust", "few=[1,2],[3]", "eps=0.1", "eps=0.2", "a=b=c"]
    assert cli.values(words) == {
        "model": ["mnist/cnn", "mnist/cnn-robust"],
        "few": ["[1,2]", "[3]"],
        "eps": ["0.1", "0.2"],
        "a": ["b=c"],
    }
    long = cli.values(["a=" + "," * 10**6, "b=" + "[" * 10**6])
    assert (len(long["a"]), long["b"]) == (10**6 + 1, ["[" * 10**6])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grid", "eps"], "--grid takes a name and values"),
        (["--grid", "=1"], "--grid takes a name and values"),
        (["--grid", "eps=1", "--workers", "2", "--dask", "tcp://a:1"], "got both"),
        (["--grid", "epz=1"], "unknown parameter 'epz'"),
        (["--grid", "eps="], "eps: expected float"),
    ],
)
def test_a_wrong_command_is_one_line(words, said, tmp_path):
    notebook = written(tmp_path / "n.ipynb")
    result = CliRunner().invoke(cli.app, ["report", str(notebook), *words])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_failed_runs_make_the_command_fail(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "perform", lambda job: ({}, "no luck"))
    monkeypatch.setattr(reports, "processes", lambda workers: ThreadPoolExecutor(workers))
    words = ["report", str(written(tmp_path / "n.ipynb")), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, [*words, "--grid", "eps=1,2", "--workers", "1"])
    assert result.exit_code == 1
    assert "error: 2 of 2 runs failed" in result.stderr
    assert "no luck" in (tmp_path / "out" / "results.csv").read_text()


def wide(runs=12, numbers=20):
    """The table of a grid over eps, model and seed, with more numbers than fit a window."""
    rows = []
    for i in range(runs):
        eps, model, seed = 0.1 * (i % 3), ["digits/cnn", "digits/mlp"][i // 3 % 2], i // 6
        facts = {"run": f"{eps:.1f}_{model.replace('/', '-')}-{i}", "checks": "2 of 2", "n": 100}
        facts |= {"eps": eps, "model": model, "seed": seed, "robust_accuracy": (i + 1) / runs}
        facts |= {f"rates.of_something_long {k}": i * k + 0.123456 for k in range(numbers)}
        rows.append({**facts, "seconds": 1.5, "error": ""})
    rows[0] |= {"error": "ValueError: " + "a long way to say it " * 20, "robust_accuracy": None}
    return pd.DataFrame(rows).convert_dtypes()


def test_recorded_numbers_are_charted_over_the_axes(tmp_path):
    table = wide(numbers=2)
    html = grid_charts.charts(table, ["seed", "model", "eps"])
    options = re.findall('<option value="([^"]*)">', html)
    assert options == ["robust_accuracy", "rates.of_something_long 1"], "what varies"
    assert "over eps, for each model" in html
    shown = html.split("data-number=")[1]
    assert re.findall("<figcaption>([^<]*)", shown) == ["model digits/cnn", "model digits/mlp"]
    assert shown.count("<circle") == 11, "a run is a dot, and the failed one is none"
    assert "<title>0.167 at 0.1 (0.1_digits-cnn-1)</title>" in shown
    means = re.search('aria-label="robust accuracy over eps, model digits/cnn: ([^"]*)"', shown)[1]
    assert means == "0: 0.583, 0.1: 0.417, 0.2: 0.5"  # of runs 6; 1 and 7; 2 and 8
    dots = re.findall(r'cy="([\d.]+)"[^>]*><title>([\d.]+) at', shown)
    down = sorted((float(value), float(cy)) for cy, value in dots)
    assert [cy for _, cy in down] == sorted((cy for _, cy in down), reverse=True)


def test_names_have_bars_and_a_lone_run_no_chart():
    table = wide(numbers=0)
    html = grid_charts.charts(table, ["model"])
    rows = re.findall(r'<th scope="row">([^<]*)</th>.*?left:([\d.]+)%;width:([\d.]+)%', html)
    of = {m: table.loc[table["model"] == m, "robust_accuracy"].mean() for m in set(table["model"])}
    assert {name: float(width) for name, _, width in rows} == {
        m: pytest.approx(100 * mean, abs=0.06) for m, mean in of.items()
    }
    assert grid_charts.charts(table[:1], []) == ""
    assert grid_charts.charts(table[["run", "error", "model"]], ["model"]) == ""


def test_negative_numbers_and_hostile_names_are_drawn():
    table = pd.DataFrame(
        {"run": ["a", "b"], "error": "", "<x>": ['"<i>', "ok"], "gap": [-1.0, 3.0]}
    )
    html = grid_charts.charts(table, ["<x>"])
    assert "<x>" not in html
    assert '"<i>' not in html
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", html) == [
        ("0.0", "25.0"),
        ("25.0", "75.0"),
    ]


def test_what_never_varies_is_one_line(tmp_path):
    html = grid_page.to_html(wide(), tmp_path, "n.html", "p.png", ["eps", "model", "seed"])
    assert "<p>The same in all runs: checks 2 of 2, n 100, " in html
    assert "seconds 1.5.</p>" in html
    assert "<th>n</th>" not in html
    assert "0.123456" not in re.sub("<option[^>]*>", "", html)
    assert "1 of 12 runs failed." in html


@pytest.mark.browser
def test_the_page_fits_its_window_and_charts_the_number_chosen(page, tmp_path):
    (tmp_path / "index.html").write_text(
        grid_page.to_html(wide(), tmp_path, "n.html", "p.png", ["eps", "model", "seed"])
    )
    page.set_viewport_size({"width": 1024, "height": 768})
    page.goto((tmp_path / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 1024
    heads = "[...document.querySelectorAll('.wb-scroll thead th')].filter(h => !h.hidden).length"
    assert page.evaluate(heads) == grid_page.FEW + 2
    page.get_by_label("all 24 columns").check()
    assert page.evaluate(heads) == 25
    assert page.evaluate("document.documentElement.scrollWidth") <= 1024
    visible = page.locator("[data-number]:not([hidden])")
    assert visible.get_attribute("data-number") == "robust_accuracy"
    page.get_by_label("Number").select_option("rates.of_something_long 3")
    assert visible.get_attribute("data-number") == "rates.of_something_long 3"
    assert page.problems == []


@pytest.mark.browser
def test_the_table_sorts_by_key_and_asks_nothing_of_the_network(page, tmp_path):
    eps = pd.array([10, None, 9, 1.5])
    table = pd.DataFrame({"run": [*"abcd"], "eps": eps, "error": ["", "", "boom", ""]})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "p.png").write_bytes(base64.b64decode(PIXEL))
    page_path = tmp_path / "index.html"
    page_path.write_text(grid_page.to_html(table, tmp_path, "n.html", "p.png"))
    words = []
    page.on("console", lambda message: words.append(message.text))
    page.goto(page_path.as_uri())
    rows = "[...document.querySelectorAll('tbody th')].map(h => h.textContent[0]).join('')"
    orders = []
    page.get_by_role("button", name="eps").focus()
    for _ in range(2):
        page.keyboard.press("Enter")
        orders.append(page.evaluate(rows))
    said = page.get_by_role("status").text_content()
    pictured = page.evaluate("document.querySelector('img').naturalWidth")
    assert orders == ["dcab", "acdb"]  # what is missing comes last
    assert said == "Sorted by eps, descending."
    assert pictured == 60
    assert words == page.problems == []
    assert all(url.startswith("file:") for url in page.requested)
