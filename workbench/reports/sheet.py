"""The frame of every page that is no notebook: cards, grids, gallery and site."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import pandas as pd

from workbench.files import LIVE, STYLE
from workbench.reports.results import short, words

PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file: data:;
  style-src 'unsafe-inline'; script-src 'self' file: 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style></head>
<body class="wb wb-sheet">{nav}<main><h1>{title}</h1>
{body}
</main>{scripts}</body></html>
"""


def document(title: str, body: str, *, nav: str = "", scripts: str = "") -> str:
    """A page in the one look, which asks nothing of the network; the title is plain text."""
    if re.search(" data-(drag|map)=", body):
        scripts += f'<script type="module">{LIVE}</script>'
    style = STYLE.read_text(encoding="utf-8")
    return PAGE.format(title=escape(title), style=style, nav=nav, body=body, scripts=scripts)


def html_table(frame: pd.DataFrame, **options: Any) -> str:
    """A frame as an HTML table, whole; options: of `DataFrame.to_html`."""
    with pd.option_context("display.max_colwidth", None):
        return frame.to_html(border=0, justify="left", **options)


def in_words(value: Any, name: str = "") -> str:
    """Any JSON as words: "epochs 60, lr 0.004"; inner ones in brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{words(k)} {_inner(v, k)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_inner(each) for each in value) or "none"
    return "not known" if value is None else short(value, name) or str(value)


def _inner(value: Any, name: str = "") -> str:
    text = in_words(value, name)
    return f"({text})" if isinstance(value, (dict, list)) else text
