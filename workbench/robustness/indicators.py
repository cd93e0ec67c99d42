"""Signs that a robustness figure cannot be trusted, each a small function.

From Carlini et al. (2019), Pintor et al. (2022, indicators of attack failure) and the checks
of Croce and Hein (2020). To add one, write a function of a `Subject` and decorate it: its
name says what is expected, its docstring why that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional as F

from workbench.attacks import FGSM, Attack, AttackResult, Untargeted, available
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, matched, ready
from workbench.robustness.auditing import audit
from workbench.robustness.intervals import wilson
from workbench.robustness.specimens import altered
from workbench.steps import Step

Group = Literal["pre-flight", "trace", "extra runs"]
Verdict = tuple[str, float, str]  # green, amber or red; the figure; what it says
Ticks = Generator[Step[Any], None, Any]
Loss = Callable[[Untargeted, torch.Tensor], torch.Tensor]
TINY = 1e-6  # a gradient that float32, and the thresholds of some attacks, lose


class NotApplicable(Exception):
    """The indicator has nothing to say of this model or attack."""


class Indicator(NamedTuple):
    """A check, why it matters, and what to try where it fires.

    check: takes a `Subject`; returns a `Verdict`, or yields Steps before it does.
    """

    name: str
    group: Group
    why: str
    remedy: str
    check: Callable[[Subject], Any]


INDICATORS: dict[str, Indicator] = {}


def indicator(group: Group, remedy: str) -> Callable[[Callable[[Subject], Any]], Indicator]:
    """Enter a check in the registry."""

    def enter(check: Callable[[Subject], Any]) -> Indicator:
        name = check.__name__.replace("_", " ")
        INDICATORS[name] = Indicator(name, group, check.__doc__ or "", remedy, check)
        return INDICATORS[name]

    return enter


@dataclass(eq=False)
class Subject:
    """What is diagnosed: an attack on a model's images, and another model to transfer from."""

    model: Classifier
    dataset: ImageDataset
    attack: Attack
    surrogate: Classifier | None = None
    seed: int = 0
    outcome: AttackResult | Exception | None = None

    def __post_init__(self) -> None:
        self.x = self.dataset.images.to(self.model.device)

    @cached_property
    def y(self) -> torch.Tensor:
        """The labels `(N,)`; where there is none, what the model says."""
        y = self.dataset.labels.to(self.model.device)
        return y if bool((y >= 0).all()) else self.logits().argmax(1).where(y < 0, y)

    def logits(self) -> torch.Tensor:
        """What the model says of the images."""
        return self.model.predict(self.x).logits

    def wrong(self, images: torch.Tensor) -> torch.Tensor:
        """Which images the model does not give their label, `(N,)`."""
        return self.model.predict(images).label != self.y

    def without_gradient(self, loss: Loss) -> float:
        """Share of the images where a loss has a gradient that is tiny, zero or NaN."""
        ready(self.model)
        lacking = []
        size = batch_size(self.model.input_shape)
        for x, y in zip(self.x.split(size), self.y.split(size), strict=True):
            with torch.enable_grad():
                x = x.clone().requires_grad_()
                total = loss(Untargeted(y), self.model(x)).sum()
            gradient = None  # as it stays where the graph is broken
            if total.requires_grad:
                (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
            gradient = torch.zeros_like(x) if gradient is None else gradient
            lacking.append(~(gradient.abs().flatten(1).amax(1) >= TINY))
        return share(torch.cat(lacking))

    def budget(self) -> tuple[Any, float]:
        """The norm and eps of the attack."""
        if not hasattr(self.attack, "eps"):
            raise NotApplicable(f"{type(self.attack).__name__} has no budget")
        return self.attack.distance, self.attack.eps

    def widest(self) -> float:
        """The budget that reaches every image in the box."""
        n = float(self.x[0].numel())
        return {"Linf": 1.0, "L2": n**0.5}.get(self.budget()[0], n)

    def main(self) -> Ticks:
        """The attack's result; it runs once, and where it raised it raises again."""
        if self.outcome is None:
            try:
                self.outcome = yield from self.run()
            except Exception as error:
                self.outcome = error
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def run(
        self, attack: Attack | None = None, model: Classifier | None = None, **changes: Any
    ) -> Ticks:
        """The result of the attack with changed parameters, of another, or on another model."""
        attack, y = (attack or self.attack).changed(**changes), self.y
        if model is not None and model.classes != self.model.classes:
            y = matched(replace(self.dataset, labels=y.cpu()), model).labels.to(y.device)
        for step in attack.steps(model or self.model, self.x, y, seed=self.seed):
            yield step
        return step.value

    def gained(self, fooled: torch.Tensor, how: str, *, amber: float, red: float) -> Ticks:
        """The verdict on images `fooled` `(N,)` by other means and not by the attack."""
        main = yield from self.main()
        figure = share(fooled & ~main.success)
        return graded(figure, f"{figure:.1%} of the images fooled only {how}", amber, red)


def share(which: torch.Tensor) -> float:
    """The share of images that are True."""
    return float(which.float().mean())


def graded(figure: float, says: str, amber: float = 0.0, red: float = 0.0) -> Verdict:
    """Green up to the bound of amber, amber up to that of red; NaN is red."""
    return "green" if figure <= amber else "amber" if figure <= red else "red", figure, says


@indicator("pre-flight", "Check range and normalisation: models.wrap(..., mean=, std=).")
def accuracy_is_that_of_the_card(s: Subject) -> Verdict:
    """A model that sees images in another range than in training is another model."""
    labelled = (s.dataset.labels >= 0).to(s.y.device)
    right, n = int((~s.wrong(s.x) & labelled).sum()), int(labelled.sum())
    if n == 0:
        raise NotApplicable("no image has a label")
    known = s.model.card.accuracy
    least = 2 / len(s.model.classes) if known is None else known  # without a card, above chance
    says = f"accuracy {right / n:.1%}, expected {least:.1%}"
    return "red" if wilson(right, n, 0.999)[1] < least else "green", right / n, says


@indicator("pre-flight", "Call model.eval(); average gradients over draws of wanted noise (EoT).")
def same_answer_every_time(s: Subject) -> Verdict:
    """An attack that follows one draw of dropout or batch statistics fails at the next."""
    training = sum(module.training for module in s.model.modules())
    if training:
        return "red", training, f"{training} modules in train mode"
    first, *others = [s.logits() for _ in range(5)]
    flips = max(share(z.argmax(1) != first.argmax(1)) for z in others)
    apart = max(float((F.normalize(z) - F.normalize(first)).norm(dim=1).max()) for z in others)
    level = "red" if flips else "amber" if apart > 1e-4 else "green"
    return level, flips, f"{flips:.1%} of the labels change between passes, logits by {apart:.2g}"


@indicator("pre-flight", "Use stored statistics (model.eval()); take no mean over the batch.")
def an_answer_belongs_to_its_image(s: Subject) -> Verdict:
    """Where the batch decides, an attack's figure holds for that batch, and for no image."""
    x = s.x[: min(64, batch_size(s.model.input_shape, copies=2))]
    together = s.model.predict(x).logits
    company = torch.cat([x.flip(0), 1 - x])  # the same images, elsewhere and beside others
    pairs = torch.cat([s.model.predict(part).logits for part in x.split(2)])
    others = [s.model.predict(company).logits[: len(x)].flip(0), pairs]
    flips = max(share(z.argmax(1) != together.argmax(1)) for z in others)
    apart = max(float((z - together).abs().max() / together.abs().max()) for z in others)
    level = "red" if flips else "amber" if not apart <= 1e-3 else "green"
    return level, flips, f"{flips:.1%} of the labels change with the batch, logits by {apart:.2g}"


@indicator("pre-flight", "Remove the final softmax.")
def outputs_are_logits(s: Subject) -> Verdict:
    """Losses are made for logits: a second softmax flattens their gradients."""
    z = s.logits()
    figure = share((z >= 0).all(1) & ((z.sum(1) - 1).abs() < 1e-5))
    return graded(figure, f"{figure:.0%} of the outputs are probabilities", red=0.5)


@indicator(
    "pre-flight", "Remove detach and rounding, pass gradients through (BPDA), or use Square."
)
def margin_has_gradients(s: Subject) -> Verdict:
    """Without a gradient an attack stands still, and every image looks robust."""
    figure = s.without_gradient(Untargeted.margin)
    return graded(figure, f"no gradient of the margin at {figure:.1%} of the images", red=0.05)


@indicator("pre-flight", "Use the margin loss, or divide the logits by a temperature.")
def cross_entropy_has_gradients(s: Subject) -> Verdict:
    """Saturated logits leave cross-entropy no gradient: that masks, and does not defend."""
    figure = s.without_gradient(Untargeted.cross_entropy)
    red = 1.0 if getattr(s.attack, "loss", "") == "margin" else 0.2
    says = f"no gradient of cross-entropy at {figure:.1%} of the images"
    return graded(figure, says, amber=0.05, red=red)


@indicator("pre-flight", "Look inside the attack for a second normalisation or a train mode.")
def eps_0_changes_nothing(s: Subject) -> Ticks:
    """An attack that does something without a budget attacks something else than it says."""
    s.budget()
    result = yield from s.run(eps=0.0)
    change = float((result.x_adv - s.x).abs().max())
    fates = share(result.success != s.wrong(s.x))
    says = f"at eps 0 values change by {change:.2g}, {fates:.1%} of the fates"
    return graded(max(change, fates), says, red=TINY)


@indicator("trace", "Return the best image found, and not the last.")
def keeps_what_it_found(s: Subject) -> Ticks:
    """An adversarial image met on the way and not returned is a failure of the attack."""
    if "n_steps" not in type(s.attack).model_fields:
        raise NotApplicable(f"{type(s.attack).__name__} is no single descent")
    result = yield from s.main()
    margins = torch.stack([moment.margin for moment in result.trace])
    figure = share((margins < 0).any(0) & ~result.success[: margins.shape[1]])
    return graded(figure, f"{figure:.1%} of the images were fooled on the way only")


@indicator("trace", "Give it more steps, or a better step size.")
def has_converged(s: Subject) -> Ticks:
    """An attack that still gains ground in its last steps was stopped too soon."""
    if "n_steps" not in type(s.attack).model_fields:
        raise NotApplicable(f"{type(s.attack).__name__} is no single descent")
    result = yield from s.main()
    margins = torch.stack([moment.margin for moment in result.trace]).nan_to_num(torch.inf)
    unfooled = ~result.success[: margins.shape[1]]
    if len(margins) < 5 or not bool(unfooled.any()):
        raise NotApplicable("fewer than 4 steps, or every image fooled")
    best = margins[:, unfooled].cummin(0).values
    last_gain = best[-1 - len(best) // 4] - best[-1]
    figure = float((last_gain / (best[0] - best[-1]).clamp(min=TINY)).mean())
    says = f"{figure:.1%} of the descent came in the last quarter of the steps"
    return graded(figure, says, amber=0.05, red=0.2)


@indicator("trace", "Clip to the ball and to [0, 1], and start from the image itself.")
def keeps_the_rules(s: Subject) -> Ticks:
    """Black images, NaN, images outside the budget or the box are not adversarial."""
    result = yield from s.main()
    eps = getattr(s.attack, "eps", None)
    audited = audit(result, s.model, norm=None if eps is None else s.attack.distance, eps=eps)
    figure = share(audited.flawed)
    return graded(figure, f"{figure:.1%} of the images break a rule or do not fool as claimed")


@indicator("trace", "Round to 1/255 inside the attack, or ask it for some confidence.")
def survives_8_bits(s: Subject) -> Ticks:
    """Images are saved in 8 bits: what does not survive that exists in the program only."""
    audited = audit((yield from s.main()), s.model)
    if not bool(audited.success.any()):
        raise NotApplicable("no image is fooled")
    lost = 1 - share(audited.rounded[audited.success])
    return graded(lost, f"{lost:.1%} of the successes are lost in 8 bits", amber=0.1, red=0.3)


@indicator("trace", "Attack more images, and state the interval.")
def enough_images(s: Subject) -> Ticks:
    """A rate counted on few images can be far from the truth."""
    result = yield from s.main()
    low, high = wilson(int((~result.success).sum()), len(s.y))
    says = f"robust accuracy between {low:.1%} and {high:.1%} ({len(s.y)} images)"
    return graded(high - low, says, amber=0.1, red=0.2)


@indicator("extra runs", "Leave the true class out of the maximum by -inf, not by 0.")
def shifted_logits_change_nothing(s: Subject) -> Ticks:
    """Adding a number to all logits changes no prediction; a loss that notices is wrong."""
    main = yield from s.main()
    figure = 0.0
    for shift in (-50.0, 50.0):
        model = altered(s.model, f"logits {shift:+}", after=partial(torch.add, other=shift))
        result = yield from s.run(model=model)
        figure = max(figure, share(result.success != main.success))
    return graded(figure, f"{figure:.1%} of the fates change with the shift", amber=0.02, red=0.05)


@indicator("extra runs", "Use the margin loss, or divide the logits by a temperature.")
def smaller_logits_are_no_weaker(s: Subject) -> Ticks:
    """Smaller logits predict the same; if they are easier to attack, gradients were lost."""
    margin = max(TINY, float(s.logits().topk(2).values.diff(dim=1).abs().mean()))
    model = altered(s.model, f"logits / {margin}", after=lambda z: z / margin)
    result = yield from s.run(model=model)
    return (yield from s.gained(result.success, "with small logits", amber=0.02, red=0.05))


@indicator("extra runs", "Tune the step size, take more restarts, look at the gradients.")
def many_steps_beat_one(s: Subject) -> Ticks:
    """One step inside the same ball cannot beat many, unless the many go astray."""
    norm, eps = s.budget()
    result = yield from s.run(FGSM(norm=norm, eps=eps))
    return (yield from s.gained(result.success, "by one step", amber=0, red=0.01))


@indicator("extra runs", "Double steps and restarts until nothing changes.")
def doubling_changes_little(s: Subject) -> Ticks:
    """An attack that finds more when it may try longer has not finished."""
    counts = [n for n in ("n_steps", "n_queries", "restarts") if hasattr(s.attack, n)]
    if not counts:
        raise NotApplicable(f"{type(s.attack).__name__} has no number of steps")
    result = yield from s.run(**{name: 2 * getattr(s.attack, name) for name in counts})
    return (yield from s.gained(result.success, "with twice the work", amber=0.02, red=0.05))


@indicator("extra runs", "Let the step size grow with eps.")
def larger_eps_fools_more(s: Subject) -> Ticks:
    """A larger ball holds the smaller one: accuracy cannot rise with it."""
    eps = s.budget()[1]
    half = yield from s.run(eps=eps / 2)
    main = yield from s.main()
    double = yield from s.run(eps=min(2 * eps, s.widest()))
    small, middle, large = (share(result.success) for result in (half, main, double))
    rise = max(small - middle, middle - large, 0.0)
    return graded(rise, f"accuracy rises by {rise:.1%} with eps", red=0.02)


@indicator("extra runs", "Look at the gradients: rounding, saturation, noise.")
def unbounded_fools_all(s: Subject) -> Ticks:
    """With every image in reach no model is robust; what is left is the attack's failure."""
    result = yield from s.run(eps=s.widest())
    accuracy = share(~result.success)
    return graded(
        accuracy, f"accuracy {accuracy:.1%} without a bound", red=1 / len(s.model.classes)
    )


@indicator("extra runs", "Use a black-box attack, and average gradients over draws.")
def beats_random_noise(s: Subject) -> Ticks:
    """100 points on the rim of the ball know nothing of the model; they should find no more."""
    norm, eps = s.budget()
    generator = torch.Generator().manual_seed(s.seed)
    fooled = torch.zeros_like(s.y, dtype=torch.bool)
    for draw in range(100):
        noise = torch.randn(s.x.shape, generator=generator, dtype=torch.float32).to(s.x.device)
        if norm == "Linf":
            noise = noise.sign()
        else:
            noise = noise / noise.flatten(1).norm(p=int(norm[1]), dim=1)[:, None, None, None]
        fooled |= s.wrong((s.x + eps * noise).clamp(0, 1))
        yield Step(draw, 100, "random noise")
    return (yield from s.gained(fooled, "by noise", amber=0, red=0.01))


@indicator("extra runs", "Trust the black-box figure, and adapt the gradient attack.")
def beats_black_box(s: Subject) -> Ticks:
    """Square (500 queries) sees less than a gradient attack; where it finds more, one is masked."""
    norm, eps = s.budget()
    if "Square" not in available() or norm == "L1":
        raise NotApplicable(f"no Square attack for {norm}")
    result = yield from s.run(available()["Square"](norm=norm, eps=eps, n_queries=500))
    return (yield from s.gained(result.success, "by Square", amber=0.01, red=0.02))


@indicator("extra runs", "Trust the transferred figure, and adapt the attack.")
def beats_transfer(s: Subject) -> Ticks:
    """Images made for another model are within reach: an attack on this one should find them."""
    if s.surrogate is None:
        raise NotApplicable("no surrogate was given")
    result = yield from s.run(model=s.surrogate)
    return (yield from s.gained(s.wrong(result.x_adv), "by transfer", amber=0, red=0.02))
