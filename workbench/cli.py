"""The `workbench` command. Each command imports what it needs, so that `--help` is quick."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

START = "00_start_here.ipynb"
# What a page may load: voila's template would ask the network for a font.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws:"
UNDECIDED = 3  # the exit code of a proof that is neither
FAILURES = (ValueError, TypeError, OSError, ImportError, RuntimeError)


class Commands(TyperGroup):
    """Says what went wrong in one line of red; WORKBENCH_DEBUG=1 shows the traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit code 2 for a wrong value, 1 for any other failure."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # kinds of RuntimeError and OSError that are no failures
        except FAILURES as error:
            if os.environ.get("WORKBENCH_DEBUG"):
                raise
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(2 if isinstance(error, ValueError) else 1) from None


class TwoWords(TyperCommand):
    """Lets `-p NAME VALUE` take two words, as papermill does; typer's options take one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two words after each `-p` with `=` before the usual parsing."""
        joined: list[str] = []
        for word in args:
            # Two words back stands a -p, and the word between is its name.
            if joined[-2:-1] in (["-p"], ["--parameter"]) and "=" not in joined[-1]:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


app = typer.Typer(
    cls=Commands,
    help="Look inside image classifiers: a JupyterLab workbench of notebooks and panels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


course = typer.Typer(cls=Commands, help="Start a course.", no_args_is_help=True)
app.add_typer(course, name="course")


@app.command()
def lab(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Open JupyterLab on the first notebook."""
    require_free(port)
    folder, page = start_page()
    if page == "/lab":
        typer.echo(f"{START} is not here: opening JupyterLab on {folder}", err=True)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "ServerApp.open_browser": browser,
        "LabApp.default_url": page,
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # A container's user often is root, and Jupyter would refuse; the token still guards.
        typer.echo("note: running as root; in a container that is usual", err=True)
        options["ServerApp.allow_root"] = True
    arguments = [f"--{name}={value}" for name, value in options.items()]
    # JupyterLab takes this process's place: Ctrl-C and signals reach it directly.
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *arguments])


@app.command("app")
def serve(
    dataset: Annotated[str | None, typer.Option(help="Images: a name, or folder:PATH.")] = None,
    model: Annotated[str | None, typer.Option(help="A model that takes them.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Serve the bench as a page of its own; what one saves there comes into this folder."""
    try:
        from voila.app import Voila
    except ImportError:
        raise ImportError("the page needs voila: pip install 'dnn-workbench[app]'") from None
    import secrets
    import tempfile
    import threading
    import webbrowser

    import nbformat

    from workbench import data, models

    require_free(port)
    if dataset is None and model is None:
        model = "digits/prototypes"  # it fits all views
    if dataset is not None and ":" not in dataset:
        data.info(dataset)
    if model is not None and ":" not in model:
        models.card(model)
    lines = "import os", f"os.chdir({os.getcwd()!r})", "from workbench.widgets import Bench"
    cell = nbformat.v4.new_code_cell("\n".join([*lines, f"Bench({dataset!r}, {model!r})"]))
    token = secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}/?token={token}"
    with tempfile.TemporaryDirectory(prefix="workbench-app-") as folder:
        page = f"{folder}/bench.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"title": "Bench"}), page)
        typer.echo(f"the bench: {url}\nCtrl-C ends it")
        if browser:  # by then the server listens
            threading.Timer(2, webbrowser.open, [url]).start()
        Voila.launch_instance(
            [page, "--show_tracebacks=True"],
            **{"ip": "127.0.0.1", "port": port, "port_retries": 0, "token": token},
            **{"open_browser": False, "log_level": "ERROR"},
            tornado_settings={"headers": {"Content-Security-Policy": POLICY}},
        )


@app.command()
def models(
    check: Annotated[
        str | None, typer.Option(metavar="NAME", help="Measure this model again on its data.")
    ] = None,
) -> None:
    """List the models with their accuracies."""
    if check is not None:
        check_model(check)
        return
    from workbench import models

    row = "{:26} {:14} {:12} {:>8} {:>9} {:>7} {:>11} {:>6}".format
    header = ["model", "data", "architecture", "clean %", "robust %", "at eps", "parameters", "MB"]
    typer.echo(row(*header))
    for name in models.available():
        card = models.card(name)
        rates = percent(card.accuracy), percent(card.robust_accuracy)
        eps = "" if card.eps is None else f"{card.eps:.3g}"
        size = f"{card.parameters:,}", f"{card.parameters * 4 / 1e6:.2f}"
        typer.echo(row(name, card.dataset, card.architecture, *rates, eps, *size))


@app.command()
def data() -> None:
    """List the data sets, and whether they are here."""
    from workbench import data, doctor

    row = "{:14} {:>8} {:>8} {:>7} {:>7}  {:10} {}".format
    typer.echo(row("data", "image", "classes", "train", "test", "state", "title"))
    for name in data.available():
        info = data.info(name)
        image = "x".join(str(n) for n in info.shape)
        counts = [len(info.classes), info.splits["train"], info.splits["test"]]
        typer.echo(row(name, image, *counts, doctor.data_state(name), info.title))
    typer.echo(f"\nData folder: {data.folder()} (WORKBENCH_DATA names another)")
    typer.echo("What is absent is downloaded when it is first used.")


@app.command()
def atlas(
    text: Annotated[list[str] | None, typer.Argument(help="Words to look for.")] = None,
    family: Annotated[str | None, typer.Option(help="One family, such as attacks.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Only what runs here.")] = False,
) -> None:
    """Search the literature behind the bench: what each paper does, and where it runs here."""
    import textwrap

    from workbench import atlas

    found = atlas.search(" ".join(text or ()), family, live or None)
    for paper in found:
        typer.secho(f"{paper.title} ({paper.year or 'year unknown'}; {paper.family})", bold=True)
        typer.echo(textwrap.fill(paper.mechanism, 98, initial_indent="  ", subsequent_indent="  "))
        typer.echo("".join(f"  -> {place}\n" for place in paper.runs))
    live_ones = sum(paper.live for paper in found)
    typer.echo(f"{len(found)} of {len(atlas.papers())} papers, of which {live_ones} run here.")


@app.command(cls=TwoWords)
def report(
    notebook: Annotated[Path, typer.Argument(help="The notebook to run.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Set a parameter; repeats."),
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="Parameters from a .toml or .json file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report; by default reports/NOTEBOOK here.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Seconds for the whole notebook.")
    ] = 600,
    cell_timeout: Annotated[float, typer.Option(metavar="S", help="Seconds for one cell.")] = 120,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=V1,V2", help="A run for each value; repeats, and combines."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for --grid; by default one a core.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler for --grid.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Of --grid, do only what is missing.")
    ] = False,
) -> None:
    """Run a notebook into one HTML file, with results.json beside it; with --grid, many."""
    from workbench import reports

    given = reports.load_parameters(parameters) if parameters else {}
    given = {**given, **assignments(parameter or ())}
    limits = {"timeout": timeout, "cell_timeout": cell_timeout}
    if grid or workers or dask or resume:
        run_grid(notebook, values(grid or ()), output, workers, dask, given, resume, limits)
        return
    typer.echo(reports.execute(notebook, given, output, **limits).html)


