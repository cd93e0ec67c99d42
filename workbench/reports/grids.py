"""`grid`: one notebook run with every combination of values, in many processes or machines.

A run goes as a `Job` through any `concurrent.futures.Executor` and comes back as its files.
Both are small: weights and data are found where the run takes place, by name and by hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import re
import shutil
import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from math import nan, prod
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

import workbench
from workbench import robustness
from workbench.files import write
from workbench.reports import grid_page, inputs
from workbench.reports.kernel import ReportError
from workbench.reports.needs import STORE, digest, ensure, hashed, labels
from workbench.reports.runner import execute
from workbench.steps import Step, run, work

LARGEST = 100_000  # runs of a grid
DEATHS = 3  # of the process under a run, after which the run counts as failed
MANY = 1000  # runs that a cluster is handed at a time
MARK, RESULTS, SHOWN, SCRATCH = "complete.txt", "results.json", "picture.png", ".run-"
Workers = Callable[[], AbstractContextManager[futures.Executor]]
Outcome = tuple[dict[str, bytes], str]  # the files of a report, compressed; the error or ""


@dataclass(frozen=True)
class Job:
    """One run: a notebook (its text compressed), the values given, where the report goes.

    needs: sha256 of weights and data by label, see `labels`. key: hash of all that decides
    the result. store: see STORE.
    """

    source: Path
    text: bytes
    version: str
    store: str
    limits: dict[str, float]
    output: Path
    place: str
    given: dict[str, Any]
    needs: dict[str, str]
    key: str

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return self.output / self.place


@dataclass(frozen=True, eq=False)
class Grid:
    """What a grid left: the index `page`, the CSV beside it, `parquet` where pyarrow is there.

    table: one row a run: its folder, how many of its checks hold ("11 of 12"), parameters,
    recorded numbers, seconds and error.
    """

    page: Path
    parquet: Path | None
    table: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """One row a run."""
        return self.table.copy()

    def summary(self) -> dict[str, Any]:
        """How many runs there are, how many failed, and the seconds they took together."""
        failed, seconds = int((self.table["error"] != "").sum()), self.table["seconds"].sum()
        return {"runs": len(self.table), "failed": failed, "seconds": round(float(seconds), 3)}


@work
def grid(
    notebook: str | Path,
    values: Mapping[str, Sequence[object]],
    output: str | Path | None = None,
    *,
    parameters: Mapping[str, object] | None = None,
    executor: Workers | None = None,
    resume: bool = False,
    cell_timeout: float = 120,
    timeout: float = 600,
) -> Iterator[Step[Grid]]:
    """One report for each combination of `values`; a step a run, the last with the `Grid`.

    `output` (by default `reports/<notebook>-grid`) gets a folder a run, index.html,
    results.csv and, with pyarrow, results.parquet. A run that fails is a row with an error;
    one whose process dies is done again, up to three times. Closing the steps ends the runs.

    values: by parameter. parameters: the same in all runs. executor: makes what the runs go
    through, anew when it breaks: `partial(processes, 4)`, `partial(cluster, address)`,
    `partial(ThreadPoolExecutor, 2)`; by default one process a core. resume: leave out what
    is complete, from the same notebook, modules beside it, parameters, package (by its
    source), weights and data.

    Raises:
        FileNotFoundError, ValueError: as `steps`, before anything runs; a parameter given
            twice; no combination, or more than 100,000.
        OSError: the folder cannot be written (what is complete stays), or no such cluster.
        RuntimeError: another grid is writing there.
    """
    source = Path(notebook).absolute()
    chosen = combinations(inputs.parameters(source), values, parameters or {})
    text, version = source.read_bytes(), workbench.__version__
    job = partial(
        Job,
        source=source,
        text=zlib.compress(text),
        version=version,
        store=os.environ.get(STORE, ""),
        limits={"cell_timeout": cell_timeout, "timeout": timeout},
        output=Path(output or f"reports/{source.stem}-grid").absolute(),
    )
    modules = sorted(source.parent.glob("*.py"))  # which it may import
    cells = [c.source for c in inputs.read_notebook(source).cells if c.cell_type == "code"]
    written = [text for cell in cells for text in inputs.texts(cell)]
    known, sha256 = cache(partial(labels, source.parent)), cache(partial(digest, source.parent))
    code = [robustness.source_hash(), *(sha256(f"file:{path.name}") for path in modules)]
    jobs = []
    for given in chosen:
        names = [*written, *inputs.texts(repr(given))]
        needs = {label: sha256(label) for name in names for label in known(name)}
        key = hashed([hashlib.sha256(text).hexdigest(), code, version, given, needs])
        place = folder_name(source.stem, given, values)
        jobs.append(job(place=place, given=given, needs=needs, key=key))
    return _steps(jobs, executor or partial(processes, os.cpu_count() or 1), resume)


def combinations(declared: Any, values: Mapping[str, Sequence[object]], fixed: Any) -> list[Any]:
    """Every combination of `values`, with `fixed`, each once and checked by its annotation."""
    if twice := {*values} & {*fixed}:
        raise ValueError(f"{twice.pop()}: expected in the grid or as a parameter, got both")
    same = inputs.coerce(declared, fixed)
    lists = {n: [inputs.coerce(declared, {n: v})[n] for v in each] for n, each in values.items()}
    count = prod(len(each) for each in lists.values())
    if not 1 <= count <= LARGEST:
        raise ValueError(f"grid: expected 1 to {LARGEST:,} combinations, got {count:,}")
    every = (same | dict(zip(lists, each, strict=True)) for each in product(*lists.values()))
    return list({hashed(each): each for each in every}.values())


def folder_name(stem: str, given: Mapping[str, Any], shown: Iterable[str]) -> str:
    """A short name, safe on any file system and the run's own: a readable part and a hash."""
    readable = "_".join(str(given[name])[:40] for name in shown)
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", readable)[:60].strip("-._")
    return f"{readable or 'run'}-{hashed([stem, given])[:10]}"


