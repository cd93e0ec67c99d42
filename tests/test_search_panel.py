"""SearchPanel: the band, the chart that is clicked, a point trained afresh and opened."""

import pytest
import torch
from panel_kit import pick, settle
from torch import nn
from workbench.widgets import SearchPanel

from workbench import data, models, search
from workbench.models import Treated
from workbench.search import Random, Space, Table, cells
from workbench.steps import Step

SPACE = Space({"width": (2, 4, 8), "depth": (1, 2)})


def formula(point, seed):
    """A row: wider is better, deeper is worse; seeds differ by a hundredth."""
    worth = 0.5 + 0.05 * point["width"] - 0.1 * point["depth"]
    shares = {"validation": worth + 0.01 * seed, "test": worth - 0.02 * seed}
    return {**shares, "numbers": 10.0 * point["width"] * point["depth"]}


def make(point, seed):
    """A linear model of digits, drawn by the seed; nothing is learned."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(seed))
    module[1].weight.data = weight * point["width"]
    model = models.wrap(
        module, input_shape=(1, 8, 8), classes=data.load("digits").classes, name=f"{point}"
    )
    yield Step(0, 2, "a batch", Treated(model))
    yield Step(2, 2, "done", Treated(model))


pytestmark = pytest.mark.usefixtures("home")  # what a panel makes is kept there


@pytest.fixture(scope="module")
def table():
    return search.measure(SPACE, formula, (0, 1, 2))


@pytest.fixture
def ran(table):
    panel = SearchPanel("digits", "digits/mlp", table=table, make=make, budget=4, searcher="Random")
    assert panel.widget is not None
    panel.run()
    return panel


def test_the_best_so_far_is_judged_by_the_mean_of_the_point_seen_best(ran, table):
    view = ran.result
    course, best = view.measured.course(view.search), None
    for trial, worth in zip(view.search.trials, course, strict=True):
        best = trial if best is None or trial.value > best.value else best
        assert worth == pytest.approx(table.true(best.point))
    assert view.summary()["test"] == course[-1]


def test_the_band_is_of_searches_at_random(ran, table):
    low, half, high = ran.result.measured.bands[4]
    found = [Random()(SPACE, table.objective(), budget=4, seed=s) for s in range(300)]
    last = sorted(table.true(one.best.point) for one in found)
    assert [low[-1], half[-1], high[-1]] == pytest.approx([last[30], last[150], last[269]])
    first = sorted(table.true(one.trials[0].point) for one in found)
    assert [low[0], half[0], high[0]] == pytest.approx([first[30], first[150], first[269]])
    assert all(a <= b <= c for a, b, c in zip(low, half, high, strict=True))
    assert "300 at random" in ran.view.value


def test_a_budget_beyond_the_points_there_are_ends_with_them(table):
    panel = SearchPanel(table=table, budget=50)
    assert len(panel.run().search.trials) == 6
    assert [len(line) for line in panel.result.measured.bands[50]] == [6] * 3


def test_a_click_takes_the_nearest_point_and_arrows_go_on_from_it(ran):
    numbers = ran.result.measured.numbers
    assert next(iter(numbers)) == ran.result.measured.best == (2, 0)
    pick(ran, "points", x=0.55, y=0.02)  # half as dear as the dearest
    assert ran.params.chosen == (2, 0)
    assert "width 8, depth 1" in ran.view.value
    pick(ran, "points", "ArrowUp")  # there is no better one
    assert ran.params.chosen == (2, 0)
    pick(ran, "points", "ArrowDown")
    assert ran.params.chosen == (2, 1)
    pick(ran, "points", "ArrowLeft")  # from the dearest to the next dearest
    assert ran.params.chosen == (2, 0)
    pick(ran, "points", "Enter", x=0, y=1)  # keys that are no arrows say no place
    assert ran.params.chosen == (2, 0)
    assert len(ran.result.search.trials) == 4, "no search is lost"


def test_numbers_are_means_and_spreads_over_seeds(ran):
    pick(ran, "points", x=0.55, y=0.02)
    assert ran.result.measured.numbers[2, 0]["test"] == pytest.approx((0.78, 0.02))
    assert "<b>mean of 3 seeds</b>" in ran.view.value
    assert "1 of 6 by test" in ran.view.value


def test_a_point_is_trained_in_a_thread_and_opens_beside_the_model_selected(ran):
    pick(ran, "points", x=0.55, y=0.02)
    pick(ran, "train", "Enter")
    settle(ran)
    bench = ran.bench
    assert bench is not None
    bench.stop()
    assert bench.selection.model == "{'width': 8, 'depth': 1}"
    assert bench.panels["model"].params.compare == "digits/mlp"
    share = models.measure(ran.made["my_table", (2, 0), 0][0], data.load("digits"))
    assert ran.result.made == {0: pytest.approx(share["test_correct"] / share["test_total"])}
    assert "trained afresh, seed 0" in ran.view.value
    pick(ran, "train")  # it is there already: nothing is trained again
    assert ran.bench is not bench
    ran.bench.stop()


def test_another_point_may_be_looked_at_while_one_is_trained(ran):
    pick(ran, "points", x=0.55, y=0.02)

    def watched(point, seed):
        pick(ran, "points", "ArrowDown")
        yield from make(point, seed)

    ran.make = watched
    ran.train()
    settle(ran)
    ran.bench.stop()
    assert ran.params.chosen == (2, 1)
    assert ran.bench.selection.model == "{'width': 8, 'depth': 1}"


def test_cancelling_a_training_opens_nothing_and_keeps_the_search(ran, monkeypatch):
    def cancelled(point, seed):
        for step in make(point, seed):
            yield step
            ran.cancel()

    ran.make = cancelled
    ran.train()
    assert ran.wait(60)
    assert ran.job.state == "cancelled"
    assert ran.bench is None
    assert len(ran.result.search.trials) == 4
    with pytest.raises(RuntimeError, match="press Train it and open it"):
        ran.open()


def test_a_training_that_fails_says_so_beside_the_picture(ran):
    def broken(point, seed):
        yield Step(0, 1)
        raise ValueError("broken on purpose")

    ran.make = broken
    ran.train()
    assert ran.wait(60)
    assert "broken on purpose" in ran.message.value
    assert ran.bench is None
    assert "<svg" in ran.view.value


def test_a_table_without_a_training_offers_none(table):
    panel = SearchPanel(table=table)
    panel.run()
    assert "Train it" not in panel.view.value
    panel.train()
    assert panel.wait(60)
    assert "give make=" in panel.message.value


def test_a_cell_is_drawn_and_opens_as_it_was_measured():
    panel = SearchPanel(chosen=[0, 2, 0], seed=1, searcher=search.Surrogate(start=3))
    assert panel.widget is not None
    panel.run()
    assert 'aria-label="cell: 0-1 none, 0-2 1x1, 1-2 none"' in panel.view.value
    panel.train()
    settle(panel)
    panel.bench.stop()
    row = cells.table("digits").rows[(0, 2, 0), 1]
    assert panel.result.made[1] == pytest.approx(row["test"], abs=0.03)
    names = {}
    assert "search.Surrogate(start=3)" in panel.code()
    exec(panel.code(), names)
    mine = panel.made["digits", (0, 2, 0), 1][0]
    x = data.load("digits").images[:5]
    assert torch.equal(names["model"].predict(x).logits, mine.predict(x).logits)


def test_another_searcher_brings_its_settings_and_another_table_its_points(ran):
    ran.set(chosen=(2, 0))
    ran.form.controls["searcher"].value = "Evolution"
    settle(ran)
    (rest,) = ran.others.children
    labels = {control.description: control for control in rest.children}
    labels["population"].value = 3
    settle(ran)
    assert ran.params.settings == {"population": 3}
    assert "Evolution(population=3)" in ran.code()
    ran.undo()
    settle(ran)
    (rest,) = ran.others.children
    assert [c.value for c in rest.children if c.description == "population"] == [10]
    ran.form.controls["table"].value = "digits"
    settle(ran)
    assert (ran.params.table, ran.params.chosen) == ("digits", ())
    assert "116 points" in ran.view.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "digit"}, "unknown table 'digit'. Did you mean 'digits'"),
        ({"searcher": "Evolutoin"}, "unknown searcher 'Evolutoin'. Did you mean 'Evolution'"),
        ({"settings": {"populaton": 3}}, "did you mean 'population'"),
        ({"chosen": (0, 0, 0)}, "chosen: expected the numbers of a point's options, such as"),
        ({"budget": 0}, "budget.*greater than or equal to 1"),
        ({"table": Table(SPACE, {})}, "table: expected a row for each point and seed"),
    ],
)
def test_what_is_wrong_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        SearchPanel(**options)


def test_a_table_without_the_columns_that_are_needed_is_refused():
    rows = {(key, 0): {"validation": 0.5, "test": 0.5} for key in SPACE.keys}
    with pytest.raises(ValueError, match="'validation', 'test' and a cost"):
        SearchPanel(table=Table(SPACE, rows))
