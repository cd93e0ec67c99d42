"""Pruning: remove the weights, filters or units that count least, by explaining among others.

Yeom, Seegerer, Lapuschkin, Binder, Wiedemann, Müller, Samek: Pruning by explaining (2021).
No fine-tuning: what is left is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import checks
from workbench.concepts import (
    NORMS,
    Rule,
    by_unit,
    filter_relevance,
    hidden_layers,
    propagate,
    reference,
    study_copy,
)
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, heard, measure, private_copy
from workbench.steps import Step, work
from workbench.treatments.base import OfWeights
from workbench.treatments.sparsity import OF_WEIGHTS, remove_weights

if TYPE_CHECKING:
    import pandas as pd

Unitwise = Literal["lrp", "lrp-epsilon", "magnitude", "taylor", "gradient", "random"]
Criterion = Unitwise | Literal["activation", "second-order"]
Scores = dict[str, Tensor]  # by layer, one number a unit


@dataclass(frozen=True, eq=False)
class Pruning:
    """A model without its least important units.

    model: the copy in which they are zero. kept: by layer, in the order in which they run, bool
    `(units,)`. curve: the share of units removed and the accuracy after each step, from 0 on;
    empty without test images.
    """

    model: Classifier
    criterion: Criterion
    kept: dict[str, Tensor]
    curve: tuple[tuple[float, float], ...]

    def summary(self) -> dict[str, Any]:
        """What was removed by which criterion; accuracy before and after, if measured."""
        units = sum(len(kept) for kept in self.kept.values())
        remaining = sum(int(kept.sum()) for kept in self.kept.values())
        return {
            "criterion": self.criterion,
            "units": units,
            "removed": units - remaining,
            "share_removed": 1 - remaining / units,
            "accuracy_before": self.curve[0][1] if self.curve else None,
            "accuracy": self.curve[-1][1] if self.curve else None,
        }

    def frame(self) -> pd.DataFrame:
        """One row a layer: how many units it had, how many are kept, and their share."""
        import pandas as pd

        rows = [(name, len(kept), int(kept.sum())) for name, kept in self.kept.items()]
        table = pd.DataFrame(rows, columns=["layer", "units", "kept"])
        return table.assign(share_kept=table["kept"] / table["units"])


class Prune(OfWeights):
    """Remove the share of the weights, or of the hidden units, that counts least.

    weights: ranked over all linear and convolutional layers, each layer or each row, and set to 0;
    "taylor" and "gradient" by |gradient of the loss| with and without the weight, "activation" by
    |weight| times the norm of its inputs (Wanda; Sun et al., 2024), "second-order" by the error
    of the layer's output once the other weights of the row have made up for it (LeCun et al.,
    1990; Hassibi and Stork, 1993); no "lrp". With `update` the weights that stay do make up for
    those that go, layer after layer, by least squares on the images (as SparseGPT; Frantar and
    Alistarh, 2023). units: filters and hidden units, as `prune` does it, which names the criteria.
    """

    title: ClassVar[str] = "Pruning"
    paper: ClassVar[str] = (
        "Pruning by Explaining: A Novel Criterion for Deep Neural Network Pruning"
    )

    share: float = Field(0.5, gt=0, lt=1, description="of the weights or units removed")
    of: Literal["weights", "units"] = Field("weights", description="what is removed")
    criterion: Criterion = Field("magnitude", description="how it is ranked")
    images: int = Field(10, ge=1, le=1000, description="of each class, for what looks at images")
    scope: Literal["model", "layer", "row"] = Field(
        "model", description="of what the share is taken, where weights are removed"
    )
    update: bool = Field(False, description="let the weights that stay make up for the others")

    @property
    def needs_data(self) -> bool:
        """Magnitudes and chance need no images, unless a whole unit is weighed."""
        seen = self.criterion not in ("magnitude", "random")
        return seen or self.of == "units" or self.update

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """Relevance is of units; there have to be weights."""
        if self.of == "weights" and self.criterion.startswith("lrp"):
            return f"criterion {self.criterion!r} is of units: of='units'"
        if self.of == "units" and self.criterion in OF_WEIGHTS:
            return f"criterion {self.criterion!r} is of weights: of='weights'"
        if self.of == "units" and (self.update or self.scope != "model"):
            return "scope and update are of weights: of='weights'"
        return super().unfit(subject, data)

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """All weights at once, or units a twentieth at a time."""
        some = None if data is None or not self.needs_data else self.chosen(data, generator)
        if self.of == "weights":
            yield from remove_weights(
                model, some, generator, self.criterion, self.share, self.scope, self.update
            )
            return
        assert some is not None, "units need data"
        seed = int(torch.randint(2**31, (), generator=generator))
        step = Step[Pruning](0, 1)
        for step in prune.steps(
            model,
            some.images,
            some.labels,
            criterion=self.criterion,
            share=self.share,
            seed=seed,
        ):
            yield step.done, step.total
        assert step.value is not None
        model.load_state_dict(step.value.model.state_dict())

    def chosen(self, data: ImageDataset, generator: torch.Generator) -> ImageDataset:
        """As many images of each class, drawn at random."""
        order = torch.randperm(len(data), generator=generator)
        places = [order[data.labels[order] == k][: self.images] for k in range(len(data.classes))]
        return data[torch.cat(places)]


@work
def prune(
    model: Classifier,
    reference_images: Tensor,
    labels: Tensor,
    *,
    criterion: Criterion = "lrp",
    share: float = 0.5,
    step: float = 0.05,
    test: ImageDataset | None = None,
    seed: int = 0,
) -> Iterator[Step[Pruning]]:
    """Remove the lowest of all hidden units, `step` of them at a time, until `share` is gone.

    A unit is a filter of a convolution or an output of a linear layer; those of the last layer
    are the classes and stay. Its weights and bias become 0, and those of a batch norm that
    follows. Scores are normalised by layer, ranked over all layers, and found anew in each step.
    The reference images hold the same number of each class; a class left out may be forgotten.

    * lrp, lrp-epsilon: the relevance for the true class by either rule of `filter_relevance`,
      over the layer's sum;
    * magnitude: the sum of |weight| (Li et al., 2017), over the layer's sum;
    * taylor: |sum of activation x gradient of the loss| (Molchanov et al., 2017), over L2;
    * gradient: |sum of the gradient| (Sun et al., 2017), over L2;
    * random: the control.

    share in (0, 1), step in (0, 1]: of all hidden units; step 1 removes them at once. test: for
    the accuracy after each step. seed: of "random", and of the order of equal scores.

    Raises:
        TypeError, ValueError: an unknown criterion, a share or step out of range, images and
            labels as in `filter_relevance`, test images that do not fit; no hidden layer; for
            "lrp", a model that LRP cannot follow.
    """
    if criterion not in CRITERIA:
        raise checks.unknown("criterion", criterion, CRITERIA)
    if not 0 < share < 1:
        raise ValueError(f"share: expected a share of the units in (0, 1), got {share}")
    if not 0 < step <= 1:
        raise ValueError(f"step: expected a share of the units in (0, 1], got {step}")
    x, labels = reference(model, reference_images, labels)
    if criterion.startswith("lrp"):
        filter_relevance(model, x, labels)  # says at once what LRP cannot follow
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: len(_weights(model, name)[0]) for name in hidden_layers(model)}
    kept = {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}
    units = sum(sizes.values())
    goal = max(1, round(share * units))
    curve: tuple[tuple[float, float], ...] = ()
    followers, pruned = _norms(model, x[:1]), model
    for removed in [*range(0, goal, max(1, round(step * units))), goal]:
        more = removed - sum(int((~k).sum()) for k in kept.values())
        if more > 0:
            scores = _scores(pruned, x, labels, criterion, generator)
            kept = _fewer(kept, scores, more, generator)
        pruned = _without(model, kept, followers)
        if test is not None:
            counts = measure(pruned, test)
            curve += ((removed / units, counts["test_correct"] / counts["test_total"]),)
        value = Pruning(pruned, criterion, kept, curve)
        yield Step(removed, goal, f"{removed} of {units} units", value)


def _fewer(
    kept: dict[str, Tensor], scores: Scores, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """The units that are kept, but for the `count` lowest, over all layers."""
    sizes = [len(mask) for mask in kept.values()]
    flat = torch.cat([scores[name].where(mask, torch.inf) for name, mask in kept.items()])
    mixed = torch.randperm(len(flat), generator=generator)  # equal scores, in random order
    lowest = mixed[flat[mixed].argsort(stable=True)[:count]]
    removed = torch.zeros(len(flat), dtype=torch.bool).index_fill_(0, lowest, True).split(sizes)
    return {name: kept[name] & ~mask for name, mask in zip(kept, removed, strict=True)}


def _scores(
    model: Classifier, x: Tensor, labels: Tensor, criterion: str, generator: torch.Generator
) -> Scores:
    """The score of every unit, normalised by layer."""
    find, order = CRITERIA[criterion]
    scores = find(model, x, labels, generator)
    return {name: F.normalize(s.detach().cpu(), p=order, dim=0) for name, s in scores.items()}


def _relevance(
    model: Classifier, x: Tensor, labels: Tensor, _: torch.Generator, *, rule: Rule
) -> Scores:
    relevance = propagate(model, x, labels, rule).relevance
    return {name: values.sum(0) for name, values in relevance.items()}


def _magnitude(model: Classifier, x: Tensor, labels: Tensor, _: torch.Generator) -> Scores:
    return {n: _weights(model, n)[0].abs().flatten(1).sum(1) for n in hidden_layers(model)}


def _gradient(
    model: Classifier, x: Tensor, labels: Tensor, _: torch.Generator, *, times_output: bool
) -> Scores:
    net = study_copy(model)
    layers = {name: net.layer(name) for name in hidden_layers(model)}
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        outputs[module] = output

    with heard(layers.values(), keep), torch.enable_grad():
        loss = F.cross_entropy(net(x.clone().requires_grad_()), labels)
        gradients = torch.autograd.grad(loss, [outputs[layer] for layer in layers.values()])
    return {
        name: by_unit(g * outputs[layer] if times_output else g, layer).sum(0).abs()
        for (name, layer), g in zip(layers.items(), gradients, strict=True)
    }


def _random(model: Classifier, x: Tensor, labels: Tensor, generator: torch.Generator) -> Scores:
    sizes = {name: len(_weights(model, name)[0]) for name in hidden_layers(model)}
    return {name: torch.rand(size, generator=generator) for name, size in sizes.items()}


# How units are scored, and the order of the norm that a layer's scores are divided by.
CRITERIA: dict[str, tuple[Callable[..., Scores], float]] = {
    "lrp": (partial(_relevance, rule="z+"), 1),
    "lrp-epsilon": (partial(_relevance, rule="epsilon"), 1),
    "magnitude": (_magnitude, 1),
    "taylor": (partial(_gradient, times_output=True), 2),
    "gradient": (partial(_gradient, times_output=False), 2),
    "random": (_random, torch.inf),
}


def _weights(model: Classifier, name: str) -> list[Tensor]:
    """What belongs to the units of a layer, a row each: weight, bias, statistics."""
    layer = model.layer(name)
    tensors = (getattr(layer, key, None) for key in ("weight", "bias", "running_mean"))
    return [tensor.data for tensor in tensors if tensor is not None]


def _norms(model: Classifier, x: Tensor) -> dict[str, str]:
    """The batch norms whose input is the output of a hidden layer, by that layer."""
    net = study_copy(model)
    names = {module: name for name, module in net.body.named_modules()}
    makers: dict[int, tuple[str, Tensor]] = {}  # the tensor is held, so that its id stays its own
    norms: dict[str, str] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, NORMS) and id(inputs[0]) in makers:
            norms[makers[id(inputs[0])][0]] = names[module]
        makers[id(output)] = names[module], output

    hidden = [net.layer(name) for name in hidden_layers(model)]
    with heard([*hidden, *(m for m in names if isinstance(m, NORMS))], note), torch.no_grad():
        net(x)
    return norms


def _without(model: Classifier, kept: dict[str, Tensor], norms: dict[str, str]) -> Classifier:
    """A copy in which the units that are not kept are zero."""
    copy = cast(Classifier, private_copy(model, share=False))
    for name, rows in kept.items():
        for place in (name, norms.get(name, name)):
            for tensor in _weights(copy, place):
                tensor[~rows.to(tensor.device)] = 0
    update = {"name": f"{model.card.name}, pruned", "test_correct": None, "robust_correct": None}
    copy.card = model.card.model_copy(update=update)
    return copy
