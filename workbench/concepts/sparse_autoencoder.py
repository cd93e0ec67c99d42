"""Sparse autoencoders: a layer's activations as sums of a few directions out of many.

TopK: Gao et al., Scaling and evaluating sparse autoencoders (2024). The choice of directions
by their effect on the loss: Olmo et al., Features that make a difference (2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import checks
from workbench.concepts.layers import BATCH, edited_logits, grid_of
from workbench.models import Classifier, batch_size, ready
from workbench.steps import Step, run, work

if TYPE_CHECKING:
    import pandas as pd

RATE = 3e-3  # of learning
WOKEN = 32  # dead latents that learn at a time (AuxK of Gao et al.)


class SparseAutoencoder(nn.Module):
    """Activations `(..., p)` as `codes @ bank + offset`, at most `k` of the codes above 0.

    The k latents of highest score are kept: the score is the code z, or with `beta` above 0
    `z (1 + beta |v . g|)`, where v is the latent's direction and g the gradient of the model's
    loss at the activation, divided by its mean length. The codes kept are z either way.
    """

    mean_gradient: Tensor

    def __init__(
        self, width: int, latents: int, k: int, beta: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.k, self.beta = k, beta
        directions = F.normalize(torch.randn(latents, width, generator=generator), dim=1)
        self.encoder, self.decoder = nn.Parameter(directions.clone()), nn.Parameter(directions)
        self.bias = nn.Parameter(torch.zeros(latents))
        self.offset = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean_gradient", torch.ones(()))

    @property
    def bank(self) -> Tensor:
        """The latents' directions, of length 1, `(latents, p)`."""
        return F.normalize(self.decoder, dim=1)

    def encode(self, activations: Tensor, gradients: Tensor | None = None) -> Tensor:
        """Codes `(..., latents)` of activations `(..., p)`.

        gradients: `(..., p)`, of the loss at the activations; without them the largest codes
        are kept, whatever `beta` is.
        """
        return self.sparse(self.dense(activations), gradients)

    def decode(self, codes: Tensor) -> Tensor:
        """Activations `(..., p)` of codes `(..., latents)`; differentiable."""
        return codes @ self.bank + self.offset

    def dense(self, activations: Tensor) -> Tensor:
        """The codes before any is left out."""
        return F.linear(activations - self.offset, self.encoder, self.bias).relu()

    def sparse(self, codes: Tensor, gradients: Tensor | None = None) -> Tensor:
        """The codes, with 0 for all but those of the k highest scores."""
        scores = codes
        if gradients is not None:
            effect = (gradients / self.mean_gradient @ self.bank.T).abs()
            scores = codes * (1 + self.beta * effect)
        return _kept(codes, scores, self.k)


@dataclass(frozen=True, eq=False)
class SparseFit:
    """An autoencoder of `layer`, on its way or done, with one row of `history` an epoch."""

    autoencoder: SparseAutoencoder
    layer: str
    history: list[dict[str, float]]

    def summary(self) -> dict[str, Any]:
        """The layer, the sizes, and the last epoch."""
        sae = self.autoencoder
        sizes = {"latents": len(sae.bank), "k": sae.k, "beta": sae.beta}
        return {"layer": self.layer, **sizes, **(self.history[-1] if self.history else {})}

    def frame(self) -> pd.DataFrame:
        """One row an epoch: share of the variance left over (fvu), share of dead latents."""
        import pandas as pd

        return pd.DataFrame(self.history)


@dataclass(frozen=True, eq=False)
class Splice:
    """What a model says when a layer's output is replaced by its reconstruction.

    label, spliced: int64 `(N,)`, the model's answers without and with it. kl: `(N,)`, from its
    probabilities without to those with, in nats. fires: `(latents,)`, in what share of the
    activations each latent is on. fvu: the share of their variance that is left over.
    """

    layer: str
    label: Tensor
    spliced: Tensor
    kl: Tensor
    fires: Tensor
    fvu: float

    def summary(self) -> dict[str, Any]:
        """Mean KL, agreement of the answers, fvu, share of latents that never fire."""
        shares = {"kl": self.kl, "agreement": self.label == self.spliced, "dead": self.fires == 0}
        means = {name: float(value.float().mean()) for name, value in shares.items()}
        return {"layer": self.layer, "images": len(self.kl), "fvu": self.fvu, **means}

    def frame(self) -> pd.DataFrame:
        """One row an image: both answers and the KL divergence."""
        import pandas as pd

        columns = {"predicted": self.label, "spliced": self.spliced, "kl": self.kl}
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})


