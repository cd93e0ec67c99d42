"""`watch`: what any measure says of a model while it is trained; `LayerStrip`, layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from workbench import checks
from workbench.models import Classifier, Hooks, Run, Treated, private_copy
from workbench.steps import Step, work
from workbench.treatments.base import weighted

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[Classifier], float]


@dataclass(frozen=True, eq=False)
class Watched:
    """A training as far as it is: one row a look, and what it has come to.

    models: by step, copies of the model as it was, where they are kept.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    models: dict[int, Classifier] = field(default_factory=dict)
    treated: Treated | None = None

    def frame(self) -> pd.DataFrame:
        """One row a look: the step, the images and backward passes until then, the measures."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def summary(self) -> dict[str, Any]:
        """The last look."""
        return dict(self.rows[-1]) if self.rows else {}


@work
def watch(
    steps: Iterator[Step[Treated]],
    measures: Mapping[str, Measure],
    *,
    looks: int = 12,
    keep: bool = False,
) -> Iterator[Step[Watched]]:
    """Go through a training, and measure the model at `looks` steps, evenly on a log scale.

    steps: of `models.fit.steps(...)` or of a treatment. measures: by name, from the model in eval
    mode to a number; their passes are not entered into the ledger. keep: keep a copy at each look.

    Raises:
        ValueError: no looks; what the training raises.
    """
    checks.positive("looks", looks)
    seen, spent, step = Watched(), 0.0, Step[Treated](0, 1)
    for step in steps:
        looked = bool(seen.rows) and seen.rows[-1]["step"] == step.done
        if step.value is not None and not looked and step.done in spread(step.total, looks):
            start = time.perf_counter()
            look(seen, step.done, step.value, measures, keep)
            spent += time.perf_counter() - start
        seen = Watched(seen.rows, seen.models, step.value)
        yield Step(step.done, step.total, step.message, seen)
    if step.value is not None:
        step.value.ledger.seconds -= spent  # the looks are no part of the training


def spread(total: int, looks: int) -> list[int]:
    """Steps from 1 to `total`, evenly on a log scale; fewer than `looks` where they coincide."""
    if looks == 1:
        return [total]
    return sorted({round(total ** (i / (looks - 1))) for i in range(looks)})


def look(
    seen: Watched, at: int, treated: Treated, measures: Mapping[str, Measure], keep: bool
) -> None:
    """Enter one look at a model that is being trained."""
    ledger = treated.ledger
    before = dict(vars(ledger))
    values = {name: float(measure(treated.model)) for name, measure in measures.items()}
    vars(ledger).update(before)
    costs = {"images": ledger.images, "backwards": ledger.backwards}
    seen.rows.append({"step": at, **costs, **values})
    if keep:
        twin = cast("Classifier", private_copy(treated.model, share=False))
        twin._forward_hooks.clear()  # the training counts the passes of its own model alone
        seen.models[at] = twin


class LayerStrip(Hooks):
    """What each layer goes through in a run: give it to `models.fit` as the last treatment.

    At `looks` steps, evenly on a log scale, one row a layer with weights: `gradient`, the norm of
    the weight's gradient; `noise`, that of its change since the step before, over it; `update`,
    the norm of what the step moved, over that of the weights. Layers whose weight is computed (a
    parametrisation) are left out. It changes nothing.
    """

    def __init__(self, looks: int = 12) -> None:
        checks.positive("looks", looks)
        self.looks = looks
        self.rows: list[dict[str, Any]] = []
        self._before: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def frame(self) -> pd.DataFrame:
        """One row a look and layer."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def gradients(self, run: Run) -> None:
        """Keep the gradients of the step before a look, and the weights before it."""
        due = spread(run.total, self.looks)
        weights = parameters(run)
        self._before, self._weights = self._gradients, {}
        if {run.step + 1, run.step + 2} & {*due}:
            self._gradients = {n: w.grad.clone() for n, w in weights.items() if w.grad is not None}
        if run.step + 1 in due:
            self._weights = {n: w.detach().clone() for n, w in weights.items()}

    def after(self, run: Run) -> None:
        """One row a layer, where this step is looked at."""
        weights = parameters(run)
        for name, before in self._weights.items():
            slope = self._gradients.get(name, torch.zeros_like(before))
            size = float(slope.norm())
            last = self._before.get(name)
            noise = float("nan") if last is None else float((slope - last).norm()) / (size or 1.0)
            moved = float((weights[name].detach() - before).norm() / before.norm().clamp_min(1e-12))
            values = {"gradient": size, "noise": noise, "update": moved}
            self.rows.append({"step": run.step + 1, "layer": name, **values})


def parameters(run: Run) -> dict[str, Tensor]:
    """The weights that are parameters themselves, by layer."""
    each = weighted(run.model.body).items()
    return {name: layer.weight for name, layer in each if layer.weight.is_leaf}
