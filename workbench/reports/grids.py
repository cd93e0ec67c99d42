"""`grid`: one notebook run with every combination of values, on many processes or machines.

A run travels as a `Job` to any `concurrent.futures.Executor` and comes back as an `Outcome`,
both small: weights and data are found where the run takes place, by name and by hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from math import prod
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

import workbench
from workbench import checks, data, models
from workbench.reports import grid_page, inputs
from workbench.reports.kernel import ReportError
from workbench.reports.runner import steps, write
from workbench.steps import Step, run

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 100_000  # runs of a grid
DEATHS = 3  # of the processes under one run, after which it counts as failed
TICK = 1.0  # seconds between two signs of life
MARK, RESULTS, THUMBNAIL, SCRATCH = "complete.txt", "results.json", "thumbnail.png", ".run-"
STORE = "WORKBENCH_STORE"  # address of a data folder served by HTTP
FILES = ("file", "onnx", "state_dict")  # kinds of model that name a file
INLINE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
LITERAL = re.compile(r"""["']([^"'\n]{1,200})["']""")
Workers = Callable[[], AbstractContextManager[Executor]]


@dataclass(frozen=True)
class Job:
    """One run: what it needs, as names and hashes, and where its report will be.

    values: the parameters given. text: the notebook, compressed. needs: sha256 by label
    (see `labels`). key: of all that decides the result.
    """

    source: str
    text: bytes
    sha256: str
    output: str
    limits: dict[str, float]
    store: str
    folder: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of notebook, parameters, package version, weights and data."""
        return _hash([self.sha256, self.values, workbench.__version__, self.needs])


@dataclass(frozen=True)
class Outcome:
    """The files of a report by name, compressed, and what went wrong, if anything did."""

    files: dict[str, bytes] = field(default_factory=dict)
    error: str = ""
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    """What a grid left in its folder: `page`, the CSV beside it, `parquet` with pyarrow only.

    table: one row a run: its folder, parameters, recorded numbers, seconds and error.
    """

    page: Path
    parquet: Path | None
    table: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """One row a run."""
        return self.table.copy()

    def summary(self) -> dict[str, Any]:
        """How many runs there are, how many failed, and the seconds they took together."""
        failed = int((self.table["error"] != "").sum())
        seconds = float(self.table["seconds"].sum())
        return {"runs": len(self.table), "failed": failed, "seconds": round(seconds, 3)}


def grid(notebook: str | Path, values: Mapping[str, Sequence[object]], **options: Any) -> Grid:
    """Run `grid_steps` behind a progress bar."""
    return run(grid_steps(notebook, values, **options))


def grid_steps(
    notebook: str | Path,
    values: Mapping[str, Sequence[object]],
    output: str | Path | None = None,
    *,
    parameters: Mapping[str, object] | None = None,
    executor: Workers | None = None,
    at_once: int | None = None,
    resume: bool = False,
    cell_timeout: float = 120,
    timeout: float = 600,
) -> Iterator[Step[Grid]]:
    """One report for each combination of `values`; a step a run, the last with the `Grid`.

    `output` (by default `reports/<notebook>-grid`) gets a folder a run, index.html,
    results.csv and, with pyarrow, results.parquet. A run that fails is a row with an error;
    one whose worker dies is done again, three times at most. Closing the steps ends them.

    values: by parameter. parameters: those that are the same in all runs. executor: makes
    what the runs go through, anew if it breaks, such as `partial(processes, 4)`, `partial(
    cluster, address)` or `partial(ThreadPoolExecutor, 2)`; by default one process a core.
    at_once: how many runs it is handed at a time. resume: leave out the runs that are
    complete, with the same notebook, parameters, package, weights and data.

    Raises:
        FileNotFoundError, ValueError: as `steps`, before anything runs; a parameter given
            twice; too many combinations.
        OSError: the output folder cannot be written; what is complete stays.
        RuntimeError: another grid is writing there.
    """
    source = Path(notebook).absolute()
    declared = inputs.parameters(source)
    chosen = combinations(declared, values, parameters or {})
    for name, limit in (("cell_timeout", cell_timeout), ("timeout", timeout)):
        if isinstance(limit, bool) or not 0 < limit < float("inf"):
            raise ValueError(f"{name}: expected a positive number of seconds, got {limit!r}")
    cores = os.cpu_count() or 1
    at_once = checks.positive("at_once", cores if at_once is None else at_once)
    folder = Path(output or Path("reports") / f"{source.stem}-grid").absolute()
    text = source.read_bytes()
    job = Job(
        source=str(source),
        text=zlib.compress(text),
        sha256=hashlib.sha256(text).hexdigest(),
        output=str(folder),
        limits={"cell_timeout": cell_timeout, "timeout": timeout},
        store=os.environ.get(STORE, ""),
    )
    code = [c.source for c in inputs.read_notebook(source).cells if c.cell_type == "code"]
    written = LITERAL.findall("\n".join(code))
    here, digest = cache(partial(labels, source.parent)), cache(partial(_digest, source.parent))
    jobs = []
    for given in chosen:
        names = [*written, *(text for value in given.values() for text in _texts(value))]
        needs = {label: digest(label) for name in names for label in here(name)}
        place = folder_name(source.stem, given, values)
        jobs.append(replace(job, values=given, needs=needs, folder=place))
    return _steps(jobs, executor or partial(processes, cores), at_once, resume)


