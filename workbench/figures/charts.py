"""Plotly charts of predictions, trainings and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from workbench.figures import inputs
from workbench.figures.inputs import count
from workbench.figures.palettes import SEQUENTIAL
from workbench.figures.template import empty_figure, plain, styled

# Column, name, dash. Lines differ in more than colour.
CURVES = (
    ("loss", "training loss", "solid"),
    ("accuracy", "training accuracy", "solid"),
    ("test_accuracy", "test accuracy", "dash"),
    ("robust_accuracy", "robust accuracy", "dot"),
)
MOST_NAMES = 25  # beyond, a confusion matrix shows indices, and names when pointed at


def confusion_matrix(
    matrix: torch.Tensor | np.ndarray, classes: Sequence[str], *, title: str | None = None
) -> go.Figure:
    """Counts of true class (rows) against predicted class (columns), `(K, K)`.

    The colours are logarithmic, so that a handful of mistakes shows beside a thousand hits.
    """
    counts = inputs.numbers("matrix", matrix, 2)
    if counts.shape[0] != counts.shape[1] or (counts < 0).any() or (counts % 1).any():
        raise ValueError(
            "matrix: expected whole counts of at least 0 in shape (K, K), "
            f"got {counts.min():.4g}..{counts.max():.4g} in shape {counts.shape}"
        )
    names = inputs.class_names(classes, len(counts))
    counts = counts.astype(np.int64)
    if counts.sum() == 0:
        return empty_figure("no predictions were counted", title)
    shown = [plain(name) for name in names]
    few = len(names) <= MOST_NAMES
    ticks = [1, 10, 100, 1000, 10000]
    heat = go.Heatmap(
        # Cells without images stay white, and the scale goes on from light to dark.
        z=np.log10(np.where(counts > 0, counts, np.nan)),
        zmin=0,
        zmax=max(np.log10(counts.max()), 1),
        colorscale=SEQUENTIAL[::-1],
        colorbar={"title_text": "images", "tickvals": np.log10(ticks), "ticktext": ticks},
        text=np.where(counts > 0, counts.astype(str), ""),
        texttemplate="%{text}" if few else None,
        customdata=np.dstack([*np.meshgrid(shown, shown), counts]),
        hovertemplate="%{customdata[1]} as %{customdata[0]}: %{customdata[2]}<extra></extra>",
    )
    last = len(names) - 0.5
    axis: dict[str, Any] = {"showgrid": False, "constrain": "domain"}
    if few:  # by position, so that equal or number-like names stay apart
        axis |= {"tickvals": list(range(len(names))), "ticktext": shown}
    side = min(max(36 * len(names), 240), 720)
    return styled(
        go.Figure(heat),
        _confusions_in_words(names, counts),
        title,
        xaxis={**axis, "title_text": "predicted class", "range": [-0.5, last]},
        yaxis={**axis, "title_text": "true class", "range": [last, -0.5], "scaleanchor": "x"},
        height=side + 150,
        width=side + 230,
    )


def learning_curves(history: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Loss and accuracies over the epochs, side by side.

    history: columns `epoch`, `loss` and `accuracy`; optional `test_accuracy` and
    `robust_accuracy`; NaN where a quantity was not measured in an epoch.
    """
    _check_frame("history", history, ["epoch", "loss", "accuracy"])
    if history.empty:
        return empty_figure("no epochs yet", title)
    figure = make_subplots(cols=2, horizontal_spacing=0.12)
    described = []
    for column, name, dash in CURVES:
        if column not in history:
            continue
        measured = history[["epoch", column]].dropna().sort_values("epoch")
        x, y = measured["epoch"], measured[column]
        if len(y):
            described.append(f"{name} from {y.iloc[0]:.3g} to {y.iloc[-1]:.3g}")
        panel = 1 if column == "loss" else 2
        figure.add_scatter(x=x, y=y, name=name, line_dash=dash, row=1, col=panel)
    figure.update_traces(mode="lines+markers", marker_size=7)
    figure.update_traces(showlegend=False, col=1)
    figure.update_xaxes(title_text="epoch", tickformat="d", dtick=1 if len(history) < 12 else None)
    figure.update_yaxes(title_text="training loss", rangemode="tozero", col=1)
    figure.update_yaxes(title_text="accuracy", tickformat=".0%", col=2)
    alt = f"learning curves over {count(len(history), 'epoch')}: {', '.join(described)}"
    return styled(figure, alt, title, height=340, margin_t=80, legend_x=0.56)


