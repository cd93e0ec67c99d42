"""Detectors: which images do not belong. One contract, `fit` by name, one measurement for all."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["Alarms", "Detector", "Monitor", "Unnoticed", "alarms", "guarded"],
        "neighbours": ["changed", "contrastive", "draw_views"],
        "supervisors": ["NAMES", "fit", "last_hidden", "monitor"],
    },
)
