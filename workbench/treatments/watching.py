"""`watch`: what any measure says of a model while it is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from workbench import checks
from workbench.models import Classifier, Treated, private_copy
from workbench.steps import Step, work

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
        seen.models[at] = cast("Classifier", private_copy(treated.model, share=False))
