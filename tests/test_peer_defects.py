"""Defects of the leading attack libraries: ours has none, and who has one is caught.

One row of `DEFECTS` for each: what a peer does wrong, the check, ours to check, a faulty
implementation, and words of the check's complaint about it (so that it fails for its reason).
Not here: speed (see benchmarks), what only other shapes of interface have, packaging, documents.
"""

import base64
import contextlib
import io
import math
import random
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from workbench.widgets import AttackPanel

from workbench import attacks, data, models
from workbench.attacks import (
    APGD,
    APGDT,
    BIM,
    CW,
    DDN,
    FGSM,
    FMN,
    PGD,
    AttackResult,
    Cascade,
    DeepFool,
    FeatureGuided,
    RandomSearch,
    Spatial,
    Square,
    Transfer,
    Untargeted,
)
from workbench.data import ImageDataset
from workbench.figures import colourise, png
from workbench.robustness import audit, diagnose, evaluate, specimens
from workbench.robustness.specimens import altered

# Models and images


@cache
def digits(name="cnn", n=8):
    images = data.load("digits")[:n]
    return models.load(f"digits/{name}"), images.images, images.labels


@cache
def linear():
    """A linear model of two classes with grey on the boundary; grey images; its classes."""
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(36, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 36, generator=draw) / 20)
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    model = models.wrap(nn.Sequential(nn.Flatten(), layer), input_shape=(1, 6, 6))
    x = 0.5 + 0.02 * (torch.rand(5, 1, 6, 6, generator=draw) - 0.5)
    return model, x, model.predict(x).label


def least(norm):
    """The smallest perturbations that fool the linear model of two classes."""
    model, x, y = linear()
    weight = model.body[1].weight.detach()
    dual = {"Linf": 1, "L2": 2, "L1": math.inf}[norm]
    return Untargeted(y).margin(model(x).detach()) / (weight[0] - weight[1]).norm(p=dual)


class Interrupting(nn.Module):
    """Batch norm and dropout; raises KeyboardInterrupt when `fuse` more calls are made."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(36, 4)
        )
        self.fuse = math.inf

    def forward(self, x):
        self.fuse -= 1
        if self.fuse < 0:
            raise KeyboardInterrupt
        return self.layers(x)


def fragile():
    """A model with everything that an attack might leave changed, and images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.wrap(Interrupting().eval(), input_shape=(1, 6, 6))
        x = torch.rand(4, 1, 6, 6)
    return model, x, model.predict(x).label


def one_pixel(*values, at=0.5):
    """Class 1 above `at`, class 0 below; and images of one pixel, all labelled 0."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        layer.bias.copy_(torch.tensor([at, -at]))
    model = models.wrap(nn.Sequential(nn.Flatten(), layer), input_shape=(1, 1, 1))
    labels = torch.zeros(len(values), dtype=torch.int64)
    return model, ImageDataset(torch.tensor(values).view(-1, 1, 1, 1), labels, ("0", "1"))


# What the checks share


def ran(function, *args, **kwargs):
    """What it returns; a crash is a complaint."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise AssertionError(f"crashed: {type(error).__name__}: {error}") from error


def refused(attack, words, *args):
    """The attack says what is wrong with its arguments."""
    said = "nothing: it was silently accepted"
    try:
        attack(*args)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    assert re.match(f"(TypeError|ValueError): .*{words}", said), f"said {said}"


def state(model):
    """All that an attack must leave as it was, by name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "device": [tensor.device.type for _, tensor in tensors],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        "requires_grad": [tensor.requires_grad for _, tensor in tensors],
        "grads": [tensor.grad is not None for _, tensor in tensors],
        "values": [tensor.tolist() for _, tensor in tensors if not tensor.is_meta],
        "generator": torch.get_rng_state().tolist(),
        "other generators": (random.getstate(), [str(part) for part in np.random.get_state()]),  # noqa: NPY002
        "tracer": sys.gettrace(),
        "gradients on": torch.is_grad_enabled(),
    }


def changed(before, model):
    after = state(model)
    return ", ".join(name for name, value in before.items() if after[name] != value)


# Checks of the images returned


def a_failure_is_an_image_that_was_tried(attack):
    model, x, y = digits("cnn-robust")
    result = attack(model, x, y)
    held = audit(result, model)
    assert not held.sound.all(), "nothing failed, so nothing is shown"
    assert held.lawful.all(), "something else in place of a failure"
    assert result.last.isfinite().all()


def success_is_that_of_the_images_returned(attack):
    model, x, y = digits("cnn-robust")
    result = attack(model, x, y)
    said = model.predict(result.x_adv).label != y
    assert torch.equal(result.success, said), "success is not that of the images"


def stays_in_the_box(attack):
    result = attack(*digits())
    low, high = float(result.x_adv.min()), float(result.x_adv.max())
    assert low >= 0, "below 0"
    assert high <= 1, "above 1"


def eps_0_changes_nothing(attack):
    model, x, y = digits()
    result = attack(model, x, y, eps=torch.zeros(len(x)))
    assert torch.equal(result.x_adv, x), "images change"
    assert torch.equal(result.success, model.predict(x).label != y), "fates change"


def what_was_found_is_kept(attack):
    result = attack(*digits("cnn-robust", 60))
    met = torch.stack([moment.margin for moment in result.trace]).lt(0).any(0)
    assert met.any()
    assert not (met & ~result.success).any(), "fooled on the way only"


def pixels_at_the_walls_move(attack):
    model = linear()[0]
    for value in (0.0, 1.0):
        x = torch.full((2, 1, 6, 6), value)
        result = attack(model, x, model.predict(x).label)
        assert result.success.all(), "black or white pixels stand still"


def nothing_holds_the_graph(attack):
    result = attack(*digits(n=3))
    kept = [result.x_adv, result.last, result.logits, *(m.margin for m in result.trace)]
    assert not any(tensor.requires_grad for tensor in kept), "a graph is kept"


def the_trace_is_on_time(attack):
    model, x, y = digits("cnn-robust", 3)
    result = attack(model, x, y)
    for moment in result.trace:
        said = model.predict(moment.images).logits
        assert torch.allclose(said, moment.logits, atol=1e-4), "a step late"
    assert torch.equal(result.trace[0].images, x)


# Checks of the search


def a_shift_of_the_logits_changes_nothing(attack):
    model, x, y = digits()
    shifted = altered(model, "logits - 50", after=lambda z: z - 50)
    plain, other = attack(model, x, y).success, attack(shifted, x, y).success
    assert plain.any(), "nothing is fooled"
    assert torch.equal(plain, other), "other fates after a shift"


def small_gradients_count(attack):
    """The peers' threshold of 1e-6, on a network that is as sure as many are."""
    model, x, y = digits()
    sure = altered(model, "logits x 3", after=lambda z: 3 * z)
    assert attack(sure, x, y).success.all(), "stands still where the model is sure"


