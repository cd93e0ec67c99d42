"""Notebooks as reports: typed parameters, honest runs, HTML; grids of them; cards of models."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "asserts": ["CHECKS"],
        "cards": ["Card", "card"],
        "claims": ["SIGNS", "VERDICTS", "Claim", "claim"],
        "collecting": ["SEEDS", "collect", "with_claims"],
        "contents": ["DATA", "PLOTLY", "Figure", "figures", "sections", "texts"],
        "grids": ["Grid", "cluster", "grid", "processes"],
        "inputs": ["Parameter", "coerce", "load_parameters", "parameters"],
        "kernel": ["ReportError"],
        "page": ["to_html"],
        "results": ["result"],
        "sheet": ["document"],
        "runner": ["Check", "Report", "execute", "write"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
