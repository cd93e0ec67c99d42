"""`check()`: is this bench in order, and if not, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path

OK, NOTE, PROBLEM = "ok", "note", "problem"
DISTRIBUTION = "dnn-workbench"
OPTIONAL = {"transformers": "hf:NAME", "timm": "timm:NAME"}
LEAST_DISK = 2e9  # bytes: the data sets with their archives take about 1 GB


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, its state, and what to do."""

    topic: str
    found: str
    state: str = OK
    advice: str = ""


class Findings(list[Finding]):
    """Findings that a notebook shows as one sentence, with the lines folded beneath."""

    def summary(self) -> str:
        """All is well, or what is to be mended."""
        problems = [finding for finding in self if finding.state == PROBLEM]
        if problems:
            named = "; ".join(f"{p.topic}: {p.found} (do: {p.advice})" for p in problems)
            return f"{len(problems)} to mend: {named}"
        here = [finding.topic for finding in self if finding.state == OK]
        nets = sum(topic.startswith("model ") for topic in here)
        sets = sum(topic.startswith("data ") for topic in here) - here.count("data folder")
        version = platform.python_version()
        return f"All is well: Python {version}, {nets} models and {sets} data sets are here"

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        well = all(finding.state != PROBLEM for finding in self)
        sign, style, colour = ("✓", "ok", "#0a7a52") if well else ("✗", "warn", "#b3261e")
        mark = f'<span style="color:var(--wb-{style}, {colour})" aria-hidden="true">{sign}</span>'
        return (
            f'<details class="wb"><summary role="status">{mark} {escape(self.summary())}</summary>'
            f'<pre style="overflow:auto">{escape(as_text(self))}</pre></details>'
        )


def check() -> Findings:
    """Look at everything. Nothing is downloaded, changed or raised."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    first = Finding("python", f"{python}, {sys.prefix}")
    return Findings([first, *packages(), device(), *data_sets(), *models()])


def as_text(findings: list[Finding]) -> str:
    """Aligned lines with the advice below, and a sentence that sums up."""
    wide = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<8} {finding.topic:<{wide}}  {finding.found}".rstrip())
        lines += [f"{'':<8} {'':<{wide}}  -> {finding.advice}"] * bool(finding.advice)
    problems = sum(finding.state == PROBLEM for finding in findings)
    summary = f"{problems} to mend: see the lines with ->" if problems else "The bench is in order."
    return "\n".join([*lines, "", summary])


def packages() -> Iterator[Finding]:
    """Every package the bench depends on, against the bound in pyproject.toml."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Finding(DISTRIBUTION, "not installed", PROBLEM, "make lab, or pip install -e .")
        return
    yield Finding(DISTRIBUTION, metadata.version(DISTRIBUTION))
    for requirement in requirements:
        if requirement.marker is None:  # those with a marker belong to an extra
            yield package(requirement.name, str(requirement.specifier))
    for name, use in OPTIONAL.items():
        finding = package(name)
        if finding.state == PROBLEM:
            finding = Finding(name, f"missing; to load {use}: {finding.advice}", NOTE)
        yield finding


def package(name: str, bounds: str = "") -> Finding:
    """One package, and whether it is within `bounds`, such as ">=2.6"."""
    from packaging.specifiers import SpecifierSet

    try:
        found = metadata.version(name)
        if SpecifierSet(bounds).contains(found, prereleases=True):
            return Finding(name, found)
    except metadata.PackageNotFoundError:
        found = "missing"
    command = f"{sys.executable} -m pip install '{name}{bounds}'"
    return Finding(name, f"{found}, {bounds} is needed", PROBLEM, command)


def device() -> Finding:
    """Where torch computes. The bench runs on the CPU unless told otherwise."""
    try:
        import torch
    except Exception as error:  # a broken build raises whatever its libraries raise
        advice = "rm -r .venv, then: make lab"
        return Finding("device", f"torch cannot be imported: {error}", PROBLEM, advice)
    devices = [f"cpu ({torch.get_num_threads()} of {os.cpu_count()} processors)"]
    cuda = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in cuda]
    devices += ["mps"] * torch.backends.mps.is_available()
    return Finding("device", ", ".join(devices))


def data_sets() -> Iterator[Finding]:
    """The data folder, and which data sets need no download."""
    from workbench import data

    folder = data.folder()
    yield data_folder(folder)
    for name in data.available():
        state, mark = data_state(name), OK
        if state not in ("embedded", "present"):
            state += f"; what is missing is downloaded on first use, or put it in {folder / name}"
            mark = NOTE
        yield Finding(f"data {name}", state, mark)


def data_state(name: str) -> str:
    """`embedded`, `present`, `absent`, or the one split that is there: `only test`."""
    from workbench import data

    info = data.info(name)
    if info.embedded:
        return "embedded"
    here = [split for split in info.splits if data.present(name, split)]
    if len(here) == len(info.splits):
        return "present"
    return f"only {here[0]}" if here else "absent"


def data_folder(folder: Path) -> Finding:
    """Whether the data folder can be read, or made, and the space there."""
    path = folder.absolute()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    named = "from WORKBENCH_DATA" if "WORKBENCH_DATA" in os.environ else "WORKBENCH_DATA is not set"
    found = f"{folder} ({named}), {free / 1e9:.1f} GB free"
    advice = ""
    if not nearest.is_dir() or not os.access(nearest, os.R_OK | os.X_OK):
        advice = f"{nearest} is no folder that can be read: set WORKBENCH_DATA to another"
    elif free < LEAST_DISK:
        advice = "free some space, or set WORKBENCH_DATA to another disk"
    elif not os.access(nearest, os.W_OK):
        return Finding("data folder", f"{found}, read-only: nothing is downloaded there", NOTE)
    return Finding("data folder", found, PROBLEM if advice else OK, advice)


def models() -> Iterator[Finding]:
    """The models whose weights are here."""
    from workbench import models

    names = models.available()
    if not names:
        yield Finding("models", "none", PROBLEM, "install again, or: workbench train digits/cnn")
    for name in names:
        try:
            yield Finding(f"model {name}", f"{models.card(name).parameters:,} parameters")
        except ValueError as error:
            advice = "remove that file, then install or train again"
            yield Finding(f"model {name}", str(error), PROBLEM, advice)
