"""C-PAC: ``sub-*_atlas-*_desc-Mean-1_timeseries.1D``, a column a ROI, a row a volume.

Names differ between versions (``desc-Mean-1``, ``desc-Mean1``, ``reg-default``), separators are
commas or tabs, and the header, if there is one, numbers the ROIs by their value in the atlas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import list_files, parse_bids_name, read_t_r
from semantoks.data.labels import labels_of_values
from semantoks.data.readers.arrays import read_text_table
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.data.signal import PriorFilter, tell_filter
from semantoks.errors import InputError

__all__ = ["find", "matches"]

_SERIES: Final = re.compile(
    r"(?P<scan>sub-.+?)_atlas-(?P<atlas>.+?)(?P<rest>(?:_?(?:space|res|reg|desc)-.*)?)"
    r"_timeseries\.1D"
)
_FILTER: Final = PriorFilter(
    "C-PAC's files do not say how they were filtered; its own nuisance regressors, if nothing was "
    "changed (Bandpass in the pipeline configuration), band-pass",
    (0.01, 0.1),
    certain=False,
)


class _File(NamedTuple):
    """A file, taken apart."""

    path: Path
    scan: str
    atlas: str
    strategy: str


def matches(source: Path) -> bool:
    """Say whether a path holds series of C-PAC."""
    return bool(_list_files(source))


def _list_files(source: Path) -> list[_File]:
    """Return the files of series."""
    paths = [source] if source.is_file() else list_files(source, ("_timeseries.1D",))
    found = [(path, _SERIES.fullmatch(path.name)) for path in paths]
    return [_File(path, m["scan"], m["atlas"], m["rest"].lstrip("_")) for path, m in found if m]


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """Find the scans of one atlas and one strategy."""
    files = _list_files(source)
    names = sorted({file.atlas for file in files})
    chosen = [name for name in names if _is_named(name, atlas)]
    if len(names) == 1:
        chosen = names
    if len(chosen) != 1:
        some = "several" if chosen else "none"
        raise InputError(
            f"{source} holds series of the atlases {', '.join(names)}, and {some} of them is named "
            f"like atlas {atlas.name!r}. Give a folder with the files of the one to use, or the "
            "table of an atlas that is named like it."
        )
    files = [file for file in files if file.atlas == chosen[0]]
    for scan in {file.scan for file in files}:
        same = [file for file in files if file.scan == scan]
        if len(same) > 1:
            raise InputError(
                f"{source} holds {len(same)} series of {scan!r}: "
                f"{', '.join(file.path.name for file in same[:4])}. C-PAC writes one a strategy of "
                "nuisance regression (desc-Mean-1, desc-Mean-2, reg-*); give a folder with the "
                "files of the one to use."
            )
    told = tell_filter(_FILTER, options or ReaderOptions())
    return [_describe(file, atlas, told) for file in files]


def _is_named(name: str, atlas: Atlas) -> bool:
    """Say whether a file is of an atlas by its name, whatever stands around it."""
    plain, wanted = (re.sub(r"[^0-9a-z]", "", text.lower()) for text in (name, atlas.name))
    return wanted in plain or (len(plain) > 4 and plain in wanted)


def _describe(file: _File, atlas: Atlas, notices: tuple[str, ...]) -> ScanFile:
    """Say who was measured when."""
    name = parse_bids_name(file.path)
    try:
        t_r = read_t_r(name)
    except InputError:
        t_r = float("nan")
    return ScanFile(
        scan=file.scan,
        load=partial(_load, file, atlas),
        source=str(file.path),
        subject=name.subject,
        session=name.session,
        t_r=t_r,
        phenotypes={"cpac_strategy": file.strategy},
        notices=notices,
    )


def _load(file: _File, atlas: Atlas) -> NDArray[np.float64]:
    """Read one file, shape (roi, time)."""
    read_t_r(parse_bids_name(file.path))
    header, values = read_text_table(file.path)
    if header and len(header) != len(values):
        raise InputError(
            f"{file.path}: the header names {len(header)} ROIs, but there are {len(values)} "
            "columns. Run the extraction again."
        )
    numbers = _values_of(header)
    known = labels_of_values(file.atlas, numbers, atlas)
    if not known:
        told = ", ".join(numbers[:3] or header[:3]) or "nothing"
        raise InputError(
            f"{file.path}: the ROIs are those of an atlas {file.atlas!r} (numbered {told}, ...), "
            f"which are not the values of atlas {atlas.name!r}. Give the atlas that the series "
            "were extracted with; its table needs a column value."
        )
    if not numbers:
        numbers = list(known)
    if len(numbers) != len(values) or len(set(numbers)) != len(numbers):
        raise InputError(
            f"{file.path} has {len(values)} columns, but {len(set(numbers))} different ROIs of "
            f"atlas {atlas.name!r} were expected. Give the atlas that the series were extracted "
            "with."
        )
    position = {label: i for i, label in enumerate(atlas.labels)}
    series = np.full((len(atlas), values.shape[1]), np.nan)
    series[[position[known[number]] for number in numbers]] = values
    return series


def _values_of(header: Sequence[str]) -> list[str]:
    """Return the values that number the columns, none if nothing does."""
    found = [re.fullmatch(r"(?:nz)?(?:mean_)?#?0*(\d+)(?:\.0)?", x.strip(), re.I) for x in header]
    return [match[1] for match in found if match] if all(found) else []
