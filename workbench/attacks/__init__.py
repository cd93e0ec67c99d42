"""Attacks on any classifier: `PGD(eps=0.3)(model, x, y)`, `available()`, `get("PGD")`."""

import lazy_loader

# Module by module, what is public. An attack is entered here and nowhere else: the registry
# lists those that have a title, in this order.
TABLE = {
    "pgd": ["FGSM", "BIM", "PGD"],
    "apgd": ["APGD", "APGDT"],
    "cascade": ["Cascade"],
    "minimum": ["DeepFool", "DDN", "FMN"],
    "carlini": ["CW"],
    "square": ["Square"],
    "black_box": ["FeatureGuided", "RandomSearch", "Transfer", "wrap"],
    "transformations": ["Spatial", "Natural"],
    "topk": ["QuadAttacK", "CWK", "AdversarialDistillation", "random_order"],
    "fooling": ["FoolingResult", "GradientAscent", "MapElites"],
    "base": ["Attack", "FixedBudget", "MinimumNorm"],
    "goals": ["Goal", "OrderedTopK", "Targeted", "Untargeted", "goal_for"],
    "problem": ["Problem"],
    "registry": ["available", "get"],
    "result": ["AttackResult"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=TABLE)
