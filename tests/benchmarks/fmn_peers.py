"""Minimum-norm attacks of other libraries on the networks and images of `fmn.py`.

It runs in an environment with torch, adv-lib and foolbox, without this package:
`python fmn_peers.py FOLDER NORM STEPS`. It writes what each attack made to FOLDER/PEER.npy, its
seconds to standard output. adv-lib imports visdom and a perceptual metric that no attack here
uses: both are replaced by empty modules.
"""

from __future__ import annotations

import math
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch
from attack_peers import network

for name, attribute in (("visdom", "Visdom"), ("adv_lib.distances.lpips", "LPIPS")):
    sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[name], attribute, object)

import adv_lib.attacks as adv  # noqa: E402
import foolbox  # noqa: E402

ORDER = {"L0": 0, "L1": 1, "L2": 2, "Linf": math.inf}
FOOLBOX = {"L0": "L0FMNAttack", "L1": "L1FMNAttack", "L2": "L2FMNAttack", "Linf": "LInfFMNAttack"}


def attacks(net, x, y, norm, steps):
    """The peers by name; FMN with the first step of its paper for each norm, 1 and 10."""
    order, wrapped = ORDER[norm], foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    kind = getattr(foolbox.attacks, FOOLBOX[norm])
    for first in (1.0, 10.0):
        yield (
            f"adv-lib FMN {first:.0f}",
            lambda a=first: adv.fmn(net, x, y, order, steps=steps, α_init=a),
        )
        yield (
            f"foolbox FMN {first:.0f}",
            lambda a=first: kind(steps=steps, max_stepsize=a)(wrapped, x, y, epsilons=None)[1],
        )
    if norm == "L2":
        yield "adv-lib DDN", lambda: adv.ddn(net, x, y, steps=steps, levels=None)
        ddn = foolbox.attacks.DDNAttack(steps=steps)
        yield "foolbox DDN", lambda: ddn(wrapped, x, y, epsilons=None)[1]
    if norm in ("L1", "L2"):
        yield "adv-lib ALMA", lambda: adv.alma(net, x, y, num_steps=steps, distance=norm.lower())
    if norm == "L0":
        yield "adv-lib sigma-zero", lambda: adv.sigma_zero(net, x, y, num_steps=steps)
    yield "adv-lib PDPGD", lambda: adv.pdpgd(net, x, y, norm=order, num_steps=steps)
    if norm != "L0":  # with the gradient of every class at each step
        yield "adv-lib FAB (9 gradients)", lambda: adv.fab(net, x, y, norm=order, n_iter=steps)


def main() -> None:
    """Attack, write the images, print the seconds."""
    folder, norm, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    net = network(dict(np.load(folder / "weights.npz")))
    x, y = torch.from_numpy(np.load(folder / "x.npy")), torch.from_numpy(np.load(folder / "y.npy"))
    for name, attack in attacks(net, x, y, norm, steps):
        torch.manual_seed(0)
        begun = time.perf_counter()
        images = attack()
        print(f"{name}\t{time.perf_counter() - begun}")
        np.save(folder / f"{name}.npy", images.detach().numpy())


if __name__ == "__main__":
    main()
