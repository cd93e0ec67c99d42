"""The `workbench` command. Each command imports what it needs, so that `--help` is quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

from workbench.commands import check_model, percent, run_grid, values

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


course = typer.Typer(
    cls=Commands, help="Start a course, and see how it goes.", no_args_is_help=True
)
app.add_typer(course, name="course")

Port = Annotated[int, Option(min=1, max=65535, help="Port on 127.0.0.1.")]
Browser = Annotated[bool, Option(help="Open a browser window.")]
Masters = Annotated[
    list[Path] | None, Argument(metavar="[NOTEBOOK]...", help="By default, the whole suite.")
]
Workers = Annotated[int, Option(min=1, help="Notebooks that run at a time.")]


@app.command()
def lab(
    folder: Annotated[
        Path | None, Argument(help="Copies of the notebooks; an installed bench: ./dnn-workbench.")
    ] = None,
    port: Port = 8888,
    browser: Browser = True,
    update: Annotated[
        bool, Option("--update", help="Bring what is newer into FOLDER; see below.")
    ] = False,
) -> None:
    """Open JupyterLab on the first notebook: in FOLDER, or of a checkout as it is.

    A notebook that was changed is never written over: with --update, a newer one is put beside it.
    """
    from workbench import servers

    servers.lab(folder, port, browser, update)


@app.command("app")
def serve(
    dataset: Annotated[str | None, Option(help="Images: a name, or folder:PATH.")] = None,
    model: Annotated[str | None, Option(help="A model that takes them.")] = None,
    port: Port = 8866,
    browser: Browser = True,
) -> None:
    """Serve the bench as a page of its own; what one saves there comes into this folder."""
    from workbench import servers

    servers.app(dataset, model, port, browser)


@app.command()
def models(
    check: Annotated[
        str | None, Option(metavar="NAME", help="Measure this model again on its data.")
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
    text: Annotated[list[str] | None, Argument(help="Words to look for.")] = None,
    family: Annotated[str | None, Option(help="One family, such as attacks.")] = None,
    live: Annotated[bool, Option("--live", help="Only what runs here.")] = False,
) -> None:
    """Search the literature behind the bench: what each paper does, and where it runs here."""
    from workbench import atlas

    typer.echo(atlas.as_text(atlas.search(" ".join(text or ()), family, live or None)))


@app.command(cls=TwoWords)
def report(
    notebook: Annotated[Path, Argument(help="A file, or the name of one of the suite.")],
    parameter: Annotated[
        list[str] | None,
        Option("-p", "--parameter", metavar="NAME VALUE", help="Set a parameter; repeats."),
    ] = None,
    parameters: Annotated[
        Path | None, Option(help="Parameters from a .toml or .json file.")
    ] = None,
    output: Annotated[
        Path | None, Option(help="Folder for the report; by default reports/NOTEBOOK here.")
    ] = None,
    timeout: Annotated[float, Option(metavar="S", help="Seconds for the whole notebook.")] = 600,
    cell_timeout: Annotated[float, Option(metavar="S", help="Seconds for one cell.")] = 120,
    grid: Annotated[
        list[str] | None,
        Option(metavar="NAME=V1,V2", help="A run for each value; repeats, and combines."),
    ] = None,
    workers: Annotated[
        int | None, Option(min=1, help="Processes for --grid; by default one a core.")
    ] = None,
    dask: Annotated[
        str | None, Option(metavar="ADDRESS", help="A Dask scheduler for --grid.")
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Of --grid, do only what is missing.")] = False,
) -> None:
    """Run a notebook into one HTML file, with results.json beside it; with --grid, many."""
    from workbench import reports, suite

    notebook = suite.find(notebook)
    given = dict(reports.load_parameters(parameters)) if parameters else {}
    for pair in parameter or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"-p takes a name and a value, as in -p eps 0.1; got only {pair!r}")
        given[name] = value
    limits = {"timeout": timeout, "cell_timeout": cell_timeout}
    if grid or workers or dask or resume:
        options = {"parameters": given, "resume": resume, **limits}
        run_grid(notebook, values(grid or ()), output, workers, dask, options)
        return
    made = reports.execute(notebook, given, output, **limits)
    for check in made.checks:
        if not check.holds:
            place = f"cell {check.cell}, {check.section}"
            typer.echo(f"does not hold: {check.says} ({place})", err=True)
    typer.echo(made.html)


@app.command()
def student(
    notebooks: Masters = None,
    output: Annotated[Path, Option(help="Folder for the sets.")] = Path("dist"),
    verify: Annotated[
        bool, Option("--verify", help="Run the students' copies, too: only checks may fail.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Write the copies for students (no solutions), nbgrader and teachers (executed)."""
    from workbench import courses, reports, suite

    masters = [suite.find(path) for path in notebooks or ()] or suite.notebooks()
    with reports.processes(workers) as pool:
        made = courses.student_set(masters, output, pool, verify=verify)
    typer.echo(made)


@course.command()
def new(path: Annotated[Path, Argument(help="A folder that is not there yet.")]) -> None:
    """Copy the students' notebooks and the course plan for a class."""
    from workbench import courses, suite

    typer.echo(courses.new_course(path, suite.notebooks()))


