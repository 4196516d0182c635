"""Preprocessed Connectomes Project: a ``.1D`` text file a scan, and a phenotype table.

The layout is that of nilearn's ``fetch_abide_pcp``::

    ABIDE_pcp/Phenotypic_V1_0b_preprocessed1.csv
    ABIDE_pcp/cpac/nofilt_noglobal/Pitt_0050003_rois_cc200.1D

A ``.1D`` file is a header ``#1 #2 ...`` of atlas values, then a line a volume and a column a ROI.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import BUILT_IN, Atlas
from semantoks.data.bids import list_files
from semantoks.data.readers.arrays import read_text_table
from semantoks.data.recording import ReaderOptions, ScanFile, parse_entities
from semantoks.data.signal import PriorFilter, tell_filter
from semantoks.data.tables import clean_id, is_missing, read_cells
from semantoks.errors import InputError

_FILE: Final = re.compile(r"(?P<scan>.+)_rois_(?P<atlas>[^_]+)\.1D")
_TABLES: Final = ("Phenotypic_V1_0b_preprocessed1.csv", "Phenotypic_V1_0b_preprocessed.csv")
_STRATEGY: Final = re.compile(r"filt_(?:no)?global")
_FILTER: Final = PriorFilter(
    "By the name of their folder (filt_), the Preprocessed Connectomes Project band-passed these "
    "series",
    (0.01, 0.1),
    certain=True,
)
_MISSING: Final = ("-9999", "-9999.0")
"""What stands for a value that is not there."""
_TEXT: Final = ("SUB_ID", "SITE_ID", "FILE_ID")
_NOT_PHENOTYPES: Final = {"SUB_ID", "SITE_ID", "FILE_ID", "func_mean_fd", "X", "subject"}
"""Columns that go elsewhere, that count the rows, or that repeat SUB_ID."""


def matches(source: Path) -> bool:
    """Say whether a path is a file of this format, or a folder that holds some."""
    return any(_FILE.fullmatch(path.name) for path in _list_files(source))


def _list_files(source: Path) -> list[Path]:
    """Return a single file, or the text files of a folder."""
    return [source] if source.is_file() else list_files(source, (".1D",))


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """Find the scans of one preprocessing strategy."""
    files = _choose(source, atlas)
    rows = _read_phenotypes(next(iter(files.values())).parent)
    found = [_describe(scan, path, atlas, rows) for scan, path in files.items()]
    parts = next(iter(files.values())).resolve().parts[:-1]
    if not any(_STRATEGY.fullmatch(part) for part in parts[-3:]):
        return found
    told = tell_filter(_FILTER, options or ReaderOptions())
    return [dataclasses.replace(scan, notices=told) for scan in found]


def _choose(source: Path, atlas: Atlas) -> dict[str, Path]:
    """Return the files of one atlas and one strategy by scan."""
    found: dict[str, dict[str, Path]] = {}
    folders: dict[str, set[Path]] = {}
    for path in _list_files(source):
        match = _FILE.fullmatch(path.name)
        if match:
            found.setdefault(match["atlas"], {})[match["scan"]] = path
            folders.setdefault(match["atlas"], set()).add(path.parent)
    name = atlas.name
    if name not in found and name not in BUILT_IN and len(found) == 1:
        # A table of the user's own may have any name; the values in the files are still checked.
        name = next(iter(found))
    if name not in found:
        raise InputError(
            f"{source} holds no files *_rois_{atlas.name}.1D for atlas {atlas.name!r}; it holds "
            f"those of {', '.join(sorted(found)) or 'no atlas'}. Name one of these atlases, or "
            "give the table of ROIs and networks (.tsv) of the one that you mean."
        )
    if len(folders[name]) > 1:
        options = ", ".join(str(folder) for folder in sorted(folders[name]))
        raise InputError(
            f"{source} holds files of {len(folders[name])} preprocessing strategies: {options}. "
            "Give the folder of the one to use."
        )
    return found[name]


class _Row(NamedTuple):
    """A row of the phenotype table, and where it stands, for messages."""

    cells: Mapping[str, Any]
    place: str


def _read_phenotypes(folder: Path) -> dict[str, _Row]:
    """Return the rows of the phenotype table by file id and by subject, empty if there is none."""
    places = [folder, *folder.parents[:4]]
    paths = [place / name for place in places for name in _TABLES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    table = read_cells(path, text=_TEXT, numbers=("func_mean_fd",), missing=_MISSING)
    missing = [name for name in _TEXT if name not in table]
    if missing:
        raise InputError(
            f"phenotype table {path} lacks the column(s) {', '.join(missing)}. Download it again, "
            "or remove it and give a table of scans."
        )
    rows = [
        _Row({str(name): cell for name, cell in cells.items()}, f"{path}, line {line}")
        for line, cells in enumerate(table.to_dict(orient="records"), start=2)
    ]
    by_subject = {_subject_of(row): row for row in rows if _subject_of(row)}
    # Files that the table does not list have rows as well, of file id "no_filename".
    by_file = {name: row for row in rows if (name := clean_id(row.cells["FILE_ID"]))}
    return by_subject | by_file


def _describe(scan: str, path: Path, atlas: Atlas, rows: Mapping[str, _Row]) -> ScanFile:
    """Join one file with its row of the phenotype table."""
    subject = _subject_in(scan)
    row = rows.get(scan) or rows.get(subject) or _Row({}, "")
    return ScanFile(
        scan=scan,
        load=partial(_load, path, atlas),
        source=str(path),
        subject=_subject_of(row) or subject,
        site=clean_id(row.cells.get("SITE_ID")),
        motion=_motion_of(row),
        phenotypes={
            name: value
            for name, value in row.cells.items()
            if name not in _NOT_PHENOTYPES and not name.startswith("Unnamed")
        },
    )


def _subject_in(scan: str) -> str:
    """Return the subject that the name of a file says, "" if it does not."""
    named = parse_entities(scan).subject
    # Fewer digits may count sessions or runs, which would make one person of many.
    digits = re.search(r"(?<!\d)(?=\d{5})0*(\d+)$", scan)
    return named or (digits[1] if digits else "")


def _subject_of(row: _Row) -> str:
    """Return the subject's number without leading zeros, "" if the row does not say it."""
    subject = clean_id(row.cells.get("SUB_ID"))
    return str(int(subject)) if subject.isdecimal() else subject


