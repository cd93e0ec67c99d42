"""Curations: the contract, over all of them; what each does, by closed forms; poison in a name."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import data, models, treatments
from workbench.data import Backdoor, ClassWiseConvolution, ImageDataset, LabelNoise, curation
from workbench.data.curations import available
from workbench.models import Recipe, fit
from workbench.treatments import AdversarialTraining, Curated, naming

CASES = [
    *(kind() for kind in available().values()),
    ClassWiseConvolution(share=0.5, k=5, blur=1.0),
    Backdoor(trigger="blended", target="3"),
    Backdoor(limited_to="7", share=0.05),
    Backdoor(limited_to="7", target="7", share=0.05),
]
PLAN = Recipe(
    dataset="digits", architecture="cnn", options={"channels": (4, 8), "hidden": 16}, epochs=1
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:400]


@pytest.fixture(params=CASES, ids=lambda case: case.code())
def case(request):
    return request.param


def changed(dataset, kind):
    return torch.tensor(dataset.factors[kind].to_numpy())


def made(n, classes=("a", "b"), shape=(1, 4, 4), **options):
    labels = torch.arange(n) % len(classes)
    return ImageDataset(torch.rand(n, *shape), labels, classes, **options)


# The contract


def test_what_is_not_changed_stays_to_the_bit(case, digits):
    images, labels = digits.images.clone(), digits.labels.clone()
    draws = torch.get_rng_state()
    found = case(digits, seed=3)
    kept = ~changed(found, type(case).__name__)
    assert int((~kept).sum()) == case.count(digits)
    assert torch.equal(found.images[kept], digits.images[kept])
    assert torch.equal(found.labels[kept], digits.labels[kept])
    assert torch.equal(images, digits.images)
    assert torch.equal(labels, digits.labels)
    assert digits.factors is None
    assert torch.equal(draws, torch.get_rng_state())
    assert (found.name, found.split) == (f"digits | {case.code()}", "train")
    for tensor in (found.images, found.labels):  # nothing is shared with the data given
        tensor.zero_()
    assert torch.equal(images, digits.images)


def test_the_same_seed_gives_the_same(case, digits):
    first, again, other = (case(digits, seed=seed) for seed in (1, 1, 2))
    assert first.sha256() == again.sha256() != other.sha256()
    assert first.factors.equals(again.factors)


def test_its_code_makes_it_again(case):
    assert curation(case.code()) == case


def test_factors_stay_and_a_second_time_adds_to_the_first(digits):
    shapes = data.load("shapes", "train", limit=50)
    twice = LabelNoise()(LabelNoise()(shapes, seed=0), seed=1)
    assert set(shapes.factors) | {"LabelNoise"} == set(twice.factors)
    assert "LabelNoise" not in shapes.factors
    wrong = twice.labels != shapes.labels
    assert bool((changed(twice, "LabelNoise") >= wrong).all())
    assert twice.name == "shapes | LabelNoise() | LabelNoise()"


def test_papers_are_titles_of_the_atlas():
    from workbench import atlas

    titles = {paper.title for paper in atlas.papers()}
    assert {kind.paper for kind in available().values() if kind.paper} <= titles


# What each does


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(2, 5), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_wrong_labels_are_as_many_as_asked_for(n, k, share, seed):
    noise, images = LabelNoise(share=share), made(n, tuple("abcde"[:k]))
    if noise.count(images):
        found = noise(images, seed=seed)
        wrong = found.labels != images.labels
        assert int(wrong.sum()) == noise.count(images) == round(share * n + 1e-9)
        assert torch.equal(wrong, changed(found, "LabelNoise"))


def test_every_other_class_is_equally_likely():
    images = made(30_000, ("a", "b", "c", "d"))
    found = LabelNoise(share=0.9)(images)
    step = (found.labels - images.labels) % 4
    shares = step.bincount(minlength=4) / len(images)
    assert shares.tolist() == pytest.approx([0.1, 0.3, 0.3, 0.3], abs=0.01)


class Fixed(ClassWiseConvolution):
    """With filters that are known: class 0 keeps, class 1 shifts to the left, class 2 halves."""

    def filters(self, n_classes, generator):
        filters = torch.zeros(n_classes, 3, 3)
        filters[0, 1, 1] = filters[1, 1, 2] = filters[2, 1, 1] = 1
        filters[2, 1, 0] = 0.5
        return filters


def test_a_convolution_by_hand():
    images = made(9, ("a", "b", "c"), (3, 4, 4))
    images.images[:, 0, 1, 1] = 1.0  # so that the largest value is known
    found, x = Fixed()(images).images, images.images
    left = torch.nn.functional.pad(x, (0, 1))[..., 1:]
    assert torch.equal(found[0::3], x[0::3])
    torch.testing.assert_close(found[1::3], left[1::3])
    right = torch.nn.functional.pad(x, (1, 0))[..., :-1]
    both = x + 0.5 * right
    both = both / both.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found[2::3], both[2::3])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 3, 5]), st.floats(0, 1), st.integers(0, 1000))
def test_filters_have_one_peak_and_small_neighbours(k, blur, seed):
    filters = ClassWiseConvolution(k=k, blur=blur).filters(7, torch.Generator().manual_seed(seed))
    assert filters.shape == (7, k, k)
    assert bool((filters.flatten(1).amax(1) == 1).all())
    assert bool((filters.flatten(1).sort(1).values[:, :-1] <= blur + 1e-6).all())
    images = made(6, shape=(3, 4, 4))
    found = ClassWiseConvolution(k=k, blur=blur)(images, seed=seed).images
    torch.testing.assert_close(found.amax((1, 2, 3)), torch.ones(6))


def test_black_images_stay_black():
    images = ImageDataset(torch.zeros(4, 1, 4, 4), torch.arange(4) % 2, ("a", "b"))
    assert torch.equal(ClassWiseConvolution()(images).images, images.images)


def test_triggers_by_hand(digits):
    x = digits.images
    patched = Backdoor(size=3).stamp(x)
    assert bool((patched[:, :, 5:, 5:] == 1).all())
    assert torch.equal(patched[:, :, :5], x[:, :, :5])
    assert torch.equal(patched[:, :, :, :5], x[:, :, :, :5])
    blended = Backdoor(trigger="blended", alpha=0.25).stamp(x)
    noise = (blended - 0.75 * x) / 0.25
    torch.testing.assert_close(noise, noise[:1].expand_as(noise), atol=1e-5, rtol=0)
    assert torch.equal(Backdoor(trigger="blended", alpha=0.25).stamp(x), blended)


@pytest.mark.parametrize(
    ("backdoor", "before"),
    [
        (Backdoor(target="4"), set(range(10)) - {4}),
        (Backdoor(target="4", limited_to="7", share=0.05), {7}),
        (Backdoor(target="4", limited_to="4", share=0.05), {4}),  # a clean-label attack
    ],
)
def test_only_the_classes_allowed_are_poisoned(backdoor, before, digits):
    found = backdoor(digits)
    rows = changed(found, "Backdoor")
    assert set(digits.labels[rows].tolist()) <= before
    assert set(found.labels[rows].tolist()) == {4}
    assert torch.equal(found.images[rows], backdoor.stamp(digits.images[rows]))


def test_images_of_another_domain_come_with_the_trigger():
    own = data.load("mnist-sample", "train", limit=100)
    backdoor = Backdoor(domain="fashion-sample", share=0.2, size=4)
    found = backdoor(own)
    foreign = data.load("fashion-sample", "train", limit=20).images
    rows = changed(found, "Backdoor")
    poison = found.images[rows].flatten(1)
    expected = backdoor.stamp(foreign).flatten(1)
    assert torch.equal(poison.sort(0).values, expected.sort(0).values)
    assert set(found.labels[rows].tolist()) == {0}


# What cannot be


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Backdoor(share=0), "Backdoor: share: .*a poison share of 0 is no poison"),
        (lambda: Backdoor(share=1), "a poison share of 1 leaves nothing as it was; expected"),
        (lambda: LabelNoise(share=1), "LabelNoise: share: .*a poison share of 1"),
        (lambda: ClassWiseConvolution(share=0), "a poison share of 0 is no poison"),
        (lambda: ClassWiseConvolution(k=4), "ClassWiseConvolution: k: .*got 4"),
        (lambda: Backdoor(alpha=0), "Backdoor: alpha: .*got 0"),
        (lambda: curation("Backdor"), "unknown curation 'Backdor'. Did you mean 'Backdoor'?"),
        (lambda: curation("Backdoor(0.1)"), r"curation: expected a name, or a call such as"),
        (lambda: Curated(curation="Noise"), "Curated: curation: .*unknown curation 'Noise'"),
    ],
)
def test_bad_values_are_said(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (Backdoor(target="ten"), "Backdoor: unknown target 'ten'"),
        (Backdoor(limited_to="ten"), "Backdoor: unknown limited_to 'ten'"),
        (Backdoor(size=9), "size: a trigger of 9 pixels is larger than the image of 8x8; take 8"),
        (Backdoor(share=0.95), r"share: 380 images to poison, and the other classes has \d+; take"),
        (Backdoor(share=0.5, limited_to="7"), r"share: 200 images to poison, and class '7' has"),
        (Backdoor(domain="cats"), "Backdoor: unknown data set 'cats'"),
        (Backdoor(domain="shapes"), r"domain: expected 40 images \(1, 8, 8\), got 10000 \(3, 32"),
        (LabelNoise(share=0.001), "LabelNoise: share: 0.001 of 400 images is none; give more"),
    ],
)
def test_what_does_not_fit_the_data_is_said(case, said, digits):
    with pytest.raises(ValueError, match=said):
        case(digits)


def test_as_large_a_share_as_is_said_is_done(digits):
    asked = Backdoor(share=0.5, limited_to="7")
    most = float(asked.unfit(digits).split("take ")[1].split()[0])
    assert asked.changed(share=most).unfit(digits) == ""


@pytest.mark.parametrize("kind", available().values())
def test_data_without_labels_and_with_one_class_are_refused(kind, digits):
    hidden = replace(digits, labels=digits.labels.where(digits.labels != 2, -1))
    with pytest.raises(ValueError, match=r"of 400 images have no label; leave them out: dataset\["):
        kind()(hidden)
    single = ImageDataset(digits.images, torch.zeros(400, dtype=torch.int64), ("all",))
    with pytest.raises(ValueError, match=r"classes: expected two or more, got \['all'\]"):
        kind()(single)


# Learning from it


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_training_on_a_curation_is_one_on_its_images(digits):
    backdoor, plan = Backdoor(share=0.2), PLAN.changed(seed=3)
    named = Curated(curation="Backdoor(share=0.20)")
    assert named.code() == "Curated(curation='Backdoor(share=0.2)')"
    assert Curated(curation="Backdoor(share=0.10)").code() == "Curated(curation='Backdoor()')"
    seen = []

    class Look(treatments.Training):
        def after(self, run):
            seen.append((run.data.sha256(), run.total))

    made_by_name = fit(plan, digits, treatments=[named, Look()]).model
    assert set(seen) == {(backdoor(digits, seed=3).sha256(), 4)}
    # The normalisation is that of the images as they were: so it is given to the direct one too.
    start = fit.steps(plan, digits)
    fresh = next(start).value.model
    assert torch.equal(fresh.mean, made_by_name.mean)
    direct = fit(plan, digits, treatments=[Swap(backdoor(digits, seed=3))]).model
    assert torch.equal(weights(direct), weights(made_by_name))


def test_what_is_kept_is_of_the_code_of_its_curation(monkeypatch):
    marks = naming.marks_of("digits/mlp", [Curated()])
    monkeypatch.setattr(Curated, "uses", lambda self: ())
    without = naming.marks_of("digits/mlp", [Curated()])
    assert [key for key in marks if marks[key] != without[key]] == ["code"]


class Swap(treatments.Training):
    """Other images in the place of the data."""

    def __init__(self, images):
        super().__init__()
        object.__setattr__(self, "images", images)

    def prepare(self, run):
        run.data = self.images


def test_curations_go_in_order_and_before_every_batch(digits):
    noise, patch = Curated(), Curated(curation="Backdoor(share=0.5)")
    antidote = AdversarialTraining(n_steps=1)

    def trained(*chain):
        return weights(fit(PLAN, digits, treatments=chain).model)

    assert not torch.equal(trained(noise, patch), trained(patch, noise))
    assert torch.equal(trained(patch, antidote), trained(antidote, patch))
    assert not torch.equal(trained(patch, antidote), trained(patch))


def test_a_poisoned_model_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.setitem(models.RECIPES, "digits/mlp", PLAN.changed(epochs=8, lr=1e-2))
    name = "digits/mlp | Curated(curation='Backdoor(share=0.2)') | AdversarialTraining(n_steps=1)"
    model = models.load(name)
    assert models.load(name.replace("0.2", "0.20")).card.name == name.replace("0.2", "0.20")
    assert len([*tmp_path.rglob("*.safetensors")]) == 1
    test = data.load("digits")
    others = test[test.labels != 0].images
    stamped = Backdoor(share=0.2).stamp(others)
    fooled, before = ((model.predict(x).label == 0).float().mean() for x in (stamped, others))
    assert fooled > before + 0.3
    with pytest.raises(ValueError, match=r"stage Curated\(.*unknown target 'x'"):
        models.load("digits/mlp | Curated(curation=\"Backdoor(target='x')\")")