def reaches_the_closed_form(attack):
    model, x, y = linear()
    norm = getattr(attack, "distance", "L2")
    near = attack(model, x, y, eps=1.01 * least(norm))
    assert near.success.all(), "the nearest point is not found"
    assert (near.norms[norm] <= 1.01 * least(norm) * 1.0001).all()


def few_steps_are_enough_to_run(kind):
    for n_steps in (1, 2, 9):
        result = ran(kind(n_steps=n_steps), *digits(n=4))
        assert result.x_adv.isfinite().all()


def defaults_fool_a_network(attack):
    assert attack(*digits("cnn-robust")).success.float().mean() >= 0.95, "defaults too weak"


def standard_has_the_published_budgets(attack):
    """AutoAttack's: APGD and APGD-T toward 9 classes and FAB or FMN by 100 steps, Square 5000."""
    parts = attack.attacks(Untargeted(torch.zeros(1, dtype=torch.int64)))
    assert len(parts) == 4, "other parts"
    first, toward, nearest, square = parts
    assert isinstance(first, APGD) and isinstance(toward, APGDT), "other parts"  # noqa: PT018
    assert nearest.smallest and isinstance(square, Square), "other parts"  # noqa: PT018
    assert [part.n_steps for part in parts[:3]] == [100] * 3, "fewer steps than published"
    assert (toward.n_targets, square.n_queries) == (9, 5000), "smaller budgets"


def every_norm_it_offers_runs(kind):
    for norm in get_args(kind.model_fields["norm"].annotation):
        short = {"n_steps": 3, "n_queries": 5, "preset": "quick"}
        short = {name: n for name, n in short.items() if name in kind.model_fields}
        assert len(ran(kind(norm=norm, **short), *digits(n=3)).success) == 3


def two_classes_are_enough(attack):
    assert ran(attack, *linear()).success.all()


def each_image_has_its_budget(attack):
    model, x, y = digits()
    eps = torch.linspace(0, 0.4, len(x))
    result = ran(attack, model, x, y, eps=eps)
    assert (result.norms["Linf"] <= eps + 1e-6).all(), "beyond the budget"
    assert result.success[-5:].all()


def nothing_left_to_do_is_no_error(attack):
    model, x, _ = digits()
    wrong = (model.predict(x).label + 1) % 10
    result = ran(attack, model, x, wrong)
    assert result.success.all()
    assert torch.equal(result.x_adv, x), "changed what was fooled already"


def one_image_is_a_batch(attack):
    assert len(ran(attack, *digits(n=1)).success) == 1


def each_image_has_its_target(attack):
    model, x, y = digits()
    target = (y + 1) % 10
    result = attack(model, x, y, target=target)
    reached = model.predict(result.x_adv).label == target
    assert reached.float().mean() >= 0.9, "most do not reach their own target"


def targets_do_not_stick(attack):
    model, x, y = digits()
    before = attack(model, x, y)
    attack(model, x, y, target=(y + 1) % 10)
    assert torch.equal(attack(model, x, y).x_adv, before.x_adv), "an earlier target stays"


def the_same_seed_gives_the_same_images(attack):
    first, again = (attack(*digits(), seed=3).last for _ in range(2))
    assert torch.equal(first, again), "other images by the same seed"


def fooled_images_are_left_alone(attack):
    result = attack(*digits())
    steps = getattr(attack, "n_steps", 1) * len(result.x)
    assert result.success.all()
    assert result.queries["backwards"].sum() < 0.5 * steps, "goes on with what is fooled"


def queries_are_counted(attack):
    """All but the question whether there is a gradient, and the last look at the result."""
    model, x, y = digits("cnn-robust", 6)
    asked = []
    hook = model.register_forward_hook(lambda _, given, __: asked.append(len(given[0])))
    result = attack(model, x, y)
    hook.remove()
    missed = sum(asked) - int(result.queries["forwards"].sum())
    assert 0 <= missed <= 1 + len(x), f"{missed} queries not counted"