def combinations(
    declared: Mapping[str, inputs.Parameter],
    values: Mapping[str, Sequence[object]],
    fixed: Mapping[str, object],
) -> list[dict[str, Any]]:
    """Every combination of `values` with `fixed`, each checked by its annotation, once.

    Raises:
        ValueError: an unknown name or ill-typed value; a name in both; too many.
    """
    twice = sorted({*values} & {*fixed})
    if twice:
        raise ValueError(f"{twice[0]}: expected in the grid or as a parameter, got both")
    same = inputs.coerce(declared, fixed)
    lists = {n: [inputs.coerce(declared, {n: v})[n] for v in vs] for n, vs in values.items()}
    count = prod(len(each) for each in lists.values())
    if not 1 <= count <= LARGEST:
        raise ValueError(f"grid: expected 1 to {LARGEST:,} combinations, got {count:,}")
    every = (same | dict(zip(lists, each, strict=True)) for each in product(*lists.values()))
    return list({_hash(each): each for each in every}.values())


def folder_name(stem: str, given: Mapping[str, Any], shown: Sequence[str] | Mapping) -> str:
    """A short name that is safe on any file system, and the run's own: readable part, hash."""
    readable = "_".join(str(given[name])[:40] for name in shown)
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", readable)[:60].strip("-._")
    return f"{readable or 'run'}-{_hash([stem, given])[:10]}"


# --- executors ----------------------------------------------------------------------------


@contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """Fresh processes of one thread each; they end with the block, or with this process."""
    context = get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (theirs,))
    try:
        yield pool
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)


