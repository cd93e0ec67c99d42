"""`AttackPanel`: attack one image, watch every step, and read what came of it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import attacks, checks, saliency
from workbench.attacks import Attack, AttackResult
from workbench.data import ImageDataset
from workbench.figures import confidence_curve, confidence_table, heat_overlay, img_tag, png
from workbench.models import Prediction
from workbench.params import Parameters
from workbench.saliency import Saliency
from workbench.steps import Step

from .form import Form
from .panel import Panel, guarded

ANY = ""  # no target: any class but the true one
HEIGHT = 150  # pixels on the screen for an image, whatever its own size
FULL = 0.5  # the magnified perturbation reaches this far from grey


class AttackPanelParameters(Parameters):
    """What `AttackPanel` does beside the data, the model and the image."""

    attack: str = Field("PGD", description="the attack; see attacks.available()")
    settings: dict[str, Any] = Field(default_factory=dict, description="its parameters")
    target: str = Field(ANY, description="class to reach; any other than the true one when empty")
    method: str = Field("none", description="saliency to compare before and after the attack")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random draws")


@dataclass(frozen=True, eq=False)
class AttackView:
    """What the panel shows: the image, what the model says of it, and the attack so far."""

    images: ImageDataset
    index: int
    clean: Prediction
    attack: Attack
    result: AttackResult | None = None
    maps: tuple[Saliency, ...] = ()
    remark: str = ""

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the image, and the attack's own summary."""
        row: dict[str, Any] = {"index": self.index, "attack": self.attack.code()}
        return {**row, **self.result.summary()} if self.result is not None else row


