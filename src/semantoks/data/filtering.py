"""Band-pass and resampling of series of shape (roi, time), without aliasing or a shift in time."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.errors import ConfigurationError, InputError

Series = NDArray[np.floating[Any]]

_PASS_SHARE: Final = 0.7
"""Resampling leaves frequencies up to this share of the smaller Nyquist frequency untouched."""
_STOP_DECIBELS: Final = 70.0
"""Resampling lowers what lies above the smaller Nyquist frequency by this much."""
_BUTTERWORTH_ORDER: Final = 5


def filter_series(
    series: Float[Series, "roi time"],
    t_r: float,
    high_pass: float | None = 0.01,
    low_pass: float | None = 0.1,
    detrend: bool = True,
) -> NDArray[np.float64]:
    """Remove the linear trend and keep a band of frequencies, without a shift in time.

    A Butterworth filter of order 5 runs forwards and backwards, so that the amplitude at the edges
    of the band is one half. The ends are continued by their point reflection, for as long as the
    slowest frequency that passes needs, or as the scan is.

    Examples
    --------
    >>> seconds = 2.0 * np.arange(300)
    >>> slow, fast = (np.sin(2 * np.pi * f * seconds)[None] for f in (0.05, 0.2))
    >>> kept = filter_series(slow + fast, t_r=2.0)
    >>> bool(np.abs(kept - slow)[:, 100:-100].max() < 0.02)
    True
    """
    # Takes half a second, which those who only read a store need not wait.
    from scipy import signal

    check_band(high_pass, low_pass)
    for edge in (high_pass, low_pass):
        if edge is not None:
            check_nyquist(edge, t_r, "repetition time")
    filtered = np.asarray(series, dtype=np.float64)
    if detrend:
        filtered = signal.detrend(filtered, axis=1)
    if high_pass is None and low_pass is None:
        return filtered
    kind: Literal["highpass", "lowpass", "bandpass"] = "bandpass"
    if high_pass is None or low_pass is None:
        kind = "lowpass" if high_pass is None else "highpass"
    edges = [edge for edge in (high_pass, low_pass) if edge is not None]
    band = edges if kind == "bandpass" else edges[0]
    sections = signal.butter(_BUTTERWORTH_ORDER, band, kind, fs=1 / t_r, output="sos")
    padding = min(series.shape[1] - 1, math.ceil(1.5 / (edges[0] * t_r)))
    return np.asarray(signal.sosfiltfilt(sections, filtered, axis=1, padlen=padding))


def resampled_length(n_samples: int, t_r: float, target_t_r: float) -> int:
    """Count the samples of a scan after resampling.

    Examples
    --------
    >>> resampled_length(490, 0.735, 2.0)
    180
    """
    # The small term keeps a last sample that rounding puts a hair beyond the end.
    return math.floor((n_samples - 1) * t_r / target_t_r + 1e-6) + 1 if n_samples else 0


def resample(
    series: Float[Series, "roi time"], t_r: float, target_t_r: float
) -> NDArray[np.float64]:
    """Resample to another repetition time without aliasing.

    Every new sample is a weighted sum of the old ones around it, the weights being a sinc under a
    Kaiser window. Frequencies up to 70 % of the smaller of the two Nyquist frequencies pass
    unchanged, those above it are lowered by 70 dB. The first sample stays where it is.

    Examples
    --------
    >>> tone = np.sin(2 * np.pi * 0.55 * 0.735 * np.arange(490))[None]
    >>> resample(tone, 0.735, 2.0).shape
    (1, 180)
    >>> bool(np.abs(resample(tone, 0.735, 2.0)[:, 12:-12]).max() < 1e-3)
    True
    """
    values = np.asarray(series, dtype=np.float64)
    if math.isclose(t_r, target_t_r, rel_tol=1e-6):
        return values
    nyquist = 0.5 / max(t_r, target_t_r)
    transition = (1 - _PASS_SHARE) * nyquist
    # Kaiser's formulas for the length and the shape of a filter of this transition and attenuation.
    half_width = (_STOP_DECIBELS - 7.95) / (2 * 14.36 * transition)
    padding = math.ceil(half_width / t_r)
    # Point reflection keeps level and slope at both ends.
    padded = np.pad(values, ((0, 0), (padding, padding)), mode="reflect", reflect_type="odd")
    old = (np.arange(padded.shape[1]) - padding) * t_r
    new = np.arange(resampled_length(values.shape[1], t_r, target_t_r)) * target_t_r
    distance = new[None, :] - old[:, None]
    shape = np.sqrt(np.clip(1 - (distance / half_width) ** 2, 0, None))
    window = np.i0(0.1102 * (_STOP_DECIBELS - 8.7) * shape)
    window[np.abs(distance) > half_width] = 0
    weights = np.sinc(2 * (nyquist - transition / 2) * distance) * window
    return np.asarray(padded @ (weights / weights.sum(axis=0)))


def check_band(high_pass: float | None, low_pass: float | None) -> None:
    """Refuse a band without a width."""
    for name, edge in (("high_pass", high_pass), ("low_pass", low_pass)):
        if edge is not None and not (edge > 0 and math.isfinite(edge)):
            raise ConfigurationError(
                f"{name} is {edge} Hz; it must be positive, or None to leave that side open."
            )
    if high_pass is not None and low_pass is not None and high_pass >= low_pass:
        raise ConfigurationError(
            f"high_pass ({high_pass:g} Hz) must be below low_pass ({low_pass:g} Hz)."
        )


def check_nyquist(edge: float, t_r: float, what: str) -> None:
    """Refuse an edge of the band that a repetition time cannot hold."""
    if edge >= 0.5 / t_r:
        raise InputError(
            f"a band edge of {edge:g} Hz is not below the Nyquist frequency of {what}, "
            f"{0.5 / t_r:.4g} Hz at {t_r:g} s. Lower the edge, or leave that side open (None)."
        )
