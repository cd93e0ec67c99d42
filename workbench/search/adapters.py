"""Searchers of other libraries, which are asked for points and told values: the extra `search`."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from workbench.search.result import Search, Trial
from workbench.search.searchers import TRIES, Searcher, drawn
from workbench.search.space import Key, Space

AGAIN = 20  # repeats in a row, after which a point is drawn


class Asked(Searcher):
    """Asks a library. A point that is not valid is told as the worst so far, a repeat as it was."""

    def begin(self, library: Any, space: Space, seed: int) -> Any:
        """A function that asks for a key and a handle, and one that takes a handle and a value."""
        raise NotImplementedError

    def propose(
        self, space: Space, search: Search, state: dict[Any, Any], draw: torch.Generator
    ) -> Key:
        """The library's next point; any, where it has no new or valid one.

        Raises:
            ImportError: the library is not installed.
        """
        values = {trial.key: trial.value for trial in search.trials}
        if "talk" not in state:
            seed, library = int(torch.randint(2**31, (), generator=draw)), type(self).__name__
            try:
                state["talk"] = self.begin(import_module(library.lower()), space, seed)
            except ImportError as error:
                words = f"searcher: {library} is missing; pip install 'dnn-workbench[search]'"
                raise ImportError(words) from error
        ask, tell = state["talk"]
        if "asked" in state:  # and not evaluated, since it was before
            key, handle = state.pop("asked")
            tell(handle, values[key])
            state["again"] = state.get("again", 0) + 1
        for _ in range(TRIES if state.get("again", 0) < AGAIN else 0):
            key, handle = ask()
            if space.holds(key):
                state["asked"] = key, handle
                return key
            tell(handle, min(values.values(), default=-1e9))
        return drawn(space, draw)

    def learn(self, space: Space, trial: Trial, state: dict[Any, Any]) -> None:
        """Tell the value, unless the point was drawn in place of the library's."""
        state["again"] = 0
        if "asked" in state and state["asked"][0] == trial.key:
            state["talk"][1](state.pop("asked")[1], trial.value)


class Optuna(Asked):
    """A sampler of optuna (Akiba et al., 2019)."""

    title: ClassVar[str] = "Optuna"
    sampler: Literal["TPE", "NSGAII"] = Field("TPE", description="of optuna's samplers")

    def begin(self, library: Any, space: Space, seed: int) -> Any:
        """Trials of a study."""
        level = library.logging.get_verbosity()
        library.logging.set_verbosity(library.logging.WARNING)  # not a line for each study
        sampler = getattr(library.samplers, f"{self.sampler}Sampler")(seed=seed)
        study = library.create_study(direction="maximize", sampler=sampler)
        library.logging.set_verbosity(level)
        options = {name: range(len(choices)) for name, choices in space.choices.items()}

        def ask() -> tuple[Key, Any]:
            trial = study.ask()
            return tuple(trial.suggest_categorical(*each) for each in options.items()), trial

        return ask, study.tell


class Nevergrad(Asked):
    """An optimiser of nevergrad (Rapin and Teytaud, 2018)."""

    title: ClassVar[str] = "Nevergrad"
    optimiser: Literal["DiscreteOnePlusOne", "TwoPointsDE"] = Field(
        "DiscreteOnePlusOne", description="of nevergrad's optimisers"
    )

    def begin(self, library: Any, space: Space, seed: int) -> Any:
        """Candidates of an optimiser of losses."""
        options = [library.p.Choice(range(n), deterministic=True) for n in space.counts]
        choices = library.p.Tuple(*options)
        choices.random_state = np.random.RandomState(seed)  # else numpy's own is drawn from
        optimiser = library.optimizers.registry[self.optimiser](choices)

        def ask() -> tuple[Key, Any]:
            candidate = optimiser.ask()
            return tuple(map(int, candidate.value)), candidate

        return ask, lambda candidate, value: optimiser.tell(candidate, -value)
