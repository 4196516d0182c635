"""A folder of arrays and tables, a file a scan, and optionally a table of participants.

The name of a file is its scan; ``sub-`` and ``ses-`` in it give subject and session as in BIDS.
Columns of .csv, .tsv, .txt, .1D and .parquet files are matched to the ROIs by name, however it is
spelt; without names, and in .npy, .npz and .h5 files, the axis as long as the atlas is the ROIs.
Files of one name in several folders are of the subjects that the folders are named after.
A ``.json`` of the same name may give RepetitionTime.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import walk
from semantoks.data.labels import match_labels, refuse_unknown, tell
from semantoks.data.recording import ScanFile, parse_entities
from semantoks.data.store import is_store
from semantoks.data.tables import check_t_r
from semantoks.errors import InputError

MISSING: Final = ("n/a", "N/A", "NA", "nan", "NaN", "NAN", "-nan", "-NaN")
"""What producers write for a value that is not there."""

_MAX_COMMENTS: Final = 50
_NAMES: Final = {"\t": "tab", ",": "comma"}


class TextTable(NamedTuple):
    """The content of a text file of numbers."""

    header: tuple[str, ...]
    values: Float[NDArray[np.float64], "column row"]


class _Layout(NamedTuple):
    """How a text file is written: its lines before the data, and what stands between columns."""

    header: tuple[str, ...]
    n_skipped: int
    delimiter: str
    n_columns: int


def read_text_table(path: Path, *, empty_cells: bool = False) -> TextTable:
    """Read a text file of numbers with tabs, commas or blanks between its columns.

    The header is the last of the leading lines that start with ``#``, or a first line in which
    something is not a number, or a first line that numbers the columns (0, 1, 2, ...).
    """
    return parse_text_table(path, _read_bytes(path), empty_cells=empty_cells)


def parse_text_table(path: Path, content: bytes, *, empty_cells: bool = False) -> TextTable:
    """Parse the content of a text file of numbers."""
    layout, content = _lay_out(path, content, empty_cells)
    values = _parse(content, layout, empty_cells)
    if values is None:
        raise InputError(_diagnose(path, content, layout, empty_cells))
    if values.shape[1] == 0:
        raise InputError(_explain_no_data(path))
    if layout.header and len(layout.header) != layout.n_columns:
        raise InputError(
            f"{path}: the header names {len(layout.header)} ROIs, but there are "
            f"{layout.n_columns} columns, so that names would not belong to their columns. "
            "Download or export this scan again; if one column has no name (a number of the "
            "volume, say), name it or take it out."
        )
    return TextTable(layout.header, values)


def _read_bytes(path: Path) -> bytes:
    """Read the file with newlines only, without byte order mark or blanks at line ends."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise InputError(
            f"{path} is empty: a line a volume was expected. Download or export this scan again."
        )
    if b"\x00" in content:
        raise InputError(
            f"{path} is not a text file (it holds zero bytes), but numbers as UTF-8 text were "
            "expected. Export this scan again as plain text."
        )
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _lay_out(path: Path, content: bytes, empty_cells: bool) -> tuple[_Layout, bytes]:
    """Find header and delimiter, and bring the content into that layout."""
    delimiter = _find_delimiter(path, content)
    if delimiter == " ":
        delimiter = "\t"
        content = re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", content))
    elif delimiter == "\t" and not empty_cells:
        # AFNI ends its lines with a tab.
        content = re.sub(rb"\t+\n", b"\n", content) if b"\t\n" in content else content
    lines = content.split(b"\n", _MAX_COMMENTS)[:_MAX_COMMENTS]
    n_comments = next((i for i, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    names = [line.decode("utf-8", "replace") for line in lines[:n_comments] if line.strip(b"# \t")]
    first = _cells(lines[n_comments], delimiter) if n_comments < len(lines) else []
    if names:
        header = tuple(name.strip('# "') for name in names[-1].lstrip("# \t").split(delimiter))
        return _Layout(header, n_comments, delimiter, len(first) or len(header)), content
    header = tuple(first) if _is_header(first) else ()
    return _Layout(header, n_comments + bool(header), delimiter, len(first)), content


def _find_delimiter(path: Path, content: bytes) -> str:
    """Look at the first line of data for what stands between its columns."""
    lines = [line for line in content.split(b"\n", _MAX_COMMENTS)[:_MAX_COMMENTS] if line.strip()]
    sample = next((line for line in lines if not line.startswith(b"#")), lines[-1])
    for delimiter in ("\t", ",", " "):
        if delimiter.encode() in sample.strip():
            if b";" in sample:
                break
            return delimiter
    if b";" not in sample:
        return "\t"
    raise InputError(
        f"{path} has semicolons between its columns; commas (.csv) or tabs (.tsv, .1D) were "
        "expected. Export it again with commas, and with points as decimal marks."
    )


def _cells(line: bytes, delimiter: str) -> list[str]:
    """Split one line, quotes removed."""
    text = line.decode("utf-8", "replace").strip("\n")
    return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter), [])]


