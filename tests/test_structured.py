"""Units that go together, and their exact removal: closed forms, planted zeros, what is refused."""

import pytest
import torch
from foreign_nets import resnet20, transformers_net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import attacks, data, models, treatments
from workbench.models import Recipe, architectures, checkpoints, cost, fit
from workbench.treatments import Cut, OnlyTrainOnce, Prune, units

SHAPE = (2, 8, 8)


def wrapped(body, shape=SHAPE, **options):
    return models.wrap(body.eval(), input_shape=shape, **options)


def seeded(build, *args, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*args, **options)


def images(shape=SHAPE, n=16):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def unsettled(body):
    """The body with batch norms that are no identity."""
    draw = torch.Generator().manual_seed(2)
    for part in body.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                tensor.data = torch.rand(tensor.shape, generator=draw) + 0.2
    return body


def silenced(model, share):
    """A copy in which the units that Cut(share) takes out are zero, not out."""
    twin = models.private_copy(model, share=False)
    found = units(twin)
    found.scale(twin, (~treatments.structured.smallest(found, twin, share)).float())
    return twin


class Joined(nn.Module):
    """Concatenation, a grid that is halved and padded, functions in place of layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(2, 4, 1)
        self.norm = nn.BatchNorm2d(10)
        self.each = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.point, self.head = nn.Conv2d(10, 8, 1), nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = self.norm(torch.cat([nn.functional.relu(self.a(x), inplace=True), self.b(x)], 1))
        x = x.relu_()
        x += x.clone()
        x = nn.functional.pad(nn.functional.silu(x * 2)[:, :, ::2, 1::2], (1, 1, 0, 0))
        x = self.point(self.each(x)).permute(0, 2, 3, 1)
        return self.head(nn.functional.gelu(x)[:, :, 1:5].reshape(len(x), -1) / 3)


NETS = {
    "mlp": lambda: architectures.mlp(SHAPE, 5, hidden=(20, 12)),
    "cnn": lambda: architectures.cnn(SHAPE, 5, channels=(8, 12), hidden=16),
    "resnet": lambda: architectures.resnet(SHAPE, 5, depth=14, width=8),
    "vit": lambda: architectures.vit(SHAPE, 5, width=16, heads=2, depth=2),
    "own": Joined,
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_cut_changes_no_answer(name):
    model = wrapped(unsettled(seeded(NETS[name])))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    made, x = Cut(share=0.5)(model), images()
    torch.testing.assert_close(made.model(x), silenced(model, 0.5)(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert made.cost.parameters == cost(made.model).parameters < 0.8 * cost(model).parameters
    assert made.cost.macs < 0.8 * cost(model).macs  # what zeros alone never are
    kept = units(made.model).sets()
    assert {k: len(v) for k, v in kept.items()} == {
        k: -(-len(v) // 2) for k, v in units(model).sets().items()
    }


def test_the_half_of_a_convolutional_network_by_hand():
    made = Cut(share=0.5)(wrapped(seeded(NETS["cnn"])))
    shapes = [tuple(p.shape) for p in made.model.parameters() if p.ndim > 1]
    assert shapes == [(4, 2, 4, 4), (6, 4, 4, 4), (8, 6 * 4), (5, 8)]
    layer = made.model.body.conv2
    assert (layer.in_channels, layer.out_channels, made.model.body.fc1.in_features) == (4, 6, 24)


@pytest.mark.parametrize("name", ["resnet20", "resnet"])
def test_a_user_s_own_residual_network(name):
    if name == "resnet":
        pytest.importorskip("transformers", reason="needs transformers")
        small = {"hidden_sizes": [16, 32, 32], "depths": [1, 1, 2], "embedding_size": 8}
        model = wrapped(unsettled(transformers_net("resnet50", **small)), (3, 64, 64))
        assert [why for why in units(model).frame()["fixed"] if why] == ["is an answer"]
    else:
        model = wrapped(unsettled(resnet20()), (3, 32, 32))
    made, x = Cut(share=0.5)(model), images(model.input_shape)
    torch.testing.assert_close(made.model(x), silenced(model, 0.5)(x), atol=1e-5, rtol=1e-4)
    assert made.cost.macs < 0.6 * cost(model).macs


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=14, max_size=14), st.booleans())
def test_exactly_the_idle_units_go(gone, incoming):
    """Units of zeros, or units that nothing uses; a layer without any other is refused."""
    body = seeded(nn.Sequential, nn.Flatten(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 6))
    body.extend([nn.Tanh(), nn.Linear(6, 3)])
    for layer, taker, mask in ((1, 3, gone[:8]), (3, 5, gone[8:])):
        with torch.no_grad():
            if incoming:
                body[layer].weight[mask], body[layer].bias[mask] = 0, 0
            else:
                body[taker].weight[:, mask] = 0
    model, x = wrapped(body), images()
    if all(gone[:8]) or all(gone[8:]):
        with pytest.raises(ValueError, match=r"[13]: all of its [68] units are zero, or used"):
            Cut()(model)
        return
    made = Cut()(model).model
    widths = [layer.out_features for layer in made.body if isinstance(layer, nn.Linear)]
    assert widths == [8 - sum(gone[:8]), 6 - sum(gone[8:]), 3]
    torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_sum_of_branches_loses_a_unit_where_both_are_zero():
    model = wrapped(unsettled(seeded(architectures.resnet, SHAPE, 5, width=8)))
    stem, block = model.body.bn, model.body.stage1_block1.bn2
    with torch.no_grad():
        for norm, places in ((stem, [1, 2]), (block, [2, 3])):
            norm.weight[places], norm.bias[places] = 0, 0
    found = units(model)
    assert found.idle[found.rows["body.conv.weight"]].nonzero().flatten().tolist() == [2]
    made = Cut()(model).model
    assert made.body.conv.out_channels == made.body.stage1_block1.conv2.out_channels == 7
    torch.testing.assert_close(made(images()), model(images()), atol=1e-5, rtol=1e-5)


def test_a_batch_norm_that_makes_numbers_of_zeros_keeps_its_unit():
    body = seeded(nn.Sequential, nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten())
    model = wrapped(body.append(nn.Linear(4 * 36, 3)))
    with torch.no_grad():
        body[0].weight[:2] = 0
        body[1].running_mean[0] = 0.5
    with pytest.warns(UserWarning, match="0: a unit of zeros stays, since it"):
        made = Cut()(model).model
    assert made.body[0].out_channels == 3  # the first is no zero behind its batch norm
    torch.testing.assert_close(made(images()), model(images()))


def test_a_pruned_model_is_cut_saved_and_attacked(tmp_path):
    net, digits = models.load("digits/cnn"), data.load("digits")
    pruned = Prune(of="units", criterion="taylor", share=0.4)(net, data.load("digits", "train"))
    cut = Cut()(pruned.model)
    units_left = sum(len(v) for v in units(cut.model).sets().values())
    assert units_left <= 32 + 64 + 100 - round(0.4 * 196)
    torch.testing.assert_close(cut.model(digits.images), pruned.model(digits.images))
    checkpoints.save(cut.model, tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(again(digits.images), cut.model(digits.images))
    x, y = digits.images[:8], digits.labels[:8]
    found = attacks.PGD(eps=0.1, n_steps=5)
    assert torch.equal(found(cut.model, x, y).success, found(pruned.model, x, y).success)


class Strange(nn.Module):
    """Units that go where nobody can say what becomes of them."""

    def __init__(self, then):
        super().__init__()
        self.a, self.b, self.then = nn.Linear(128, 8), nn.Linear(8, 3), then

    def forward(self, x):
        return self.b(self.then(self.a(x.flatten(1))))


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (lambda x: x.softmax(1), "goes into 'softmax'"),
        (lambda x: nn.functional.linear(input=x, weight=torch.eye(8)), "goes into 'linear'"),
        (lambda x: x + 1, "goes into 'add'"),
        (lambda x: x.cos() - 1, "goes into 'cos'"),
        (lambda x: x.flip(1) * x.amax(1, keepdim=True), "goes into 'amax'"),
        (lambda x: x * x.sum(1, keepdim=True), "goes into 'sum'"),
        (lambda x: x * x.median(1, keepdim=True)[0], "goes into 'median'"),
        (lambda x: x + x.flip(1), ""),
        (lambda x: x.view(-1, 2, 4).transpose(1, 2).flatten(1), "goes into 'view'"),
        (lambda x: nn.functional.avg_pool1d(x, 3, 1, 1), "goes into 'avg_pool1d'"),
        (lambda x: nn.functional.layer_norm(x, (8,)), "goes into 'layer_norm'"),
    ],
)
def test_what_cannot_be_followed_is_named(then, why):
    model = wrapped(seeded(Strange, then))
    table = units(model).frame().set_index("layer")
    assert table.loc["a", "fixed"] == why
    assert table.loc["b", "fixed"] == "is an answer"
    if why:
        with pytest.raises(ValueError, match=rf"no layer can be cut; a: its output {why}"):
            Cut(share=0.5)(model)
    else:
        assert len(units(model).idle) == 4 + 3  # the first and the last go together


def test_a_unit_that_cannot_go_says_so():
    model = wrapped(seeded(nn.Sequential, nn.Flatten(), nn.Linear(128, 4, bias=False)))
    with torch.no_grad():
        model.body[1].weight[2] = 0
    with pytest.warns(UserWarning, match="1: a unit of zeros stays, since it is an answer"):
        assert Cut()(model).cost.parameters == 512


def test_a_share_that_empties_a_layer_is_refused_by_name():
    model = wrapped(seeded(NETS["cnn"]))
    with pytest.raises(ValueError, match=r"share=0.95 would leave nothing of conv1, which has 8"):
        Cut(share=0.95)(model)
    plan = Recipe(dataset="digits", architecture="mlp", options={"hidden": (4,)}, epochs=1)
    with pytest.raises(ValueError, match=r"share=0.9 would leave nothing of fc1, which has 4"):
        OnlyTrainOnce(share=0.9)(plan, data.load("digits", "train")[:64])


def test_a_part_that_is_not_seen_is_noticed():
    inner = seeded(nn.Sequential, nn.Linear(8, 8), nn.ReLU())
    traced = torch.jit.trace(inner, torch.zeros(2, 8))
    body = nn.Sequential(nn.Flatten(), seeded(nn.Linear, 128, 8), traced, seeded(nn.Linear, 8, 3))
    assert units(wrapped(body)).sets() == {}
    with pytest.raises(ValueError, match="no layer can be cut; 1: its output goes where it is not"):
        Cut(share=0.5)(wrapped(body))


def test_a_layer_that_runs_twice_and_weights_that_are_computed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.mix, self.head = nn.Linear(128, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.mix(self.mix(self.enter(x.flatten(1)).relu()).relu()).relu())

    model, x = wrapped(seeded(Twice)), images()
    made = Cut(share=0.5)(model).model
    assert made.body.mix.weight.shape == (3, 3)
    torch.testing.assert_close(made(x), silenced(model, 0.5)(x), atol=1e-5, rtol=1e-5)
    normed = nn.utils.parametrizations.weight_norm(seeded(nn.Linear, 8, 3))
    body = nn.Sequential(nn.Flatten(), seeded(nn.Linear, 128, 8), nn.ReLU(), normed)
    assert units(wrapped(body)).frame()["fixed"].tolist() == ["goes into 'linear'"]


def test_trained_once_the_units_are_zero_and_go():
    plan = Recipe(
        dataset="digits",
        architecture="resnet",
        options={"width": 4},
        epochs=2,
        lr=1e-2,
        batch_size=64,
    )
    digits = data.load("digits", "train")[:256]
    made = fit(plan, digits, treatments=[OnlyTrainOnce(share=0.5)]).model
    found = units(made)
    assert {k: int(found.idle[v].sum()) for k, v in found.sets().items()} == {
        k: len(v) // 2 for k, v in found.sets().items()
    }
    cut = Cut()(made).model
    torch.testing.assert_close(cut(digits.images), made(digits.images), atol=1e-5, rtol=1e-5)
    pulled = fit(plan, digits, treatments=[OnlyTrainOnce(share=0.5, pull=100.0)]).model
    at_once = fit(plan, digits, treatments=[OnlyTrainOnce(share=0.5, stop=0.2)]).model
    chosen = [units(m).idle for m in (made, pulled, at_once)]  # before any pull
    assert all(torch.equal(each, chosen[0]) for each in chosen)
    late = fit(plan, digits, treatments=[OnlyTrainOnce(share=0.5, start=0.99)]).model
    assert int(units(late).idle.sum()) == int(found.idle.sum())
    assert not torch.equal(late(digits.images), made(digits.images))


def test_a_unit_is_zero_once_it_has_left_its_half_space():
    """The half-spaces by hand: of two units that are pulled, one step takes one across zero."""
    plan = Recipe(dataset="digits", architecture="mlp", options={"hidden": (4,)}, epochs=1)
    digits, seen = data.load("digits", "train")[:512], []

    class Watch(OnlyTrainOnce):
        def after(self, run):
            found, old = run.aside[self], run.aside.get((self, "old"))
            now = {n: p.detach().clone() for n, p in run.model.named_parameters()}
            super().after(run)
            if old is not None:
                rows = {n: now[n] * old[n] for n in ("body.fc1.weight", "body.fc1.bias")}
                inner = rows["body.fc1.weight"].sum(1) + rows["body.fc1.bias"]
                made = found.rows["body.fc1.bias"]
                going, zero = run.state(self)["going"][made], found.size(run.model)[made] == 0
                seen.append((run.progress, going.clone(), inner > 0, zero))

    fit(plan, digits, treatments=[Watch(share=0.5, pull=1000.0, start=0.2, stop=0.9)])
    assert [round(p, 2) for p, *_ in seen] == [0.25, 0.5, 0.75]
    for progress, going, inside, zero in seen:
        assert int(going.sum()) == 2
        assert not bool(zero[~going].any())
        if progress < 0.7:
            assert torch.equal(zero, going & ~inside)
    assert torch.equal(seen[-1][3], seen[-1][1])
