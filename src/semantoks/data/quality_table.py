"""The quality of a cohort's scans as a table, and which of them stand out."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError

Worse = Literal["high", "low", "both"]


class Measure(NamedTuple):
    """A column of the quality table that scans are compared by."""

    column: str
    title: str
    worse: Worse
    least: float


MEASURES: Final = (
    Measure("seconds", "length (s)", "low", 10),
    Measure("motion", "mean framewise displacement (mm)", "high", 0.02),
    Measure("share_scrubbed", "share of volumes scrubbed", "high", 0.02),
    Measure("coverage", "share of ROIs with signal", "low", 0.005),
    Measure("tsnr", "temporal signal to noise", "low", 1),
    Measure("deviation", "standard deviation (file's unit)", "both", 1e-09),
    Measure("in_band", "share of variance at 0.01-0.1 Hz", "low", 0.02),
    Measure("spikes", "share of volumes that jump", "high", 0.005),
    Measure("largest_step", "largest jump (times the usual)", "high", 0.2),
    Measure("global_share", "share of the global signal", "high", 0.02),
    Measure("distance_correlation", "connectivity with log distance (r)", "high", 0.02),
    Measure("network_contrast", "within minus between networks (z)", "low", 0.02),
)
"""What scans are compared by, in the order of the page."""

THRESHOLD: Final = 4.0
"""Robust deviations from the median from which on a scan stands out."""
_ENOUGH: Final = 10
"""A site with fewer scans is compared with the whole cohort."""


def outliers(table: pd.DataFrame, *, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Find scans that stand out from the others of their site, in the suspicious direction.

    The distance is from the median, in robust standard deviations (1.4826 times the median
    absolute deviation), because a mean would be drawn to what it is to find.

    Examples
    --------
    >>> table = pd.DataFrame({"scan": list("abcdef"), "motion": [0.1, 0.12, 0.11, 0.1, 0.13, 2]})
    >>> outliers(table)[["scan", "measure"]].to_numpy().tolist()
    [['f', 'motion']]
    """
    if "scan" not in table.columns:
        raise InputError("the table of quality has no column scan.")
    groups = _groups(table)
    parts = []
    for measure in MEASURES:
        if measure.column not in table.columns:
            continue
        values = table[measure.column].to_numpy(dtype=np.float64)
        median, distance = _distances(values, groups, measure)
        found = np.flatnonzero(distance >= threshold)
        parts.append(
            pd.DataFrame(
                {
                    "scan": table["scan"].to_numpy()[found],
                    "measure": measure.column,
                    "value": values[found],
                    "median": median[found],
                    "distance": distance[found],
                }
            )
        )
    if not parts:
        return pd.DataFrame(columns=["scan", "measure", "value", "median", "distance"])
    joined = pd.concat(parts, ignore_index=True)
    return joined.sort_values("distance", ascending=False, ignore_index=True, kind="stable")


def _groups(table: pd.DataFrame) -> list[NDArray[np.intp]]:
    """Return the rows of every site that is large enough, and those of the whole cohort last."""
    everyone = np.arange(len(table))
    if "site" not in table.columns:
        return [everyone]
    sites = table["site"].fillna("").astype(str).to_numpy()
    names, counts = np.unique(sites, return_counts=True)
    large = [
        np.flatnonzero(sites == name)
        for name, count in zip(names, counts, strict=True)
        if name and count >= _ENOUGH
    ]
    return [*large, everyone]


def _distances(
    values: NDArray[np.float64], groups: list[NDArray[np.intp]], measure: Measure
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the median that each scan is held against, and its signed robust distance."""
    median = np.full(len(values), np.nan)
    distance = np.full(len(values), np.nan)
    placed = np.zeros(len(values), dtype=bool)
    for rows in groups:
        mine = values[rows]
        known = mine[np.isfinite(mine)]
        if len(known) >= 3:
            middle = float(np.median(known))
            spread = max(1.4826 * float(np.median(np.abs(known - middle))), measure.least)
            away = (mine - middle) / spread
            signed = {"high": away, "low": -away, "both": np.abs(away)}[measure.worse]
            new = ~placed[rows]
            median[rows[new]], distance[rows[new]] = middle, signed[new]
        placed[rows] = True
    return median, np.where(np.isfinite(distance), distance, -np.inf)
