"""What makes a network other: `Prune(share=0.5)(model)`, `available()`, `get("Prune")`.

In a name of a model, `"digits/cnn | Prune(share=0.5) | Quantise(bits=4)"`, they stand as stages.
"""

import lazy_loader

# Module by module, what is public. A treatment is entered here and nowhere else: the registry
# lists those that have a title, in this order.
TABLE = {
    "pruning": ["Prune", "Pruning", "prune"],
    "structured": ["Cut", "OnlyTrainOnce", "Units", "units"],
    "quantising": ["Quantise", "QuantisationAware"],
    "low_rank": ["LowRank"],
    "elastic": ["Elastic", "Narrow"],
    "stitching": ["stitch"],
    "hypernetworks": ["Hypernetwork"],
    "distilling": ["Distil"],
    "adversarial": ["AdversarialTraining"],
    "gradient_noise": ["GradientNoise"],
    "optimisers": ["Adan", "Layerwise", "Optimiser", "Schedule"],
    "sending": ["GradientCompression"],
    "accuracy_rate": ["AccuracyGradient"],
    "local": ["LocalBlocks", "TargetProjection"],
    "experts": ["RobustExperts"],
    "natural": ["NaturalTraining"],
    "purifying": ["Camera", "QuantisedAutoencoder", "put_before"],
    "ensembling": ["SelfEnsemble", "crossmax"],
    "exits": ["Exits", "MultiExit", "cost_curve", "leaving", "routed", "slow_down"],
    "curated": ["Curated"],
    "wrapped": ["wrap"],
    "base": ["Change", "Training", "Treatment"],
    "naming": ["make", "path_of", "stages"],
    "watching": ["LayerStrip", "Watched", "watch"],
    "comparing": ["Comparison", "compare"],
    "families": ["Family", "Member", "agreement", "family"],
    "registry": ["available", "get"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=TABLE)
