"""Models to look into: `load("mnist/cnn")`, `wrap(module, ...)`, `available()`, `card(name)`.

Everything loads when first used, so listing the models needs no torch.
"""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["architectures", "checkpoints", "onnx", "state_dicts"],
    submod_attrs={
        "model_card": ["ModelCard"],
        "batching": ["batch_size"],
        "confidence": ["Calibration", "calibration"],
        "adversarial": ["pgd"],
        "classifier": ["Classifier", "Layer", "Prediction", "finite", "ready"],
        "measuring": ["measure"],
        "gradients": ["has_gradient"],
        "hooks": ["audible", "edited", "heard", "outputs", "unheard"],
        "matching": ["matched", "measurable"],
        "recipes": ["RECIPES", "Recipe"],
        "learning": ["Diverged", "Hooks", "Run", "Treated", "compatible", "fit", "unmeasured"],
        "training": ["train"],
        "checkpoints": ["read_card", "read_header", "restore", "save"],
        "costs": ["Cost", "Latency", "Ledger", "Operations", "cost", "counted", "latency"],
        "wrapping": ["private_copy", "wrap"],
        "zoo": ["available", "card", "find", "keep", "load"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
