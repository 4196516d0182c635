"""Quality of a scan: motion, temporal signal-to-noise ratio, coverage, and the quality table."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import signal
from scipy.spatial.distance import pdist

from semantoks.data.atlas import Atlas
from semantoks.data.signal import Preprocessed, QualityError, cut_nan_tail, find_bad_rois
from semantoks.errors import InputError

BAND: Final = (0.01, 0.1)
"""The band in Hz that resting-state fluctuations are looked for in."""
_MIN_SNR: Final = 1.0
"""Below this share of mean to deviation a series was centred before, and has no tSNR."""
_SPIKE: Final = 5.0
"""A step from volume to volume is a spike from so many robust deviations above the median on."""
_NAN: Final = float("nan")


@dataclass(frozen=True)
class ScanQuality:
    """What can be said of one scan before anybody looks at it."""

    n_volumes: int = 0
    t_r: float = _NAN
    seconds: float = _NAN
    n_samples: int = 0
    n_flat: int = 0
    n_missing: int = 0
    coverage: float = _NAN
    bad_networks: str = "{}"
    tsnr: float = _NAN
    deviation: float = _NAN
    in_band: float = _NAN
    spikes: float = _NAN
    largest_step: float = _NAN
    global_share: float = _NAN
    distance_correlation: float = _NAN
    network_contrast: float = _NAN

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return dataclasses.asdict(self)


def measure(
    raw: Float[NDArray[np.floating[Any]], "roi time"] | None,
    ready: Preprocessed | None,
    *,
    t_r: float | None,
    atlas: Atlas,
) -> ScanQuality:
    """Measure the quality of one scan.

    Examples
    --------
    >>> atlas = Atlas.from_networks({"Vis": 3, "Default": 3})
    >>> series = 100 + np.random.default_rng(0).standard_normal((6, 200))
    >>> series[4] = 7
    >>> quality = measure(series, None, t_r=2.0, atlas=atlas)
    >>> quality.n_flat, quality.bad_networks, round(quality.tsnr, -1)
    (1, '{"Default": 1}', 100.0)
    """
    if raw is None:
        return ScanQuality(t_r=_NAN if t_r is None else t_r)
    with np.errstate(all="ignore"):
        return _measure(cut_nan_tail(raw).astype(np.float64), ready, t_r, atlas)


def _measure(
    raw: NDArray[np.float64], ready: Preprocessed | None, t_r: float | None, atlas: Atlas
) -> ScanQuality:
    """Measure a scan that could be read."""
    n_volumes = raw.shape[1]
    seconds = _NAN if t_r is None else n_volumes * t_r
    if n_volumes < 2:
        return ScanQuality(n_volumes=n_volumes, t_r=_NAN if t_r is None else t_r, seconds=seconds)
    found = find_bad_rois(raw)
    flat = found.flat if ready is None else ready.flat
    bad = flat | found.missing
    finite = raw[~bad & np.isfinite(raw).all(axis=1)]
    spikes, largest = _jumps(finite)
    tsnr, deviation = _strength(finite)
    synchrony = {} if ready is None else _synchrony(ready, atlas)
    return ScanQuality(
        n_volumes=n_volumes,
        t_r=_NAN if t_r is None else float(t_r),
        seconds=seconds,
        n_samples=0 if ready is None else ready.series.shape[1],
        n_flat=int(flat.sum()),
        n_missing=int(found.missing.sum()),
        coverage=1 - float(bad.mean()),
        bad_networks=_count_networks(bad, atlas),
        tsnr=tsnr,
        deviation=deviation,
        in_band=_share_in_band(finite, t_r),
        spikes=spikes,
        largest_step=largest,
        **synchrony,
    )


def read_bad_networks(text: str) -> Mapping[str, int]:
    """Read the column bad_networks of a quality table."""
    return {str(name): int(count) for name, count in json.loads(text or "{}").items()}


def _count_networks(bad: NDArray[np.bool_], atlas: Atlas) -> str:
    """Count bad ROIs a network, as JSON."""
    counts = {
        name: int(bad[rois].sum())
        for name, rois in zip(atlas.network_names, atlas.network_indices, strict=True)
    }
    return json.dumps({name: count for name, count in counts.items() if count})


def _strength(series: NDArray[np.float64]) -> tuple[float, float]:
    """Return tSNR and deviation, medians over ROIs."""
    if not len(series):
        return _NAN, _NAN
    deviations = series.std(axis=1)
    tsnr = float(np.median(np.abs(series.mean(axis=1)) / deviations))
    return (tsnr if tsnr >= _MIN_SNR else _NAN), float(np.median(deviations))


def _share_in_band(series: NDArray[np.float64], t_r: float | None) -> float:
    """Return the median share of variance inside the band."""
    if not len(series) or not t_r or series.shape[1] < 20:
        return _NAN
    frequencies, power = signal.periodogram(signal.detrend(series), fs=1 / t_r, detrend=False)
    inside = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    return float(np.median(power[:, inside].sum(axis=1) / power.sum(axis=1)))


def _jumps(series: NDArray[np.float64]) -> tuple[float, float]:
    """Return the share of volumes that jump, and the largest jump over the usual step."""
    if not len(series):
        return _NAN, _NAN
    standard = (series - series.mean(axis=1, keepdims=True)) / series.std(axis=1, keepdims=True)
    steps = np.sqrt(np.mean(np.diff(standard, axis=1) ** 2, axis=0))
    usual = float(np.median(steps))
    spread = 1.4826 * float(np.median(np.abs(steps - usual)))
    if not usual > 0:
        return _NAN, _NAN
    return float(np.mean(steps > usual + _SPIKE * spread)), float(steps.max() / usual)


def _synchrony(ready: Preprocessed, atlas: Atlas) -> dict[str, float]:
    """Look at the connectivity of the preprocessed scan: global signal, distance, networks."""
    kept = np.flatnonzero(ready.valid)
    if len(kept) < 4:
        return {}
    series = ready.series[kept].astype(np.float64)
    # Series of a store have variance 1, so that their products are correlations.
    correlation = series @ series.T / series.shape[1]
    upper = np.triu(np.ones(correlation.shape, dtype=bool), 1)
    z = np.arctanh(np.clip(correlation[upper], -0.999999, 0.999999))
    codes = np.empty(len(atlas), dtype=np.intp)
    for code, rois in enumerate(atlas.network_indices):
        codes[rois] = code
    same = (codes[kept][:, None] == codes[kept])[upper]
    contrast = float(z[same].mean() - z[~same].mean()) if same.any() and (~same).any() else _NAN
    return {
        "global_share": float(correlation.mean()),
        "network_contrast": contrast,
        "distance_correlation": _distance_correlation(z, atlas.coordinates[kept]),
    }


def _distance_correlation(z: NDArray[np.float64], coordinates: NDArray[np.float64]) -> float:
    """Correlate connectivity with the logarithm of distance; sorting for ranks takes ten times."""
    distance = pdist(coordinates)
    known = np.isfinite(distance) & (distance > 0)
    if known.sum() < 10:
        return _NAN
    if known.all():
        return _correlation(z, np.log(distance))
    return _correlation(z[known], np.log(distance[known]))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Pearson's r."""
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


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


