"""Tables of AFNI's 3dROIstats: a column a value of the atlas image, a row a volume.

The header is ``File``, ``Sub-brick`` and ``Mean_N``, ``NZMean_N`` or ``#N`` for the ROI of value N
of the atlas; values without a voxel have no column. ADHD-200 is distributed so, named
``sfnwmrda<subject>_session_<n>_rest_<n>_<atlas>_TCs.1D`` (with the f: band-passed).
"""

from __future__ import annotations

import re
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import list_files
from semantoks.data.labels import tell
from semantoks.data.readers.arrays import parse_text_table
from semantoks.data.recording import ReaderOptions, ScanFile, parse_entities
from semantoks.data.signal import PriorFilter, tell_filter
from semantoks.errors import InputError

_SUFFIXES: Final = (".1D", ".txt", ".tsv", ".csv")
_LOOKED_AT: Final = 50
"""Files of a folder that tell its format."""
_HEADER: Final = re.compile(rb"\s*File\s+Sub-brick\s")
_COLUMN: Final = re.compile(r"(?:(Mean|NZMean)_|#?)(\d+)")
_STATISTIC: Final = re.compile(r"[A-Za-z]+_\d+")
_ADHD200: Final = re.compile(r"s(f?)nwmrda(\d{7})_(session_\d+)_rest_\d+")
_ADHD200_BAND: Final = (0.009, 0.08)


def matches(source: Path) -> bool:
    """Tell whether a path is, or holds, tables of 3dROIstats."""
    return any(_is_table(path) for path in islice(list_files(source, _SUFFIXES), _LOOKED_AT))


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """List the tables."""
    options = options or ReaderOptions()
    found = [path for path in list_files(source, _SUFFIXES) if _is_table(path)]
    return [_describe(path, atlas, options) for path in found]


def _is_table(path: Path) -> bool:
    """Tell by its first bytes whether a file is a table of 3dROIstats."""
    try:
        with path.open("rb") as stream:
            return _HEADER.match(stream.read(64)) is not None
    except OSError:
        return False


def _describe(path: Path, atlas: Atlas, options: ReaderOptions) -> ScanFile:
    """Read subject and session out of the name."""
    named, entities = _ADHD200.match(path.name), parse_entities(path.stem)
    prior = PriorFilter("ADHD-200 band-passed these series", _ADHD200_BAND, certain=True)
    return ScanFile(
        scan=path.stem,
        load=partial(_load, path, atlas),
        source=str(path),
        subject=named[2] if named else entities.subject,
        session=named[3].replace("_", "-") if named else entities.session,
        notices=tell_filter(prior, options) if named and named[1] else (),
    )


def _load(path: Path, atlas: Atlas) -> Float[NDArray[np.float64], "roi time"]:
    """Read one table into the order of the atlas; values without a column become NaN."""
    if not atlas.values:
        raise InputError(
            f"{path} names its columns by the values of an atlas image, but atlas {atlas.name!r} "
            "has none. Add a column 'value' to its table."
        )
    lines = path.read_bytes().splitlines()
    # The first two columns are text: the file, and the sub-brick as 0[?].
    parts = [re.split(rb"[\t ]+", line.strip(), maxsplit=2) for line in lines if line.strip()]
    table = parse_text_table(path, b"\n".join(part[2] for part in parts if len(part) == 3))
    columns = _columns(path, [name.strip() for name in table.header])
    rows = {value: row for row, value in enumerate(atlas.values)}
    unknown = [str(value) for value in columns if value not in rows]
    if unknown:
        raise InputError(
            f"{path} has {len(unknown)} column(s) of values that are not in atlas {atlas.name!r} "
            f"({tell(unknown)}). Give the atlas that the series were extracted with."
        )
    series = np.full((len(atlas), table.values.shape[1]), np.nan)
    for value, column in columns.items():
        series[rows[value]] = table.values[column]
    return series


def _columns(path: Path, header: list[str]) -> dict[int, int]:
    """Find the column of each value: its mean, or that of its voxels that are not zero."""
    found: dict[str, dict[int, int]] = {}
    strange = []
    for column, name in enumerate(header):
        match = _COLUMN.fullmatch(name)
        if match:
            place = found.setdefault(match[1] or "Mean", {})
            if int(match[2]) in place:
                raise InputError(f"{path} has two columns {name!r}. Export this scan again.")
            place[int(match[2])] = column
        elif not _STATISTIC.fullmatch(name):
            strange.append(name)
    if strange or not found:
        raise InputError(
            f"{path} is a table of 3dROIstats, but its columns are {tell(strange or header)}; "
            "Mean_N or NZMean_N for the value N of the atlas were expected. Run 3dROIstats with "
            "the values of the atlas image, not with its labels."
        )
    return found.get("Mean") or found["NZMean"]
