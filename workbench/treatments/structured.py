"""Structured pruning: units are cut out of a network, or trained until they can be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.concepts import NORMS
from workbench.data import ImageDataset
from workbench.models import Classifier, Run, ready
from workbench.treatments.base import OfWeights, Training, share_of, weighted
from workbench.treatments.flows import Follow

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4  # of the largest logit: sums over fewer numbers round otherwise


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a model, numbered from 0: channels, hidden numbers, and what goes with them.

    rows, columns: by the name of a tensor of the model, the unit that each row (dimension 0)
    makes, or each column (dimension 1) takes. idle: bool `(units,)`, whether it can go without a
    change of any answer: wherever it is taken it is always zero, or has weights of zero only.
    fixed: why a unit cannot be cut, by its number.
    """

    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    idle: Tensor
    fixed: dict[int, str]

    def sets(self) -> dict[str, Tensor]:
        """The units that can be cut, by the first layer that makes them, in the order they run."""
        found, seen = {}, set(self.fixed)
        for name, made in self.rows.items():
            if new := [u for u in dict.fromkeys(made.tolist()) if u not in seen]:
                found[layer_of(name)] = torch.tensor(new)
                seen.update(new)
        return found

    def product(self, model: nn.Module, other: Mapping[str, Tensor]) -> Tensor:
        """`(units,)`: of the weights and biases that make a unit with those that `other` names."""
        total = torch.zeros(len(self.idle))
        for name, tensor in model.named_parameters():
            if name in self.rows:
                both = (tensor.detach() * other[name].detach()).reshape(len(tensor), -1).sum(1)
                total.index_add_(0, self.rows[name], both.cpu())
        return total

    def size(self, model: nn.Module) -> Tensor:
        """`(units,)`: the L2 norm of all weights and biases that make a unit."""
        return self.product(model, dict(model.named_parameters())).sqrt()

    def scale(self, model: nn.Module, factor: Tensor) -> None:
        """Multiply the weights and biases that make each unit by its factor, `(units,)`."""
        for name, tensor in model.named_parameters():
            if name in self.rows:
                rows = factor[self.rows[name]].to(tensor)
                tensor.data.mul_(rows.view(-1, *[1] * (tensor.ndim - 1)))

    def frame(self) -> pd.DataFrame:
        """One row a layer: its units, how many are idle, and why it cannot be cut, if so."""
        import pandas as pd

        rows = {
            layer_of(name): {
                "units": len(made),
                "idle": int(self.idle[made].sum()),
                "fixed": next((self.fixed[u] for u in made.tolist() if u in self.fixed), ""),
            }
            for name, made in self.rows.items()
        }
        return pd.DataFrame(rows).T.rename_axis("layer").reset_index()


def layer_of(name: str) -> str:
    """The layer that a tensor of a classifier belongs to."""
    return name.rpartition(".")[0].removeprefix("body.")


def units(model: Classifier) -> Units:
    """The units of a model, found by following one pass of two grey images.

    Followed are convolutions (depthwise too), linear layers, batch norms, sums, concatenations,
    and what works on each number alone with f(0) = 0, or moves, picks or averages within units.
    Units that go into anything else, or are the answers, are fixed.

    Raises:
        ValueError: a model in train mode.
    """
    ready(model)
    follow = Follow(model)
    grey = torch.full((2, *model.input_shape), 0.5, device=model.device, dtype=torch.float32)
    with torch.no_grad(), follow:
        logits = model(grey)
    if id(logits) in follow.flows:
        follow.fix(follow.flows[id(logits)].unit, "is an answer")
    roots = torch.tensor([follow.root(u) for u in range(len(follow.same))], dtype=torch.int64)
    kinds, number = roots.unique(return_inverse=True)
    rows, columns = ({n: number[u] for n, u in t.items()} for t in (follow.rows, follow.columns))
    unseen = set(range(len(kinds))) - {u for taken in columns.values() for u in taken.tolist()}
    fixed = dict.fromkeys(unseen, "goes where it is not seen")
    fixed |= {int(number[u]): why for u, why in follow.fixed.items()}
    idle = torch.ones(len(kinds), dtype=torch.bool)
    idle[[*fixed, *(int(number[u]) for u in follow.used)]] = False
    return Units(rows, columns, idle, fixed)


class Cut(OfWeights):
    """Take out the units that are always zero, or that nothing uses; the answers stay the same.

    With a share, the smallest units of each layer are set to zero first: by the L2 norm of all
    that makes a unit. `units` says what goes together, and what cannot be cut.
    """

    title: ClassVar[str] = "Cutting out units that are zero"

    share: float = Field(0.0, ge=0, lt=1, description="of each layer's units, set to zero first")

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """Until nothing is idle: a unit may have been the last to use another."""
        found = units(model)
        if self.share:
            found.scale(model, (~smallest(found, model, self.share)).float())
            found = units(model)
        while bool(found.idle.any()):
            take_out(model, found)
            found = units(model)
        for name, layer in weighted(model).items():
            empty = (layer.weight.detach().flatten(1) == 0).all(1).cpu()
            if name + ".weight" in found.rows and layer.bias is None and bool(empty.any()):
                first = int(found.rows[name + ".weight"][empty][0])
                why = found.fixed.get(first, "is added to others that are not zero")
                message = f"{layer_of(name + '.weight')}: a unit of zeros stays, since it {why}"
                warnings.warn(message, stacklevel=2)
        yield 1, 1


