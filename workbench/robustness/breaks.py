"""How far one image has to be changed before the answer breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench import checks
from workbench.attacks import FixedBudget
from workbench.models import Classifier
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

RADII = 12  # budgets tried beside 0


@dataclass(frozen=True, eq=False)
class Breaking:
    """One image under an attack at rising budgets.

    radii: `(R,)`, ascending from 0. images: `(R, C, H, W)`, the image as attacked inside each.
    probabilities: `(R, K)`, what the model says of them. label: the answer that is to break.
    """

    model: str
    attack: str
    classes: tuple[str, ...]
    label: int
    radii: Tensor
    images: Tensor
    probabilities: Tensor

    @property
    def predicted(self) -> Tensor:
        """The answer at each radius, int64 `(R,)`."""
        return self.probabilities.argmax(1)

    @property
    def breaks(self) -> float | None:
        """The smallest radius tried at which the answer is another; None where it holds."""
        broken = (self.predicted != self.label).nonzero().flatten()
        return float(self.radii[broken[0]]) if len(broken) else None

    def summary(self) -> dict[str, Any]:
        """The model, the attack, the answer, and where it breaks."""
        breaks, answer = self.breaks, self.classes[self.label]
        return {"model": self.model, "attack": self.attack, "answer": answer, "breaks_at": breaks}

    def frame(self) -> pd.DataFrame:
        """One row a radius: the answer, its confidence, and that of the first answer."""
        import pandas as pd

        names = [self.classes[k] for k in self.predicted.tolist()]
        own = self.probabilities[:, self.label].tolist()
        columns = {"predicted": names, "confidence": self.probabilities.amax(1).tolist()}
        return pd.DataFrame({"eps": self.radii.tolist(), **columns, "of the first answer": own})


@work
def breaking(
    model: Classifier,
    x: Tensor,
    attack: FixedBudget,
    *,
    label: int | None = None,
    radii: int = RADII,
    seed: int = 0,
) -> Iterator[Step[Breaking]]:
    """Attack one image `(1, C, H, W)` in `radii` budgets up to `attack.eps`, all at once.

    An image inside a small ball lies inside the larger ones too: it stands for these where their
    own search ended at one of which the model is surer. label: the class to leave; by default
    the model's answer.

    Raises:
        TypeError, ValueError: an attack without a budget, not one image, no radius, an eps of 0;
            what the attack raises.
    """
    if not isinstance(attack, FixedBudget):
        raise TypeError(f"attack: expected one with a budget, such as PGD, got {attack.label}")
    checks.positive("radii", radii)
    if attack.eps == 0:
        raise ValueError("attack.eps: expected a budget above 0, got 0")
    x = checks.images(x, model.input_shape, name="x")
    if len(x) != 1:
        raise ValueError(f"x: expected one image, (1, C, H, W), got {tuple(x.shape)}")
    start = model.predict(x)
    label = int(start.label[0]) if label is None else label
    budgets = torch.linspace(0, attack.eps, radii + 1)
    many, labels = x.expand(radii, *x.shape[1:]), torch.full((radii,), label)
    for step in attack.steps(model, many, labels, seed=seed, eps=budgets[1:]):
        result = step.value
        if result is None:
            continue
        images, chances = [x[0]], [start.probabilities[0]]
        for image, own in zip(result.x_adv.cpu(), result.logits.softmax(1).cpu(), strict=True):
            weaker = bool(own[label] > chances[-1][label])
            images.append(images[-1] if weaker else image)
            chances.append(chances[-1] if weaker else own)
        value = Breaking(
            model=model.card.name,
            attack=attack.code(),
            classes=model.classes,
            label=label,
            radii=budgets,
            images=torch.stack(images),
            probabilities=torch.stack(chances),
        )
        yield Step(step.done, step.total, step.message, value)
