"""One attack of another library on the network and images of `attacks.py`, timed.

It runs in an environment with torch, foolbox, torchattacks, adversarial-robustness-toolbox and
pyautoattack, without this package: `python attack_peers.py FOLDER PEER EPS`. It writes the
attacked images to FOLDER/adv.npy and the seconds to standard output.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Normalise(nn.Module):
    """Images to zero mean and unit deviation."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def network(weights: dict[str, np.ndarray]) -> nn.Module:
    """The `cnn` architecture, spelled out, with its weights."""
    body = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    mean, std = (torch.from_numpy(weights.pop(name)) for name in ("mean", "std"))
    ours = [torch.from_numpy(w) for w in weights.values()]
    for own, given in zip(body.parameters(), ours, strict=True):
        own.data.copy_(given)
    return nn.Sequential(Normalise(mean, std), body).eval()


def foolbox_attack(net, x, y, name, eps, **options):
    import foolbox

    kind = {
        "pgd": foolbox.attacks.LinfPGD,
        "cw": foolbox.attacks.L2CarliniWagnerAttack,
        "ddn": foolbox.attacks.DDNAttack,
    }[name]
    _, clipped, _ = kind(**options)(
        foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y, epsilons=eps
    )
    return clipped


def art_pgd(net, x, y, eps):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1), device_type="cpu"
    )
    step = eps / 30
    attack = ProjectedGradientDescent(
        model, eps=eps, eps_step=step, max_iter=40, batch_size=500, num_random_init=1, verbose=False
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def torchattacks_attack(net, x, y, name, **options):
    import torchattacks

    return getattr(torchattacks, name)(net, **options)(x, y)


def pyautoattack(net, x, y, eps):
    from pyautoattack import AutoAttack

    attack = AutoAttack(net, norm="Linf", eps=eps, version="standard", device="cpu", seed=0)
    found = attack.run_standard_evaluation(x, y, batch_size=250)
    return found[0] if isinstance(found, tuple) else found


PEERS = {
    "foolbox PGD-40": lambda n, x, y, e: foolbox_attack(
        n, x, y, "pgd", e, steps=40, rel_stepsize=1 / 30
    ),
    "torchattacks PGD-40": lambda n, x, y, e: torchattacks_attack(
        n, x, y, "PGD", eps=e, alpha=e / 30, steps=40
    ),
    "ART PGD-40": art_pgd,
    "foolbox C&W 5x100": lambda n, x, y, e: foolbox_attack(
        n, x, y, "cw", None, binary_search_steps=5, steps=100
    ),
    "foolbox C&W 9x1000": lambda n, x, y, e: foolbox_attack(
        n, x, y, "cw", None, binary_search_steps=9, steps=1000
    ),
    "foolbox DDN-100": lambda n, x, y, e: foolbox_attack(n, x, y, "ddn", None, steps=100),
    "torchattacks C&W 100": lambda n, x, y, e: torchattacks_attack(n, x, y, "CW", steps=100),
    "pyautoattack standard": pyautoattack,
    "torchattacks AutoAttack": lambda n, x, y, e: torchattacks_attack(
        n, x, y, "AutoAttack", eps=e, n_classes=10, seed=0
    ),
}


def main() -> None:
    """Attack, write the images, print the seconds."""
    folder, peer, eps = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[4]))
    net = network(dict(np.load(folder / "weights.npz")))
    x, y = torch.from_numpy(np.load(folder / "x.npy")), torch.from_numpy(np.load(folder / "y.npy"))
    chatter = io.StringIO()
    with contextlib.redirect_stdout(chatter):
        if "PGD" in peer:
            PEERS[peer](net, x, y, eps)  # warm
        begun = time.perf_counter()
        adv = PEERS[peer](net, x, y, eps)
        seconds = time.perf_counter() - begun
    np.save(folder / "adv.npy", adv.detach().numpy())
    print(seconds)


if __name__ == "__main__":
    main()
