"""What each hidden unit gives to an answer: layer-wise relevance propagation, by captum.

Bach et al. (2015). As a criterion for pruning: Yeom et al. (2021), see `treatments.prune`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from workbench import checks
from workbench.models import Classifier, heard, private_copy, ready

if TYPE_CHECKING:
    import pandas as pd

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What keeps or averages its input: there captum's epsilon rule conserves relevance.
CARRIED: tuple[type[nn.Module], ...] = (
    *(nn.Flatten, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
PASSED = (nn.ReLU, nn.Dropout, nn.Tanh)  # captum hands relevance through them as it is
LEAK = 0.1  # share of the relevance that may get lost or gained before it is said
Rule = Literal["z+", "epsilon"]


@dataclass(frozen=True, eq=False)
class Relevance:
    """What the units of each hidden layer give to the logits of the labels.

    relevance: by layer, in the order in which they run, `(N, units)`; positions are summed.
    start: the logit that each image starts with, `(N,)`.
    """

    relevance: dict[str, Tensor]
    start: Tensor
    rule: Rule

    def leaks(self) -> dict[str, float]:
        """By layer, the share of the relevance lost or gained on the way to it; 0 if conserved.

        Of layers that run side by side each has its part only.
        """
        total = self.start.abs().sum()
        return {
            k: float((v.sum(1) - self.start).abs().sum() / total) for k, v in self.relevance.items()
        }

    def summary(self) -> dict[str, Any]:
        """How many images, the rule, and the leak of each layer."""
        return {"images": len(self.start), "rule": self.rule, "leaks": self.leaks()}

    def frame(self) -> pd.DataFrame:
        """One row a unit: its layer, its number, and its mean relevance."""
        import pandas as pd

        parts = {k: pd.Series(v.mean(0).numpy()) for k, v in self.relevance.items()}
        return pd.concat(parts, names=["layer", "unit"]).rename("relevance").reset_index()


def filter_relevance(
    model: Classifier, images: Tensor, labels: Tensor, *, rule: Rule = "z+"
) -> Relevance:
    """Hand the logit of each image's label back through the layers, to their filters and units.

    rule: of convolutions and linear layers. "z+" shares relevance out by the positive parts of
    the weights and leaves biases out (Yeom et al., 2021); "epsilon" by all contributions, and
    what biases contribute is lost. Batch normalisation hands relevance through.

    Warns where more than a tenth of the relevance is lost or gained on the way to a layer, in a
    model whose layers follow one another.

    Raises:
        TypeError, ValueError: images or labels that break the contract, or more images of one
            class than of another (a class may be left out); a layer that captum's LRP cannot
            follow, one that runs twice, or a sum of two branches that is no layer: captum would
            count it twice.
    """
    if rule not in ("z+", "epsilon"):
        raise checks.unknown("rule", rule, ["z+", "epsilon"])
    x, labels = reference(model, images, labels)
    _followable(study_copy(model), x[:1].clone())
    result = propagate(model, x, labels, rule)
    leaks = result.leaks()
    in_line = not any(is_sum(module) for module in model.modules())
    if in_line and max(leaks.values()) > LEAK:
        shares = ", ".join(f"{name} {leak:.0%}" for name, leak in leaks.items())
        warnings.warn(
            f"{model.card.name}: relevance is not conserved: biases keep it (rule='epsilon'), "
            "units without positive input lose it ('z+'), functions that are no layers change "
            f"it; lost or gained on the way to {shares}",
            stacklevel=2,
        )
    return result


def propagate(model: Classifier, x: Tensor, labels: Tensor, rule: Rule = "z+") -> Relevance:
    """`filter_relevance` without its checks."""
    from captum.attr import LayerLRP  # brings matplotlib
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, IdentityRule

    net = study_copy(model)
    carried: list[nn.Module] = []
    layer: Any
    for layer in net.modules():
        kind = type(layer)
        if issubclass(kind, WEIGHTED) and rule == "z+":  # shares by w+ x / sum of w+ x
            layer.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
        elif issubclass(kind, (*WEIGHTED, *CARRIED)) or is_sum(layer):
            layer.rule = EpsilonRule()
            carried.append(layer)
        elif issubclass(kind, NORMS):  # one factor a channel: it moves no relevance between units
            layer.rule = IdentityRule()
    with torch.no_grad():
        start = net(x).gather(1, labels[:, None])[:, 0]
    layers = {name: net.layer(name) for name in hidden_layers(model)}
    # Captum's hooks get mixed up where the output is the input itself, as of Identity.
    with heard(carried, lambda _, __, output: output.clone()):
        parts = LayerLRP(net, list(layers.values())).attribute(
            x.clone().requires_grad_(), target=labels
        )
    values = {k: by_unit(r, layers[k]).detach().cpu() for k, r in zip(layers, parts, strict=True)}
    return Relevance(values, start.cpu(), rule)


def reference(model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Reference images and their labels on the model's device, checked as in `filter_relevance`."""
    ready(model)
    x = checks.images(images, model.input_shape).to(model.device)
    checks.labels(labels, len(model.classes), len(x))
    counts = labels.bincount(minlength=len(model.classes)).tolist()
    if len(set(counts) - {0}) != 1:
        raise ValueError(
            f"labels: expected as many images of one class as of another, got {counts}; "
            "data.sample(n, per_class=True) draws n of each"
        )
    return x, labels.to(model.device)