def _begin(pipe: Connection) -> None:
    """In a new process: end when the other end of the pipe does, be it by kill -9."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Dask's workers: the same numbers
    Thread(target=lambda: (pipe.poll(None), os._exit(1)), daemon=True).start()


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler, such as tcp://host:8786.

    Raises:
        ImportError: distributed is not installed.
        OSError: no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError(
            "a Dask cluster needs distributed: pip install 'dnn-workbench[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise OSError(f"dask: no scheduler answers at {address!r} ({error})") from None
    with client:
        yield client.get_executor(retries=2, pure=False)


# --- where the grid was started -----------------------------------------------------------


def _steps(jobs: list[Job], executor: Workers, at_once: int, resume: bool) -> Iterator[Step[Grid]]:
    from filelock import FileLock, Timeout

    folder = Path(jobs[0].output)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise RuntimeError(f"output: another grid is writing into {folder}") from None
    with lock:
        for left in folder.glob(f"{SCRATCH}*"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        missing = [job for job in jobs if not (resume and _is_complete(job))]
        done, errors = 0, dict[str, str]()
        said = f"{len(jobs) - len(missing)} runs are there" if resume else ""
        yield Step(0, len(missing) + 1, said)
        with closing(_outcomes(missing, executor, at_once)) as outcomes:
            for ended in outcomes:
                if ended:
                    job, outcome = ended
                    _save(job, outcome)
                    done, said = done + 1, job.folder
                    if outcome.error:
                        errors[job.folder] = outcome.error
                failed = f", {len(errors)} failed" if errors else ""
                yield Step(done, len(missing) + 1, said + failed)
        result = _summarise(jobs, errors)
        yield Step(done + 1, len(missing) + 1, "index written", result)


def _outcomes(
    jobs: Sequence[Job], executor: Workers, at_once: int
) -> Iterator[tuple[Job, Outcome] | None]:
    """Each job with its outcome, as they end, and None as a sign of life.

    When a process dies, its pool breaks, and with it all runs that were under way. They
    are done again one by one, so that a run that kills its process takes no other with it.
    """
    waiting, deaths = deque(jobs), Counter[str]()
    while waiting:
        lost: list[Job] = []
        with executor() as pool:
            running: dict[Future[Outcome], Job] = {}
            while (waiting or running) and not lost:
                while waiting and len(running) < at_once and not lost:
                    if running and any(deaths[j.folder] for j in (*running.values(), waiting[0])):
                        break
                    job = waiting.popleft()
                    try:
                        running[pool.submit(work, job)] = job
                    except BrokenExecutor:
                        lost.append(job)
                ended = wait(running, TICK, FIRST_COMPLETED).done
                if not ended:
                    yield None
                if lost or any(_is_lost(future) for future in ended):
                    ended = wait(running, 5).done  # the others fail now, or have just ended
                for future in ended:
                    job = running.pop(future)
                    if _is_lost(future):
                        lost.append(job)
                    elif (error := future.exception()) is not None:
                        yield job, Outcome(error=f"{type(error).__name__}: {error}")
                    else:
                        yield job, future.result()
            lost += running.values()
        for job in lost:
            deaths[job.folder] += 1
            if deaths[job.folder] < DEATHS:
                waiting.appendleft(job)
            else:
                said = f"its process died {DEATHS} times (out of memory, perhaps)"
                yield job, Outcome(error=said)


def _is_lost(future: Future[Any]) -> bool:
    return future.cancelled() or isinstance(future.exception(), (BrokenExecutor, CancelledError))


def _is_complete(job: Job) -> bool:
    """Whether a run is there, whole, and of the very same input."""
    folder = Path(job.output, job.folder)
    with suppress(OSError, ValueError):
        json.loads((folder / RESULTS).read_text())
        return (folder / MARK).read_text() == job.key
    return False


def _save(job: Job, outcome: Outcome) -> None:
    """Write the files of a run; the mark that it is complete comes last."""
    folder = Path(job.output, job.folder)
    folder.mkdir(exist_ok=True)
    page = Path(job.source).with_suffix(".html").name
    for stale in (MARK, RESULTS, THUMBNAIL, page):  # of an earlier run
        (folder / stale).unlink(missing_ok=True)
    for name, packed in outcome.files.items():
        part = folder / f".{name}.part"
        part.write_bytes(zlib.decompress(packed))
        os.replace(part, folder / name)
    if not outcome.error:
        write(folder / MARK, job.key)


def _summarise(jobs: list[Job], errors: Mapping[str, str]) -> Grid:
    """The table of all runs, as CSV, Parquet and index page."""
    import pandas as pd

    folder, source = Path(jobs[0].output), Path(jobs[0].source)
    rows = []
    for job in jobs:
        row: dict[str, Any] = {"run": job.folder, "seconds": None, "error": ""}
        content: dict[str, Any] = {}
        if job.folder in errors:
            row["error"] = errors[job.folder]
        else:
            content = json.loads((folder / job.folder / RESULTS).read_text())
            row["seconds"] = content["seconds"]
        for kind, found in (("parameter", job.values), ("recorded", content.get("results", {}))):
            for name, value in _flat(found):
                row[f"{name} ({kind})" if name in row else name] = value
        rows.append(row)
    table = pd.DataFrame(rows).convert_dtypes()
    for name in table.columns[[kind == object for kind in table.dtypes]]:  # noqa: E721
        table[name] = [None if v is None else json.dumps(v) for v in table[name]]
    table = table[[*(n for n in table if n not in ("seconds", "error")), "seconds", "error"]]
    write(folder / "results.csv", table.to_csv(index=False))
    parquet = folder / "results.parquet"
    parquet.unlink(missing_ok=True)
    has_parquet = find_spec("pyarrow") is not None
    if has_parquet:
        table.to_parquet(part := folder / ".results.parquet.part")
        os.replace(part, parquet)
    page = folder / "index.html"
    write(page, grid_page.to_html(table, folder, source.with_suffix(".html").name, THUMBNAIL))
    return Grid(page, parquet if has_parquet else None, table)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names with values; those of a dict are `name.key`, and a list is its JSON text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, json.dumps(value) if isinstance(value, list) else value


# --- where a run takes place --------------------------------------------------------------


def work(job: Job) -> Outcome:
    """One run, on whatever machine. Whatever goes wrong is in the outcome.

    The report is made in a scratch folder, in the grid's own where this machine has it.
    """
    begun, error = time.monotonic(), ""
    home = job.output if os.access(job.output, os.W_OK) else None
    try:
        with TemporaryDirectory(prefix=SCRATCH, dir=home, ignore_cleanup_errors=True) as scratch:
            report = Path(scratch, "report")
            try:
                source = _notebook(job, Path(scratch))
                for label, sha256 in job.needs.items():
                    _ensure(Path(job.source).parent, label, sha256, job.store)
                run(steps(source, job.values, report, **job.limits), progress=False)
                _thumbnail(report / source.name)
            except ReportError as raised:
                error = str(raised).replace(str(report), str(Path(job.output, job.folder)))
            except Exception as raised:  # of a damaged file, a full disk, a download
                error = f"{type(raised).__name__}: {raised}"
            files = {path.name: zlib.compress(path.read_bytes()) for path in report.glob("[!.]*")}
    except OSError as raised:
        return Outcome(error=f"{type(raised).__name__}: {raised}")
    return Outcome(files, error, round(time.monotonic() - begun, 3))


def _notebook(job: Job, scratch: Path) -> Path:
    """The notebook as it was when the grid began: this machine's own, else a copy of it."""
    own = Path(job.source)
    with suppress(OSError):
        if hashlib.sha256(own.read_bytes()).hexdigest() == job.sha256:
            return own
    copy = scratch / "notebook" / own.name
    copy.parent.mkdir()
    copy.write_bytes(zlib.decompress(job.text))
    return copy