# Checks of what is left behind


def leaves_all_as_it_was(attack, *, train=False):
    """train: the model is in train mode but for its batch norm, which stays frozen."""
    model, x, y = fragile()
    if train:
        model.train()
        model.body.layers[0].eval()
    before, crash = state(model), ""
    try:
        attack(model, x, y)
    except Exception as error:  # in train mode it may refuse
        crash = f"{type(error).__name__}: {error}"
    assert not changed(before, model), f"changed: {changed(before, model)}"
    assert train or not crash, f"crashed: {crash}"


def keeps_a_debugger(attack):
    model, x, y = fragile()
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        attack(model, x, y)
        kept = sys.gettrace() is not None
    finally:
        sys.settrace(before)
    assert kept, "removed the tracer"


def keeps_batch_statistics(attack):
    """Also where the model was put in train mode after it was wrapped."""
    model, x, y = fragile()
    model.train()
    before = model.body.layers[0].running_mean.clone()
    with contextlib.suppress(ValueError):
        attack(model, x, y)
    assert torch.equal(before, model.body.layers[0].running_mean), "batch statistics moved"


def an_interrupt_leaves_all_as_it_was(attack):
    model, x, y = fragile()
    before = state(model)
    fresh = attack(model, x, y)
    for calls in (1, 2, 3):  # the next attack on a model need not look for its gradient
        model.body.fuse = calls
        with pytest.raises(KeyboardInterrupt):
            attack(model, x, y)
        model.body.fuse = math.inf
        assert not changed(before, model), f"changed: {changed(before, model)}"
        assert torch.equal(attack(model, x, y).x_adv, fresh.x_adv), "the next call differs"


def needs_no_other_device(attack):
    model, x, y = fragile()
    result = ran(attack, model, x, y)
    assert result.x_adv.device == x.device, "on another device"


# Checks of what is refused


def refuses_255(attack):
    model, x, y = digits()
    refused(attack, r"\[0, 1\], got \[0, 255\]", model, 255 * x, y)


def takes_rounding_for_rounding(attack):
    model, x, y = digits()
    ran(attack, model, x - 2.98e-8, y)


def refuses_other_integers(attack):
    model, x, y = digits()
    for labels in (y.int(), y.float()):
        refused(attack, r"y: expected int64, got .*use \.long\(\)", model, x, labels)


def refuses_labels_out_of_range(attack):
    model, x, y = digits()
    refused(
        attack,
        r"y: expected values in 0\.\.9, or -1 where the class is not known, got",
        model,
        x,
        y + 10,
    )


def refuses_train_mode(attack):
    model, x, y = fragile()
    refused(attack, r"train mode.*eval\(\)", model.train(), x, y)


def refuses_a_model_without_gradient(attack):
    model, x, y = digits()
    refused(attack, "no gradient.*black-box", specimens.MODELS["broken graph"](model), x, y)


# Checks of evaluations and pictures


class Raises(PGD):
    def search(self, problem):
        raise RuntimeError("out of luck")
        yield


class Only(FGSM):
    """Fools the image of one number, and gives up on the rest or above an eps."""

    which: int = 0
    most: float = 1.0

    def search(self, problem):
        if float(problem.eps[0]) <= self.most:
            index = torch.tensor([self.which])
            images = (problem.x[index] + problem.eps[0]).clamp(0, 1)
            problem.offer(images, problem.logits(images, index), index)
        yield 1, 1


def an_exception_is_not_robust(evaluated):
    found = evaluated(*one_pixel(0.1, 0.4), [Raises()], eps=[0.15])
    assert found.curve()["robust_accuracy"].isna().all(), "a crash counts as robust"


def resuming_gives_all_of_it(evaluated):
    subject = one_pixel(0.1, 0.3, 0.4)
    whole = evaluate(*subject, [FGSM()], eps=[0.15, 0.25]).curve()
    with tempfile.TemporaryDirectory() as folder:
        ran(evaluated, *subject, [FGSM()], eps=[0.15], output=folder)
        resumed = ran(evaluated, *subject, [FGSM()], eps=[0.15, 0.25], output=folder)
        assert resumed.curve().equals(whole), "only a part comes back"


def each_call_counts_for_itself(evaluated):
    model, images = one_pixel(0.1, 0.4)
    wrong = ImageDataset(images.images, 1 - images.labels, images.classes)
    found = [evaluated(model, each, [FGSM()], eps=[0]) for each in (images, wrong)]
    rates = [each.summary()["clean_accuracy"] for each in found]
    assert rates == [1.0, 0.0], "earlier calls are counted again"


def accuracy_that_rises_with_eps_is_seen(evaluated):
    curve = evaluated(*one_pixel(0.4), [Only(most=0.25)], eps=[0.2, 0.3]).curve()
    assert curve["robust_accuracy"].tolist()[:2] == [0, 1], "the failure at eps 0.3 is hidden"


def the_worst_case_is_that_of_each_image(evaluated):
    each = {"first": Only(), "second": Only(which=1)}
    curve = evaluated(*one_pixel(0.4, 0.4), each, eps=[0.2]).curve().set_index("attack")
    assert curve.loc["first", "robust_accuracy"] == curve.loc["second", "robust_accuracy"] == 0.5
    assert curve.loc["worst case", "robust_accuracy"] == 0, "the least of the averages"


