"""`Form`: controls made from a `Parameters` class, and the values read back from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import ipywidgets as ipw
from pydantic.fields import FieldInfo

from workbench.params import Parameters

from .blocks import alert, quiet

# What many methods call the same, in words; other names read well as they are.
WORDS = {
    "alpha": "step size",
    "c": "weight c",
    "eps": "largest change (eps)",
    "eta": "noise variance (eta)",
    "gamma": "norm change (gamma)",
    "of": "what is removed",
    "p_init": "first squares",
    "seed": "random seed",
}
FIRST = 3  # controls in view; the others are folded
FEW = 500  # whole numbers over a wider range get a text field, not a slider
LISTED = 40  # more choices than these are searched, not scrolled


class Form:
    """One control a field: bounds, choices and help come from the declaration.

    `first` has the controls that matter, in a row; `rest` the others, to be folded.

    values: to start from. choices: for fields whose choices are known only now, a list
    of values or of (label, value) pairs. only: the fields to show, in this order. matter: those
    in `first`; the first few when None. sliders: (least, most, step) for fields without bounds.
    """

    def __init__(
        self,
        values: Parameters,
        *,
        choices: Mapping[str, Sequence[Any]] | None = None,
        only: Sequence[str] | None = None,
        matter: Sequence[str] | None = None,
        sliders: Mapping[str, tuple[float, float, float]] | None = None,
    ) -> None:
        self.kind = type(values)
        self._values = values
        self._sliders = sliders or {}
        self._listeners: list[Callable[[Parameters], None]] = []
        self.quiet = False
        self.message = ipw.HTML()
        self.controls: dict[str, ipw.Widget] = {}
        for name in only or self.kind.model_fields:
            field = self.kind.model_fields[name]
            value, listed = getattr(values, name), (choices or {}).get(name)
            control = make_control(name, field, value, listed, self._sliders.get(name))
            control.observe(self._changed, "value")
            self.controls[name] = control
        self.matter = list(self.controls)[:FIRST] if matter is None else matter
        self.first, self.rest = ipw.Box().add_class("wb-first"), ipw.Box().add_class("wb-rest")
        self.widget = ipw.VBox([self.first, self.rest])
        self._lay_out()

    def _lay_out(self) -> None:
        """Put the controls where they belong, and what is wrong with them beside the first."""
        first = [self.controls[name] for name in self.matter if name in self.controls]
        self.first.children = [*first, self.message]
        self.rest.children = [c for c in self.controls.values() if c not in first]

    @property
    def values(self) -> Parameters:
        """The last valid values."""
        return self._values

    def observe(self, listener: Callable[[Parameters], None]) -> None:
        """Call `listener(values)` after each valid change made in a control."""
        self._listeners.append(listener)

    def set(self, values: Parameters) -> None:
        """Show other values; listeners are not called."""
        self._values = values
        with quiet(self):
            for name, control in self.controls.items():
                value, is_text = getattr(values, name), isinstance(control, ipw.Text)
                several = isinstance(value, tuple) and is_text  # in a text field, with commas
                if name in self._sliders:
                    control.max = max(control.max, value)
                control.value = ", ".join(map(str, value)) if several else value
        self.message.value = ""

    def choose_from(self, name: str, choices: Sequence[Any], value: Any) -> None:
        """Give a control other choices and choose `value`; listeners are not called."""
        with quiet(self):
            control = self.controls[name]
            if isinstance(control, ipw.Combobox) != searched(pairs(choices)):
                control.unobserve_all("value")
                control = make_control(name, self.kind.model_fields[name], value, choices)
                control.observe(self._changed, "value")
                self.controls[name] = control
                self._lay_out()
            choose_from(control, choices, value)

    def _changed(self, _: object) -> None:
        if self.quiet:
            return
        read = {name: control.value for name, control in self.controls.items()}
        try:
            self._values = self.kind(**{**dict(self._values), **read})
        except ValueError as error:
            self.message.value = alert(str(error))
            return
        self.message.value = ""
        for listener in self._listeners:
            listener(self._values)


def make_control(
    name: str,
    field: FieldInfo,
    value: Any,
    choices: Sequence[Any] | None = None,
    span: tuple[float, float, float] | None = None,
) -> ipw.Widget:
    """The control that fits a field: list, checkbox, slider, log slider or text.

    It is labelled by the field's title, else by its name in words. span: as in `Form.sliders`.
    """
    listed = get_origin(field.annotation) is tuple
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    common: dict[str, Any] = {
        "value": ", ".join(map(str, value)) if listed and choices is None else value,
        "description": field.title or WORDS.get(name, name.removeprefix("n_").replace("_", " ")),
        "tooltip": field.description or "",
        "style": {"description_width": "initial"},
        "layout": {"width": "auto"},
    }
    typed = {**common, "continuous_update": False}
    if choices is None and get_origin(field.annotation) is Literal:
        choices = get_args(field.annotation)
    if choices is not None and listed:
        return ipw.SelectMultiple(options=pairs(choices), rows=min(4, len(choices)), **common)
    if choices is not None and searched(pairs(choices)):
        names, empty = searchable(choices)
        return ipw.Combobox(options=names, placeholder=empty, ensure_option=True, **typed)
    if choices is not None:
        return ipw.Dropdown(options=pairs(choices), **common)
    if field.annotation is bool:
        return ipw.Checkbox(indent=False, **common)
    low, high = bounds(field)
    if span is not None:
        low, high, pace = span
        high = max(high, value)
        return ipw.FloatSlider(min=low, max=high, step=pace, readout_format=".3f", **common)
    if field.annotation is int:
        least, most = int(-(2**31) if low is None else low), int(2**31 if high is None else high)
        kind = ipw.IntSlider if most - least <= FEW else ipw.BoundedIntText
        return kind(min=least, max=most, **typed)
    if field.annotation is float and low is not None and high is not None:
        if extra.get("log"):
            limits = {"min": math.log10(low), "max": math.log10(high)}
            return ipw.FloatLogSlider(base=10, readout_format=".2g", **limits, **typed)
        step = extra.get("step", (high - low) / 100)
        return ipw.FloatSlider(min=low, max=high, step=step, readout_format=".3g", **typed)
    return ipw.FloatText(**typed) if field.annotation is float else ipw.Text(**typed)


def pairs(choices: Sequence[Any]) -> list[tuple[str, Any]]:
    """Choices as (label, value) pairs; a bare value is its own label."""
    return [choice if isinstance(choice, tuple) else (str(choice), choice) for choice in choices]


def searched(choices: Sequence[tuple[str, Any]]) -> bool:
    """Whether choices are so many that one types to find one: names that are their own value."""
    return len(choices) > LISTED and all(label == value or value == "" for label, value in choices)


def searchable(choices: Sequence[Any]) -> tuple[tuple[str, ...], str]:
    """The names to search, and what an empty field means."""
    listed = pairs(choices)
    empty = next((label for label, value in listed if value == ""), "")
    return tuple(value for _, value in listed if value != ""), f"{empty} (type to search)"


def choose_from(control: ipw.Widget, choices: Sequence[Any], value: Any) -> None:
    """Give a list of choices other choices, only where they differ, and choose `value`."""
    if isinstance(control, ipw.Combobox):
        names, control.placeholder = searchable(choices)
        if control.options != names:
            control.value, control.options = "", names
    elif list(control.options) != pairs(choices):
        control.options = pairs(choices)
    control.value = value


def bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """The least and the greatest value a field may take; None where it is open."""
    low = high = None
    for constraint in field.metadata:
        low = getattr(constraint, "ge", getattr(constraint, "gt", low))
        high = getattr(constraint, "le", getattr(constraint, "lt", high))
    return low, high