def _thumbnail(notebook: Path) -> None:
    """The first picture of an executed notebook as a small file beside it, if it has one."""
    import base64
    import io

    from PIL import Image

    for cell in inputs.read_notebook(notebook).cells:
        for output in cell.get("outputs", []):
            bundle = output.get("data", {})
            found = INLINE.search(bundle.get("text/html", ""))
            if not found and "image/png" not in bundle:
                continue
            with suppress(Exception):  # a report without a thumbnail is still a report
                text = found[1] if found else bundle["image/png"]
                picture = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
                picture.thumbnail((240, 160))
                picture.save(notebook.with_name(THUMBNAIL))
                return


# --- weights and data, by name and hash ---------------------------------------------------


def labels(base: Path, name: str) -> list[str]:
    """The files that a name stands for, if it is one of a model or of a data set.

    A label is a path in the data folder, such as models/mnist/cnn.safetensors, which a
    shipped model has too, or KIND:PATH where the name is one, relative to `base`.
    """
    kind, _, path = name.partition(":")
    if kind in FILES and os.path.isfile(base / path):
        return [name]
    if kind == "folder" and os.path.isdir(base / path):
        return [name]
    home = data.folder()
    if name in data.available():
        found = (path for path in (home / name).rglob("[!.]*") if path.is_file())
        return sorted(str(path.relative_to(home).as_posix()) for path in found)
    label = f"models/{name}.safetensors"
    if ".." in name or not os.path.isfile(_path(base, label)):
        return []
    with suppress(ValueError):
        return [label, *labels(base, models.card(name).dataset)]
    return [label]


def _path(base: Path, label: str) -> Path:
    """The file or folder of a label on this machine."""
    kind, _, path = label.partition(":")
    if kind in (*FILES, "folder"):
        return base / path
    shipped = Path(models.__file__).with_name("weights") / label.removeprefix("models/")
    return shipped if os.path.isfile(shipped) else data.folder() / label


def _digest(base: Path, label: str) -> str:
    """sha256 of a file, or of the names and hashes of the pictures in a folder."""
    path = _path(base, label)
    if path.is_dir():
        inside = sorted(p for p in path.glob("[!.]*/[!.]*") if p.is_file())
        return _hash([(p.relative_to(path).as_posix(), _file_hash(p)) for p in inside])
    return _file_hash(path)


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _ensure(base: Path, label: str, sha256: str, store: str) -> None:
    """Have what a label names on this machine, by its hash; a process asks once.

    What is absent comes from the store, where there is one. A data set may stay absent:
    `data.load` fetches it by the hash that is published.
    """
    path, where = _path(base, label), platform.node() or "this machine"
    if not path.exists() and store and ":" not in label:
        import pooch

        url = f"{store.rstrip('/')}/{label}"
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent)
    if not path.exists():
        if label.split("/")[0] in data.available():
            return
        raise FileNotFoundError(
            f"{label} is not on {where}, where it would be {path}: copy it there, or let "
            f"{STORE} name the address of a data folder that has it"
        )
    found = _digest(base, label)
    if found != sha256:
        raise ValueError(
            f"{path} on {where} is not the file the grid began with: sha256 {found[:12]}, "
            f"expected {sha256[:12]}; replace it"
        )


def _texts(value: Any) -> list[str]:
    """The strings in a parameter's value."""
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
