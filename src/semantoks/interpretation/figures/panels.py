"""Small pictures side by side: counts, histograms, curves over training, a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from semantoks.data.quality import Measure
from semantoks.interpretation.figures.canvas import (
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    WIDTH,
    say,
    small_multiples,
    styled,
    wrap,
)


class Curve(NamedTuple):
    """One small picture of `draw_curves`."""

    column: str
    title: str
    unit: str
    ceiling: str = ""


@styled
def draw_bars(counts: Mapping[str, int], unit: str) -> Figure:
    """Draw one horizontal bar a name, the longest on top."""
    bars = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(bars) > 41:
        bars = [*bars[:40], (f"{len(bars) - 40} others", sum(n for _, n in bars[40:]))]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.22 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(bars))
    drawn = axes.barh(places, [n for _, n in bars], color=BLUE, height=0.7)
    axes.bar_label(drawn, padding=3, fontsize=8)
    axes.set_yticks(places, [wrap(name, 34, 1) for name, _ in bars])
    axes.set(xlabel=f"number of {unit}", ylim=(len(bars) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def draw_distributions(columns: Mapping[str, Float[NDArray[np.float64], "scan"]]) -> Figure:
    """Draw a histogram of each of some quantities of the scans."""
    figure, grid = small_multiples(len(columns), n_columns=2, height=2.1)
    for axes, (label, values) in zip(grid, columns.items(), strict=True):
        known = values[np.isfinite(values)]
        missing = len(values) - len(known)
        if len(known) == 0:
            say(axes, "not known of any scan")
        else:
            _histogram(axes, known)
        axes.set(xlabel=label, ylabel="scans")
        if missing and len(known):
            axes.set_title(f"unknown for {missing} of {len(values)} scans", fontsize=8)
    return figure


def _histogram(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw few distinct values as named bars, more as a histogram."""
    distinct, counts = np.unique(np.round(values, 6), return_counts=True)
    if len(distinct) <= min(8, max(1, len(values) // 2)):
        bars = axes.bar([f"{x:.4g}" for x in distinct], counts, color=BLUE, width=0.6)
        axes.bar_label(bars, padding=2, fontsize=8)
        axes.set_xlim(-0.8, max(len(distinct) - 0.2, 1.8))
    else:
        axes.hist(values, bins=min(30, max(8, int(math.sqrt(len(values))))), color=BLUE)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(y=0.12)


@styled
def draw_curves(table: pd.DataFrame, curves: Sequence[Curve]) -> Figure:
    """Draw columns of a log over the optimizer step, one small picture each."""
    figure, grid = small_multiples(len(curves), n_columns=2 if len(curves) == 4 else 3, height=2.1)
    for axes, curve in zip(grid, curves, strict=True):
        axes.set(title=wrap(curve.title, 36, 2), xlabel="optimizer step", ylabel=curve.unit)
        axes.grid(axis="y")
        logged = table[["step", curve.column]].dropna() if curve.column in table else table[:0]
        if logged.empty:
            say(axes, "never computed in this run")
            continue
        parts = np.array_split(logged.to_numpy(dtype=np.float64), _n_parts(len(logged)))
        steps = np.array([part[:, 0].mean() for part in parts])
        means, lows, highs = (
            np.array([f(part[:, 1]) for part in parts]) for f in (np.mean, np.min, np.max)
        )
        axes.fill_between(steps, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(steps, means, color=BLUE, linewidth=1.4, marker="o" * (len(parts) <= 25), ms=3)
        first, last = table["step"].min(), table["step"].max()
        axes.set_xlim(first - 0.04 * (last - first) - 0.5, last + 0.04 * (last - first) + 0.5)
        if curve.ceiling and curve.ceiling in table and table[curve.ceiling].notna().any():
            ceiling = float(table[curve.ceiling].max())
            axes.axhline(ceiling, color="#222222", linestyle="--", linewidth=1)
            axes.annotate(
                "largest possible", (1, ceiling), (0, -3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", va="top", fontsize=7.5,
            )  # fmt: skip
        axes.margins(y=0.12)
    return figure


def _n_parts(n_rows: int) -> int:
    """Return the number of parts of a curve: every row of a short log, at most 120."""
    return n_rows if n_rows <= 60 else min(120, max(60, n_rows // 5))


@styled
def draw_similarity(
    matrix: Float[NDArray[np.float64], "network network"], networks: Sequence[str]
) -> Figure:
    """Draw the cosine between the tokens of every two networks as a heat map."""
    n = len(networks)
    box = min(6.6, max(3.0, 0.6 * n))  # inches; the rest is room for names and colour scale
    letters = min(18, max(map(len, networks)))
    left, below = 0.3 + 0.075 * letters, 0.35 + 0.06 * letters
    width, height = left + box + 1.2, below + box + 0.15
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, below / height, box / width, box / height))
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad="#DDDDDD")
    image = axes.imshow(matrix, cmap=colours, vmin=-1, vmax=1)
    names = [wrap(name, 18, 2) for name in networks]
    fontsize = 8 if n <= 30 else 5.5
    axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.tick_params(length=0, labelsize=fontsize)
    axes.spines[:].set_visible(False)
    scale = axes.inset_axes((1 + 0.25 / box, 0.1, 0.2 / box, 0.8))
    figure.colorbar(image, cax=scale, label="mean cosine of two tokens")
    if n <= 12:
        for (row, column), value in np.ndenumerate(matrix):
            ink = "white" if abs(value) > 0.6 else "#222222"
            text = f"{value:.2f}".replace("-", "−") if np.isfinite(value) else "?"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    return figure


_MARKERS: Final = ("o", "^", "s")
CATEGORIES: Final = len(PALETTE) * len(_MARKERS)
"""Categories with a colour and a shape of their own; rarer ones are drawn together."""
_PALE: Final = "#BBBBBB"
_BOX: Final = 4.4  # inches, width and height of a map


class _Group(NamedTuple):
    """Rows that are drawn alike; `rest` stands for several categories or for none."""

    label: str
    rows: NDArray[np.intp]
    rest: bool = False


@styled
def draw_map(
    points: Float[NDArray[np.float64], "scan 2"],
    colourings: Mapping[str, pd.Series],
    method: str,
) -> Figure:
    """Draw the same points side by side, each time coloured by something else."""
    groups = {
        name: None if is_continuous(values) else _categories(values)
        for name, values in colourings.items()
    }
    # All boxes have the same size and height, so that a point is found again on the other side.
    below = 0.35 + max(0.7 if group is None else _legend_height(group) for group in groups.values())
    height = _BOX + 0.35 + below
    figure = Figure(figsize=(WIDTH, height))
    share = _BOX / WIDTH, _BOX / height
    for k, (name, values) in enumerate(colourings.items()):
        axes = figure.add_axes((0.03 + 0.5 * k, below / height, *share))
        group = groups[name]
        if group is None:
            _scatter_continuous(figure, axes, points, values.to_numpy(dtype=np.float64), name)
        else:
            _scatter_categories(axes, points, group)
        axes.set_title(f"coloured by {wrap(name, 40, 1)}")
        axes.set(xlabel=f"{method} axis 1 (no unit)", ylabel=f"{method} axis 2 (no unit)")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color("#CCCCCC")
    return figure


def is_continuous(values: pd.Series) -> bool:
    """Say whether values are drawn on a colour scale rather than as categories.

    Examples
    --------
    >>> is_continuous(pd.Series([1.0, 2.0, 1.0])), is_continuous(pd.Series(range(20)))
    (False, True)
    """
    return bool(pd.api.types.is_numeric_dtype(values)) and values.nunique() > 8


def _categories(values: pd.Series) -> list[_Group]:
    """Return label and rows of each category, rare ones joined, missing ones last."""
    texts = values.map(_category_text, na_action="ignore").astype(object)
    counts = texts.value_counts()
    names = sorted(counts.index, key=lambda name: (-counts[name], name))
    kept = sorted(names if len(names) <= CATEGORIES else names[: CATEGORIES - 1])
    groups = [_Group(f"{name} ({counts[name]})", np.flatnonzero(texts == name)) for name in kept]
    others = np.flatnonzero(texts.notna() & ~texts.isin(kept))
    if len(others):
        groups.append(_Group(f"{len(names) - len(kept)} others ({len(others)})", others, rest=True))
    missing = np.flatnonzero(texts.isna())
    if len(missing):
        groups.append(_Group(f"unknown ({len(missing)})", missing, rest=True))
    return groups


def _category_text(value: object) -> str:
    """Return the name of a category; a whole number without a decimal point."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scatter_categories(
    axes: Axes, points: NDArray[np.float64],
    groups: Sequence[_Group],
) -> None:  # fmt: skip
    """Draw one colour and shape a category, legend below."""
    size = _point_size(len(points))
    handles: list[PathCollection] = []
    for k, group in enumerate(groups):
        # small groups are drawn over large ones, which would hide them
        depth = 1 if group.rest else 2 - len(group.rows) / len(points) / 2
        x, y = points[group.rows].T
        handles.append(
            axes.scatter(
                x, y, s=size / 2 if group.rest else size, alpha=0.85, linewidth=0, zorder=depth,
                color=_PALE if group.rest else PALETTE[k % len(PALETTE)],
                label=wrap(group.label, 30, 2),
                marker="o" if group.rest else _MARKERS[k // len(PALETTE)],
            )
        )  # fmt: skip
    axes.legend(
        handles=handles, ncols=_legend_columns(groups), borderaxespad=0, labelspacing=0.35,
        loc="upper center", bbox_to_anchor=(0.5, -0.3 / _BOX), columnspacing=1, handletextpad=0.2,
        markerscale=(30 / size) ** 0.5,
    )  # fmt: skip


def _scatter_continuous(
    figure: Figure, axes: Axes, points: NDArray[np.float64], values: NDArray[np.float64], name: str
) -> None:
    """Draw a colour scale, missing values small and grey."""
    known = np.isfinite(values)
    size = _point_size(len(points))
    (x, y), (x_unknown, y_unknown) = points[known].T, points[~known].T
    axes.scatter(x_unknown, y_unknown, s=size / 2, color=_PALE, linewidth=0)
    low, high = np.percentile(values[known], [2, 98])
    drawn = axes.scatter(
        x, y, s=size, c=values[known], cmap="viridis", vmin=low, vmax=high, alpha=0.9, linewidth=0
    )
    missing = f"; grey: unknown ({(~known).sum()})" if not known.all() else ""
    bar = axes.inset_axes((0.15, -0.45 / _BOX, 0.7, 0.13 / _BOX))
    figure.colorbar(
        drawn, cax=bar, orientation="horizontal", extend="both", label=wrap(name, 40, 1) + missing
    )


def _point_size(n: int) -> float:
    """Return the area of a point in points², smaller where there are many."""
    return float(np.clip(13000 / max(n, 1), 7, 40))


def _legend_columns(groups: Sequence[_Group]) -> int:
    """Return how many legend entries fit side by side below half a page."""
    longest = min(30, max(len(group.label) for group in groups))
    return int(np.clip(58 // (longest + 5), 1, 5))


def _legend_height(groups: Sequence[_Group]) -> float:
    """Return how high a legend is, in inches."""
    lines = max(wrap(group.label, 30, 2).count("\n") + 1 for group in groups)
    return 0.1 + 0.158 * lines * math.ceil(len(groups) / _legend_columns(groups))


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
