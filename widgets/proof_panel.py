"""`ProofPanel`: is there any image near this one that is called something else?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from workbench import patterns
from workbench.figures import confidence_table
from workbench.models import Prediction
from workbench.params import Parameters
from workbench.patterns import Patterns
from workbench.proofs import Answer, local_robustness, prove
from workbench.steps import Step

from .blocks import figure, live, row, section, signed
from .labels import says
from .panel import Panel
from .views import Answered

WORDS = {
    "proved": "Proved: every one of them is.",
    "refuted": "Refuted: here is one that the model calls something else.",
    "open": "Open: neither proved nor refuted in the time given.",
}
LOOKS = {"proved": "wb-ok", "refuted": "wb-warn", "open": "wb-soft"}


class ProofPanelParameters(Parameters):
    """What `ProofPanel` does beside the data, the model and the image."""

    eps: float = Field(
        0.02,
        ge=0.001,
        le=1,
        title="largest change (eps)",
        description="of each pixel (the L-infinity radius)",
        json_schema_extra={"log": True},
    )
    pattern: bool = Field(
        False,
        title="with the class's pattern only",
        description="ask about those images alone that follow the pattern of their class",
    )
    delta: float = Field(
        0.99, gt=0.5, le=1, title="images that agree", description="share, on a neuron of a pattern"
    )
    backend: Literal["branching", "milp"] = Field(
        "branching",
        title="proved by",
        description="branch and bound, or a mixed-integer programme by HiGHS",
    )
    time_limit: float = Field(
        20.0, ge=1, le=600, title="time limit, seconds", description="then the answer is open"
    )


@dataclass(frozen=True, eq=False)
class ProofView(Answered):
    """What the panel shows: an image, what is asked about it, and the answer so far.

    refuted: what the model says of the counterexample.
    """

    question: str
    answer: Answer | None = None
    refuted: Prediction | None = None
    patterns: Patterns | None = None

    def summary(self) -> dict[str, Any]:
        """The question, and the answer in plain values."""
        known = {"index": self.index, "question": self.question}
        return known | (self.answer.summary() if self.answer is not None else {})


class ProofPanel(Panel[ProofPanelParameters, ProofView]):
    """Prove that every image within eps is called the same, or find one that is not.

    Args and Raises: as of `Panel`; the parameters are `ProofPanelParameters`.
    """

    Params = ProofPanelParameters
    title = "Verify panel"
    action = ("Verify", "Prove it, or find an image that refutes it")
    matter = ("eps", "time_limit")
    waits = True
    _mined: tuple[Any, Patterns | None] = (None, None)

    def peek(self) -> Iterator[Step[ProofView]]:
        """The image, what the model says of it, and the question."""
        answer = Answered(*self.answer())
        whose = " that follows the pattern of its class" if self.params.pattern else ""
        question = (
            f"Is every image within {self.params.eps:.3g} of image {answer.index}{whose} called "
            f"{answer.images.classes[answer.label]}?"
        )
        yield Step(1, 1, "answered", ProofView(**vars(answer), question=question))

    def mined(self) -> Patterns:
        """The model's patterns, mined once; on training images where they are at hand."""
        s, delta = self.selection, self.params.delta
        images, model = s.training() or s.images(), s.classifier()
        key, mined = self._mined
        if mined is None or key != (images, model):
            mined = patterns.mine(model, images, delta)
            self._mined = ((images, model), mined)
        return mined.at(delta)

    def steps(self) -> Iterator[Step[ProofView]]:
        """The question, mined patterns if they are asked for, then the verifier's steps."""
        view, p = self.first(), self.params
        prop = local_robustness(view.model, view.x[0], view.label, p.eps)
        if p.pattern:
            yield Step(0, 1, "mining patterns", view)
            mined = self.mined()
            view, prop = replace(view, patterns=mined), prop.inside(mined.of(view.label))
        for step in prove.steps(view.model, prop, backend=p.backend, time_limit=p.time_limit):
            view = replace(view, answer=step.value)
            if step.value is not None and step.value.counterexample is not None:
                refuted = view.model.predict(step.value.counterexample[None])
                view = replace(view, refuted=refuted)
            yield Step(step.done, step.total, step.message, view)

    def draw(self, result: ProofView) -> str:
        """The question, the verdict, how far it got, and the counterexample."""
        view, classes, x = result, result.images.classes, result.x[0]
        blocks = [figure(x, says(view.images, view.index, classes[view.label]))]
        verdict, answer = live("Press <b>Verify</b>."), view.answer
        if answer is not None:
            look = f'class="wb-verdict {LOOKS[answer.verdict]}"'
            bound = "" if answer.bound is None else f", least margin proved {answer.bound:.3g}"
            cases = f"{answer.branches:,} cases looked at" if answer.branches else "at once"
            rest = f", {answer.open:,} of them left" if answer.open else ""
            note = f" {escape(answer.note)}" if answer.note else ""
            verdict = (
                f'<p role="status" {look}><b>{WORDS[answer.verdict]}</b>{note}<br>'
                f'<span class="wb-soft">{cases}{rest}{bound}, '
                f"{answer.seconds:.1f} s</span></p>"
            )
            if answer.counterexample is not None and view.refuted is not None:
                blocks += refutation(x, answer.counterexample, view.refuted)
        if view.patterns is not None:
            size = int(view.patterns.sizes[view.label])
            neurons = sum(phase.shape[1] for phase in view.patterns.phases.values())
            verdict += f"<p>The pattern fixes {size} of {neurons} neurons.</p>"
        return section(f"<p><b>{escape(view.question)}</b></p>", verdict, row(*blocks))

    def code(self) -> str:
        """The calls that give the result shown."""
        p, index = self.params, self.result.index if self.result else self.selection.index
        lines = [
            *self.code_head(
                "from workbench import data, models, patterns",
                "from workbench.proofs import local_robustness, prove",
            ),
            f"x = images.images[{index}]",
            "label = int(model.predict(x[None]).label[0])",
            f"prop = local_robustness(model, x, label, {p.eps})",
        ]
        if p.pattern:
            s = self.selection
            mined_on = "images" if s.training() is None else s.code("training")
            mined = f"patterns.mine(model, {mined_on}, {p.delta})"
            lines.append(f"prop = prop.inside({mined}.of(label))")
        options = f"backend={p.backend!r}, time_limit={p.time_limit:g}"
        return "\n".join([*lines, f"answer = prove(model, prop, {options})"])


def refutation(x: Tensor, counterexample: Tensor, prediction: Prediction) -> list[str]:
    """The counterexample, what was changed, and what the model says of it."""
    away = float((counterexample - x).abs().max())
    called = prediction.classes[int(prediction.label[0])]
    words = f"what was added, at most {away:.3g} a pixel: blue darker, orange brighter"
    about = f"counterexample: the model says {called}"
    return [
        signed(counterexample - x, words, "what was added"),
        figure(counterexample, f"{about}; Linf {away:.3g} away", about),
        confidence_table(prediction.probabilities[0].cpu(), prediction.classes).html,
    ]
