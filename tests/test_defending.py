"""Defences beside the attacks that know them: the table, against defences whose fate is known."""

import pytest
import torch
from torch import nn

from workbench import attacks, data, models, robustness
from workbench.models import Classifier, cost
from workbench.robustness.defending import BLACK_BOX, CLEAN, DIRECT, KNOWING, SOFTENED, UNKNOWING


class Rounding(nn.Module):
    """Pixels to whole steps of 1/4, which hides the gradient; softened, they pass as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.soft = False

    def forward(self, x):
        rounded = (4 * x).round() / 4
        return x + (rounded - x).detach() if self.soft else rounded

    def soften(self) -> None:
        self.soft = True


@pytest.fixture(scope="module")
def control():
    return models.load("digits/cnn")


@pytest.fixture(scope="module")
def rounded(control):
    body = nn.Sequential(Rounding(), control.body)
    card = control.card.model_copy(update={"name": "rounded"})
    return Classifier(body, card, control.mean, control.std)


@pytest.fixture(scope="module")
def images():
    return data.load("digits")[:40]


@pytest.fixture(scope="module")
def table(control, rounded, images):
    both = [control, rounded]
    attack = attacks.PGD(eps=0.15, n_steps=40)
    return robustness.compare_defences(both, images, attack=attack, n_queries=100)


def test_a_defence_that_hides_its_gradient_is_seen_through(table, control):
    name = control.card.name
    # The gradient of a rounding is zero: the attack on it stands where it started.
    assert table.accuracy("rounded", DIRECT) > table.accuracy("rounded", SOFTENED) + 0.3
    assert table.accuracy("rounded", KNOWING) <= table.accuracy("rounded", SOFTENED)
    assert "margin has gradients" in table.warnings("rounded")
    assert "margin has gradients" not in table.warnings(name)
    assert (name, SOFTENED) not in table.cells
    assert table.accuracy(name, UNKNOWING) == table.accuracy(name, DIRECT)


def test_knowing_is_the_worst_image_by_image(table, rounded, images):
    parts = [table.cells["rounded", c] for c in (DIRECT, SOFTENED, BLACK_BOX)]
    worst = table.cells["rounded", KNOWING]
    assert torch.equal(worst.right, torch.stack([p.right for p in parts]).all(0))
    for (name, _), cell in table.cells.items():
        assert float((cell.images - images.images).abs().max()) <= 0.15 + 1e-6
        if name == "rounded":
            assert torch.equal(rounded.predict(cell.images).label == images.labels, cell.right)


def test_what_carries_over_goes_on_to_its_end(control, rounded, images):
    # APGD stops at the first image that fools; PGD of as many steps goes on in its place.
    table = robustness.compare_defences(
        [control, rounded], images, eps=0.15, n_queries=0, indicators=()
    )
    attack = attacks.PGD(eps=0.15, n_steps=50, exhaustive=True)
    far = attack(control, images.images, images.labels).last
    cell = table.cells["rounded", UNKNOWING]
    assert torch.equal(cell.images[~cell.right], far[~cell.right])


def test_numbers_and_rows(table):
    frame = table.frame()
    assert len(frame) == len(table.cells)
    assert (frame["low"] <= frame["accuracy"]).all()
    assert (frame["accuracy"] <= frame["high"]).all()
    told = table.summary()["rounded"]
    assert told[CLEAN] == table.accuracy("rounded", CLEAN)
    assert "margin has gradients" in told["warnings"]


def test_a_weaker_knowing_attack_is_a_warning(control, rounded, images):
    # Alone, the attack on the rounding finds nothing, and what was made without it does.
    blind = Classifier(nn.Sequential(nn.Identity(), rounded.body), rounded.card)
    del_soft = {"Rounding": Rounding.soften}
    try:
        del Rounding.soften
        table = robustness.compare_defences(
            {"none": control, "blind": blind}, images, eps=0.15, n_queries=0, indicators=()
        )
    finally:
        Rounding.soften = del_soft["Rounding"]
    assert table.accuracy("blind", UNKNOWING) < table.accuracy("blind", KNOWING)
    assert table.warnings("blind") == [
        "images made without it fool it more often than the attacks that know it"
    ]


def test_softened_is_a_copy_and_the_model_stays(control, rounded, images):
    before = rounded(images.images)
    soft = robustness.softened(rounded)
    assert torch.allclose(soft(images.images), before, atol=1e-5)  # forward it is the same
    assert not rounded.body[0].soft
    assert robustness.softened(control) is None
    assert cost(rounded).parameters == cost(control).parameters


def test_the_table_fills_step_by_step(control, images):
    sizes = [
        len(step.value.cells)
        for step in robustness.compare_defences.steps(
            [control], images[:4], n_queries=10, indicators=()
        )
    ]
    assert sizes == sorted(sizes)
    assert {1, 2, 3} & set(sizes)


@pytest.mark.parametrize(
    ("models_given", "options", "said"),
    [
        ([], {}, "models: expected one or more"),
        ("twice", {}, "each with a name of its own"),
        ("once", {"attack": attacks.DeepFool()}, "attack: expected one with a budget"),
    ],
)
def test_bad_input_is_said(control, images, models_given, options, said):
    given = {"twice": [control, control], "once": [control]}.get(str(models_given), models_given)
    with pytest.raises(ValueError, match=said):
        robustness.compare_defences(given, images, **options)


def test_no_images_is_said(control, images):
    with pytest.raises(ValueError, match="dataset: expected at least one image"):
        robustness.compare_defences([control], images[:0])
