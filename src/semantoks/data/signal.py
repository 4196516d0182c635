"""Preprocessing of series of shape (roi, time): checks, band-pass, resampling, standardization."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from semantoks.data.recording import ReaderOptions
from semantoks.errors import ConfigurationError, InputError, nearest

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


def fill_censored(
    series: Float[NDArray[np.floating[Any]], "roi kept_volume"], kept: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Put volumes that were cut out back by interpolation in time.

    Without them, time would jump: every later volume would come too early, and fluctuations would
    look faster than they are. The interpolation is monotone between neighbours (PCHIP), so that it
    does not overshoot in long gaps as cubic splines do. Volumes before the first and after the
    last that was kept are not made up.

    Examples
    --------
    >>> kept = np.array([False, True, True, False, True])
    >>> fill_censored(np.array([[1.0, 2.0, 4.0]]), kept)
    array([[1., 2., 3., 4.]])
    """
    times = np.flatnonzero(kept)
    values = np.asarray(series, dtype=np.float64)
    if times.size < 2 or times[-1] - times[0] + 1 == times.size:
        return values
    whole = np.full((len(values), times[-1] - times[0] + 1), np.nan)
    there = np.isfinite(values).all(axis=1)
    if there.any():
        curve = PchipInterpolator(times, values[there], axis=1)
        whole[there] = curve(np.arange(times[0], times[-1] + 1))
    # ROIs with single gaps keep them, and are judged by them later on.
    rest = np.ix_(np.flatnonzero(~there), times - times[0])
    whole[rest] = values[~there]
    return whole


# A notice is words of the reader for the user; whether series are filtered here is never changed.


@dataclass(frozen=True)
class PriorFilter:
    """A filter that series went through before they came here."""

    said: str
    band: tuple[float | None, float | None]
    certain: bool


def tell_filter(prior: PriorFilter, options: ReaderOptions) -> tuple[str, ...]:
    """Say that series were filtered before, unless the user has said so.

    Examples
    --------
    >>> prior = PriorFilter("XCP-D band-passed these series", (0.01, 0.08), certain=True)
    >>> print(*tell_filter(prior, ReaderOptions(band=(0.01, 0.08))))
    XCP-D band-passed these series to 0.01 to 0.08 Hz, and they are filtered again here (0.01 to \
0.08 Hz), which damps the edges of the band twice. Say so, and they are not filtered twice: \
--filtered-before 0.01 0.08.
    >>> tell_filter(prior, ReaderOptions(band=(0.01, 0.08), filtered="before"))
    ()
    """
    was = f"{prior.said} to {_name(prior.band)}"
    say = f"--filtered-before {' '.join(map(_edge, prior.band))}"
    if options.filtered == "before":
        if options.band == prior.band or not prior.certain:
            return ()
        return (
            f"{was}, but --filtered-before says {_name(options.band)}. Models go by what you say; "
            f"if the files are right, say {say}.",
        )
    if options.band == (None, None):
        return (
            f"{was}, and no band-pass is applied here. Say so, and models know the band: {say}.",
        )
    so = "Say so" if prior.certain else "If that is so, say it"
    return (
        f"{was}, and they are filtered again here ({_name(options.band)}), which damps the edges "
        f"of the band twice. {so}, and they are not filtered twice: {say}.",
    )


def _name(band: Sequence[float | None]) -> str:
    """Name a band."""
    low, high = band
    if low is None or high is None:
        return f"below {high} Hz" if low is None else f"above {low} Hz"
    return f"{low} to {high} Hz"


def _edge(edge: float | None) -> str:
    """Write an edge as the command line takes it."""
    return "none" if edge is None else f"{edge:g}"


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