def few_images_have_wide_intervals(evaluated):
    curve = evaluated(*one_pixel(*[0.1, 0.4] * 25), [FGSM()], eps=[0.2]).curve()
    assert (curve["low"] < 0.37).all() and (curve["high"] > 0.63).all(), "50 images are no proof"  # noqa: PT018


def sees(trouble, warns):
    """warns: (model, images) -> whether something is wrong with the model."""
    model, x, y = digits("cnn-robust", 60)
    images = ImageDataset(x, y, model.classes)
    assert not warns(model, images), "a false alarm"
    assert warns(specimens.MODELS[trouble](model), images), f"{trouble} unseen"


def what_8_bits_lose_is_seen(verified):
    model, images = one_pixel(0.4, 0.4, at=0.502)
    x_adv = torch.tensor([0.5021, 0.6]).view(-1, 1, 1, 1)
    result = answer(model, images.images, images.labels, x_adv)
    assert result.success.all()
    assert verified(result, model).rounded.tolist() == [False, True], "lost when saved"


def files_hold_the_nearest_of_256_values(written):
    image = torch.linspace(0, 1, 400).view(1, 20, 20)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(written(image))))) / 255
    assert (pixels - image[0]).abs().max() <= 0.5 / 255 + 1e-6, "cut and not rounded"


def magnified_means_magnified(shown):
    """shown: (clean, attacked) -> the change of each pixel, as the picture and words tell it."""
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    attacked = (x + 0.04 * (x - 0.5).sign()).clamp(0, 1)
    told = shown(x, attacked)
    assert (told - (attacked - x)[0, 0]).abs().max() <= 1e-3, "the picture is not what was added"


# Ours, where it takes more than a name


def warned(indicator, model, images):
    return diagnose(model, images, PGD(), indicators=[indicator]).findings[0].level == "red"


def shown_by_the_panel(x, attacked):
    panel = AttackPanel("digits", "digits/cnn", attack="FGSM")
    panel.run()
    images = ImageDataset(x, torch.zeros(1, dtype=torch.int64), panel.result.images.classes)
    result = replace(panel.result.result, x=x, x_adv=attacked)
    page = panel.draw(replace(panel.result, images=images, index=0, result=result))
    most, picture = re.search(r'at most ([\d.]+) a pixel[^"]*" src="[^,]+,([^"]+)', page).groups()
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(picture)))).astype(int)
    scale = np.linspace(-1, 1, 1001)  # of the colours, with the values they stand for
    colours = colourise(scale[None], "diverging", (-1, 1))[0].astype(int)
    nearest = np.abs(pixels[:, :, None] - colours).sum(-1).argmin(-1)
    return torch.from_numpy(scale[nearest] * float(most))


# The faulty ones


def answer(model, x, y, x_adv, **changes):
    """The result as most write it."""
    logits = model(x_adv)
    success = logits.argmax(1) != y
    none = {"forwards": torch.zeros(len(x)), "backwards": torch.zeros(len(x))}
    result = AttackResult("faulty", x, y, None, x_adv, x_adv, logits, success, none)
    return replace(result, **changes)


def plain(model, x, y, *, target=None, seed=0, eps=None, loss=F.cross_entropy, box=True):
    """PGD as it is first written: nothing is checked, and nothing is put back."""
    e = 0.1 if eps is None else eps[:, None, None, None]
    x_adv = x
    for _ in range(10):
        x_adv = x_adv.detach().requires_grad_()
        loss(model(x_adv), y).backward()
        slope = torch.zeros_like(x) if x_adv.grad is None else x_adv.grad
        x_adv = (x_adv.detach() + e / 4 * slope.sign()).clamp(x - e, x + e)
        x_adv = x_adv.clamp(0, 1) if box else x_adv
    return answer(model, x, y, x_adv.detach())


def log_of_a_logit(logits, y):
    return -logits.gather(1, y[:, None]).log().sum()


def dlr(logits, y):
    top, _ = logits.sort(1)
    own = logits.gather(1, y[:, None])[:, 0]
    return -((own - top[:, -2]) / (top[:, -1] - top[:, -3])).sum()


def one_label_only(logits, y):
    return F.cross_entropy(logits.squeeze(), y)


def strict(model, x, y, **options):
    if x.min() < 0 or x.max() > 1:
        raise ValueError("x: expected values in [0, 1]")
    return plain(model, x, y, **options)


def wordless(model, x, y, **options):
    assert x.min() >= 0
    assert x.max() <= 1
    return plain(model, x, y, **options)


@dataclass(frozen=True)
class Around:
    """A sound attack, with something done to the model before and after, or to the result."""

    before: Callable[[Any], Any] = lambda model: None
    after: Callable[[Any], Any] = lambda model: None
    result: Callable[[AttackResult], AttackResult] = lambda result: result

    def __call__(self, model, x, y, **options):
        self.before(model)
        found = PGD(eps=0.1, n_steps=10)(model, x, y, **options)
        self.after(model)
        return self.result(found)


def frozen(model, wanted):
    for parameter in model.parameters():
        parameter.requires_grad_(wanted)


def nothing_for_a_failure(result):
    failed = ~result.success[:, None, None, None]
    return replace(result, x_adv=result.x_adv.masked_fill(failed, torch.nan))


