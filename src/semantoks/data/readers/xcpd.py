"""Series that XCP-D extracted: ``*_timeseries.tsv``, a column a ROI, a row a volume.

All namings are known: ``_atlas-Schaefer417_`` (to 0.5), ``_atlas-4S456Parcels_`` (0.6),
``_seg-4S456Parcels_stat-mean_`` (0.7 to 0.14) and ``_atlas-4S456Parcels_stat-mean_`` (from 26.0).
Where the tables are missing, the same series as CIFTI (``*_timeseries.ptseries.nii``) are read.
Columns are matched to the ROIs by name, and the files of one recording are joined: of the 4S
atlas only the Schaefer parcels, of the Tian atlas beside it the subcortex.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import (
    BidsName,
    agree_on_t_r,
    keep_wanted,
    list_files,
    list_sidecars,
    parse_bids_name,
    read_json,
    read_t_r,
)
from semantoks.data.grayordinates import list_parcels, open_cifti, read_parcels, t_r_of_cifti
from semantoks.data.labels import (
    choose_groups,
    match_labels,
    refuse_unknown,
    seventeen_network_names,
)
from semantoks.data.readers.arrays import read_text_table
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.data.signal import PriorFilter, QualityError, fill_censored, tell_filter
from semantoks.data.tables import check_t_r
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


_SERIES: Final = re.compile(
    r"_(?:seg|atlas)-(?:[^_]+(?:_den-[^_]+)?_stat-mean|"
    r"(?:4S\d+Parcels|Schaefer(?:\d|10)17|Tian|Glasser|Gordon|HCP|MIDB|MyersLabonte|subcortical)"
    r"(?:_den-[^_]+)?)_timeseries\.(?:tsv|ptseries\.nii)$"
)
_PARCELS: Final = ".ptseries.nii"
_ENDINGS: Final = ("_timeseries.tsv", f"_timeseries{_PARCELS}")
_OLD_SCHAEFER: Final = "Schaefer417"
"""400 parcels in the order of the 17-network atlas."""
_TIAN: Final = "Tian"


def matches(source: Path) -> bool:
    """Say whether a folder or file holds series of XCP-D."""
    return any(_SERIES.search(path.name) for path in list_files(source, _ENDINGS))


def find(source: Path, atlas: Atlas, options: ReaderOptions) -> list[ScanFile]:
    """Find the recordings in a folder of derivatives."""
    folder = source.parent if source.is_file() else source
    paths = [p for p in list_files(folder, _ENDINGS) if _SERIES.search(p.name)]
    names = [parse_bids_name(path) for path in paths]
    if source.is_file():
        recording = parse_bids_name(source).recording
        names = [name for name in names if name.recording == recording]
    names = keep_wanted(names, options, source, ("task", "run", "space", "res"))
    recordings: dict[tuple[Path, str], list[BidsName]] = {}
    for name in names:
        recordings.setdefault((name.path.parent, name.recording), []).append(name)
    _leave_out_joined_runs(recordings)
    found: list[ScanFile] = []
    chosen: dict[tuple[str, ...], tuple[str, ...]] = {}
    for files in recordings.values():
        by_atlas = _by_atlas(files)
        there = tuple(sorted(by_atlas))
        try:
            if there not in chosen:
                headers = {key: _columns_of(by_atlas[key]) for key in there}
                where = f"recording {files[0].recording!r} in {files[0].path.parent}"
                groups = choose_groups(headers, atlas, where=where)
                chosen[there] = tuple(group.name for group in groups)
            found.append(_describe([by_atlas[key] for key in chosen[there]], atlas, options))
        except InputError as error:
            found.append(_refused(files[0], str(error)))
    return found


def _leave_out_joined_runs(recordings: dict[tuple[Path, str], list[BidsName]]) -> None:
    """Remove recordings that are the others put one behind the other."""
    parts = {
        (folder, re.sub(r"_(?:run|dir)-[^_]+", "", recording)): True
        for folder, recording in recordings
        if re.search(r"_(?:run|dir)-", recording)
    }
    for key in parts:
        recordings.pop(key, None)


def _by_atlas(files: Sequence[BidsName]) -> dict[str, BidsName]:
    """Return the file of each atlas, the table if there is one; refuse two of one kind."""
    found: dict[str, BidsName] = {}
    # XCP-D writes CIFTI series as tables as well; these come first.
    for name in sorted(files, key=lambda name: name.extension == _PARCELS):
        key = _atlas_of(name)
        if key in found and found[key].extension != name.extension:
            continue
        if key in found:
            raise InputError(
                f"recording {name.recording!r} is there twice: {found[key].path.name} and "
                f"{name.path.name} in {name.path.parent}. Choose a space or resolution (--space, "
                "--res), or move one of the files away."
            )
        found[key] = name
    return found


def _atlas_of(name: BidsName) -> str:
    """Return the atlas in the name of a file."""
    return name.get("seg") or name.get("atlas")


def _columns_of(name: BidsName) -> tuple[str, ...]:
    """Return the names of the columns of a file."""
    if name.extension == _PARCELS:
        return list_parcels(name.path)
    try:
        with name.path.open(encoding="utf-8-sig") as stream:
            header = stream.readline().rstrip("\r\n").split("\t")
    except (OSError, ValueError) as error:
        raise InputError(f"{name.path} cannot be read: {error}.") from error
    return _name_columns(tuple(cell.strip().strip('"') for cell in header), _atlas_of(name))


def _name_columns(header: tuple[str, ...], atlas_name: str) -> tuple[str, ...]:
    """Name the columns of the oldest files, which are numbered or have no names."""
    numbered = all(re.fullmatch(r"[-+.\deE]+|n/a|nan|", cell) for cell in header)
    if atlas_name == _OLD_SCHAEFER and len(header) == 400 and numbered:
        return tuple(seventeen_network_names().values())
    return header


def _describe(files: Sequence[BidsName], atlas: Atlas, options: ReaderOptions) -> ScanFile:
    """Join what the files beside a series say of it."""
    main = files[0]
    used = tuple(_atlas_of(name) for name in files)
    known = look_beside(main, options)
    t_r = _t_r_at_first_sight(main) if known.t_r is None else known.t_r
    return ScanFile(
        scan=main.recording,
        load=partial(_load, tuple(files), atlas, options),
        source=str(main.path),
        subject=main.subject,
        session=main.session,
        t_r=t_r,
        motion=known.motion,
        phenotypes={"share_scrubbed": known.share_censored, "xcpd_atlases": "+".join(used)},
        notices=(*_tell_left_out(used, atlas), *known.notices),
        beside=(*(name.path for name in files[1:]), *list_beside(main), *list_sidecars(main)),
    )


def _t_r_at_first_sight(name: BidsName) -> float | None:
    """Return what a CIFTI header says; NaN if that fails, which loading complains of."""
    try:
        return _t_r_of_header(name)
    except InputError:
        return math.nan


def _t_r_of_header(name: BidsName) -> float | None:
    """Return the repetition time in seconds that the file itself says; tables say none."""
    if name.extension != _PARCELS:
        return None
    return t_r_of_cifti(open_cifti(name.path), name.path)


def _refused(name: BidsName, reason: str) -> ScanFile:
    """Return a recording that cannot be used; the others may be."""
    return ScanFile(
        scan=name.recording,
        load=partial(_refuse, reason),
        source=str(name.path),
        subject=name.subject,
        session=name.session,
        t_r=float("nan"),
    )


def _refuse(reason: str) -> NDArray[np.float64]:
    """Say why a recording cannot be used."""
    raise InputError(reason)


def _tell_left_out(used: Sequence[str], atlas: Atlas) -> list[str]:
    """Say what of the 4S atlas was not taken although the atlas has such regions."""
    below = {"Subcortical", "Cerebellar"} & set(atlas.networks)
    if not below or not used[0].startswith("4S"):
        return []
    tian = _TIAN in used
    lacking = sorted(below - ({"Subcortical"} if tian else set()))
    if not lacking:
        return []
    return [
        f"The 56 regions of XCP-D's 4S atlas below the cortex are no ROIs of atlas {atlas.name!r} "
        f"and were not used ({'' if tian else 'there is no Tian file beside it; '}missing: "
        f"{', '.join(lacking)}). Networks without ROIs are masked; a smaller --min-coverage or an "
        "atlas without them lets such scans in."
    ]


def _load(files: Sequence[BidsName], atlas: Atlas, options: ReaderOptions) -> NDArray[np.float64]:
    """Read and join the files of a recording, shape (roi, time), at their true times."""
    joined: NDArray[np.float64] | None = None
    for name in files:
        values = _read(name, atlas)
        if joined is None:
            joined = values
        elif joined.shape[1] != values.shape[1]:
            raise InputError(
                f"{name.path} has {values.shape[1]} volumes, but {files[0].path.name} beside it "
                f"has {joined.shape[1]}. They are not of the same run of XCP-D; copy both again."
            )
        there = ~np.isnan(values).all(axis=1)
        joined[there] = values[there]
    if joined is None or np.isnan(joined).all():
        raise InputError(f"{files[0].path} holds no ROI of atlas {atlas.name!r} with values.")
    agree_on_t_r(find_t_r(files[0]), _t_r_of_header(files[0]), files[0].path)
    return put_back(joined, files[0], options)


def _read(name: BidsName, atlas: Atlas) -> NDArray[np.float64]:
    """Read one file, shape (roi, time); ROIs that it does not have are NaN."""
    if name.extension == _PARCELS:
        return read_parcels(name.path, atlas)
    header, values = read_text_table(name.path, empty_cells=True)
    if len(header) not in (0, len(values)):
        raise InputError(
            f"{name.path}: the header names {len(header)} columns, but there are "
            f"{len(values)}. Copy the file from the output of XCP-D again."
        )
    columns = _name_columns(header or ("",) * len(values), _atlas_of(name))
    match = match_labels(columns, atlas, where=str(name.path))
    if match.n_found == 0:
        refuse_unknown(match, columns, atlas, where=str(name.path))
    return match.place(values)
