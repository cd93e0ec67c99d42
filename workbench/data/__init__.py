"""Images to look at: `load("digits")`, `available()`, `info("mnist")`, `ImageDataset`.

Everything loads when first used, so listing the data sets needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "centring": ["centred"],
        "curations": ["Backdoor", "ClassWiseConvolution", "Curation", "LabelNoise", "curation"],
        "dataset": ["ImageDataset"],
        "folders": ["files"],
        "drawing": ["as_text", "from_text", "with_drawing"],
        "registry": ["DatasetInfo", "available", "info", "load", "present"],
        "remote": ["folder"],
        "shapes": ["morphs"],
    },
)
