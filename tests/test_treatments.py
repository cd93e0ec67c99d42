"""Treatments: the contract, over all of them; then what each does, by closed forms."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import attacks, data, models, treatments
from workbench.models import Recipe, checkpoints, cost, fit
from workbench.models.costs import packed
from workbench.models.learning import Hooks
from workbench.treatments import (
    AdversarialTraining,
    Camera,
    Change,
    Curated,
    Cut,
    Distil,
    Elastic,
    Exits,
    GradientNoise,
    LowRank,
    Prune,
    QuantisationAware,
    Quantise,
    RobustExperts,
    SelfEnsemble,
    Training,
    available,
    get,
)
from workbench.treatments.base import weighted

PLAN = Recipe(
    dataset="digits", architecture="cnn", options={"channels": (4, 8), "hidden": 16}, epochs=2
)
# Settings that do more than the default: each is treated as a case of its own.
CASES = [
    *(kind() for kind in available().values() if kind is not Camera),  # see test_purifiers
    Prune(share=0.3, criterion="taylor"),
    Prune(share=0.3, of="units", criterion="lrp", images=3),
    Prune(criterion="random"),
    Prune(criterion="activation", scope="row", images=3),
    Prune(criterion="second-order", scope="layer", images=3, update=True),
    Cut(share=0.5),
    Quantise(bits=2, per_channel=False),
    Quantise(bits=3, scheme="codebook"),
    Quantise(bits=3, scheme="powers", clipped=True, rounding="learned", activations=4),
    QuantisationAware(bits=2, clipped=True),
    Elastic(widths=(0.5, 1.0), rule="taught"),
    AdversarialTraining(n_steps=1),
    AdversarialTraining(n_steps=1, stale=2),
    RobustExperts(turns=False),
    Distil(hard=0.5, temperature=1.0),
    Distil(hard=0.5, unlabelled=0.5, others=("digits/mlp",)),
    Distil(beside="digits"),
    SelfEnsemble(copies=1, heads=2, by="mean", noise=0.0, epochs=1),
    Exits(exits=1, threshold=0.5, epochs=1),
    Curated(curation="Backdoor(share=0.1)"),
]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:256]


@pytest.fixture(scope="module")
def trained(digits):
    return fit(PLAN.changed(epochs=6, lr=1e-2), digits).model


@pytest.fixture(params=CASES, ids=lambda case: case.code())
def case(request, trained):
    treatment = request.param
    return treatment, PLAN if isinstance(treatment, Training) else trained


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_and_nothing_else_is_touched(case, digits):
    treatment, subject = case
    before = state(subject) if isinstance(subject, nn.Module) else subject.model_dump()
    images, draws = digits.images.clone(), torch.get_rng_state()
    first, second = (treatment(subject, digits) for _ in range(2))
    assert same(state(first.model), state(second.model))
    now = state(subject) if isinstance(subject, nn.Module) else subject.model_dump()
    assert same(before, now) if isinstance(subject, nn.Module) else before == now
    assert torch.equal(images, digits.images)
    assert torch.equal(draws, torch.get_rng_state())
    assert first.cost == cost(first.model)
    assert first.model.card.name.endswith(f" | {treatment.code()}")
    assert first.model.card.test_correct is None


def test_what_it_made_is_kept_and_restored_to_the_bit(case, digits, tmp_path):
    treatment, subject = case
    model = treatment(subject, digits).model
    checkpoints.save(model, tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert again.card.model_dump_json() == model.card.model_dump_json()
    assert torch.equal(again(digits.images), model(digits.images))


def test_cancelled_it_leaves_all_as_it_was(case, digits):
    treatment, subject = case
    before = state(subject) if isinstance(subject, nn.Module) else None
    steps = treatment.steps(subject, digits)
    next(steps)
    steps.close()
    assert before is None or same(before, state(subject))
    assert not any(part._forward_hooks for part in subject.modules()) if before else True


def test_its_code_makes_it_again(case):
    treatment, _ = case
    assert get(treatment.code()) == treatment


def test_every_step_counts_up_to_its_total(case, digits):
    treatment, subject = case
    steps = [(step.done, step.total) for step in treatment.steps(subject, digits)]
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    assert len({total for _, total in steps}) == 1


def test_the_bench_looks_at_what_it_made(case, digits):
    treatment, subject = case
    model = treatment(subject, digits).model
    assert list(model.layers())
    attack = attacks.PGD(eps=0.2, n_steps=3)
    if attack.unfit(model):  # signs have no gradient
        attack = attacks.Square(eps=0.2, n_queries=3)
    result = attack(model, digits.images[:4], digits.labels[:4])
    assert result.x_adv.shape == (4, 1, 8, 8)


def test_papers_are_titles_of_the_atlas():
    from workbench import atlas

    titles = {paper.title for paper in atlas.papers()}
    assert {kind.paper for kind in available().values() if kind.paper} <= titles


@pytest.mark.parametrize("kind", [k for k in available().values() if issubclass(k, Change)])
def test_a_change_refuses_what_has_no_weights(kind):
    model = models.wrap(nn.Flatten(), input_shape=(1, 2, 2), classes=4)
    with pytest.raises(ValueError, match=f"{kind.__name__}: the model has no linear or conv"):
        kind()(model)


@pytest.mark.parametrize(
    ("treatment", "said"),
    [
        (lambda: Prune(share=1), "Prune: share: input should be less than 1, got 1"),
        (lambda: Quantise(bits=1), "Quantise: bits: .*got 1"),
        (lambda: get("Quantize"), "unknown treatment 'Quantize'. Did you mean 'Quantise'?"),
        (lambda: get("Prune(0.5)"), r"expected a name, or a call such as .*got 'Prune\(0.5\)'"),
        (lambda: get("Prune(shere=0.5)"), "shere: no such parameter .* did you mean 'share'"),
    ],
)
def test_bad_values_are_said(treatment, said):
    with pytest.raises(ValueError, match=said):
        treatment()


def test_a_treatment_of_the_other_kind_is_refused(trained, digits):
    with pytest.raises(TypeError, match="Quantise: expected a model, got Recipe"):
        Quantise()(PLAN)
    with pytest.raises(TypeError, match="GradientNoise: expected a recipe, got Classifier"):
        GradientNoise()(trained, digits)
    with pytest.raises(ValueError, match="Prune: data: it needs training images"):
        Prune(of="units")(trained)
    with pytest.raises(ValueError, match=r"teacher mnist/cnn takes \(1, 28, 28\) images"):
        Distil(teacher="mnist/cnn")(PLAN, digits)


def test_two_for_one_slot_are_refused_by_name(digits):
    both = [Distil(), Distil(temperature=2.0)]
    with pytest.raises(ValueError, match="Distil: Distil has the slot 'loss' of the training"):
        fit(PLAN, digits, treatments=both)


def test_a_change_that_breaks_the_model_is_refused(trained):
    def poison(body):
        body[0].weight.data[0, 0] = torch.nan

    def behead(body):
        body[-1] = nn.Linear(16, 7)

    with pytest.raises(ValueError, match=r"poison|Wrapped: it broke the model: .*NaN"):
        treatments.wrap(poison)(trained)
    with pytest.raises(ValueError, match=r"expected 10 finite logits an image, got \(2, 7\)"):
        treatments.wrap(behead)(trained)


def test_a_training_that_breaks_the_model_is_refused(digits):
    class Ruin(Hooks):
        def penalty(self, run, x, y, logits):
            return logits.sum() * torch.inf

    with pytest.raises(ValueError, match=r"the loss is (nan|-?inf) at step 1 of .*, the first"):
        fit(PLAN, digits, treatments=[Ruin()])


def test_any_function_is_a_treatment(trained, digits):
    def halved(body):
        body[-1].weight.data /= 2
        body[-1].bias.data /= 2

    made = treatments.wrap(halved)(trained)
    assert made.model.card.name == "my model | halved()"
    torch.testing.assert_close(made.model(digits.images), trained(digits.images) / 2)
    replaced = treatments.wrap(lambda body: nn.Sequential(body, nn.Identity()), name="twice")
    assert torch.equal(replaced(trained).model(digits.images), trained(digits.images))
    with pytest.raises(TypeError, match=r"odd: expected a module, or None .*got int"):
        treatments.wrap(lambda body: 1, name="odd")(trained)


# What each of them does.


def linear(weight, bias=None):
    """A linear classifier of one row of pixels, with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return models.wrap(nn.Sequential(nn.Flatten(), layer), input_shape=(1, 1, weight.shape[1]))


