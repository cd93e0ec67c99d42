"""Cells: the space, the networks, their training, and the tables of all of them."""

import tomllib
from pathlib import Path

import pytest
import torch

from workbench import data, models, search
from workbench.search import Table, cells

ROOT = Path(__file__).resolve().parent.parent


def point(*edges):
    return dict(zip(cells.EDGES, edges, strict=True))


def test_the_space_has_the_cells_with_a_path():
    assert cells.SPACE.size == 125
    assert len(cells.SPACE.keys) == 116
    # 125, less those without 0-2 of which 0-1 or 1-2 is none: 5 + 5 - 1
    assert not cells.SPACE.holds(cells.SPACE.key(point("3x3", "none", "none")))
    assert cells.live(["3x3", "skip", "none"]) == {"0-2": "skip"}
    assert cells.live(["3x3", "none", "1x1"]) == {"0-1": "3x3", "1-2": "1x1"}
    alive = {
        tuple(cells.live([*cells.SPACE.point(key).values()]).items()) for key in cells.SPACE.keys
    }
    assert len(alive) == 84, "4 * 4 * 5 with the way by node 1, and 4 without"


def test_a_cell_by_hand():
    x = torch.rand(2, 6, 5, 5)
    assert torch.equal(cells.Cell(["none", "skip", "none"], 6)(x), x)
    assert torch.equal(cells.Cell(["skip", "skip", "skip"], 6)(x), 2 * x)
    mean = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert torch.allclose(cells.Cell(["average", "skip", "skip"], 6)(x), x + mean)
    assert torch.equal(cells.Cell(["average", "skip", "none"], 6)(x), x), "1-2 leads nowhere"


@pytest.mark.parametrize(
    ("option", "side"), [("none", 0), ("skip", 0), ("average", 0), ("1x1", 1), ("3x3", 3)]
)
def test_what_an_operation_costs(option, side):
    """Beside skip on 0-2, on both edges of the other way, in both cells."""
    network = cells.network(point(option, "skip", option), (1, 8, 8), [*"0123456789"])
    weights = {6: 2 * side**2 * 36, 12: 2 * side**2 * 144}  # of the two cells, without a bias
    rest = 9 * 6 + 12 + 6 * 12 + 24 + 12 * 10 + 10  # stem, widening, linear
    normal = (2 * 2 * 6 + 2 * 2 * 12) * bool(side)
    cost = models.cost(network)
    assert cost.parameters == sum(weights.values()) + normal + rest
    shared = 64 * 9 * 6 + 16 * 6 * 12 + 120
    assert cost.macs == 64 * weights[6] + 16 * weights[12] + shared


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32)])
def test_a_network_takes_images_of_any_size(shape):
    before = torch.random.get_rng_state()
    network = cells.network(point("3x3", "1x1", "average"), shape, ["a", "b"], seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert network(torch.rand(3, *shape)).shape == (3, 2)
    assert network.classes == ("a", "b")
    again = cells.network(point("3x3", "1x1", "average"), shape, ["a", "b"], seed=4)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True)
    )


def test_training_goes_in_steps_and_gives_the_same_weights(tmp_path):
    few = data.load("digits", "train", limit=200)
    steps = [*cells.train.steps(point("none", "3x3", "none"), few, 1)]
    assert [step.done for step in steps if "loss" in step.message] == [*range(1, 17)]
    model = steps[-1].value.model
    again = cells.train(point("none", "3x3", "none"), few, 1).model
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    models.save(model, tmp_path / "cell.safetensors")
    kept = models.restore(tmp_path / "cell.safetensors")
    assert torch.equal(kept(few.images), model(few.images)), "a card says how it is built again"
    assert {layer.kind for layer in model.layers().values()} >= {"Conv2d", "BatchNorm2d", "ReLU"}


@pytest.mark.parametrize("name", cells.IMAGES)
def test_a_table_is_shipped_and_small(name):
    table = cells.table(name)
    assert table.seeds == [0, 1, 2]
    assert len(table.rows) == 348
    path = ROOT / "workbench" / "search" / f"{name}.csv"
    assert path.stat().st_size < 30_000
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "*.csv" in project["tool"]["setuptools"]["package-data"]["workbench.search"]
    for key in cells.SPACE.keys:
        rows = [table.rows[key, seed] for seed in table.seeds]
        assert len({(row["macs"], row["parameters"]) for row in rows}) == 1
        assert all(0.1 < row[c] < 1 for row in rows for c in ("validation", "test"))


@pytest.mark.parametrize(
    ("name", "edges", "seed"),
    [
        ("digits", ("3x3", "none", "1x1"), 2),
        ("digits", ("1x1", "average", "3x3"), 1),
        ("shapes16", ("none", "skip", "none"), 0),
    ],
)
def test_a_row_comes_out_again(name, edges, seed):
    """To the digit where the same arithmetic is done; another CPU may round otherwise."""
    row = cells.table(name).rows[cells.SPACE.key(point(*edges)), seed]
    again = cells.evaluate(name, point(*edges), seed)
    assert again == pytest.approx(row, abs=0.03)
    assert (again["macs"], again["parameters"]) == (row["macs"], row["parameters"])


def test_a_changed_table_is_refused(tmp_path):
    text = (ROOT / "workbench" / "search" / "digits.csv").read_text()
    line = text.splitlines()[5]
    changed = tmp_path / "digits.csv"
    changed.write_text(text.replace(line, line.replace("0.", "0.9", 1)))
    with pytest.raises(ValueError, match=r"digits.csv was changed since it was measured"):
        Table.load(changed, cells.SPACE)


def test_a_search_finds_a_good_cell_in_the_table():
    table = cells.table("digits")
    found = search.Surrogate()(cells.SPACE, table.objective(), budget=30)
    mean = sum(table.true(cells.SPACE.point(key)) for key in cells.SPACE.keys) / 116
    assert table.true(found.best.point) > mean + 0.1


def test_what_cannot_be_built_says_why():
    with pytest.raises(ValueError, match=r"no path from node 0 to node 2; change a none"):
        cells.network(point("3x3", "none", "none"), (1, 8, 8), ["a", "b"])
    with pytest.raises(ValueError, match=r"0-2: expected one of .*, got '5x5'"):
        cells.train(point("3x3", "5x5", "none"), "digits")
    with pytest.raises(ValueError, match=r"table"):
        cells.table("mnist")
    with pytest.raises(ValueError, match=r"table"):
        cells.train(point("3x3", "3x3", "none"), "mnist")
