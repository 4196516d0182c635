"""Scores with intervals, beside connectivity and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semantoks.evaluation.metrics import CONNECTIVITY, DUMMY, SITE
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


class ScoreAxis(NamedTuple):
    """One small picture of `draw_scores`."""

    split: str
    metric: str
    rows: pd.DataFrame
    reference: float
    chance: float


@styled
def draw_scores(panels: Sequence[ScoreAxis]) -> Figure:
    """Draw scores with intervals, one row a method, beside connectivity and chance."""
    splits = list(dict.fromkeys(panel.split for panel in panels))
    n_columns = max(sum(panel.split == split for panel in panels) for split in splits)
    names = {split: _methods(panels, split) for split in splits}
    heights = [0.55 + 0.34 * len(names[split]) for split in splits]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.8 * len(splits) + 0.5))
    figure.set_layout_engine("constrained", h_pad=0.08)
    grid = figure.subplots(len(splits), n_columns, squeeze=False, height_ratios=heights)
    for split, row in zip(splits, grid, strict=True):
        drawn = [panel for panel in panels if panel.split == split]
        for axes, panel in zip(row, drawn, strict=False):
            _forest(axes, panel, names[split])
        row[0].set_yticks(range(len(names[split])), [wrap(x, 26, 2) for x in names[split]])
        for axes in row[len(drawn) :]:
            axes.set_axis_off()
    lines = {str(line.get_label()): line for axes in grid.flat for line in axes.lines}
    shown = [label for label in ("connectivity", "chance") if label in lines]
    if shown:
        figure.legend([lines[x] for x in shown], shown, loc="outside lower center", ncols=2)
    return figure


def _methods(panels: Sequence[ScoreAxis], split: str) -> list[str]:
    """Return the methods of a split in order, each once."""
    named = (str(m) for panel in panels if panel.split == split for m in panel.rows["method"])
    return list(dict.fromkeys(named))


def _forest(axes: Axes, panel: ScoreAxis, methods: Sequence[str]) -> None:
    """Draw the methods' scores under each other."""
    numbers = panel.rows[["value", "low", "high"]].to_numpy(dtype=np.float64)
    for method, (value, low, high) in zip(panel.rows["method"], numbers, strict=True):
        if not np.isfinite(value):
            continue
        place = methods.index(str(method))
        colour = {CONNECTIVITY: ORANGE, SITE: GREY, DUMMY: GREY}.get(str(method), BLUE)
        axes.hlines(place, low, high, color=colour, linewidth=2)
        axes.scatter([value], [place], color=colour, s=34, zorder=3)
        axes.annotate(
            f"{value:.2f}".replace("-", "−"), (value, place), (0, 4), ha="center",
            textcoords="offset points", va="bottom", fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip
    if np.isfinite(panel.reference):
        axes.axvline(panel.reference, color=ORANGE, ls="--", lw=1, label="connectivity", zorder=1)
    if np.isfinite(panel.chance):
        axes.axvline(panel.chance, color=GREY, ls=":", lw=1.4, label="chance", zorder=1)
    axes.set(ylim=(len(methods) - 0.4, -0.75), xlabel=wrap(panel.metric, 24, 3), yticks=[])
    axes.set_title(wrap(panel.split, 60, 2))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.margins(x=0.1)


class LabelAxis(NamedTuple):
    """One small picture of `draw_label_curves`."""

    title: str
    metric: str
    rows: pd.DataFrame


@styled
def draw_label_curves(panels: Sequence[LabelAxis]) -> Figure:
    """Draw the score of every method over the number of people whose labels were learned from."""
    figure, grid = small_multiples(len(panels), n_columns=min(2, len(panels)), height=3.8)
    named = [str(m) for panel in panels for m in panel.rows["method"] if m != DUMMY]
    methods = list(dict.fromkeys(named))
    for axes, panel in zip(grid, panels, strict=True):
        axes.set(title=wrap(panel.title, 44, 2), xlabel="people with labels", ylabel=panel.metric)
        sizes = np.unique(panel.rows["n_learned"].to_numpy(dtype=np.int64))
        for place, method in enumerate(methods):
            rows = panel.rows[panel.rows["method"] == method].sort_values("n_learned")
            n, value, low, high = (
                rows[name].to_numpy(dtype=np.float64)
                for name in ("n_learned", "value", "low", "high")
            )
            reach = np.stack([value - low, high - value]).clip(min=0)
            aside = n * 1.02 ** (place - (len(methods) - 1) / 2)  # bars beside one another
            axes.errorbar(aside, value, reach, fmt=f"{_MARKS[place % len(_MARKS)]}-", ms=4, lw=1.2,
                          color=_line_colour(method, place), label=method)  # fmt: skip
        chance = panel.rows[panel.rows["method"] == DUMMY]
        if len(chance):
            axes.axhline(float(chance["value"].mean()), color=GREY, ls=":", lw=1.2, label="chance")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(axis="y")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


_MARKS: Final = "osD^vP"
_LINES: Final = tuple(colour for colour in PALETTE if colour != ORANGE)


def _line_colour(method: str, place: int) -> str:
    """Choose the colour of a method: connectivity's own, and one of six others."""
    return ORANGE if method == CONNECTIVITY else _LINES[place % len(_LINES)]


class ScalingAxis(NamedTuple):
    """One small picture of `draw_scaling`."""

    target: str
    metric: str
    rows: pd.DataFrame
    lines: Mapping[str, float]
    law: tuple[float, float] | None


@styled
def draw_scaling(panels: Sequence[ScalingAxis]) -> Figure:
    """Draw scores over the logarithm of the number of people, with the fitted power law."""
    figure, grid = small_multiples(len(panels), n_columns=min(2, len(panels)), height=3.6)
    for axes, panel in zip(grid, panels, strict=True):
        axes.set(title=panel.target, xlabel="subjects pretrained on", ylabel=panel.metric)
        if panel.rows.empty:
            say(axes, "no run")
            continue
        _points(axes, panel)
        axes.set_xscale("log")
        # Numbers of people are said as they are; powers of ten would need mathematical type.
        sizes = np.unique(panel.rows["n_pretraining"].to_numpy(dtype=np.int64))
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def _points(axes: Axes, panel: ScalingAxis) -> None:
    """Draw runs with intervals, the law and the lines to hold them against."""
    sizes, values, lows, highs = (
        panel.rows[name].to_numpy(dtype=np.float64)
        for name in ("n_pretraining", "value", "low", "high")
    )
    reach = np.stack([values - lows, highs - values]).clip(min=0)
    axes.errorbar(sizes, values, reach, color=BLUE, fmt="o", ms=4, lw=1.2, label="pretrained")
    if panel.law is not None:
        factor, exponent = panel.law
        span = np.geomspace(sizes.min(), sizes.max(), 100)
        label = f"{factor:.3g} · log(n)^{exponent:.2g}".replace("-", "−")
        axes.plot(span, factor * np.log(span) ** exponent, color=BLUE, lw=1, ls="-.", label=label)
    styles = {"connectivity": (ORANGE, "--"), "untrained": (GREY, "--"), "dummy": (GREY, ":")}
    for name, score in panel.lines.items():
        colour, style = styles.get(name, (GREY, "-"))
        axes.axhline(score, color=colour, ls=style, lw=1.2, label=name)
