"""DNN Workbench: look inside image classifiers.

Sub-packages load when first used, so `import workbench` is quick and torch-free.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "atlas",
        "attacks",
        "courses",
        "data",
        "doctor",
        "figures",
        "levelsets",
        "models",
        "patterns",
        "prototypes",
        "reports",
        "robustness",
        "saliency",
    ],
    submod_attrs={"steps": ["Step", "run"]},
)