@contextmanager
def processes(workers: int) -> Iterator[futures.Executor]:
    """Fresh processes of one thread each; they end with the block, or with this process."""
    context = get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = futures.ProcessPoolExecutor(workers, context, _begin, (theirs,))
    try:
        yield pool
    except BaseException:  # the runs are no longer wanted
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()


def _begin(pipe: Connection) -> None:
    """In a new process: end it when the other end of the pipe is gone, even by kill -9."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Dask's workers: the same numbers
    Thread(target=lambda: (pipe.poll(None), os._exit(1)), daemon=True).start()


@contextmanager
def cluster(address: str) -> Iterator[futures.Executor]:
    """The workers of the Dask scheduler at `address`, such as tcp://host:8786.

    Raises:
        ImportError, OSError: distributed is not installed; no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("Dask: please pip install 'dnn-workbench[cluster]'") from None
    with Client(address, timeout=10) as client:
        yield client.get_executor(retries=2, pure=False)


# --- where the grid was started -----------------------------------------------------------


def _steps(jobs: list[Job], executor: Workers, resume: bool) -> Iterator[Step[Grid]]:
    folder = jobs[0].output
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise RuntimeError(f"output: another grid is writing into {folder}") from None
    with lock:
        missing = [job for job in jobs if not (resume and _is_complete(job))]
        errors: dict[Path, str] = {}
        total, complete = len(missing) + 1, len(jobs) - len(missing)
        with closing(_outcomes(missing, executor)) as outcomes:
            said = f"{complete} of {len(jobs)} runs are complete already"
            yield Step(0, total, said * resume)
            for done, (job, outcome) in enumerate(outcomes, 1):
                with _writing(folder):
                    _save(job, outcome)
                if outcome[1]:
                    errors[job.folder] = outcome[1]
                yield Step(done, total, f"{len(errors)} failed" if errors else "")
        for left in folder.glob(f"{SCRATCH}*"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        with _writing(folder):
            result = _summarise(jobs, errors)
        yield Step(total, total, "index written", result)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error}; what is complete stays") from None


def _outcomes(jobs: Iterable[Job], executor: Workers) -> Generator[tuple[Job, Outcome]]:
    """Each job with its outcome, as they end.

    A process that dies breaks its pool, and with it every run under way. These are done
    again one by one, so that a run that kills its process takes no other with it.
    """
    waiting, deaths = deque(jobs), Counter[Path]()
    while waiting:
        running: dict[futures.Future[Outcome], Job] = {}
        lost: list[Job] = []
        with executor() as pool:
            at_once = getattr(pool, "_max_workers", MANY)  # the standard library's say how many
            while (waiting or running) and not lost:
                while waiting and len(running) < at_once:
                    if running and any(deaths[j.folder] for j in (waiting[0], *running.values())):
                        break
                    try:
                        running[pool.submit(perform, waiting[0])] = waiting[0]
                    except futures.BrokenExecutor:
                        lost.append(waiting.popleft())
                        break
                    waiting.popleft()
                ended = futures.wait(running, return_when=futures.FIRST_COMPLETED).done
                if lost or any(map(_is_lost, ended)):
                    ended = futures.wait(running, 5).done  # the others fail now, or just ended
                for future in ended:
                    job = running.pop(future)
                    if _is_lost(future):
                        lost.append(job)
                    elif error := future.exception():
                        yield job, ({}, f"{type(error).__name__}: {error}")
                    else:
                        yield job, future.result()
            lost += running.values()
        for job in lost:
            deaths[job.folder] += 1
            if deaths[job.folder] < DEATHS:
                waiting.appendleft(job)
            else:
                yield job, ({}, f"its process died {DEATHS} times (out of memory, perhaps)")


