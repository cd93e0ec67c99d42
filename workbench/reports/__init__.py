"""Notebooks as reports: typed parameters, honest runs, HTML; grids of them; cards of models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cards": ["Card", "card"],
        "grids": ["Grid", "cluster", "grid", "processes"],
        "inputs": ["Parameter", "coerce", "load_parameters", "parameters"],
        "kernel": ["ReportError"],
        "page": ["to_html"],
        "results": ["result"],
        "runner": ["Report", "execute", "write"],
    },
)
