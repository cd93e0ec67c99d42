"""Calibration: is a model right as often as it says?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench import checks
from workbench.models.classifier import Prediction

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence against accuracy, by bins of equal width (Guo et al., 2017).

    confidence, accuracy: means `(B,)` over the images of each bin, NaN in empty bins;
    count: images a bin; ece: the expected calibration error in [0, 1], the mean gap
    between the two weighted by count.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    ece: float

    def summary(self) -> dict[str, float]:
        """The expected calibration error, accuracy and mean confidence of all images."""
        share = self.count / self.count.sum()
        filled = self.count > 0
        return {
            "ece": self.ece,
            "accuracy": float((share * self.accuracy)[filled].sum()),
            "mean_confidence": float((share * self.confidence)[filled].sum()),
        }

    def frame(self) -> pd.DataFrame:
        """One row a bin that holds images."""
        import pandas as pd

        columns = {"confidence": self.confidence, "accuracy": self.accuracy, "count": self.count}
        frame = pd.DataFrame(columns)
        return frame[frame["count"] > 0].reset_index(drop=True)


def calibration(prediction: Prediction, labels: torch.Tensor, *, bins: int = 10) -> Calibration:
    """Compare how sure `prediction` is with how often it is right.

    labels: as the model numbers its classes (see `models.matched`); images without one, -1,
    are left out.

    Raises:
        TypeError, ValueError: labels that do not fit the prediction, or no image with a label.
    """
    checks.labels(labels, len(prediction.classes), len(prediction.label), unknown=True)
    checks.positive("bins", bins)
    known = (labels >= 0).cpu()
    if not bool(known.any()):
        raise ValueError("labels: expected at least one image with a label, got none")
    sure = prediction.confidence.double().cpu()[known].numpy()
    right = (prediction.label.cpu() == labels.cpu())[known].numpy().astype(float)
    chosen = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(chosen, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(chosen, sure, bins) / count
        accuracy = np.bincount(chosen, right, bins) / count
    gaps = np.abs(confidence - accuracy)[count > 0]
    ece = float((gaps * count[count > 0]).sum() / len(sure))
    return Calibration(confidence, accuracy, count, ece)
