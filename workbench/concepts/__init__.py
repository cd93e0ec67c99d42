"""Concepts: what layers have learned, and what stands in for a model."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attribution": ["Faithfulness", "Importance", "faithfulness", "importance"],
        "cav": ["ConceptTest", "tcav"],
        "dictionaries": ["Dictionary", "factorise"],
        "extraction": ["Concepts", "activations", "extract"],
        "quality": ["ConceptMetrics", "Strategies", "concept_metrics", "strategies"],
        "relevance": [
            *("NORMS", "Relevance", "Rule", "by_unit", "filter_relevance", "hidden_layers"),
            *("propagate", "reference", "study_copy"),
        ],
        "sparse_autoencoder": ["SparseAutoencoder", "SparseFit", "Splice", "fit_sae", "splice"],
        "surrogates": ["Surrogate", "surrogate"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