Masters = Annotated[
    list[Path] | None, typer.Argument(metavar="[NOTEBOOK]...", help="By default, the whole suite.")
]
Workers = Annotated[int, typer.Option(min=1, help="Notebooks that run at a time.")]


@app.command()
def student(
    notebooks: Masters = None,
    output: Annotated[Path, typer.Option(help="Folder for the sets.")] = Path("dist"),
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the students' copies, too: only checks may fail.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Write the copies for students (no solutions), nbgrader and teachers (executed)."""
    from workbench import courses, reports

    with reports.processes(workers) as pool:
        masters = notebooks or courses.masters()
        made = courses.student_set(masters, output, pool, verify=verify)
    typer.echo(made)


@course.command()
def new(path: Annotated[Path, typer.Argument(help="A folder that is not there yet.")]) -> None:
    """Copy the students' notebooks and the course plan for a class."""
    from workbench import courses

    typer.echo(courses.new_course(path))


@app.command()
def gallery(
    notebooks: Masters = None,
    output: Annotated[Path, typer.Option(help="Folder for the site.")] = Path("dist/gallery"),
    workers: Workers = 2,
) -> None:
    """Run the notebooks into a web site that needs no server and no network."""
    from workbench import courses, reports

    with reports.processes(workers) as pool:
        typer.echo(courses.gallery(notebooks or courses.masters(), output, pool))


@app.command()
def card(
    model: Annotated[str, typer.Argument(help="A model, such as mnist/cnn.")],
    output: Annotated[Path | None, typer.Option(help="Folder; by default cards here.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many test images.")] = 200,
    eps: Annotated[
        float | None, typer.Option(help="L-infinity radius; by default the card's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample and the attacks.")] = 0,
    report: Annotated[Path | None, typer.Option(help="A report's page, to link to.")] = None,
) -> None:
    """Measure a model and write its card, as JSON and HTML."""
    from workbench import reports

    made = reports.card(model, output, n=n, eps=eps, seed=seed, report=report)
    typer.echo(made.frame().to_string(index=False))
    typer.echo(made.html)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A recipe, such as digits/cnn.")],
    output: Annotated[Path | None, typer.Option(help="File for the weights.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
) -> None:
    """Train a model by its recipe; interrupted, the same command goes on from there."""
    from workbench import models

    result = models.train(name, output, epochs=epochs)
    card = result.model.card
    robust = percent(card.robust_accuracy)
    typer.echo(f"{name}: {percent(card.accuracy)}% clean, {robust}% robust at eps {card.eps:.3g}")
    typer.echo(result.path)


@app.command()
def prove(
    file: Annotated[Path, typer.Argument(metavar="FILE.vnnlib", help="Perhaps packed, .gz.")],
    model: Annotated[str, typer.Option(help="An ONNX file, or a model such as mnist/mlp.")],
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds for the answer.")] = 60,
    method: Annotated[
        str, typer.Option("--method", "--backend", help="branching, milp, marabou or z3.")
    ] = "branching",
    seed: Annotated[int, typer.Option(help="Seed of the search for a counterexample.")] = 0,
    witness: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result as VNN-COMP has it.")
    ] = None,
) -> None:
    """Prove or refute a VNN-LIB property: verified, falsified (with a counterexample) or unknown.

    Exit code 0 where it is decided, 3 where it is unknown, 1 or 2 where it cannot be asked.
    """
    from workbench import proofs

    options = {"backend": method, "time_limit": time_limit, "seed": seed, "witness": witness}
    answer, values = proofs.prove_file(file, model, **options)
    typer.echo(proofs.described(answer, values))
    if answer.verdict == "unknown":
        raise typer.Exit(UNDECIDED)


@app.command()
def doctor() -> None:
    """Look at the installation: versions, device, data, models, and what to do."""
    from workbench import doctor

    findings = doctor.check()
    typer.echo(doctor.as_text(findings))
    if any(finding.state == doctor.PROBLEM for finding in findings):
        raise typer.Exit(1)


def require_free(port: int) -> None:
    """Raise an OSError unless a server can listen on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        if os.name == "posix":  # as the server does: a port just left counts as free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            other = port + 1 if port < 65535 else 8888
            raise OSError(
                f"port {port} on 127.0.0.1 cannot be used ({error.strerror or error}). "
                f"Is a bench already open there? Else choose another port: --port {other}, "
                f"or make lab PORT={other}"
            ) from None


def start_page() -> tuple[Path, str]:
    """The folder to open, and the page in it: the first notebook where there is one."""
    import workbench

    checkout = Path(workbench.__file__).resolve().parent.parent
    for folder in (checkout, Path.cwd()):
        if (folder / "notebooks" / START).is_file():
            return folder, f"/lab/tree/notebooks/{START}"
    return Path.cwd(), "/lab"


def check_model(name: str) -> None:
    """Measure a model on its test images; raise a RuntimeError where its card says otherwise."""
    from workbench import data, models

    model = models.load(name)
    card = model.card
    if card.dataset not in data.available():
        raise ValueError(f"model {name!r} names no data set of the bench, so it has no test images")
    counts = models.measure(model, data.load(card.dataset, "test"), eps=card.eps)
    wrong = []
    for key in ("test_correct", "test_total", "robust_correct", "robust_total"):
        said, found = getattr(card, key), counts.get(key)
        typer.echo(f"{key:15} card {said}, measured {found}")
        if said != found:
            wrong.append(key)
    if wrong:
        raise RuntimeError(f"the card of {name} is not what was measured: {', '.join(wrong)}")


def assignments(pairs: Sequence[str]) -> dict[str, str]:
    """`["eps=0.1"]` as `{"eps": "0.1"}`; raises a ValueError for a name without a value."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"-p takes a name and a value, as in -p eps 0.1; got only {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def values(grids: Sequence[str]) -> dict[str, list[str]]:
    """`["eps=0.1,0.2"]` as `{"eps": ["0.1", "0.2"]}`; a list as a value stands in brackets."""
    found: dict[str, list[str]] = {}
    for text in grids:
        name, equals, listed = text.partition("=")
        if not (name and equals):
            raise ValueError(f"--grid takes a name and values, as in eps=0.1,0.2; got {text!r:.99}")
        parts, depth = found.setdefault(name, []), 0
        for piece in listed.split(","):
            if depth > 0:
                parts[-1] += f",{piece}"
            else:
                parts.append(piece)
            depth += piece.count("[") - piece.count("]")
    return found


def run_grid(
    notebook: Path,
    grid: dict[str, list[str]],
    output: Path | None,
    workers: int | None,
    dask: str | None,
    given: dict[str, Any],
    resume: bool,
    limits: dict[str, Any],
) -> None:
    """Run a grid; raise a RuntimeError at the end where a run failed."""
    from functools import partial

    from workbench import reports

    if workers and dask:
        raise ValueError("expected --workers or --dask, got both: a cluster has its own workers")
    executor = partial(reports.cluster, dask) if dask else None
    executor = partial(reports.processes, workers) if workers else executor
    options = {"parameters": given, "executor": executor, "resume": resume, **limits}
    made = reports.grid(notebook, grid, output, **options)
    typer.echo(made.page)
    if not made.parquet:
        typer.echo("no results.parquet: pip install 'dnn-workbench[cluster]' for it", err=True)
    if failed := made.summary()["failed"]:
        raise RuntimeError(f"{failed} of {len(made.table)} runs failed; {made.page} says why")


def percent(rate: float | None) -> str:
    """A share as percent, rounded down: 99.995 is not 100."""
    return "" if rate is None else f"{int(rate * 10_000 + 1e-6) / 100:.2f}"
