"""DNN Workbench: look inside image classifiers.

Sub-packages load when first used, so `import workbench` is quick and torch-free.
"""

import sys
from importlib import import_module
from types import ModuleType

import lazy_loader


class Grammars(ModuleType):
    """Stands for `rfc3987_syntax`, which is imported when something is asked of it."""

    __file__ = None  # so that who goes through all modules need not ask

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # asked by `import` itself
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)

    def is_valid_syntax(self, *arguments: str) -> bool:
        """Check an address, with the module itself."""
        return self.__getattr__("is_valid_syntax")(*arguments)  # type: ignore[operator]


# jsonschema, which comes with nbformat, and so with plotly and papermill, imports a check of
# addresses from it. It compiles 38 grammars: a second for every kernel, where nobody checks one.
sys.modules.setdefault("rfc3987_syntax", Grammars("rfc3987_syntax"))

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
