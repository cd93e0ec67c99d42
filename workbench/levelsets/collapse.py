"""Neural collapse: how far the features of each class shrink to a point, and to which points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, heard, measurable, outputs, ready

if TYPE_CHECKING:
    import pandas as pd

BATCH = 256
LAST = "last features"  # with a space, as no module's name has
Batch = tuple[dict[str, Tensor], Tensor, Tensor]  # float64 features by layer, labels, answers


@dataclass(frozen=True, eq=False)
class Collapse:
    """metrics: by layer, those of `collapse_metrics`; means: the class means, float64 `(K, d)`."""

    metrics: dict[str, dict[str, float]]
    means: dict[str, Tensor]

    def summary(self) -> dict[str, Any]:
        """The metrics of the last layer."""
        return list(self.metrics.values())[-1]

    def frame(self) -> pd.DataFrame:
        """One row a layer, in the order in which they run; NaN where only the last has one."""
        import pandas as pd

        return pd.DataFrame(self.metrics).T.rename_axis("layer")


def collapse_metrics(
    features: Tensor, labels: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> dict[str, float]:
    """Neural collapse (Papyan et al., 2020) of features `(N, d)` with labels `(N,)`, in float64.

    Every class weighs the same, however many images it has: the centre is the mean of the K
    class means, and Sigma_W and Sigma_B are means over classes. All of these go to 0:
    nc1, tr(Sigma_W pinv(Sigma_B)) / K; nc2, how far the Gram matrix of the centred class means
    is from that of a simplex, both of Frobenius norm 1; equinorm, the standard deviation of
    their lengths over the mean; equiangular, the mean of |cos + 1/(K - 1)| over pairs. With a
    head, weight `(K, d)` and bias `(K,)`: nc2_head, nc2 of the weight's rows; nc3, how far the
    weight is from the centred means, both of norm 1; nc4, the share of images whose nearest
    class mean is not the head's answer. NaN: nc1 where a class has but one image; nc1 to nc3
    where all class means coincide.

    Raises:
        TypeError, ValueError: labels that do not fit, a class without images, NaN.
    """
    n_classes = int(labels.max()) + 1 if weight is None else len(weight)
    checks.labels(labels, n_classes, len(features))
    h, answers = features.detach().double(), labels
    if weight is not None:
        bias = None if bias is None else bias.detach().double()
        answers = F.linear(h, weight.detach().double(), bias).argmax(1)
    metrics = _collapse(lambda: [({LAST: h}, labels, answers)], n_classes, weight).summary()
    if weight is None:
        del metrics["nc4"]
    return metrics


def neural_collapse(
    model: Classifier, data: ImageDataset, layers: Sequence[str] | None = None
) -> Collapse:
    """Neural collapse of `model` on `data`, layer by layer (see `collapse_metrics`).

    layers: names from `model.layers()`; None for those that are inside no other. The input of
    the linear head comes last, as `"last features"`, where the model has one. Feature maps and
    tokens are flattened, not averaged; images without a label do not count; nc4 compares with
    the model's own answers. The data pass twice; what is held is K x d float64 for each layer,
    and the outputs of a batch.

    Raises:
        TypeError, ValueError: an unknown layer, or none; data that do not fit the model; a class
            without images; a model in train mode, or that says NaN.
    """
    ready(model)
    checks.images(data.images[:1], model.input_shape, name="data")
    data = measurable(data, model, labels=False)
    data = data[data.labels >= 0]
    known, head = model.layers(), model.linear_head()
    if layers is None:
        layers = [n for n in known if "." not in n and model.layer(n) is not head]
    for name in layers:
        if name not in known:
            raise checks.unknown(f"layer of {model.card.name}", name, known)
    if not layers and head is None:
        raise ValueError("layers: the model ends in no linear layer; name a layer to look at")

    def batches() -> Iterator[Batch]:
        for x, y in data.batches(batch_size(model.input_shape, BATCH)):
            logits, layer_outputs = _run(model, x, layers, head)
            features = {name: value.flatten(1).double() for name, value in layer_outputs.items()}
            yield features, y.to(logits.device), logits.argmax(1)

    return _collapse(batches, len(model.classes), head.weight if head else None)


def _run(
    model: Classifier, x: Tensor, layers: Sequence[str], head: nn.Linear | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, what each layer gives, and what the head is given."""
    head_input: dict[str, Tensor] = {}

    def note(_: nn.Module, inputs: tuple[Tensor, ...], __: object) -> None:
        head_input.setdefault(LAST, inputs[0].clone())  # a later layer may write to it

    with outputs(model, layers) as ask, heard([head] if head else [], note), torch.no_grad():
        logits, features = ask(x)
    if not bool(logits.isfinite().all()):
        raise ValueError("model: its logits are not all finite numbers; it or its input is damaged")
    return logits, features | head_input


