"""What an executed notebook holds: its sections and its figures, each with its cells.

Cells are numbered from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from typing import Any

from nbformat import NotebookNode

PLOTLY = "application/vnd.plotly.v1+json"
DATA = "data:image/png;base64,"
FENCED = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
LIVE = re.compile(r"<[^>]* data-(drag|map)=")  # figures that move
REPR = re.compile(r"<|\w+\(")  # of an object, which says nothing of its picture
HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class Figure:
    """An output with a chart or pictures. id: its anchor in the page, figure-1, figure-2, ...

    alt: the same in words. pictures: base64 of each PNG by its own words.
    """

    id: str
    cell: int
    alt: str
    pictures: list[tuple[str, str]] = field(repr=False)
    output: NotebookNode = field(repr=False)


def sections(notebook: NotebookNode) -> list[dict[str, Any]]:
    """The headings in order, each with its cells; those before the first one have none."""
    made: list[dict[str, Any]] = []
    for number, cell in enumerate(notebook.cells, 1):
        text = FENCED.sub("", cell.source) if cell.cell_type == "markdown" else ""
        new = [{"title": title, "cells": []} for title in HEADING.findall(text)]
        made += new
        for section in new or made[-1:]:
            section["cells"].append(number)
    return made


def texts(notebook: NotebookNode) -> list[tuple[str, str]]:
    """The headings in order, each with the words below it; code is none."""
    cells = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    _, *parts = HEADING.split(FENCED.sub("", "\n\n".join(cells)))
    return list(zip(parts[::2], parts[1::2], strict=True))


def figures(notebook: NotebookNode) -> list[Figure]:
    """The figures in order."""
    made: list[Figure] = []
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            pictures = _pictures(output)
            data = output.get("data", {})
            if PLOTLY in data or pictures or LIVE.search(data.get("text/html", "")):
                name = f"figure-{len(made) + 1}"
                alt = _alt(output, pictures) or f"Figure {len(made) + 1}"
                made.append(Figure(name, number, alt, pictures, output))
    return made


def _pictures(output: NotebookNode) -> list[tuple[str, str]]:
    """The PNG pictures that a page shows of an output."""
    data = output.get("data", {})
    if PLOTLY in data:
        return []
    if "text/html" in data:
        images = _Images()
        images.feed(data["text/html"])
        return images.pictures
    alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
    return [(alt, data["image/png"].replace("\n", ""))] if "image/png" in data else []


def _alt(output: NotebookNode, pictures: list[tuple[str, str]]) -> str:
    """What a figure shows: plotly's `meta` or title, `figures.Picture`'s words, the pictures'."""
    if PLOTLY not in output.data:
        plain = output.data.get("text/plain", "")
        alts = dict.fromkeys(alt for alt, _ in pictures if alt)
        return plain if plain and not REPR.match(plain) else "; ".join(alts)[:200]
    layout = output.data[PLOTLY].get("layout", {})
    meta = layout.get("meta")
    alt = meta.get("alt") if isinstance(meta, dict) else None
    title = re.sub(r"<[^>]*>", " ", layout.get("title", {}).get("text", ""))
    return str(alt or unescape(title.strip()))


class _Images(HTMLParser):
    """Collects the PNG pictures inside HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img" and (source := values.get("src") or "").startswith(DATA):
            self.pictures.append((values.get("alt") or "", source.removeprefix(DATA)))
