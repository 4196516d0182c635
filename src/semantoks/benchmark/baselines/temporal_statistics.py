"""How each ROI moves on its own: what is left of it once its mean and variance are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.signal import periodogram
from scipy.stats import kurtosis, skew

from semantoks.data.store import Store

TEMPORAL_STATISTICS: Final = (
    "lag1",
    "skewness",
    "kurtosis",
    "power_low",
    "power_mid",
    "power_high",
)
"""Lag-1 autocorrelation, skewness, excess kurtosis, and the share of the power in each third of
the band that passed the filter."""


def temporal_features(
    store: Store, *, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """Compute temporal statistics of every ROI of every scan.

    A store holds z-scored series: the mean of every ROI is 0 and its standard deviation 1 in all
    scans, so that "mean and deviation of the ROIs" cannot tell anybody from anybody. What survives
    is how the signal moves: its autocorrelation, the shape of its distribution and its spectrum.
    """
    rows = np.empty((len(store), len(TEMPORAL_STATISTICS) * len(store.atlas)), dtype=np.float32)
    for scan in range(len(store)):
        statistics = temporal_statistics(
            store.series(scan), store.t_r, store.preprocessing.band, store.valid[scan]
        )
        rows[scan] = statistics.ravel()
        if progress is not None:
            progress(scan + 1, len(store))
    return rows


def temporal_statistics(
    series: Float[NDArray[np.floating[Any]], "roi time"],
    t_r: float,
    band: tuple[float | None, float | None] = (None, None),
    valid: NDArray[np.bool_] | None = None,
) -> Float[NDArray[np.float64], "statistic roi"]:
    """Compute temporal statistics of one scan.

    Examples
    --------
    >>> slow = np.sin(2 * np.pi * 0.02 * 2.0 * np.arange(100))
    >>> temporal_statistics(slow[None], 2.0, (0.01, 0.1))[[0, 3]].round(1).ravel().tolist()
    [1.0, 1.0]
    """
    alive = np.ptp(series, axis=1) > 0
    if valid is not None:
        alive &= valid
    statistics = np.zeros((len(TEMPORAL_STATISTICS), len(series)))
    if not alive.any():
        return statistics
    x = series[alive].astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    lag1 = (x[:, 1:] * x[:, :-1]).sum(axis=1) / (x**2).sum(axis=1)
    shares = _power_shares(x, t_r, band)
    statistics[:, alive] = np.stack([lag1, skew(x, axis=1), kurtosis(x, axis=1), *shares])
    statistics[:, ~alive] = statistics[:, alive].mean(axis=1, keepdims=True)
    return statistics


def _power_shares(
    x: NDArray[np.float64], t_r: float, band: tuple[float | None, float | None]
) -> NDArray[np.float64]:
    """Return the share of the power in each third of the band, shape (third, roi)."""
    frequency, power = periodogram(x, fs=1 / t_r, axis=1)
    edges = np.linspace(band[0] or 0.0, band[1] or 0.5 / t_r, 4)
    third = np.clip(np.searchsorted(edges, frequency, side="right") - 1, 0, 2)
    summed = power @ np.eye(3)[third]
    return np.asarray((summed / summed.sum(axis=1, keepdims=True)).T)