def _collapse(
    batches: Callable[[], Iterable[Batch]], n_classes: int, weight: Tensor | None
) -> Collapse:
    """Class means in a first pass over the batches; spread and nearest means in a second."""
    sums: dict[str, Any] = {}
    counts: Any = 0
    for features, labels, _ in batches():
        counts = counts + labels.bincount(minlength=n_classes)
        for name, h in features.items():
            zeros = h.new_zeros(n_classes, h.shape[1])
            sums[name] = sums.get(name, 0) + zeros.index_add_(0, labels, h)
    if n_classes < 2 or counts.min() < 1:
        raise ValueError(f"labels: expected some of each of two classes or more, got {counts}")
    layers = {name: _Layer(name, total, counts) for name, total in sums.items()}
    for features, labels, answers in batches():
        for name, h in features.items():
            layers[name].add(h, labels, answers)
    metrics = {name: layer.metrics for name, layer in layers.items()}
    if weight is not None:
        w, m = weight.detach().double(), layers[LAST].centred
        metrics[LAST]["nc2_head"] = _simplex(w)["nc2"]
        metrics[LAST]["nc3"] = float((w / w.norm() - m / m.norm()).norm())
    return Collapse(metrics, {name: layer.means.cpu() for name, layer in layers.items()})


class _Layer:
    """A layer's class means, and its metrics, which the second pass adds up."""

    def __init__(self, name: str, sums: Tensor, counts: Tensor) -> None:
        if not bool(sums.isfinite().all()):
            raise ValueError(f"{name}: expected finite features, it holds NaN or infinity")
        self.counts, self.means = counts, sums / counts[:, None]
        self.centre = self.means.mean(0)  # each class counts once, however many images it has
        self.centred = self.means - self.centre
        # Sigma_B = v^T diag(s^2 / K) v: its pseudoinverse whitens by v^T / s.
        _, s, v = torch.linalg.svd(self.centred, full_matrices=False)
        # What torch.linalg.pinv keeps of Sigma_B, which is never built: it would be d x d.
        kept = s.square() > s[0] ** 2 * sums.shape[1] * torch.finfo(s.dtype).eps
        self.whitening = v[kept].T / s[kept]
        if s[0] <= 1e-14 * self.means.norm():  # the means differ by rounding only
            self.centred = self.centred * math.nan
        self.metrics = {"nc1": 0.0, **_simplex(self.centred), "nc4": 0.0}
        if counts.min() < 2 or self.centred.isnan().any():
            self.metrics["nc1"] = math.nan

    def add(self, h: Tensor, labels: Tensor, answers: Tensor) -> None:
        """Count in the features `(B, d)` of a batch."""
        # tr(Sigma_W pinv(Sigma_B)) as a sum over images of whitened squared distances.
        within = ((h - self.means[labels]) @ self.whitening).square().sum(1)
        self.metrics["nc1"] += float((within / self.counts[labels]).sum()) / len(self.counts)
        # |h - m|^2 = |h|^2 - 2 h.m + |m|^2: the nearest mean has the largest h.m - |m|^2 / 2.
        closeness = (h - self.centre) @ self.centred.T - self.centred.square().sum(1) / 2
        self.metrics["nc4"] += float((closeness.argmax(1) != answers).sum() / self.counts.sum())


def _simplex(rows: Tensor) -> dict[str, float]:
    """How far K rows `(K, d)` are from the corners of a simplex round the origin."""
    k = len(rows)
    gram, simplex = rows @ rows.T, torch.eye(k).to(rows) - 1 / k
    lengths = rows.norm(dim=1)
    cosines = (gram / lengths / lengths[:, None])[~torch.eye(k, dtype=torch.bool)]
    return {
        "nc2": float((gram / gram.norm() - simplex / simplex.norm()).norm()),
        "equinorm": float(lengths.std(correction=0) / lengths.mean()),
        "equiangular": float((cosines + 1 / (k - 1)).abs().mean()),
    }
