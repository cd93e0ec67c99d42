"""What a network fires: recorded, mined for the patterns of its classes, and watched."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["verify"],
    submod_attrs={
        "mining": [
            *("Pattern", "PatternQuality", "Patterns", "mine", "mine_steps", "minimal", "quality")
        ],
        "monitoring": ["Alarms", "Monitor", "alarms", "monitor", "monitor_steps"],
        "neurons": ["switched", "top_images", "top_steps"],
        "recording": ["Recording", "record", "record_steps"],
        "units": [
            *("CuePreference", "Smoothness", "UnitPreference", "Visualisation"),
            *("cue_preference", "smoothness", "unit_preference", "visualise_steps"),
        ],
    },
)
