"""`Front`: a bench on its screen: what the panels show goes there, what is asked comes back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, cast

import ipywidgets as ipw
import torch

from workbench import saliency

from . import screen
from .blocks import button, code_block
from .draw_pad import DrawPad
from .frame import guarded
from .panel import Panel
from .picker import Picker
from .saver import Saver
from .screen import Screen

if TYPE_CHECKING:
    from .bench import Bench
    from .model_panel import ModelPanel

TILES = {"attack": "eps", "prototypes": "prototypes", "map": "level set", "pattern": "patterns"}
NEAR = 100  # images among which one that is right is looked for
MODES = {"image": "model", "why": "model", "attack": "eps", "draw": "model"}  # whose stage it is


class Front:
    """The widgets of a bench: its screen, the pen, a panel's large view, code and saver."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.selection = bench, bench.selection
        self.picker = Picker(self.selection, partial(guarded, bench))
        self.screen = Screen()
        self.screen.observe(guarded(bench, self._asked), "asked")
        self.screen.observe(guarded(bench, self._turned), "mode")
        self.pad: DrawPad | None = None
        self.code_view, self.saver = ipw.HTML(), Saver(bench)
        self.easel = ipw.VBox(layout={"display": "none"}).add_class("wb-easel")
        self.large = ipw.VBox(layout={"display": "none"}).add_class("wb-large")
        self.below = ipw.VBox(layout={"display": "none"})
        self._frames: dict[Any, dict[int, dict[str, Any]]] = {}  # of the strip, of one model
        grid = ipw.GridBox([self.screen, self.easel, self.large]).add_class("wb-bench")
        self.widget = ipw.VBox([grid, bench.message, self.below]).add_class("wb-room")
        for name, panel in bench.panels.items():
            panel.picker = self.picker
            panel.watchers.append(guarded(bench, partial(self._changed, name)))
        if bench.view == "eps":
            self.screen.mode = "attack"
        self.enlarge("" if bench.view in MODES.values() else bench.view)
        for name in bench.panels:
            self._changed(name)

    # To the screen.

    def sync(self) -> None:
        """Bring the bar into line with the selection."""
        s = self.selection
        self.picker.sync()
        names = s.models_for(s.dataset)
        rates = {name: s.card(name).accuracy for name in names}
        self.screen.bar = {
            "data": [[name, name] for name in s.dataset_names()],
            "dataset": s.dataset,
            "models": [[name, name] for name in names],
            "accuracy": {n: "" if rate is None else f"{rate:.1%}" for n, rate in rates.items()},
            "model": s.model,
            "compare": getattr(self.bench.panels["model"].params, "compare", ""),
            "undo": bool(self.bench.past),
            "view": self.bench.view if self.large.layout.display is None else "",
        }
        self.show_code()

    def enlarge(self, name: str) -> None:
        """Put a panel's large view on the stage, "" for none; what is not seen is not drawn."""
        for other, panel in self.bench.panels.items():
            guarded(panel, panel.reveal)(other == name)  # an error is shown where it belongs
        self.large.layout.display = None if name else "none"
        self.large.children = [self.bench.panels[name].framed()] if name else []
        self.sync()

    def show_code(self) -> None:
        """Show the code, where it is unfolded: it is not made anew at every stroke of a pen."""
        if self.below.layout.display is None and self.code_view in self.below.children:
            cell = (
                f"from workbench.widgets import Bench\n\nBench.from_state({self.bench.state()!r})"
            )
            parts = {"This bench, for a cell": cell, "What it shows": self.bench.code()}
            self.code_view.value = "".join(f"<h4>{t}</h4>{code_block(c)}" for t, c in parts.items())

    def _changed(self, name: str) -> None:
        """A panel shows something else, is at work, or failed: so does its part of the screen."""
        panel = self.bench.panels[name]
        if name == "model" and panel.result is not None:
            self._show_image(cast("ModelPanel", panel))
        if name == "eps" and panel.result is not None:
            told = screen.frames(panel.result.breaking, panel.result.images.space)
            self.screen.breaking = {**told, "index": panel.result.index}
            self._show_answer()
        for tile, behind in TILES.items():
            if behind == name:
                setattr(self.screen, tile, self._tile(panel, tile, panel.tile))
        if name == "patterns":
            lamp = getattr(panel, "monitor_tile", None)
            self.screen.monitor = self._tile(panel, "monitor", lamp)

    def _tile(
        self, panel: Panel[Any, Any], title: str, draw: Callable[[Any], tuple[str, str]] | None
    ) -> dict[str, Any]:
        """What a tile shows: the small view, or why there is none; whether work is under way."""
        busy = panel.job is not None and panel.job.state == "running" and panel.whole
        index = getattr(panel.result, "index", self.selection.index)
        shown: dict[str, Any] = {"title": title, "busy": busy, "index": index}
        if reason := panel.misfit():
            offer = self.selection.models_for(self.selection.origin)
            fits = [name for name in offer[:8] if not panel.misfit(name)][:2]
            return {**shown, "head": "not of this model", "html": escape(reason), "fits": fits}
        if panel.result is None or draw is None:
            return {**shown, "head": "not possible here", "html": panel.message.value}
        head, html = draw(panel.result)
        return {**shown, "head": head, "html": html}

    def _show_image(self, panel: ModelPanel) -> None:
        """The image, its answer, and the strip it is on."""
        view, s, show = panel.result, self.selection, panel.params.browse
        assert view is not None
        self.picker.show(view.order)
        if view.index is None:
            self.screen.film = {"items": [], "at": -1, "show": show, "first": 0, "total": 0}
            self.screen.stage, self.screen.answer = {"words": panel.nothing()}, {}
            return
        self.screen.stage = screen.stage(view)
        self._show_answer()
        first = int((view.order == view.index).argmax()) // screen.FILM * screen.FILM
        on_it = view.order[first : first + screen.FILM]
        # A drawing changes while one draws; the images before it stay what they are.
        key, last = (s.origin, s.model), len(view.images) - 1
        self._frames = {key: self._frames.get(key, {})}
        frames, every = self._frames[key], panel.known_answers()
        for i in on_it.tolist():
            if i not in frames or (i == last and s.origin != s.dataset):
                frames[i] = screen.frame(view.images, i, None if every is None else int(every[i]))
        answer = int(view.looks[0].prediction.label[0])
        frames[view.index] = screen.frame(view.images, view.index, answer)
        strip = {"items": [frames[i] for i in on_it.tolist()], "at": view.index, "show": show}
        self.screen.film = {**strip, "first": first, "total": len(view.order)}

    def judge(self) -> None:
        """Ask the model of the images on the strip that it was not asked of yet, and mark them."""
        s, shown = self.selection, self.screen.film
        asked = [item["index"] for item in shown["items"] if item["says"] is None]
        if not asked:
            return
        images, key = s.images(), (s.origin, s.model)
        answers = s.classifier().predict(images.images[asked]).label.tolist()
        with s.lock:
            if key not in self._frames or self.screen.film is not shown:
                return  # another page of the strip by now: it asks anew
            frames = self._frames[key]
            frames.update(
                {i: screen.frame(images, i, k) for i, k in zip(asked, answers, strict=True)}
            )
            items = [frames[item["index"]] for item in shown["items"]]
            self.screen.film = {**shown, "items": items}

    def _show_answer(self) -> None:
        """What the models say, and how much it takes to change that, where it is of this image."""
        view, attacked = self.bench.panels["model"].result, self.bench.panels["eps"].result
        if view is None or view.index is None:
            return
        breaking = ()
        if attacked is not None and (attacked.images, attacked.index) == (view.images, view.index):
            breaking = attacked.breaking
        drawn = self.selection.origin != self.selection.dataset
        self.screen.answer = screen.answer(view, breaking, drawn)

    # What is asked for on the screen.

    def _asked(self, change: Any) -> None:
        """Something was clicked or chosen."""
        what, value = change["new"].get("what"), change["new"].get("value")
        bench, s, shown = self.bench, self.selection, self.bench.panels["model"]
        if what == "index":
            s.index = int(value)
        elif what == "step":
            self.picker.step(int(value))
        elif what == "right":
            self._go_to_a_right_one()
        elif what == "data":
            self.picker.data.value = value
        elif what == "model":
            s.model = value
        elif what == "compare":
            bench.compare(value)
            self.sync()
        elif what == "show":
            shown.set(browse=value)
        elif what == "meant":
            s.draw(s.images().images[s.index], value)
        elif what == "view":
            bench.show(value)
        elif what in ("undo", "stop"):
            getattr(bench, what)()
        elif what in ("code", "save"):
            self._unfold(self.code_view if what == "code" else self.saver.widget)

    def _go_to_a_right_one(self) -> None:
        """Look at the next image that the model is right about, among all of them."""
        s, images = self.selection, self.selection.images()
        near = (s.index + 1 + torch.arange(min(NEAR, len(images)))) % len(images)
        right = s.classifier().predict(images.images[near]).label == images.labels[near]
        if not right.any():
            raise ValueError(f"{s.model} is wrong about the next {len(near)} images, too")
        s.index = int(near[right][0])
        if self.bench.panels["model"].params.browse != "in order":
            self.bench.panels["model"].set(browse="in order")

    def _unfold(self, widget: ipw.Widget) -> None:
        """Show the code or the saver below, or fold it again."""
        folded = self.below.layout.display == "none" or widget not in self.below.children
        self.below.children = [widget]
        self.below.layout.display = None if folded else "none"
        self.show_code()

    def _turned(self, change: Any) -> None:
        """Another layer is on the stage."""
        mode, shown = change["new"], self.bench.panels["model"]
        self.bench.view = MODES[mode]
        if mode == "why" and getattr(shown.params, "method", "") == "none":
            model = self.selection.classifier()
            fit = (name for name, kind in saliency.METHODS.items() if not kind().unfit(model))
            shown.set(method=next(fit, "none"))
        if mode == "attack" and self.bench.auto:
            self.bench.complete("eps")
        if mode == "draw":
            self._ease(self.selection.images().images[self.selection.index])
        else:
            self.easel.layout.display, self.easel.children = "none", []

    def _ease(self, image: Any) -> None:
        """Put a pad on the stage: with an image to change, or blank, then centred as MNIST is."""
        shape = tuple(self.selection.images().shape)
        self.pad = DrawPad(shape, image, centre=image is None)
        self.pad.on_drawn(self._drawn)
        image_too = self.selection.images().images[self.selection.index]
        again = guarded(self.bench, lambda: self._ease(image_too))
        sheet = guarded(self.bench, lambda: self._ease(None))
        starts = [
            button("Blank sheet", "Draw from nothing; centred as the model's digits are", sheet),
            button("This image", "Draw on the image on the stage", again),
        ]
        self.easel.children = [ipw.HBox(starts), self.pad]
        self.easel.layout.display = None

    def _drawn(self, drawing: Any) -> None:
        with self.selection.lock:
            self.selection.draw(drawing)
