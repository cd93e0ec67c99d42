"""Attacks on any classifier: `PGD(eps=0.3)(model, x, y)`, `available()`, `get("PGD")`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "apgd": ["APGD", "APGDT"],
        "base": ["Attack", "FixedBudget", "MinimumNorm"],
        "black_box": ["FeatureGuided", "RandomSearch", "Transfer", "wrap"],
        "carlini": ["CW"],
        "cascade": ["Cascade"],
        "fooling": ["FoolingResult", "GradientAscent", "MapElites"],
        "goals": ["Goal", "OrderedTopK", "Targeted", "Untargeted", "goal_for"],
        "minimum": ["DDN", "FMN", "DeepFool"],
        "pgd": ["BIM", "FGSM", "PGD"],
        "problem": ["Problem"],
        "registry": ["available", "get"],
        "result": ["AttackResult"],
        "square": ["Square"],
        "topk": ["AdversarialDistillation", "CWK", "QuadAttacK", "random_order"],
        "transformations": ["Natural", "Spatial"],
    },
)
