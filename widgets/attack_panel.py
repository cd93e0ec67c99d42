"""`AttackPanel`: attack one image, watch every step, and read what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import attacks, checks, saliency
from workbench.attacks import Attack, AttackResult
from workbench.figures import confidence_curve, confidence_table, heat_overlay, png
from workbench.params import Parameters
from workbench.saliency import Saliency
from workbench.steps import Step

from .blocks import button, column, figure, live, row, section, slider, status
from .form import Form
from .frame import guarded
from .panel import Panel
from .views import Answered, filled

ANY = ""  # no target: any class but the true one
HEIGHT = 150  # pixels on the screen for an image, whatever its own size
CODE = "from workbench import attacks, data, models"
FULL = 0.5  # the magnified perturbation reaches this far from grey


class AttackPanelParameters(Parameters):
    """What `AttackPanel` does beside the data, the model and the image."""

    attack: str = Field("PGD", description="the attack; see attacks.available()")
    settings: dict[str, Any] = Field(default_factory=dict, description="its parameters")
    target: str = Field(ANY, description="class to reach; any other than the true one when empty")
    method: str = Field("none", description="saliency to compare before and after the attack")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random draws")


@dataclass(frozen=True, eq=False)
class AttackView(Answered):
    """What the panel shows: the image, what the model says of it, and the attack so far."""

    attack: Attack
    result: AttackResult | None = None
    maps: tuple[Saliency, ...] = ()
    remark: str = ""

    @property
    def known(self) -> int | None:
        """The class of the image as the model numbers them; None where it is not known."""
        label = int(self.images.labels[self.index])
        return label if label >= 0 else None

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the image, and the attack's own summary."""
        row: dict[str, Any] = {"index": self.index, "attack": self.attack.code()}
        return row | (self.result.summary() if self.result is not None else {})


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
    waits = True

    def __init__(self, *args: Any, attack: str | Attack = "PGD", **parameters: Any) -> None:
        own = {"dataset", "model", "index", "selection", "checked", "target", "method", "seed"}
        rest = {k: parameters.pop(k) for k in [*parameters] if k not in own}
        settings = {**rest.pop("settings", {}), **rest}
        name = attack if isinstance(attack, str) else type(attack).__name__
        if isinstance(attack, Attack):
            settings = {**attack.changes(), **settings}
        self.attack = attacks.get(name, **settings)
        super().__init__(*args, attack=name, settings=settings, **parameters)

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
        yield Step(1, 1, "answered", view)

    def steps(self) -> Iterator[Step[AttackView]]:
        """The answer, the attack step by step, then the saliency before and after."""
        params, view = self.params, self.first()
        if view.remark:
            yield Step(1, 1, "nothing to do", view)
            return
        yield Step(0, 1, "answered", view)
        x, y = view.x, view.images.labels[view.index : view.index + 1]
        classes, name = view.images.classes, params.target
        target = torch.tensor([classes.index(name)]) if name else None
        work = view.attack.steps(view.model, x, y, target=target, seed=params.seed)
        view = yield from filled(view, "result", work)
        assert view.result is not None, "an attack yields at least its result"
        if params.method != "none":
            method = saliency.method(params.method)
            maps = tuple(method(view.model, image) for image in (x, view.result.x_adv))
            yield Step(1, 1, "explained", replace(view, maps=maps))

    # The picture.

    def draw(self, result: AttackView) -> str:
        """Clean, perturbation and adversarial image; verdict, confidences, course, maps."""
        return self.draw_at(result, None)

    def draw_at(self, view: AttackView, step: int | None) -> str:
        """The picture at one step of the trace; of the best image when None."""
        x, classes, label = view.x[0], view.images.classes, view.known
        name = "no label" if label is None else classes[label]
        clean = confidence_table(view.prediction.probabilities[0], classes, label).html
        blocks = [figure(x, f"{name}, as it is", f"as it is: <b>{escape(name)}</b>", HEIGHT)]
        if view.result is None:
            hint = (
                status(escape(view.remark))
                if view.remark
                else live("Press <b>Launch</b> to attack this image.")
            )
            return section(row(*blocks, column(clean, hint)))
        image, logits = view.result.x_adv[0], view.result.logits[0]
        if step is not None:
            moment = view.result.trace[step]
            assert moment.images is not None
            assert moment.logits is not None
            image, logits = moment.images[0], moment.logits[0]
        delta = image - x
        largest = float(delta.abs().max())
        factor = FULL / largest if largest > 0 else 1.0
        answer = classes[int(logits.argmax())]
        words = f"the perturbation, magnified {factor:.3g} times around grey"
        alt, caption = f"attacked image, taken for {answer}", f"attacked: <b>{escape(answer)}</b>"
        blocks += [
            column(clean),
            figure((0.5 + factor * delta).clamp(0, 1), words, height=HEIGHT),
            figure(image, alt, caption, HEIGHT),
            column(confidence_table(logits.softmax(0), classes, label).html),
        ]
        return section(verdict(view), row(*blocks), self._course(view, step), maps_html(view))

    def _course(self, view: AttackView, step: int | None) -> str:
        """How the confidences went, step by step."""
        assert view.result is not None
        moments = [m for m in view.result.trace if m.logits is not None]
        if len(moments) < 2:
            return ""
        shares = torch.stack([cast("torch.Tensor", m.logits)[0] for m in moments]).softmax(1)
        shown = {int(view.result.labels[0]), int(view.result.predicted[0])}
        if view.result.target is not None:
            shown.add(int(view.result.target[0]))
        lines = {view.images.classes[k]: shares[:, k].tolist() for k in sorted(shown)}
        return confidence_curve(lines, mark=step).html

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
        """The attack and its form; launch; scrub; save."""
        self.settings = ipw.VBox()
        self._show_settings()
        about = "Step of the attack to look at"
        self.scrub = slider(ipw.IntSlider, "step", about, max=0, disabled=True)
        self.listen(self.scrub, self._scrubbed)
        style, about = {"description_width": "5em"}, "Where to save the attacked image"
        self.file = ipw.Text("attacked.png", description="file", tooltip=about, style=style)
        about = "Save the attacked image, with a check"
        save = button("Save PNG", about, guarded(self, self._save_clicked))
        self.saved = ipw.HTML()
        form = ipw.HBox([super().controls(), self.settings], layout={"flex_flow": "row wrap"})
        return ipw.VBox([form, self.scrub, ipw.HBox([self.file, save, self.saved])])

    def shown(self, result: AttackView) -> None:
        """Give the slider the steps there are."""
        trace = result.result.trace if result.result is not None else ()
        self.scrub.disabled = len(trace) < 2
        self.scrub.max = self.scrub.value = max(0, len(trace) - 1)
        self.saved.value = ""

    def _show_settings(self) -> None:
        self.attack_form = Form(self.attack)
        self.attack_form.observe(guarded(self, self._settings_changed))
        self.settings.children = [self.attack_form.widget]

    def taken(self, values: AttackPanelParameters) -> AttackPanelParameters:
        """Another attack has settings of its own."""
        return values if values.attack == self.params.attack else values.changed(settings={})

    def changed(self, before: AttackPanelParameters) -> None:
        """Another attack brings its form; another target is one for all panels."""
        if self.params.attack != before.attack:
            self.attack = attacks.get(self.params.attack)
            self._show_settings()
        self.aim(self.params.target)

    def _settings_changed(self, values: Parameters) -> None:
        self.attack = cast("Attack", values)
        self.params = self.params.model_copy(update={"settings": self.attack.changes()})

    def followed(self, change: Any) -> None:
        """The selection changed: show the image, attack nothing."""
        if change["name"] in ("dataset", "towards"):
            self.params = self.params.changed(target=self.selection.towards)
        super().followed(change)

    def _scrubbed(self, step: int) -> None:
        if self.result is not None and self.result.result is not None:
            self.view.value = self.draw_at(self.result, step)

    def _save_clicked(self) -> None:
        kept = "still fools the model"
        if not self.save(self.file.value):
            kept = "no longer does what was asked: lost in rounding"
        self.saved.value = f"<span role='status'>saved; in 8 bits it {kept}</span>"


