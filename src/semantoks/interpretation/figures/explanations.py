"""Where a score comes from: networks with intervals, pairs as a matrix, ROIs in a glass brain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from nilearn.plotting import plot_markers

from semantoks.evaluation.metrics import METRIC_NAMES
from semantoks.interpretation.figures.canvas import BLUE, GREY, ORANGE, WIDTH, styled, wrap

_COLOURS = {
    True: mpl.colormaps["RdBu_r"],
    # Light, but to be seen: a strong negative value is a mark on white as well.
    False: LinearSegmentedColormap.from_list("doubted", ["#D4D4D4", "#1A1A1A"]),
}


@styled
def draw_importance(
    networks: pd.DataFrame, settings: Mapping[str, Any], believable: bool
) -> Figure:
    """Draw what is lost where a network is hidden, and what one knows alone; grey if doubted."""
    metric = METRIC_NAMES[settings["metric"]].split(" (")[0]
    null, chance = settings["null_drop_95"], settings["chance"]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.34 * len(networks)), layout="constrained")
    lost, alone = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(networks))
    colour = BLUE if believable else GREY
    lost.hlines(places, networks["low"], networks["high"], color=colour, lw=2)
    lost.scatter(networks["drop"], places, color=colour, s=34, zorder=3, label="probe stays")
    lost.scatter(
        networks["refit_drop"], places, marker="D", facecolor="white", edgecolor=colour, s=26,
        zorder=4, label="probe learns again",
    )  # fmt: skip
    lost.axvline(0, color="#555555", lw=0.8)
    if null is not None:
        lost.axvspan(
            0, null, color=ORANGE, alpha=0.15, lw=0, label="95 % of the largest by permuted labels"
        )
    lost.set(xlabel=f"drop of {metric} where the network is hidden", ylim=(len(places) - 0.5, -0.6))
    lost.set_yticks(places, [wrap(f"{n} ({k})", 26, 2) for n, k in
                             zip(networks["network"], networks["n_roi"], strict=True)])  # fmt: skip
    alone.barh(places, networks["alone"] - chance, left=chance, color=colour, height=0.5)
    alone.set(xlabel=f"{metric} from this network alone")
    for axes in (lost, alone):
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def draw_pairs(pairs: pd.DataFrame, believable: bool) -> Figure:
    """Draw how the mean edge of every two networks goes with the held-out score."""
    networks = sorted({*pairs["network_a"], *pairs["network_b"]})
    n = len(networks)
    matrix = np.full((n, n), np.nan)
    sure = np.zeros((n, n), dtype=bool)
    for a, b, value, p in pairs[["network_a", "network_b", "value", "p"]].itertuples(index=False):
        i, j = networks.index(a), networks.index(b)
        matrix[i, j] = matrix[j, i] = value
        sure[i, j] = sure[j, i] = p < 0.05
    box = min(6.0, max(3.0, 0.52 * n))
    figure = Figure(figsize=(min(WIDTH, box + 3.0), box + 1.4), layout="constrained")
    axes = figure.add_subplot()
    largest = float(np.nanmax(np.abs(matrix))) or 1.0
    colours = _COLOURS[believable].with_extremes(bad="#EEEEEE")
    image = axes.imshow(matrix, cmap=colours, vmin=-largest, vmax=largest)
    names = [wrap(name, 18, 2) for name in networks]
    axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(sure):
        value = matrix[row, column] / largest
        ink = "white" if (abs(value) > 0.6 if believable else value > 0) else "#111111"
        axes.text(column, row, "*", ha="center", va="center", fontsize=12, color=ink)
    figure.colorbar(image, shrink=0.7, label="correlation with the held-out score")
    return figure


@styled
def draw_brain(rois: pd.DataFrame, believable: bool) -> Figure | None:
    """Draw ROIs in a glass brain, coloured by their value; None where no ROI has a place."""
    known = rois[np.isfinite(rois[["x", "y", "z"]].to_numpy(dtype=np.float64)).all(axis=1)]
    if known.empty:
        return None
    figure = Figure(figsize=(8.0, 2.7))
    FigureCanvasAgg(figure)
    largest = float(known["value"].abs().max()) or 1.0
    plot_markers(
        known["value"].to_numpy(),
        known[["x", "y", "z"]].to_numpy(dtype=np.float64),
        node_size=22,
        node_cmap=_COLOURS[believable],
        node_vmin=-largest,
        node_vmax=largest,
        display_mode="lyrz",
        figure=figure,
    )
    return figure