def _is_lost(future: futures.Future[Any]) -> bool:
    return future.cancelled() or isinstance(future.exception(), futures.BrokenExecutor)


def _is_complete(job: Job) -> bool:
    """Whether a run is there, whole, and from the very same input."""
    with suppress(OSError, ValueError):
        json.loads((job.folder / RESULTS).read_text())
        return (job.folder / MARK).read_text() == job.key
    return False


def _save(job: Job, outcome: Outcome) -> None:
    """Write the files of a run; the mark that it is complete comes last."""
    files, error = outcome
    job.folder.mkdir(exist_ok=True)
    for stale in (MARK, RESULTS, SHOWN, job.source.with_suffix(".html").name):
        (job.folder / stale).unlink(missing_ok=True)
    for name, packed in files.items():
        write(job.folder / name, zlib.decompress(packed))
    if not error:
        write(job.folder / MARK, job.key)


def _summarise(jobs: list[Job], errors: Mapping[Path, str]) -> Grid:
    """The table of all runs, as CSV, Parquet and index page."""
    folder, rows = jobs[0].output, []
    for job in jobs:
        error = errors.get(job.folder, "")
        content = {} if error else json.loads((job.folder / RESULTS).read_text())
        row = {"run": job.folder.name, "seconds": content.get("seconds", nan), "error": error}
        if checks := [check["holds"] for check in content.get("checks", [])]:
            row["checks"] = f"{sum(checks)} of {len(checks)}"
        for kind, found in (("parameter", job.given), ("recorded", content.get("results", {}))):
            for name, value in pd.json_normalize(found).items():
                if name not in row or row[name] != value[0]:
                    row[f"{name} ({kind})" if name in row else str(name)] = value[0]
        rows.append(row)
    table = pd.DataFrame(rows).convert_dtypes()
    as_json = partial(json.dumps, default=lambda number: number.item())
    for name in table.select_dtypes("object"):  # lists, and values of several types
        table[name] = table[name].map(as_json, na_action="ignore").astype("string")
    first, last = [name for name in ("run", "checks") if name in table], ["seconds", "error"]
    table = table[[*first, *(n for n in table if n not in (*first, *last)), *last]]
    write(folder / "results.csv", table.to_csv(index=False))
    parquet, has_parquet = folder / "results.parquet", find_spec("pyarrow") is not None
    parquet.unlink(missing_ok=True)
    if has_parquet:
        write(parquet, table.to_parquet())
    page, report = folder / "index.html", jobs[0].source.with_suffix(".html").name
    axes = [n for n in jobs[0].given if n in table and len(table[n].unique()) > 1]
    write(page, grid_page.to_html(table, folder, report, SHOWN, axes))
    return Grid(page, parquet if has_parquet else None, table)


# --- where a run takes place --------------------------------------------------------------


def perform(job: Job) -> Outcome:
    """One run, on whatever machine; what goes wrong is in the outcome.

    The report is made in a scratch folder: in the grid's own, where this machine has it.
    """
    home, error = job.output if os.access(job.output, os.W_OK) else None, ""
    with TemporaryDirectory(prefix=SCRATCH, dir=home, ignore_cleanup_errors=True) as scratch:
        report = Path(scratch, "report")
        try:
            if job.version != workbench.__version__:
                raise ValueError(f"{platform.node()} has workbench {workbench.__version__}")
            for label, sha256 in job.needs.items():
                ensure(job.source.parent, label, sha256, job.store)
            source = _notebook(job, Path(scratch))
            made = run(execute.steps(source, job.given, report, **job.limits), progress=False)
            if pictures := [png for figure in made.figures for _, png in figure.pictures]:
                (report / SHOWN).write_bytes(base64.b64decode(max(pictures, key=len)))
        except ReportError as raised:
            error = str(raised).replace(str(report), str(job.folder))
        except Exception as raised:  # of a damaged file, a full disk, a download
            error = f"{type(raised).__name__}: {raised}"
        files = {path.name: zlib.compress(path.read_bytes()) for path in report.glob("[!.]*")}
    return files, error


def _notebook(job: Job, scratch: Path) -> Path:
    """The notebook as it was when the grid began: this machine's own, else a copy of it."""
    text = zlib.decompress(job.text)
    with suppress(OSError):
        if job.source.read_bytes() == text:
            return job.source
    copy = scratch / "notebook" / job.source.name
    copy.parent.mkdir()
    copy.write_bytes(text)
    return copy
