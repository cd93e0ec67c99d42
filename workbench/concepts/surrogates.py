"""A shallow tree that stands in for a model, on the few features the model depends on most.

Karim et al., Interpreting black-box machine learning models for high dimensional datasets
(2022): probing and perturbing find the features, a tree on them is fitted to the model's
answers, and its rules explain one decision.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import checks
from workbench.models import Classifier
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.tree import DecisionTreeClassifier

HELD_OUT = 0.3  # of the images, to measure on
ASKED = 256  # images that features are probed and perturbed on, at most
PERTURBED = 256  # features at most: those that probing puts first


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A decision tree on k features, fitted to what a model says.

    A feature is the mean of a block of `block` x `block` pixels in one channel. features:
    int64 `(k, 3)`, channel, row and column of the blocks. probing, perturbation: float32
    `(k,)`, the two importances of `surrogate.steps`; features are sorted by the second.
    fidelity: share of the held-out images where the tree says what the model says; majority:
    the same for always saying one class. accuracy, model_accuracy: share of them where the
    tree, and the model, is right; None without labels.
    """

    input_shape: tuple[int, int, int]
    block: int
    features: Tensor
    probing: Tensor
    perturbation: Tensor
    tree: DecisionTreeClassifier
    classes: tuple[str, ...]
    fidelity: float
    majority: float
    accuracy: float | None = None
    model_accuracy: float | None = None

    @property
    def names(self) -> list[str]:
        """What the features are called: pixels or blocks by rows and columns."""
        _, height, width = self.input_shape
        names = []
        for channel, row, column in self.features.tolist():
            top, left = row * self.block, column * self.block
            bottom, right = min(top + self.block, height) - 1, min(left + self.block, width) - 1
            name = f"block ({top}-{bottom}, {left}-{right})"
            if self.block == 1:
                name = f"pixel ({top}, {left})"
            names.append(name + f" of channel {channel}" * (self.input_shape[0] > 1))
        return names

    def predict(self, images: Tensor) -> Tensor:
        """The tree's answers, int64 `(N,)`, to images `(N, C, H, W)`."""
        return _answers(self.tree, self._values(images))

    def rules(self, image: Tensor) -> list[str]:
        """Why the tree says what it says of an image `(C, H, W)`: its conditions, its answer."""
        values, tree = self._values(image[None])[0].tolist(), self.tree.tree_
        bounds: dict[int, list[float]] = {}
        node = 0
        while tree.children_left[node] >= 0:
            feature, threshold = int(tree.feature[node]), float(tree.threshold[node])
            low_high = bounds.setdefault(feature, [-torch.inf, torch.inf])
            right = values[feature] > threshold
            low_high[not right] = threshold  # deeper thresholds are the tighter ones
            node = int((tree.children_right if right else tree.children_left)[node])
        lines = []
        for feature, (low, high) in bounds.items():
            above = f" > {low:.4g}" if low > -torch.inf else ""
            below = f" <= {high:.4g}" if high < torch.inf else ""
            lines.append(self.names[feature] + " and".join(filter(None, (above, below))))
        share, best = float(tree.value[node].max()), int(tree.value[node].argmax())
        answer = self.classes[int(self.tree.classes_[best])]
        count = int(tree.n_node_samples[node])
        return [*lines, f"so {answer}, as the model says of {share:.0%} of {count} such images"]

    def summary(self) -> dict[str, Any]:
        """Sizes of the tree, its fidelity beside that of one answer, and the accuracies."""
        sizes = {"features": len(self.features), "leaves": int(self.tree.get_n_leaves())}
        shares = {"fidelity": self.fidelity, "majority": self.majority}
        right = {"accuracy": self.accuracy, "model_accuracy": self.model_accuracy}
        return {**sizes, "depth": int(self.tree.get_depth()), **shares, **right}

    def frame(self) -> pd.DataFrame:
        """One row a feature: its importances to the model, and its share of the tree."""
        import pandas as pd

        columns = {"probing": self.probing.numpy(), "perturbation": self.perturbation.numpy()}
        return pd.DataFrame(
            {"feature": self.names, **columns, "in_tree": self.tree.feature_importances_}
        )

    def _values(self, images: Tensor) -> Tensor:
        pooled = _pooled(checks.images(images, self.input_shape).cpu(), self.block)
        return pooled[:, *self.features.T]


