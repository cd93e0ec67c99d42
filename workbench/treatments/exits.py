"""A network that answers as soon as it is sure: exits on its layers, and what an answer costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench import checks
from workbench.attacks import PGD, Attack, AttackResult, Targeted
from workbench.data import ImageDataset
from workbench.models import (
    Classifier,
    Operations,
    Recipe,
    batch_size,
    heard,
    measurable,
    ready,
    unmeasured,
)
from workbench.treatments.base import OfWeights
from workbench.treatments.ensembling import fit_heads, tapped

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 20  # images with labels to fit heads on
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)


class MultiExit(nn.Module):
    """A network with linear heads on some of its layers; the first exit that is sure answers.

    The last of the M exits is the network's own answer. layers: in the order they run. Here every
    exit computes, whoever answers; `routed` counts what is spent until the answer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], threshold: float) -> None:
        super().__init__()
        self.network, self.heads = network, nn.ModuleList()
        self.layers, self.threshold, self.soft = list(layers), threshold, False

    def soften(self) -> None:
        """From now on the mean of all exits: an attacker moves also those that answer next."""
        self.soft = True

    def features(self, x: Tensor) -> list[Tensor]:
        """What the heads see, `(N, D)` each, and the logits of the last exit."""
        with tapped(self.network, self.layers) as found:
            last = self.network(x)
        return [*(parts[0] for parts in found.values()), last]

    def every(self, x: Tensor) -> Tensor:
        """The logits of all exits, `(N, M, K)`."""
        *seen, last = self.features(x)
        heads = [head(z) for head, z in zip(self.heads, seen, strict=True)]
        return torch.stack([*heads, last], 1)

    def sure(self, logits: Tensor, threshold: float | None = None) -> Tensor:
        """By how much each early exit is surer than the threshold, `(N, M - 1)`, in log odds."""
        top, label = logits[:, :-1].max(2, keepdim=True)
        others = logits[:, :-1].scatter(2, label, -torch.inf).logsumexp(2)
        odds = torch.logit(torch.tensor(self.threshold if threshold is None else threshold))
        return top[:, :, 0] - others - float(odds)

    def taken(self, logits: Tensor, threshold: float | None = None) -> Tensor:
        """The exit that answers, int64 `(N,)`: the first that is sure, or the last."""
        sure = self.sure(logits, threshold) > 0
        return torch.cat([sure, torch.ones_like(sure[:, :1])], 1).int().argmax(1)

    def forward(self, x: Tensor) -> Tensor:
        """The logits `(N, K)` of the exit that answers."""
        logits = self.every(x)
        if self.soft:
            return logits.log_softmax(2).mean(1)
        return logits[torch.arange(len(logits), device=logits.device), self.taken(logits)]


class Exits(OfWeights):
    """Exits on hidden layers: linear heads, fitted on training images; the network stays.

    Sure images leave early (BranchyNet: Teerapittayanon et al., 2016). `routed` says who leaves
    where, `cost_curve` what other thresholds cost; `slow_down` is the attack on what is saved.
    """

    title: ClassVar[str] = "Exits on hidden layers"

    exits: int = Field(2, ge=1, le=64, description="early exits, evenly spaced in multiply-adds")
    threshold: float = Field(0.9, gt=0, lt=1, description="confidence above which one answers")
    layers: tuple[str, ...] = Field((), description="where the exits are, in place of that")
    epochs: int = Field(15, ge=1, le=1000, description="passes over the features, for each head")

    @property
    def needs_data(self) -> bool:
        """The heads are fitted."""
        return True

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """A plain network, and images with labels."""
        if reason := super().unfit(subject, data):
            return reason
        if type(subject) is not Classifier:
            return f"a {type(subject).__name__} is asked about its parts; take a plain network"
        if isinstance(subject.body, MultiExit):
            return "the model has exits; change their threshold, or take what it was made from"
        if data is not None and (n := int((data.labels >= 0).sum())) < FEWEST:
            return f"data: expected at least {FEWEST} images with labels, got {n}"
        return ""

    def placed(self, model: Classifier) -> list[str]:
        """The layers that have an exit, in the order they run."""
        runs = model.listing().runs
        names = [name for name in model.layers() if runs[name] == 1]
        for name in self.layers:
            if name not in names:
                raise checks.unknown("layer that runs once a pass", name, names)
        if self.layers:
            return [name for name in names if name in self.layers]
        *at, whole = spent(model, [model.body.get_submodule(name) for name in names])
        at_cost = {macs: name for macs, name in zip(at, names, strict=True) if 0 < macs < whole}
        if len(at_cost) < self.exits:
            raise ValueError(
                f"exits: expected at most {len(at_cost)}, the costs that its layers are at, got "
                f"{self.exits}; take fewer, or name layers"
            )
        chosen: list[int] = []
        for k in range(self.exits):  # the nearest to each part of the whole that is left
            ideal = (k + 1) * whole / (self.exits + 1)
            chosen.append(min(at_cost.keys() - chosen, key=lambda macs: abs(macs - ideal)))
        return [at_cost[macs] for macs in sorted(chosen)]

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """The features of the training images, batch by batch; then a head a layer."""
        assert data is not None
        data = measurable(data, model)
        data = data[data.labels >= 0]
        body = MultiExit(model.body, self.placed(model), self.threshold).eval()

        def seen(x: Tensor) -> list[Tensor]:
            return body.features(model.normalised(x))[:-1]

        yield from fit_heads(body, seen, data, len(model.classes), self.epochs, generator)
        model.body = body.eval()


