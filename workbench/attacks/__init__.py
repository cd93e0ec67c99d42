"""Attacks on any classifier: `PGD(eps=0.3)(model, x, y)`, `available()`, `get("PGD")`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["Attack", "FixedBudget", "MinimumNorm"],
        "goals": ["Goal", "OrderedTopK", "Targeted", "Untargeted", "goal_for"],
        "pgd": ["BIM", "FGSM", "PGD"],
        "problem": ["Problem"],
        "registry": ["available", "get"],
        "result": ["AttackResult"],
        "topk": ["AdversarialDistillation", "CWK", "QuadAttacK", "random_order"],
    },
)
