"""`Picker`: the controls of a `Selection`: data, model, and which image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
import numpy as np

from workbench.models import ModelCard

from .blocks import button, quiet, slider
from .form import choose_from
from .selection import Selection

Guard = Callable[[Callable[..., None]], Callable[..., None]]


class Picker:
    """Drop-downs for data and model, and a way to step through images.

    guard: wraps the callbacks (see `panel.guarded`). order: the indices stepped through;
    all of them, unless `show` is given others.
    """

    def __init__(self, selection: Selection, guard: Guard) -> None:
        self.selection = selection
        self.order = np.arange(len(selection.images()))
        self.quiet = False
        self.data = slider(ipw.Dropdown, "data", "The data set")
        self.model = slider(ipw.Dropdown, "model", "The model")
        about = "Which of the images stepped through, counted from 1"
        self.place = slider(ipw.BoundedIntText, "no.", about, min=1, max=1, layout={"width": "9em"})
        self.count = ipw.HTML()
        back = button("◀ previous", "Previous image", guard(lambda: self.step(-1)))
        forth = button("next ▶", "Next image", guard(lambda: self.step(+1)))
        self.sync()
        self.data.observe(guard(self._data_picked), "value")
        self.model.observe(guard(self._model_picked), "value")
        self.place.observe(guard(self._place_typed), "value")
        parts = [self.data, self.model, back, self.place, self.count, forth]
        self.widget = ipw.Box(parts).add_class("wb-first")
        self.short = ipw.Box(parts[:2]).add_class("wb-first")  # where no image is looked at

    def sync(self) -> None:
        """Bring the controls into line with the selection."""
        s = self.selection
        with quiet(self):
            choose_from(self.data, s.dataset_names(), s.dataset)
            choose_from(self.model, model_choices(s), s.model)
            self.model.tooltip = model_label(s.card(s.model))
            self.place.max = max(1, len(self.order))
            self.place.value = position(self.order, s.index) + 1
            self.count.value = f"<span>of {len(self.order):,}</span>"

    def show(self, order: np.ndarray) -> None:
        """Step through these indices from now on."""
        self.order = order
        self.sync()

    def step(self, by: int) -> None:
        """Go on by so many images in the order stepped through; it wraps around."""
        if len(self.order):
            here = position(self.order, self.selection.index)
            self.selection.index = int(self.order[(here + by) % len(self.order)])

    def _data_picked(self, change: Any) -> None:
        if self.quiet:
            return
        fit = self.selection.models_for(change["new"])
        with self.selection.hold_trait_notifications():
            self.selection.dataset = change["new"]
            self.selection.model = self.selection.model if self.selection.model in fit else fit[0]
            self.selection.index = 0

    def _model_picked(self, change: Any) -> None:
        if not self.quiet:
            self.selection.model = change["new"]

    def _place_typed(self, change: Any) -> None:
        if not self.quiet and len(self.order):
            self.selection.index = int(self.order[change["new"] - 1])


def model_choices(selection: Selection) -> list[tuple[str, str]]:
    """The models that fit the data, with accuracies, its own first."""
    cards = [(name, selection.card(name)) for name in selection.models_for(selection.dataset)]
    rights = ("" if card.accuracy is None else f" · {card.accuracy:.1%}" for _, card in cards)
    return [(card.name + right, name) for (name, card), right in zip(cards, rights, strict=True)]


def model_label(card: ModelCard) -> str:
    """A model in a line: name, accuracies and size."""
    parts = [card.name]
    if card.accuracy is not None:
        parts.append(f"{card.accuracy:.1%} right")
    if card.robust_accuracy:
        parts.append(f"{card.robust_accuracy:.1%} at eps {card.eps:.2g}")
    return " · ".join([*parts, f"{card.parameters / 1000:,.0f}k weights"])


def position(order: np.ndarray, index: int) -> int:
    """Where `index` stands in `order`; 0 where it does not."""
    places = np.flatnonzero(order == index)
    return int(places[0]) if len(places) else 0
