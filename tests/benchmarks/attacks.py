"""Attacks beside their physical limit and beside other libraries, in one run.

`python tests/benchmarks/attacks.py [pgd|cw|cascade|topk] ...` prints tables and asserts nothing.
With PEERS_PYTHON naming a Python that has the libraries of `attack_peers.py`, they run too. All
images are judged by the same model: ours. Needs MNIST in the data folder.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from workbench import attacks, data, models
from workbench.attacks import Attack, AttackResult
from workbench.models import Classifier

PEERS_PYTHON = os.environ.get("PEERS_PYTHON")
ROUNDS = 3


def timed(
    attack: Attack, model: Classifier, x: torch.Tensor, y: torch.Tensor, **options: torch.Tensor
) -> tuple[float, AttackResult]:
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    result = attack(model, x, y, **options)
    return time.perf_counter() - begun, result


def limit(model: Classifier, x: torch.Tensor, y: torch.Tensor, result: AttackResult) -> float:
    """Seconds for the gradients that an attack took: the bare module, the images in play."""
    spent = result.queries["backwards"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    batches = [x[spent > step].clone() for step in range(int(spent.max()))]
    labels = [y[spent > step] for step in range(int(spent.max()))]
    begun = time.perf_counter()
    for batch, label in zip(batches, labels, strict=True):
        batch.requires_grad_(True)
        torch.autograd.grad(F.cross_entropy(model(batch), label, reduction="sum"), batch)
    return time.perf_counter() - begun


def peer(model: Classifier, x: torch.Tensor, y: torch.Tensor, name: str, eps: float) -> tuple:
    """Seconds of a peer's attack, and its images."""
    assert PEERS_PYTHON is not None
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: w.numpy() for name, w in model.state_dict().items()}
        np.savez(Path(folder) / "weights.npz", **weights)
        np.save(Path(folder) / "x.npy", x.numpy())
        np.save(Path(folder) / "y.npy", y.numpy())
        script = Path(__file__).with_name("attack_peers.py")
        command = [PEERS_PYTHON, script, folder, name, str(eps), str(torch.get_num_threads())]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            raise RuntimeError(f"{name}: {said.stderr[-500:]}")
        return float(said.stdout), torch.from_numpy(np.load(Path(folder) / "adv.npy"))


def robust(model: Classifier, images: torch.Tensor, y: torch.Tensor) -> float:
    """The share still right."""
    return float((model.predict(images).label == y).float().mean())


def pgd(n: int = 500) -> None:
    """PGD-40: beside the bare gradients, and beside the peers."""
    images = data.load("mnist", limit=n)
    x, y = images.images, images.labels
    for name in ("mnist/cnn", "mnist/cnn-robust"):
        model = models.load(name)
        rows: dict[str, list[float]] = {}
        share: dict[str, float] = {}
        for _ in range(ROUNDS):
            for kind, exhaustive in (("ours", False), ("ours, exhaustive", True)):
                attack = attacks.PGD(eps=0.3, n_steps=40, alpha=0.01, exhaustive=exhaustive)
                seconds, result = timed(attack, model, x, y)
                rows.setdefault(kind, []).append(seconds)
                rows.setdefault(f"limit of {kind}", []).append(limit(model, x, y, result))
                share[kind] = robust(model, result.x_adv, y)
            for other in ("foolbox PGD-40", "torchattacks PGD-40", "ART PGD-40"):
                if PEERS_PYTHON:
                    seconds, adv = peer(model, x, y, other, 0.3)
                    rows.setdefault(other, []).append(seconds)
                    share[other] = robust(model, adv, y)
        print(f"\nPGD-40, {n} images, {name}, eps 0.3, median of {ROUNDS}")
        ours = statistics.median(rows["ours"])
        for kind, seconds in rows.items():
            middle = statistics.median(seconds)
            left = f"{share[kind]:.3f}" if kind in share else ""
            print(f"{kind:<26}{middle:>8.2f} s{middle / ours:>8.2f} x ours   robust {left}")
        for kind in ("ours", "ours, exhaustive"):
            pairs = zip(rows[kind], rows[f"limit of {kind}"], strict=True)
            print(f"{kind} / its limit: {statistics.median(a / b for a, b in pairs):.2f}")


def cw(n: int = 200) -> None:
    """Carlini and Wagner, L2: success, mean norm over what is fooled, time."""
    images = data.load("mnist", limit=n)
    x, y = images.images, images.labels
    for name in ("mnist/cnn", "mnist/cnn-robust"):
        model = models.load(name)
        found = {}
        for attack in (attacks.CW(norm="L2"), attacks.DDN()):
            seconds, result = timed(attack, model, x, y)
            found[f"ours {type(attack).__name__}"] = (seconds, result.x_adv)
        for other in ("foolbox C&W 5x100", "torchattacks C&W 100", "foolbox DDN-100"):
            if PEERS_PYTHON:
                found[other] = peer(model, x, y, other, 0.0)
        print(f"\nC&W L2, {n} images, {name}")
        for kind, (seconds, adv) in found.items():
            fooled = model.predict(adv).label != y
            black = int((adv.flatten(1).amax(1) == 0).sum())
            norm = float((adv - x)[fooled].flatten(1).norm(dim=1).mean())
            print(
                f"{kind:<26}{seconds:>8.2f} s   fooled {float(fooled.float().mean()):.3f}"
                f"   mean L2 {norm:.3f}   black images {black}"
            )


def cascade(n: int = 200) -> None:
    """Cascade beside AutoAttack."""
    images = data.load("mnist", limit=n)
    x, y = images.images, images.labels
    for name, eps in (("mnist/cnn", 0.1), ("mnist/cnn-robust", 0.3)):
        model = models.load(name)
        found = {}
        for version in ("standard", "adaptive", "quick"):
            attack = attacks.Cascade(eps=eps, preset=version)
            seconds, result = timed(attack, model, x, y)
            found[f"Cascade, {version}"] = (seconds, result.x_adv)
        for other in ("pyautoattack standard", "torchattacks AutoAttack"):
            if PEERS_PYTHON:
                found[other] = peer(model, x, y, other, eps)
        print(f"\nCascade, {n} images, {name}, eps {eps}")
        whole = found["Cascade, standard"][0]
        for kind, (seconds, adv) in found.items():
            left = robust(model, adv, y)
            ratio = f"{seconds / whole:.2f} x standard"
            print(f"{kind:<26}{seconds:>8.2f} s{ratio:>18}   robust {left:.4f}")


def topk(n: int = 100) -> None:
    """Image solves a second of QuadAttacK, K = 5, on the digits net."""
    images = data.load("digits", limit=n)
    model = models.load("digits/cnn")
    order = attacks.random_order(images.labels, 10, 5, seed=0)
    attack = attacks.QuadAttacK(n_steps=60)
    seconds, result = timed(attack, model, images.images, images.labels, target=order)
    solves = int(result.queries["backwards"].sum())
    print(f"\nQuadAttacK K=5, digits/cnn: {seconds:.2f} s, {n / seconds:.0f} images a second,")
    success = float(result.success.float().mean())
    print(f"{solves / seconds:.0f} programmes a second, success {success:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    for chosen in sys.argv[1:] or ["pgd", "cw", "cascade", "topk"]:
        {"pgd": pgd, "cw": cw, "cascade": cascade, "topk": topk}[chosen]()
