"""DPABI and DPARSF: ``ROISignals_<subject>.mat`` or ``.txt``, columns by ``ROI_OrderKey_*.tsv``.

The columns have no names: the key says of each the value in a mask and the file of the mask.
Several masks are put side by side, of which those of the atlas are picked.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import list_files
from semantoks.data.labels import choose_groups, labels_of_values
from semantoks.data.readers.arrays import read_text_table
from semantoks.data.readers.matlab import read_matlab
from semantoks.data.recording import ReaderOptions, ScanFile, parse_entities
from semantoks.data.signal import PriorFilter, tell_filter
from semantoks.errors import InputError

__all__ = ["find", "matches"]

_SIGNALS: Final = re.compile(r"ROISignals_(?P<subject>.+)\.(?:mat|txt)")
_SESSION: Final = re.compile(r"S(?P<session>\d+)_(?:Results|ROISignals.*)")
_FILTER: Final = PriorFilter(
    "By the name of their folder (an F as in FunImgARCWF), DPABI filtered these series, unless it "
    "was told otherwise,",
    (0.01, 0.1),
    certain=False,
)
_HEADER: Final = ("Order", "Label in Mask", "ROI Definition")


class _Column(NamedTuple):
    """What a column holds: a value in a mask, or the whole mask if there is no value."""

    value: str
    mask: str


def matches(source: Path) -> bool:
    """Say whether a path holds ROI signals of DPABI."""
    return bool(_list_files(source))


def _list_files(source: Path) -> list[Path]:
    """Return the files of signals; of a .mat and a .txt of one subject, the .mat."""
    paths = [source] if source.is_file() else list_files(source, (".mat", ".txt"))
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_file() and _SIGNALS.fullmatch(path.name):
            found.setdefault(path.with_suffix(""), path)
    return list(found.values())


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """Find the scans of one preprocessing strategy."""
    files = _list_files(source)
    strategies = {path.parent.name for path in files}
    if len(strategies) > 1:
        raise InputError(
            f"{source} holds signals of {len(strategies)} strategies of DPABI: "
            f"{', '.join(sorted(strategies))}. Give the folder of the one to use."
        )
    sessions = {path: _session_of(path) for path in files}
    several = any(sessions.values())
    found = [_describe(path, (sessions[path] or "1") if several else "", atlas) for path in files]
    if not files or "F" not in files[0].parent.name.removeprefix("ROISignals_FunImg"):
        return found
    told = tell_filter(_FILTER, options or ReaderOptions())
    return [dataclasses.replace(scan, notices=told) for scan in found]


def _session_of(path: Path) -> str:
    """Return the session in the name of a folder such as S2_Results, "" for the first."""
    found = [match for part in path.parts if (match := _SESSION.fullmatch(part))]
    return found[-1]["session"] if found else ""


def _describe(path: Path, session: str, atlas: Atlas) -> ScanFile:
    """Say whose signals these are."""
    match = _SIGNALS.fullmatch(path.name)
    name = match["subject"] if match else path.stem
    entities = parse_entities(name)
    return ScanFile(
        scan=f"{name}_S{session}" if session else name,
        load=partial(_load, path, name, atlas),
        source=str(path),
        subject=entities.subject or name,
        session=entities.session or session,
        beside=tuple(place for place in _key_places(path, name) if place.is_file()),
    )


def _load(path: Path, name: str, atlas: Atlas) -> NDArray[np.float64]:
    """Read the columns of the ROIs of the atlas, shape (roi, time)."""
    signals = _read_signals(path)
    columns = _read_key(path, name)
    if len(columns) != signals.shape[0]:
        raise InputError(
            f"{path} has {signals.shape[0]} columns, but its key lists {len(columns)}. They are "
            "not of the same extraction; run it again."
        )
    masks: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        masks.setdefault(column.mask if column.value else "", []).append(number)
    labels = {
        mask or "masks of one ROI": _name_columns([columns[i] for i in numbers], atlas)
        for mask, numbers in masks.items()
    }
    numbers_of = dict(zip(labels, masks.values(), strict=True))
    series = np.full((len(atlas), signals.shape[1]), np.nan)
    for group in choose_groups(labels, atlas, where=str(path)):
        found = group.match.positions >= 0
        numbers = np.array(numbers_of[group.name])
        series[found] = signals[numbers[group.match.positions[found]]]
    return series


def _read_signals(path: Path) -> NDArray[np.float64]:
    """Read the signals, shape (column, volume)."""
    if path.suffix == ".txt":
        header, values = read_text_table(path)
        if header:
            raise InputError(
                f"{path} has a header, but DPABI writes numbers only. Run the extraction again, or "
                "give a .tsv file with labels as a folder of arrays (--format arrays)."
            )
        return values
    content = read_matlab(path, ("ROISignals",))
    values = np.asarray(content["ROISignals"])
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: ROISignals has shape {values.shape}; numbers (volume, ROI) were expected. "
            "Run the extraction again."
        )
    return np.asarray(values.T, dtype=np.float64)


def _key_places(path: Path, name: str) -> list[Path]:
    """Return where the key of a file may be."""
    return [path.parent / f"ROI_OrderKey_{name}{suffix}" for suffix in (".tsv", ".csv")]


def _read_key(path: Path, name: str) -> list[_Column]:
    """Read what every column holds."""
    places = _key_places(path, name)
    key = next((place for place in places if place.is_file()), None)
    if key is None:
        raise InputError(
            f"{path} has no key: {places[0].name} was expected beside it, which DPABI writes and "
            "which says what the columns are. Copy it there. (The shared signals of REST-meta-MDD "
            "come without: cut out the columns of one atlas by its documentation, and save them as "
            ".tsv with labels.)"
        )
    try:
        lines = key.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{key} cannot be read: {error}. Copy it again.") from error
    rows = [line.split("\t") for line in lines if line.strip()]
    header = tuple(rows[0]) if rows else ()
    width = len(header)
    if header not in (_HEADER, (_HEADER[0], _HEADER[2])) or any(len(x) != width for x in rows):
        raise InputError(
            f"{key} is no key of DPABI: the columns {', '.join(_HEADER)} with tabs between them "
            "were expected in every line. Copy it again."
        )
    if [row[0].strip() for row in rows[1:]] != [str(i) for i in range(1, len(rows))]:
        raise InputError(f"{key}: Order should count 1, 2, 3, ... in its lines. Copy it again.")
    return [_Column(row[1].strip() if width == 3 else "", row[-1].strip()) for row in rows[1:]]


def _name_columns(columns: Sequence[_Column], atlas: Atlas) -> list[str]:
    """Return the label of every column of one mask: by its value, or by the name of its file."""
    masks = [re.split(r"[\\/]", column.mask)[-1] for column in columns]
    if not columns[0].value:
        return [re.sub(r"(\.nii(\.gz)?|\.gii|\.mat)$", "", mask) for mask in masks]
    known = labels_of_values(masks[0], [column.value for column in columns], atlas)
    return [known.get(column.value, f"{masks[0]}:{column.value}") for column in columns]
