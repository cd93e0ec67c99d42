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

from .blocks import bundle, button, code_block, failure, in_words, status
from .form import Form
from .frame import LOOKED_AT, Frame, R, guarded
from .picker import Picker
from .saver import Saver
from .selection import SELECTED, Selection

P = TypeVar("P", bound=Parameters)


class Panel(Frame[R], Generic[P, R]):
    """A view with controls: `run()` in a cell, `start()` behind a button, the same steps.

    A panel is written by giving `Params` and `title`, and the methods `steps` (the work),
    `draw` (a result as HTML) and `code` (the API calls that give the same result); `check`
    where parameters have to fit one another. The rest has defaults: a form of the parameters,
    and work that begins anew when they or the selection change.

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
        self.code_view = ipw.HTML()
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

    def choices(self) -> Mapping[str, Sequence[Any]]:
        """What can be chosen in the form, for fields whose choices are known only now."""
        return {}

    def controls(self) -> ipw.Widget:
        """The widgets above the view, beside the picker: the form, and the button that starts."""
        self.form = Form(self.params, choices=self.choices(), only=self.only)
        self.form.observe(guarded(self, self._form_changed))
        name, tooltip = self.action
        start = button(name, tooltip, guarded(self, self.start), button_style="primary")
        return ipw.VBox([self.form.widget, *[start] * bool(name)])

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
        self.start(self.peek() if self.waits else None)

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

    def misfit(self) -> str:
        """`unfit`, or why that cannot be said."""
        try:
            return self.unfit()
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
            folded = [("Copy as code", self.code_view), saver, *self.details()]
            titles = [title for title, _ in folded]
            self.below = ipw.Accordion([widget for _, widget in folded], titles=titles)
            self.listen(self.below, lambda _: self._show_code(), "selected_index")
            if self.result is not None:
                with self.quietly():
                    self.shown(self.result)
            self.live = True
            parts = [controls, self.progress, self.message, self.view, self.below]
            self._widget = ipw.VBox(parts)
        return self._widget

    def framed(self) -> ipw.Widget:
        """The widgets; where they cannot be made, the frame that says why."""
        try:
            return self.widget
        except Exception as error:  # whatever a model of one's own raises
            self.fail(error)
            self._widget = ipw.VBox([ipw.HTML(failure(self.title, error))])
            return self._widget

    def _controls(self) -> ipw.Widget:
        """The panel's own controls beside the picker; without it where panels share one."""
        self._shares_picker = self.picker is not None
        if self._shares_picker:
            return self.controls()
        self.picker = picker = Picker(self.selection, partial(guarded, self))
        shown = picker.widget if "index" in self.follows else ipw.VBox([picker.data, picker.model])
        return ipw.HBox([shown, self.controls()], layout={"flex_flow": "row wrap"})

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
        if self.picker is not None and not self._shares_picker:
            self.picker.sync()
        self.followed(change)

    def fail(self, error: BaseException | None) -> None:
        """Show an error in place of a picture and of its code."""
        super().fail(error)
        self.code_view.value = ""

    def drawn(self, result: R) -> None:
        """Bring the controls into line with the result, and the code where it is looked at."""
        if self.live:
            with self.quietly():
                self.shown(result)
            guarded(self, self._show_code)()

    def _show_code(self) -> None:
        """Make the code, where it is unfolded."""
        looked_at = self.below.selected_index == 0 and self.result is not None
        self.code_view.value = code_block(self.code()) if looked_at else ""

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
        return (
            f'<section aria-label="{title}">{picture}'
            f'<p style="color:#555;font-size:90%">{title}: {caption}</p></section>'
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        if self.result is None:
            self.look()
        static = self.to_html()
        return bundle(self.widget, static, f"{type(self).__name__}({self.state()})")