@course.command()
def progress(
    folder: Annotated[Path, Argument(help="A student's notebooks, or a folder for each student.")],
    page: Annotated[Path | None, Option(help="A file to write, too: HTML for a teacher.")] = None,
) -> None:
    """Show which exercises are right, from what the notebooks have saved; nothing is run."""
    from workbench import courses

    found = courses.progress(folder)
    for by in ("notebook", "student"):
        typer.echo(f"{found.counts(by).reset_index().to_string(index=False)}\n")
    for name, why in found.damaged.items():
        typer.echo(f"not read: {name}: {why}", err=True)
    typer.echo(found.summary())
    if page:
        typer.echo(found.save(page))


@app.command()
def gallery(
    notebooks: Masters = None,
    output: Annotated[Path, Option(help="Folder for the site.")] = Path("dist/gallery"),
    workers: Workers = 2,
) -> None:
    """Run the notebooks into a web site that needs no server and no network."""
    from workbench import courses, reports, suite

    masters = [suite.find(path) for path in notebooks or ()] or suite.notebooks()
    with reports.processes(workers) as pool:
        typer.echo(courses.gallery(masters, output, pool))


@app.command()
def site(
    gallery: Annotated[Path, Option(help="A finished gallery; absent, it is run first.")] = Path(
        "dist/gallery"
    ),
    output: Annotated[Path, Option(help="Folder for the site.")] = Path("dist/site"),
    workers: Workers = 2,
) -> None:
    """Put together what a team publishes: gallery, atlas with verdicts, API reference, search."""
    from workbench import courses, reports, suite

    if not (gallery / "index.html").is_file():
        with reports.processes(workers) as pool:
            courses.gallery(suite.notebooks(), gallery, pool)
    typer.echo(courses.site(gallery, output))


@app.command("claim", hidden=True)  # its name in the release before
@app.command()
def card(
    model: Annotated[str, Argument(help="A model, such as mnist/cnn.")],
    output: Annotated[Path | None, Option(help="Folder; by default cards here.")] = None,
    n: Annotated[int, Option("-n", min=1, help="How many test images.")] = 200,
    eps: Annotated[float | None, Option(help="L-infinity radius; by default the card's.")] = None,
    seed: Annotated[int, Option(help="Seed of the sample and the attacks.")] = 0,
    report: Annotated[Path | None, Option(help="A report's page, to link to.")] = None,
) -> None:
    """Measure a model and write its card, as JSON and HTML."""
    from workbench import reports

    made = reports.card(model, output, n=n, eps=eps, seed=seed, report=report)
    typer.echo(made.frame().to_string(index=False))
    typer.echo(made.html)


@app.command()
def claims(
    notebooks: Annotated[list[Path] | None, Argument(help="By default all that claim.")] = None,
    seed: Annotated[list[int] | None, Option(help="A seed; repeats. By default 0, 7, 11.")] = None,
    output: Annotated[Path, Option(help="Folder for the reports.")] = Path("dist/claims"),
    file: Annotated[Path | None, Option(help="By default the atlas's own claims.toml.")] = None,
) -> None:
    """Run the notebooks that test claims of papers with several seeds, and keep the verdicts."""
    from workbench import atlas, reports, suite

    paths = [suite.find(path) for path in notebooks or ()] or reports.with_claims()
    seeds, file = tuple(seed or reports.SEEDS), file or atlas.CLAIMS
    for tested in reports.collect(paths, output, seeds=seeds, file=file):
        typer.echo(f"{tested.verdict} ({tested.share}): {tested.says}")
    typer.echo(file)


@app.command()
def train(
    name: Annotated[str, Argument(help="A recipe, such as digits/cnn, or a name with stages.")],
    output: Annotated[Path | None, Option(help="File for the weights.")] = None,
    epochs: Annotated[int | None, Option(min=1, help="Instead of the recipe's.")] = None,
) -> None:
    """Train a model by its recipe; interrupted, the same command goes on from there."""
    from workbench import models

    result = models.train(name, output, epochs=epochs)
    card = result.model.card
    robust = card.eps and f", {percent(card.robust_accuracy)}% robust at eps {card.eps:.3g}"
    typer.echo(f"{name}: {percent(card.accuracy)}% clean{robust or ''}")
    typer.echo(result.path)


@app.command()
def prove(
    file: Annotated[Path, Argument(metavar="FILE.vnnlib", help="Perhaps packed, .gz.")],
    model: Annotated[str, Option(help="An ONNX file, or a model such as mnist/mlp.")],
    time_limit: Annotated[float, Option(metavar="S", help="Seconds for the answer.")] = 60,
    method: Annotated[
        str, Option("--method", "--backend", help="branching, milp, marabou or z3.")
    ] = "branching",
    seed: Annotated[int, Option(help="Seed of the search for a counterexample.")] = 0,
    witness: Annotated[
        Path | None, Option(metavar="FILE", help="Write the result as VNN-COMP has it.")
    ] = None,
) -> None:
    """Prove or refute a VNN-LIB property: proved, refuted (with a counterexample) or open.

    Exit code 0 where it is decided, 3 where it is open, 1 or 2 where it cannot be asked.
    """
    from workbench import proofs

    options = {"backend": method, "time_limit": time_limit, "seed": seed, "witness": witness}
    answer, values = proofs.prove_file(file, model, **options)
    typer.echo(proofs.described(answer, values))
    if answer.verdict == "open":
        raise typer.Exit(UNDECIDED)


@app.command()
def doctor() -> None:
    """Look at the installation: versions, device, data, models, and what to do."""
    from workbench import doctor

    findings = doctor.check()
    typer.echo(doctor.as_text(findings))
    if any(finding.state == doctor.PROBLEM for finding in findings):
        raise typer.Exit(1)
