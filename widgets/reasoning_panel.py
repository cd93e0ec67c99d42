"""`ReasoningPanel`: a problem step by step, its judges, its first error; roll out from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from workbench import checks, reasoning
from workbench.params import Parameters
from workbench.reasoning import Budget, Chain, Programs, TwentyFour, World
from workbench.reasoning.search import Policy, Score
from workbench.steps import Step

from .panel import Panel
from .reasoned import Reasoned, picture

OWN, TRUTH = "my_world", "the truth"  # what a world that is given is called, and who knows all
WORLDS: dict[str, World] = {"chain": Chain(), "twentyfour": TwentyFour(), "programs": Programs()}


class ReasoningPanelParameters(Parameters):
    """What `ReasoningPanel` shows, and how many calls of the policy it may spend."""

    world: str = Field("chain", description="where each step's truth is known")
    problem: int = Field(0, ge=0, le=10**6, description="its number")
    solution: int = Field(0, ge=0, le=10**6, description="which of the policy's, by its seed")
    slip: float = Field(0.1, ge=0, le=1, description="how often the policy says any step there is")
    n: int = Field(8, ge=1, le=100, title="rollouts", description="from one step")
    calls: int = Field(500, ge=1, le=10**5, description="of the policy, at most, for one action")
    lead: str = Field(TRUTH, title="beam led by", description="the judge that leads it")
    samples: int = Field(20, ge=1, le=1000, description="steps sampled on a level of the beam")
    width: int = Field(5, ge=1, le=100, description="how many of them are kept")


class ReasoningPanel(Panel[ReasoningPanelParameters, Reasoned]):
    """A solution with the truth of each step and what judges say; look for its first error.

    world: the name of one, or a `World`. policy: proposes steps; careless when None. judges: by
    name, from states to `(N,)`. The parameters are `ReasoningPanelParameters`; problems and
    solutions have numbers.

    Raises:
        ValueError: an unknown world or judge, a beam that keeps more than it samples.
    """

    Params = ReasoningPanelParameters
    title = "Reasoning panel"
    follows = ()  # it looks at no images
    matter = ("world", "problem", "solution")
    action = ("Find the first error", "By binary search: is there one way on that ends right?")
    waits = True
    picks = True

    def __init__(
        self,
        world: str | World = "chain",
        policy: Policy | None = None,
        judges: Mapping[str, Score] | None = None,
        **parameters: Any,
    ) -> None:
        self.worlds = WORLDS if isinstance(world, str) else {OWN: world, **WORLDS}
        self.own, self.judges = policy, dict(judges or {})
        super().__init__(world=world if isinstance(world, str) else OWN, **parameters)

    def check(self, params: ReasoningPanelParameters) -> None:
        """Check that there are such a world and such a judge, and that the beam narrows."""
        checks.known("world", params.world, self.worlds)
        checks.known("lead", params.lead, [TRUTH, *self.judges])
        if params.width > params.samples:
            expected = f"expected at most as many as are sampled, {params.samples}"
            raise ValueError(f"width: {expected}, got {params.width}")

    @property
    def world(self) -> World:
        """The world of the parameters."""
        return self.worlds[self.params.world]

    @property
    def policy(self) -> Policy:
        """One's own policy in one's own world, or else one that slips."""
        own = self.own if self.params.world == OWN or OWN not in self.worlds else None
        return own or reasoning.careless(self.world, self.params.slip)

    @property
    def heard(self) -> dict[str, Score]:
        """The judges, which know the states of the world that was given alone."""
        return self.judges if self.params.world == OWN or OWN not in self.worlds else {}

    # The work.

    def peek(self) -> Iterator[Step[Reasoned]]:
        """One solution by the policy, step by step; nothing is rolled out."""
        p, world, draw = (
            self.params,
            self.world,
            torch.Generator().manual_seed(self.params.solution),
        )
        path, moves = [world.problems(1, seed=p.problem)[0]], []
        while world.moves(path[-1]):
            moves.append(self.policy([path[-1]], 1, draw)[0][0])
            path.append(world.after(path[-1], moves[-1]))
        said = {name: [float(v) for v in judge(path[1:])] for name, judge in self.heard.items()}
        yield Step(
            1, 1, "a solution", Reasoned(world, tuple(path), tuple(moves), said, p.n, p.lead)
        )

    def steps(self) -> Iterator[Step[Reasoned]]:
        """The solution, then look after look for its first error."""
        p, view = self.params, self.first()
        yield Step(0, 2, "a solution", view)
        budget = Budget(p.calls)
        run = reasoning.bisect.steps(
            self.world, self.policy, view.path, p.n, budget, seed=p.problem
        )
        for step in run:
            found = step.value
            assert found is not None, "a look has a value"
            view = replace(
                view, found=found, looks={**view.looks, **found.looks}, spent=found.spent
            )
            yield Step(step.done, step.total, step.message, view)

    def rolled(self, after: int) -> Iterator[Step[Reasoned]]:
        """Roll out from after a step, and count what ends right."""
        p, view, budget = self.params, self.result or self.first(), Budget(self.params.calls)
        start = view.path[after]
        run = reasoning.rollouts.steps(self.world, self.policy, start, p.n, budget, seed=p.problem)
        for step in run:
            assert step.value is not None, "rollouts have a value"
            ends = [path[-1] for path in step.value.paths]
            look = {after: (sum(map(self.world.right, ends)), len(ends))}
            now = replace(view, looks={**view.looks, **look}, spent=view.spent + budget.spent)
            yield Step(step.done, step.total, step.message, now)

    def led(self) -> Iterator[Step[Reasoned]]:
        """A beam led by a judge, level by level."""
        p, view, budget = self.params, self.result or self.first(), Budget(self.params.calls)
        knows = lambda states: torch.tensor([float(self.world.solvable(s)) for s in states])  # noqa: E731
        score = self.heard.get(p.lead, knows)
        shape = {"width": p.width, "samples": p.samples, "seed": p.solution}
        levels: tuple[reasoning.Found, ...] = ()
        run = reasoning.beam.steps(self.world, self.policy, score, view.path[0], budget, **shape)
        for step in run:
            assert step.value is not None, "a level has a value"
            levels = levels if step.value.best is not None else (*levels, step.value)
            now = replace(view, levels=levels, lead=p.lead, spent=view.spent + budget.spent)
            yield Step(step.done, step.total, step.message, now)

    def draw(self, result: Reasoned) -> str:
        """The steps with their truth, their judges and their rollouts; the beam."""
        return picture(result)

    def code(self) -> str:
        """The calls that give the solution shown, and its first error."""
        p = self.params
        own = p.world == OWN
        world = OWN if own else f"reasoning.{type(self.world).__name__}()"
        mine = self.own is not None and (own or OWN not in self.worlds)
        policy = "my_policy" if mine else f"reasoning.careless(world, {p.slip})"
        lines = ["from workbench import reasoning", "", f"world = {world}", f"policy = {policy}"]
        lines.append(f"problem = world.problems(1, seed={p.problem})[0]")
        budget, n = f"reasoning.Budget({p.calls})", p.n
        call = f"world, policy, problem, 1, {budget}, seed={p.solution}"
        lines.append(f"path = reasoning.rollouts({call}).paths[0]")
        lines.append(
            f"found = reasoning.bisect(world, policy, path, {n}, {budget}, seed={p.problem})"
        )
        return "\n".join(lines)

    # The controls.

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """The buttons of the picture: roll out from a step, lead a beam."""
        if not event["key"].startswith("Arrow"):
            self.start(self.rolled(int(which)) if what == "look" else self.led())

    def choices(self) -> dict[str, list[Any]]:
        """The worlds, and the judges that may lead."""
        return {"world": [*self.worlds], "lead": [TRUTH, *self.heard]}

    def taken(self, values: ReasoningPanelParameters) -> ReasoningPanelParameters:
        """The judges of one world know nothing of another."""
        other = values.world != self.params.world
        return values.changed(lead=TRUTH) if other else values

    def changed(self, before: ReasoningPanelParameters) -> None:
        """Another problem or solution is shown; what was found of this one stays else."""
        p, of = self.params, ("world", "problem", "solution", "slip")
        if self.result is None or any(getattr(p, n) != getattr(before, n) for n in of):
            self.choose_anew()
            self.begin()
        else:
            self.result = replace(self.result, n=p.n, lead=p.lead)
            self.redraw()

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        return {"world": self.params.world, **self.params.changes()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ReasoningPanel:
        """A panel as `state()` described it."""
        return cls(**state)
