"""What is installed, what is imported, and what the metadata promises."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workbench import suite

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LARGEST_WHEEL = 12e6
CONDA_NAMES = {"pytorch-cpu": "torch"}
FAMILIES = sorted(path.parent.name for path in ROOT.glob("workbench/*/__init__.py"))
# Nothing imports them back; but reports show figures, and courses are reports.
LEAVES = {"figures", "reports", "courses"}
SHOWS = {("reports", "figures"), ("courses", "figures"), ("courses", "reports")}


def fresh(code: str, *options: str) -> str:
    """What `code` prints in a new Python, run away from the source tree."""
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(sys.prefix))
    assert done.returncode == 0, done.stderr
    return done.stdout if "importtime" not in options else done.stderr


def loaded_after(statement: str) -> set[str]:
    """Top-level names of the modules that `statement` brings in."""
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(fresh(code).split())


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth; `a.b` for `from a import b` too."""
    package = path.relative_to(ROOT).parent.parts
    if package[0] == "widgets":
        package = ("workbench", *package)
    return modules(path.read_text(), package)


def modules(code: str, package: tuple[str, ...]) -> set[str]:
    """Every module that code in `package` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


# Metadata


def test_the_packages_listed_are_the_folders_there_are():
    listed = set(PROJECT["tool"]["setuptools"]["packages"]) - {"workbench.notebooks"}
    ours = {path.parent.relative_to(ROOT) for path in sources("workbench")}
    theirs = {"workbench" / path.parent.relative_to(ROOT) for path in sources("widgets")}
    assert listed == {".".join(folder.parts) for folder in ours | theirs}


def test_environment_yml_asks_for_what_pyproject_asks():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert "--editable ." in pip
    asked = [Requirement(line) for line in [*lines, *pip] if line not in ("pip", "--editable .")]
    found = {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in asked}
    wanted = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    assert found == {"python": PROJECT["project"]["requires-python"]} | {
        r.name: str(r.specifier) for r in wanted
    }


def test_constraints_pin_the_whole_tree_of_lab_test_and_lint():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*+]+", str(pin.specifier)) for pin in pins)
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    assert str(pinned["torch"].specifier) == "==2.13.0"

    extras = PROJECT["project"]["optional-dependencies"]
    direct = [*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]
    seen: set[str] = set()
    waiting = [Requirement(line) for line in direct]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}{sorted(requirement.extras)}"
        if key in seen:
            continue
        seen.add(key)
        assert name in pinned, f"{name} is not pinned: make constraints"
        for line in required_by(name):
            inner = Requirement(line)
            chosen = [{"extra": extra} for extra in (*requirement.extras, "")]
            if inner.marker is None or any(inner.marker.evaluate(e) for e in chosen):
                waiting.append(inner)
    for line in direct:
        requirement = Requirement(line)
        pin = next(iter(pinned[canonicalize_name(requirement.name)].specifier))
        assert requirement.specifier.contains(pin.version), f"{line} against pin {pin.version}"


def required_by(name: str) -> list[str]:
    """What an installed package requires; nothing is known of one that is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def test_what_the_code_imports_is_declared():
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    names = ("hf", "timm", "app", "site", "solvers", "cluster")
    users = [line for extra in names for line in extras[extra]]
    declared = {canonicalize_name(Requirement(r).name) for r in [*project["dependencies"], *users]}
    homes = metadata.packages_distributions()
    # Parts of the interface of ipywidgets, ipykernel, transformers and onnx, which bring them.
    declared |= {"ipython", "traitlets", "jupyter-client", "huggingface-hub", "protobuf"}
    for path in [*sources("workbench"), *sources("widgets")]:
        for name in {module.split(".")[0] for module in imported(path)} - {"workbench"}:
            if name not in sys.stdlib_module_names:
                home = {canonicalize_name(d) for d in homes.get(name, [name])}
                assert home & declared, f"{path.relative_to(ROOT)} imports {name}: not declared"


