"""What panels are put together from: pieces of HTML, and controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import torch
import traitlets

from workbench.figures import colourise, images, points

from .pick_view import PickView

DOWNLOAD = Path(__file__).with_name("download.js")
HEIGHT = 120  # pixels on the screen for an image, whatever its own size


def figure(image: torch.Tensor, alt: str, caption: str = "", height: int = HEIGHT, *of: Any) -> str:
    """An image `(C, H, W)` with its caption: HTML, or else the alt text, which shows on hover."""
    tag = points.tag(image.cpu(), alt, height, *of)  # of: the space of a point, and its origin
    words = f"<figcaption>{caption or escape(alt)}</figcaption>"
    return f'<figure class="wb-figure" title="{escape(alt)}">{tag}{words}</figure>'


def signed(values: torch.Tensor, alt: str, caption: str, height: int = HEIGHT) -> str:
    """A change of an image `(C, H, W)`, of the channel changed most: blue less, orange more."""
    strongest = values.gather(0, values.abs().argmax(0, keepdim=True))[0].cpu()
    pixels = torch.from_numpy(colourise(strongest, "diverging")).permute(2, 0, 1) / 255
    return figure(pixels.float(), alt, caption, height)


def row(*blocks: str) -> str:
    """Blocks side by side, wrapped where there is no room."""
    return f'<div class="wb-row">{"".join(blocks)}</div>'


def section(*blocks: str) -> str:
    """Blocks of the view, one below the other."""
    return f'<div class="wb">{"".join(blocks)}</div>'


def column(*blocks: str, width: str = "26em") -> str:
    """Blocks one below the other, as one block of a row."""
    return f'<div style="max-width:{width}">{"".join(blocks)}</div>'


def thumbs(images: Sequence[torch.Tensor], words: Sequence[str], height: int = 60, *of: Any) -> str:
    """Small images in a row."""
    tags = (points.tag(x.cpu(), alt, height, *of) for x, alt in zip(images, words, strict=True))
    return f'<div class="wb-thumbs">{"".join(tags)}</div>'


def table(caption: str, rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of HTML cells, the first of which says what its row is about."""
    bold = [(f"<b>{name}</b>", *cells) for name, *cells in rows]
    return images.table(bold, [f"<b>{name}</b>" for name in head], caption)


def pickable(name: str, block: str, tag: str = "span") -> str:
    """A block that can be clicked in a `PickView`, where it is called `name`."""
    about = f'data-pick="{escape(name)}" tabindex="0" role="button" style="cursor:pointer"'
    return f"<{tag} {about}>{block}</{tag}>"


def pick(name: str, words: str) -> str:
    """A button of a `PickView`, a way on from where there is none; hidden without a kernel."""
    return f'<button class="wb-pick wb-live" data-pick="{escape(name)}">{escape(words)}</button> '


def status(words: str) -> str:
    """HTML that screen readers read out when they get to it."""
    return f'<p role="status">{words}</p>'


def live(words: str) -> str:
    """What to press or pick next; a page without a kernel hides it."""
    return f'<p role="status" class="wb-live">{words}</p>'


def alert(message: str) -> str:
    """An error as HTML that screen readers announce."""
    return (
        '<p role="alert" style="margin:4px 0;padding:4px 8px;'
        'border-left:4px solid var(--wb-warn, #b3261e)">'
        f"<b>Error:</b> {escape(message)}</p>"
    )


def in_words(error: BaseException | None) -> str:
    """An error as people read it; those that nobody wrote for readers say their kind first."""
    ours = isinstance(error, (ValueError, TypeError, RuntimeError, OSError)) and str(error)
    return str(error) if ours else f"{type(error).__name__}: {error}"


def failure(title: str, error: BaseException | None) -> str:
    """That a panel has nothing to show, and why."""
    return f'<div class="panel-failure">{alert(f"{title}: {in_words(error)}")}</div>'


def code_block(code: str) -> str:
    """Code with a button that copies it."""
    return copier("Copy the code", code) + f'<pre class="wb-code">{escape(code)}</pre>'


def copier(name: str, words: str) -> str:
    """A button that copies words, and says so."""
    copy = "navigator.clipboard.writeText(this.dataset.words);this.textContent='Copied'"
    return f'<button data-words="{escape(words)}" onclick="{copy}">{name}</button>'


def download(title: str) -> str:
    """A button that saves what the panel around it shows as a PNG."""
    name = title.lower().replace(" ", "-") + ".png"
    about = f'data-name="{escape(name)}" onclick="{escape(DOWNLOAD.read_text())}"'
    return f"<button {about}>Download the picture</button>"


class Folds(traitlets.HasTraits):
    """Buttons, each of which unfolds a widget, one at a time; by keyboard as by pointer.

    buttons: the row of them; body: what is unfolded. selected_index: which, or None.
    """

    selected_index = traitlets.Int(None, allow_none=True)

    def __init__(self, parts: Sequence[tuple[str, ipw.Widget]]) -> None:
        super().__init__()
        self.titles, self.widgets = [title for title, _ in parts], [part for _, part in parts]
        self.buttons, self.body = PickView().add_class("wb-folds"), ipw.VBox()
        self.buttons.observe(self._picked, "picked")
        self._unfold()

    def _picked(self, change: Any) -> None:
        key, which = change["new"].get("key", ""), int(change["new"]["name"])
        if not key.startswith("Arrow"):
            self.selected_index = None if which == self.selected_index else which

    @traitlets.observe("selected_index")
    def _unfold(self, _: object = None) -> None:
        here = self.selected_index
        self.body.children = [] if here is None else [self.widgets[here]]
        self.buttons.value = " ".join(
            f'<button data-pick="{i}" aria-expanded="{str(i == here).lower()}">'
            f"{'▾' if i == here else '▸'} {escape(title)}</button>"
            for i, title in enumerate(self.titles)
        )


def button(name: str, tooltip: str, action: Callable[..., Any], **options: Any) -> ipw.Button:
    """A button that calls `action` when it is clicked."""
    made = ipw.Button(description=name, tooltip=tooltip, **options)
    made.on_click(lambda _: action())
    return made


def slider(kind: type[ipw.Widget], name: str, tooltip: str, **options: Any) -> ipw.Widget:
    """A control of the kind of widget given, as wide as it has to be."""
    common = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
    return kind(description=name, tooltip=tooltip, **{**common, **options})


@contextmanager
def quiet(owner: Any) -> Iterator[None]:
    """While `owner` itself sets controls, its `quiet` is true: they call nobody."""
    before, owner.quiet = owner.quiet, True
    try:
        yield
    finally:
        owner.quiet = before


def bundle(widget: ipw.Widget, static: str, text: str) -> dict[str, Any]:
    """What a cell shows: the widget where there is a kernel, else HTML, else text."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    kind = "application/vnd.jupyter.widget-view+json"
    return {kind: view, "text/html": static, "text/plain": text}
