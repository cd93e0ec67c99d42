"""DNN Workbench: look inside image classifiers.

Sub-packages load when first used, so `import workbench` is quick and torch-free.
"""

import sys

import lazy_loader

# jsonschema, which comes with nbformat, and so with plotly and papermill, would compile 38
# grammars for a check of addresses that nothing here asks for: a second for every kernel.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

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
