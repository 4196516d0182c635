"""A folder of arrays and tables, a file a scan, and optionally a table of participants.

The name of a file is its scan; ``sub-`` and ``ses-`` in it give subject and session as in BIDS.
Columns of .csv, .tsv, .txt, .1D and .parquet files are matched to the ROIs by name, however it is
spelt; without names, and in .npy and .npz files, the axis that is as long as the atlas is the ROIs.
A ``.json`` of the same name may give RepetitionTime.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.labels import match_labels, refuse_unknown, tell
from semantoks.data.readers.text_table import TextTable, read_text_table
from semantoks.data.recording import ScanFile, parse_entities
from semantoks.data.scan_table import check_t_r
from semantoks.data.store_layout import is_store
from semantoks.errors import InputError

_BINARY: Final = {".npy", ".npz"}
_SUFFIXES: Final = {*_BINARY, ".csv", ".tsv", ".txt", ".1D", ".parquet"}
_PROSE: Final = {"readme", "license", "licence", "changes", "changelog", "citation", "authors"}
"""Text files that lie in many folders, by what they are called."""
_DAMAGED: Final = (
    *(OSError, ValueError, EOFError, BadZipFile, zlib.error),
    *(SyntaxError, TokenError),  # the header is Python, and is parsed as such
)
_PARTICIPANTS: Final = ("participants.tsv", "participants.csv")
_TABLE: Final = re.compile(
    r"(?:.*_)?(?:participants|scans|sessions|events|desc-confounds_(?:timeseries|regressors))"
    r"\.(?:csv|tsv|txt|parquet)"
)
"""Tables that describe scans and are none."""


def matches(source: Path) -> bool:
    """Say whether a path is a file of this format, or a folder that holds some."""
    return bool(_list_files(source))


def find(source: Path, atlas: Atlas) -> list[ScanFile]:
    """Find the scans in a folder and the folders below."""
    return [_describe(path, atlas) for path in _list_files(source)]


def find_table(source: Path) -> Path | None:
    """Find the table that describes the scans of a folder or their subjects."""
    return next((source / name for name in _PARTICIPANTS if (source / name).is_file()), None)


def _list_files(source: Path) -> list[Path]:
    """Return the files that may be scans."""
    found = sorted(
        path
        for path in ([source] if source.is_file() else source.rglob("*"))
        if path.suffix in _SUFFIXES
        and not _TABLE.fullmatch(path.name)
        and path.stem.lower() not in _PROSE
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    # The series of a store are those of all its scans, one below the other.
    stores = {folder for folder in {path.parent for path in found} if is_store(folder)}
    return [path for path in found if path.parent not in stores]


def _describe(path: Path, atlas: Atlas) -> ScanFile:
    """Read out of a name who was measured when."""
    entities = parse_entities(path.stem)
    try:
        t_r = _read_t_r(path.with_suffix(".json"))
    except InputError:
        # Complained of when the scan is loaded, so that others can be used.
        t_r = math.nan
    return ScanFile(
        scan=path.stem,
        load=partial(_load, path, atlas),
        source=str(path),
        subject=entities.subject,
        session=entities.session,
        t_r=t_r,
    )


def _read_t_r(sidecar: Path) -> float | None:
    """Return RepetitionTime of the JSON file beside a scan, in seconds."""
    if not sidecar.is_file():
        return None
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{sidecar} cannot be read as JSON: {error}. Correct it, or remove it and give the "
            "repetition time otherwise."
        ) from error
    value = content.get("RepetitionTime") if isinstance(content, dict) else None
    if value is None or isinstance(value, dict):
        # Beside a table, the file explains its columns.
        return None
    return check_t_r(value, f"RepetitionTime in {sidecar}")


def _load(path: Path, atlas: Atlas) -> NDArray[np.floating[Any]]:
    """Read one file, shape (roi, time)."""
    _read_t_r(path.with_suffix(".json"))
    if path.suffix in _BINARY:
        return _orient(_load_npy(path), path, atlas)
    parquet = path.suffix == ".parquet"
    table = _load_parquet(path) if parquet else read_text_table(path, empty_cells=True)
    if not table.header:
        return _orient(table.values, path, atlas)
    if all(name.isdecimal() or not name for name in table.header):
        return _match_numbers(table.header, table.values, path, atlas)
    return _match_labels(table.header, table.values, path, atlas)


def _load_npy(path: Path) -> NDArray[np.floating[Any]]:
    """Read a .npy file of numbers, or a .npz file that holds one array."""
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            with values as archive:
                values = _only_array(archive, path)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(
            f"{path} cannot be read as a {path.suffix} file of numbers: {error}. It may be cut "
            "off; save this scan again with numpy.save."
        ) from error
    if values.dtype.kind not in "iuf":
        raise InputError(
            f"{path} holds values of type {values.dtype}; real numbers were expected. "
            "Save this scan again as float32."
        )
    floating: NDArray[np.floating[Any]] = values if values.dtype.kind == "f" else values * 1.0
    return floating


def _only_array(archive: NpzFile, path: Path) -> NDArray[Any]:
    """Take the array of an archive that holds one."""
    if len(archive.files) != 1:
        raise InputError(
            f"{path} is an archive of {len(archive.files)} arrays ({tell(archive.files)}), but a "
            "single array was expected. Save this scan again with numpy.save."
        )
    array: NDArray[Any] | bytes = archive[archive.files[0]]
    if isinstance(array, bytes):
        raise InputError(
            f"{path} holds {archive.files[0]}, which is no array, but a single array was expected. "
            "Save this scan again with numpy.save."
        )
    return array


def _load_parquet(path: Path) -> TextTable:
    """Read a .parquet file, a column a ROI."""
    from pyarrow import ArrowException

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as a .parquet file: {' '.join(str(error).split())}. It may be "
            "cut off; save this scan again."
        ) from error
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    if table.empty or not all(numeric):
        found = f"column {table.columns[numeric.index(False)]}" if not table.empty else "no rows"
        raise InputError(
            f"{path} was expected to hold a column of numbers a ROI and a row a volume, but has "
            f"{found}; if the file is no scan, move it out of the folder."
        )
    return TextTable(tuple(map(str, table.columns)), table.to_numpy(np.float64).T)


def _orient(
    values: NDArray[np.floating[Any]], path: Path, atlas: Atlas
) -> NDArray[np.floating[Any]]:
    """Put the axis that is as long as the atlas first; refuse if both are or none is."""
    n = len(atlas)
    shape = values.shape if path.suffix in _BINARY else values.shape[::-1]
    if values.ndim != 2 or n not in values.shape:
        raise InputError(
            f"{path} has shape {shape}, but atlas {atlas.name!r} has {n} ROIs: (roi, time) or "
            f"(time, roi) with one axis of {n} was expected. Give the atlas that the series were "
            "extracted with; if the file is no scan, move it out of the folder."
        )
    if values.shape == (n, n):
        raise InputError(
            f"{path} has shape {shape}, and atlas {atlas.name!r} has {n} ROIs: either axis may be "
            "time. Save this scan as .tsv or .csv with the labels of the ROIs as header. (If it is "
            "a connectivity matrix, it cannot be used.)"
        )
    return values if values.shape[0] == n else values.T


def _match_numbers(
    header: tuple[str, ...], values: NDArray[np.float64], path: Path, atlas: Atlas
) -> NDArray[np.float64]:
    """Take columns that are numbered, by atlas value or by position."""
    n = len(atlas)
    orders = [[str(v) for v in atlas.values], [str(i) for i in range(n)]]
    orders.append([str(i + 1) for i in range(n)])
    if list(header) in orders:
        return values
    hint = "save with index=False" if header[0] == "" else "name the columns by the atlas' labels"
    raise InputError(
        f"{path} has {len(header)} numbered columns ({tell(header)}), but {n} were expected, "
        f"numbered in the order of atlas {atlas.name!r} ({n} ROIs); {hint}."
    )


def _match_labels(
    header: tuple[str, ...], values: NDArray[np.float64], path: Path, atlas: Atlas
) -> NDArray[np.float64]:
    """Put named columns into the order of the atlas; ROIs without a column become NaN."""
    match = match_labels(header, atlas, where=str(path))
    refuse_unknown(match, header, atlas, where=str(path))
    return match.place(values)
