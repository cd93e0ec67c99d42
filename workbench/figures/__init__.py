"""Figures: a result in, a picture out. Nothing is computed here.

Plotly figures for curves and matrices, `Picture`s (HTML with alt text) for images and
tables. Each loads when first used, so a panel of images never waits for plotly.

Raises: each function, a TypeError or ValueError that names the argument which breaks its
contract, the value given and what was expected.
"""

import sys

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "breaking": ["drag_curve", "drag_eps", "size"],
        "charts": ["confusion_matrix", "learning_curves", "reliability"],
        "concepts": ["cluster_graph", "concept_grid", "concept_rows", "logit_table"],
        "curve": ["confidence_curve", "robustness_curve"],
        "images": ["Picture", "heat_overlay", "image_grid", "img_tag", "png", "png_data"],
        "palettes": ["CLASSES", "DIVERGING", "SEQUENTIAL", "class_colour", "colourise", "rgb"],
        "patterns": ["pattern_legend", "pattern_strip", "pattern_table"],
        "points": ["point_grid"],
        "planes": ["plane_map", "region_map"],
        "prototypes": ["prototype_grid", "uncertainty_bars"],
        "tables": ["confidence_pair", "confidence_table", "health_table"],
        "template": ["empty_figure", "styled"],
    },
)

if "plotly.express" in sys.modules:  # what a notebook draws has the house's colours
    from workbench.figures import template as _template  # noqa: F401
