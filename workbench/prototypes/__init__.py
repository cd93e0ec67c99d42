"""Prototypes: networks that compare an image with pictures that they have learned."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "explanation": ["Explanation", "explain", "nearest_images"],
        "networks": ["PrototypeClassifier"],
        "probabilistic": ["ProbPrototypeClassifier"],
        "uncertainties": ["Uncertainty", "uncertainty"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
