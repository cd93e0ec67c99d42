"""Searching a space of choices: searchers at equal evaluations, and tables of all that is there.

`Evolution()(space, objective, budget=40)` gives a `Search`; `Random` stands beside every other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["cells"],
    submod_attrs={
        "space": ["Space"],
        "searchers": [
            "Evolution",
            "PolicyGradient",
            "Random",
            "Searcher",
            "Surrogate",
            "TreeSearch",
        ],
        "result": ["Search", "Trial"],
        "adapters": ["Nevergrad", "Optuna"],
        "tables": ["Table", "measure", "relative_improvement"],
    },
)
