"""`result`: the numbers a notebook hands to its results.json."""

from __future__ import annotations

import json
import re
import warnings
from html import escape
from typing import Any

MIME = "application/vnd.workbench.record+json"
SHARE = re.compile(r"accuracy|\b(rate|share|clean)\b")  # in a name: shown as percent
LONGEST = 60  # characters of a text that is shown whole


def result(**values: Any) -> None:
    """Hand named results to the report that runs this notebook.

    Values are numbers, strings, booleans, None, and lists and dicts of them; 0-d
    arrays and tensors count as numbers. A later value of a name replaces the earlier.
    JSON has no NaN and no infinity: such a number is recorded as null, with a warning.
    In a plain Python process the values are only checked.

    Raises:
        TypeError: a value that JSON cannot hold; the message names it.
    """
    from IPython import get_ipython
    from IPython.display import display

    kept = {name: plain(name, value) for name, value in values.items()}
    if hasattr(get_ipython(), "kernel"):
        shown = {words(name): short(value, name) for name, value in kept.items()}
        listed = [f"{name} {value}" for name, value in shown.items() if value]
        tables = ", ".join(name for name, value in shown.items() if not value)
        listed += [f"and in full: {tables}"] if tables else []
        text = f"Recorded for the report: {', '.join(listed)}."
        html = f'<p style="margin:0">{escape(text)}</p>'
        display({MIME: kept, "text/plain": text, "text/html": html}, raw=True)


def plain(name: str, value: Any) -> Any:
    """`value` as JSON types."""
    try:
        text = json.dumps(value, default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{name}: expected numbers, strings, booleans, lists or dicts; {error}"
        ) from None
    kept = json.loads(text, parse_constant=lambda constant: None)
    if kept != json.loads(text):
        warnings.warn(f"{name} is not finite: recorded as null", stacklevel=4)
    return kept


def _number(value: Any) -> Any:
    """A numpy or torch scalar as a Python number."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    advice = "; use .tolist()" if hasattr(value, "tolist") else ""
    raise TypeError(f"got {type(value).__name__}{advice}")


def words(name: str) -> str:
    """The name of a result as words."""
    return re.sub(r"[_.]+", " ", name).strip()


def short(value: Any, name: str = "") -> str:
    """One result as people read it, to three figures; accuracies as percent; "" for a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and SHARE.search(name) and 0 <= value <= 1:
        return f"{value:.1%}".replace("%", "\u2009%")
    if isinstance(value, (int, float)):
        whole = float(value).is_integer() and abs(value) < 1e9
        return f"{value:,.0f}" if whole else f"{value:.3g}"
    return value if isinstance(value, str) and len(value) < LONGEST else ""
