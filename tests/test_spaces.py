"""Points that are no images: what they are in natural units, what may move, what exists."""

import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from torch import nn

from workbench import attacks, figures, levelsets, models, patterns, proofs, prototypes, spaces

FILMS = ("good", "fine", "bad", "dull", "film", "play", "the", "a", "-")


def trained(model, x, y, steps=150, lr=1e-2):
    """A few steps on all points at once."""
    optimiser = torch.optim.Adam(model.parameters(), lr)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()


class Scaled(nn.Module):
    """Natural values to about one, as a user's own network may do it."""

    def __init__(self, values):
        super().__init__()
        self.register_buffer("mean", values.mean(0))
        self.register_buffer("std", values.std(0))

    def forward(self, x):
        return (x - self.mean) / self.std


def breast_cancer():
    """Rows of 30 measures; the area made whole, the radius fixed."""
    data = load_breast_cancer(as_frame=True)
    frame = data.frame.drop(columns="target")
    frame["mean area"] = frame["mean area"].round().astype(int)
    space = spaces.table(frame, fixed=["mean radius"])
    x, y = space.encode(frame), torch.tensor(data.target.to_numpy())
    torch.manual_seed(0)
    values = space.values(x).flatten(1).float()
    net = nn.Sequential(Scaled(values), *mlp(30, 2))
    model = space.classifier(net, ["malignant", "benign"], name="rows")
    trained(net, values, y)
    return space, model, x, y


def mlp(inputs, outputs, width=16):
    return (
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class Hop(nn.Module):
    """Features one hop away, added up, then a network: a fixed linear layer before it."""

    def __init__(self, adjacency, net):
        super().__init__()
        self.register_buffer("operator", spaces.propagation(adjacency))
        self.net = net

    def forward(self, features):
        return self.net(self.operator @ features)


def citations():
    """Two topics of words; a node with neighbours of its own topic, another of none."""
    draw = torch.Generator().manual_seed(0)
    n, words = 60, 12
    y = torch.arange(n) % 2
    likely = torch.where(
        torch.arange(words)[None] % 2 == y[:, None], torch.tensor(0.6), torch.tensor(0.1)
    )
    features = (torch.rand(n, words, generator=draw) < likely).float()
    edges = torch.rand(n, n, generator=draw) < torch.where(y[:, None] == y, 0.12, 0.01)
    edges = (edges | edges.T).fill_diagonal_(False)
    edges[7] = edges[:, 7] = False
    torch.manual_seed(0)
    net = Hop(edges.float(), nn.Sequential(*mlp(words, 2)))
    trained(net, features, y)
    degrees = edges.sum(1)
    node = int(degrees.where(degrees > 0, n).argmin())  # one that is heard over the others
    space = spaces.nodes(edges.float(), features, node, names=[f"word{i}" for i in range(words)])
    model = space.classifier(net, ["even", "odd"], name="node")
    draws = torch.rand(40, *space.shape, generator=draw).round()
    x = space.held(draws, space.point)
    x[0] = space.point[0]
    return space, model, x, model.predict(x).label


def films():
    """Sentences of four tokens, good or bad by one of them."""
    draw = torch.Generator().manual_seed(0)
    embedding = torch.randn(len(FILMS), 6, generator=draw)
    space = spaces.tokens(embedding, FILMS, 4, padding="-", fixed=[3])
    said = [f"{a} {b} {c}" for a in ("the", "a") for b in FILMS[:4] for c in ("film", "play")]
    x = space.encode(said)
    y = torch.tensor([int(any(w in s for w in ("good", "fine"))) for s in said])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), *mlp(24, 2))
    trained(net, space.values(x).float(), y)
    return space, space.classifier(net, ["bad", "good"], name="films"), x, y


MADE = {"row": breast_cancer, "node": citations, "sentence": films}


@pytest.fixture(scope="module", params=MADE)
def brought(request):
    return MADE[request.param]()


