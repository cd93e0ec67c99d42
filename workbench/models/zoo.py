"""`load`, `available`, `card`: models by name, shipped or trained here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from workbench import checks, data
from workbench.models import checkpoints
from workbench.models.model_card import ModelCard

if TYPE_CHECKING:
    from torch import nn

    from workbench.models.classifier import Classifier


STAGES = "workbench.treatments.naming"  # who reads names with stages


def files() -> dict[str, Path]:
    """Every named weights file: those trained here, then those shipped, by name."""
    found: dict[str, Path] = {}
    for root in (data.folder() / "models", checkpoints.SHIPPED):
        for path in sorted(root.glob("*/*.safetensors")):
            found[f"{path.parent.name}/{path.stem}"] = path  # what is shipped wins
    return dict(sorted(found.items()))


def available() -> list[str]:
    """The names that `load` knows without further options; names with stages where kept."""
    treated = []
    for path in sorted((data.folder() / "treated").glob("[!.]*.safetensors")):
        with suppress(ValueError, FileNotFoundError):  # damaged: made anew when asked for by name
            treated.append(checkpoints.read_card(path).name)
    return [*files(), *treated]


def card(name: str) -> ModelCard:
    """The card of a model, read without loading its weights.

    Raises:
        ValueError: no such model; the nearest name is suggested.
    """
    if "|" in name:
        return resolve_name(f"{STAGES}:card")(name)
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
    if scheme := KINDS.get(Path(name).suffix) or ("hf" if Path(name).is_dir() else ""):
        raise ValueError(f"model {name!r} looks like a file or folder; say {scheme}:{name}")
    raise checks.unknown("model", name, known)


def keep(model: Classifier, name: str, *, replace: bool = False) -> Path:
    """Keep a model in the data folder, where `load(name)` finds it; returns its file.

    name: `<what>/<which>`, as "mine/cnn". Of one's own module the structure is kept too, by the
    names of its classes, which have to be there when it is loaded. replace: also where such a
    model is kept already.

    Raises:
        ValueError: a name that is none or that is taken; a model whose structure cannot be kept.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ValueError(f"name: expected two words with a slash, as in mine/cnn, got {name!r}")
    known = files().get(name)
    if known is not None and (known.is_relative_to(checkpoints.SHIPPED) or not replace):
        hint = "" if known.is_relative_to(checkpoints.SHIPPED) else ", or replace=True"
        raise ValueError(f"name: {name} is there already ({known}); take another{hint}")
    path = data.folder() / "models" / f"{name}.safetensors"
    model.card = model.card.model_copy(update={"name": name})
    checkpoints.save(model, path)
    return path


def load(name: str, *, device: str | None = None, **options: Any) -> Classifier:
    """A model by name, in eval mode.

    name: `<dataset>/<architecture>[-<training>]` (see `available()`), one of these with stages
    that treat it (`"digits/cnn | Prune(share=0.5)"`, made and kept when first asked for), or
    `file:PATH` (weights that the workbench wrote), `hf:NAME_OR_PATH`, `timm:NAME`,
    `onnx:PATH`, `state_dict:PATH` (of several models in a file, `state_dict:PATH#KEY`).
    options: for the last four, what `wrap` takes; `state_dict:` needs `architecture`, a name
    or an `nn.Module`, and `input_shape`, and of a named architecture `classes`.

    Raises:
        ValueError: no such model, a damaged or unfit file, or options that are missing.
        TypeError: options that a kind of model does not take.
        FileNotFoundError: no such file.
        ImportError: the extra that the adapter needs is not installed.
    """
    scheme, _, rest = name.partition(":")
    if "|" in name:
        no_options(name, options)
        model = resolve_name(f"{STAGES}:load")(name)
    elif rest and scheme in ADAPTERS:
        accepted(f"{scheme}:", ADAPTERS[scheme], options)
        model = ADAPTERS[scheme](rest, **options)
    elif scheme in ADAPTERS:
        raise ValueError(f"model {name!r}: say which, as in {scheme}:{EXAMPLES[scheme]}")
    elif rest:
        raise checks.unknown("kind of model", scheme, ADAPTERS)
    else:
        no_options(name, options)
        model = checkpoints.restore(find(name))
    return model if device is None else model.to(device)