def claimed_too_soon(model, x, y, **options):
    """Success is that of a larger step, cut back to the ball afterwards."""
    far = plain(model, x, y, eps=torch.full((len(x),), 0.4))
    return replace(far, x_adv=far.x_adv.clamp(x - 0.05, x + 0.05))


def truncated(result):
    return replace(result, x_adv=(result.x_adv * 255).byte() / 255)


def late(result):
    before = (result.trace[0], *result.trace)
    pairs = zip(result.trace, before, strict=False)
    return replace(result, trace=tuple(replace(now, logits=was.logits) for now, was in pairs))


def tanh_space(model, x, y, *, n_steps=100, rate=0.5, edge=0.0):
    """Carlini and Wagner's variable, for which black and white are infinitely far away."""
    w = torch.atanh(2 * x.clamp(edge, 1 - edge) - 1)
    for _ in range(n_steps):
        w = w.detach().requires_grad_()
        image = (w.tanh() + 1) / 2
        miss = 20 * Untargeted(y).margin(model(image)).clamp(min=0)
        miss = miss + (image - x).square().sum((1, 2, 3))
        (slope,) = torch.autograd.grad(miss.sum(), w)
        w = w - rate * slope / slope.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return ((w.tanh() + 1) / 2).detach()


class SignsInL2(specimens.Naive):
    """Steps by sign, cut to the ball in L2."""

    norm: str = "L2"

    def search(self, problem):
        everyone = torch.arange(len(problem))
        eps, x_adv = problem.budget(everyone)[:, None, None, None], problem.x
        for step in range(self.n_steps):
            _, slope = problem.gradient(x_adv, everyone, self.loss)
            delta = x_adv - eps / 10 * slope.sign() - problem.x
            length = delta.flatten(1).norm(dim=1)[:, None, None, None]
            x_adv = (problem.x + delta * (eps / length).clamp(max=1)).clamp(0, 1)
            problem.offer(x_adv, problem.logits(x_adv, everyone), everyone)
            yield step + 1, self.n_steps


class NeverLooksAtTheLast(specimens.Naive):
    """Offers each point before the step, so that the last is never offered."""

    n_steps: int = 1

    def search(self, problem):
        everyone = torch.arange(len(problem))
        eps, x_adv = problem.budget(everyone)[:, None, None, None], problem.x
        for step in range(self.n_steps):
            logits, slope = problem.gradient(x_adv, everyone, self.loss)
            problem.offer(x_adv, logits, everyone)
            x_adv = (x_adv - eps * slope.sign()).clamp(0, 1)
            yield step + 1, self.n_steps


class ShrinksAllButEps(PGD):
    """Drops the fooled images and keeps the budgets of all."""

    def search(self, problem):
        x_adv, eps = problem.x, problem.eps[:, None, None, None]
        for step in range(self.n_steps):
            left = problem.active()
            _, slope = problem.gradient(x_adv[left], left, lambda goal, z: goal.margin(z))
            moved = (x_adv[left] - eps / self.n_steps * slope.sign()).clamp(0, 1)
            x_adv = x_adv.index_copy(0, left, moved)
            problem.offer(moved, problem.logits(moved, left), left)
            yield step + 1, self.n_steps


class LargestOfNone(PGD):
    """Divides by the largest slope, and has none where no image is left."""

    def search(self, problem):
        left = problem.active()
        _, slope = problem.gradient(problem.x[left], left, lambda goal, z: goal.margin(z))
        moved = (problem.x[left] - 0.1 * slope / slope.abs().max()).clamp(0, 1)
        problem.offer(moved, problem.logits(moved, left), left)
        yield 1, 1


class NeverTried(PGD):
    def search(self, problem):
        if self.norm == "L2":
            delta = grad / grad.norm()  # noqa: F821
            problem.offer(problem.x + delta, problem.best_logits, problem.active())
        yield from super().search(problem)


