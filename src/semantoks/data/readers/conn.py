"""CONN: denoised ROI series in ``ROI_Subject001_Condition000.mat``, by the names of the ROIs.

Condition 000 is the whole denoised recording; the sessions in it stay separate scans. The first
ROIs are grey matter, white matter and CSF, and among the others may be whole further atlases and
task regressors: what is no ROI of the atlas is left out, and said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import list_files
from semantoks.data.labels import choose_groups, tell
from semantoks.data.readers.matlab import read_matlab
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.data.signal import PriorFilter, tell_filter
from semantoks.errors import InputError

__all__ = ["find", "matches"]

_DENOISED: Final = re.compile(r"ROI_Subject(?P<subject>\d+)_Condition(?P<condition>\d+)\.mat")
_RAW: Final = re.compile(r"ROI_Subject(?P<subject>\d+)_Session(?P<session>\d+)\.mat")
_WHOLE: Final = "000"
_TISSUES: Final = {"grey matter", "gray matter", "white matter", "csf"}
_PLACE: Final = re.compile(r"\s*\([^()]*\)\s*$")
"""What CONN writes behind a name: a description or coordinates."""
_FILTER: Final = PriorFilter(
    "CONN denoised and, unless it was told otherwise, band-passed these series",
    (0.008, 0.09),
    certain=False,
)
_LEFT_OUT: Final = (
    "ROIs of CONN that are none of the atlas, such as grey matter, white matter and CSF, were left "
    "out."
)


class _File(NamedTuple):
    """A file, and the names of all its ROIs."""

    names: tuple[str, ...]
    data: tuple[NDArray[np.float64], ...]
    sessions: NDArray[np.intp]


def matches(source: Path) -> bool:
    """Say whether a path holds ROI series of CONN."""
    return bool(_list_files(source, _DENOISED) or _list_files(source, _RAW))


def _list_files(source: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files of one kind."""
    paths = [source] if source.is_file() else list_files(source, (".mat",))
    return [path for path in paths if pattern.fullmatch(path.name)]


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """Find the denoised recordings of a project."""
    files = _list_files(source, _DENOISED)
    if not files:
        raise InputError(
            f"{source} holds raw series of CONN only (ROI_Subject*_Session*.mat): neither denoised "
            "nor filtered. Give the folder results/preprocessing of the project with "
            "ROI_Subject*_Condition000.mat, which denoising writes."
        )
    whole = [path for path in files if f"_Condition{_WHOLE}" in path.name]
    conditions = {path.stem.rpartition("_Condition")[2] for path in files}
    if not whole and len(conditions) > 1:
        raise InputError(
            f"{source} holds the conditions {', '.join(sorted(conditions))} of CONN, but not "
            "Condition000, which is the whole recording. Conditions are the same series with other "
            "weights; copy ROI_Subject*_Condition000.mat there, or keep the files of one condition."
        )
    folders = sorted({path.parent for path in whole or files})
    if len(folders) > 1:
        raise InputError(
            f"{source} holds several projects of CONN: {', '.join(map(str, folders))}. Give the "
            "folder of one; subjects have the same numbers in each."
        )
    notices = (*tell_filter(_FILTER, options or ReaderOptions()), _LEFT_OUT)
    return [scan for path in whole or files for scan in _describe(path, atlas, notices)]


def _describe(path: Path, atlas: Atlas, notices: tuple[str, ...]) -> list[ScanFile]:
    """Return a scan a session of a file."""
    match = _DENOISED.fullmatch(path.name)
    subject = match["subject"] if match else ""
    try:
        sessions = _read_sessions(read_matlab(path, (), optional=("data_sessions",)), path)
    except InputError:
        # Said when the series are read, so that the other scans are kept.
        sessions = np.empty(0, dtype=np.intp)
    numbers = [int(number) for number in np.unique(sessions)]
    several = len(numbers) > 1
    return [
        ScanFile(
            scan=f"Subject{subject}" + (f"_Session{number:03d}" if several else ""),
            load=partial(_load, path, atlas, number if several else None),
            source=str(path),
            subject=f"Subject{subject}",
            session=f"{number:03d}" if several else "",
            notices=notices,
        )
        for number in (numbers or [1])
    ]