@pytest.mark.parametrize("name", ["PGD", "DDN", "Square", "FMN", "CW", "DeepFool", "APGD"])
def test_an_attack_moves_what_may_move_and_counts_again_where_points_exist(brought, name):
    space, model, x, y = brought
    right = model.predict(x).label == y
    x, y = x[right][:24], y[right][:24]
    result = attacks.get(name)(model, x, y)
    still = ~space.free
    assert bool(still.any())
    assert torch.equal(result.x_adv[:, still], x[:, still])
    assert torch.equal(result.existing.x_adv[:, still], x[:, still])
    # A point that exists is its own nearest, and success is what the model says of it.
    assert torch.equal(space.existing(result.existing.x_adv, x), result.existing.x_adv)
    said = model.predict(result.existing.x_adv).label
    assert torch.equal(result.existing.success, said != y)
    assert torch.equal(result.success, model.predict(result.x_adv).label != y)
    row = result.summary()
    assert row["success_existing"] == float(result.existing.success.float().mean())
    assert [*result.frame()["success_existing"]] == result.existing.success.tolist()
    assert bool(result.success.any()), "an attack that finds nothing shows nothing"


def test_what_was_brought_exists(brought):
    space, model, x, _ = brought
    assert torch.equal(space.nearest(x), x)
    assert torch.equal(space.points(space.values(x)), x)
    assert model.space is space


def test_between_tokens_and_between_words_an_attack_may_win_where_no_point_exists():
    space, model, x, y = films()
    result = attacks.DDN()(model, x, y)
    assert float(result.success.float().mean()) == 1
    assert float(result.existing.success.float().mean()) < 1
    lost = int((result.success & ~result.existing.success).nonzero()[0])
    assert space.decode(result.existing.x_adv[lost : lost + 1])[0].split()[3] == "-"


def test_the_views_take_such_a_model(brought):
    space, model, x, y = brought
    plane = levelsets.plane(model, levelsets.span(x[0], x[5], x[11]), 17)
    drawn = figures.plane_map(plane, space=space)
    assert ("One to the right" in drawn.html) == (space.kind != "sentence")
    assert f"where there are no {space.kind}s" in drawn.html
    assert "data-words" in drawn.html
    found = model.predict(x).label
    other = x[found != found[0]][0]
    walk = levelsets.LevelSetTraversal(n_steps=20)(model, x[:1], other[None])
    still = ~space.free
    assert torch.equal(walk.images[:, still], x[:1, still])
    assert walk.summary()["ssim"] is None
    assert walk.summary()["rmse"] < walk.summary()["start_rmse"]
    data = space.dataset(x, y, model.classes)
    record = patterns.record(model, data)
    assert record.layers
    mined = patterns.mine(model, data, 0.9)
    assert mined.summary()
    grid = figures.point_grid(space, x[:2], [model.classes[k] for k in found[:2]])
    assert grid.html.count("data:image/svg+xml") == 2


def test_a_proof_leaves_alone_what_may_not_move(brought):
    space, model, x, _ = brought
    label = int(model.predict(x[:1]).label)
    prop = proofs.local_robustness(model, x[0], label, 0.9)
    still = ~space.free
    assert torch.equal(prop.lower[still], x[0][still])
    assert torch.equal(prop.upper[still], x[0][still])
    near = proofs.local_robustness(model, x[0], label, 1e-4)
    assert proofs.prove(model, near).verdict == "proved"
    answer = proofs.prove(model, prop)
    assert answer.verdict in ("proved", "refuted")
    if answer.verdict == "refuted":
        assert torch.equal(answer.counterexample[still], x[0][still])


