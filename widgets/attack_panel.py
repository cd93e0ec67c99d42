"""`AttackPanel`: attack one image, watch every step, and read what came of it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import attacks, checks, robustness, saliency
from workbench.attacks import Attack, FixedBudget
from workbench.figures import png
from workbench.params import Parameters
from workbench.steps import Step

from .attacked import AttackView, next_right, nothing_to_do, picture, spans
from .blocks import button, slider
from .form import Form
from .frame import guarded
from .panel import Panel
from .views import filled

ANY = ""  # no target: any class but the true one
CODE = "from workbench import attacks, data, models"
FRAME = 0.1  # seconds of an attack that a slider which is dragged can wait for


class AttackPanelParameters(Parameters):
    """What `AttackPanel` does beside the data, the model and the image."""

    attack: str = Field("PGD", description="the attack; see attacks.available()")
    settings: dict[str, Any] = Field(default_factory=dict, description="its parameters")
    target: str = Field(
        ANY, title="into", description="class to reach; any other than the true one when empty"
    )
    method: str = Field(
        "none", title="why (saliency)", description="map of what mattered, before and after"
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random draws")


class AttackPanel(Panel[AttackPanelParameters, AttackView]):
    """Pick an attack and a budget, launch it, cancel it, scrub through its steps.

    Args and Raises: as of `Panel`. attack: a name (see `attacks.available()`) or an attack.
    The parameters are `AttackPanelParameters`; those of the attack itself, such as `eps`, can
    be given beside them.
    """

    Params = AttackPanelParameters
    title = "Attack panel"
    follows = (*Panel.follows, "towards")
    only = ("attack", "target", "method", "seed")
    action = ("Launch", "Attack this image")
    matter = ("attack", "target")
    waits = True
    picks = True
    quick = False  # whether the last attack took less than a frame of a drag
    usual: float | None = None  # the budget to begin with, where none was given

    def __init__(self, *args: Any, attack: str | Attack = "PGD", **parameters: Any) -> None:
        own = {"dataset", "model", "index", "selection", "checked", "target", "method", "seed"}
        rest = {k: parameters.pop(k) for k in [*parameters] if k not in own}
        settings = {**rest.pop("settings", {}), **rest}
        name = attack if isinstance(attack, str) else type(attack).__name__
        if isinstance(attack, Attack):
            settings = {**attack.changes(), **settings}
        self.attack = attacks.get(name, **settings)
        own_eps = "eps" in settings or "eps=" in name or isinstance(attack, Attack)
        parameters |= {"attack": name.partition("(")[0], "settings": set_of(self.attack)}
        super().__init__(*args, **parameters)
        if not own_eps:
            self._take(self.usual_of(self.attack))

    def check(self, params: AttackPanelParameters) -> None:
        """Check that there are such a class and such a method."""
        classes = self.selection.class_names()
        if params.target and params.target not in classes:
            raise checks.unknown("target", params.target, classes)
        methods = ["none", *saliency.METHODS]
        if params.method not in methods:
            raise checks.unknown("saliency method", params.method, methods)

    def peek(self) -> Iterator[Step[AttackView]]:
        """The image and the model's answer, without an attack."""
        view = AttackView(*self.answer(), self.attack)
        view = replace(view, remark=nothing_to_do(view, self.params.target))
        if view.wrong and not self.params.target:
            view = replace(view, right=next_right(view))
        yield Step(1, 1, "answered", view)

    def steps(self) -> Iterator[Step[AttackView]]:
        """The answer, the attack step by step, then saliency, and the budgets up to eps."""
        params, view, began = self.params, self.first(), time.monotonic()
        if view.remark:
            yield Step(1, 1, "nothing to do", view)
            return
        yield Step(0, 1, "answered", view)
        x, y = view.x, view.images.labels[view.index : view.index + 1]
        classes, name = view.images.classes, params.target
        target = torch.tensor([classes.index(name)]) if name else None
        work = view.attack.steps(view.model, x, y, target=target, seed=params.seed)
        for step in work:
            view = replace(view, result=step.value, n_steps=max(view.n_steps, step.total))
            halves = 1 + (view.budget > 0 and view.quick)
            yield Step(step.done, halves * step.total, step.message, view)
        assert view.result is not None, "an attack yields at least its result"
        if params.method != "none":
            method = saliency.method(params.method)
            maps = tuple(method(view.model, image) for image in (x, view.result.x_adv))
            view = replace(view, maps=maps)
        if view.budget and view.quick:
            view = yield from self._at_each_budget(view, part=1, of=2)
        self.quick = time.monotonic() - began < FRAME
        yield Step(1, 1, "attacked", view)

    def _at_each_budget(
        self, view: AttackView, part: int = 0, of: int = 1
    ) -> Generator[Step[AttackView], None, AttackView]:
        """The same attack at budgets up to its own."""
        attack = cast("FixedBudget", view.attack)
        work = robustness.breaking.steps(view.model, view.x, attack, seed=self.params.seed)
        return (yield from filled(view, "breaking", work, part, of, "budgets up to eps: "))

    # The picture.

    def draw(self, result: AttackView) -> str:
        """The verdict; the image as it is, what was added, the attacked image; the answers."""
        return picture(result, None)

    def code(self) -> str:
        """The calls that give the result shown."""
        p, index = self.params, self.result.index if self.result else self.selection.index
        lines = [
            *self.code_head(*["import torch"] * bool(p.target), CODE),
            f"x, y = images.images[{index}:{index + 1}], images.labels[{index}:{index + 1}]",
        ]
        extra = f", seed={p.seed}" if p.seed else ""
        if p.target:
            lines.append(f"target = torch.tensor([images.classes.index({p.target!r})])")
            extra = f", target=target{extra}"
        lines.append(f"attack = {call_of(p.attack, self.attack)}")
        return "\n".join([*lines, f"result = attack(model, x, y{extra})"])

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        state = {**super().state(), "attack": self.params.attack}
        return state | state.pop("settings", {})

    def save(self, path: str | Path) -> bool:
        """Write the attacked image as a PNG; whether it still fools the model, read back.

        A PNG holds 8 bits a value, and a small perturbation may be lost by rounding.

        Raises:
            RuntimeError: nothing was attacked yet.
        """
        if self.result is None or self.result.result is None:
            raise RuntimeError("nothing to save yet: run the attack first")
        result = self.result.result
        path = Path(path)
        path.write_bytes(png(result.x_adv[0]))
        rounded = (result.x_adv * 255).round() / 255
        logits = self.selection.classifier().predict(rounded).logits
        goal = attacks.goal_for(result.labels, result.target, logits.shape[1])
        return bool(goal.met(logits)[0])

    # The controls.

    def choices(self) -> dict[str, list[Any]]:
        """The attacks, the classes to aim at, and the methods."""
        names = self.selection.class_names()
        return {
            "attack": [(named(n, kind.title), n) for n, kind in attacks.available().items()],
            "target": [("any other class", ANY), *((name, name) for name in names)],
            "method": ["none", *saliency.METHODS],
        }

    def controls(self) -> ipw.Widget:
        """The attack, its target and its budget."""
        self.budget, self.others = ipw.Box(), ipw.Box()
        self._show_settings()
        about = "Step of the attack to look at"
        self.scrub = slider(ipw.IntSlider, "step of the attack", about, max=0, disabled=True)
        self.listen(self.scrub, self._scrubbed)
        return ipw.Box([super().controls(), self.budget]).add_class("wb-first")

    def folded(self) -> list[ipw.Widget]:
        """What else the attack and the panel can be told."""
        return [self.others, *super().folded()]

    def under(self) -> list[ipw.Widget]:
        """The steps to look at."""
        return [ipw.Box([self.scrub]).add_class("wb-first")]

    def details(self) -> list[tuple[str, ipw.Widget]]:
        """A place to save the attacked image."""
        self.file = slider(ipw.Text, "file name", "Where to save the image", value="attacked.png")
        about = "Save it, and ask the model about what was saved"
        save = button("Save as PNG", about, guarded(self, self._save_clicked))
        self.saved = ipw.HTML()
        return [("Save the attacked image", ipw.HBox([self.file, save, self.saved]))]

    def shown(self, result: AttackView) -> None:
        """Give the slider the steps there are."""
        trace = result.result.trace if result.result is not None else ()
        self.scrub.disabled = len(trace) < 2
        self.scrub.max = self.scrub.value = max(0, len(trace) - 1)
        self.saved.value = ""
        if "eps" in self.attack_form.controls:
            self.attack_form.controls["eps"].continuous_update = self.quick

    def _show_settings(self) -> None:
        self.attack_form = form = Form(
            self.attack, matter=("eps",), sliders=spans(self.attack, self.colour)
        )
        form.observe(guarded(self, self._settings_changed))
        self.budget.children, self.others.children = [form.first], [form.rest]
        self._name_eps()

    def _name_eps(self) -> None:
        """Say a budget in 255ths too, where the image has colours."""
        attack = self.attack
        if isinstance(attack, FixedBudget) and self.colour and attack.norm == "Linf":
            words = f"largest change (eps), {255 * attack.eps:.3g}/255"
            self.attack_form.controls["eps"].description = words

    @property
    def colour(self) -> bool:
        """Whether the images have colours."""
        return self.selection.card(self.selection.model).input_shape[0] == 3

    def taken(self, values: AttackPanelParameters) -> AttackPanelParameters:
        """Another attack has settings of its own."""
        return values if values.attack == self.params.attack else values.changed(settings={})

    def changed(self, before: AttackPanelParameters) -> None:
        """Another attack brings its form; another target is one for all panels."""
        p = self.params
        if (p.attack, p.settings) != (before.attack, before.settings):
            attack = attacks.get(p.attack, **p.settings)
            self._take(attack if "eps" in p.settings else self.usual_of(attack))
        self.aim(p.target)

    def _take(self, attack: Attack) -> None:
        """Another attack, or the same with other settings."""
        self.attack = attack
        self.params = self.params.model_copy(update={"settings": set_of(attack)})
        if self.live:
            self._show_settings()

    def _settings_changed(self, values: Parameters) -> None:
        before, attack = self.attack, cast("Attack", values)
        self.attack = attack
        self.params = self.params.model_copy(update={"settings": set_of(attack)})
        self._note()
        if spans(attack, self.colour) != spans(before, self.colour):
            self._show_settings()
        elif isinstance(before, FixedBudget) and attack.changed(eps=before.eps) == before:
            self._name_eps()  # the slider answers: at once where that is quick, else in a thread
            (self.run if self.quick else self.start)()

    def followed(self, change: Any) -> None:
        """The selection changed: show the image, attack nothing."""
        if change["name"] in ("dataset", "towards"):
            self.params = self.params.changed(target=self.selection.towards)
        of_the_model = self.usual is not None and self.attack.changed(eps=self.usual) == self.attack
        if change["name"] in ("dataset", "model") and of_the_model:
            self._take(self.usual_of(self.attack))
        super().followed(change)

    def usual_of(self, attack: Attack) -> Attack:
        """An attack with the budget to begin with: 8/255 of colours, else the card's, or 0.3."""
        self.usual, card = None, self.selection.card(self.selection.model)
        if not isinstance(attack, FixedBudget) or attack.norm != "Linf":
            return attack
        self.usual = 8 / 255 if self.colour else card.eps or 0.3
        return attack.changed(eps=self.usual)

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A way on was picked: a larger budget, budgets to drag, or another target."""
        if what == "eps":
            self._take(self.attack.changed(eps=float(which)))
            self._note()
            self.start()
        elif what == "drag":
            assert self.result is not None, "the button stands below a result"
            self.start(self._at_each_budget(self.result))
            self.whole = True
        elif what == "target":
            self.set(target=which)
            self.aim(which)

    def _scrubbed(self, step: int) -> None:
        if self.result is not None and self.result.result is not None:
            self.view.value = picture(self.result, step)

    def _save_clicked(self) -> None:
        kept = "still fools the model"
        if not self.save(self.file.value):
            kept = "no longer fools the model: rounding undid it"
        self.saved.value = f"<span role='status'>saved; in 8 bits it {kept}</span>"


def set_of(attack: Attack) -> dict[str, Any]:
    """The settings of an attack: its changes, and always its budget, whose usual value varies."""
    budget = {"eps": attack.eps} if isinstance(attack, FixedBudget) else {}
    return {**attack.changes(), **budget}


def named(name: str, title: str) -> str:
    """A name with its title, which may begin with the name."""
    return title if title.startswith(name) else f"{name}: {title}"


def call_of(name: str, attack: Attack) -> str:
    """The call that makes an attack; `name` as it was given, which may be an entry point's."""
    arguments = "".join(f", {k}={v!r}" for k, v in attack.changes().items())
    return f"attacks.get({name.partition('(')[0]!r}{arguments})"