def weight_of(treated):
    return next(iter(weighted(treated.model).values())).weight.detach()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.booleans(), st.integers(0, 10**6))
def test_quantised_weights_are_on_the_grid_and_nearest(bits, per_channel, seed):
    w = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))
    q = weight_of(Quantise(bits=bits, per_channel=per_channel)(linear(w)))
    largest = w.abs().amax(1, keepdim=True) if per_channel else w.abs().max()
    step = (largest / (2 ** (bits - 1) - 1)).double()
    codes = q.double() / step
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert int(codes.round().abs().max()) == 2 ** (bits - 1) - 1
    assert bool(((q - w).abs() <= step / 2 + 1e-6).all())


def test_a_grid_by_hand():
    w = torch.tensor([[1.0, 0.4, -0.2], [0.1, 0.0, 0.06]])
    q = weight_of(Quantise(bits=2)(linear(w)))  # three levels: -scale, 0, scale
    assert torch.equal(q, torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.0, 0.1]]))
    q = weight_of(Quantise(bits=2, per_channel=False)(linear(w)))
    assert torch.equal(q, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_low_rank_leaves_what_the_other_singular_values_hold():
    w = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    s = torch.linalg.svdvals(w)
    model = LowRank(share=0.25)(linear(w, torch.arange(12.0))).model  # three of twelve
    first, second = model.body[1]
    product = second.weight @ first.weight
    assert float((product - w).detach().norm()) == pytest.approx(float(s[3:].norm()), rel=1e-4)
    assert torch.equal(second.bias.detach(), torch.arange(12.0))


def test_a_convolution_of_low_rank_is_itself_at_full_rank(trained, digits):
    class Whole(LowRank):
        """Every rank, also where nothing gets smaller."""

        def apply(self, model, data, generator):
            from workbench.treatments.low_rank import factorised

            layer = model.body.conv1
            model.body.conv1 = factorised(layer, min(layer.weight.flatten(1).shape))
            yield 1, 1

    got = Whole()(trained).model(digits.images)
    torch.testing.assert_close(got, trained(digits.images), atol=1e-4, rtol=1e-4)


def test_a_layer_that_would_grow_stays(trained):
    assert same(state(LowRank(share=1.0)(trained).model), state(trained))


def test_the_smallest_weights_go_over_all_layers():
    w = torch.tensor([[0.1, -4.0, 0.3, 2.0], [5.0, -0.2, 1.0, 0.4]])
    left = weight_of(Prune(share=0.5)(linear(w)))
    assert torch.equal(left, torch.tensor([[0.0, -4.0, 0.0, 2.0], [5.0, 0.0, 1.0, 0.0]]))


def test_taylor_and_gradient_by_hand():
    """One image, two classes: the gradient of weight kj is (p_k - y_k) x_j."""
    w = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    x, y = torch.tensor([[[[1.0, 0.5]]]]), torch.tensor([0])
    some = data.ImageDataset(x.repeat(2, 1, 1, 1), y.repeat(2), ("a", "b"), name="one")
    p = (w @ x.flatten()).softmax(0)
    slope = (p - torch.tensor([1.0, 0.0]))[:, None] * x.flatten()
    for criterion, score in (("taylor", (slope * w).abs()), ("gradient", slope.abs())):
        left = weight_of(Prune(criterion=criterion, share=0.5)(linear(w), some))
        lowest = score.flatten().argsort()[:2]
        assert (left.flatten() == 0).nonzero().flatten().tolist() == sorted(lowest.tolist())


def test_of_every_class_as_many_images_are_looked_at(digits):
    some = Prune(images=4).chosen(digits, torch.Generator().manual_seed(0))
    assert some.labels.bincount().tolist() == [4] * 10


def test_noise_has_the_variance_of_its_step():
    noise, seen = GradientNoise(eta=0.5, gamma=1.0), []

    class Zero(Hooks):
        def fill(self, run, x, y):
            for p in run.model.parameters():
                p.grad = torch.zeros_like(p)
            return torch.tensor(0.0), run.model(x).detach()

        def after(self, run):
            seen.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))

    plan = PLAN.changed(architecture="mlp", options={}, epochs=1)
    fit(plan, data.load("digits", "train")[:512], treatments=[Zero(), noise])
    assert len(seen) == 4
    for t, g in enumerate(seen):
        n = len(g)  # the variance of a sample variance is 2 sigma^4 / n
        assert float(g.var()) == pytest.approx(0.5 / (1 + t), rel=5 * (2 / n) ** 0.5)


