"""`Panel`: what every panel can do. A panel adds its steps, its drawing and its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any, ClassVar, Generic, TypeVar, cast

import ipywidgets as ipw

from workbench.data import ImageDataset
from workbench.models import Classifier, Prediction
from workbench.params import Parameters

from .blocks import Folds, bundle, button, code_block, copier, download, failure, in_words, status
from .form import Form
from .frame import LOOKED_AT, Frame, R, guarded
from .picker import Picker
from .saver import Saver
from .selection import SELECTED, Selection

UNDONE = ("dataset", "model", "index", "towards", "layer")  # of a selection
P = TypeVar("P", bound=Parameters)


class Panel(Frame[R], Generic[P, R]):
    """A view with controls: `run()` in a cell, `start()` behind a button, the same steps.

    A panel is written by giving `Params` and `title`, and the methods `steps` (the work),
    `draw` (a result as HTML) and `code` (the API calls that give the same result); `check`
    where parameters have to fit one another. The rest has defaults: a form of the parameters,
    those of `matter` in view and the others folded, and work that begins anew when they or the
    selection change.

    Args:
        dataset: a name (see `data.available()`) or an `ImageDataset`.
        model: a name (see `models.available()`) or a `Classifier`.
        index: which image to look at first.
        selection: shared with other panels; then dataset, model and index come from it.
        checked: whether to `check` the parameters here and now.
        parameters: the fields of the panel's `Params`.

    Raises:
        ValueError: an unknown name, a value out of bounds, or what does not fit.
    """

    Params: ClassVar[type[Parameters]]
    follows: ClassVar[tuple[str, ...]] = LOOKED_AT
    only: ClassVar[tuple[str, ...] | None] = None  # fields of the form; all of them
    action: ClassVar[tuple[str, str]] = ("", "")  # name and tooltip of a button that starts
    matter: ClassVar[tuple[str, ...] | None] = None  # in view, the rest folded; the first few
    waits: ClassVar[bool] = False  # for its button: a change brings a first look alone

    def __init__(
        self,
        dataset: str | ImageDataset | None = None,
        model: str | Classifier | None = None,
        index: int = 0,
        *,
        selection: Selection | None = None,
        checked: bool = True,
        **parameters: Any,
    ) -> None:
        super().__init__(selection or Selection(dataset, model, index))
        for name, value in parameters.items():
            own = isinstance(value, Classifier)  # given in place of its name
            if own or (isinstance(value, str) and "|" in value):
                parameters[name] = self.selection.add(value)
        self.params = cast("P", self.Params(**parameters))
        self.picker: Picker | None = None
        self._shares_picker = False  # with panels beside it; then another brings it into line
        self._widget: ipw.Widget | None = None
        self.live = False  # once there are controls
        self._past: list[tuple[dict[str, Any], P]] = []  # what an undo goes back to
        self._going_back = False
        self.calm = False  # where it begins with a first look, and others start the rest
        self.code_view = ipw.HTML()
        self.view.add_class("wb-view")
        if checked:
            self.check(self.params)
        self.selection.observe(guarded(self, self._follow), list(self.follows))

    # What a panel writes itself, beside what a frame asks for.

    def check(self, params: P) -> None:
        """Check that parameters fit the selection and one another, before any work is done.

        Raises:
            ValueError: they do not.
        """

    def unfit(self, model: str = "") -> str:
        """Why the panel has nothing to show of a model, or the one selected; else empty."""
        return ""

    def code(self) -> str:
        """The API calls that give the result shown."""
        raise NotImplementedError

    def tile(self, result: R) -> tuple[str, str]:
        """A result in a few words and as a small picture, HTML, for a tile of the bench."""
        return self.title, ""

    def choices(self) -> Mapping[str, Sequence[Any]]:
        """What can be chosen in the form, for fields whose choices are known only now."""
        return {}

    def controls(self) -> ipw.Widget:
        """The widgets that matter, above the view: those of the form, and what a panel adds."""
        self.form = Form(self.params, choices=self.choices(), only=self.only, matter=self.matter)
        self.form.observe(guarded(self, self._form_changed))
        return self.form.first

    def folded(self) -> list[ipw.Widget]:
        """The other controls, folded."""
        return [self.form.rest] if self.form.rest.children else []

    def actions(self) -> list[ipw.Widget]:
        """Buttons beside the one that starts."""
        return []

    def under(self) -> list[ipw.Widget]:
        """The widgets right below the view."""
        return []

    def details(self) -> list[tuple[str, ipw.Widget]]:
        """What folds out below the view, each with its title."""
        return []

    def taken(self, values: P) -> P:
        """The parameters that follow from what was set in the form."""
        return values

    def changed(self, before: P) -> None:
        """The form was changed; the parameters were `before`."""
        self.begin()

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel."""
        self.choose_anew()
        self.begin()

    def shown(self, result: R) -> None:
        """Called after a result is drawn, to bring the controls into line with it, quietly."""

    # What every panel has.

    def image(self) -> tuple[ImageDataset, int]:
        """The images, and which of them is looked at."""
        images = self.selection.images()
        return images, min(self.selection.index, len(images) - 1)

    def answer(self) -> tuple[ImageDataset, int, Classifier, Prediction]:
        """The images, which of them is looked at, the model, and what it says of that one."""
        (images, index), model = self.image(), self.selection.classifier()
        return images, index, model, model.predict(images.images[index : index + 1])

    def begin(self) -> None:
        """Start the work, or a first look where the rest waits for the button."""
        self.start(self.peek() if self.waits or self.calm else None)

    def aim(self, towards: str) -> None:
        """Begin anew, towards a class that is the same for all panels; "" for none."""
        if towards != self.selection.towards:
            self.selection.towards = towards  # which begins
        else:
            self.begin()

    def offer(self) -> str:
        """Why the panel shows nothing, and the models that fit, to be picked in a `PickView`."""
        names = [n for n in self.selection.models_for(self.selection.dataset) if not self.unfit(n)]
        buttons = [f'<button data-pick="model:{escape(n)}">{escape(n)}</button>' for n in names]
        choose = f"Choose one that fits: {' '.join(buttons)}" if names else "No model here fits."
        return status(f"{escape(self.unfit())}. {choose}")

    def misfit(self, model: str = "") -> str:
        """`unfit`, or why that cannot be said."""
        try:
            return self.unfit(model)
        except Exception as error:  # whatever a model of one's own raises
            return in_words(error)

    def code_head(self, *imports: str) -> list[str]:
        """The first lines of the code: imports, the images and the model."""
        s = self.selection
        return [*imports, "", f"images = {s.code('dataset')}", f"model = {s.code('model')}"]

    @property
    def widget(self) -> ipw.Widget:
        """The widgets: controls, progress, messages, view, code."""
        if self._widget is None:
            controls = self._controls()
            self.saver = Saver(self)
            saver = ("Save as notebook or report", self.saver.widget)
            self.below = Folds([("Copy as code", self.code_view), saver, *self.details()])
            self.listen(self.below, lambda _: self._show_code(), "selected_index")
            if self.result is not None:
                with self.quietly():
                    self.shown(self.result)
            self.live, self._here = True, self._now()
            parts = [*controls, self.message, self.view, *self.under()]
            self._widget = ipw.VBox([*parts, self.below.buttons, self.below.body])
            self._widget.add_class("wb-panel")
        return self._widget

    def framed(self) -> ipw.Widget:
        """The widgets; where they cannot be made, the frame that says why."""
        try:
            return self.widget
        except Exception as error:  # whatever a model of one's own raises
            self.fail(error)
            self._widget = ipw.VBox([ipw.HTML(failure(self.title, error))])
            return self._widget

    def _controls(self) -> list[ipw.Widget]:
        """The picker, where panels do not share one; what matters; the buttons; the rest."""
        above, folded = [], []
        self._shares_picker = self.picker is not None
        if self.picker is None and self.follows:
            self.picker = Picker(self.selection, partial(guarded, self))
            above = [self.picker.widget if "index" in self.follows else self.picker.short]
        above.append(self.controls())
        name, tooltip = self.action
        start = button(name, tooltip, guarded(self, self.start), button_style="primary")
        about = "Back to the parameters and the image before the last change"
        self._back = button("Undo", about, guarded(self, self.undo), icon="undo", disabled=True)
        buttons = [*[start] * bool(name), *self.actions(), self._back]
        if rest := self.folded():
            more = Folds([("Settings", ipw.VBox(rest))])
            buttons, folded = [*buttons, more.buttons], [more.body]
        if not name:  # there is room for them beside what matters
            buttons = [above.pop(), *buttons]
        return [*above, ipw.Box([*buttons, self.progress]).add_class("wb-acts"), *folded]

    def _form_changed(self, values: Parameters) -> None:
        # The form knows nothing of what was chosen elsewhere since it was made.
        own = {name: getattr(values, name) for name in self.form.controls}
        self.accept(self.taken(self.params.changed(**own)))

    def accept(self, params: P) -> None:
        """Take other parameters, as the form does.

        Raises:
            ValueError: they do not fit.
        """
        self.check(params)
        before, self.params = self.params, params
        self.changed(before)
        self._note()

    def _now(self) -> tuple[dict[str, Any], P]:
        """What an undo comes back to."""
        return {name: getattr(self.selection, name) for name in UNDONE}, self.params

    def _note(self) -> None:
        """Remember what there was before a change."""
        if self.live and not self._going_back and self._now() != self._here:
            self._past.append(self._here)
            self._here, self._back.disabled = self._now(), False

    def undo(self) -> None:
        """Go back to the parameters and the selection before the last change of either."""
        if not self._past:
            return
        with self._lock:
            (chosen, params), self._going_back = self._past.pop(), True
            try:
                with self.selection.hold_trait_notifications():
                    for name, value in chosen.items():
                        setattr(self.selection, name, value)
                self.accept(params)
            finally:
                self._going_back = False
            self.choose_anew()
            if hasattr(self, "form"):
                self.form.set(self.params)
            self._here, self._back.disabled = self._now(), not self._past

    def set(self, **values: Any) -> None:
        """Change parameters, and the form with them; nothing is started."""
        self.params = self.params.changed(**values)
        if self.live:
            self.form.set(self.params)

    def choose_anew(self) -> None:
        """Give the form the choices there are now."""
        if self.live:
            for name, choices in self.choices().items():
                self.form.choose_from(name, choices, getattr(self.params, name))

    def _follow(self, change: Any) -> None:
        if self.quiet:
            return
        if self._widget is not None and self.picker is not None and not self._shares_picker:
            self.picker.sync()
        self.followed(change)
        self._note()

    def fail(self, error: BaseException | None) -> None:
        """Show an error in place of a picture and of its code."""
        super().fail(error)
        self.code_view.value = ""

    def drawn(self, result: R) -> None:
        """Bring the controls into line with the result, and the code where it is looked at."""
        if self.live:
            with self.quietly():
                self.shown(result)
            self._here = self._now()  # what the panel itself set is no step
            guarded(self, self._show_code)()

    def _show_code(self) -> None:
        """Make the code, where it is unfolded."""
        looked_at = self.below.selected_index == 0 and self.result is not None
        self.code_view.value = self._code_html() if looked_at else ""

    def _code_html(self) -> str:
        """The code; a button for the cell that shows this panel, and one for its picture."""
        kind = type(self).__name__
        cell = f"from workbench.widgets import {kind}\n\n{kind}.from_state({self.state()!r})"
        own = any(map(self.selection.is_own, (self.selection.origin, self.selection.model)))
        share = "" if own else copier("Copy a cell that shows this panel", cell)
        return f"{share} {download(self.title)}{code_block(self.code())}"

    # What a panel is, in other forms.

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        changes = self.params.changes().items()
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in changes}
        return {**self.selection.state(), **own}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Panel[P, R]:
        """A panel as `state()` described it."""
        fields = cls.Params.model_fields
        rest = {n: value for n, value in state.items() if n not in SELECTED or n in fields}
        return cls(selection=Selection.from_state(state), **rest)

    def to_html(self) -> str:
        """The present view without widgets, for reports: works with no kernel."""
        if not self.seen:
            self.run()
        title = escape(self.title)
        if self.result is None:
            return f'<section aria-label="{title}">{self.message.value}</section>'
        caption = escape(", ".join(f"{k} {v}" for k, v in self.state().items()))
        # What is on the screen need not be drawn again, unless it was turned to something else.
        as_shown = self._drawn and self.view.value == self._drawn
        picture = self._drawn if as_shown else self.draw(self.result)
        soft = "color:var(--wb-soft, #57606a);font-size:12px"
        about = f'<p style="{soft}">{title}: {caption}</p>'
        return f'<section aria-label="{title}">{picture}{about}</section>'

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        if self.result is None:
            self.look()
        static = self.to_html()
        return bundle(self.widget, static, f"{type(self).__name__}({self.state()})")
