"""What can be proved of a ReLU network: bounds, complete verifiers, properties."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bounds": ["Bounds", "bounds_of"],
        "exhaustive": ["GridCheck", "exhaustive_grid_check"],
        "planted": ["plant_counterexample"],
        "properties": [
            *("Answer", "Properties", "Property"),
            *("ambiguity", "local_robustness", "pattern_property"),
        ],
        "files": ["described", "prove_file"],
        "proving": ["BACKENDS", "prove"],
        "vnnlib": ["read_vnnlib"],
    },
)
