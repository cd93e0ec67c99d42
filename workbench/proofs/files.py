"""A VNN-LIB file and a model's name: what `workbench prove` asks and says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from workbench import models
from workbench.models import Classifier
from workbench.proofs.clock import LATE
from workbench.proofs.properties import Answer, Verdict
from workbench.proofs.proving import prove
from workbench.proofs.vnnlib import read_vnnlib, unpacked

ONNX = (".onnx", ".onnx.gz")
# What VNN-COMP calls a verdict: whether there is a counterexample.
IN_COMPETITION: dict[Verdict, str] = {"proved": "unsat", "refuted": "sat", "open": "unknown"}
SHOWN = 20  # inputs of a counterexample that are shown


def prove_file(
    path: str | Path,
    model: str,
    *,
    backend: str = "branching",
    time_limit: float = 60.0,
    seed: int = 0,
    witness: str | Path | None = None,
) -> tuple[Answer, list[tuple[str, float]]]:
    """Verify a VNN-LIB file; the answer, and the inputs and outputs of a counterexample by name.

    model: an ONNX file, perhaps packed (gzip), or a name that `models.load` knows. The other
    options are those of `prove`; the network is read before the time begins. witness: a file
    for the result in the form of VNN-COMP.

    Raises:
        FileNotFoundError: no such file, or no such folder for the witness.
        ValueError: what `models.load`, `read_vnnlib` and `prove` refuse.
        ImportError: an extra that is needed is not installed.
    """
    if witness is not None and not Path(witness).absolute().parent.is_dir():
        raise FileNotFoundError(f"witness: no folder {Path(witness).absolute().parent}")
    network, n_outputs = network_of(model)
    prop = read_vnnlib(path, network, n_outputs)
    answer = prove(network, prop, backend=backend, time_limit=time_limit, seed=seed)
    values = list(named(network, answer.counterexample, n_outputs))
    if witness is not None:
        part = Path(f"{witness}.part")
        part.write_text(in_competition(answer, values), encoding="utf-8")
        os.replace(part, witness)
    return answer, values


def network_of(name: str) -> tuple[Classifier, int]:
    """The model, and how many of its outputs are its own.

    An ONNX graph is taken as it is: its inputs keep their order. A single output gets a second
    one, which is 0, to make a classifier.
    """
    path = Path(name.removeprefix("onnx:")).expanduser()
    if not name.startswith("onnx:") and not name.lower().endswith(ONNX):
        model = models.load(name)
        return model, len(model.classes)
    graph = read_onnx(path)
    shape = graph.input_shape
    if len(shape) > 3:
        shape = tuple(n for n in shape if n != 1)
    if len(shape) > 3:
        raise ValueError(f"{path}: the graph takes {graph.input_shape}, which is no image")
    shape = (*(1,) * (3 - len(shape)), *shape)
    same = shape == graph.input_shape
    module = graph.module if same else models.onnx.as_images(graph, shape)
    if graph.n_outputs == 1:
        module = nn.Sequential(module, nn.ConstantPad1d((0, 1), 0.0))
    return models.wrap(module, input_shape=shape, name=f"onnx:{path}"), graph.n_outputs


def read_onnx(path: Path) -> models.onnx.OnnxModel:
    """`models.onnx.read` of a file that may be packed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        try:
            copy.write_bytes(unpacked(path))
            return models.onnx.read(copy)
        except ValueError as error:
            reason = str(error).removeprefix(f"{copy}: ")
            raise ValueError(f"{path}: {reason}") from None


def named(model: Classifier, x: torch.Tensor | None, n_outputs: int) -> Iterator[tuple[str, float]]:
    """The inputs and outputs at a counterexample, as VNN-LIB names them."""
    if x is None:
        return
    with torch.no_grad():
        logits = model(x[None].to(model.device))[0, :n_outputs]
    for kind, numbers in (("X", x.flatten()), ("Y", logits)):
        for i, value in enumerate(numbers.tolist()):
            yield f"{kind}_{i}", value


def in_competition(answer: Answer, values: list[tuple[str, float]]) -> str:
    """An answer as VNN-COMP wants it: sat with a witness, unsat, timeout or unknown."""
    late = answer.verdict == "open" and LATE in answer.note
    result = "timeout" if late else IN_COMPETITION[answer.verdict]
    if answer.verdict == "refuted":
        result += "\n(" + "\n ".join(f"({name} {value!r})" for name, value in values) + ")"
    return f"{result}\n"


def described(answer: Answer, values: list[tuple[str, float]]) -> str:
    """An answer in a few lines, the verdict first."""
    bound = "" if answer.bound is None else f"bound {answer.bound:.4g}, "
    left = f", {answer.open:,} left" if answer.open else ""
    counts = f"{bound}{answer.branches:,} branches{left}"
    lines = [f"{answer.verdict} in {answer.seconds:.2f} s"]
    lines += [counts] if answer.branches else []
    lines += [answer.note] if answer.note else []
    inputs = sum(name[0] == "X" for name, _ in values)
    shown = [f"  {name} {value!r}" for name, value in values]
    if inputs > SHOWN:
        shown[SHOWN:inputs] = [f"  ... {inputs:,} inputs; --witness FILE writes them all"]
    lines += ["counterexample:", *shown] if values else []
    return "\n".join(lines)
