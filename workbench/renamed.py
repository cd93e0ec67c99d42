"""Names of the release before, which lead to the new ones for one release more."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

CONCEPTS = """ConceptMetrics ConceptTest Concepts Dictionary Faithfulness Importance
    Relevance SparseAutoencoder SparseFit Splice Strategies Surrogate activations concept_metrics
    factorise faithfulness filter_relevance fit_sae importance splice strategies surrogate tcav"""
# By package: an old name, and where it is now.
OLD = {
    "workbench.concepts": {
        "Pruning": "workbench.treatments:Pruning",
        "prune": "workbench.treatments:prune",
    },
    "workbench.courses": {"masters": "workbench.suite:notebooks"},
    "workbench.levelsets": {
        "plane_steps": "workbench.levelsets:plane.steps",
        "region_steps": "workbench.levelsets:regions.steps",
    },
    "workbench.models": {
        "TrainingResult": "workbench.models:Treated",
        "evaluate": "workbench.models:measure",
    },
    "workbench.patterns": {
        "mine_steps": "workbench.patterns:mine.steps",
        "monitor_steps": "workbench.detectors:monitor.steps",
        "record_steps": "workbench.patterns:record.steps",
        "top_steps": "workbench.patterns:top_images.steps",
        "verify": "workbench.patterns.verify",
        "visualise_steps": "workbench.patterns:visualise.steps",
        **{
            name: f"workbench.detectors:{name}"
            for name in ["Alarms", "Monitor", "alarms", "monitor"]
        },
    },
    "workbench.patterns.verify": {  # whose other names are those of workbench.proofs
        "exhaustive_grid_steps": "workbench.proofs:exhaustive_grid_check.steps",
        "prove": "workbench.proofs:prove_file",
        "verify": "workbench.proofs:prove",
        "verify_steps": "workbench.proofs:prove.steps",
    },
    "workbench.prototypes": {
        "concept_steps": "workbench.concepts:extract.steps",
        "concepts": "workbench.concepts:extract",
        "fit_sae_steps": "workbench.concepts:fit_sae.steps",
        "importance_steps": "workbench.concepts:importance.steps",
        "prune_steps": "workbench.treatments:prune.steps",
        "surrogate_steps": "workbench.concepts:surrogate.steps",
        **{name: f"workbench.concepts:{name}" for name in CONCEPTS.split()},
        **{name: f"workbench.treatments:{name}" for name in ("Pruning", "prune")},
    },
    "workbench.reports": {
        "grid_steps": "workbench.reports:grid.steps",
        "record": "workbench.reports:result",
        "steps": "workbench.reports:execute.steps",
    },
    "workbench.robustness": {
        "Verification": "workbench.robustness:Audit",
        "diagnosis_steps": "workbench.robustness:diagnose.steps",
        "evaluation_steps": "workbench.robustness:evaluate.steps",
        "verify": "workbench.robustness:audit",
    },
    "workbench.widgets": {"VerifyPanel": "workbench.widgets:ProofPanel"},
}


def renamed(package: str, getter: Callable[[str], Any]) -> Callable[[str], Any]:
    """A package's `__getattr__`: an old name gives what it leads to now, with a warning."""

    def get(name: str) -> Any:
        if (place := OLD[package].get(name)) is not None:
            new = place.replace(":", ".")
            warnings.warn(f"{package}.{name} is {new} now", DeprecationWarning, stacklevel=2)
            return resolve_name(place)
        return getter(name)

    return get
