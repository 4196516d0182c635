"""The same points side by side, each time coloured by something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from semantoks.interpretation.figures.canvas import PALETTE, WIDTH, styled, wrap

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