def spent(model: Classifier, modules: Sequence[nn.Module]) -> list[int]:
    """Multiply-adds of one image when each module has run, and in all."""
    marks: dict[nn.Module, int] = {}
    grey = torch.full((1, *model.input_shape), 0.5, device=model.device, dtype=torch.float32)
    counter = Operations()

    def note(module: nn.Module, *_: object) -> None:
        marks[module] = counter.n // 2

    with heard(modules, note), counter, torch.no_grad():
        model(grey)
    return [*(marks[module] for module in modules), counter.n // 2]


def exit_costs(model: Classifier) -> Tensor:
    """The multiply-adds until each exit has answered, with the heads before it: int64 `(M,)`."""
    body = with_exits(model)
    *at, whole = spent(model, [body.network.get_submodule(name) for name in body.layers])
    heads = torch.tensor([head.weight.numel() for head in body.heads]).cumsum(0)
    return torch.cat([torch.tensor(at) + heads, torch.tensor([whole])])


def with_exits(model: Classifier) -> Any:
    """The body of a model that has exits.

    Raises:
        ValueError: it has none, or is in train mode.
    """
    ready(model)
    if not isinstance(model.body, MultiExit):
        raise ValueError(f"model: {model.card.name} has no exits; make some by treatments.Exits()")
    return model.body


def exit_logits(model: Classifier, x: Tensor) -> Tensor:
    """What every exit says of images `(N, C, H, W)` in [0, 1]: logits `(N, M, K)`.

    Raises:
        ValueError: a model without exits, or images that break the contract.
    """
    body, x = with_exits(model), checks.images(x, model.input_shape)
    parts = x.split(batch_size(model.input_shape, 512))
    with torch.no_grad():
        return torch.cat([body.every(model.normalised(p.to(model.device))).cpu() for p in parts])


def routed(model: Classifier, x: Tensor) -> pd.DataFrame:
    """One row an image: the exit that answers (from 0), the multiply-adds until then, the class
    it says, and its confidence. As `exit_logits`."""
    import pandas as pd

    logits = exit_logits(model, x)
    exits = with_exits(model).taken(logits)
    sure, label = logits[torch.arange(len(x)), exits].softmax(1).max(1)
    names = [model.classes[k] for k in label.tolist()]
    columns = {"exit": exits.tolist(), "macs": exit_costs(model)[exits].tolist()}
    return pd.DataFrame({**columns, "predicted": names, "confidence": sure.tolist()})


def cost_curve(
    model: Classifier, dataset: ImageDataset, thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Accuracy against cost: one row a threshold, the images asked once.

    macs: mean multiply-adds of an image; exit 0, exit 1, ...: the share that leaves there.

    Raises:
        ValueError: a model without exits, a threshold outside of (0, 1), or data that do not fit.
    """
    import pandas as pd

    if odd := [t for t in thresholds if not 0 < t < 1]:
        raise ValueError(f"thresholds: expected numbers between 0 and 1, got {odd[0]}")
    body, dataset = with_exits(model), measurable(dataset, model)
    dataset, costs, rows = dataset[dataset.labels >= 0], exit_costs(model), []
    logits = exit_logits(model, dataset.images)
    for threshold in thresholds:
        exits = body.taken(logits, threshold)
        right = logits[torch.arange(len(logits)), exits].argmax(1) == dataset.labels
        means = {
            "accuracy": float(right.float().mean()),
            "macs": float(costs[exits].float().mean()),
        }
        shares = (exits.bincount(minlength=len(costs)) / len(exits)).tolist()
        each = {f"exit {i}": share for i, share in enumerate(shares)}
        rows.append({"threshold": threshold, **means, **each})
    return pd.DataFrame(rows)


class Leaving(nn.Module):
    """Logits `(N, M - 1 + K)`: a class for each early exit, then what the last exit says."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The largest is the exit that answers, or the class that the last exit says."""
        body: Any = self.model.body
        logits = body.every(self.model.normalised(x))
        sure, last = body.sure(logits), logits[:, -1] - logits[:, -1].amax(1, keepdim=True)
        before, _ = sure.cummax(1)  # an exit answers where it is sure and none before it is
        later = torch.minimum(sure[:, 1:], -before[:, :-1])
        return torch.cat([sure[:, :1], later, last - before[:, -1:]], 1)


def leaving(model: Classifier) -> Classifier:
    """A model with exits as one that says where an image leaves, for every view and attack.

    Its classes are the early exits, then the classes as the last exit says them.

    Raises:
        ValueError: a model without exits.
    """
    layers = with_exits(model).layers
    names = [*(f"leaves at {n}" for n in layers), *(f"last: {k}" for k in model.classes)]
    card = unmeasured(model.card, name=f"{model.card.name}, leaving", classes=tuple(names))
    return Classifier(Leaving(model), card)


def slow_down(
    model: Classifier, x: Tensor, attack: Attack | None = None, *, seed: int = 0
) -> AttackResult:
    """Move images until they go to the last exit, and are answered as the model answers now.

    A targeted attack on `leaving(model)`, which the result is of; the goal is that of Haque and
    Yang (2023). attack: one with a targeted goal; PGD(eps=0.1) when None.

    Raises:
        ValueError: a model without exits, or an attack that has no such goal.
    """
    attack, watched = PGD(eps=0.1) if attack is None else attack, leaving(model)
    early = len(model.body.layers)  # type: ignore[arg-type]
    target = early + model.predict(x).label
    goal = Targeted(torch.zeros_like(target), target)  # from whatever exit it leaves at now
    return attack(watched, x, goal.labels, target=goal, seed=seed)
