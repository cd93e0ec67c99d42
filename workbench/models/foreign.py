"""Image classifiers of two other libraries: transformers (Hugging Face) and timm.

Only safetensors are loaded: nothing is unpickled, and no code of a repository is run.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench import checks
from workbench.models import state_dicts

WEIGHTS, PREPROCESSOR, README = "model.safetensors", "preprocessor_config.json", "README.md"
CONFIG, INDEX = "config.json", f"{WEIGHTS}.index.json"


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A network from elsewhere and the facts that came with it.

    module: `(images - mean) / std`, for float32 images `(N, *input_shape)` in [0, 1], ->
    logits `(N, K)`; in eval mode. mean, std: one number a channel, None for no
    normalisation. classes: K names; named: False where these are mere numbers. licence: as
    its authors state it, where they do.
    """

    module: nn.Module
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    licence: str | None
    named: bool = True


class Logits(nn.Module):
    """A transformers classifier as a function of pixels alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` -> `(N, K)`."""
        return self.model(pixel_values=pixels).logits


def huggingface(name_or_path: str | Path) -> ForeignModel:
    """An image classifier of the Hugging Face hub, or of a folder in its format.

    Raises:
        ImportError: transformers is missing, or a torchvision that does not fit is there.
        FileNotFoundError: no such folder or repository.
        ConnectionError: not in the cache, and the hub cannot be reached.
        ValueError: no safetensors, weights missing from them, not an image classifier, or
            pixels prepared in a way that is not understood.
    """
    transformers = need("transformers", "hf")
    from huggingface_hub import metadata_load

    name, folder = f"hf:{name_or_path}", local_folder(str(name_or_path))
    labels = id2label(name, folder / CONFIG)
    processor, facts = None, dict[str, Any]()
    try:
        model, report = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them ourselves
        )
        if (folder / PREPROCESSOR).is_file():  # it leaves out what is usual for its kind: ask it
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
        if (folder / README).is_file():
            facts = metadata_load(folder / README) or {}
    except Exception as error:  # each kind of damage raises its own
        raise explained(name, error) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise ValueError(f"{name} is no trained image classifier: it lacks the weights {missing}")
    for key, stored, built in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{name}: {key} has the shape {tuple(stored)} in the file, and {tuple(built)} by "
            f"{CONFIG}, which names {model.config.num_labels} classes (id2label): it has to name "
            "each output"
        )
    mean, std = normalisation(name, processor)
    classes = class_names(name, labels, model.config.num_labels)
    return ForeignModel(
        module=Logits(model.float()).eval(),
        classes=classes or tuple(f"LABEL_{k}" for k in range(model.config.num_labels)),
        named=classes is not None,
        input_shape=(getattr(model.config, "num_channels", 3), *size(processor, model.config)),
        mean=mean,
        std=std,
        licence=facts.get("license"),
    )


def id2label(name: str, config: Path) -> dict[int, str] | None:
    """The names of the classes by number, as a folder has them; None where it has none.

    Raises:
        ValueError: a damaged file, or something else than numbers with names.
    """
    try:
        found = json.loads(config.read_text()).get("id2label")
        return None if found is None else {int(k): str(v) for k, v in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{name}: id2label in {CONFIG} is not of the form {{"0": "cat", "1": "dog"}} '
            f"({type(error).__name__}: {error})"
        ) from error


def class_names(name: str, labels: Mapping[int, str] | None, n: int) -> tuple[str, ...] | None:
    """The names of n classes; None where there are none, or none that fit, which is said.

    Twins, as the two cranes of ImageNet, are numbered.
    """
    if labels is None or all(labels[k] in (f"LABEL_{k}", str(k)) for k in labels):
        return None  # transformers' own numbers
    numbers = sorted(labels)
    if numbers == list(range(1, n + 1)):
        warnings.warn(
            f"{name}: id2label counts its {n} classes from 1; they are read in that order, the "
            f"first output as {labels[1]!r}",
            stacklevel=3,
        )
    elif numbers != list(range(n)):
        some = ", ".join(map(str, numbers[:6])) + (", …" if numbers[6:] else "")
        warnings.warn(
            f"{name}: id2label names the classes {some}, and there are {n} outputs: the classes "
            "stay numbers; give classes=",
            stacklevel=3,
        )
        return None
    return checks.numbered(labels[k] for k in numbers)


