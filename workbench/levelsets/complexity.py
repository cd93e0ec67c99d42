"""Local complexity: how many neurons change sign close to an image."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench import checks
from workbench.models import Classifier, audible, batch_size, heard, ready, unheard

if TYPE_CHECKING:
    import pandas as pd

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU)
BATCH = 512


@dataclass(frozen=True, eq=False)
class LocalComplexity:
    """counts: by activation layer, how many neurons change sign near each image, int64 `(N,)`."""

    counts: dict[str, Tensor]

    def summary(self) -> dict[str, Any]:
        """The mean over images: of the sum over layers, and layer by layer."""
        means = self.frame().mean()
        return {"total": float(means.pop("total")), "layers": means.to_dict()}

    def frame(self) -> pd.DataFrame:
        """One row an image: a column a layer, and the total."""
        import pandas as pd

        table = pd.DataFrame({name: count.numpy() for name, count in self.counts.items()})
        return table.assign(total=table.sum(axis=1))


def local_complexity(
    model: Classifier, x: Tensor, radius: float = 0.05, n_directions: int = 20, *, seed: int = 0
) -> LocalComplexity:
    """Count the neurons whose hyperplanes cross a cross-polytope round each image of `x`.

    Humayun et al., 2024. The vertices are `x ± radius v_p` for `n_directions` random orthonormal
    v_p, the same for all images; radius is an L2 length in image space. They may leave [0, 1]:
    clipped, they would be no cross-polytope. A neuron counts if it is below zero at one vertex
    and above at another: exact in the first layer (`|w.x + b| < radius max_p |w.v_p|`), while
    later layers are seen at the vertices only. Neurons are the inputs of activation modules
    (`ACTIVATIONS`; of a GELU, too, the sign counts). A module that runs twice is two layers,
    `name` and `name#2`; an activation called as a function is not seen. Through a training:

        for step in models.fit.steps(plan, training):
            if step.done % 100 == 0:
                course[step.done] = local_complexity(step.value.model, x).summary()

    Raises:
        TypeError, ValueError: images that break the contract; a radius or n_directions
            out of range; a model in train mode, without activation modules, or that says NaN.
    """
    x = checks.images(x, model.input_shape, name="x")
    ready(model)
    pixels = math.prod(model.input_shape)
    if not 0 < radius < math.inf:
        raise ValueError(f"radius: expected a positive length, got {radius}")
    if checks.positive("n_directions", n_directions) > pixels:
        raise ValueError(
            f"n_directions: expected at most {pixels}, one a pixel, got {n_directions}"
        )
    weights = next(model.parameters(), x)
    generator = torch.Generator().manual_seed(seed)
    size = pixels, n_directions
    draws = torch.randn(size, generator=generator, dtype=torch.float32).double()
    vertices = radius * torch.linalg.qr(draws)[0].T.reshape(-1, *x.shape[1:])
    vertices = torch.cat([vertices, -vertices]).to(weights)
    size = batch_size(model.input_shape, BATCH)
    parts = x.to(weights).split(max(1, size // len(vertices)))
    counts = [_crossings(model, part, vertices.split(size)) for part in parts]
    if not counts[0]:
        none = f"model: expected modules like ReLU or GELU, {model.card.name} runs none"
        raise ValueError(unheard(model) or none)
    return LocalComplexity({name: torch.cat([n[name] for n in counts]) for name in counts[0]})


def _crossings(model: Classifier, x: Tensor, shifts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """By layer, how many neurons change sign between the vertices `x + ways`: `(N,)`."""
    modules: dict[nn.Module, str] = {
        m: name for m, name in audible(model.body).items() if isinstance(m, ACTIVATIONS)
    }
    ends: dict[str, tuple[Tensor, Tensor]] = {}  # the least and the largest value
    runs: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs[module] += 1
        name = modules[module] + (f"#{runs[module]}" if runs[module] > 1 else "")
        # A hyperplane crosses the polytope where z has both signs among its vertices.
        z = inputs[0].flatten(1).unflatten(0, (len(batch), len(x)))
        low, high = ends.get(name, (z[0], z[0]))
        ends[name] = torch.minimum(z.amin(0), low), torch.maximum(z.amax(0), high)

    with heard(modules, before=note), torch.no_grad():
        for batch in shifts:
            runs.clear()
            logits = model((x + batch[:, None]).flatten(0, 1))
            if not bool(logits.isfinite().all()):
                raise ValueError("model: its logits near x are not finite numbers")
    return {name: ((low < 0) & (high > 0)).sum(1).cpu() for name, (low, high) in ends.items()}
