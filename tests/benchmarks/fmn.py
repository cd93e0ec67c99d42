"""FMN beside DDN and beside other libraries' minimum-norm attacks, in one run, at equal steps.

`python tests/benchmarks/fmn.py [IMAGES] [STEPS]` prints a table and asserts nothing. With
PEERS_PYTHON naming a Python that has the libraries of `fmn_peers.py`, they run too. Success and
norms are judged by the same model, ours; an image that is not fooled counts as infinitely far.
Four networks of one architecture: as trained, by PGD, by one step (FGSM), and by interval bounds,
the last two trained here in some minutes. Needs MNIST in the data folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from workbench import attacks, data, models
from workbench.attacks.norms import NORMS, Norm, size
from workbench.models import Classifier
from workbench.models.learning import fit
from workbench.models.plain import fresh
from workbench.models.recipes import Recipe

PEERS_PYTHON = os.environ.get("PEERS_PYTHON")
FGSM = Recipe(
    dataset="mnist",
    architecture="cnn",
    epochs=4,
    treatments=("AdversarialTraining(eps=0.3, n_steps=1)",),
)


def certified(eps: float = 0.2, epochs: int = 5) -> Classifier:
    """A network trained by interval bound propagation (Gowal et al., 2018)."""
    training = data.load("mnist", "train")
    model = fresh(Recipe(dataset="mnist", architecture="cnn", epochs=epochs), training, "ibp")
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    draw = torch.Generator().manual_seed(0)
    total, step = epochs * len(training) / 128, 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(training), generator=draw).split(128):
            x, y = training.images[chosen], training.labels[chosen]
            grown, step = min(1.0, 2 * step / total), step + 1
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 - 3 * max(0.0, step / total - 0.7))
            worst = worst_logits(model, x, y, eps * grown)
            clean, bound = F.cross_entropy(model(x), y), F.cross_entropy(worst, y)
            optimiser.zero_grad()
            ((1 - grown / 2) * clean + grown / 2 * bound).backward()
            optimiser.step()
    return model.eval()


def worst_logits(model: Classifier, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Each class at its highest, the label at its lowest, within `eps` of the images."""
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    state = model.state_dict()
    middle, radius = ((low + high) / 2 - state["mean"]) / state["std"], (high - low) / 2
    radius = radius / state["std"]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.abs()
            radius = F.conv2d(radius, weight, None, layer.stride, layer.padding)
            middle = layer(middle)
        elif isinstance(layer, nn.Linear):
            middle, radius = layer(middle), F.linear(radius, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            low, high = (middle - radius).relu(), (middle + radius).relu()
            middle, radius = (low + high) / 2, (high - low) / 2
        elif isinstance(layer, nn.Flatten):
            middle, radius = layer(middle), layer(radius)
    own = (middle - radius).gather(1, y[:, None])
    return (middle + radius).scatter(1, y[:, None], own)


def networks() -> Iterator[tuple[str, Classifier]]:
    """The four, by name."""
    for name in ("mnist/cnn", "mnist/cnn-robust"):
        yield name, models.load(name)
    yield "FGSM-trained", fit(FGSM, data.load("mnist", "train")).model.eval()
    yield "certified", certified()


def peers(
    model: Classifier, x: torch.Tensor, y: torch.Tensor, norm: Norm, n_steps: int
) -> dict[str, tuple[float, torch.Tensor]]:
    """Seconds and images of each peer's attack."""
    if not PEERS_PYTHON:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            Path(folder) / "weights.npz", **{k: w.numpy() for k, w in model.state_dict().items()}
        )
        np.save(Path(folder) / "x.npy", x.numpy())
        np.save(Path(folder) / "y.npy", y.numpy())
        script = Path(__file__).with_name("fmn_peers.py")
        threads = str(torch.get_num_threads())
        command = [PEERS_PYTHON, script, folder, norm, str(n_steps), threads]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
        return {
            name: (float(seconds), torch.from_numpy(np.load(Path(folder) / f"{name}.npy")))
            for name, seconds in rows
        }


def compare(name: str, model: Classifier, n: int, n_steps: int) -> None:
    """One network, every norm: found, median norm, ratio to ours, seconds."""
    images = data.load("mnist", limit=n)
    x, y = images.images, images.labels
    for norm in NORMS:
        made = {}
        own = [attacks.FMN(norm=norm, n_steps=n_steps)]
        own += [attacks.DDN(n_steps=n_steps)] if norm == "L2" else []
        for attack in own:
            begun = time.perf_counter()
            result = attack(model, x, y)
            made[f"ours {type(attack).__name__}"] = (time.perf_counter() - begun, result.x_adv)
        made |= peers(model, x, y, norm, n_steps)
        print(f"\n{name}, {norm}, {n} images, {n_steps} steps")
        ours = None
        for kind, (seconds, adv) in made.items():
            met = model.predict(adv).label != y
            length = torch.where(met, size(adv - x, norm), torch.inf)
            middle = float(length.median())
            ours = ours or middle
            print(
                f"{kind:<28}found {int(met.sum()):>4}   median {middle:>8.3f}"
                f"{middle / ours:>8.2f} x ours{seconds:>8.1f} s"
            )


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    arguments = [int(argument) for argument in sys.argv[1:]]
    count, n_steps = [*arguments, *(200, 100)[len(arguments) :]]
    for title, network in networks():
        compare(title, network, count, n_steps)
