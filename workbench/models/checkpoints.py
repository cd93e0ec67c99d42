"""Weights as safetensors, with the card in the header. Nothing is unpickled."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.models.model_card import ModelCard

if TYPE_CHECKING:
    import torch
    from torch import nn

    from workbench.models.classifier import Classifier

SHIPPED = Path(__file__).parent / "weights"
LARGEST_HEADER = 10_000_000  # bytes; ours are a few thousand


def read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The metadata and the tensor shapes of a safetensors file, without torch.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a well-formed safetensors file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(f"{path} is not a safetensors file: its header length is {length}")
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            shapes = {key: tuple(int(n) for n in t["shape"]) for key, t in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a safetensors file: bad header ({error})") from None
    return metadata, shapes


def read_card(path: Path) -> ModelCard:
    """The card in the header of a weights file.

    Raises:
        FileNotFoundError, ValueError: no such file, or none that the workbench wrote.
    """
    metadata, _ = read_header(path)
    if "card" not in metadata:
        raise ValueError(
            f"{path} holds no model card; load plain weights with "
            f"models.load('state_dict:{path}', architecture=...)"
        )
    try:
        return ModelCard(**json.loads(metadata["card"]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: its model card is damaged ({error})") from None


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file in one stroke: readers see the old file or the new one."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Not save_file, which leaves a file that only its owner can read.
        temporary.write_bytes(save({k: t.contiguous() for k, t in tensors.items()}, metadata))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError, ValueError: no such file; truncated or malformed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is truncated, corrupt or no safetensors file ({error})") from None


def write_values(path: Path, values: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write tensors and plain values, however they are nested, with further metadata.

    Raises:
        ValueError: something that is neither.
    """
    from workbench.models.structure import pack

    tensors: dict[str, torch.Tensor] = {}
    packed = {key: pack(value, tensors, key) for key, value in values.items()}
    write_tensors(path, tensors, {**metadata, "values": json.dumps(packed)})


def read_values(path: Path) -> dict[str, Any]:
    """What `write_values` wrote.

    Raises:
        FileNotFoundError, ValueError: as `read_tensors`.
    """
    from workbench.models.structure import unpack

    metadata, _ = read_header(path)
    tensors = read_tensors(path)
    return {k: unpack(v, tensors) for k, v in json.loads(metadata["values"]).items()}


def save(model: Classifier, path: Path | str, **metadata: str) -> None:
    """Write the weights of `model` with its card in the header, and further metadata.

    Where the architecture that the card names does not make such a body (it was changed, or is
    somebody's own), its structure is described there too.

    Raises:
        ValueError: a structure that cannot be described.
    """
    from workbench.models import structure

    extra: dict[str, torch.Tensor] = {}
    try:
        as_named = structure.outline(named_body(model.card)) == structure.outline(model.body)
    except ValueError:
        as_named = False
    if not as_named:
        metadata["structure"] = json.dumps(structure.describe(model.body, extra))
    tensors = {**model.state_dict(), **extra}
    own = {key: t.clone() for key, t in tensors.items()}  # tied weights are written twice
    write_tensors(Path(path), own, {"card": model.card.model_dump_json(), **metadata})


def named_body(card: ModelCard) -> nn.Module:
    """The body that a card's architecture makes, without memory for its weights.

    Raises:
        ValueError: none can be made by it.
    """
    import torch

    from workbench.models import architectures

    try:
        with torch.device("meta"):
            return architectures.build(
                card.architecture, card.input_shape, len(card.classes), **card.options
            )
    except (TypeError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def restore(path: Path | str) -> Classifier:
    """The classifier that `save` wrote, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of another architecture than its card says, or NaN weights.
    """
    from workbench.models.classifier import classifier_of, finite
    from workbench.models.structure import build

    path = Path(path)
    card = read_card(path)
    metadata, shapes = read_header(path)
    stored = sum(math.prod(shape) for shape in shapes.values())
    described, tensors = metadata.get("structure"), read_tensors(path)
    extra = {key: tensors.pop(key) for key in [*tensors] if key.startswith("#")}
    normalisation = [(v,) if n in shapes else None for n, v in (("mean", 0.0), ("std", 1.0))]

    def made(device: str) -> Classifier:
        body = build(json.loads(described), extra, device) if described else named_body(card)
        return classifier_of(body, card, *normalisation)

    try:
        # Built without memory first, so that a lying card cannot ask for more than the file has.
        model = made("meta")
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: its card names no model that can be built ({error})") from None
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if wanted != (held := {key: tuple(tensor.shape) for key, tensor in tensors.items()}):
        odd = sorted(set(wanted.items()) ^ set(held.items()))[:3]
        raise ValueError(
            f"{path} holds {stored} numbers that do not fit the {card.architecture} its card "
            f"names; the first that differ: {odd}"
        )
    model = made("cpu") if described else model
    model.load_state_dict(tensors, assign=not described)  # assigned, tied weights would part
    finite(model)
    return model.requires_grad_(True).eval()