def no_options(name: str, options: dict[str, Any]) -> None:
    """Check that there are none.

    Raises:
        TypeError: there are.
    """
    if options:
        raise TypeError(f"load({name!r}) takes no options, got {sorted(options)}")


def accepted(name: str, adapter: Callable[..., Any], options: dict[str, Any]) -> None:
    """Check that an adapter, or `wrap` behind it, takes the options.

    Raises:
        TypeError: one that they do not take; the nearest is suggested.
    """
    from workbench.models.wrapping import wrap

    own = inspect.signature(adapter).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in own.values())
    known = [*own, *(inspect.signature(wrap).parameters if passes_on else ())]
    known = [key for key in known if key not in ("path", "module", "options")]
    for key in options:
        if key not in known:
            raise TypeError(str(checks.unknown(f"option of {name}", key, dict.fromkeys(known))))


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


def from_library(library: str, name: str, **options: Any) -> Classifier:
    """An image classifier of transformers ("hf") or timm, with the facts it came with."""
    from workbench.models import foreign
    from workbench.models.wrapping import wrap

    found = foreign.huggingface(name) if library == "hf" else foreign.timm(name)
    facts = {
        "classes": found.classes if found.named else len(found.classes),
        "input_shape": found.input_shape,
        "mean": found.mean,
        "std": found.std,
        "licence": found.licence or "",
        "name": f"{library}:{name}",
    }
    return wrap(found.module, **{**facts, **options})


def from_state_dict(
    path: str,
    *,
    architecture: str | nn.Module | None = None,
    input_shape: tuple[int, int, int] | None = None,
    classes: Any = None,
    architecture_options: dict[str, Any] | None = None,
    **options: Any,
) -> Classifier:
    """Plain weights put into a named architecture or a module of one's own."""
    from workbench.models import architectures
    from workbench.models.wrapping import count, given_shape, wrap

    named = isinstance(architecture, str) or architecture is None
    known = ", ".join(architectures.ARCHITECTURES)
    missing = {
        f"architecture= (a module, or one of {known})": architecture,
        "input_shape= (channels, height, width)": input_shape,
        "classes= (their names, or how many)": classes if named else "found from the output",
    }
    if absent := [key for key, value in missing.items() if value is None]:
        raise ValueError(
            f"state_dict:{path} holds weights alone, and not what they are the weights of; give "
            f"{', and '.join(absent)}"
        )
    module, shape = cast("nn.Module", architecture), given_shape(input_shape)
    if isinstance(architecture, str):
        n_classes = count(classes)
        if n_classes is None:
            n_classes = len(checks.class_names(classes))
        module = architectures.build(architecture, shape, n_classes, **(architecture_options or {}))
    facts = {"name": f"state_dict:{path}", **options}
    return wrap(module, weights=path, input_shape=shape, classes=classes, **facts)


ADAPTERS: dict[str, Callable[..., Classifier]] = {
    "file": checkpoints.restore,
    "hf": partial(from_library, "hf"),
    "timm": partial(from_library, "timm"),
    "onnx": from_onnx,
    "state_dict": from_state_dict,
}

EXAMPLES = {
    "file": "PATH.safetensors",
    "hf": "OWNER/MODEL or hf:FOLDER",
    "timm": "resnet18.a1_in1k",
    "onnx": "PATH.onnx",
    "state_dict": "PATH.pth",
}

# The kind of model that a file has by its suffix.
KINDS = {
    ".onnx": "onnx",
    **dict.fromkeys((".pt", ".pth", ".th", ".bin", ".ckpt", ".tar", ".safetensors"), "state_dict"),
}