@work
def fit_sae(
    model: Classifier,
    images: Tensor,
    layer: str,
    *,
    latents: int = 256,
    k: int = 4,
    beta: float = 0.0,
    epochs: int = 60,
    seed: int = 0,
) -> Iterator[Step[SparseFit]]:
    """Fit a sparse autoencoder to what `layer` gives for images `(N, C, H, W)`.

    layer: a name from `model.layers()`; every place of a feature map and every token is an
    activation of its own; of a layer that runs twice the first run counts. beta: 0 for TopK;
    above 0 for the g-SAE, with the gradients of the cross-entropy of the model's own answers.

    Raises:
        TypeError, ValueError: images or a model that break the contract; an unknown layer;
            fewer latents than k, or activations than latents; activations that do not vary
            or are not finite; gradients that are 0 everywhere.
    """
    x = checks.images(images, model.input_shape).to(model.device)
    checks.positive("number of images", len(x))
    grid_of(model, layer)  # knows what is wrong with a model and a layer
    rows, slopes = [], []
    for batch in x.split(batch_size(model.input_shape, BATCH)):
        _, a, slope = _seen(model, batch, layer)
        rows.append(a.flatten(0, -2))
        slopes.append(slope.flatten(0, -2))
        yield Step(0, 1, "activations")
    gradients = torch.cat(slopes) if beta else None
    yield from _fitted(torch.cat(rows), gradients, layer, latents, k, beta, epochs, seed)


def splice(model: Classifier, images: Tensor, fit: SparseFit) -> Splice:
    """Run the model on images `(N, C, H, W)` with the layer's output as `fit` gives it back.

    A g-SAE is given the gradients of the model's own answers on these images.

    Raises:
        TypeError, ValueError: images or a model that break the contract; no images; a layer
            of another width than the one that was fitted.
    """
    x = checks.images(images, model.input_shape).to(model.device)
    ready(model)
    checks.positive("number of images", len(x))
    parts = [_spliced(model, batch, fit) for batch in x.split(batch_size(model.input_shape, BATCH))]
    logits, other, a, back, fired = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    kl = F.kl_div(other.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True)
    fvu = float((a - back).square().sum() / (a - a.mean(0)).square().sum())
    fires = fired.sum(0) / len(a)
    return Splice(fit.layer, logits.argmax(1), other.argmax(1), kl.sum(1), fires, fvu)


def sparse_factors(
    a: Tensor, r: int, seed: int, max_iter: int
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor], bool]:
    """A TopK autoencoder of activations `(n, p)` for `factorise`: at most 4 of r codes above 0."""
    fit = run(_fitted(a.float(), None, "", r, min(4, r), 0.0, min(60, max_iter), seed))
    sae = fit.autoencoder

    def encode(x: Tensor) -> Tensor:
        return sae.encode(x.to(sae.offset)).double()

    return sae.bank.double(), sae.offset.double(), encode, True


