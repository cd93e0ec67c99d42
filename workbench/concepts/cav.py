"""TCAV: is a class sensitive to a concept that the user shows by examples? By captum."""

from __future__ import annotations

from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench import checks
from workbench.models import Classifier, ready

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ConceptTest:
    """The scores of a concept, and of random images in its place: float32 `(S,)` each.

    A score is the share of images whose logit grows towards the concept; where only a linear
    head follows the layer, all or none. accuracy: how well
    the concept and random images are told apart, `(S,)`, on images not trained on; near 0.5
    the layer does not know the concept. p_value: two-sided, that both kinds of scores have
    the same mean.
    """

    scores: Tensor
    random: Tensor
    accuracy: Tensor
    p_value: float

    def summary(self) -> dict[str, Any]:
        """Means, and the p-value."""
        means = {"score": self.scores, "random": self.random, "accuracy": self.accuracy}
        return {**{k: float(v.mean()) for k, v in means.items()}, "p_value": self.p_value}

    def frame(self) -> pd.DataFrame:
        """One row a set of random images."""
        import pandas as pd

        columns = {"score": self.scores, "random": self.random, "accuracy": self.accuracy}
        return pd.DataFrame({k: v.numpy() for k, v in columns.items()}).rename_axis("set")


def tcav(
    model: Classifier,
    x: Tensor,
    target: int,
    layer: str,
    concept: Tensor,
    random: Tensor,
    *,
    n_sets: int = 10,
    seed: int = 0,
) -> ConceptTest:
    """Testing with concept activation vectors (Kim et al., 2018) on images `x` of a class.

    concept: images that show the concept, `(M, C, H, W)`; random: any others, from which
    `n_sets` sets of M are drawn, and another set for each, which plays the concept in the
    control. The vector is the normal of a linear SVM on the layer's flattened output;
    Welch's t-test compares the scores. captum keeps activations in files: here in a temporary
    folder that is removed.

    Raises:
        TypeError, ValueError: images, a class or a model that break the contract; an unknown
            layer; fewer than 8 concept images, or than 2 M random ones; fewer than 2 sets.
    """
    from captum.concept import TCAV, Concept
    from scipy.stats import ttest_ind_from_stats

    x, concept, random = (
        checks.images(images, model.input_shape, name=name)
        for name, images in (("x", x), ("concept", concept), ("random", random))
    )
    ready(model)
    checks.labels(torch.tensor([target]), len(model.classes), name="target")
    model.layer(layer)
    m = checks.positive("concept", len(concept), least=8)
    checks.positive("random", len(random), least=2 * m)
    checks.positive("n_sets", n_sets, least=2)
    generator = torch.Generator().manual_seed(seed)
    shown = Concept(0, "shown", [concept.to(model.device)])  # any iterable of batches will do
    sets: list[list[Concept]] = []
    for i in range(1, 2 * n_sets, 2):
        pair = random[torch.randperm(len(random), generator=generator)[: 2 * m]].to(model.device)
        control, negative = (Concept(i + k, "random", [pair[k::2]]) for k in (0, 1))
        sets += [[shown, negative], [control, negative]]
    # captum's loader draws from the global generator.
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        method = TCAV(model, [f"body.{layer}"], classifier=_linear(), save_path=folder)
        results = method.interpret(x.to(model.device), sets, target=target)
        keys = ["-".join(str(c.id) for c in pair) for pair in sets]
        # The share of images whose logit's gradient points to the concept's side of the boundary.
        counts = [results[key][f"body.{layer}"]["sign_count"][0] for key in keys]
        accuracies = [method.cavs[key][f"body.{layer}"].stats["accs"] for key in keys[::2]]
    scores = torch.tensor([float(count) for count in counts]).view(n_sets, 2)
    (mean, control_mean), (std, control_std) = scores.double().mean(0), scores.double().std(0)
    p_value = float(mean == control_mean)  # where neither kind varies
    if std + control_std > 0:  # Welch: the two kinds may vary differently
        test = ttest_ind_from_stats(
            *(mean, std, n_sets, control_mean, control_std, n_sets), equal_var=False
        )
        p_value = float(test.pvalue)
    return ConceptTest(scores[:, 0], scores[:, 1], torch.tensor(accuracies), p_value)


def _linear() -> Any:
    """captum's interface to a linear classifier; its own one draws from global randomness."""
    from captum.concept import Classifier as CaptumClassifier
    from sklearn.svm import SVC

    class Linear(CaptumClassifier):
        def __init__(self) -> None:
            self.model = SVC(kernel="linear")

        def train_and_eval(self, dataloader: Any, **_: Any) -> dict[str, float]:
            parts = zip(*dataloader, strict=True)
            a, y = (torch.cat(part).detach().cpu().double().numpy() for part in parts)
            held = slice(0, None, 4)
            kept = [i for i in range(len(a)) if i % 4]
            self.model.fit(a[kept], y[kept])
            accuracy = float(self.model.score(a[held], y[held]))
            self.model.fit(a, y)
            return {"accs": accuracy}

        def weights(self) -> Tensor:
            normal = torch.tensor(self.model.coef_[0], dtype=torch.float32)
            return torch.stack([-normal, normal])

        def classes(self) -> list[int]:
            return self.model.classes_.astype(int).tolist()

    return Linear()
