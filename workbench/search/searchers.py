"""Searchers: how the next point is chosen from those that were evaluated."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, ClassVar

import torch
from pydantic import Field

from workbench import checks, steps
from workbench.params import Parameters
from workbench.search.result import Search, Trial
from workbench.search.space import Key, Point, Space
from workbench.steps import Step

Objective = Callable[[Point, torch.Generator], float]  # larger is better; its noise is drawn
TRIES = 200  # proposals that were evaluated already, before a point is drawn in their place
CANDIDATES = 500  # points that a surrogate looks at, of a space that is too large to list


class Searcher(Parameters):
    """A way to search; a new one gives `propose`, and `learn` where it keeps something.

    distinct: no evaluation is spent on a point that has one already. Else points may come again,
    and with a noisy objective the luckiest value wins.
    """

    title: ClassVar[str]
    paper: ClassVar[str] = ""

    distinct: bool = Field(True, description="never evaluate a point twice")

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """The next point."""
        raise NotImplementedError

    def learn(self, space: Space, trial: Trial, state: dict[Any, Any]) -> None:
        """A point was evaluated."""

    def steps(
        self, space: Space, objective: Objective, *, budget: int, seed: int = 0
    ) -> Iterator[Step[Search]]:
        """Evaluate up to `budget` points, one Step each; cancelled, what was tried is kept.

        It ends early where every point of the space was evaluated.

        Raises:
            ValueError: no budget, no valid point, or a value that is no number.
        """
        checks.positive("budget", budget)
        draw, search = torch.Generator().manual_seed(seed), Search()
        state: dict[Any, Any] = {}
        seen: set[Key] = set()
        for n in range(1, budget + 1):
            key = self.propose(space, search, state, draw)
            if self.distinct and key in seen:
                if (fresh := self.fresh(space, search, state, draw, seen)) is None:
                    break
                key = fresh
            seen.add(key)
            value = float(objective(space.point(key), draw))
            if not math.isfinite(value):
                raise ValueError(
                    f"objective: expected a number for {space.point(key)}, got {value}"
                )
            trial = Trial(key, space.point(key), value)
            self.learn(space, trial, state)
            search = Search([*search.trials, trial])
            yield Step(n, budget, f"best so far {search.best.value:.4g}", search)
        yield Step(budget, budget, "done", search)

    def fresh(
        self,
        space: Space,
        search: Search,
        state: dict[Any, Any],
        draw: torch.Generator,
        seen: set[Key],
    ) -> Key | None:
        """A point that was not evaluated: proposed, or else drawn; None where there is none."""
        for _ in range(TRIES):
            if (key := self.propose(space, search, state, draw)) not in seen:
                return key
        if space.size > 100 * TRIES:  # of so many a drawn one is new
            return space.draw(draw)
        rest = [key for key in space.keys if key not in seen]
        return rest[int(torch.randint(len(rest), (), generator=draw))] if rest else None

    def __call__(self, space: Space, objective: Objective, *, budget: int, seed: int = 0) -> Search:
        """Run `steps` to the end."""
        return steps.run(self.steps(space, objective, budget=budget, seed=seed))


class Random(Searcher):
    """Each valid point is as likely: the control of every search."""

    title: ClassVar[str] = "At random"

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """Any point."""
        return drawn(space, draw)


class Evolution(Searcher):
    """The best of a few of the youngest is changed in one choice (Real et al., 2019)."""

    title: ClassVar[str] = "Regularised evolution"

    population: int = Field(10, ge=1, description="points that can be parents, the youngest")
    tournament: int = Field(4, ge=1, description="drawn of them, the best of which is changed")

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """A parent with one choice changed; at first any point."""
        if len(search.trials) < self.population:
            return drawn(space, draw)
        young = search.trials[-self.population :]
        rows = torch.randperm(len(young), generator=draw)[: self.tournament].tolist()
        parent = max((young[i] for i in rows), key=lambda trial: trial.value).key
        for _ in range(TRIES):
            at = int(torch.randint(len(parent), (), generator=draw))
            option = int(torch.randint(space.counts[at], (), generator=draw))
            child = (*parent[:at], option, *parent[at + 1 :])
            if child != parent and space.holds(child):
                return child
        return drawn(space, draw)


class PolicyGradient(Searcher):
    """Probabilities of each choice's options, moved by REINFORCE with a moving baseline."""

    title: ClassVar[str] = "Policy gradient"

    lr: float = Field(2.0, gt=0, description="step on the logits, for a reward of one")
    memory: float = Field(0.8, ge=0, lt=1, description="of the baseline")

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """One option of each choice, by its probability; drawn again where that is not valid."""
        logits = self.logits(space, state)
        if "sums" not in state:  # of the probabilities up to each option, until more is learned
            state["sums"] = [z.softmax(0).cumsum(0)[:-1].tolist() for z in logits]
        for _ in range(TRIES):
            u = torch.rand(len(logits), generator=draw).tolist()
            key = tuple(bisect(sums, x) for sums, x in zip(state["sums"], u, strict=True))
            if space.holds(key):
                return key
        return drawn(space, draw)

    def learn(self, space: Space, trial: Trial, state: dict[Any, Any]) -> None:
        """Towards the options of a point that was better than usual."""
        logits = self.logits(space, state)
        usual = state.get("baseline", trial.value)
        for z, option in zip(logits, trial.key, strict=True):
            slope = -z.softmax(0)  # of the logarithm of the probability of what was chosen
            slope[option] += 1
            z += self.lr * (trial.value - usual) * slope
        state.pop("sums", None)
        state["baseline"] = self.memory * usual + (1 - self.memory) * trial.value

    def logits(self, space: Space, state: dict[Any, Any]) -> list[torch.Tensor]:
        """Of each choice's options; at first all are as likely."""
        if "logits" not in state:
            state["logits"] = [torch.zeros(n) for n in space.counts]
        return state["logits"]