def hidden_layers(model: Classifier) -> list[str]:
    """Names of the convolutions and linear layers in the order they run, without the last.

    Raises:
        ValueError: there are none.
    """
    places = model.listing().places  # a layer that runs twice has its weights once
    names = [
        n for n, (module, _, call) in places.items() if call == 1 and isinstance(module, WEIGHTED)
    ]
    head = model.linear_head()
    last = next((name for name in names if model.layer(name) is head), names[-1] if names else "")
    if len(names) < 2:
        raise ValueError(f"model: {model.card.name} has no hidden convolution or linear layer")
    return [name for name in names if name != last]


def is_sum(module: nn.Module) -> bool:
    """Whether it is captum's layer for a sum of branches."""
    return type(module).__name__ == "Addition_Module"


def study_copy(model: Classifier) -> Classifier:
    """A copy to take apart: nothing works in place, and gradients stop at the input."""
    net = cast(Classifier, private_copy(model, share=False).requires_grad_(False))
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return net


def by_unit(values: Tensor, layer: nn.Module) -> Tensor:
    """Sums over positions: `(N, units)` of what has the shape of the layer's output."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    return values.movedim(axis, 1).reshape(len(values), values.shape[axis], -1).sum(2)


class _Joins(TorchFunctionMode):
    """Runs a model; stops where tensors that depend on the input meet outside of layers."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        super().__init__()
        self.names, self.running = names, list[nn.Module]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        block = self.running[-1]
        if sum(t.requires_grad for t in inputs) > 1 and list(block.children()):
            raise ValueError(
                f"model: {self.names[block]} ({type(block).__name__}) joins branches by the "
                f"function {func.__name__!r}, where captum's LRP counts relevance twice; make it a "
                "layer (captum's Addition_Module for a sum), or take another criterion"
            )
        return func(*args, **(kwargs or {}))


def _followable(net: Classifier, x: Tensor) -> None:
    """Check, on one image, that captum's LRP sees all that the model does.

    Raises:
        ValueError: naming the layer or the block where it does not.
    """
    names = {module: name.removeprefix("body.") for name, module in net.named_modules()}
    known = (*WEIGHTED, *NORMS, *CARRIED)
    for module, name in names.items():
        if list(module.children()) or isinstance(module, known) or is_sum(module):
            continue
        if type(module) in PASSED:
            continue
        raise ValueError(
            f"model: captum's LRP has no rule for {name} ({type(module).__name__}); take another "
            f"criterion, or a model of {', '.join(t.__name__ for t in (*known, *PASSED))}"
        )
    mode, runs = _Joins(names), Counter[nn.Module]()

    def enter(module: nn.Module, _: object) -> None:
        mode.running.append(module)
        runs[module] += 1
        if runs[module] > 1 and type(module) not in PASSED:
            raise ValueError(f"model: {names[module]} runs twice, which captum's LRP cannot follow")

    def leave(*_: object) -> None:
        mode.running.pop()

    x.requires_grad_()
    with heard(names, leave, before=enter), torch.enable_grad(), mode:
        net(x)
