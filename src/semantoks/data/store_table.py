"""The table of scans that a store keeps beside the series."""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = (
    *("scan", "subject", "session", "site", "t_r", "length", "offset", "motion", "coverage"),
    "source",
)
"""Columns that the table of scans of every store begins with; phenotypes follow."""


class Refused(Protocol):
    """What a store keeps of a scan that was left out."""

    @property
    def scan(self) -> str:
        """Identity of the scan."""

    @property
    def source(self) -> str:
        """File that the scan comes from."""

    @property
    def category(self) -> str:
        """Which check failed."""

    @property
    def reason(self) -> str:
        """What is wrong, in a sentence."""


def check_fits(
    recording: Recording, valid: NDArray[np.bool_], atlas: Atlas, done: Collection[str]
) -> None:
    """Refuse a scan that does not fit a store."""
    scan = recording.scan
    if scan in done:
        raise InputError(f"scan {scan!r} is in the store already; identities must be unique.")
    if not recording.subject:
        raise InputError(
            f"scan {scan!r} has no subject. Say whose scan it is (in the table of scans, for "
            "instance): without it, scans of one person could be split between training and test."
        )
    if recording.atlas != atlas:
        raise InputError(
            f"scan {scan!r} has atlas {recording.atlas!r}, but the store has {atlas!r}."
        )
    if valid.shape != (len(atlas),) or valid.dtype != np.bool_:
        raise InputError(
            f"scan {scan!r} needs one boolean a ROI, ({len(atlas)},), that says which are valid; "
            f"got {valid.dtype} of shape {valid.shape}."
        )
    taken = sorted(set(COLUMNS) & set(recording.phenotypes))
    if taken:
        raise InputError(
            f"scan {scan!r} has phenotypes that are named like columns of the store: "
            f"{', '.join(taken)}. Rename them in the table of scans."
        )


def row_of(recording: Recording, offset: int, coverage: float) -> dict[str, Any]:
    """Say of a scan what the table keeps."""
    row: dict[str, Any] = {
        "scan": recording.scan,
        "subject": recording.subject,
        "session": recording.session,
        "site": recording.site,
        "t_r": float(recording.t_r),
        "length": recording.series.shape[1],
        "offset": offset,
        "motion": plain(recording.motion),
        "coverage": coverage,
        "source": recording.source,
    }
    return row | {str(name): plain(value) for name, value in recording.phenotypes.items()}


def plain(value: Any) -> str | int | float | bool | None:
    """Turn a value into one that JSON can hold.

    Examples
    --------
    >>> plain(np.float32(0.5)), plain(float("nan")), plain(Path("a"))
    (0.5, None, 'a')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    text = str(value)
    return None if text in {"<NA>", "NaT"} else text


def index_of(rows: Iterable[Mapping[str, Any]]) -> NDArray[np.int64]:
    """Collect where scans lie in the series, and whose they are."""
    codes: dict[str, int] = {}
    places = [
        (row["offset"], row["length"], codes.setdefault(row["subject"], len(codes))) for row in rows
    ]
    return np.array(places, dtype=np.int64)


def table_of(rows: Iterable[Mapping[str, Any]], first: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Make a table, of which no more than the cells is ever in memory."""
    import pandas as pd

    cells: dict[str, list[Any]] = {name: [] for name in first}
    n_rows = 0
    for row in rows:
        for name, value in row.items():
            column = cells.setdefault(name, [])
            column.extend([None] * (n_rows - len(column)))
            # What many scans have in common is kept once.
            column.append(sys.intern(value) if type(value) is str else value)
        n_rows += 1
    columns = {}
    for name, values in cells.items():
        values.extend([None] * (n_rows - len(values)))
        kinds = {"number" if type(v) in (int, float) else type(v) for v in values if v is not None}
        if not kinds:
            columns[name] = pd.Series([np.nan] * len(values))
        elif len(kinds) > 1:
            columns[name] = pd.Series([None if v is None else str(v) for v in values], dtype="str")
        else:
            columns[name] = pd.Series(values)
    return pd.DataFrame(columns)


def write_refused(file: Path, refused: Iterable[Refused]) -> None:
    """Write which scans were left out, and why."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scan", "source", "category", "reason"])
        writer.writerows([r.scan, r.source, r.category, r.reason] for r in refused)
