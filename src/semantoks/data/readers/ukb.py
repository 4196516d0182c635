"""UK Biobank: the series that Mansour et al. (2023) returned, a row a ROI and a column a volume.

Bulk field 31018 holds the cortex and 31019 the subcortex, a zip file a person and visit::

    1234567_31018_2_0.zip    fMRI.Schaefer7n400p.csv.gz, ...
    1234567_31019_2_0.zip    fMRI.Tian_Subcortex_S3_3T.csv.gz, ...

or the same unpacked, in folders named like the zip files or after person and visit.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import walk
from semantoks.data.labels import match_labels, refuse_unknown, seventeen_network_names
from semantoks.data.recording import ScanFile
from semantoks.errors import InputError

__all__ = ["find", "matches"]

T_R: Final = 0.735
"""Repetition time in s of resting-state fMRI in UK Biobank (its brain imaging documentation)."""

_FILES: Final = {
    "31018": ("fMRI.Schaefer7n400p.csv", "fMRI.Schaefer17n400p.csv"),
    "31019": ("fMRI.Tian_Subcortex_S3_3T.csv",),
}
"""The files of each field that are read, the first that is there, with .gz or unpacked; the two
of the cortex hold the same parcels in two orders."""
_CORTEX: Final = "31018"
_SERIES: Final = re.compile(r"fMRI\.(?:Schaefer(?:7|17)n\d+p|Tian_Subcortex_S\d_3T)\.csv(?:\.gz)?")
_BULK: Final = re.compile(r"(?P<eid>\d{5,8})_(?P<field>31018|31019)_(?P<instance>\d)_(?P<array>\d)")
_VISIT: Final = re.compile(r"(?P<eid>\d{5,8})(?:_(?P<instance>\d)(?:_(?P<array>\d))?)?")
_INSTANCE: Final = re.compile(r"(?:i|ses-|instance_?)(?P<instance>\d)")


class _Visit(NamedTuple):
    """A person at a visit; empty where no name says it."""

    eid: str
    instance: str
    array: str


class _Rows(NamedTuple):
    """The content of a file: a label a row, and where it stands, for messages."""

    labels: tuple[str, ...]
    values: NDArray[np.float64]
    where: str


def matches(source: Path) -> bool:
    """Say whether a path holds returned series of UK Biobank."""
    return bool(_list_files(source))


def _list_files(source: Path) -> list[Path]:
    """Return zip files of the fields, and unpacked files."""
    paths = [source] if source.is_file() else sorted(walk(source))
    return [
        path
        for path in paths
        if (path.suffix == ".zip" and _BULK.fullmatch(path.stem)) or _SERIES.fullmatch(path.name)
    ]


def find(source: Path, atlas: Atlas) -> list[ScanFile]:
    """Find the visits of which there are series."""
    if not set(seventeen_network_names()) <= set(atlas.labels):
        raise InputError(
            f"{source} holds series of UK Biobank (fields 31018, 31019), which are read for "
            f"atlases with the 400 parcels of Schaefer, such as schaefer400-tian3; atlas "
            f"{atlas.name!r} is another. For other parcellations of these fields, save the series "
            "as .tsv files with their labels as header."
        )
    visits: dict[_Visit, dict[str, list[Path]]] = {}
    for path in _list_files(source):
        field = _field_of(path)
        if field is not None:
            visits.setdefault(_visit_of(path), {}).setdefault(field, []).append(path)
    for visit, parts in visits.items():
        _check_once(visit, parts)
    return [_describe(visit, parts, atlas) for visit, parts in visits.items()]


def _check_once(visit: _Visit, parts: Mapping[str, list[Path]]) -> None:
    """Refuse two files of one visit and kind: a folder above may look like a person and be none."""
    for paths in parts.values():
        kinds: dict[str, Path] = {}
        for path in paths:
            kind = ".zip" if path.suffix == ".zip" else path.name.removesuffix(".gz")
            first = kinds.setdefault(kind, path)
            # Packed and unpacked side by side are the same.
            if first is not path and first.parent != path.parent:
                raise InputError(
                    f"{first} and {path} would both be of person {visit.eid} by the names of their "
                    "folders. Give each visit a folder named like its zip file "
                    "(1234567_31018_2_0) or 1234567_2_0, or remove one of them."
                )


def _field_of(path: Path) -> str | None:
    """Return the field that a file is of, None if it is of a parcellation that is not read."""
    bulk = _BULK.fullmatch(path.stem)
    if bulk:
        return bulk["field"]
    plain = path.name.removesuffix(".gz")
    return next((field for field, names in _FILES.items() if plain in names), None)


def _visit_of(path: Path) -> _Visit:
    """Read out of the names of file and folders whose series these are."""
    instance = ""
    for part in reversed(path.parts):
        stem = part.removesuffix(".zip")
        named = _BULK.fullmatch(stem) or _VISIT.fullmatch(stem)
        if named:
            return _Visit(named["eid"], named["instance"] or instance, named["array"] or "")
        alone = _INSTANCE.fullmatch(stem)
        if alone:
            instance = instance or alone["instance"]
    raise InputError(
        f"{path} does not say whose series it holds: a zip file such as 1234567_31018_2_0.zip, or "
        "a folder named like it or 1234567_2_0 above the file, was expected. Rename the folder."
    )


def _describe(visit: _Visit, parts: Mapping[str, list[Path]], atlas: Atlas) -> ScanFile:
    """Say whose series these are."""
    name = "_".join(part for part in visit if part)
    notices = []
    if "Cerebellar" in atlas.networks:
        notices.append(
            "The returned series of UK Biobank have no cerebellum; its network is masked."
        )
    if "Subcortical" in atlas.networks and len(parts) == 1:
        notices.append("There is no field 31019 (subcortex) for this visit; it is masked.")
    return ScanFile(
        scan=name,
        load=partial(_load, name, parts, atlas),
        source=str(next(iter(parts.values()))[0]),
        subject=visit.eid,
        session=visit.instance,
        t_r=T_R,
        notices=tuple(notices),
        beside=tuple(path for paths in parts.values() for path in paths),
    )


def _load(name: str, parts: Mapping[str, list[Path]], atlas: Atlas) -> NDArray[np.float64]:
    """Read and join the series of a visit, shape (roi, time)."""
    if _CORTEX not in parts:
        raise InputError(
            f"visit {name} has no series of the cortex (field {_CORTEX}): "
            f"{', '.join(str(path) for paths in parts.values() for path in paths)} is all that "
            "there is. Download that field for this visit, or remove the visit."
        )
    series: NDArray[np.float64] | None = None
    first = ""
    for field in sorted(parts):
        rows = _read_field(field, parts[field])
        match = match_labels(rows.labels, atlas, where=rows.where)
        if field == _CORTEX:
            refuse_unknown(match, rows.labels, atlas, where=rows.where)
        if series is None:
            series, first = match.place(rows.values), rows.where
            continue
        if rows.values.shape[1] != series.shape[1]:
            raise InputError(
                f"{rows.where} has {rows.values.shape[1]} volumes, but {first} of the same visit "
                f"has {series.shape[1]}. Download both again."
            )
        found = match.positions >= 0
        series[found] = rows.values[match.positions[found]]
    return np.empty((len(atlas), 0)) if series is None else series


def _read_field(field: str, paths: list[Path]) -> _Rows:
    """Read the file of a field that comes first, out of a zip file or by itself."""
    for name in _FILES[field]:
        for path in paths:
            if path.suffix != ".zip":
                if path.name.removesuffix(".gz") == name:
                    return _parse(_read_bytes(path), str(path))
                continue
            content = _read_member(path, name)
            if content is not None:
                return _parse(content, f"{name} in {path}")
    raise InputError(
        f"{paths[0]} holds none of {', '.join(_FILES[field])}, packed or not, which field {field} "
        "should have. Download it again."
    )


def _read_member(path: Path, name: str) -> bytes | None:
    """Return the content of a file in a zip file, None if it is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.rpartition("/")[2].removesuffix(".gz") == name:
                    return _unpack(archive.read(member))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(
            f"{path} cannot be read as a zip file: {error}. It may be cut off; download it again."
        ) from error
    return None


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file that was unpacked."""
    try:
        return _unpack(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read: {error}. It may be cut off; download it again."
        ) from error


def _unpack(content: bytes) -> bytes:
    """Return the text of a file, compressed or not."""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _parse(content: bytes, where: str) -> _Rows:
    """Read rows of a label and numbers; an empty cell is a value that is missing."""
    try:
        lines = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} is no table: {error}. Download it again.") from error
    if len(lines) < 2 or lines[0][0] != "label_name" or len(lines[0]) < 2:
        came = ", ".join(lines[0][:3]) if lines else "nothing"
        raise InputError(
            f"{where}: a header 'label_name,timepoint_0,...' and a row a ROI were expected, but "
            f"came {came!r}. Download it again."
        )
    labels, values = [], np.empty((len(lines) - 1, len(lines[0]) - 1))
    for number, row in enumerate(lines[1:]):
        if len(row) != len(lines[0]):
            raise InputError(
                f"{where}, line {number + 2}: {len(lines[0])} cells were expected as in the "
                f"header, but there are {len(row)}. It may be cut off; download it again."
            )
        labels.append(row[0])
        try:
            values[number] = [float(cell) if cell else np.nan for cell in row[1:]]
        except ValueError as error:
            raise InputError(
                f"{where}, line {number + 2} ({row[0]}): numbers were expected, but {error}. "
                "Download it again."
            ) from error
    return _Rows(tuple(labels), values, where)
