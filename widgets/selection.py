"""`Selection`: the data, the model and the image that panels on a page share."""

from __future__ import annotations

import threading
from typing import Any

import torch
import traitlets

from workbench import checks, data, models
from workbench.data import ImageDataset
from workbench.models import Classifier

GIVE = "give them to the panel as training=ImageDataset"
SELECTED = ("dataset", "model", "index", "towards", "layer", "drawing", "meant")


class Selection(traitlets.HasTraits):
    """What is looked at. Panels that share a selection follow each other.

    dataset, model: names; index: which image of the data set. towards: a class to go to, to
    aim at and to explain; "" for none. layer: of the model; "" for a panel's own choice.
    edition: counts the changes of the images themselves (see `draw`). Data sets and
    classifiers of one's own are entered with `add` and then have names like the others.
    Classes are the model's: images come with the labels as it numbers them (`models.matched`).
    """

    dataset = traitlets.Unicode()
    model = traitlets.Unicode()
    index = traitlets.Int(0, min=0)
    towards = traitlets.Unicode()
    layer = traitlets.Unicode()
    edition = traitlets.Int(0)

    def __init__(
        self,
        dataset: str | ImageDataset | None = None,
        model: str | Classifier | None = None,
        index: int = 0,
        *,
        towards: str = "",
        layer: str = "",
        drawing: str = "",
        meant: str = "",
    ) -> None:
        """drawing, meant: as `data.with_drawing` takes them; index is then of the drawing."""
        super().__init__()
        # One lock for all panels that follow this selection: with one each, two of them
        # that answer each other from two threads would wait for ever.
        self.lock = threading.RLock()
        self._own: set[str] = set()
        self._datasets: dict[str, ImageDataset] = {}
        self._models: dict[str, Classifier] = {}
        self._cards: dict[str, models.ModelCard] = {}
        self._origins: dict[str, str] = {}
        self._cuts: dict[str, dict[str, Any]] = {}  # how the pictures of folders were cut
        self._matched: dict[tuple[str, str], tuple[ImageDataset, ImageDataset]] = {}
        self.trainings: dict[str, ImageDataset] = {}
        chosen = self.add(model) if model is not None else None
        if dataset is None:
            dataset = (self.card(chosen).dataset if chosen else "") or "digits"
        self.dataset = self.add(dataset, self.card(chosen).input_shape if chosen else None)
        self.model = chosen or self.models_for(self.dataset)[0]
        self.index = index
        self.layer = layer
        if drawing:
            self.draw(data.from_text(drawing), meant)
        if towards and towards not in self.class_names():
            raise checks.unknown("towards", towards, self.class_names())
        self.towards = towards

    @traitlets.observe("model")
    def _another_model(self, _: object) -> None:
        """There is no way towards a class that the model does not have."""
        if self.towards and self.towards not in self.class_names():
            self.towards = ""

    def draw(self, drawing: torch.Tensor, meant: str = "") -> None:
        """Look at a drawing, `(C, H, W)` in [0, 1], as the last image of the data set.

        meant: the class it is of; when empty, none: then no answer is right or wrong.

        Raises:
            ValueError: another shape than that of the images, an unknown class.
        """
        origin, image = self.origin, (drawing * 255).round() / 255  # as a PNG holds it
        drawn = data.with_drawing(self.images(origin), image, meant)
        self._datasets[drawn.name], self._origins[drawn.name] = drawn, origin
        with self.hold_trait_notifications():
            self.dataset, self.index = drawn.name, len(drawn) - 1
            self.edition += 1

    @property
    def origin(self) -> str:
        """The data set selected, or that to which a drawing was added."""
        return self._origins.get(self.dataset, self.dataset)

    def add(
        self,
        thing: str | ImageDataset | Classifier,
        shape: tuple[int, int, int] | None = None,
        *,
        own: bool = True,
    ) -> str:
        """The name of a data set or model; one of one's own is kept under its name.

        Names with a scheme (`folder:PATH`, `onnx:PATH`, ...) or stages are loaded here and now, the
        pictures of a folder cut to `shape` `(C, H, W)` where that is given. own: False of a
        classifier that can be loaded by its name.

        Raises:
            TypeError: neither a name, an `ImageDataset` nor a `Classifier`.
            ValueError, FileNotFoundError: a scheme that cannot be loaded.
        """
        if isinstance(thing, str):
            if thing.startswith("folder:"):
                if shape is not None:  # in the middle of each picture, as much as a model takes
                    self._cuts[thing] = {"size": shape[1:], "fit": "crop", "channels": shape[0]}
                self._datasets[thing] = data.load(thing, **self._cuts.get(thing, {}))
            elif ":" in thing or "|" in thing:
                self._models[thing] = models.load(thing)
            return thing
        if isinstance(thing, ImageDataset):
            name = thing.name
            self._datasets[name] = thing
        elif isinstance(thing, Classifier):
            name = thing.card.name
            self._models[name] = thing
        else:
            raise TypeError(
                "expected a name, an ImageDataset or a Classifier (models.wrap makes one of an "
                f"nn.Module), got {type(thing).__name__}"
            )
        self._own |= {name} if own else set()
        return name

    def is_own(self, name: str) -> bool:
        """Whether a data set or a model was given as an object: its name loads nothing."""
        return name in self._own

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Selection:
        """A selection as `state()` described it; names that are not its own are left out."""
        return cls(**{name: value for name, value in state.items() if name in SELECTED})

    def state(self) -> dict[str, Any]:
        """What `Selection(**state)` needs to be the same again; plain values."""
        state = {"dataset": self.origin, "model": self.model, "index": self.index}
        state |= {name: getattr(self, name) for name in ("towards", "layer") if getattr(self, name)}
        return state | (self._drawing() if self.origin != self.dataset else {})

    def _drawing(self) -> dict[str, str]:
        """The drawing as text, and the class it is of; empty where that is not known."""
        image, label = self.images()[-1]
        meant = self.class_names()[label] if label >= 0 else ""
        return {"drawing": data.as_text(image), "meant": meant}

    def images(self, name: str | None = None) -> ImageDataset:
        """The data set looked at, or another by name, with the classes of the model looked at.

        The test split, loaded once. A label is -1 where the model has no such class.
        """
        name = name or self.dataset
        return self._with_classes(name, self.as_it_is(name))

    def as_it_is(self, name: str | None = None) -> ImageDataset:
        """The data set looked at, or another by name, with its own classes."""
        name = name or self.dataset
        if name not in self._datasets:
            self._datasets[name] = data.load(name)
        return self._datasets[name]

    def _with_classes(self, name: str, images: ImageDataset) -> ImageDataset:
        """A data set matched to the model looked at; the same object when asked again."""
        key, model = (name, self.model), self.classifier()
        known = self._matched.get(key)
        if known is None or known[0] is not images or known[1].classes != model.classes:
            known = self._matched[key] = images, models.matched(images, model)
        return known[1]

    def label_name(self, index: int) -> str:
        """What the data set itself calls an image; empty where it has no label."""
        own = self.as_it_is()
        label = int(own.labels[index])
        return own.classes[label] if label >= 0 else ""

    def training(self) -> ImageDataset | None:
        """The training images of the data set, with the classes of the model looked at."""
        own = self.own_training()
        return None if own is None else self._with_classes(f"{self.origin}, training", own)

    def own_training(self) -> ImageDataset | None:
        """The training images of the data set, where they are at hand; loaded once.

        Those of one's own data are entered in `trainings` by the name of the data set.
        """
        name = self.origin
        if name not in self.trainings and name in data.available() and data.present(name, "train"):
            self.trainings[name] = data.load(name, "train")
        training = self.trainings.get(name)
        fits = training is not None and training.shape == self.as_it_is().shape
        return training if fits else None

    def train_on(self, training: ImageDataset | None) -> None:
        """Take images to train and to mine on for the data set selected; None for its own."""
        if training is not None:
            self.trainings[self.origin] = training

    def classifier(self, name: str | None = None) -> Classifier:
        """The model looked at, or another by name; loaded once."""
        name = name or self.model
        if name not in self._models:
            self._models[name] = models.load(name)
        return self._models[name]

    def card(self, name: str) -> models.ModelCard:
        """The card of a model, one's own included."""
        if name in self._models:
            return self._models[name].card
        if name not in self._cards:  # read from files; asked for at every change
            self._cards[name] = models.card(name)
        return self._cards[name]

    def dataset_names(self) -> list[str]:
        """Every data set to choose from: one's own first, then those that are there."""
        named = [name for name in data.available() if data.present(name)]
        return list(dict.fromkeys([*self._datasets, *named]))

    def models_for(self, dataset: str) -> list[str]:
        """The models that take the images of a data set: its own first, then by its classes.

        Raises:
            ValueError: there is none.
        """
        if dataset in self._datasets:
            images = self._datasets[dataset]
            shape, n_classes = images.shape, len(images.classes)
        else:
            info = data.info(dataset)
            shape, n_classes = info.shape, len(info.classes)
        names = list(dict.fromkeys([*self._models, *models.available()]))
        cards = {name: self.card(name) for name in names}
        fit = [name for name, card in cards.items() if card.input_shape == shape]
        if not fit:
            raise ValueError(
                f"no model takes the {shape} images of {dataset!r}; pass your own: "
                "models.wrap(module, input_shape=..., classes=...)"
            )
        origin = self._origins.get(dataset, dataset)
        own = {origin, ""}
        if origin in data.available():
            own.add(data.info(origin).sample_of)

        def rank(name: str) -> tuple[bool, bool]:
            card = cards[name]
            return card.dataset not in own, len(card.classes) != n_classes

        # A stable sort, so that one's own models come first among equals.
        return sorted(fit, key=rank)

    def class_names(self) -> list[str]:
        """The classes of the model looked at."""
        return list(self.card(self.model).classes)

    def code(self, what: str, name: str | None = None) -> str:
        """The call that loads the data set, its training images, or a model.

        what: "dataset", "training" or "model". One's own is called my_dataset and so on.
        """
        drawn = name is None and what == "dataset" and self.origin != self.dataset
        name = name or (self.model if what == "model" else self.origin)
        if name in self._own:
            call = f"my_{what}"
        elif what == "model":
            call = f"models.load({name!r})"
        else:
            options = ", 'train'" if what == "training" else ""
            options += "".join(f", {k}={v!r}" for k, v in self._cuts.get(name, {}).items())
            call = f"data.load({name!r}{options})"
        if what != "model":
            own = self.own_training() if what == "training" else self.as_it_is(name)
            if own is not None and own.classes != tuple(self.class_names()):
                call = f"models.matched({call}, {self.code('model')})"
        if drawn:
            drawing = self._drawing()
            call = f"data.with_drawing({call}, {drawing['drawing']!r}, {drawing['meant']!r})"
        return call
