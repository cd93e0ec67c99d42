"""Where a model says the same thing: traversals, planes, exact linear regions, geometry."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "planes": ["Extent", "Plane", "extent", "plane", "plane_steps"],
        "slices": ["Slice", "span", "through"],
        "traversal": ["LevelSetTraversal", "Star", "Traversal", "star"],
    },
)
