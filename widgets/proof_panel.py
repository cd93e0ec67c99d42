"""`ProofPanel`: is there any image near this one that is called something else?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal, cast

import ipywidgets as ipw
from pydantic import Field

from workbench import patterns
from workbench.data import ImageDataset
from workbench.figures import confidence_table
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.patterns import Patterns
from workbench.proofs import Answer, Property, local_robustness, prove
from workbench.steps import Step

from .form import Form
from .level_set_panel import figure, row
from .panel import Panel, guarded

WORDS = {
    "verified": "Proved: there is no such image.",
    "falsified": "Refuted: here is one. The model was asked about it.",
    "unknown": "Open: neither proved nor refuted in the time given.",
}
COLOURS = {"verified": "#009E73", "falsified": "#D55E00", "unknown": "#777777"}


class ProofPanelParameters(Parameters):
    """What `ProofPanel` does beside the data, the model and the image."""

    eps: float = Field(
        0.02, ge=0.001, le=1, description="L-infinity radius", json_schema_extra={"log": True}
    )
    pattern: bool = Field(False, description="only images that follow the class's pattern")
    delta: float = Field(0.99, gt=0.5, le=1, description="share that agrees on a pattern's neuron")
    backend: Literal["branching", "milp"] = Field(
        "branching", description="branch and bound, or a mixed-integer programme by HiGHS"
    )
    time_limit: float = Field(20.0, ge=1, le=600, description="seconds")


@dataclass(frozen=True, eq=False)
class ProofView:
    """What the panel shows: an image, what is asked about it, and the answer so far."""

    images: ImageDataset
    index: int
    model: Classifier
    label: int
    question: str
    answer: Answer | None = None
    patterns: Patterns | None = None

    def summary(self) -> dict[str, Any]:
        """The question, and the answer in plain values."""
        known = {"index": self.index, "question": self.question}
        return known | (self.answer.summary() if self.answer is not None else {})


class ProofPanel(Panel[ProofPanelParameters, ProofView]):
    """Prove that every image within eps is called the same, or find one that is not.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them.
        parameters: see `ProofPanelParameters`.

    Raises:
        ValueError: an unknown name, or a value out of bounds.
    """

    Params = ProofPanelParameters
    title = "Verify panel"

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self._mined: tuple[Any, Patterns | None] = (None, None)

    # The work.

    def peek(self) -> Iterator[Step[ProofView]]:
        """The image, what the model says of it, and the question."""
        images, p = self.selection.images(), self.params
        index = min(self.selection.index, len(images) - 1)
        model = self.selection.classifier()
        label = int(model.predict(images.images[index : index + 1]).label[0])
        whose = " that follows the pattern of its class" if p.pattern else ""
        question = (
            f"Is every image within {p.eps:.3g} of image {index}{whose} called "
            f"{images.classes[label]}?"
        )
        yield Step(1, 1, "answered", ProofView(images, index, model, label, question))

    def mined(self) -> Patterns:
        """The model's patterns, mined once; on training images where they are at hand."""
        s = self.selection
        training = s.training()
        images = s.images() if training is None else training
        key = (images, s.classifier())
        if self._mined[0] != key:
            self._mined = (key, patterns.mine(s.classifier(), images, self.params.delta))
        found = self._mined[1]
        assert found is not None
        return found.at(self.params.delta)

    def steps(self) -> Iterator[Step[ProofView]]:
        """The question, mined patterns if they are asked for, then the verifier's steps."""
        view, p = next(self.peek()).value, self.params
        assert view is not None
        x = view.images.images[view.index]
        prop: Property = local_robustness(view.model, x, view.label, p.eps)
        if p.pattern:
            yield Step(0, 1, "mining patterns", view)
            view = replace(view, patterns=self.mined())
            prop = prop.inside(cast("Patterns", view.patterns).of(view.label))
        for step in prove.steps(view.model, prop, backend=p.backend, time_limit=p.time_limit):
            yield Step(step.done, step.total, step.message, replace(view, answer=step.value))

    # The picture.

    def draw(self, result: ProofView) -> str:
        """The question, the verdict, how far it got, and the counterexample."""
        view, classes = result, result.images.classes
        x = view.images.images[view.index]
        blocks = [figure(x, f"index {view.index}, taken for {classes[view.label]}")]
        answer = view.answer
        told = "<p>Press <b>Verify</b>.</p>"
        if answer is not None:
            edge = f"border-left:6px solid {COLOURS[answer.verdict]};padding-left:8px"
            bound = "" if answer.bound is None else f", least margin proved {answer.bound:.4g}"
            note = f" {escape(answer.note)}" if answer.note else ""
            told = (
                f'<p role="status" style="{edge}"><b>{WORDS[answer.verdict]}</b>{note}<br>'
                f"{answer.branches:,} branches, {answer.open:,} open{bound}, "
                f"{answer.seconds:.1f} s</p>"
            )
            if answer.counterexample is not None:
                found = answer.counterexample
                said = view.model.predict(found[None])
                away = float((found - x).abs().max())
                words = f"counterexample: {classes[int(said.label[0])]}, Linf {away:.3g} away"
                blocks.append(figure(found, words))
                change = ((found - x) / (2 * max(away, 1e-9)) + 0.5).clamp(0, 1)
                blocks.append(figure(change, "what was changed, grey is nothing"))
                blocks.append(confidence_table(said.probabilities[0].cpu(), classes).html)
        if view.patterns is not None:
            size = int(view.patterns.sizes[view.label])
            neurons = sum(phase.shape[1] for phase in view.patterns.phases.values())
            told += f"<p>The pattern fixes {size} of {neurons} neurons.</p>"
        style = '<div style="font:13px/1.4 system-ui,sans-serif">'
        return f"{style}<p><b>{escape(view.question)}</b></p>{told}{row(blocks)}</div>"

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p = self.selection, self.params
        view = self.result
        index = view.index if view is not None else s.index
        lines = [
            "from workbench import data, models, patterns",
            "from workbench.proofs import local_robustness, prove",
            "",
            f"x = {s.code('dataset')}.images[{index}]",
            f"model = {s.code('model')}",
            "label = int(model.predict(x[None]).label[0])",
            f"prop = local_robustness(model, x, label, {p.eps})",
        ]
        if p.pattern:
            mine = f"patterns.mine(model, {s.code('training')}, {p.delta})"
            lines.append(f"prop = prop.inside({mine}.of(label))")
        options = f"backend={p.backend!r}, time_limit={p.time_limit:g}"
        return "\n".join([*lines, f"answer = prove(model, prop, {options})"])

    # The controls.

    def controls(self) -> ipw.Widget:
        """The question; a button."""
        self.form = Form(self.params)
        self.form.observe(guarded(self, self._form_changed))
        return ipw.VBox([self.form.widget, self.button("Verify", "Prove or refute")])

    def _form_changed(self, values: Parameters) -> None:
        self.params = cast("ProofPanelParameters", values)
        self.start(self.peek())  # a new question; what was found answered another one

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel: ask anew, prove nothing yet."""
        self.start(self.peek())
