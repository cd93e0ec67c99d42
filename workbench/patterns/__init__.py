"""What a network fires: recorded, mined for the patterns of its classes."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "mining": [
            *("Pattern", "PatternQuality", "Patterns", "check_model", "mine", "minimal", "quality")
        ],
        "neurons": ["switched", "top_images"],
        "recording": ["Recording", "pattern_layers", "record", "rectifiers", "watched"],
        "units": [
            *("CuePreference", "Smoothness", "UnitPreference", "Visualisation"),
            *("cue_preference", "smoothness", "unit_preference", "visualise"),
        ],
    },
)
__getattr__ = renamed(__name__, __getattr__)