def _seen(model: Classifier, x: Tensor, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits; what the layer gives, channels last; the gradient there of the answers' loss."""
    cuts: list[Tensor] = []

    def cut(output: Tensor) -> Tensor:
        cuts.append(output.detach().requires_grad_())
        return cuts[0].clone()  # a later layer may work in place

    with torch.enable_grad():
        logits = edited_logits(model, x, layer, cut)
        loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        (gradients,) = torch.autograd.grad(loss, cuts, materialize_grads=True)
    return logits.detach(), cuts[0].detach(), gradients


def _spliced(model: Classifier, x: Tensor, fit: SparseFit) -> tuple[Tensor, ...]:
    """Logits without and with the splice; activations, reconstruction; how often what fires."""
    sae = fit.autoencoder
    logits, a, gradients = _seen(model, x, fit.layer)
    if a.shape[-1] != len(sae.offset):
        raise ValueError(f"fit: is of width {len(sae.offset)}, {fit.layer!r} gives {a.shape[-1]}")
    with torch.no_grad():
        codes = sae.encode(a, gradients)
        back = sae.decode(codes)
        other = edited_logits(model, x, fit.layer, lambda _: back)
    fired = (codes > 0).flatten(0, -2).sum(0, keepdim=True)
    return logits, other, a.flatten(0, -2), back.flatten(0, -2), fired


def _fitted(
    rows: Tensor,
    gradients: Tensor | None,
    layer: str,
    latents: int,
    k: int,
    beta: float,
    epochs: int,
    seed: int,
) -> Iterator[Step[SparseFit]]:
    """Fit activations `(n, p)`, choosing by gradients `(n, p)`: one Step an update."""
    checks.positive("epochs", epochs)
    generator = torch.Generator().manual_seed(seed)
    sae, size = _started(rows, gradients, latents, k, beta, generator)
    # Adam's steps are as long as its rate: these have the unit of the activations.
    groups: list[dict[str, Any]] = [
        {"params": [sae.encoder, sae.decoder]},
        {"params": [sae.bias, sae.offset], "lr": RATE * size},
    ]
    optimiser = torch.optim.Adam(groups, RATE)
    variance = (rows - rows.mean(0)).square().sum(1).mean()
    batch = max(128, math.ceil(len(rows) / 64))
    total = epochs * math.ceil(len(rows) / batch)
    done, history = 0, list[dict[str, float]]()
    asleep = torch.zeros(latents, dtype=torch.bool, device=rows.device)
    for epoch in range(1, epochs + 1):
        errors, fired = 0.0, torch.zeros_like(asleep)
        for chosen in torch.randperm(len(rows), generator=generator).split(batch):
            with torch.enable_grad():
                dense = sae.dense(rows[chosen])
                codes = sae.sparse(dense, None if gradients is None else gradients[chosen])
                residual = rows[chosen] - sae.decode(codes)
                loss = error = residual.square().sum(1).mean() / variance
                if asleep.any():  # AuxK: dead latents learn what the others leave over
                    woken = _kept(dense * asleep, dense * asleep, min(WOKEN, latents))
                    rest = (residual.detach() - woken @ sae.bank).square().sum(1).mean()
                    loss = loss + rest / (32 * variance * error.detach().clamp(min=1e-9))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            errors += float(error.detach()) * len(chosen)
            fired, done = fired | (codes > 0).any(0), done + 1
            yield Step(done, total, f"epoch {epoch}/{epochs}", SparseFit(sae, layer, history))
        asleep = ~fired
        means = {"fvu": errors / len(rows), "dead": float(asleep.float().mean())}
        history = [*history, {"epoch": epoch, **means}]
    sae.requires_grad_(False)
    yield Step(total, total, "fitted", SparseFit(sae, layer, history))


def _started(
    rows: Tensor,
    gradients: Tensor | None,
    latents: int,
    k: int,
    beta: float,
    generator: torch.Generator,
) -> tuple[SparseAutoencoder, float]:
    """The autoencoder before training, and the mean length of a centred activation."""
    if not 1 <= k <= latents <= len(rows):
        raise ValueError(
            "k, latents: expected k of 1 or more, no fewer latents, and no more of them than "
            f"activations; got k={k}, latents={latents} and {len(rows)} activations"
        )
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta: expected a number of at least 0, got {beta}")
    mean = rows.mean(0)
    size = float((rows - mean).norm(dim=1).mean())
    if not 1e-6 * float(mean.norm()) < size < math.inf:
        raise ValueError("activations: expected finite numbers that vary; take another layer")
    sae = SparseAutoencoder(rows.shape[1], latents, k, beta, generator).to(rows.device)
    sae.offset.data = mean
    if gradients is not None:
        sae.mean_gradient = gradients.norm(dim=1).mean()
        if not sae.mean_gradient > 0:
            raise ValueError("beta: the gradients are 0 everywhere and choose nothing; use beta=0")
    return sae, size


def _kept(codes: Tensor, scores: Tensor, k: int) -> Tensor:
    """The codes of the k highest scores of each row, and 0 for the others."""
    places = scores.topk(k).indices
    return torch.zeros_like(codes).scatter(-1, places, codes.gather(-1, places))
