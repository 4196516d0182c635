"""Pictures of the quality of scans: every scan a dot, outliers named; bad ROIs by network."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from semantoks.data.quality_table import Measure
from semantoks.interpretation.figures.canvas import (
    BLUE,
    GREY,
    ORANGE,
    WIDTH,
    say,
    small_multiples,
    styled,
    wrap,
)

_NAMED = 3
"""Outliers whose names are written into a picture."""
_MOST_SITES = 30


@styled
def draw_quality(table: pd.DataFrame, measures: Sequence[Measure], found: pd.DataFrame) -> Figure:
    """Draw every scan as a dot, one picture a measure, sites side by side, outliers in orange."""
    places, names = _places(table)
    figure, grid = small_multiples(len(measures), n_columns=2, height=2.3)
    for axes, measure in zip(grid, measures, strict=True):
        axes.set_title(wrap(measure.title, 60, 1))
        values = table[measure.column].to_numpy(dtype=np.float64)
        if not np.isfinite(values).any():
            say(axes, "not known of any scan")
            continue
        mine = found[found["measure"] == measure.column]
        flagged = table["scan"].isin(mine["scan"]).to_numpy()
        axes.scatter(places[~flagged], values[~flagged], s=5, color=BLUE, alpha=0.5, linewidth=0)
        axes.scatter(places[flagged], values[flagged], s=14, color=ORANGE, linewidth=0)
        _name(axes, table, mine, places)
        axes.grid(axis="y")
        axes.set_xlim(-0.6, len(names) - 0.4)
        if len(names) == 1:
            axes.set_xticks([])
        else:
            axes.set_xticks(range(len(names)), [wrap(n, 10, 1) for n in names], rotation=90)
            axes.tick_params(axis="x", labelsize=6.5 if len(names) > 12 else 8, length=0)
    return figure


@styled
def draw_bad_rois(
    shares: Float[NDArray[np.float64], "scan network"],
    scans: Sequence[str],
    networks: Sequence[str],
) -> Figure:
    """Draw the share of flat or missing ROIs, one row a scan, one column a network."""
    height = 1.3 + 0.17 * len(scans)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    colours = mpl.colormaps["Oranges"]
    image = axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(scans)), [wrap(scan, 40, 1) for scan in scans], fontsize=7)
    axes.set_xticks(range(len(networks)), [wrap(name, 16, 1) for name in networks], rotation=45)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of ROIs without signal", shrink=min(1, 3 / height))
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            ink = "white" if share > 0.6 else "#222222"
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6.5)
    return figure


def _places(table: pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """Give every scan a place on the horizontal axis: its site, spread evenly, and names."""
    unknown = pd.Series("", index=table.index)
    sites = table.get("site", unknown).fillna("").astype(str).replace("", "unknown")
    names = sorted(sites.unique())
    if len(names) > _MOST_SITES:
        names, sites = ["all sites"], pd.Series("all sites", index=table.index)
    codes = sites.map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.float64)
    within = sites.groupby(sites).cumcount().to_numpy(dtype=np.float64)
    sizes = sites.groupby(sites).transform("size").to_numpy(dtype=np.float64)
    return codes + 0.7 * ((within + 0.5) / sizes - 0.5), names


def _name(axes: Axes, table: pd.DataFrame, mine: pd.DataFrame, places: NDArray[np.float64]) -> None:
    """Write the names of the farthest outliers beside their dots, one a site."""
    if "site" in table.columns:
        sites = mine["scan"].map(dict(zip(table["scan"], table["site"], strict=True)))
        mine = mine[~sites.duplicated()]
    where = dict(zip(table["scan"], places, strict=True))
    right = np.median(places)
    for scan, value in mine[["scan", "value"]].head(_NAMED).itertuples(index=False):
        left_side = where[scan] > right
        axes.annotate(
            wrap(str(scan), 24, 1), (where[scan], value), (-4 if left_side else 4, 0),
            textcoords="offset points", ha="right" if left_side else "left", va="center",
            fontsize=6.5, color=GREY,
        )  # fmt: skip