def test_a_student_of_labels_alone_is_the_plain_one(digits):
    taught = Distil(hard=1.0)(PLAN, digits).model
    assert same(state(taught), state(fit(PLAN, digits).model))


def test_the_divergence_from_the_teacher_falls(digits):
    plan = PLAN.changed(epochs=20, lr=1e-2)
    teacher = models.load("digits/cnn")
    soft = (teacher(digits.images) / 4).softmax(1)

    def apart(model):
        own = (model(digits.images) / 4).log_softmax(1)
        return float(nn.functional.kl_div(own, soft, reduction="batchmean").detach())

    assert apart(Distil()(plan, digits).model) < apart(fit(plan, digits).model)


# What models cost, and what trainings spend.


def test_costs_by_hand():
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 16, 5))
    body[0].weight.data[0] = 0
    spent = cost(models.wrap(body, input_shape=(2, 4, 4)))
    assert spent.parameters == 3 * 2 * 9 + 3 + 5 * 48 + 5
    assert spent.nonzero == spent.parameters - 2 * 9
    assert spent.macs == 16 * 3 * 2 * 9 + 5 * 48
    assert spent.bytes == 4 * (3 + 5 * 48 + 5) + (54 + 32 * 36 + 7) // 8


def test_attention_is_counted_and_threads_do_not_meet():
    model = models.load("shapes/vit")  # 64 tokens of width 64, four blocks
    linear = 64 * (48 * 64 + 4 * (64 * 192 + 64 * 64 + 2 * 64 * 128)) + 64 * 10
    macs = linear + 4 * 2 * 64 * 64 * 64
    with ThreadPoolExecutor(2) as threads:
        busy = threads.submit(lambda: [model.predict(torch.rand(1, 3, 32, 32)) for _ in range(30)])
        assert [cost(model).macs for _ in range(5)] == [macs] * 5
        busy.result()


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        (torch.ones(8), 32, 32),  # dense
        (torch.tensor([1.0] + [0.0] * 31), 32, (32 + 32) // 8),  # a bit a place, and one number
        (torch.ones(2, 8), 4, 16 * 4 // 8 + 2 * 4),  # codes and a scale a row
        (torch.zeros(2, 8), 4, 16 // 8 + 2 * 4),
        (torch.ones(3), 3, 2 + 3 * 4),  # nine bits are two bytes
    ],
)
def test_bytes_as_packed_by_hand(values, bits, expected):
    assert packed(values, bits) == expected


def test_what_is_pruned_and_quantised_takes_less(trained):
    small = Quantise(bits=4)(Prune(share=0.75)(trained).model)
    assert small.cost.nonzero < 0.35 * small.cost.parameters
    assert small.cost.bytes < cost(trained).bytes / 5
    assert small.cost.macs == cost(trained).macs  # zeros are multiplied all the same


@pytest.mark.parametrize(("treatment", "passes"), [(None, 1), (AdversarialTraining(n_steps=3), 4)])
def test_the_ledger_counts_passes(digits, treatment, passes):
    chosen = [treatment] if treatment else []
    spent = fit(PLAN, digits, treatments=chosen).ledger
    assert spent.images == 2 * len(digits)
    assert (spent.forwards, spent.backwards) == (passes * spent.images, passes * spent.images)
    assert spent.seconds > 0


def test_the_activations_held_by_hand():
    """Of 32 images a linear layer holds its input, ReLU its output, softmax its logits."""
    some = data.load("digits", "train")[:32]
    plan = PLAN.changed(architecture="mlp", options={"hidden": (10,)}, epochs=1)
    held = fit(plan, some).ledger.peak_activations
    assert 32 * (64 + 10 + 10) <= held <= 32 * (64 + 10 + 10) + 32 * 64 + 100


@pytest.mark.parametrize("order", list(itertools.permutations((GradientNoise(), Distil()))))
def test_treatments_of_other_slots_combine(digits, order):
    made = fit(PLAN, digits, treatments=list(order))
    alone = [fit(PLAN, digits, treatments=[one]).model for one in order]
    assert not any(same(state(made.model), state(model)) for model in alone)
