"""What a dictionary of concepts is worth, and the strategies behind one class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import checks
from workbench.concepts.attribution import Importance
from workbench.concepts.dictionaries import factorise

if TYPE_CHECKING:
    import pandas as pd

NEIGHBOUR = 10  # the k of the deep-kNN score


@dataclass(frozen=True)
class ConceptMetrics:
    """The metrics of Fel et al. (2023) for one method, on activations it was not fitted on.

    relative_error: mean of |a - decoded| / |a|; sparsity: share of codes that are 0;
    stability: mean cosine of concepts fitted on two halves, matched one to one; wasserstein:
    distance of real and decoded activations, mean over dimensions; ood: distance of decoded
    activations from their 10th nearest real one over that of real ones (1: as near).
    """

    method: str
    relative_error: float
    sparsity: float
    stability: float
    wasserstein: float
    ood: float

    def summary(self) -> dict[str, Any]:
        """All of them."""
        return asdict(self)


def concept_metrics(
    activations: Tensor, n_concepts: int = 10, method: str = "nmf", *, seed: int = 0
) -> ConceptMetrics:
    """Fit on one random half of activations `(n, p)`, measure on the other.

    The stability takes a second fit, on the other half; signs do not count for PCA, whose
    directions have none. The score for being out of distribution is that of Sun et al. (2022):
    the distance to the k-th neighbour among activations of length 1.

    Raises:
        ValueError: fewer than 22 activations; what `factorise` refuses.
    """
    checks.positive("activations", len(activations), least=2 * (NEIGHBOUR + 1))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(activations), generator=generator)
    known, new = (activations[half].detach().float().cpu() for half in order.chunk(2))
    known = known[: len(new)]
    dictionary, other = (factorise(half, n_concepts, method, seed=seed) for half in (known, new))
    codes = dictionary.encode(new)
    back = dictionary.decode(codes)
    error = (new - back).norm(dim=1) / new.norm(dim=1).clamp(min=1e-12)
    # The Wasserstein distance of two samples of one size: that of their sorted values.
    distance = (new.sort(0)[0] - back.sort(0)[0]).abs().mean()
    far, real = (_neighbour(a, known) for a in (back, new))
    return ConceptMetrics(
        method,
        float(error.mean()),
        float((codes == 0).float().mean()),
        bank_similarity(dictionary.bank, other.bank, signed=method != "pca"),
        float(distance),
        float(far / real.clamp(min=1e-12)),
    )


def bank_similarity(a: Tensor, b: Tensor, *, signed: bool = True) -> float:
    """Mean cosine of the rows of two banks `(r, p)`, matched one to one so that it is largest."""
    from scipy.optimize import linear_sum_assignment

    cosine = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    cosine = cosine if signed else cosine.abs()
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    return float(cosine[rows, columns].mean())


def _neighbour(a: Tensor, known: Tensor) -> Tensor:
    """Mean distance from `a` to its k-th neighbour in `known`, both of length 1."""
    distances = torch.cdist(F.normalize(a, dim=1), F.normalize(known, dim=1))
    return distances.kthvalue(NEIGHBOUR, dim=1)[0].mean()


@dataclass(frozen=True, eq=False)
class Strategies:
    """The strategic clusters of a class: images that the model classifies by the same concepts.

    points: float32 `(N, 2)`; cluster: int64 `(N,)`; dominant: int64, one a cluster, the
    concept that matters most for its images.
    """

    points: Tensor
    cluster: Tensor
    dominant: Tensor

    def summary(self) -> dict[str, Any]:
        """How many images each cluster has, and its dominant concept."""
        sizes = self.cluster.bincount(minlength=len(self.dominant)).tolist()
        return {"images": sizes, "dominant": self.dominant.tolist()}

    def frame(self) -> pd.DataFrame:
        """One row an image: its point, its cluster and the cluster's dominant concept."""
        import pandas as pd

        x, y = self.points.T.tolist()
        columns = {"x": x, "y": y, "cluster": self.cluster.tolist()}
        return pd.DataFrame({**columns, "dominant": self.dominant[self.cluster].tolist()})


def strategies(
    importance: Importance, n_clusters: int = 3, *, embedding: str = "pca", seed: int = 0
) -> Strategies:
    """The strategic clusters of Fel et al. (2023): K-means of local importances `(N, r)`.

    importance: of images of one class. embedding: "pca" or "tsne", for the picture only.

    Raises:
        ValueError: fewer images than clusters, an unknown embedding.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = importance.scores.double().numpy()
    if checks.positive("n_clusters", n_clusters) > len(values):
        raise ValueError(f"n_clusters: {n_clusters} need as many images, got {len(values)}")
    if embedding not in ("pca", "tsne"):
        raise checks.unknown("embedding", embedding, ("pca", "tsne"))
    if embedding == "tsne":
        perplexity = min(30.0, (len(values) - 1) / 3)
        points = TSNE(perplexity=perplexity, random_state=seed).fit_transform(values)
    else:
        points = PCA(2).fit_transform(values)
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed).fit(values)
    cluster = torch.from_numpy(kmeans.labels_).long()
    dominant = torch.from_numpy(kmeans.cluster_centers_.argmax(1))
    return Strategies(torch.from_numpy(points).float(), cluster, dominant)
