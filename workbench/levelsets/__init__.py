"""Where a model says the same thing: traversals, planes, exact linear regions, geometry."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "collapse": ["Collapse", "collapse_metrics", "neural_collapse"],
        "complexity": ["LocalComplexity", "local_complexity"],
        "curvature": ["Eigenvalues", "top_eigenvalues"],
        "linear_regions": ["Regions", "regions"],
        "planes": ["Extent", "Plane", "extent", "plane"],
        "slices": ["Slice", "span", "through"],
        "stars": ["Star", "star"],
        "traversal": ["LevelSetTraversal", "Traversal", "ascent"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