def timm(name: str) -> ForeignModel:
    """A pretrained timm model, by its name with or without a tag (`resnet18.a1_in1k`).

    Raises:
        ImportError: timm is missing, or the torchvision that it needs.
        ConnectionError: not in the cache, and the hub cannot be reached.
        ValueError: no pretrained model of that name, or none as safetensors.
    """
    library = need("timm", "timm")
    if not library.is_model(name) or not library.models.is_model_pretrained(name):
        raise checks.unknown("timm model", name, library.list_models(pretrained=True))
    facts = library.models.get_pretrained_cfg(name)
    weights = state_dicts.read(local_folder(facts.hf_hub_id or f"timm/{name}"))
    overlay = {"state_dict": weights}  # else timm may choose a pickle by itself
    model = library.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    config = library.data.resolve_model_data_config(model)
    subset, classes = library.data.infer_imagenet_subset(model), range(model.num_classes)
    if subset:
        classes = library.data.ImageNetInfo(subset).label_descriptions()
    return ForeignModel(
        module=model.eval(),
        classes=checks.numbered(map(str, classes)),
        named=bool(subset),
        input_shape=tuple(config["input_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        licence=facts.license,
    )


def need(package: str, extra: str) -> Any:
    """Import a library, or say what to install."""
    try:
        return importlib.import_module(package)
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise ImportError(f"no {package}: pip install dnn-workbench[{extra}]") from error
        raise explained(package, error) from error


def explained(what: str, error: Exception) -> Exception:
    """The error to raise instead: torchvision is the usual culprit, else the files are."""
    cause: BaseException | None = error
    while cause is not None and "torchvision" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return ValueError(f"{what} cannot be loaded: {type(error).__name__}: {error}")
    return ImportError(
        f"{what} cannot be used: {cause}. Install the torchvision that fits torch "
        f"{torch.__version__}; transformers, unlike timm, also works without any"
    )


def local_folder(name: str) -> Path:
    """A folder with safetensors: the one of that name, or a repository of the hub, cached."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        import huggingface_hub as hub
        from huggingface_hub import errors

        files = [WEIGHTS, INDEX, "model-*-of-*.safetensors", PREPROCESSOR, README, CONFIG]
        try:
            folder = Path(hub.snapshot_download(name, allow_patterns=files))
        except errors.LocalEntryNotFoundError as error:
            said = (
                "is not in the cache and the hub cannot be reached; connect once or name a folder"
            )
            raise ConnectionError(f"{name} {said}") from error
        except (errors.HfHubHTTPError, errors.HFValidationError) as error:
            said = "no such folder, and no model on the hub (owner/model) that is open to you"
            raise FileNotFoundError(f"{name}: {said}") from error
    if not any((folder / file).is_file() for file in (WEIGHTS, INDEX)):
        raise ValueError(
            f"{name} has no {WEIGHTS}; pickled weights are refused, for they can run code. Where "
            "you trust it, use model.save_pretrained(folder) of transformers, then hf:folder"
        )
    return folder


def normalisation(name: str, processor: Any) -> tuple[Any, Any]:
    """Mean and std for images in [0, 1], as the model's image processor has them."""
    if processor is None:
        said = "does not say how to normalise images; they stay in [0, 1] without mean= and std="
        warnings.warn(f"{name} {said}", stacklevel=3)
        return None, None
    exotic = ("rescale_offset", "include_top", "do_flip_channel_order", "do_color_quantize")
    scale = processor.rescale_factor if getattr(processor, "do_rescale", False) else 1
    if abs(255 * scale - 1) > 1e-6 or any(getattr(processor, key, None) for key in exotic):
        raise ValueError(
            f"{name}: its {type(processor).__name__} prepares pixels by more than mean and std; "
            "load it with transformers and give models.wrap a module that prepares them so"
        )
    if not getattr(processor, "do_normalize", False):
        return None, None
    values = processor.image_mean, processor.image_std
    mean, std = ((v,) if isinstance(v, (int, float)) else tuple(v) for v in values)
    return mean, std


def size(processor: Any, config: Any) -> tuple[int, int]:
    """Height and width that the network is given: after the crop, or else the resize."""
    sides: Any = None
    if processor is not None:
        cropped = getattr(processor, "do_center_crop", False)
        sides = (processor.crop_size if cropped else None) or processor.size
    if isinstance(sides, (int, list, tuple)):  # as older files have it
        edge, sides = sides, {}
    else:
        sides = {key: n for key, n in dict(sides or {}).items() if n}
        edge = sides.get("shortest_edge") or getattr(config, "image_size", None) or 224
    height, width = (edge, edge) if isinstance(edge, int) else edge
    return sides.get("height", height), sides.get("width", width)
