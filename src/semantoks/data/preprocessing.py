"""Pure functions on series of shape (roi, time): checks, bad ROIs, z-score, and all in a row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.filtering import (
    Series,
    check_band,
    check_nyquist,
    filter_series,
    resample,
    resampled_length,
)
from semantoks.errors import ConfigurationError, InputError, nearest

__all__ = [
    "BadRois",
    "Preprocessed",
    "Preprocessing",
    "QualityError",
    "cut_nan_tail",
    "filter_series",
    "find_bad_rois",
    "preprocess",
    "resample",
    "resampled_length",
    "standardize",
]

Category = Literal["short", "coverage", "nan", "flat"]

_FLAT_SHARE: Final = 1e-4
"""A ROI is flat if its deviation is below this share of the scan's median deviation."""
_FLAT_ROUNDING: Final = 4 * float(np.finfo(np.float32).eps)
"""A ROI is flat if its deviation is below this share of its largest value: float32 rounding."""


class QualityError(InputError):
    """A scan's data are not good enough to be used."""

    def __init__(self, message: str, category: Category) -> None:
        super().__init__(message)
        self.category = category


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every scan before it enters a store.

    Parameters
    ----------
    target_t_r : float
        Repetition time that every scan is resampled to, in seconds.
    high_pass, low_pass : float or None
        Edges of the pass band in Hz (half amplitude), None to leave that side open.
    detrend : bool
        Whether the linear trend of every ROI is removed.
    min_samples : int
        Shortest scan that is accepted, in samples after resampling.
    min_coverage : float
        Smallest share of valid ROIs that is accepted.
    min_network_coverage : float
        Smallest share of valid ROIs of a network; one that has fewer is masked as a whole in that
        scan. At 0, a single ROI is enough.
    filtered_before : (float or None, float or None), optional
        Edges in Hz of the band that the series were filtered to by somebody else, None for a side
        that was left open. `high_pass` and `low_pass` must be None then: no band-pass is applied.

    Raises
    ------
    ConfigurationError
        If a value is impossible.

    Examples
    --------
    >>> Preprocessing(low_pass=None).high_pass
    0.01
    >>> Preprocessing(high_pass=None, low_pass=None, filtered_before=(0.008, 0.08)).band
    (0.008, 0.08)
    """

    target_t_r: float = 2.0
    high_pass: float | None = 0.01
    low_pass: float | None = 0.1
    detrend: bool = True
    min_samples: int = 100
    min_coverage: float = 0.95
    min_network_coverage: float = 0.0
    filtered_before: tuple[float | None, float | None] | None = None

    def __post_init__(self) -> None:
        if not (self.target_t_r > 0 and math.isfinite(self.target_t_r)):
            raise ConfigurationError(
                f"target_t_r is {self.target_t_r}; it must be a positive number of seconds."
            )
        check_band(self.high_pass, self.low_pass)
        if self.low_pass is not None:
            check_nyquist(self.low_pass, self.target_t_r, "the repetition time resampled to")
        if self.min_samples < 2:
            raise ConfigurationError(
                f"min_samples is {self.min_samples}; a scan has at least 2 samples."
            )
        for name in ("min_coverage", "min_network_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it is a share between 0 and 1."
                )
        if self.filtered_before is not None:
            self._check_filtered_before()

    def _check_filtered_before(self) -> None:
        """Refuse a band that cannot be, and filtering twice."""
        band = self.filtered_before
        if not isinstance(band, list | tuple) or len(band) != 2 or not any(band):
            raise ConfigurationError(
                f"filtered_before is {band}; it has two edges in Hz, such as (0.008, 0.08), of "
                "which one may be None. Leave it out for series that were not filtered."
            )
        try:
            check_band(*band)
        except ConfigurationError as error:
            raise ConfigurationError(f"filtered_before is {tuple(band)}: {error}") from error
        if (self.high_pass, self.low_pass) != (None, None):
            raise ConfigurationError(
                f"filtered_before is {tuple(band)}, but a band-pass of {self.high_pass} to "
                f"{self.low_pass} Hz is asked for, too. Filtering twice narrows the band: set "
                "high_pass and low_pass to None."
            )
        # JSON knows lists only.
        object.__setattr__(self, "filtered_before", tuple(band))

    @property
    def band(self) -> tuple[float | None, float | None]:
        """Edges in Hz of the band that series have in the end, whoever filtered them."""
        return self.filtered_before or (self.high_pass, self.low_pass)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON.

        Returns
        -------
        dict
            What `Preprocessing.from_dict` reads.
        """
        settings = dataclasses.asdict(self)
        # Absent where they say nothing, so that older stores keep their fingerprints.
        band = settings.pop("filtered_before")
        if not self.min_network_coverage:
            del settings["min_network_coverage"]
        return settings if band is None else {**settings, "filtered_before": list(band)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """Make settings from what `to_dict` returned.

        Parameters
        ----------
        content : mapping
            Values by name; what is absent keeps its default.

        Returns
        -------
        Preprocessing
            The settings.

        Raises
        ------
        ConfigurationError
            If a name is unknown or a value impossible.

        Examples
        --------
        >>> Preprocessing.from_dict({"low_pass": 0.08}).low_pass
        0.08
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in content:
            if key not in known:
                raise ConfigurationError(
                    f"{key!r} is no setting of the preprocessing; there are {', '.join(known)}."
                    + nearest(key, known)
                )
        return cls(**content)


class BadRois(NamedTuple):
    """ROIs that carry no signal."""

    flat: NDArray[np.bool_]
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class Preprocessed:
    """A scan that is ready for a store."""

    series: NDArray[np.float32]
    t_r: float
    flat: NDArray[np.bool_]
    missing: NDArray[np.bool_]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """ROIs that carry signal, shape (roi,)."""
        return ~(self.flat | self.missing)

    @property
    def coverage(self) -> float:
        """Share of ROIs that carry signal."""
        return float(self.valid.mean())

    @property
    def n_samples(self) -> int:
        """Number of samples after resampling."""
        return int(self.series.shape[1])


def cut_nan_tail(series: Float[Series, "roi time"]) -> Float[Series, "roi shorter_time"]:
    """Drop the samples at the end at which every ROI is NaN.

    Examples
    --------
    >>> cut_nan_tail(np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])).shape
    (2, 2)
    """
    measured = np.flatnonzero(~np.isnan(series).all(axis=0))
    return series[:, : measured[-1] + 1 if measured.size else 0]


def find_bad_rois(series: Float[Series, "roi time"]) -> BadRois:
    """Find the ROIs that carry no signal.

    A ROI is flat if its standard deviation is within float32 rounding of its values, or less than
    a ten-thousandth of the median deviation of the scan's other ROIs.

    Examples
    --------
    >>> flat, missing = find_bad_rois(np.array([[1.0, 2, 1], [7, 7, 7], [np.nan] * 3]))
    >>> flat.tolist(), missing.tolist()
    ([False, True, False], [False, False, True])
    """
    missing = np.asarray(np.isnan(series).all(axis=1))
    filled = np.where(missing[:, None], 0.0, series).astype(np.float64)
    with np.errstate(invalid="ignore"):
        deviation = filled.std(axis=1)
    flat = deviation <= _FLAT_ROUNDING * np.abs(filled).max(axis=1, initial=0.0)
    alive = np.isfinite(deviation) & ~(flat | missing)
    if alive.any():
        flat |= deviation <= _FLAT_SHARE * np.median(deviation[alive])
    return BadRois(flat & ~missing, missing)


def standardize(series: Float[Series, "roi time"]) -> NDArray[np.float64]:
    """Z-score every ROI over the whole scan.

    Examples
    --------
    >>> standardize(np.array([[1.0, 3.0], [5.0, 5.0]])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    bad = find_bad_rois(series)
    values = np.where((bad.flat | bad.missing)[:, None], 0.0, series).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    return values / np.where(deviation > 0, deviation, 1.0)


def preprocess(
    series: Float[Series, "roi time"], t_r: float, preprocessing: Preprocessing
) -> Preprocessed:
    """Make a scan ready for a store: checks, detrending, resampling, band-pass, z-score.

    Resampling comes before the band-pass, so that scans of every repetition time go through the
    very same filter.

    Parameters
    ----------
    series : ndarray of shape (roi, time)
        Series in any unit; may be padded with NaN at the end, ROIs may be missing (NaN) or flat.
    t_r : float
        Repetition time in seconds.
    preprocessing : Preprocessing
        What to do.

    Returns
    -------
    Preprocessed
        The series and which of its ROIs carry signal.

    Raises
    ------
    QualityError
        If the scan is too short, covers too few ROIs, is flat, or has NaN in the middle.
    InputError
        If the repetition time cannot hold the band that is to pass.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((3, 300))
    >>> preprocess(noise, 1.0, Preprocessing()).series.shape
    (3, 150)
    """
    if not (t_r > 0 and math.isfinite(t_r)):
        raise InputError(f"the repetition time is {t_r}; it must be a positive number of seconds.")
    if preprocessing.low_pass is not None:
        check_nyquist(preprocessing.low_pass, t_r, "the scan's repetition time")
    series = cut_nan_tail(series)
    _check_length(series.shape[1], t_r, preprocessing)
    bad = find_bad_rois(series)
    _check_finite(series, bad.missing)
    _check_coverage(bad, preprocessing.min_coverage)
    values = np.where((bad.flat | bad.missing)[:, None], 0.0, series).astype(np.float64)
    # A large mean would cost digits further on, whether a trend is to be removed or not.
    values -= values.mean(axis=1, keepdims=True)
    values = filter_series(values, t_r, None, None, preprocessing.detrend)
    values = resample(values, t_r, preprocessing.target_t_r)
    values = filter_series(
        values,
        preprocessing.target_t_r,
        preprocessing.high_pass,
        preprocessing.low_pass,
        detrend=False,
    )
    # A ROI that was nothing but trend or hum is flat only now.
    flat = find_bad_rois(values).flat & ~bad.missing
    _check_coverage(BadRois(flat, bad.missing), preprocessing.min_coverage)
    ready = standardize(values).astype(np.float32)
    return Preprocessed(ready, preprocessing.target_t_r, flat, bad.missing)


def _check_length(n_samples: int, t_r: float, preprocessing: Preprocessing) -> None:
    """Refuse a scan that is too short after resampling."""
    if n_samples == 0:
        raise QualityError("every value is NaN.", "nan")
    target = preprocessing.target_t_r
    n_after = resampled_length(n_samples, t_r, target)
    if n_after < preprocessing.min_samples:
        raise QualityError(
            f"too short: {n_samples} samples at {t_r:g} s are {n_after} at {target:g} s, but at "
            f"least {preprocessing.min_samples} are needed.",
            "short",
        )


def _check_finite(series: Series, missing: NDArray[np.bool_]) -> None:
    """Refuse a scan with NaN or infinite values in a ROI that is measured otherwise."""
    broken = ~np.isfinite(series) & ~missing[:, None]
    if broken.any():
        roi, sample = np.argwhere(broken)[0]
        raise QualityError(
            f"NaN or infinite values in {broken.any(axis=1).sum()} ROI(s) that are measured "
            f"otherwise; the first is ROI {roi + 1}, sample {sample + 1}. Only NaN at the end of "
            "a scan or throughout a ROI can be handled.",
            "nan",
        )


def _check_coverage(bad: BadRois, min_coverage: float) -> None:
    """Refuse a scan in which too few ROIs carry signal."""
    valid = ~(bad.flat | bad.missing)
    if not valid.any():
        what = "missing" if bad.missing.all() else "flat or missing"
        raise QualityError(f"all of its {valid.size} ROIs are {what}.", "flat")
    if valid.mean() < min_coverage:
        raise QualityError(
            f"{bad.flat.sum()} flat and {bad.missing.sum()} missing of {valid.size} ROIs leave "
            f"{valid.mean():.1%}, but at least {min_coverage:.1%} must carry signal.",
            "coverage",
        )
