"""The `workbench` command, run as a user runs it."""

import gzip
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from browsers import reserved_port
from typer.testing import CliRunner

from workbench import cli, doctor, proofs
from workbench.proofs import Answer
from workbench.proofs.files import in_competition

runner = CliRunner()


def workbench(*words: str):
    return runner.invoke(cli.app, list(words))


@pytest.fixture
def no_data(monkeypatch, tmp_path) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def executed(monkeypatch) -> list[list[str]]:
    """The command lines that `lab` would have become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: commands.append(command))
    return commands


@pytest.fixture
def given(monkeypatch) -> dict:
    """What `report` hands over, in place of a run."""
    from workbench import reports

    class Done:
        html = Path("page.html")
        checks = (reports.Check("b is c", False, 9, "Check"),)

    seen: dict = {}

    def execute(notebook, parameters, output, **limits):
        seen.update(notebook=notebook, parameters=parameters, output=output, **limits)
        return Done()

    monkeypatch.setattr(reports, "execute", execute)
    return seen


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['workbench', '--help']\n"
        "from workbench.cli import app\n"
        "try: app()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print('loaded', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.rpartition("loaded")
    for command in ("lab", "models", "data", "report", "train", "doctor"):
        assert f" {command} " in shown
    assert not {"torch", "pandas", "plotly", "papermill", "sklearn"} & set(loaded.split())


def test_reading_notebooks_compiles_no_grammars():
    code = (
        "import sys, workbench, nbformat\n"
        "assert {'jsonschema', 'lark'} & set(sys.modules) == {'jsonschema'}\n"
        "from jsonschema import FormatChecker\n"  # who does check an address has it checked
        "checked = [FormatChecker().conforms(a, 'iri') for a in ('http://a.b/ä', 'no', 'x:y')]\n"
        "assert checked == [True, False, True], checked\n"
        "assert 'lark' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lab_opens_the_first_notebook_on_localhost_with_its_token(executed):
    port = reserved_port()
    result = workbench("lab", "--port", str(port), "--no-browser")
    assert result.exit_code == 0, result.output
    (command,) = executed
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in command
    assert f"--ServerApp.port={port}" in command
    assert "--ServerApp.port_retries=0" in command
    assert "--ServerApp.open_browser=False" in command
    assert not any("token" in word for word in command)  # the server makes one


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_root_is_allowed_only_where_the_user_is_root(user, allowed, executed, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    result = workbench("lab", "--port", str(reserved_port()), "--no-browser")
    assert ("--ServerApp.allow_root=True" in executed[0]) is allowed
    assert ("running as root" in result.stderr) is allowed


def test_lab_without_notebooks_opens_this_folder_and_says_so(executed, monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    result = workbench("lab", "--port", str(reserved_port()), "--no-browser")
    assert f"--ServerApp.root_dir={tmp_path}" in executed[0]
    assert "00_start_here.ipynb is not here" in result.stderr


def test_a_busy_port_is_said_and_nothing_starts(executed):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        result = workbench("lab", "--port", str(port))
    assert (result.exit_code, executed) == (1, [])
    assert result.stderr.startswith(f"error: port {port} on 127.0.0.1 cannot be used")
    assert f"PORT={port + 1}" in result.stderr


@pytest.mark.parametrize(
    "words", [["labb"], ["lab", "--port", "0"], ["lab", "--port", "65536"], ["lab", "--port", "x"]]
)
def test_usage_errors_start_nothing(words, executed):
    assert workbench(*words).exit_code == 2
    assert executed == []


def test_models_lists_a_card_a_line(no_data):
    from workbench import models

    lines = workbench("models").stdout.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names == models.available()


def test_data_says_what_is_embedded_and_what_is_absent(no_data):
    shown = workbench("data").stdout
    states = {
        line.split()[0]: line.split()[5] for line in shown.splitlines()[1:] if "x" in line[:24]
    }
    assert states["digits"] == states["shapes"] == "embedded"
    assert states["mnist"] == states["cifar10"] == "absent"
    assert str(no_data) in shown


@pytest.mark.parametrize(
    ("splits", "state"),
    [({"train", "test"}, "present"), ({"test"}, "only test"), (set(), "absent")],
)
def test_a_data_set_may_be_there_in_part(splits, state, monkeypatch):
    from workbench import data

    monkeypatch.setattr(data, "present", lambda name, split: split in splits)
    assert doctor.data_state("mnist") == state


def test_report_takes_parameters_as_two_words(given, tmp_path):
    words = ["-p", "eps", "8/255", "--parameter", "name=a=b", "-p", "low", "-1"]
    limits = ["--timeout", "60", "--cell-timeout", "5"]
    result = workbench("report", "n.ipynb", *words, "--output", str(tmp_path), *limits)
    assert result.exit_code == 0, result.output
    assert given == {
        "notebook": Path("n.ipynb"),
        "parameters": {"eps": "8/255", "name": "a=b", "low": "-1"},
        "output": tmp_path,
        "timeout": 60,
        "cell_timeout": 5,
    }
    assert result.stdout.strip() == "page.html"
    assert result.stderr == "does not hold: b is c (cell 9, Check)\n"


def test_a_parameter_given_in_words_wins_over_the_file(given, tmp_path):
    file = tmp_path / "p.toml"
    file.write_text("eps = 0.1\nseed = 3\n")
    workbench("report", "n.ipynb", "--parameters", str(file), "-p", "eps", "0.2")
    assert given["parameters"] == {"eps": "0.2", "seed": 3}


def test_half_a_parameter_is_refused(given):
    result = workbench("report", "n.ipynb", "-p", "eps")
    assert (result.exit_code, given) == (2, {})
    assert result.stderr.startswith("error: -p takes a name and a value")


def test_a_notebook_that_is_not_there_is_one_line_and_no_traceback():
    result = workbench("report", "nowhere.ipynb")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "nowhere.ipynb" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_train_refuses_an_unknown_recipe_and_suggests_the_nearest(no_data):
    result = workbench("train", "digits/cn")
    assert result.exit_code == 2
    assert "Did you mean 'digits/cnn'?" in result.stderr


def test_train_writes_the_weights_it_names(no_data, tmp_path):
    path = tmp_path / "mlp.safetensors"
    result = workbench("train", "digits/mlp", "--epochs", "1", "--output", str(path))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(path)
    assert path.stat().st_size > 1000


def test_check_measures_what_the_card_says(no_data):
    result = workbench("models", "--check", "digits/mlp")
    assert result.exit_code == 0, result.output
    assert "test_correct" in result.stdout


def test_a_variable_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("WORKBENCH_DEBUG", "1")
    assert isinstance(workbench("train", "nothing/like-this").exception, ValueError)


def test_a_share_is_never_rounded_up():
    shown = [cli.percent(rate) for rate in (None, 0, 0.99999, 359 / 360, 1)]
    assert shown == ["", "0.00", "99.99", "99.72", "100.00"]


# The doctor


def test_doctor_finds_no_problem_here_and_changes_nothing(no_data):
    result = workbench("doctor")
    assert result.exit_code == 0, result.output
    assert str(no_data) in result.stdout
    assert "data mnist" in result.stdout
    assert result.stdout.strip().endswith("The bench is in order.")
    assert not no_data.exists()


def test_a_package_is_ok_too_old_or_missing():
    assert doctor.package("typer", ">=0.1").state == doctor.OK
    for name, bounds in (("typer", ">=1000"), ("no-such-thing", ">=1")):
        finding = doctor.package(name, bounds)
        assert finding.state == doctor.PROBLEM
        assert f"{name}{bounds}" in finding.advice


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_data_folder_that_is_a_file_is_a_problem(inside, tmp_path):
    (tmp_path / "file").write_text("")
    finding = doctor.data_folder(tmp_path / "file" / inside)
    assert finding.state == doctor.PROBLEM
    assert "WORKBENCH_DATA" in finding.advice


def test_a_damaged_model_is_a_problem(monkeypatch):
    from workbench import models

    def broken(name):
        raise ValueError(f"{name} is truncated")

    monkeypatch.setattr(models, "card", broken)
    assert {finding.state for finding in doctor.models()} == {doctor.PROBLEM}


def test_the_text_ends_with_what_is_left_to_do():
    fine, broken = doctor.Finding("a", "1"), doctor.Finding("b", "2", doctor.PROBLEM, "do this")
    assert doctor.as_text([fine]).endswith("The bench is in order.")
    text = doctor.as_text([fine, broken])
    assert "-> do this" in text
    assert text.endswith("1 to mend: see the lines with ->")


def test_a_notebook_shows_one_sentence_with_the_lines_folded():
    fine = doctor.Finding("model a/b", "1 parameter")
    well = doctor.Findings([fine, doctor.Finding("data digits", "embedded")])
    assert repr(well).startswith("All is well: Python ")
    assert repr(well).endswith(", 1 models and 1 data sets are here")
    html = well._repr_html_()
    assert html.index("All is well") < html.index("</summary>") < html.index("1 parameter")
    broken = doctor.Finding("torch", "<missing>", doctor.PROBLEM, "pip install torch")
    ill = doctor.Findings([fine, broken])
    assert repr(ill) == "1 to mend: torch: <missing> (do: pip install torch)"
    assert "torch: &lt;missing&gt; (do: pip install torch)</summary>" in ill._repr_html_()
    assert "<missing>" not in ill._repr_html_()


# Proofs


@pytest.fixture
def asked(tmp_path):
    """A network with logits (x_0 + x_1, 0.5) as a flat ONNX file, and files of questions."""
    import onnx

    numpy = pytest.importorskip("numpy")
    from onnx import helper, numpy_helper

    def network(name, weight, bias, shape=(1, 2, 1)):
        stored = [
            numpy_helper.from_array(numpy.array(value, numpy.float32), key)
            for key, value in (("w", weight), ("b", bias))
        ]
        nodes = [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
        ]
        ends = [
            helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, sizes)
            for key, sizes in (("x", shape), ("y", [1, len(bias)]))
        ]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        content = model.SerializeToString()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    def question(row, outputs=2, name="p.vnnlib"):
        names = [*(f"X_{i}" for i in range(2)), *(f"Y_{i}" for i in range(outputs))]
        lines = [f"(declare-const {name} Real)" for name in names]
        lines += [f"(assert (>= X_{i} -2.5)) (assert (<= X_{i} -1.5))" for i in range(2)]
        path = tmp_path / name
        path.write_text("\n".join([*lines, f"(assert {row})"]))
        return str(path)

    return network, question


TWO = [[1.0, 0.0], [1.0, 0.0]], [0.0, 0.5]


def test_prove_says_the_verdict_first(asked):
    network, question = asked
    net = network("m.onnx", *TWO)
    words = ["prove", question("(>= Y_0 Y_1)"), "--model", net]
    for given_ in (words, [*words, "--method", "milp"], [*words[:3], f"onnx:{net}"]):
        result = workbench(*given_)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("proved in ")
    assert "bound 3.5, " in workbench(*words).stdout  # 0.5 and -3


@pytest.mark.parametrize("name", ["m.onnx", "m.onnx.gz", "M.ONNX"])
def test_prove_shows_a_counterexample_and_writes_a_witness(asked, tmp_path, name):
    network, question = asked
    witness = tmp_path / "w.txt"
    words = ["prove", question("(<= Y_0 -4.75)"), "--model", network(name, *TWO)]
    result = workbench(*words, "--witness", str(witness))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("refuted in ")
    shown = dict(line.split() for line in result.stdout.splitlines()[-4:])
    assert list(shown) == ["X_0", "X_1", "Y_0", "Y_1"]
    values = {key: float(value) for key, value in shown.items()}
    assert -2.5 <= min(values["X_0"], values["X_1"]) <= max(values["X_0"], values["X_1"]) <= -1.5
    assert values["Y_0"] == pytest.approx(values["X_0"] + values["X_1"], abs=1e-6)
    assert values["Y_0"] <= -4.75
    first, *rest = witness.read_text().splitlines()
    assert first == "sat"
    assert dict(re.findall(r"\((\w+) ([^()]+)\)", " ".join(rest))) == shown


def test_prove_writes_what_the_competition_calls_the_other_verdicts(asked, tmp_path):
    network, question = asked
    witness, net = tmp_path / "w.txt", network("m.onnx", *TWO)
    workbench("prove", question("(>= Y_0 Y_1)"), "--model", net, "--witness", str(witness))
    assert witness.read_text() == "unsat\n"
    words = ["prove", question("(>= Y_0 Y_1)"), "--model", net, "--time-limit", "1e-9"]
    result = workbench(*words, "--witness", str(witness))
    assert result.exit_code == 3
    assert result.stdout.startswith("open in ")
    assert "the time limit was reached" in result.stdout
    assert witness.read_text() == "timeout\n"


def test_prove_says_how_many_branches_are_left_where_some_are():
    kept = Answer("open", bound=-1.25, branches=4, open=2, note="numerical trouble")
    lines = ["open in 0.00 s", "bound -1.25, 4 branches, 2 left", "numerical trouble"]
    assert proofs.described(kept, []).splitlines() == lines
    assert in_competition(kept, []) == "unknown\n"
    done = Answer("proved", bound=0.5, branches=4)
    assert proofs.described(done, []).splitlines() == ["proved in 0.00 s", "bound 0.5, 4 branches"]


def test_prove_takes_a_network_with_one_output(asked):
    network, question = asked
    net = network("m.onnx", [[1.0], [1.0]], [0.0], (1, 2))
    result = workbench("prove", question("(>= Y_0 -2.9)", 1), "--model", net)
    assert result.stdout.startswith("proved in ")
    shown = workbench("prove", question("(>= Y_0 -3.1)", 1), "--model", net).stdout
    assert shown.startswith("refuted in ")
    assert shown.splitlines()[-1].split()[0] == "Y_0"  # none that is not the network's


def test_prove_keeps_the_order_of_the_inputs_of_the_graph(asked):
    """Height, width, channels: X are numbered as the graph has them."""
    network, question = asked
    net = network("m.onnx", [[1.0, 0.0], [9.0, 0.0]], [0.0, 0.5], (1, 1, 1, 2))
    result = workbench("prove", question("(<= Y_0 -20)"), "--model", net)
    values = dict(line.split() for line in result.stdout.splitlines()[-4:])
    assert float(values["Y_0"]) == pytest.approx(
        float(values["X_0"]) + 9 * float(values["X_1"]), abs=1e-4
    )


def test_prove_names_a_model_of_the_bench(tmp_path, no_data):
    names = [f"X_{i}" for i in range(64)] + [f"Y_{i}" for i in range(10)]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert (= X_{i} 0.5))" for i in range(64)]
    file = tmp_path / "p.vnnlib"
    file.write_text("\n".join([*lines, "(assert (<= Y_0 1e6))"]))
    result = workbench("prove", str(file), "--model", "digits/mlp")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("refuted in ")
    assert "64 inputs; --witness FILE writes them all" in result.stdout


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"file": "nowhere.vnnlib"}, 1, "nowhere.vnnlib"),
        ({"model": "nowhere.onnx"}, 1, "nowhere.onnx"),
        ({"model": "digits/ml"}, 2, "Did you mean 'digits/mlp'?"),
        ({"model": "digits/mlp"}, 2, "line 7: expected X_0 to X_63 declared, got 2 X"),
        ({"method": "milpp"}, 2, "unknown backend 'milpp'. Did you mean 'milp'?"),
        ({"time-limit": "0"}, 2, "time_limit: expected a number of seconds above 0, got 0"),
        ({"witness": "no/such/folder/w.txt"}, 1, "witness: no folder "),
    ],
)
def test_prove_says_what_cannot_be_asked_in_one_line(asked, no_data, change, code, message):
    network, question = asked
    options = {"file": question("(>= Y_0 Y_1)"), "model": network("m.onnx", *TWO), **change}
    words = [
        word for key, value in options.items() if key != "file" for word in (f"--{key}", value)
    ]
    result = workbench("prove", options["file"], *words)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("content", [b"", b"no network", b"\x1f\x8b cut"])
def test_prove_says_what_is_wrong_with_a_network(asked, tmp_path, content):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    result = workbench("prove", asked[1]("(>= Y_0 Y_1)"), "--model", str(path))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
