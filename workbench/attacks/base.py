"""`Attack`: parameters with `steps`; what every attack shares."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import Field, model_validator

from workbench import checks, steps
from workbench.attacks.goals import Goal, goal_for
from workbench.attacks.norms import Norm
from workbench.attacks.problem import NO_GRADIENT, Problem
from workbench.attacks.result import AttackResult
from workbench.models import Classifier, batch_size, has_gradient, ready
from workbench.params import Parameters
from workbench.steps import Later, Step


class Attack(Parameters):
    """An attack. A new one gives `search`, and says what it can do in the class variables.

    The model is asked, never changed: gradients are taken by the images alone, and every
    random draw comes from a generator of its own, so the same seed gives the same images.
    """

    title: ClassVar[str]
    goals: ClassVar[tuple[type[Goal], ...]]
    needs_gradient: ClassVar[bool] = True
    smallest: ClassVar[bool] = False  # whether it looks for the smallest perturbation

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Try images, offering each to the problem; yields done and total."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """What results call the attack."""
        return type(self).__name__

    @property
    def distance(self) -> Norm:
        """The norm that the attack keeps small."""
        raise NotImplementedError

    @classmethod
    def keeps(cls, norm: str) -> bool:
        """Whether it can keep this norm small."""
        own = cls.model_fields.get("norm")
        return norm == cls().distance if own is None else norm in get_args(own.annotation)

    def unfit(self, model: Classifier, goal: Goal | None = None) -> str:
        """Why the attack does not fit the model or the goal; empty where it does."""
        if goal is not None and not isinstance(goal, self.goals):
            names = " or ".join(kind.__name__ for kind in self.goals)
            return f"its goal is {names}, not {type(goal).__name__}"
        if self.needs_gradient and not has_gradient(model):
            return NO_GRADIENT
        return ""

    def depends(self) -> tuple[Any, ...]:
        """What decides its result beside its code and its parameters: models that these name."""
        return ()

    def steps(
        self,
        model: Classifier,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        target: torch.Tensor | Goal | None = None,
        seed: int = 0,
        eps: torch.Tensor | None = None,
    ) -> Iterator[Step[AttackResult]]:
        """Attack images `x` `(N, C, H, W)` with labels `y` `(N,)`; each Step has a result,
        which is collected when it is first looked at.

        y: -1 where the class is not known: then the attack starts from what the model says of
        the image, and that is the label in the result. target: None for any other class,
        classes `(N,)`, or ordered classes `(N, K)`. eps: a budget for each image `(N,)`, in
        place of the parameter. Autocast and inference mode around the call do not count.

        Raises:
            TypeError, ValueError: an argument breaks its contract, or the attack does not
                fit the model or the goal.
        """
        work = self.work(model, x, y, target, seed, eps)
        try:
            while True:
                with plain(model):
                    step = next(work, None)
                if step is None:
                    return
                yield step
        finally:
            work.close()

    def work(
        self,
        model: Classifier,
        x: torch.Tensor,
        y: torch.Tensor,
        target: torch.Tensor | Goal | None,
        seed: int,
        eps: torch.Tensor | None,
    ) -> Generator[Step[AttackResult], None, None]:
        """What `steps` does, a batch after the other."""
        x, goal = self.checked(model, x, y, target)
        generator = torch.Generator().manual_seed(seed)
        budgets = self.budgets(len(x), eps, x.device)
        size, name = batch_size(model.input_shape), self.label
        problems = [
            Problem(
                model,
                x[part],
                goal.of(part),
                None if budgets is None else budgets[part],
                generator,
                norm=self.distance,
                smallest=self.smallest,
            )
            for part in torch.arange(len(x), device=x.device).split(size)
            if len(part)
        ]
        n, best_so_far = len(problems), partial(collect, name, problems, x, goal)
        for i, problem in enumerate(problems):
            everyone = torch.arange(len(problem), device=x.device)
            problem.offer(problem.x, problem.logits(problem.x, everyone), everyone)
            refuse_lost(problems[: i + 1])
            yield Later(i, n, f"{name}: the images as they are", best_so_far)
            for done, total in self.search(problem):
                message = f"{name} {done}/{total}"
                yield Later(i * total + done, total * n, message, best_so_far)
            refuse_lost(problems[: i + 1])
        result = best_so_far()
        logits: list[torch.Tensor] = []
        for part in result.x_adv.split(size):  # the images returned, asked of the model anew
            if logits:
                yield Step(n, n, f"{name}: checked {size * len(logits)}/{len(x)}", result)
            logits.append(model.predict(part).logits.float())
        final = torch.cat(logits)
        result = replace(result, logits=final, success=goal.met(final))
        yield Step(1, 1, f"{name} done", replace(result, existing=existing(model, result, goal)))

    def checked(
        self,
        model: Classifier,
        x: torch.Tensor,
        y: torch.Tensor,
        target: torch.Tensor | Goal | None,
    ) -> tuple[torch.Tensor, Goal]:
        """The images on the model's device, and the goal; see `steps`."""
        x = checks.images(x, model.input_shape, name="x")
        checks.labels(y, len(model.classes), len(x), name="y", unknown=True)
        ready(model)
        x, y = (t.clone() if t.is_inference() else t.detach() for t in (x, y))
        x, y = x.to(model.device), y.to(model.device)
        if bool((unknown := y < 0).any()):
            y = y.masked_scatter(unknown, model.predict(x[unknown]).label)
        if isinstance(target, torch.Tensor):
            target = target.clone().to(x.device)
        goal = goal_for(y, target, len(model.classes))
        reason = self.unfit(model, goal)
        if reason:
            raise ValueError(f"{type(self).__name__}: {reason}")
        return x, goal

    def __call__(
        self,
        model: Classifier,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        target: torch.Tensor | Goal | None = None,
        seed: int = 0,
        eps: torch.Tensor | None = None,
    ) -> AttackResult:
        """Run `steps` to the end."""
        return steps.run(self.steps(model, x, y, target=target, seed=seed, eps=eps))

    def budgets(
        self, n: int, eps: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor | None:
        """The budget of each image; None for attacks without one."""
        if eps is not None:
            raise ValueError(f"eps: {type(self).__name__} has no budget; it looks for the smallest")
        return None


class FixedBudget(Attack):
    """An attack inside a ball of radius eps around each image."""

    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)

    norm: Literal["Linf", "L2", "L1"] = Field("Linf", description="norm of the perturbation")
    eps: float = Field(0.3, ge=0, description="largest perturbation, in that norm")

    @model_validator(mode="after")
    def _eps_fits_the_box(self) -> FixedBudget:
        if self.norm == "Linf" and self.eps > 1:
            raise ValueError(
                f"eps: expected at most 1 in Linf, the width of the box; got {self.eps:g}"
                + (f"; of 255 levels that is eps={self.eps:g}/255" if self.eps <= 255 else "")
            )
        return self

    @property
    def distance(self) -> Norm:
        """The norm of the budget."""
        return self.norm

    def budgets(
        self, n: int, eps: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor | None:
        """The parameter for every image, or the budgets given.

        Raises:
            ValueError: not one finite budget of at least 0 an image.
        """
        if eps is None:
            return torch.full((n,), self.eps, device=device, dtype=torch.float32)
        most = 1.0 if self.norm == "Linf" else torch.finfo(torch.float32).max
        if eps.shape != (n,) or not bool(((eps >= 0) & (eps <= most)).all()):
            bounds = "at least 0" + (" and at most 1, the box" if most == 1 else "")
            raise ValueError(f"eps: expected ({n},) finite numbers of {bounds}, got {eps}")
        return eps.to(device, torch.float32)


class MinimumNorm(Attack):
    """An attack that looks for the smallest perturbation that meets the goal."""

    smallest: ClassVar[bool] = True


def refuse_lost(problems: list[Problem]) -> None:
    """Where the model says no numbers, an image is neither fooled nor robust.

    Raises:
        ValueError: such an image, and no other way to fool it was found.
    """
    lost = torch.cat([p.lost & ~p.found for p in problems]).nonzero().flatten().tolist()
    if lost:
        raise ValueError(
            f"model: it says NaN or infinity at image {lost[0]} or near it ({len(lost)} images in "
            "all), which are neither fooled nor robust"
        )


def collect(name: str, problems: list[Problem], x: torch.Tensor, goal: Goal) -> AttackResult:
    """The result so far, from what the problems keep; the model is not asked."""

    def joined(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(values) if values else x.new_zeros((0,))

    return AttackResult(
        attack=name,
        x=x,
        labels=goal.labels,
        target=getattr(goal, "target", None),
        x_adv=joined([p.best for p in problems]) if problems else x,
        last=joined([p.last for p in problems]) if problems else x,
        logits=joined([p.best_logits for p in problems]),
        success=joined([p.found for p in problems]).bool(),
        queries={
            "forwards": joined([p.forwards for p in problems]),
            "backwards": joined([p.backwards for p in problems]),
        },
        trace=tuple(problems[0].trace) if problems else (),
        remarks=tuple(remark for p in problems for remark in p.remarks),
    )


def existing(model: Classifier, result: AttackResult, goal: Goal) -> AttackResult | None:
    """The result at the nearest points that exist; None of images, all of which do."""
    if model.space is None or not len(result.x):
        return None
    real = model.space.existing(result.x_adv, result.x)
    logits = model.predict(real).logits.float()
    return replace(result, x_adv=real, logits=logits, success=goal.met(logits))


@contextmanager
def plain(model: Classifier) -> Iterator[None]:
    """Outside of inference mode and autocast: there are gradients, and numbers are float32."""
    kind = model.device.type
    with torch.inference_mode(False), torch.autocast(kind, enabled=False):
        yield
