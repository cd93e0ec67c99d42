"""Families of classifiers: budgets, the Pareto front, agreement; and what they refuse."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import data, models, treatments
from workbench.models import Cost, Latency
from workbench.treatments.families import Family, Member

POINTS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=12)


def of(points):
    """A family whose members have these costs and accuracies, and no models."""
    return Family(
        tuple(
            Member(str(i), f"model {i}", Cost(m, m, 4 * m, m), a / 20, Latency(m, m, m))
            for i, (m, a) in enumerate(points)
        )
    )


@settings(deadline=None)
@given(POINTS, st.integers(1, 60))
def test_within_gives_the_most_accurate_that_fits(points, budget):
    inside = [a for m, a in points if m <= budget]
    if not inside:
        with pytest.raises(ValueError, match="no member is inside; the nearest is"):
            of(points).within(macs=budget)
        return
    chosen = points[int(of(points).within(macs=budget).split()[1])]
    assert chosen[0] <= budget
    assert chosen[1] == max(inside)
    assert chosen[0] == min(m for m, a in points if a == max(inside) and m <= budget)


@settings(deadline=None)
@given(POINTS)
def test_pareto_is_what_no_other_beats(points):
    for (m, a), best in zip(points, of(points).frame()["pareto"], strict=True):
        beaten = any(n <= m and b >= a and (n, b) != (m, a) for n, b in points)
        assert best == (not beaten)


def test_a_family_of_treated_models_is_measured():
    digits, parent = data.load("digits"), models.load("digits/cnn")
    made = {f"{b} bits": treatments.Quantise(bits=b)(parent).model for b in (2, 4, 8)}
    family = treatments.family(made, digits, timed=True)
    table = family.frame(by="bytes").set_index("member")
    assert table["bytes"].is_monotonic_increasing
    assert table["macs"].nunique() == 1  # fewer bits are no fewer multiply-adds
    assert family.at("4 bits") is made["4 bits"]
    assert family.within(bytes=10**9) is made[table["accuracy"].idxmax()]
    assert family.within(latency_ms=10**6) is not None
    with pytest.raises(ValueError, match="unknown member '3 bits'"):
        family.at("3 bits")


@pytest.mark.parametrize(
    ("budgets", "said"),
    [
        ({}, "budgets: expected one or more of parameters"),
        ({"mac": 3}, "unknown budget 'mac'. Did you mean 'macs'"),
        ({"bytes": 3}, r"bytes=3: no member is inside; the nearest is '0' with bytes=4"),
    ],
)
def test_budgets_that_cannot_be_are_said(budgets, said):
    with pytest.raises(ValueError, match=said):
        of([(1, 3), (2, 5)]).within(**budgets)


def test_what_was_not_measured_is_said():
    bare = Family((Member("a", "model", Cost(1, 1, 4, 1)),))
    with pytest.raises(ValueError, match="accuracy: not measured"):
        bare.within(macs=5)
    with pytest.raises(ValueError, match="latency_ms: no member was timed"):
        bare.within(latency_ms=5)
    with pytest.raises(ValueError, match="models: expected one or more"):
        treatments.family({})


def test_agreement_is_by_class():
    digits, parent = data.load("digits"), models.load("digits/cnn")
    child = treatments.Quantise(bits=2)(parent).model
    shares = treatments.agreement(parent, child, digits)
    same = parent.predict(digits.images).label == child.predict(digits.images).label
    assert shares["all"] == pytest.approx(float(same.float().mean()))
    assert shares["3"] == pytest.approx(float(same[digits.labels == 3].float().mean()))
    assert treatments.agreement(parent, parent, digits).eq(1).all()
    with pytest.raises(ValueError, match="other: expected the classes"):
        treatments.agreement(parent, models.load("shapes/resnet"), digits)