class AttackPanel(Panel[AttackPanelParameters, AttackView]):
    """Pick an attack and a budget, launch it, cancel it, scrub through its steps.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them.
        attack: a name (see `attacks.available()`) or an attack.
        parameters: see `AttackPanelParameters`; those of the attack itself, such as `eps`,
            can be given beside them.

    Raises:
        ValueError: an unknown name, or a value out of bounds.
    """

    Params = AttackPanelParameters
    title = "Attack panel"
    follows = (*Panel.follows, "towards")

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

    # The work.

    def peek(self) -> Iterator[Step[AttackView]]:
        """The image and the model's answer, without an attack."""
        images = self.selection.images()
        index = min(self.selection.index, len(images) - 1)
        clean = self.selection.classifier().predict(images.images[index : index + 1])
        view = AttackView(images, index, clean, self.attack)
        view = replace(view, remark=nothing_to_do(view, self.params.target))
        yield Step(1, 1, "answered", view)

    def steps(self) -> Iterator[Step[AttackView]]:
        """The answer, the attack step by step, then the saliency before and after."""
        params, model = self.params, self.selection.classifier()
        first = next(self.peek()).value
        assert first is not None
        view = first
        if view.remark:
            yield Step(1, 1, "nothing to do", view)
            return
        yield Step(0, 1, "answered", view)
        part = slice(view.index, view.index + 1)
        x, y = view.images.images[part], view.images.labels[part]
        target = None
        if params.target:
            target = torch.tensor([view.images.classes.index(params.target)])
        step = None
        for step in view.attack.steps(model, x, y, target=target, seed=params.seed):
            view = replace(view, result=step.value)
            yield Step(step.done, step.total, step.message, view)
        assert view.result is not None, "an attack yields at least its result"
        if params.method != "none":
            method = saliency.method(params.method)
            maps = tuple(method(model, image) for image in (x, view.result.x_adv))
            yield Step(1, 1, "explained", replace(view, maps=maps))

    # The picture.

    def draw(self, result: AttackView) -> str:
        """Clean, perturbation and adversarial image; verdict, confidences, course, maps."""
        return self.draw_at(result, None)

    def draw_at(self, view: AttackView, step: int | None) -> str:
        """The picture at one step of the trace; of the best image when None."""
        x = view.images.images[view.index]
        label = label_of(view)
        name = "no label" if label is None else view.images.classes[label]
        told = confidence_table(view.clean.probabilities[0], view.images.classes, label)
        before = img_tag(x, f"{name}, as it is", height=HEIGHT)
        blocks = [figure(before, f"as it is: <b>{escape(name)}</b>")]
        if view.result is None:
            hint = escape(view.remark) or "Press <b>Launch</b> to attack this image."
            hint = f'<p role="status">{hint}</p>'
            return row([*blocks, f"<div>{told.html}{hint}</div>"])
        image, logits = view.result.x_adv[0], view.result.logits[0]
        if step is not None:
            moment = view.result.trace[step]
            assert moment.images is not None
            assert moment.logits is not None
            image, logits = moment.images[0], moment.logits[0]
        delta = image - x
        largest = float(delta.abs().max())
        factor = FULL / largest if largest > 0 else 1.0
        now = confidence_table(logits.softmax(0), view.images.classes, label)
        answer = view.images.classes[int(logits.argmax())]
        words = f"the perturbation, magnified {factor:.3g} times around grey"
        blocks += [
            f'<div style="max-width:26em">{told.html}</div>',
            figure(img_tag((0.5 + factor * delta).clamp(0, 1), words, height=HEIGHT), words),
            figure(
                img_tag(image, f"attacked image, taken for {answer}", height=HEIGHT),
                f"attacked: <b>{escape(answer)}</b>",
            ),
            f'<div style="max-width:26em">{now.html}</div>',
        ]
        course = self._course(view, step)
        return verdict(view) + row(blocks) + course + maps_html(view)

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
        s, p = self.selection, self.params
        index = self.result.index if self.result is not None else s.index
        lines = [
            "from workbench import attacks, data, models",
            "",
            f"images = {s.code('dataset')}",
            f"x, y = images.images[{index}:{index + 1}], images.labels[{index}:{index + 1}]",
            f"model = {s.code('model')}",
        ]
        extra = ""
        if p.target:
            lines[0] = "import torch\n" + lines[0]
            lines.append(f"target = torch.tensor([images.classes.index({p.target!r})])")
            extra = ", target=target"
        extra += f", seed={p.seed}" if p.seed else ""
        arguments = "".join(f", {k}={v!r}" for k, v in self.attack.changes().items())
        lines.append(f"attack = attacks.get({p.attack!r}{arguments})")
        lines.append(f"result = attack(model, x, y{extra})")
        return "\n".join(lines)

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        found = {**super().state(), "attack": self.params.attack}
        return found | found.pop("settings", {})

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

    def controls(self) -> ipw.Widget:
        """The attack and its form; launch; scrub; save."""
        kinds = [(named(name, kind.title), name) for name, kind in attacks.available().items()]
        self.form = Form(
            self.params,
            choices={
                "attack": kinds,
                "target": self._targets(),
                "method": ["none", *saliency.METHODS],
            },
            only=["attack", "target", "method", "seed"],
        )
        self.form.observe(guarded(self, self._form_changed))
        self.settings = ipw.VBox()
        self._show_settings()
        launch = self.button("Launch", "Attack this image")
        self.scrub = ipw.IntSlider(
            description="step",
            min=0,
            max=0,
            disabled=True,
            tooltip="Step of the attack to look at",
            style={"description_width": "5em"},
            layout={"width": "36em"},
        )
        self.scrub.observe(guarded(self, self._scrubbed), "value")
        self.file = ipw.Text(
            value="attacked.png",
            description="file",
            tooltip="Where to save the attacked image",
            style={"description_width": "5em"},
        )
        save = ipw.Button(description="Save PNG", tooltip="Save the attacked image, with a check")
        save.on_click(guarded(self, self._save_clicked))
        self.saved = ipw.HTML()
        if self.result is not None:
            self.shown(self.result)
        wrap = {"flex_flow": "row wrap"}
        form = ipw.HBox([self.form.widget, self.settings], layout=wrap)
        below = ipw.HBox([self.file, save, self.saved])
        return ipw.VBox([form, launch, self.scrub, below])

    def shown(self, result: AttackView) -> None:
        """Give the slider the steps there are."""
        if self.picker is None:
            return
        trace = result.result.trace if result.result is not None else ()
        self.scrub.unobserve_all("value")
        self.scrub.disabled = len(trace) < 2
        self.scrub.max = max(0, len(trace) - 1)
        self.scrub.value = self.scrub.max
        self.scrub.observe(guarded(self, self._scrubbed), "value")
        self.saved.value = ""

    def _targets(self) -> list[tuple[str, str]]:
        names = self.selection.class_names()
        return [("any other class", ANY), *((name, name) for name in names)]

    def _show_settings(self) -> None:
        self.attack_form = Form(self.attack)
        self.attack_form.observe(guarded(self, self._settings_changed))
        self.settings.children = [self.attack_form.widget]

    def _form_changed(self, values: Parameters) -> None:
        params = cast("AttackPanelParameters", values)
        self.check(params)
        if params.attack != self.params.attack:
            self.attack = attacks.get(params.attack)
            params = params.model_copy(update={"settings": {}})
            self._show_settings()
        self.params = params
        if params.target != self.selection.towards:
            self.selection.towards = params.target  # which starts
        else:
            self.start(self.peek())

    def _settings_changed(self, values: Parameters) -> None:
        self.attack = cast("Attack", values)
        self.params = self.params.model_copy(update={"settings": self.attack.changes()})

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel: show the image, attack nothing."""
        if change["name"] in ("dataset", "towards"):
            self.params = self.params.changed(target=self.selection.towards)
        if self.picker is not None:
            self.form.choose_from("target", self._targets(), self.params.target)
        self.start(self.peek())

    def _scrubbed(self, change: Any) -> None:
        if self.result is not None and self.result.result is not None:
            self.view.value = self.draw_at(self.result, change["new"])

    def _save_clicked(self, _: object) -> None:
        survives = self.save(self.file.value)
        says = (
            "still fools the model"
            if survives
            else "no longer does what was asked: lost in rounding"
        )
        self.saved.value = f"<span role='status'>saved; in 8 bits it {says}</span>"


def named(name: str, title: str) -> str:
    """A name with its title, which may begin with the name."""
    return title if title.startswith(name) else f"{name}: {title}"


def escape(text: str) -> str:
    """Text as HTML."""
    return html.escape(text)


def figure(body: str, caption: str) -> str:
    """A picture with its caption."""
    return f'<figure style="margin:0">{body}<figcaption>{caption}</figcaption></figure>'


def row(blocks: list[str]) -> str:
    """Blocks side by side, wrapped where there is no room."""
    style = "display:flex;flex-wrap:wrap;gap:20px;line-height:1.4"
    return f'<div style="{style}">{"".join(blocks)}</div>'


def label_of(view: AttackView) -> int | None:
    """The class of the image as the model numbers them; None where it is not known."""
    label = int(view.images.labels[view.index])
    return label if label >= 0 else None


def nothing_to_do(view: AttackView, target: str) -> str:
    """Why there is nothing to attack, and a way on; empty where there is."""
    classes, label = view.images.classes, label_of(view)
    answer = int(view.clean.label[0])
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
    if label_of(view) is None and result.target is None:  # nothing was right to begin with
        says = f"<b>{'Changed its answer' if success else 'Kept its answer'}</b>"
    elif success:
        says = "<b>Fooled</b>" if result.target is None else "<b>Fooled as asked</b>"
    elif answer != label:
        says = "<b>Fooled, but not into the class asked for</b>"
    else:
        says = "<b>Not fooled</b>"
    before, after = float(view.clean.confidence[0]), float(result.confidence[0])
    was = classes[int(view.clean.label[0])]
    sizes = ", ".join(f"{norm} {float(size[0]):.3g}" for norm, size in result.norms.items())
    spent = f"{int(result.queries['forwards'][0])} forward passes"
    if int(result.queries["backwards"][0]):
        spent += f", {int(result.queries['backwards'][0])} gradients"
    return (
        f'<p role="status">{says}: {escape(was)} {before:.2f} → {escape(classes[answer])} '
        f"{after:.2f}. Perturbation: {sizes}. Cost: {spent}.</p>"
    )


def maps_html(view: AttackView) -> str:
    """Saliency before and after, side by side."""
    blocks = []
    for when, found in zip(("before", "after"), view.maps, strict=False):
        target = view.images.classes[int(found.target[0])]
        title = f"{found.method} of {target}, {when}"
        scale = "diverging" if found.signed else "sequential"
        picture = heat_overlay(None, found.values[0], scale, height=HEIGHT, title=title)
        blocks.append(f'<div style="max-width:26em">{picture.html}</div>')
    return row(blocks) if blocks else ""
