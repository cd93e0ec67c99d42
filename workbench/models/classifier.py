"""`Classifier`: [0, 1] images in, logits out, and everything known about it beside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench import checks
from workbench.models import batching
from workbench.models.hooks import anatomy, audible, heard, place, unheard
from workbench.models.model_card import ModelCard

if TYPE_CHECKING:
    import pandas as pd

    from workbench.data import ImageDataset


@dataclass(frozen=True)
class Layer:
    """One call of a layer: its name, what it is, and the shape of its output for one image."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True, eq=False)
class Listing:
    """The layers of a model as they ran on a grey image.

    runs: how often each module ran, by its name. places: of each layer the module, its
    name and which of its calls.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    places: dict[str, tuple[nn.Module, str, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a classifier says of N images.

    logits, probabilities: float32 `(N, K)`; label: int64 `(N,)`; confidence: the
    probability of `label`, float32 `(N,)`.
    """

    logits: torch.Tensor
    probabilities: torch.Tensor
    label: torch.Tensor
    confidence: torch.Tensor
    classes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """How many images, and how sure the model is of them on average."""
        mean = float(self.confidence.mean()) if len(self.label) else None
        return {"images": len(self.label), "mean_confidence": mean}

    def frame(self) -> pd.DataFrame:
        """One row an image: predicted class and confidence."""
        import pandas as pd

        names = [self.classes[k] for k in self.label.tolist()]
        return pd.DataFrame({"predicted": names, "confidence": self.confidence.tolist()})


