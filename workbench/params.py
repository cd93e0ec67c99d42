"""Parameters: one declaration for validation, forms, notebooks, the CLI and captions."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class Parameters(BaseModel):
    """A frozen set of named, bounded values; the base of every method's settings.

    Declare a field with `pydantic.Field(default, ge=, le=, description=)`; the bounds
    and the help reach the widget form, the error message and the report.

    Raises:
        ValueError: a value out of bounds or of the wrong type, or an unknown name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            known = type(self).model_fields
            raise ValueError(f"{type(self).__name__}: {explain(error, known)}") from None

    def changes(self) -> dict[str, Any]:
        """The values that differ from their defaults."""
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
        }
        return {name: value for name, value in self if value != defaults[name]}

    def changed(self, **values: Any) -> Self:
        """A copy with other values, held to the same bounds."""
        return type(self)(**{**dict(self), **values})

    def code(self) -> str:
        """The constructor call that makes an equal object."""
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.changes().items())
        return f"{type(self).__name__}({arguments})"


def pieces(text: str, mark: str) -> list[str]:
    """What stands between the marks, without the space around; not of marks inside brackets."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif depth and character in "'\"":
            quote = character
        elif character == mark and not depth:
            parts.append("")
            continue
        else:
            depth += (character in "([{") - (character in ")]}")
        parts[-1] += character
    return [part.strip() for part in parts]


def explain(error: ValidationError, known: Iterable[str] = ()) -> str:
    """A validation error as one sentence a field: name, what was expected, value.

    known: the names there are, of which the nearest to a strange one is suggested.
    """
    sentences = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            sentences.append(f"{name}: no such parameter (value {item['input']!r}){hint}")
        elif item["type"] == "value_error" and not item["loc"]:
            sentences.append(str(item["ctx"]["error"]))  # our own sentence, which has it all
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            sentences.append(f"{name}: {message}, got {item['input']!r}")
    return "; ".join(sentences)
