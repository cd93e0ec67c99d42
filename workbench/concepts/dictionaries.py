"""Dictionaries: activations as few directions, and codes that say how much of each.

Concept extraction as dictionary learning (Fel et al., 2023): activations `(n, p)` are about
`codes (n, r) @ bank (r, p)`. The methods differ in what codes and bank may be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import checks
from workbench.concepts.sparse_autoencoder import sparse_factors

ROWS = 8192  # activations coded at once: what a processor's cache holds
SWEEPS = 300  # over the concepts, at most

Encoder = Callable[[Tensor], Tensor]
Fitted = tuple[Tensor, Tensor | float, Encoder, bool]  # bank, offset, encoder, converged


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Activations `(n, p)` as `codes @ bank + offset`.

    bank: float32 `(r, p)`, one direction a concept; codes: float32 `(n, r)`, of the
    activations it was fitted on; left: `(n,)`, the norm of what they leave over; offset: `(p,)`
    or a number, the mean for PCA, else 0; error: Frobenius norm of what is left over, as a share
    of that of the activations; converged: False where the search was stopped; encoder:
    activations `(m, p)` to codes `(m, r)`.
    """

    method: str
    bank: Tensor
    codes: Tensor
    left: Tensor
    offset: Tensor | float
    error: float
    converged: bool
    encoder: Encoder = field(repr=False)

    def encode(self, activations: Tensor) -> Tensor:
        """Codes `(..., r)` of activations `(..., p)`: the best with this bank."""
        flat = self.encoder(activations.detach().flatten(0, -2))
        return flat.unflatten(0, activations.shape[:-1]).to(activations)

    def decode(self, codes: Tensor) -> Tensor:
        """Activations `(..., p)` of codes `(..., r)`; differentiable."""
        return codes @ self.bank.to(codes) + torch.as_tensor(self.offset).to(codes)


def factorise(
    activations: Tensor,
    n_concepts: int = 10,
    method: str = "nmf",
    *,
    seed: int = 0,
    max_iter: int = 1000,
) -> Dictionary:
    """Factorise activations `(n, p)` into `n_concepts` directions and their codes.

    method: "nmf", codes and bank at least 0 (Lee and Seung, 1999; by scikit-learn);
    "semi-nmf", codes at least 0, any bank (Ding, Li and Jordan, 2010); "kmeans", each
    activation has the code 1 for one concept; "pca", orthogonal directions, signed codes;
    "sae", a TopK sparse autoencoder, at most 4 codes above 0 (see `SparseAutoencoder`).

    Warns:
        UserWarning: not converged after `max_iter` passes; the residual is named.

    Raises:
        ValueError: an unknown method; fewer activations than concepts; more concepts than
            dimensions for PCA; negative activations for NMF; NaN or infinity.
    """
    if method not in METHODS:
        raise checks.unknown("method", method, METHODS)
    if activations.ndim != 2 or not bool(activations.isfinite().all()):
        shape = tuple(activations.shape)
        raise ValueError(f"activations: expected finite numbers (n, p), got {shape}, or NaN in it")
    n, p = activations.shape
    if checks.positive("n_concepts", n_concepts) > n:
        raise ValueError(f"n_concepts: {n_concepts} concepts need as many activations, got {n}")
    if method == "pca" and n_concepts > p:
        raise ValueError(f"n_concepts: PCA finds at most {p} in {p} dimensions, got {n_concepts}")
    if method == "nmf" and activations.min() < 0:
        raise ValueError(
            f"activations: NMF needs values of at least 0, the least is {activations.min():.4g}; "
            "take a layer that ends in a ReLU, or method='semi-nmf'"
        )
    a = activations.detach().cpu().double()
    bank, offset, encoder, converged = METHODS[method](a, n_concepts, seed, max_iter)
    codes = encoder(a)
    residual = (a - codes @ bank - offset).norm(dim=1)
    error = float(residual.norm() / a.norm().clamp(min=1e-300))
    if not converged:
        warnings.warn(
            f"{method}: not converged after {max_iter} passes, relative residual {error:.4g}; "
            "raise max_iter, or ask for fewer concepts",
            stacklevel=2,
        )
    offset = offset.float() if isinstance(offset, Tensor) else offset
    bank, codes, residual = bank.float(), codes.float(), residual.float()
    return Dictionary(method, bank, codes, residual, offset, error, converged, encoder)


