"""Notebooks as reports: typed parameters, honest runs, HTML; grids of them; claim cards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "claims": ["Claim", "claim"],
        "grids": ["Grid", "cluster", "grid", "processes"],
        "inputs": ["Parameter", "coerce", "load_parameters", "parameters"],
        "kernel": ["ReportError"],
        "page": ["to_html"],
        "recorder": ["record"],
        "runner": ["Report", "execute", "write"],
    },
)
