import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench import models
from workbench.models import Prediction


def said(confidence, label):
    p = torch.tensor(confidence)
    probabilities = torch.stack([p, 1 - p], 1)
    return Prediction(probabilities.log(), probabilities, torch.tensor(label), p, ("yes", "no"))


def test_a_hand_counted_case():
    prediction = said([0.95, 0.95, 0.55, 0.55], [0, 0, 0, 0])
    found = models.calibration(prediction, torch.tensor([0, 0, 0, 1]))
    assert found.frame()["count"].tolist() == [2, 2]
    assert found.frame()["accuracy"].tolist() == [0.5, 1.0]
    assert found.ece == pytest.approx((0.05 * 2 + 0.05 * 2) / 4)
    assert found.summary()["accuracy"] == 0.75


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=50))
def test_bins_count_every_image_once_and_the_error_is_bounded(cases):
    prediction = said([c for c, _ in cases], [0] * len(cases))
    labels = torch.tensor([int(wrong) for _, wrong in cases])
    found = models.calibration(prediction, labels)
    assert found.count.sum() == len(cases)
    assert 0 <= found.ece <= 1
    gap = abs(found.summary()["accuracy"] - found.summary()["mean_confidence"])
    assert gap <= found.ece + 1e-9
    assert np.isnan(found.accuracy[found.count == 0]).all()


def test_bad_input_is_named():
    prediction = said([0.9], [0])
    with pytest.raises(ValueError, match="expected 1 labels"):
        models.calibration(prediction, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="bins"):
        models.calibration(prediction, torch.tensor([0]), bins=0)
    with pytest.raises(ValueError, match="at least one image"):
        models.calibration(
            said([], torch.zeros(0, dtype=torch.int64).tolist()), torch.zeros(0).long()
        )
