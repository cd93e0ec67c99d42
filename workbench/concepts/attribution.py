"""How much each concept matters for a class: attributions in concept space, and their test.

An attribution method asks how a logit depends on the codes of the concepts, with the rest of
the network run on what they decode to (Fel et al., 2023). Where that rest is linear, gradient
x input, integrated gradients and occlusion agree, and no ranking deletes faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench import checks
from workbench.concepts.extraction import Concepts
from workbench.models import Classifier
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

ROWS = 2048  # codes that go through the rest of the network at once
N_PATH = 32  # points of the path of integrated gradients
N_MASKS = 32  # of each of the two designs of the Sobol indices

Score = Callable[[Tensor], Tensor]  # codes (V, B, ..., r) to the target's logit (V, B)


@dataclass(frozen=True, eq=False)
class Importance:
    """How much each concept matters for each image: `scores` float32 `(N, r)`.

    target: int64 `(N,)`, the class asked about. Sobol indices are shares of a variance, at
    least 0 (but for sampling noise); the other methods' values speak for the class where
    positive and against it where negative.
    """

    method: str
    scores: Tensor
    target: Tensor

    def summary(self) -> dict[str, Any]:
        """The method, and the concept that matters most on average."""
        mean = self.scores.mean(0)
        most = {"most_important": int(mean.argmax()), "mean": float(mean.max())}
        return {"method": self.method, "images": len(self.scores), **most}

    def frame(self) -> pd.DataFrame:
        """One row a concept: mean over the images, and the share where it comes first."""
        import pandas as pd

        first = self.scores.argmax(1).bincount(minlength=self.scores.shape[1])
        mean = self.scores.mean(0).numpy()
        table = {"mean": mean, "first": (first / max(len(self.scores), 1)).numpy()}
        return pd.DataFrame(table).rename_axis("concept")


@work
def importance(
    concepts: Concepts,
    model: Classifier,
    x: Tensor,
    target: int | Tensor | None = None,
    *,
    method: str = "gradient-x-input",
    seed: int = 0,
) -> Iterator[Step[Importance]]:
    """How much each of the concepts matters for a class on images `(N, C, H, W)`.

    target: a class, int64 `(N,)` classes, or None for the model's answers. method:
    "gradient-x-input"; "integrated-gradients" from no concept at all (Sundararajan et al.,
    2017); "occlusion", the logit lost without the concept; "sobol", the total index of a mask
    in [0, 1] on the concept (Jansen's estimator on Halton points, Fel et al., 2021); "random",
    the control. Codes at the places of an image are masked together and summed.

    Raises:
        TypeError, ValueError: an unknown method; images, target or a model that break the
            contract.
    """
    if method not in METHODS:
        raise checks.unknown("method", method, METHODS)
    x = checks.images(x, model.input_shape).to(model.device)
    checks.positive("images", len(x))
    if target is None:
        target = model.predict(x).label
    target = torch.full((len(x),), target) if isinstance(target, int) else target
    checks.labels(target, len(model.classes), len(x), name="target")
    target, r = target.to(model.device), len(concepts)
    generator = torch.Generator().manual_seed(seed)
    variants = {"sobol": N_MASKS * (r + 1), "occlusion": r + 1, "integrated-gradients": N_PATH}
    chunk = max(1, ROWS // variants.get(method, 1))
    parts: list[Tensor] = []
    for batch, classes in zip(x.split(chunk), target.split(chunk), strict=True):
        codes = concepts.encode(model, batch)
        score = _score(concepts, model, batch, classes)
        parts.append(METHODS[method](score, codes, generator).detach().cpu())
        done = min(chunk * len(parts), len(x))
        value = Importance(method, torch.cat(parts), target[:done].cpu())
        yield Step(done, len(x), f"{method} {done}/{len(x)}", value)


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """The target's logit while concepts go, and while they come, the most important first.

    deletion, insertion: float32 `(N, r + 1)`, after 0 to r concepts.
    """

    method: str
    deletion: Tensor
    insertion: Tensor

    def summary(self) -> dict[str, Any]:
        """Means of the curves: a good ranking has a low one for deletion, a high one else."""
        means = {k: float(getattr(self, k).mean()) for k in ("deletion", "insertion")}
        return {"method": self.method, **means}

    def frame(self) -> pd.DataFrame:
        """One row a number of concepts: both curves, as means over the images."""
        import pandas as pd

        curves = {"deletion": self.deletion.mean(0), "insertion": self.insertion.mean(0)}
        return pd.DataFrame({k: v.numpy() for k, v in curves.items()}).rename_axis("concepts")


def faithfulness(
    concepts: Concepts, model: Classifier, x: Tensor, importance: Importance
) -> Faithfulness:
    """Delete and insert the concepts of images `x` in the order of their `importance`.

    Raises:
        TypeError, ValueError: images or a model that break the contract, or of which there are
            not as many as in `importance`.
    """
    x = checks.images(x, model.input_shape).to(model.device)
    if importance.scores.shape != (len(x), len(concepts)):
        shape, wanted = tuple(importance.scores.shape), (len(x), len(concepts))
        raise ValueError(f"importance: expected values of shape {wanted}, got {shape}")
    # The rank of each concept is the inverse permutation of the order by importance.
    rank = importance.scores.argsort(1, descending=True).argsort(1).to(x.device)
    counts = torch.arange(len(concepts) + 1, device=x.device)
    removed = counts[:, None, None] > rank  # (r + 1, N, r)
    curves: dict[str, list[Tensor]] = {"deletion": [], "insertion": []}
    chunk = max(1, ROWS // len(removed))
    target = importance.target.to(x.device)
    for i in range(0, len(x), chunk):
        rows = slice(i, i + chunk)
        codes = concepts.encode(model, x[rows])
        score = _score(concepts, model, x[rows], target[rows])
        with torch.no_grad():
            for name, mask in (("deletion", ~removed[:, rows]), ("insertion", removed[:, rows])):
                curves[name].append(score(_masked(codes, mask)).T.cpu())
    return Faithfulness(importance.method, *(torch.cat(part) for part in curves.values()))


def _score(concepts: Concepts, model: Classifier, x: Tensor, target: Tensor) -> Score:
    """The target's logit of V variants of the codes of B images."""

    def score(codes: Tensor) -> Tensor:
        v = len(codes)
        logits = concepts.logits(model, x.repeat(v, 1, 1, 1), codes.flatten(0, 1))
        return logits.gather(1, target.repeat(v)[:, None]).view(v, len(x))

    return score


def _masked(codes: Tensor, masks: Tensor) -> Tensor:
    """Codes `(B, ..., r)` times masks `(V, B, r)` or `(V, 1, r)`: `(V, B, ..., r)`."""
    v, b, r = masks.shape
    return codes * masks.view(v, b, *[1] * (codes.ndim - 2), r)


def _over_places(values: Tensor) -> Tensor:
    return values.flatten(1, -2).sum(1) if values.ndim > 2 else values


def _gradient(score: Score, codes: Tensor, _: torch.Generator) -> Tensor:
    leaf = codes[None].requires_grad_()
    return _over_places(codes * torch.autograd.grad(score(leaf).sum(), leaf)[0][0])


def _integrated(score: Score, codes: Tensor, _: torch.Generator) -> Tensor:
    # The path integral by midpoints: their mean gradient times the whole way.
    shares = (torch.arange(N_PATH, device=codes.device) + 0.5) / N_PATH
    path = (shares.view(-1, *[1] * codes.ndim) * codes).requires_grad_()
    return _over_places(codes * torch.autograd.grad(score(path).sum(), path)[0].mean(0))


def _occlusion(score: Score, codes: Tensor, _: torch.Generator) -> Tensor:
    r = codes.shape[-1]
    masks = torch.cat([torch.ones(1, r), 1 - torch.eye(r)])[:, None].to(codes)
    with torch.no_grad():
        logits = score(_masked(codes, masks))
    return (logits[0] - logits[1:]).T


def _sobol(score: Score, codes: Tensor, generator: torch.Generator) -> Tensor:
    from scipy.stats import qmc

    r = codes.shape[-1]
    points = qmc.Halton(2 * r, seed=generator.initial_seed()).random(N_MASKS)
    a, b = torch.from_numpy(points).to(codes).split(r, 1)
    # Jansen: the total index is half the mean square of what redrawing concept i alone changes,
    # over the variance.
    swapped = [torch.where(torch.arange(r, device=a.device) == i, b, a) for i in range(r)]
    masks = torch.cat([a, *swapped])[:, None]
    with torch.no_grad():
        y = score(_masked(codes, masks)).view(r + 1, N_MASKS, -1)
    variance = 2 * N_MASKS * y[0].var(0).clamp(min=1e-12)
    return ((y[:1] - y[1:]).square().sum(1) / variance).T


def _random(_: Score, codes: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(codes), codes.shape[-1], generator=generator)


METHODS: dict[str, Callable[[Score, Tensor, torch.Generator], Tensor]] = {
    "gradient-x-input": _gradient,
    "integrated-gradients": _integrated,
    "occlusion": _occlusion,
    "sobol": _sobol,
    "random": _random,
}