def test_nearest_points_are_the_prototypes_of_what_is_no_image(brought):
    space, named, x, y = brought
    data = space.dataset(x, y, named.classes, name="rows")
    options = {"prototypes": 4, "dense": True}
    plan = {"architecture": "prototypes", "options": options, "batch_size": 16, "lr": 1e-2}
    recipe = models.Recipe(dataset="rows", epochs=10 if len(x) > 100 else 60, **plan)
    model = models.fit(recipe, data).model
    assert model.space is space
    assert float((model.predict(x).label == y).float().mean()) > 0.9
    index, far = prototypes.nearest_images(model, x, 2)
    assert index.shape == (4, 2)
    assert bool((far[:, 0] <= far[:, 1]).all())
    drawn = model.prototype_images()
    assert drawn.shape == (4, *space.shape)
    assert figures.point_grid(space, drawn).html.count("data:image/svg+xml") == 4


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_rows_go_and_come_back(data):
    n = data.draw(st.integers(2, 6))
    numbers = st.floats(-1e3, 1e3, allow_nan=False)
    frame = pd.DataFrame(
        {
            "size": data.draw(st.lists(numbers, min_size=n, max_size=n)),
            "rooms": data.draw(st.lists(st.integers(-5, 50), min_size=n, max_size=n)),
            "kind": data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n)),
            "new": data.draw(st.lists(st.booleans(), min_size=n, max_size=n)),
        }
    )
    space = spaces.table(frame)
    x = space.encode(frame)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert torch.equal(space.nearest(x), x)
    back = space.decode(x)
    assert back["kind"].tolist() == frame["kind"].tolist()
    assert back["new"].tolist() == [str(v) for v in frame["new"]]
    assert back["rooms"].round().tolist() == frame["rooms"].tolist()
    span = float(frame["size"].max() - frame["size"].min())
    assert (back["size"] - frame["size"]).abs().max() <= 1e-6 * span + 1e-12
    moved = (
        x + 0.3 * (torch.rand(x.shape, generator=torch.Generator().manual_seed(n)) - 0.5)
    ).clamp(0, 1)
    real = space.nearest(moved)
    assert torch.equal(space.nearest(real), real)
    rooms = space.decode(real)["rooms"]
    assert (rooms - rooms.round()).abs().max() < 1e-4
    kinds = [c for c in space.columns if c.options]
    assert all(torch.equal(real[..., c.part].sum(-1), torch.ones(n, 1, 1)) for c in kinds)


def test_propagation_by_hand_with_a_lonely_node_and_a_self_loop():
    edges = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0]])  # 0-1, a loop at 0, and 2 alone
    expected = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert torch.allclose(spaces.propagation(edges), expected)
    alone = spaces.nodes(edges, torch.eye(3), 2, hops=2)
    assert alone.field_of.tolist() == [2]
    assert alone.shape == (1, 1, 3)
    both = spaces.nodes(edges, torch.eye(3), 0, moves="all")
    assert both.field_of.tolist() == [0, 1]
    assert bool(both.free.all())


def test_a_node_is_classified_as_in_its_graph():
    space, model, _, _ = citations()
    logits = model.predict(space.point).logits[0]
    hop = model.body[1].module
    assert torch.allclose(logits, hop(space.features)[space.node], atol=1e-5)


def test_a_sentence_is_what_its_tokens_say():
    space, _, x, _ = films()
    assert space.decode(x)[0] == "the good film -"
    moved = x.clone()
    word = space.embedding[FILMS.index("bad")]
    moved[0, 0, 1] = 0.9 * space.points(word.expand(space.shape))[0, 1] + 0.1 * x[0, 0, 1]
    assert space.words(moved[0], x[0]) == "the [bad] film -"
    assert space.changes(moved[0], x[0]) == ["good to bad"]


def test_words_are_in_natural_units():
    space = spaces.table(pd.DataFrame({"age": [20, 60], "town": ["Bern", "Ulm"]}))
    x = space.encode(pd.DataFrame({"age": [30], "town": ["Bern"]}))
    y = space.encode(pd.DataFrame({"age": [31], "town": ["Ulm"]}))
    assert space.changes(y[0], x[0]) == ["town Bern to Ulm", "age 30 to 31"]
    assert space.words(x[0], x[0]) == "nothing changed"
    svg = figures.points.drawing(space, y[0], x[0])
    assert "Ulm" in svg
    assert "▸" in svg


