"""Honest evaluation: `evaluate` under attacks, `audit` a result, `diagnose` both sides."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["specimens"],
    submod_attrs={
        "breaks": ["Breaking", "breaking"],
        "defending": ["Defences", "compare_defences", "softened"],
        "diagnosis": ["Diagnosis", "Finding", "diagnose"],
        "evaluation": ["Evaluation", "evaluate"],
        "indicators": ["INDICATORS", "Indicator"],
        "intervals": ["paired", "wilson"],
        "keys": ["source_hash"],
        "auditing": ["Audit", "audit"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