def _motion_of(row: _Row) -> float:
    """Return the mean framewise displacement in mm, NaN if the row does not say it."""
    value = row.cells.get("func_mean_fd")
    try:
        motion = math.nan if is_missing(value) else float(str(value))
    except ValueError:
        motion = -1.0
    if motion < 0 or math.isinf(motion):
        raise InputError(
            f"phenotype table {row.place}, column 'func_mean_fd': a number of mm was expected, or "
            f"nothing where it is unknown, but {str(value)!r} stands there. Correct the table, or "
            "download it again."
        )
    return motion


def _load(path: Path, atlas: Atlas) -> NDArray[np.float64]:
    """Read one file, shape (roi, time), and check that its columns are the ROIs of the atlas."""
    header, values = read_text_table(path)
    if len(values) != len(atlas):
        raise InputError(
            f"{path} has {len(values)} columns, but atlas {atlas.name!r} has {len(atlas)} ROIs. "
            "Give the atlas that the series were extracted with."
        )
    if not header or not atlas.values:
        return values
    if len(header) != len(values):
        raise InputError(
            f"{path}: the header names {len(header)} ROIs, but there are {len(values)} columns. "
            "Download or export this scan again."
        )
    expected = [str(value) for value in atlas.values]
    wrong = next((i for i, value in enumerate(expected) if header[i] != value), None)
    if wrong is not None:
        raise InputError(
            f"{path}: the header names the ROIs by their value in the atlas, and column "
            f"{wrong + 1} should be {expected[wrong]} as in atlas {atlas.name!r}, but is "
            f"{header[wrong]!r}. Give the atlas that the series were extracted with; its table "
            "must list the ROIs in this order."
        )
    return values