def nonnegative_codes(activations: Tensor, bank: Tensor) -> Tensor:
    """The codes of at least 0 that leave least over: coordinate descent over the concepts."""
    bank = bank.cpu().double()
    gram = bank @ bank.T
    used = gram.diagonal().nonzero().flatten().tolist()  # a concept may have died
    parts = []
    for a in activations.cpu().double().split(ROWS):
        across = bank @ a.T
        codes = torch.zeros_like(across)
        moving = torch.arange(len(a))  # most settle in a few sweeps; the others go on alone
        for _ in range(SWEEPS):
            before, target = codes[:, moving], across[:, moving]
            after = before.clone()
            for k in used:
                # The least of a square in one code, the others as they are: a Newton step.
                step = (target[k] - gram[k] @ after) / gram[k, k]
                after[k] = (after[k] + step).clamp(min=0)
            codes[:, moving] = after
            moving = moving[((after - before).abs() > 1e-4 * codes.max()).any(0)]
            if not len(moving):
                break
        parts.append(codes.T)
    return torch.cat(parts)


def _nmf(a: Tensor, r: int, seed: int, max_iter: int) -> Fitted:
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    model = NMF(r, random_state=seed, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ours names the residual
        model.fit(a.numpy())
    bank = torch.from_numpy(model.components_)
    return bank, 0.0, partial(nonnegative_codes, bank=bank), model.n_iter_ < max_iter


def _semi_nmf(a: Tensor, r: int, seed: int, max_iter: int) -> Fitted:
    """Starts from K-means; the bank by least squares and the codes by a factor, in turn."""
    bank, _, nearest, _ = _kmeans(a, r, seed, max_iter)
    codes, last, converged = nearest(a) + 0.2, torch.inf, False
    for _ in range(max_iter):
        bank = torch.linalg.pinv(codes) @ a
        across, gram = a @ bank.T, bank @ bank.T
        # Ding et al.: the square root keeps codes at least 0, and lets the error only fall.
        up = across.clamp(min=0) + codes @ (-gram).clamp(min=0)
        down = (-across).clamp(min=0) + codes @ gram.clamp(min=0)
        codes = codes * (up / down.clamp(min=1e-300)).sqrt()
        error = float((a - codes @ bank).norm())
        converged = last - error <= 1e-4 * error
        if converged:
            break
        last = error
    return bank, 0.0, partial(nonnegative_codes, bank=bank), converged


def _kmeans(a: Tensor, r: int, seed: int, max_iter: int) -> Fitted:
    from sklearn.cluster import KMeans

    model = KMeans(r, n_init=4, random_state=seed, max_iter=max_iter).fit(a.numpy())
    bank = torch.from_numpy(model.cluster_centers_)

    def nearest(x: Tensor) -> Tensor:
        return F.one_hot(torch.cdist(x.cpu().double(), bank).argmin(1), r).double()

    return bank, 0.0, nearest, model.n_iter_ < max_iter


def _pca(a: Tensor, r: int, seed: int, max_iter: int) -> Fitted:
    from sklearn.decomposition import PCA

    model = PCA(r, svd_solver="full").fit(a.numpy())
    bank, mean = torch.from_numpy(model.components_), torch.from_numpy(model.mean_)
    return bank, mean, lambda x: (x.cpu().double() - mean) @ bank.T, True


METHODS: dict[str, Callable[[Tensor, int, int, int], Fitted]] = {
    "nmf": _nmf,
    "semi-nmf": _semi_nmf,
    "kmeans": _kmeans,
    "pca": _pca,
    "sae": sparse_factors,
}