def test_what_the_notebooks_import_is_declared_without_an_extra():
    declared = {canonicalize_name(Requirement(r).name) for r in PROJECT["project"]["dependencies"]}
    declared |= {"ipython", "dnn-workbench"}
    homes = metadata.packages_distributions()
    for path in suite.notebooks():
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for name in modules(code, ()):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names:
                home = {canonicalize_name(d) for d in homes.get(top, [top])}
                assert home & declared, f"{path.name} imports {top}, which an installed bench lacks"


# Imports


def test_import_workbench_is_quick_and_light():
    names = loaded_after("import workbench")
    assert not names & {"torch", "ipywidgets", "plotly", "pandas", "sklearn", "papermill"}

    def milliseconds() -> float:
        lines = fresh("import workbench", "-X", "importtime").splitlines()
        (line,) = [line for line in lines if line.split("|")[-1].strip() == "workbench"]
        return int(line.split("|")[1]) / 1000

    best = 1e9
    for _ in range(5):
        best = min(best, milliseconds())
        if best < 150:
            break
    assert best < 150


def test_the_model_panel_needs_no_matplotlib():
    assert "matplotlib" not in loaded_after("from workbench.widgets import ModelPanel")


def test_importing_every_module_of_workbench_leaves_ipywidgets_out():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources("workbench")
    ]
    statement = "import " + ", ".join(name.removesuffix(".__init__") for name in modules)
    assert not loaded_after(statement) & {"ipywidgets", "anywidget", "matplotlib"}


@pytest.mark.parametrize("path", sources("workbench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    family = path.relative_to(ROOT / "workbench").parts[0]
    for name in imported(path):
        top, *inside = name.split(".")
        assert top not in ("ipywidgets", "anywidget", "widgets"), f"{path} imports {name}"
        assert not (top == "workbench" and inside[:1] == ["widgets"]), f"{path} imports {name}"
        if top != "workbench" or not inside or inside[0] not in FAMILIES or inside[0] == family:
            continue
        if family in FAMILIES:
            allowed = (family, inside[0]) in SHOWS
            assert allowed or inside[0] not in LEAVES, f"{path} imports {name}"
        internal = ROOT / "workbench" / Path(*inside[:2])
        is_module = len(inside) > 1 and (internal.with_suffix(".py").exists() or internal.is_dir())
        assert not is_module, f"{path} imports {name}: an internal of {inside[0]}"


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that the tree stays as it is."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("workbench", "widgets", "notebooks"):
        skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_all_and_is_small(wheel):
    assert wheel.stat().st_size < LARGEST_WHEEL
    held = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT)) for path in sources("workbench")}
    code |= {str("workbench" / path.relative_to(ROOT)) for path in sources("widgets")}
    weights = {
        str(p.relative_to(ROOT)) for p in ROOT.glob("workbench/models/weights/*/*.safetensors")
    }
    assert weights, "no model is shipped"
    assert code | weights | {"workbench/labconfig/page_config.json"} <= held
    notebooks = {f"workbench/notebooks/{path.name}" for path in suite.notebooks()}
    plan = {"workbench/notebooks/README.md", "workbench/notebooks/images/bench.png"}
    assert {name for name in held if "/notebooks/" in name} == notebooks | plan
    assert any(name.endswith("licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_the_wheel_installs_and_imports_without_the_source(wheel, tmp_path):
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    # -S leaves out the .pth files and hooks of the editable install; dependencies come after.
    code = f"""
import sys
sys.path[:0] = [{str(target)!r}]
sys.path.append({sysconfig.get_path("purelib")!r})
import workbench, workbench.widgets, workbench.models, workbench.cli
from workbench import data, models, suite
print(workbench.__file__, workbench.widgets.__file__, suite.find("01_models.ipynb"))
model = models.load("digits/mlp")
print(model(data.load("digits").images[:2]).shape)
"""
    command = [sys.executable, "-I", "-S", "-c", code]
    quiet = {k: v for k, v in os.environ.items() if k != "WORKBENCH_DATA"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    files, shape = done.stdout.splitlines()
    assert all(file.startswith(str(target)) for file in files.split())
    assert shape == "torch.Size([2, 10])"
