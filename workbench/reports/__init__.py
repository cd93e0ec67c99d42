"""Notebooks as reports: typed parameters, an honest run, one HTML file, results.json."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inputs": ["Parameter", "coerce", "load_parameters", "parameters"],
        "kernel": ["ReportError"],
        "page": ["to_html"],
        "recorder": ["record"],
        "runner": ["Report", "execute", "steps", "write"],
    },
)
