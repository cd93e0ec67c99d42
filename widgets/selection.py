"""`Selection`: the data, the model and the image that panels on a page share."""

from __future__ import annotations

import threading
from typing import Any

import traitlets

from workbench import data, models
from workbench.data import ImageDataset
from workbench.models import Classifier


class Selection(traitlets.HasTraits):
    """What is looked at. Panels that share a selection follow each other.

    dataset, model: names; index: which image of the data set. Data sets and classifiers
    of one's own are entered with `add` and then have names like the others.
    """

    dataset = traitlets.Unicode()
    model = traitlets.Unicode()
    index = traitlets.Int(0, min=0)

    def __init__(
        self,
        dataset: str | ImageDataset | None = None,
        model: str | Classifier | None = None,
        index: int = 0,
    ) -> None:
        super().__init__()
        # One lock for all panels that follow this selection: with one each, two of them
        # that answer each other from two threads would wait for ever.
        self.lock = threading.RLock()
        self._own: set[str] = set()
        self._datasets: dict[str, ImageDataset] = {}
        self._models: dict[str, Classifier] = {}
        chosen = self.add(model) if model is not None else None
        if dataset is None:
            dataset = self.card(chosen).dataset if chosen else "digits"
        self.dataset = self.add(dataset)
        self.model = chosen or self.models_for(self.dataset)[0]
        self.index = index

    def add(self, thing: str | ImageDataset | Classifier) -> str:
        """The name of a data set or model; one of one's own is kept under its name.

        Names with a scheme (`folder:PATH`, `onnx:PATH`, ...) are loaded here and now.

        Raises:
            TypeError: neither a name, an `ImageDataset` nor a `Classifier`.
            ValueError, FileNotFoundError: a scheme that cannot be loaded.
        """
        if isinstance(thing, str):
            if thing.startswith("folder:"):
                self._datasets[thing] = data.load(thing)
            elif ":" in thing:
                self._models[thing] = models.load(thing)
            return thing
        if isinstance(thing, ImageDataset):
            self._datasets[thing.name] = thing
            self._own.add(thing.name)
            return thing.name
        if isinstance(thing, Classifier):
            self._models[thing.card.name] = thing
            self._own.add(thing.card.name)
            return thing.card.name
        raise TypeError(
            "expected a name, an ImageDataset or a Classifier (models.wrap makes one of an "
            f"nn.Module), got {type(thing).__name__}"
        )

    def state(self) -> dict[str, Any]:
        """Names and index, as panels take them."""
        return {"dataset": self.dataset, "model": self.model, "index": self.index}

    def images(self) -> ImageDataset:
        """The data set looked at (its test split); loaded once."""
        if self.dataset not in self._datasets:
            self._datasets[self.dataset] = data.load(self.dataset)
        return self._datasets[self.dataset]

    def classifier(self, name: str | None = None) -> Classifier:
        """The model looked at, or another by name; loaded once."""
        name = name or self.model
        if name not in self._models:
            self._models[name] = models.load(name)
        return self._models[name]

    def card(self, name: str) -> models.ModelCard:
        """The card of a model, one's own included."""
        return self._models[name].card if name in self._models else models.card(name)

    def dataset_names(self) -> list[str]:
        """Every data set to choose from: one's own first, then those that are there."""
        named = [name for name in data.available() if data.present(name)]
        return list(dict.fromkeys([*self._datasets, *named]))

    def models_for(self, dataset: str) -> list[str]:
        """The models that take the images of a data set, its own first.

        Raises:
            ValueError: there is none.
        """
        shape, n_classes = self._facts(dataset)
        names = list(dict.fromkeys([*self._models, *models.available()]))
        cards = {name: self.card(name) for name in names}
        fit = [
            name
            for name, card in cards.items()
            if card.input_shape == shape and len(card.classes) == n_classes
        ]
        if not fit:
            raise ValueError(
                f"no model takes the {shape} images of {n_classes} classes of {dataset!r}; "
                "pass your own: models.wrap(module, input_shape=..., classes=...)"
            )
        # A stable sort, so that one's own models come first among equals.
        return sorted(fit, key=lambda name: cards[name].dataset not in (dataset, ""))

    def _facts(self, dataset: str) -> tuple[tuple[int, ...], int]:
        if dataset in self._datasets:
            images = self._datasets[dataset]
            return images.shape, len(images.classes)
        info = data.info(dataset)
        return tuple(info.shape), len(info.classes)

    def class_names(self) -> list[str]:
        """The classes of the data set looked at."""
        if self.dataset in self._datasets:
            return list(self._datasets[self.dataset].classes)
        return list(data.info(self.dataset).classes)

    def code(self, what: str, name: str | None = None) -> str:
        """The call that loads the data set or a model; one's own is a name to fill in."""
        name = name or (self.dataset if what == "dataset" else self.model)
        if name in self._own:
            return f"my_{what}  # your own {name!r}"
        return f"data.load({name!r})" if what == "dataset" else f"models.load({name!r})"