def reliability(
    bins: pd.DataFrame, ece: float | None = None, *, title: str | None = None
) -> go.Figure:
    """Reliability diagram: accuracy against confidence, with the number of images in each bin.

    bins: one row a bin with columns `confidence` (its mean), `accuracy` and `count`; bins
    without images are left out. ece: the expected calibration error, for the title.
    """
    _check_frame("bins", bins, ["confidence", "accuracy", "count"])
    bins = bins[bins["count"] > 0].sort_values("confidence")
    if bins.empty:
        return empty_figure("no predictions were binned", title)
    confidence, accuracy, n = bins["confidence"], bins["accuracy"], bins["count"].astype(int)
    line = {"color": "#777777", "dash": "dash"}
    ideal = go.Scatter(x=[0, 1], y=[0, 1], name="perfectly calibrated", mode="lines", line=line)
    measured = go.Scatter(x=confidence, y=accuracy, text=n, name="model, with image counts")
    measured.update(mode="lines+markers+text", textposition="bottom right")
    heading = title or "Reliability"
    alt = f"reliability of {count(int(n.sum()), 'image')} in {count(len(bins), 'bin')}"
    if ece is not None:
        heading += f" (ECE {ece:.3f})"
        alt += f", expected calibration error {ece:.3g}"
    described = [
        f"confidence {c:.3f}, accuracy {a:.3f}, {count(k, 'image')}"
        for c, a, k in zip(confidence, accuracy, n, strict=True)
    ]
    return styled(
        go.Figure([ideal, measured]),
        f"{alt}: {'; '.join(described)}",
        heading,
        xaxis={"title_text": "confidence", "range": [-0.02, 1.15]},
        yaxis={"title_text": "accuracy", "range": [-0.08, 1.08]},
        height=480,
        width=480,
        margin_t=80,
    )


def _confusions_in_words(names: list[str], counts: np.ndarray, most: int = 5) -> str:
    """Alt text of a confusion matrix: size, accuracy, the most frequent mistakes."""
    total = int(counts.sum())
    missed = counts - np.diag(np.diag(counts))
    cells = np.argsort(-missed, axis=None, kind="stable")[:most].tolist()
    worst = [divmod(cell, len(names)) for cell in cells if missed.flat[cell] > 0]
    listed = [f"{names[i]} predicted as {names[j]} ({missed[i, j]})" for i, j in worst]
    return (
        f"confusion matrix of {count(len(names), 'class')} and {count(total, 'image')}, "
        f"accuracy {np.trace(counts) / total:.3g}, {count(int(missed.sum()), 'mistake')}; "
        f"most often {', '.join(listed) or 'none'}"
    )


def _check_frame(name: str, frame: Any, needed: list[str]) -> None:
    """Check that `frame` has its columns, and the shares among them are in [0, 1] or NaN."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{name}: expected a pandas DataFrame, got {type(frame).__name__}")
    missing = [column for column in needed if column not in frame]
    if missing:
        raise ValueError(f"{name}: no column {missing}; expected {needed}, got {list(frame)}")
    shares = frame.filter(regex="accuracy|confidence")
    values = shares.to_numpy(dtype=float)
    if ((values < 0) | (values > 1)).any():
        low, high = np.nanmin(values), np.nanmax(values)
        raise ValueError(
            f"{name}: expected values in [0, 1] in {list(shares)}, got [{low:.4g}, {high:.4g}]"
        )
