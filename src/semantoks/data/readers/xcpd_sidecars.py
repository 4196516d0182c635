"""What XCP-D writes beside its series: outliers, motion, repetition time, and how it filtered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.bids import BidsName, parse_bids_name, read_json, read_t_r
from semantoks.data.preprocessing import QualityError
from semantoks.data.prior_filtering import PriorFilter, tell_filter
from semantoks.data.reader_options import ReaderOptions
from semantoks.data.readers.text_table import read_text_table
from semantoks.data.retiming import fill_censored
from semantoks.data.scan_table import check_t_r
from semantoks.errors import InputError

_CENSORED: Final = "framewise_displacement"


class Beside(NamedTuple):
    """What is known of a recording before its series are read."""

    t_r: float | None
    motion: float
    share_censored: float
    notices: tuple[str, ...]


def look_beside(name: BidsName, options: ReaderOptions) -> Beside:
    """Read what lies beside a series; what cannot be read is complained of when it is loaded."""
    notices: list[str] = []
    t_r: float | None = float("nan")
    motion = share = float("nan")
    try:
        t_r = find_t_r(name)
        notices += _tell_band(_read_sidecars_of_images(name), options)
        motion = _read_motion(name)
        censoring = _read_censoring(name)
    except InputError:
        return Beside(t_r, motion, share, ())
    if censoring is None:
        notices.append(
            "There is no _outliers.tsv beside the series of XCP-D, so nothing tells whether "
            "volumes were cut out; they were taken as contiguous."
        )
    else:
        share = 1.0 - float(censoring.kept.mean())
    return Beside(t_r, motion, share, tuple(notices))


def find_t_r(name: BidsName) -> float | None:
    """Return the repetition time; the sampling frequency "TR" alone does not say it."""
    t_r = read_t_r(name)
    value = None if t_r is not None else _read_sidecars_of_images(name).get("RepetitionTime")
    if value is None:
        return t_r
    return check_t_r(value, f"RepetitionTime in the JSON files beside {name.path}")


def list_beside(name: BidsName) -> tuple[Path, ...]:
    """List the files beside a series that say when and how it was measured."""
    kinds = ("outliers.tsv", "motion.tsv", "bold.json")
    return tuple(other.path for kind in kinds for other in _siblings(name, kind))


def put_back(
    series: Float[NDArray[np.float64], "roi time"], name: BidsName, options: ReaderOptions
) -> NDArray[np.float64]:
    """Put volumes that XCP-D cut out back, if it did."""
    _read_motion(name)  # not used here, but what cannot be read is complained of here
    censoring = _read_censoring(name)
    if censoring is None:
        return series
    n_all, n_kept = len(censoring.kept), int(censoring.kept.sum())
    if series.shape[1] not in (n_all, n_kept):
        raise InputError(
            f"{name.path} has {series.shape[1]} volumes, but {censoring.path.name} has {n_all} "
            f"rows, of which {n_kept} are no outliers; one of these numbers was expected. They are "
            "not of the same run of XCP-D; copy both again."
        )
    if n_kept < (1.0 - options.max_scrubbed) * n_all:
        raise QualityError(
            f"{n_all - n_kept} of {n_all} volumes are outliers by {censoring.path.name}, but at "
            f"most {options.max_scrubbed:.0%} may be.",
            "short",
        )
    return series if series.shape[1] == n_all else fill_censored(series, censoring.kept)


class _Censoring(NamedTuple):
    """Which volumes XCP-D called outliers, and the file that says so."""

    kept: NDArray[np.bool_]
    path: Path


def _tell_band(images: dict[str, Any], options: ReaderOptions) -> tuple[str, ...]:
    """Say in which band XCP-D filtered the series, unless the user knows."""
    filters = images.get("SoftwareFilters")
    if not isinstance(filters, dict):
        said = "XCP-D band-passes series, unless it was told otherwise,"
        return tell_filter(PriorFilter(said, (0.01, 0.08), certain=False), options)
    whole, high, low = (
        filters.get(f"{kind} filter") for kind in ("Bandpass", "High-pass", "Low-pass")
    )
    edges = (
        _edge(whole, "High-pass cutoff (Hz)") or _edge(high, "cutoff (Hz)"),
        _edge(whole, "Low-pass cutoff (Hz)") or _edge(low, "cutoff (Hz)"),
    )
    if edges == (None, None):
        return ()
    said = "XCP-D band-passed these series"
    return tell_filter(PriorFilter(said, edges, certain=True), options)


def _edge(filter_: object, key: str) -> float | None:
    """Return the edge of a filter in Hz; None if it is not there, or no number."""
    value = filter_.get(key) if isinstance(filter_, dict) else None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _siblings(name: BidsName, suffix: str) -> list[BidsName]:
    """Return the files of a recording with another suffix, those without a desc first."""
    folder = name.path.parent
    # Entities that do not tell recordings apart may stand among those that do (hash-).
    pattern = f"{name.subject}_*{suffix}" if name.subject else f"*{suffix}"
    found = [parse_bids_name(path) for path in folder.glob(pattern)]
    same = [other for other in found if other.recording == name.recording]
    return sorted(same, key=lambda other: (bool(other.get("desc")), other.path.name))


def _read_censoring(name: BidsName) -> _Censoring | None:
    """Read which volumes were outliers; None if no file says it."""
    found = _siblings(name, "outliers.tsv")
    if not found:
        return None
    path = found[0].path
    column = _read_column(path)
    if column is None or not np.isin(column, (0.0, 1.0)).all():
        raise InputError(
            f"{path} is no table of outliers: a column {_CENSORED!r} of zeros and ones was "
            "expected. Copy it from the output of XCP-D again."
        )
    return _Censoring(column == 0.0, path)


def _read_motion(name: BidsName) -> float:
    """Return the mean framewise displacement in mm, NaN if no file says it."""
    found = _siblings(name, "motion.tsv")
    column = _read_column(found[0].path) if found else None
    if column is None or not np.isfinite(column).any():
        return float("nan")
    return float(np.nanmean(column))


def _read_column(path: Path) -> NDArray[np.float64] | None:
    """Return the framewise displacement of a table, None if it has no such column."""
    table = read_text_table(path, empty_cells=True)
    header = [cell.strip('"') for cell in table.header]
    return table.values[header.index(_CENSORED)] if _CENSORED in header else None


def _read_sidecars_of_images(name: BidsName) -> dict[str, Any]:
    """Read what XCP-D wrote beside the denoised images of a recording."""
    content: dict[str, Any] = {}
    for other in _siblings(name, "bold.json"):
        if other.get("desc") in {"denoised", "residual"}:
            content |= read_json(other.path)
    own = name.path.with_suffix(".json")
    return content | read_json(own) if own.is_file() else content