def _is_header(cells: list[str]) -> bool:
    """Say whether a first line names or numbers the columns instead of being data.

    A single word among numbers is a fault in the data and not a header.
    """
    words = [x for x in cells if x and x not in MISSING and not _is_number(x)]
    if len(words) > max(1, len(cells) // 10) or (words and len(cells) == 1):
        return True
    numbers = [str(i) for i in range(len(cells) + 1)]
    return len(cells) > 1 and cells in (numbers[:-1], numbers[1:], ["", *numbers[:-2]])


def _is_number(cell: str) -> bool:
    """Say whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse(content: bytes, layout: _Layout, empty_cells: bool) -> NDArray[np.float64] | None:
    """Read all numbers at once; None if something in the file is wrong."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(i) for i in range(layout.n_columns)]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            read_options=arrow_csv.ReadOptions(
                skip_rows=layout.n_skipped, column_names=names, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=layout.delimiter),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float64()),
                null_values=[*MISSING, ""] if empty_cells else list(MISSING),
            ),
        )
    except pa.ArrowInvalid as error:
        # A header without data is no fault of a line; everything else is looked for line by line.
        return np.empty((len(names), 0)) if "Empty CSV" in str(error) else None
    return np.stack([column.to_numpy() for column in table.columns])


def _diagnose(path: Path, content: bytes, layout: _Layout, empty_cells: bool) -> str:
    """Find the first line and column at fault; lines and columns count from 1."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines[layout.n_skipped :], start=layout.n_skipped + 1):
        if not line.strip():
            continue
        cells = _cells(line, layout.delimiter)
        for column, cell in enumerate(cells, start=1):
            if _is_number(cell) or cell in MISSING or (empty_cells and not cell):
                continue
            what = f"the text {cell!r}" if cell else "nothing"
            name = _name_of(column, layout)
            return (
                f"{path}, line {number}, column {column}{name}: a number was expected, but {what} "
                "stands there. Correct the file or export this scan again; if it is no scan, move "
                "it out of the folder."
            )
        if len(cells) != layout.n_columns:
            return (
                f"{path}, line {number}: {layout.n_columns} columns were expected as in the first "
                f"line of data, but there are {len(cells)} ({_NAMES[layout.delimiter]}-separated). "
                "The file may be cut off; download or export this scan again."
            )
    if not any(line.strip() for line in lines[layout.n_skipped :]):
        return _explain_no_data(path)
    return f"{path} cannot be read as a table of numbers; export this scan again as plain text."


def _explain_no_data(path: Path) -> str:
    """Say that a file ends after its header."""
    return (
        f"{path} has a header but no data: a line a volume was expected. Export this scan again, "
        "or remove the file."
    )


def _name_of(column: int, layout: _Layout) -> str:
    """Return the name of a column in brackets, if it has one."""
    if len(layout.header) != layout.n_columns or column > layout.n_columns:
        return ""
    return f" ({layout.header[column - 1]})"


_HDF5: Final = (".h5", ".hdf5")
_BINARY: Final = {".npy", ".npz", *_HDF5}
_SUFFIXES: Final = {*_BINARY, ".csv", ".tsv", ".txt", ".1D", ".parquet"}
_PROSE: Final = {"readme", "license", "licence", "changes", "changelog", "citation", "authors"}
"""Text files that lie in many folders, by what they are called."""
_DAMAGED: Final = (
    *(OSError, ValueError, EOFError, BadZipFile, zlib.error),
    *(SyntaxError, TokenError),  # the header is Python, and is parsed as such
)
_OF_SUBJECT: Final = re.compile(r"(?:sub-|NDAR_?INV)\w+|(?!ses)\w*\d{3}\w*")
"""Folders that are named after a subject, and not after a pipeline or a session."""
_PARTICIPANTS: Final = ("participants.tsv", "participants.csv")
_TABLE: Final = re.compile(
    r"(?:.*_)?(?:participants|scans|sessions|events|desc-confounds(?:_[a-z]+-[A-Za-z0-9]+)*_(?:timeseries|regressors))"
    r"\.(?:csv|tsv|txt|parquet)"
)
"""Tables that describe scans and are none."""


def matches(source: Path) -> bool:
    """Say whether a path is a file of this format, or a folder that holds some."""
    return bool(_list_files(source))


def find(source: Path, atlas: Atlas) -> list[ScanFile]:
    """Find the scans in a folder and the folders below."""
    files = _list_files(source)
    stems = Counter(path.stem for path in files)
    return [_describe(path, atlas, in_folders=stems[path.stem] > 1) for path in files]


def find_table(source: Path) -> Path | None:
    """Find the table that describes the scans of a folder or their subjects."""
    return next((source / name for name in _PARTICIPANTS if (source / name).is_file()), None)


def _list_files(source: Path) -> list[Path]:
    """Return the files that may be scans."""
    found = sorted(
        path
        for path in ([source] if source.is_file() else walk(source))
        if path.suffix in _SUFFIXES
        and not _TABLE.fullmatch(path.name)
        and path.stem.lower() not in _PROSE
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    # The series of a store are those of all its scans, one below the other.
    stores = {folder for folder in {path.parent for path in found} if is_store(folder)}
    return [path for path in found if path.parent not in stores]


def _describe(path: Path, atlas: Atlas, *, in_folders: bool) -> ScanFile:
    """Read subject and session out of a name; files of one name lie in folders of subjects."""
    entities = parse_entities(path.stem)
    scan, subject = path.stem, entities.subject
    if in_folders and not subject and _OF_SUBJECT.fullmatch(path.parent.name):
        scan = f"{path.parent.name}_{path.stem}"
        # Labels of BIDS have no underscores: NDAR_INV1 is sub-NDARINV1 in participants.tsv.
        label = re.sub(r"[^A-Za-z0-9]", "", path.parent.name.removeprefix("sub-"))
        subject = f"sub-{label}"
    try:
        t_r = _read_t_r(path.with_suffix(".json"))
    except InputError:
        # Complained of when the scan is loaded, so that others can be used.
        t_r = math.nan
    return ScanFile(
        scan=scan,
        load=partial(_load, path, atlas),
        source=str(path),
        subject=subject,
        session=entities.session,
        t_r=t_r,
    )


def _read_t_r(sidecar: Path) -> float | None:
    """Return RepetitionTime of the JSON file beside a scan, in seconds."""
    if not sidecar.is_file():
        return None
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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
        values = _load_hdf5(path) if path.suffix in _HDF5 else _load_npy(path)
        return _orient(values, path, atlas)
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


def _load_hdf5(path: Path) -> NDArray[np.floating[Any]]:
    """Read the one two-dimensional array of numbers of an HDF5 file."""
    import h5py

    found: list[h5py.Dataset] = []

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in "iuf":
            found.append(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
            if len(found) != 1:
                held = tell([f"{item.name} {item.shape}" for item in found]) or "none"
                raise InputError(
                    f"{path} holds {len(found)} arrays of numbers in two dimensions ({held}), but "
                    "a single one, (roi, time) or (time, roi), was expected. Save this scan alone."
                )
            return np.asarray(found[0], dtype=np.float64)
    except InputError:
        raise
    except BlockingIOError as error:
        raise InputError(
            f"{path} is locked: another program has it open for writing. Close it there; on a "
            "network disk without locks, set the environment variable HDF5_USE_FILE_LOCKING=FALSE."
        ) from error
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as an HDF5 file: {error}. It may be cut off; copy it again."
        ) from error


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
