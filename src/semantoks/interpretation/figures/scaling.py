"""Scores over the number of people that were pretrained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semantoks.interpretation.figures.canvas import (
    BLUE,
    GREY,
    ORANGE,
    say,
    small_multiples,
    styled,
)


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
