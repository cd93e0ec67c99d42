"""What a network fires: recorded, mined for the patterns of its classes, and watched."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "mining": [*("Pattern", "PatternQuality", "Patterns", "mine", "minimal", "quality")],
        "neurons": ["switched", "top_images"],
        "recording": ["Recording", "record"],
        "units": [
            *("CuePreference", "Smoothness", "UnitPreference", "Visualisation"),
            *("cue_preference", "smoothness", "unit_preference", "visualise"),
        ],
    },
)