def mask_sparse_networks(
    ready: Preprocessed, atlas: Atlas, min_network_coverage: float
) -> Preprocessed:
    """Take out of a scan, as a whole, the networks of which too few ROIs carry signal.

    Examples
    --------
    >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 4})
    >>> missing = np.array([False, False, True, True, True, False])
    >>> ready = Preprocessed(np.ones((6, 3), np.float32), 2.0, np.zeros(6, bool), missing)
    >>> mask_sparse_networks(ready, atlas, 0.5).valid.tolist()
    [True, True, False, False, False, False]
    """
    sparse = np.zeros(len(atlas), dtype=bool)
    for rois in atlas.network_indices:
        sparse[rois] = ready.valid[rois].mean() < min_network_coverage
    if not (sparse & ready.valid).any():
        return ready
    if not (ready.valid & ~sparse).any():
        raise QualityError(
            f"no network has {min_network_coverage:.0%} of its ROIs with signal.", "coverage"
        )
    series = np.where(sparse[:, None], np.float32(0), ready.series)
    return dataclasses.replace(ready, series=series, missing=ready.missing | (sparse & ~ready.flat))


def write_coverage(
    file: Path, rows: Iterable[Mapping[str, Any]], atlas: Atlas, min_network_coverage: float
) -> None:
    """Write which share of every network carries signal, a line a scan."""
    sizes = dict(zip(atlas.network_names, atlas.network_sizes, strict=True))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scan", "category", "masked", *sizes])
        for row in rows:
            shares: dict[str, float] = {}
            if row.get("n_volumes"):
                bad = read_bad_networks(str(row.get("bad_networks") or ""))
                shares = {name: 1 - bad.get(name, 0) / size for name, size in sizes.items()}
            masked = [
                name for name, share in shares.items() if share < (min_network_coverage or 1e-9)
            ]
            cells = [f"{shares[name]:.4g}" if shares else "" for name in sizes]
            writer.writerow([row["scan"], row.get("category") or "", ";".join(masked), *cells])
