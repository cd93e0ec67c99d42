"""What a model compares an image with: prototype networks, concepts, and what they explain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attribution": [*("Faithfulness", "Importance", "faithfulness", "importance")],
        "cav": ["ConceptTest", "tcav"],
        "dictionaries": ["Dictionary", "factorise"],
        "explanation": ["Explanation", "explain", "nearest_images"],
        "extraction": ["Concepts", "activations", "concepts"],
        "networks": ["PrototypeClassifier"],
        "probabilistic": ["ProbPrototypeClassifier"],
        "pruning": ["Pruning", "prune"],
        "quality": ["ConceptMetrics", "Strategies", "concept_metrics", "strategies"],
        "relevance": ["Relevance", "filter_relevance"],
        "sparse_autoencoder": [*("SparseAutoencoder", "SparseFit", "Splice", "fit_sae", "splice")],
        "surrogates": ["Surrogate", "surrogate"],
        "uncertainties": ["Uncertainty", "uncertainty"],
    },
)
