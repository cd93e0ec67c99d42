"""What `workbench lab` and `workbench app` start: servers on this machine, for its user alone."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path
from typing import Any

import typer

import workbench
from workbench import suite

PACKAGE = Path(__file__).resolve().parent
# What a page may load: voila's template would ask the network for a font.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws:"
COPIES = "dnn-workbench"  # the folder of one's own notebooks, unless another is named
WELCOME = (
    "# DNN Workbench\n\nPick an image, or draw one. Drag eps and watch the answer break; a click "
    "on a tile opens its view."
)
STATES = {
    "replaced": "replaced by newer ones",
    "beside": "newer ones, put beside those that you changed",
    "changed": "kept as you changed them",
    "older": "kept; the package has newer ones, which --update brings",
}


def lab(folder: Path | None, port: int, browser: bool, update: bool) -> None:
    """Become JupyterLab on the first notebook; see `workbench lab --help`."""
    require_free(port)
    root, page = start_page(folder, update)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": root,
        "ServerApp.open_browser": browser,
        "LabApp.default_url": page,
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # A container's user often is root, and Jupyter would refuse; the token still guards.
        typer.echo("note: running as root; in a container that is usual", err=True)
        options["ServerApp.allow_root"] = True
    arguments = [f"--{name}={value}" for name, value in options.items()]
    # Our labconfig/: JupyterLab's question about news would stand in the way of a first lesson.
    configs = str(PACKAGE), os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, configs))
    # JupyterLab takes this process's place: Ctrl-C and signals reach it directly.
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *arguments])


def start_page(folder: Path | None, update: bool) -> tuple[Path, str]:
    """The folder to open, and the page in it: the first notebook where there is one.

    A checkout's own notebooks are opened in place, those of a package as copies in `folder`.
    """
    try:
        masters = suite.folder()
    except FileNotFoundError:
        typer.echo(f"{suite.START} is not here: opening JupyterLab on {Path.cwd()}", err=True)
        return Path.cwd(), "/lab"
    here = Path.cwd()
    if folder is None and (here / suite.RECORD).is_file():
        folder = here
    if folder is None and masters.parent != Path(workbench.__file__).resolve().parent:
        return masters.parent, f"/lab/tree/{masters.name}/{suite.START}"
    folder = (folder or here / COPIES).resolve()
    if folder != masters:
        files = suite.put(folder, update=update)
        typer.echo(f"notebooks: {folder} ({len(files.pop('new', []))} new)", err=True)
        for state, text in STATES.items():
            if names := files.get(state):
                typer.echo(f"{text}: {', '.join(names)}", err=True)
    return folder, f"/lab/tree/{suite.START}"


def app(dataset: str | None, model: str | None, port: int, browser: bool) -> None:
    """Serve the bench with voila until Ctrl-C; see `workbench app --help`."""
    try:
        from voila.app import Voila
    except ImportError:
        raise ImportError("the page needs voila: pip install 'dnn-workbench[app]'") from None
    import secrets

    import nbformat

    from workbench import data, models

    require_free(port)
    if dataset is not None and ":" not in dataset:
        data.info(dataset)
    if model is not None and ":" not in model:
        models.card(model)
    lines = "import os", f"os.chdir({os.getcwd()!r})", "from workbench.widgets import Bench"
    cells = [
        nbformat.v4.new_markdown_cell(WELCOME),
        nbformat.v4.new_code_cell("\n".join([*lines, f"Bench({dataset!r}, {model!r})"])),
    ]
    token = secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}/?token={token}"
    with tempfile.TemporaryDirectory(prefix="workbench-app-") as folder:
        page = f"{folder}/bench.ipynb"
        about = {"title": "DNN Workbench"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), page)
        typer.echo(f"the bench: {url}\nCtrl-C ends it")
        if browser:  # by then the server listens
            threading.Timer(2, webbrowser.open, [url]).start()
        settings: dict[str, Any] = {"headers": {"Content-Security-Policy": POLICY}}
        Voila.launch_instance(
            [page, "--show_tracebacks=True"],
            **{"ip": "127.0.0.1", "port": port, "port_retries": 0, "token": token},
            **{"open_browser": False, "log_level": "ERROR"},
            tornado_settings=settings,
        )


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
