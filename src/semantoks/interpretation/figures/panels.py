"""Small pictures side by side: counts, histograms, curves over training, a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from semantoks.interpretation.figures.canvas import (
    BLUE,
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
