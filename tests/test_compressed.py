"""What makes a network smaller gives a network like any other: kept, proved, attacked, mapped."""

import pytest
import torch

from workbench import attacks, data, levelsets, proofs, treatments
from workbench.models import RECIPES, checkpoints, cost, fit

STAGES = [
    treatments.Quantise(bits=4),
    treatments.Quantise(bits=4, scheme="codebook"),
    treatments.Quantise(bits=3, rounding="learned"),
    treatments.Prune(share=0.6),
    treatments.Prune(share=0.6, criterion="activation"),
    treatments.Prune(share=0.3, of="units"),
    treatments.LowRank(share=0.4),
    treatments.Cut(share=0.4),
    treatments.Narrow(width=0.5),
]


@pytest.fixture(scope="module")
def training():
    return data.load("digits", "train")


@pytest.fixture(scope="module")
def elastic(training):
    """A network in which narrower ones are trained, so that cutting it leaves one that works."""
    plan = RECIPES["digits/mlp"].changed(epochs=8)
    rule = treatments.Elastic(widths=(0.5, 1.0))
    return fit(plan, training, treatments=[rule], device="cpu").model


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.code())
def test_a_smaller_network_is_kept_proved_attacked_and_mapped(stage, elastic, training, tmp_path):
    digits = data.load("digits")
    small = stage(elastic, training).model
    assert cost(small).bytes < cost(elastic).bytes
    checkpoints.save(small, tmp_path / "small.safetensors")
    again = checkpoints.restore(tmp_path / "small.safetensors")
    assert torch.equal(again(digits.images), small(digits.images))
    right = digits[small.predict(digits.images).label == digits.labels]
    assert len(right) > 0.7 * len(digits)
    fooled = attacks.PGD(eps=0.1)(small, right.images[:20], right.labels[:20]).success
    assert int(fooled.sum()) > 0
    x, label = right.images[0], int(right.labels[0])
    assert proofs.prove(small, proofs.local_robustness(small, x, label, 1e-3)).verdict == "proved"
    # Each piece is compared with the network itself.
    pieces = levelsets.regions(small, levelsets.span(x, *x.lerp(right.images[1:3], 0.1)))
    assert len(pieces.frame()) > 1