@work
def surrogate(
    model: Classifier,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    k: int = 10,
    depth: int = 4,
    block: int = 1,
    seed: int = 0,
) -> Iterator[Step[Surrogate]]:
    """Explain `model` on images `(N, C, H, W)` by a tree of `depth` on `k` features.

    Probing: mean size of gradient times deviation from the mean image, of the predicted
    class's logit. Perturbation, on the 256 features where probing finds most: how far the
    model's probabilities move (KL divergence, mean) when the feature is shuffled among the
    images. The k largest go into the tree. Held-out images (30%) serve for the shares only.
    labels: int64 `(N,)`, for the accuracies.

    Raises:
        TypeError, ValueError: images, labels or a model that break the contract; fewer than
            10 images; more than the features for k; a model that says one class only, or one
            without gradient where there are more than 256 features.
    """
    from sklearn.tree import DecisionTreeClassifier

    label = model.predict(images).label.cpu()  # checks model and images
    x = checks.images(images).cpu()
    if labels is not None:
        checks.labels(labels, len(model.classes), len(x))
    checks.positive("number of images", len(x), least=10)
    checks.positive("depth", depth)
    pooled = _pooled(x, checks.positive("block", block))
    shape, n_features = pooled.shape[1:], pooled[0].numel()
    if checks.positive("k", k) > min(n_features, PERTURBED):
        raise ValueError(f"k: expected at most {min(n_features, PERTURBED)} features, got {k}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    held, seen = order.tensor_split([round(HELD_OUT * len(x))])
    if len(label[seen].unique()) < 2:
        says = model.classes[int(label[seen[0]])]
        raise ValueError(f"images: the model says {says!r} of all of them; give more kinds")
    asked = x[seen[:ASKED]].to(model.device)
    probing = _probed(model, asked, block)
    candidates = probing.argsort(descending=True)[:PERTURBED]
    places = torch.stack(torch.unravel_index(candidates, shape), 1)
    moved = yield from _perturbed(model, asked, places, block, generator)
    top = moved.argsort(descending=True, stable=True)[:k]
    values = pooled[:, *places[top].T]
    tree = DecisionTreeClassifier(max_depth=depth, random_state=seed)
    tree.fit(values[seen].numpy(), label[seen].numpy())
    answers, predicted = _answers(tree, values[held]), label[held]
    pairs = [(answers, predicted), (label[seen].mode()[0], predicted)]
    if labels is not None:
        pairs += [(answers, labels[held].cpu()), (predicted, labels[held].cpu())]
    shares = [float((a == b).float().mean()) for a, b in pairs]
    features = places[top], probing[candidates[top]], moved[top]
    value = Surrogate(model.input_shape, block, *features, tree, model.classes, *shares)
    yield Step(len(places), len(places), "tree fitted", value)


def _perturbed(
    model: Classifier, x: Tensor, places: Tensor, block: int, generator: torch.Generator
) -> Generator[Step[Surrogate], None, Tensor]:
    """How far the probabilities move when each block `(F, 3)` is shuffled among the images."""
    moved = torch.zeros(len(places))
    with torch.no_grad():
        before = model(x).log_softmax(1)
    for i, (channel, *corner) in enumerate(places.tolist()):
        rows, columns = (slice(start * block, (start + 1) * block) for start in corner)
        shuffled, others = x.clone(), torch.randperm(len(x), generator=generator)
        shuffled[:, channel, rows, columns] = x[others, channel, rows, columns]
        with torch.no_grad():
            after = model(shuffled).log_softmax(1)
        moved[i] = F.kl_div(after, before, reduction="batchmean", log_target=True)
        yield Step(i, len(places), "features shuffled")
    return moved


def _pooled(x: Tensor, block: int) -> Tensor:
    """Means of the blocks, those at the edge of what there is: `(N, C, rows, columns)`."""
    return F.avg_pool2d(x, block, ceil_mode=True)


def _probed(model: Classifier, x: Tensor, block: int) -> Tensor:
    """Mean size of gradient times deviation in each block: `(C * rows * columns,)`."""
    with torch.enable_grad():
        inputs = x.clone().requires_grad_()
        (gradients,) = torch.autograd.grad(model(inputs).amax(1).sum(), inputs)
    probing = _pooled((gradients * (x - x.mean(0))).abs(), block).mean(0).cpu().flatten()
    if len(probing) > PERTURBED and not probing.any():
        raise ValueError(
            f"block: the model has no gradient to choose {PERTURBED} of {len(probing)} features "
            "by; take larger blocks"
        )
    return probing


def _answers(tree: DecisionTreeClassifier, values: Tensor) -> Tensor:
    return torch.from_numpy(tree.predict(values.numpy())).long()
