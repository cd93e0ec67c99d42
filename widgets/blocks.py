"""What panels are put together from: pieces of HTML, and controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as ipw
import torch

from workbench.figures import images, img_tag

HEIGHT = 120  # pixels on the screen for an image, whatever its own size


def figure(image: torch.Tensor, alt: str, caption: str = "", height: int = HEIGHT) -> str:
    """An image `(C, H, W)` with its caption: HTML, or else the alt text."""
    tag = img_tag(image.cpu(), alt, height=height)
    words = f"<figcaption>{caption or escape(alt)}</figcaption>"
    return f'<figure style="margin:0;max-width:16em">{tag}{words}</figure>'


def row(*blocks: str) -> str:
    """Blocks side by side, wrapped where there is no room."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:20px">{"".join(blocks)}</div>'


def section(*blocks: str) -> str:
    """Blocks of the view, one below the other."""
    return f'<div class="wb">{"".join(blocks)}</div>'


def column(*blocks: str, width: str = "26em") -> str:
    """Blocks one below the other, as one block of a row."""
    return f'<div style="max-width:{width}">{"".join(blocks)}</div>'


def table(caption: str, rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of HTML cells, the first of which says what its row is about."""
    bold = [(f"<b>{name}</b>", *cells) for name, *cells in rows]
    return images.table(bold, [f"<b>{name}</b>" for name in head], caption)


def pickable(name: str, block: str, tag: str = "span") -> str:
    """A block that can be clicked in a `PickView`, where it is called `name`."""
    about = f'data-pick="{escape(name)}" tabindex="0" role="button" style="cursor:pointer"'
    return f"<{tag} {about}>{block}</{tag}>"


def status(words: str) -> str:
    """HTML that screen readers read out when they get to it."""
    return f'<p role="status">{words}</p>'


def live(words: str) -> str:
    """What to press or pick next; a page without a kernel hides it."""
    return f'<p role="status" class="wb-live">{words}</p>'


def alert(message: str) -> str:
    """An error as HTML that screen readers announce."""
    return (
        '<p role="alert" style="margin:4px 0;padding:4px 8px;border-left:4px solid #D55E00">'
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
    copy = "navigator.clipboard.writeText(this.nextElementSibling.innerText)"
    return (
        f'<button onclick="{copy}" aria-label="Copy the code">Copy</button>'
        f'<pre style="margin:4px 0;line-height:1.4">{escape(code)}</pre>'
    )


def button(name: str, tooltip: str, action: Callable[..., Any], **options: Any) -> ipw.Button:
    """A button that calls `action` when it is clicked."""
    made = ipw.Button(description=name, tooltip=tooltip, **options)
    made.on_click(lambda _: action())
    return made


def slider(kind: type[ipw.Widget], name: str, tooltip: str, **options: Any) -> ipw.Widget:
    """A control of the kind of widget given, as wide as the picker."""
    common = {"style": {"description_width": "5em"}, "layout": {"width": "36em"}}
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