class Surrogate(Searcher):
    """A ridge regression on options and pairs of them says where the upper bound is highest."""

    title: ClassVar[str] = "A surrogate with an upper bound"

    start: int = Field(5, ge=1, description="points at random before it is asked")
    ridge: float = Field(1.0, gt=0, description="of the regression")
    reach: float = Field(0.5, ge=0, description="standard errors of the upper bound")

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """The candidate with the highest upper bound, among those without a value."""
        if len(search.trials) < self.start:
            return drawn(space, draw)
        keys = [trial.key for trial in search.trials]
        y = torch.tensor([trial.value for trial in search.trials], dtype=torch.float64)
        # Of the candidates z and the trials x: the products z x', x x', and the norms of z.
        if space.size > 4 * CANDIDATES:
            found = [drawn(space, draw) for _ in range(CANDIDATES)]
            z, x = pairs(space.encode(found)), pairs(space.encode(keys))
            across, among, norms = z @ x.T, x @ x.T, (z * z).sum(1)
        else:  # all there are, multiplied once
            found, (row, products) = space.keys, multiplied(space)
            rows = [row[key] for key in keys]
            across, norms = products[:, rows], products.diagonal()
            among = across[rows]
        seen = {*keys} if self.distinct else set()
        fresh = torch.tensor([key not in seen for key in found])
        if not fresh.any():
            return drawn(space, draw)
        # Ridge regression with few rows: (X X' + r)^-1 is as small as there are trials.
        inverse = torch.linalg.inv(among + self.ridge * torch.eye(len(y), dtype=y.dtype))
        near, mean = across @ inverse, y.mean()
        spread = (norms - (near * across).sum(1)).clamp_min(0).sqrt()
        noise = y.std(correction=0) / max(float(norms.mean()), 1e-12) ** 0.5
        upper = mean + near @ (y - mean) + self.reach * noise * spread
        upper = torch.where(fresh, upper, -math.inf)
        best = (upper == upper.max()).nonzero().flatten()
        return found[int(best[int(torch.randint(len(best), (), generator=draw))])]


class TreeSearch(Searcher):
    """Choices in order as a tree, gone down by upper bounds (UCT: Kocsis, Szepesvari, 2006)."""

    title: ClassVar[str] = "Monte Carlo tree search"

    reach: float = Field(0.1, ge=0, description="of the bound, in units of the value")

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """Down the tree while every option was tried, then at random."""
        prefix: Key = ()
        dead = state.setdefault("dead", set())  # beginnings of no point that is left
        while len(prefix) < len(space.counts):
            options = [(*prefix, i) for i in range(space.counts[len(prefix)])]
            options = [option for option in options if option not in dead]
            tried = [state[option] for option in options if option in state]
            if not options and not prefix:
                return drawn(space, draw)
            if len(tried) < len(options):
                fresh = [option for option in options if option not in state]
                prefix = fresh[int(torch.randint(len(fresh), (), generator=draw))]
                if (key := space.draw(draw, prefix)) is not None:
                    return key
            if len(tried) < len(options) or not options:
                dead.add(prefix)
                prefix = ()
                continue
            n = sum(count for count, _ in tried)
            bounds = [total / c + self.reach * math.sqrt(math.log(n) / c) for c, total in tried]
            prefix = options[bounds.index(max(bounds))]
        return prefix

    def learn(self, space: Space, trial: Trial, state: dict[Any, Any]) -> None:
        """Every beginning of the point was tried once more."""
        for n in range(1, len(trial.key) + 1):
            count, total = state.get(trial.key[:n], (0, 0.0))
            state[trial.key[:n]] = count + 1, total + trial.value
        if self.distinct:  # it is not gone to again
            state.setdefault("dead", set()).add(trial.key)


def drawn(space: Space, draw: torch.Generator) -> Key:
    """Any valid point."""
    key = space.draw(draw)
    assert key is not None, "without a beginning a point is found, or an error raised"
    return key


def pairs(x: torch.Tensor) -> torch.Tensor:
    """Columns, and the products of two of them, `(N, D + D (D - 1) / 2)`."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.cat([x, x[:, i] * x[:, j]], 1)


@lru_cache(maxsize=4)
def multiplied(space: Space) -> tuple[dict[Key, int], torch.Tensor]:
    """Of a small space the rows by key, and the products of all its rows, for many searches."""
    z = pairs(space.encode(space.keys))
    return {key: i for i, key in enumerate(space.keys)}, z @ z.T