FRAME = pd.DataFrame({"age": [20.0, 60.0], "town": ["Bern", "Ulm"]})
BAD = {
    "a category that was never seen": (
        lambda: spaces.table(FRAME).encode(pd.DataFrame({"age": [30], "town": ["Rome"]})),
        "unknown category of town 'Rome'",
    ),
    "a row with a missing value": (
        lambda: spaces.table(FRAME).encode(pd.DataFrame({"age": [math.nan], "town": ["Ulm"]})),
        "frame: age: 1 of 1 rows have no value",
    ),
    "a table with missing values": (
        lambda: spaces.table(pd.DataFrame({"age": [20, None]})),
        "frame: age: 1 of 2 rows have no value",
    ),
    "a value out of bounds": (
        lambda: spaces.table(FRAME).encode(pd.DataFrame({"age": [70], "town": ["Ulm"]})),
        "age: expected 20 to 60, got 70",
    ),
    "bounds that leave out a row": (
        lambda: spaces.table(FRAME, bounds={"age": (30, 60)}),
        "bounds: age: expected to hold 20 to 60",
    ),
    "a missing column": (
        lambda: spaces.table(FRAME).encode(FRAME[["age"]]),
        "unknown column 'town'",
    ),
    "an unknown fixed column": (lambda: spaces.table(FRAME, fixed=["ages"]), "Did you mean 'age'"),
    "no rows": (lambda: spaces.table(FRAME[:0]), "frame: expected rows"),
    "a graph with direction": (
        lambda: spaces.propagation(torch.tensor([[0.0, 1], [0, 0]])),
        "adjacency: expected a symmetric matrix",
    ),
    "a node that is not there": (
        lambda: spaces.nodes(torch.zeros(2, 2), torch.eye(2), 2),
        "node: expected 0 to 1, got 2",
    ),
    "features of another graph": (
        lambda: spaces.nodes(torch.zeros(2, 2), torch.eye(3), 0),
        "features: expected (n, D)",
    ),
    "a token that is not there": (
        lambda: films()[0].encode(["the great film"]),
        "unknown token 'great'",
    ),
    "a long sentence": (lambda: films()[0].encode(["a a a a a"]), "expected 4 tokens, got 5"),
    "a short sentence without padding": (
        lambda: spaces.tokens(torch.eye(2), ["a", "b"], 3).encode(["a"]),
        "padding",
    ),
    "tokens alike": (
        lambda: spaces.tokens(torch.ones(2, 3), ["a", "b"], 2),
        "embedding: expected finite rows, each another",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    act, words = BAD[case]
    with pytest.raises((ValueError, TypeError)) as error:
        act()
    assert words in str(error.value)


def test_a_copy_of_the_model_keeps_its_space():
    space, model, x, _ = films()
    twin = models.private_copy(model, share=False)
    assert twin.space.names == space.names
    assert torch.equal(twin.predict(x).logits, model.predict(x).logits)


def test_pixels_are_not_turned_where_there_are_none(brought):
    _, model, x, y = brought
    for attack in (attacks.Spatial(), attacks.Natural()):
        with pytest.raises(ValueError, match=r"it moves pixels, and a .* has none"):
            attack(model, x[:1], y[:1])


def test_a_card_counts_under_attack_by_what_may_move():
    space, model, x, y = films()
    still = spaces.tokens(space.embedding, FILMS, 4, padding="-", fixed=range(4))
    fixed = models.private_copy(model, share=False)
    fixed.space = still
    measured = models.measure(fixed, still.dataset(x, y, model.classes), eps=0.5)
    assert measured["robust_correct"] == measured["test_correct"]
    measured = models.measure(model, space.dataset(x, y, model.classes), eps=0.5)
    assert measured["robust_correct"] < measured["test_correct"]


def test_a_model_that_lost_its_space_is_refused():
    space, model, x, y = films()
    twin = models.private_copy(model, share=False)
    twin.space = None
    with pytest.raises(ValueError, match=r"films has no space.*model.space = dataset.space"):
        models.measure(twin, space.dataset(x, y, model.classes))


def test_images_have_no_space_and_stay_as_they_are():
    model = models.load("digits/mlp")
    x, y = torch.rand(4, *model.input_shape, generator=torch.Generator().manual_seed(0)), None
    y = model.predict(x).label
    result = attacks.PGD(eps=0.1, n_steps=3)(model, x, y)
    assert model.space is None
    assert result.existing is None
    assert "success_existing" not in result.summary()


def test_the_bench_draws_what_a_point_is(brought):
    from workbench.widgets import AttackPanel, LevelSetPanel

    space, model, x, y = brought
    data = space.dataset(x, y, model.classes, name=space.kind)
    right = int((model.predict(x).label == y).nonzero()[0])
    panel = AttackPanel(data, model, right, attack="PGD(eps=0.5)")
    panel.run()
    html = panel.to_html()
    assert html.count("data:image/svg+xml") >= 3
    assert "the nearest that exists" in html
    panel = LevelSetPanel(data, model, right)
    panel.run()
    assert f"where there are no {space.kind}s" in panel.to_html()


def test_why_names_coordinates(brought):
    from workbench.widgets import ModelPanel, screen

    space, model, x, y = brought
    panel = ModelPanel(space.dataset(x, y, model.classes), model, method="gradient")
    panel.run()
    (said,) = screen.stage(panel.result)["maps"]
    assert said["src"] == ""
    assert "most for" in said["words"]
    assert any(name in said["words"] for name in space.names)