def _read_sessions(content: Mapping[str, Any], path: Path) -> NDArray[np.intp]:
    """Return the session of every volume; empty if the file does not say it."""
    value = content.get("data_sessions")
    if value is None:
        return np.empty(0, dtype=np.intp)
    try:
        sessions = np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: data_sessions should hold the number of the session of every volume, but "
            f"does not ({error}). Run denoising again."
        ) from error
    return sessions.astype(np.intp)


def _load(path: Path, atlas: Atlas, session: int | None) -> NDArray[np.float64]:
    """Read the series of the ROIs of the atlas, shape (roi, time)."""
    file = _read(path)
    # Several atlases in a project tell their ROIs apart by what stands before the point.
    groups: dict[str, list[str]] = {}
    for name in file.names:
        if name.strip().lower() not in _TISSUES:
            groups.setdefault(_prefix_of(name), []).append(name)
    by_value = {
        f"cluster{value:03d}": label
        for value, label in zip(atlas.values, atlas.labels, strict=False)
    }
    # An atlas without a list of names: CONN calls the ROI of value 7 cluster007.
    labels = {
        prefix: [by_value.get(_label_of(name), _label_of(name)) for name in names]
        for prefix, names in groups.items()
    }
    titled = {f"the ROIs {key!r}" if key else "the ROIs": names for key, names in labels.items()}
    chosen = choose_groups(titled, atlas, where=str(path))
    column = {name: i for i, name in enumerate(file.names)}
    by_title = dict(zip(titled, groups.values(), strict=True))
    series: NDArray[np.float64] | None = None
    for group in chosen:
        for roi, position in enumerate(group.match.positions):
            if position < 0:
                continue
            values = _single(file, column[by_title[group.name][position]], path)
            if series is None:
                series = np.full((len(atlas), values.size), np.nan)
            if values.size != series.shape[1]:
                raise InputError(
                    f"{path}: ROI {atlas.labels[roi]!r} has {values.size} volumes, but others have "
                    f"{series.shape[1]}. Run denoising again."
                )
            series[roi] = values
    if series is None:
        raise InputError(f"{path} holds no ROI of atlas {atlas.name!r}.")
    if session is None:
        return series
    if file.sessions.size != series.shape[1]:
        raise InputError(
            f"{path}: data_sessions has {file.sessions.size} entries, but there are "
            f"{series.shape[1]} volumes. Run denoising again."
        )
    return series[:, file.sessions == session]


def _read(path: Path) -> _File:
    """Read a file, and check that every ROI has a name."""
    content = read_matlab(path, ("data", "names"), optional=("data_sessions",))
    names, data = content["names"], content["data"]
    names = [names] if isinstance(names, str) else list(names)
    data = [data] if isinstance(data, np.ndarray) and len(names) == 1 else list(data)
    if len(names) != len(data) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{path}: names and data should be cells of the same length, a name a ROI, but there "
            f"are {len(names)} names and {len(data)} series. Run denoising again."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"{path} has more than one ROI named {tell(repeated)}. Rename them in CONN (Setup, "
            "ROIs) and run denoising again."
        )
    return _File(tuple(names), tuple(map(np.asarray, data)), _read_sessions(content, path))


def _single(file: _File, column: int, path: Path) -> NDArray[np.float64]:
    """Return the mean series of a ROI."""
    values = file.data[column]
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: ROI {file.names[column]!r} has a series of shape {values.shape}; one mean "
            "value a volume was expected. In CONN (Setup, ROIs), extract the average and not "
            "several components."
        )
    return values.astype(np.float64)


def _prefix_of(name: str) -> str:
    """Return what stands before the point, "" if nothing does."""
    prefix, point, _ = _PLACE.sub("", name).partition(".")
    return prefix if point else ""


def _label_of(name: str) -> str:
    """Return the name of a ROI without its atlas and what describes it."""
    bare = _PLACE.sub("", name)
    return bare.partition(".")[2] or bare