def smallest(found: Units, model: Classifier, share: float) -> Tensor:
    """bool `(units,)`: the share of each layer's units that are smallest.

    Raises:
        ValueError: no layer can be cut, or one would be left without units; it is named.
    """
    size, chosen = found.size(model), torch.zeros(len(found.idle), dtype=torch.bool)
    for name, members in found.sets().items():
        count = share_of(len(members), share)
        if count == len(members):
            raise ValueError(
                f"share={share:g} would leave nothing of {name}, which has {count} units; take less"
            )
        chosen[members[size[members].argsort(stable=True)[:count]]] = True
    if not found.sets():
        row = found.frame().iloc[0]
        raise ValueError(f"no layer can be cut; {row['layer']}: its output {row['fixed']}")
    return chosen


def take_out(model: Classifier, found: Units) -> None:
    """Take the idle units out of the weights of a model.

    Raises:
        ValueError: nothing of a layer would be left; the model counts on its sizes elsewhere.
    """
    keep = (~found.idle).to(model.device)
    for name, made in found.rows.items():
        if bool(found.idle[made].all()):
            raise ValueError(
                f"{layer_of(name)}: all of its {len(made)} units are zero, or used by nothing, so "
                "that nothing of it would be left; remove less"
            )
    noise = torch.rand((4, *model.input_shape), generator=torch.Generator().manual_seed(0))
    images = noise.to(model.device)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        said = model(images)
        for name, made in found.rows.items():
            tensors[name].data = tensors[name].data[keep[made]]
        for name, taken in found.columns.items():
            tensors[name].data = tensors[name].data[:, keep[taken]]
        for part in model.modules():
            resize(part)
        try:
            now = model(images)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the model counts on the sizes of its layers ({error})") from error
    if not float((now - said).abs().max()) <= TOLERANCE * max(1.0, float(said.abs().max())):
        raise ValueError(
            "the answers changed: a part of the model is not seen when it runs (is it compiled?)"
        )


def resize(part: nn.Module) -> None:
    """Let a layer say the sizes that its weights have."""
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if part.groups == part.in_channels == part.out_channels:  # depthwise
            part.groups = len(part.weight)
        part.out_channels, part.in_channels = len(part.weight), part.weight.shape[1] * part.groups
    elif isinstance(part, NORMS) and part.running_mean is not None:
        part.num_features = len(part.running_mean)


class OnlyTrainOnce(Training):
    """Units go to zero while the rest is trained, and `Cut` takes them out (OTOv2, 2023).

    At `start` of the training the smallest units of each layer are chosen. The gradient then
    pulls each of them towards zero with the same strength. One that a step has taken out of the
    half-space of its old weights, where the product with them is positive, is zero from then on;
    at `stop` all are.
    """

    title: ClassVar[str] = "Units to zero in one training (OTO)"
    paper: ClassVar[str] = "OTOV2: Automatic, Generic, User-Friendly"

    share: float = Field(0.5, gt=0, lt=1, description="of each layer's units that go")
    pull: float = Field(1.0, ge=0, le=1000, description="strength, as the length of a gradient")
    start: float = Field(0.25, ge=0, lt=1, description="share of the training before the choice")
    stop: float = Field(0.8, gt=0, le=1, description="share of the training when all are zero")

    def prepare(self, run: Run) -> None:
        """Find the units; says at once where the share would empty a layer."""
        run.aside[self] = units(run.model)
        self.choose(run)

    def choose(self, run: Run) -> Tensor:
        """bool `(units,)`: those that are to go."""
        return smallest(run.aside[self], run.model, self.share)

    def gradients(self, run: Run) -> None:
        """Choose, where it is time; pull at what was chosen, and remember it."""
        found, kept = run.aside[self], run.state(self)
        if "going" not in kept:
            if run.progress < self.start and run.step + 1 < run.total:
                return
            kept["going"] = self.choose(run)
            kept["gone"] = torch.zeros_like(kept["going"])
        force = self.pull * kept["going"] / found.size(run.model).clamp(min=1e-12)
        run.aside[self, "old"] = {n: p.detach().clone() for n, p in run.model.named_parameters()}
        for name, tensor in run.model.named_parameters():
            if name in found.rows and tensor.grad is not None:
                rows = force[found.rows[name]].to(tensor).view(-1, *[1] * (tensor.ndim - 1))
                tensor.grad += rows * tensor.detach()

    def after(self, run: Run) -> None:
        """Set to zero what has left its half-space, and in the end whatever was chosen."""
        found, kept = run.aside[self], run.state(self)
        if "going" in kept:
            left = found.product(run.model, run.aside[self, "old"]) <= 0
            late = run.progress >= self.stop or run.step + 1 == run.total
            kept["gone"] |= kept["going"] & (left | late)
            found.scale(run.model, (~kept["gone"]).float())