def named(name: str, title: str) -> str:
    """A name with its title, which may begin with the name."""
    return title if title.startswith(name) else f"{name}: {title}"


def call_of(name: str, attack: Attack) -> str:
    """The call that makes an attack; `name` as it was given, which may be an entry point's."""
    arguments = "".join(f", {k}={v!r}" for k, v in attack.changes().items())
    return f"attacks.get({name.partition('(')[0]!r}{arguments})"


def nothing_to_do(view: AttackView, target: str) -> str:
    """Why there is nothing to attack, and a way on; empty where there is."""
    classes, label, answer = view.images.classes, view.known, view.label
    if target and label is not None and target == classes[label]:
        return f"The image is of class {target} already: choose another target."
    if target == classes[answer]:
        return f"The model says {target} already: choose another target."
    if label is not None and answer != label and not target:
        return (
            f"Already wrong: this is {classes[label]}, and the model says {classes[answer]} before "
            "anything is changed. Step to another image, or choose a target class."
        )
    return ""


def verdict(view: AttackView) -> str:
    """What came of the attack, in a sentence with its numbers."""
    result = view.result
    assert result is not None
    classes = view.images.classes
    label, answer = int(result.labels[0]), int(result.predicted[0])
    success = bool(result.success[0])
    if view.known is None and result.target is None:  # nothing was right to begin with
        outcome = "Changed its answer" if success else "Kept its answer"
    elif success:
        outcome = "Fooled" if result.target is None else "Fooled as asked"
    elif answer != label:
        outcome = "Fooled, but not into the class asked for"
    else:
        outcome = "Not fooled"
    before, after = float(view.prediction.confidence[0]), float(result.confidence[0])
    was = classes[view.label]
    sizes = ", ".join(f"{norm} {float(size[0]):.3g}" for norm, size in result.norms.items())
    spent = f"{int(result.queries['forwards'][0])} forward passes"
    if int(result.queries["backwards"][0]):
        spent += f", {int(result.queries['backwards'][0])} gradients"
    return status(
        f"<b>{outcome}</b>: {escape(was)} {before:.2f} → {escape(classes[answer])} {after:.2f}. "
        f"Perturbation: {sizes}. Cost: {spent}."
    )


def maps_html(view: AttackView) -> str:
    """Saliency before and after, side by side."""
    blocks = []
    for when, pixels in zip(("before", "after"), view.maps, strict=False):
        title = f"{pixels.method} of {view.images.classes[int(pixels.target[0])]}, {when}"
        scale = "diverging" if pixels.signed else "sequential"
        picture = heat_overlay(None, pixels.values[0], scale, height=HEIGHT, title=title)
        blocks.append(column(picture.html))
    return row(*blocks)
