"""What a prototype classifier compared an image with, and what each comparison counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from workbench import checks
from workbench.models import Classifier, batch_size, ready
from workbench.prototypes.networks import PrototypeClassifier, squared_distances

if TYPE_CHECKING:
    import pandas as pd

BATCH = 512  # images at a time, at most


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a prototype classifier said what it said of N images, by m prototypes.

    distances: squared, in code space, `(N, m)`. contributions: what each prototype adds to
    each logit, `(N, m, K)`; they add up to `logits` `(N, K)`. order: prototypes from near
    to far, int64 `(N, m)`. votes: the class each prototype speaks for, `(m,)`.
    """

    distances: torch.Tensor
    contributions: torch.Tensor
    logits: torch.Tensor
    order: torch.Tensor
    votes: torch.Tensor
    classes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """How many images, and how often the nearest prototype speaks for the prediction."""
        label = self.logits.argmax(1)
        agree = (self.votes[self.order[:, 0]] == label).float()
        share = float(agree.mean()) if len(label) else None
        return {"images": len(label), "nearest_prototype_agrees": share}

    def frame(self) -> pd.DataFrame:
        """One row an image: predicted class, nearest prototype, its distance and vote."""
        import pandas as pd

        nearest = self.order[:, 0]
        distance = self.distances.gather(1, nearest[:, None]).squeeze(1)
        return pd.DataFrame(
            {
                "predicted": [self.classes[k] for k in self.logits.argmax(1).tolist()],
                "nearest": nearest.tolist(),
                "distance": distance.tolist(),
                "vote": [self.classes[k] for k in self.votes[nearest].tolist()],
            }
        )


def explain(model: Classifier, x: torch.Tensor) -> Explanation:
    """Distances to the prototypes and what each adds to the logits of `x` `(N, C, H, W)`.

    Raises:
        TypeError, ValueError: not a prototype classifier; images that break the contract.
    """
    model = with_prototypes(model)
    x = checks.images(x, model.input_shape)
    with torch.no_grad():
        layer = model.body.prototypes
        parts = x.split(batch_size(model.input_shape, BATCH))
        distances = torch.cat([layer(model.encode(part.to(model.device))) for part in parts])
        weights = model.head_weights.detach()
    # The head is linear in the distances: the parts of a logit add up to it exactly.
    contributions = distances[:, :, None] * weights
    return Explanation(
        *(distances, contributions, distances @ weights, distances.argsort(1)),
        *(model.votes, model.classes),
    )


def nearest_images(
    model: Classifier, images: torch.Tensor, k: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` of `images` `(N, C, H, W)` nearest to each of m prototypes in code space.

    Returns their indices and squared distances, both `(m, k)`, from near to far.

    Raises:
        TypeError, ValueError: not a prototype classifier; unfit images, or fewer than `k`.
    """
    model = with_prototypes(model)
    images = checks.images(images, model.input_shape)
    checks.positive("k", k)
    if k > len(images):
        raise ValueError(f"k: expected at most the number of images ({len(images)}), got {k}")
    with torch.no_grad():
        parts = images.split(batch_size(model.input_shape, BATCH))
        codes = torch.cat([model.encode(x.to(model.device)) for x in parts])
        values, indices = squared_distances(model.prototypes, codes).topk(k, largest=False)
    return indices, values


def with_prototypes(model: Classifier) -> PrototypeClassifier:
    """The model, if it has prototypes and is in eval mode.

    Raises:
        TypeError: an ordinary classifier.
        ValueError: a model in train mode.
    """
    if not isinstance(model, PrototypeClassifier):
        name = getattr(getattr(model, "card", None), "name", type(model).__name__)
        raise TypeError(
            f"model: expected a prototype classifier such as 'digits/prototypes', got {name}; "
            "for an ordinary model look at its concepts"
        )
    ready(model)
    return model