class Classifier(nn.Module):
    """A model that maps images in [0, 1] to logits.

    body: the network proper; it sees `(images - mean) / std`. mean, std: one number a
    channel, or None for no normalisation. A classifier starts in eval mode.
    """

    mean: torch.Tensor | None
    std: torch.Tensor | None
    space: Any = None  # of points that are no images: an InputSpace
    _listed: tuple[list[Any], Listing] | None = None

    def __init__(
        self,
        body: nn.Module,
        card: ModelCard,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.card = card
        self._listed = None
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, channel_values(name, value, card.input_shape[0]))
        if self.std is not None and not bool((self.std > 0).all()):
            raise ValueError(f"std: expected positive numbers, got {std}")
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)` in [0, 1]; the range is not checked."""
        return self.body(self.normalised(x))

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Images as the body takes them."""
        if self.mean is not None:
            x = x - self.mean
        return x if self.std is None else x / self.std

    def prepare(self, training: ImageDataset) -> None:
        """Called before training: check that it can be done.

        Raises:
            ValueError: the model cannot learn from such data.
        """

    def objective(
        self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What training makes small, and the logits it was computed from."""
        logits = self(x)
        return F.cross_entropy(logits, y), logits

    def conclude(self, training: ImageDataset) -> None:
        """Called after training: measure what the model keeps beside its weights."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self.card.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image, `(C, H, W)`."""
        return self.card.input_shape

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((t.device for t in self.body.parameters()), torch.device("cpu"))

    def predict(self, x: torch.Tensor, *, batch_size: int | None = None) -> Prediction:
        """What the model says of images `(N, C, H, W)` in [0, 1]; N may be 0.

        batch_size: images a pass; when None at most 512, and fewer where they are large.

        Raises:
            TypeError, ValueError: images that break the contract; a model in train mode.
        """
        x = checks.images(x, self.input_shape)
        ready(self)
        size = batch_size or batching.batch_size(self.input_shape, 512)
        with torch.no_grad():
            batches = x.split(size) if len(x) else ()  # not all modules take an empty batch
            parts = [self(part.to(self.device)).to(x.device) for part in batches]
        logits = torch.cat(parts) if len(x) else x.new_zeros((0, len(self.classes)))
        probabilities = logits.softmax(1)
        confidence, label = probabilities.max(1)
        return Prediction(logits, probabilities, label, confidence, self.classes)

    def layers(self) -> dict[str, Layer]:
        """Every layer in the order it runs, by the name to ask for it with.

        Layers that hold other layers (blocks) come after what they hold. A layer that runs
        more than once is listed each time: "act", "act#2", "act#3". Left out is what gives no
        tensor of one row an image (an LSTM, the windows of an attention), and what is
        compiled.

        Raises:
            ValueError: a model in train mode, or compiled as a whole.
        """
        return dict(self.listing().layers)

    def layers_of(self, *kinds: type[nn.Module]) -> tuple[str, ...]:
        """The names of the layers of these kinds, in the order they run."""
        places = self.listing().places
        return tuple(name for name, (module, _, _) in places.items() if isinstance(module, kinds))

    def listing(self) -> Listing:
        """The layers, and where they are; kept for as long as the model is what it was."""
        ready(self)
        known = self._listed
        if known is None or known[0] != anatomy(self):
            found = self._listing()
            known = self._listed = anatomy(self), found  # a pass may leave something behind
        return known[1]

    def _listing(self) -> Listing:
        if reason := unheard(self):
            raise ValueError(reason)
        names, found = audible(self.body), Listing()

        def note(module: nn.Module, _: object, output: object) -> None:
            own = names[module]
            found.runs[own] += 1
            n = found.runs[own]
            name = own if n == 1 else f"{own}#{n}"
            if not isinstance(output, torch.Tensor) or output.ndim < 2 or len(output) != 1:
                return
            if n == 1 or name not in names.values():
                count = sum(p.numel() for p in module.parameters())
                shape = tuple(output.shape[1:])
                found.layers[name] = Layer(name, type(module).__name__, shape, count)
                found.places[name] = module, own, n

        with heard(names, note), torch.no_grad():
            self(torch.full((1, *self.input_shape), 0.5, device=self.device, dtype=torch.float32))
        return found

    def linear_head(self) -> nn.Linear | None:
        """The `nn.Linear` whose output is the logits; None where there is no such layer.

        The model is asked about images of noise, so that a layer after it would show.
        """
        outputs: dict[nn.Module, torch.Tensor] = {}

        def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
            outputs[module] = output.clone()  # a later layer may work in place

        layers = [module for module in self.modules() if isinstance(module, nn.Linear)]
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(16, *self.input_shape, generator=generator, dtype=torch.float32)
        with heard(layers, note), torch.no_grad():
            logits = self(noise.to(self.device)).nan_to_num()  # NaN equals nothing
        heads = [m for m in layers if m in outputs and torch.equal(outputs[m].nan_to_num(), logits)]
        return heads[-1] if heads else None

    def layer(self, name: str) -> nn.Module:
        """The layer called `name`; "act#2" is the one called "act", in its second call.

        Raises:
            ValueError: there is none; the nearest name is suggested.
        """
        return place(self, name)[0]


def classifier_of(body: nn.Module, card: ModelCard, *normalisation: Any) -> Classifier:
    """The classifier that `body` makes; a body may have a method `classifier` for its own kind."""
    return getattr(body, "classifier", partial(Classifier, body))(card, *normalisation)


def channel_values(
    name: str, values: tuple[float, ...] | None, channels: int
) -> torch.Tensor | None:
    """One number a channel as a `(1, C, 1, 1)` tensor; one number serves all channels."""
    if values is None:
        return None
    flat = torch.as_tensor(values, dtype=torch.float32).flatten()
    if len(flat) == 1:
        flat = flat.expand(channels)
    if len(flat) != channels or not bool(flat.isfinite().all()):
        raise ValueError(f"{name}: expected {channels} finite numbers, one a channel, got {values}")
    return flat.reshape(1, channels, 1, 1).clone()


def ready(model: nn.Module) -> None:
    """Check that `model` is in eval mode throughout.

    Raises:
        ValueError: some part is in train mode, where dropout and batch statistics would
            change the answers.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"model: {name or type(module).__name__} is in train mode, which changes what "
                "the model says; call model.eval() first"
            )


def finite(module: nn.Module) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        ValueError: naming the first tensor that is.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"weights: {name} holds NaN or infinite values; the model is damaged")
