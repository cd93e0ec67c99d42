"""Networks with a counterexample that is known, and hard to find: a test of verifiers.

The aim is that of SoundnessBench (Zhou et al., 2024), which trains such networks; here the
counterexample is built in, so that it is there by construction.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench import checks
from workbench.models import Classifier, private_copy, ready, wrap

WIDTH = 2.0  # the unit fires where the distances to the corner, summed over pixels, are below


class Planted(nn.Module):
    """A model and, beside it, one ReLU unit that adds to its logits."""

    def __init__(
        self, model: nn.Module, weight: torch.Tensor, bias: torch.Tensor, push: torch.Tensor
    ) -> None:
        super().__init__()
        self.model = model
        self.flatten, self.relu = nn.Flatten(), nn.ReLU()
        self.gate = nn.Linear(len(weight), 1)
        self.push = nn.Linear(1, len(push), bias=False)
        parts = {"gate.weight": weight[None], "gate.bias": bias[None], "push.weight": push[:, None]}
        self.load_state_dict(parts, strict=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` -> `(N, K)`."""
        return self.model(x) + self.push(self.relu(self.gate(self.flatten(x))))


def plant_counterexample(
    model: Classifier, x: torch.Tensor, eps: float, *, margin: float = 10.0, seed: int = 0
) -> tuple[Classifier, torch.Tensor]:
    """`model` with a counterexample within `eps` of `x` `(C, H, W)`, and the counterexample.

    It is a corner of the box, drawn from `seed`. The second choice at `x` leads there by
    `margin`, raised by one ReLU unit that is zero, and so is its gradient, in all of the box
    but near the corner (distances in units of eps, summed over pixels, below 2). So `x` keeps
    its logits, and `local_robustness` of the result, with the label of `x`, is false. Outside
    the box the unit may fire.

    Raises:
        ValueError: an image that breaks the contract, eps outside (0, 0.5] or too small for
            float32, a margin that is not positive, too few pixels, a model in train mode.
    """
    ready(model)
    x = checks.images(x[None], model.input_shape)[0]
    if not 0 < eps <= 0.5:
        raise ValueError(f"eps: expected an L-infinity radius in (0, 0.5], got {eps}")
    if not margin > 0:
        raise ValueError(f"margin: expected a number above 0, got {margin}")
    if x.numel() <= WIDTH:
        raise ValueError(
            f"x: expected more than {WIDTH:g} pixels to hide a corner, got {x.numel()}"
        )
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1
    sign = torch.where((x + eps * sign - 0.5).abs() > 0.5, -sign, sign)  # to where there is room
    corner = x + eps * sign
    label, other = model.predict(x[None]).logits[0].topk(2).indices.tolist()
    logits = model.predict(corner[None]).logits[0]
    push = torch.zeros(len(logits))
    push[other] = (logits.max() - logits[other] + margin) / WIDTH
    weight = sign.flatten().double() / eps
    bias = WIDTH - weight @ corner.flatten().double()
    planted = wrap(
        Planted(private_copy(model, share=False), weight, bias, push).to(model.device),
        input_shape=model.input_shape,
        classes=model.classes,
        name=f"{model.card.name} with a counterexample",
    )
    prediction = planted.predict(torch.stack([x, corner]))
    if prediction.label.tolist() != [label, other]:
        raise ValueError(f"eps: {eps:g} is too small for float32 on images of {x.numel()} numbers")
    return planted, corner
