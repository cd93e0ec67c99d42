"""`load`, `available`, `card`: models by name, shipped or trained here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import checks, data
from workbench.models import checkpoints
from workbench.models.model_card import ModelCard

if TYPE_CHECKING:
    from torch import nn

    from workbench.models.classifier import Classifier


def files() -> dict[str, Path]:
    """Every named weights file: those trained here, then those shipped, by name."""
    found: dict[str, Path] = {}
    for root in (data.folder() / "models", checkpoints.SHIPPED):
        for path in sorted(root.glob("*/*.safetensors")):
            found[f"{path.parent.name}/{path.stem}"] = path  # what is shipped wins
    return dict(sorted(found.items()))


def available() -> list[str]:
    """The names that `load` knows without further options."""
    return list(files())


def card(name: str) -> ModelCard:
    """The card of a model, read without loading its weights.

    Raises:
        ValueError: no such model; the nearest name is suggested.
    """
    return checkpoints.read_card(find(name))


def find(name: str) -> Path:
    """The weights file of a named model.

    Raises:
        ValueError: no such model, or one that has a recipe but is not trained yet.
    """
    from workbench.models.recipes import RECIPES

    known = files()
    if name in known:
        return known[name]
    if name in RECIPES:
        raise ValueError(f"model {name!r} is not trained yet; run: workbench train {name}")
    raise checks.unknown("model", name, known)


def load(name: str, *, device: str | None = None, **options: Any) -> Classifier:
    """A model by name, in eval mode.

    name: `<dataset>/<architecture>[-<training>]` (see `available()`), or
    `file:PATH` (weights that the workbench wrote), `hf:NAME_OR_PATH`, `timm:NAME`,
    `onnx:PATH`, `state_dict:PATH`. options: for the last four, what `wrap` takes;
    `state_dict:` also needs `architecture`, a name or an `nn.Module`.

    Raises:
        ValueError: no such model, or a damaged or unfit file.
        FileNotFoundError: no such file.
        ImportError: the extra that the adapter needs is not installed.
    """
    scheme, _, rest = name.partition(":")
    if rest and scheme in ADAPTERS:
        model = ADAPTERS[scheme](rest, **options)
    elif rest:
        raise checks.unknown("kind of model", scheme, ADAPTERS)
    else:
        if options:
            raise TypeError(f"load({name!r}) takes no options, got {sorted(options)}")
        model = checkpoints.restore(find(name))
    return model if device is None else model.to(device)


def from_file(path: str) -> Classifier:
    """Weights that the workbench wrote."""
    return checkpoints.restore(path)


def from_onnx(path: str, *, input_shape: tuple[int, ...] | None = None, **options: Any):
    """An ONNX graph; `input_shape` turns images into what a flat graph takes."""
    from workbench.models import onnx
    from workbench.models.wrapping import wrap

    graph = onnx.read(Path(path))
    shape = tuple(input_shape or graph.input_shape)
    if len(shape) != 3:
        raise ValueError(
            f"input_shape: the graph takes {graph.input_shape}; say what images these are, "
            "for example input_shape=(1, 28, 28)"
        )
    module = onnx.as_images(graph, shape)
    return wrap(module, **{"name": f"onnx:{path}", **options}, input_shape=shape)


def from_huggingface(name: str, **options: Any) -> Classifier:
    """An image classifier of the transformers library."""
    from workbench.models import foreign

    return wrap_foreign(foreign.huggingface(name), f"hf:{name}", options)


def from_timm(name: str, **options: Any) -> Classifier:
    """An image classifier of the timm library."""
    from workbench.models import foreign

    return wrap_foreign(foreign.timm(name), f"timm:{name}", options)


def wrap_foreign(found: Any, name: str, options: dict[str, Any]) -> Classifier:
    """Wrap a foreign model with the facts it came with; `options` override them."""
    from workbench.models.wrapping import wrap

    facts = {
        "classes": found.classes,
        "input_shape": found.input_shape,
        "mean": found.mean,
        "std": found.std,
        "licence": found.licence or "",
        "name": name,
    }
    return wrap(found.module, **{**facts, **options})


def from_state_dict(
    path: str,
    *,
    architecture: str | nn.Module,
    input_shape: tuple[int, int, int],
    classes: tuple[str, ...] | int,
    architecture_options: dict[str, Any] | None = None,
    **options: Any,
) -> Classifier:
    """Plain weights put into a named architecture or a module of one's own."""
    from workbench.models import architectures
    from workbench.models.wrapping import wrap

    module = architecture
    if isinstance(module, str):
        n_classes = classes if isinstance(classes, int) else len(classes)
        module = architectures.build(module, input_shape, n_classes, **(architecture_options or {}))
    facts = {"name": f"state_dict:{path}", **options}
    return wrap(module, weights=path, input_shape=input_shape, classes=classes, **facts)


ADAPTERS: dict[str, Callable[..., Classifier]] = {
    "file": from_file,
    "hf": from_huggingface,
    "timm": from_timm,
    "onnx": from_onnx,
    "state_dict": from_state_dict,
}