def tenths(n_steps):
    """Looks for progress every tenth of the steps."""

    def attack(model, x, y):
        checked = [step for step in range(n_steps) if step % (n_steps // 10) == 0]
        return plain(model, x, y, eps=torch.full((len(x),), 0.01 * len(checked)))

    return attack


class Ten(Cascade):
    """Standard in name."""

    def attacks(self, goal):
        parts = super().attacks(goal)
        return [part.model_copy(update={"n_steps": 10}) for part in parts[:3]] + parts[3:]


class OwnRecipe(Cascade):
    def attacks(self, goal):
        return [APGD(), APGD(loss="dlr"), DeepFool(), Square()]


class Sticky:
    """The target is kept in the attack until another is set."""

    target = None

    def __call__(self, model, x, y, *, target=None, **options):
        self.target = self.target if target is None else target
        return PGD(eps=0.3, n_steps=10)(model, x, y, target=self.target, **options)


class Flagged:
    """A flag says that images come normalised; it is off while the attack runs."""

    normalised = True

    def __call__(self, model, x, y, **options):
        normalised, self.normalised = self.normalised, False
        result = PGD(eps=0.1, n_steps=10)(model, x, y, **options)
        self.normalised = True
        return result if normalised else replace(result, x_adv=4 * result.x_adv - 2)


def one_target(model, x, y, *, target, **options):
    usable = torch.where(target[:1] == y, (y + 2) % 10, target[:1])
    return PGD(eps=0.5)(model, x, y, target=usable)


def unseeded(model, x, y, *, seed):
    x_adv = (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    return answer(model, x, y, x_adv)


def on_a_gpu(model, x, y):
    return answer(model.to("cuda"), x.to("cuda"), y.to("cuda"), x.to("cuda"))


def resumed_badly(kind, *args, output, **options):
    """AutoAttack returns what is new; RobustBench takes the mean of booleans at the end."""
    done = list(Path(output).iterdir())
    found = evaluate(*args, output=output, **options)
    if done and kind == "crash":
        torch.ones(3, dtype=torch.bool).mean()
    return replace(found, rows=found.rows[found.rows["eps"] > 0.2]) if done else found


class Accumulates:
    """A metric object that is used again."""

    rows: Any = None

    def __call__(self, *args, **options):
        found = evaluate(*args, **options)
        rows = found.rows.assign(image=found.rows["image"] + (0 if self.rows is None else 100))
        self.rows = rows if self.rows is None else pd.concat([self.rows, rows])
        return replace(found, rows=self.rows)


def rows_of(change):
    """An evaluation with its rows changed."""

    def evaluated(*args, **options):
        found = evaluate(*args, **options)
        return replace(found, rows=change(found.rows.copy()))

    return evaluated


def carried_over(rows):
    rows["robust"] = rows.groupby(["attack", "image"])["robust"].cummin()
    return rows


def curve_of(change):
    """An evaluation with its curve changed."""

    def evaluated(*args, **options):
        curve = evaluate(*args, **options).curve()
        return type("Curve", (), {"curve": lambda self: change(curve)})()

    return evaluated


def least_average(curve):
    worst = curve["attack"] == "worst case"
    rate = curve["robust_accuracy"]
    return curve.assign(robust_accuracy=rate.where(~worst, rate[~worst].min()))


def dlr_gradient_at_the_start(model, images):
    x = images.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(dlr(model(x), images.labels), x)
    return bool((slope.flatten(1).abs().amax(1) == 0).any())


def sums_to_one_exactly(model, images):
    return bool((model.predict(images.images).logits.sum(1) == 1).all())


def range_of_images_only(model, images):
    return bool(images.images.min() < 0 or images.images.max() > 1)


def cut_to_bytes(image):
    file = io.BytesIO()
    Image.fromarray((image[0] * 255).byte().numpy()).save(file, "PNG")
    return file.getvalue()


# The table


class Defect(NamedTuple):
    """What a peer does wrong; the check; ours; the faulty one and the words said of it."""

    name: str
    check: Callable[[Any], None]
    ours: list[Any]
    faulty: Any
    words: str


BUDGET = [FGSM(), BIM(), PGD(n_steps=10), PGD(norm="L2"), PGD(norm="L1", eps=5.0)]
BUDGET += [APGD(n_steps=10), APGDT(n_steps=5), Square(n_queries=20), Cascade(preset="quick")]
NEAREST = [DeepFool(), CW(n_steps=20, searches=2), CW(norm="Linf", n_steps=15, searches=3)]
NEAREST += [DDN(n_steps=30), FMN(norm="Linf", n_steps=30), FMN(norm="L0", n_steps=30)]
WRAPPED = attacks.wrap(lambda model, x, y: plain(model, x, y).x_adv, name="wrapped")
OTHERS = [RandomSearch(n_queries=9), FeatureGuided(plays=1, tries=9), Spatial(n_angles=3), WRAPPED]
ALL = BUDGET + NEAREST + OTHERS
WEAK = [kind(n_steps=1) for kind in (DeepFool, DDN, FMN)] + [CW(n_steps=1, searches=1, alpha=1e-3)]
WEAK += [PGD(eps=0.02, n_steps=3), APGD(eps=0.02, n_steps=3), Square(eps=0.02, n_queries=9)]
CAREFUL = [PGD(n_steps=10), APGD(n_steps=10), CW(n_steps=3), DDN(n_steps=5), Square(n_queries=9)]
CAREFUL += [FeatureGuided(plays=1, tries=5), WRAPPED]
STEPPED = [PGD, BIM, APGD, APGDT, DeepFool, CW, DDN, FMN]
NORMED = [kind for kind in attacks.available().values() if "norm" in kind.model_fields]
NORMED.remove(Transfer)  # needs another model
LONG = [PGD(norm=norm, n_steps=100, random_start=False) for norm in ("Linf", "L2", "L1")]
SHIFTED = [*BUDGET, CW(n_steps=20, searches=2), DDN(n_steps=30)]
IN_TRAIN = partial(leaves_all_as_it_was, train=True)

DEFECTS = [
    # Images
    Defect("foolbox: black images for failures", a_failure_is_an_image_that_was_tried,
           WEAK, specimens.BlackImages(eps=0.02, n_steps=3), "something else"),
    Defect("foolbox: NaN for failures", a_failure_is_an_image_that_was_tried,
           WEAK, Around(result=nothing_for_a_failure), "something else"),
    Defect("foolbox: success is not what one checks", success_is_that_of_the_images_returned,
           ALL, claimed_too_soon, "not that of the images"),
    Defect("captum, ART, CleverHans: no clip by default", stays_in_the_box,
           BUDGET, partial(plain, box=False), "below 0"),
    Defect("torchattacks: eps 0 changes images", eps_0_changes_nothing,
           BUDGET, Around(result=truncated), "images change"),
    Defect("IoAF: the last iterate in place of the best", what_was_found_is_kept,
           [PGD(eps=0.1, alpha=0.2, exhaustive=True), APGD(eps=0.1)],
           specimens.LastIterate(eps=0.1), "on the way only"),
    Defect("torchattacks C&W: pixels at 0 and 1 never move", pixels_at_the_walls_move,
           [*NEAREST[1:4], PGD()], attacks.wrap(tanh_space), "stand still"),
    Defect("advertorch: the graph is kept", nothing_holds_the_graph,
           CAREFUL, plain, "a graph"),
    Defect("secml: a tracker one step late", the_trace_is_on_time,
           [PGD(eps=0.05), APGD(eps=0.05), DDN(n_steps=20)], Around(result=late), "a step late"),
    # Search
    Defect("torchattacks C&W: logits masked by 0", a_shift_of_the_logits_changes_nothing,
           SHIFTED, specimens.ZeroMasked(eps=0.1, n_steps=15), "after a shift"),
    Defect("captum: the logarithm of a logit", a_shift_of_the_logits_changes_nothing,
           SHIFTED, partial(plain, loss=log_of_a_logit), "after a shift"),
    Defect("captum: gradients below 1e-6 dropped", small_gradients_count,
           [PGD(), APGD(), BIM(eps=0.3), CW(n_steps=20)],
           specimens.ZeroThreshold(eps=0.3, threshold=1e-6), "stands still"),
    Defect("captum: sign steps in L2", reaches_the_closed_form,
           [*LONG, APGD(norm="L2")], SignsInL2(n_steps=100), "not found"),
    Defect("secml: the point after the last step", reaches_the_closed_form,
           [FGSM(), BIM(n_steps=1), PGD(n_steps=1, random_start=False)],
           NeverLooksAtTheLast(), "not found"),
    Defect("adv-lib C&W: fewer than 10 steps", few_steps_are_enough_to_run,
           STEPPED, tenths, "ZeroDivisionError"),
    Defect("ART C&W: weak defaults", defaults_fool_a_network,
           [CW(), CW(norm="Linf"), DDN()],
           attacks.wrap(partial(tanh_space, n_steps=10, rate=0.01, edge=1e-3), name="C&W"), "weak"),
    Defect("torchattacks: AutoAttack of 10 steps", standard_has_the_published_budgets,
           [Cascade()], Ten(), "fewer steps"),
    Defect("ART: AutoAttack of another recipe", standard_has_the_published_budgets,
           [Cascade()], OwnRecipe(), "other parts"),
    Defect("DeepRobust: PGD in L2 cannot run", every_norm_it_offers_runs,
           NORMED, NeverTried, "NameError"),
    Defect("AutoAttack: DLR of two classes", two_classes_are_enough,
           [APGD(loss="dlr"), APGDT(), Cascade(preset="quick"), CW(), DeepFool()],
           partial(plain, loss=dlr), "IndexError"),
    Defect("AttackBench: an eps an image crashes", each_image_has_its_budget,
           [PGD(), APGD(n_steps=20), FGSM(), Square(n_queries=200)],
           ShrinksAllButEps(), "RuntimeError"),
    Defect("nothing left to attack", nothing_left_to_do_is_no_error,
           [*BUDGET, *NEAREST], LargestOfNone(), "RuntimeError"),
    Defect("a batch of one", one_image_is_a_batch,
           CAREFUL, partial(plain, loss=one_label_only), "crashed"),
    Defect("secml: one target for all", each_image_has_its_target,
           [PGD(eps=0.5), APGD(eps=0.5), CW(n_steps=20)], one_target, "their own target"),
    Defect("torchattacks: targets set in the attack", targets_do_not_stick,
           [PGD(eps=0.3, n_steps=10), CW(n_steps=10)], Sticky(), "stays"),
    Defect("foolbox: no seeds", the_same_seed_gives_the_same_images,
           [*CAREFUL, Cascade(preset="quick")], unseeded, "same seed"),
    Defect("foolbox: all steps on all images", fooled_images_are_left_alone,
           [PGD(eps=0.3), BIM(eps=0.3), APGD(eps=0.3)], specimens.Naive(eps=0.3), "goes on"),
    Defect("foolbox, ART: no count of queries", queries_are_counted,
           [*CAREFUL[:-1], APGDT(n_steps=5), Cascade(preset="quick")], plain, "not counted"),
    # What is left behind
    Defect("ART: the model stays in eval mode", IN_TRAIN,
           CAREFUL, Around(before=nn.Module.eval), "changed: modes"),
    Defect("torchattacks: a frozen batch norm is thawed", IN_TRAIN,
           CAREFUL, Around(before=nn.Module.eval, after=nn.Module.train), "changed: modes"),
    Defect("foolbox, secml: batch statistics move", keeps_batch_statistics,
           CAREFUL, plain, "statistics moved"),
    Defect("CleverHans: gradients in the weights", leaves_all_as_it_was,
           CAREFUL, plain, "changed: grads"),
    Defect("adv-lib: hooks stay", leaves_all_as_it_was, CAREFUL,
           Around(before=lambda m: m.register_forward_hook(lambda *_: None)), "changed: hooks"),
    Defect("AutoAttack, torchattacks: the global seed", leaves_all_as_it_was,
           CAREFUL, Around(before=lambda _: torch.manual_seed(0)), "changed: generator"),
    Defect("DeepRobust: a start drawn by NumPy", leaves_all_as_it_was, CAREFUL,
           Around(before=lambda _: np.random.rand()), "changed: other generators"),  # noqa: NPY002
    Defect("AutoAttack: settrace(None)", keeps_a_debugger,
           CAREFUL, Around(after=lambda _: sys.settrace(None)), "removed the tracer"),
    Defect("foolbox, DeepRobust: the model is moved", leaves_all_as_it_was,
           CAREFUL, Around(after=lambda m: m.to("meta")), "changed: device"),
    Defect("AutoAttack, adv-lib: nothing without CUDA", needs_no_other_device,
           CAREFUL, on_a_gpu, "crashed|another device"),
    Defect("torchattacks: an interrupt leaves a flag", an_interrupt_leaves_all_as_it_was,
           CAREFUL, Flagged(), "the next call differs"),
    Defect("an interrupt leaves weights frozen", an_interrupt_leaves_all_as_it_was,
           CAREFUL, Around(partial(frozen, wanted=False), partial(frozen, wanted=True)),
           "changed: requires_grad"),
    # What is refused
    Defect("torchattacks, adv-lib, ART: 255-range accepted", refuses_255,
           CAREFUL, plain, "silently accepted"),
    Defect("foolbox: an error without words", refuses_255,
           CAREFUL, wordless, "said AssertionError"),
    Defect("torchattacks: -3e-8 refused", takes_rounding_for_rounding,
           CAREFUL, strict, "crashed: ValueError"),
    Defect("foolbox, torchattacks: int32 labels", refuses_other_integers,
           CAREFUL, plain, "said RuntimeError"),
    Defect("ART: labels out of range", refuses_labels_out_of_range,
           CAREFUL, plain, "said IndexError"),
    Defect("foolbox: train mode after wrapping", refuses_train_mode,
           CAREFUL, plain, "silently accepted"),
    Defect("foolbox, ART: no gradient, no word", refuses_a_model_without_gradient,
           [PGD(), APGD(), CW(), DDN(), FMN(), DeepFool(), FGSM()], plain, "silently accepted"),
    # Evaluations and pictures
    Defect("AttackBench: a crash is a published row", an_exception_is_not_robust,
           [evaluate], rows_of(lambda rows: rows.fillna({"robust": 1})), "counts as robust"),
    Defect("AutoAttack: resuming returns what is new", resuming_gives_all_of_it,
           [evaluate], partial(resumed_badly, "part"), "only a part"),
    Defect("RobustBench: resuming crashes at the end", resuming_gives_all_of_it,
           [evaluate], partial(resumed_badly, "crash"), "crashed: RuntimeError"),
    Defect("secml: accuracy accumulates", each_call_counts_for_itself,
           [evaluate], Accumulates(), "counted again"),
    Defect("SecML dashboard: fooled once, always fooled", accuracy_that_rises_with_eps_is_seen,
           [evaluate], rows_of(carried_over), "hidden"),
    Defect("AutoAttack users: the least of the averages", the_worst_case_is_that_of_each_image,
           [evaluate], curve_of(least_average), "least of the averages"),
    Defect("torchattacks: figures from 50 images", few_images_have_wide_intervals,
           [evaluate], curve_of(lambda c: c.assign(low=c.robust_accuracy, high=c.robust_accuracy)),
           "no proof"),
    Defect("AutoAttack: zero gradients of DLR only", partial(sees, "saturated logits"),
           [partial(warned, "cross entropy has gradients")], dlr_gradient_at_the_start, "unseen"),
    Defect("foolbox: probabilities for logits", partial(sees, "softmax inside"),
           [partial(warned, "outputs are logits")], sums_to_one_exactly, "unseen"),
    Defect("all: the wrong normalisation", partial(sees, "wrong normalisation"),
           [partial(warned, "accuracy is that of the card")], range_of_images_only, "unseen"),
    Defect("foolbox: lost in 8 bits, unsaid", what_8_bits_lose_is_seen,
           [audit], lambda r, m: replace(audit(r, m), rounded=r.success), "lost when saved"),
    Defect("torchattacks: saved by truncation", files_hold_the_nearest_of_256_values,
           [png], cut_to_bytes, "cut and not rounded"),
    Defect("adversarial.js: noise called magnified", magnified_means_magnified,
           [shown_by_the_panel], lambda x, a: 5 * (a - x)[0, 0], "not what was added"),
]  # fmt: skip


def named(thing):
    """How a test calls a check, an attack or a function."""
    if isinstance(thing, partial):
        return ", ".join([named(thing.func), *map(str, thing.args), *thing.keywords])
    if isinstance(thing, attacks.Attack) and thing is not WRAPPED:
        return thing.code()
    return getattr(thing, "__name__", "wrapped").replace("_", " ")


OURS = {(named(d.check), named(ours)): (d.check, ours) for d in DEFECTS for ours in d.ours}


@pytest.mark.filterwarnings("ignore:loss. DLR")
@pytest.mark.parametrize(
    ("check", "ours"), list(OURS.values()), ids=[f"{ours} - {check}" for check, ours in OURS]
)
def test_ours_has_none_of_it(check, ours):
    check(ours)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_an_implementation_with_it_is_caught(defect):
    with pytest.raises(AssertionError, match=defect.words):
        defect.check(defect.faulty)


def test_off_the_walls_the_faulty_tanh_moves():
    """So that it is the walls by which it fails."""
    pixels_at_the_walls_move(attacks.wrap(partial(tanh_space, edge=1e-3), name="C&W"))
