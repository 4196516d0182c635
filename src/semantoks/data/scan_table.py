"""A table of scans or subjects: repetition time, site, motion and phenotypes by identity."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from semantoks.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["scan", "subject", "session", "t_r", "site", "motion"]

RECOGNISED: Final[Mapping[Role, tuple[str, ...]]] = {
    "scan": ("file_id", "scan_id", "scan"),
    "subject": ("participant_id", "sub_id", "subject", "subject_id", "bids_id"),
    "session": ("session", "ses", "session_id"),
    "t_r": ("tr", "t_r", "repetitiontime", "repetition_time"),
    "site": ("site", "site_id", "scan_site"),
    "motion": ("mean_fd", "func_mean_fd", "motion"),
}
"""Names of columns, in lower case, that are taken for each role; earlier ones come first."""

LONGEST_T_R: Final = 20.0
"""A larger repetition time, in seconds, is surely in milliseconds."""


@dataclass(frozen=True, eq=False)
class ScanTable:
    """A row a scan or a subject."""

    path: Path
    rows: pd.DataFrame
    columns: Mapping[Role, str]
    named: frozenset[Role] = frozenset()
    id_column: str | None = None

    @property
    def phenotypes(self) -> tuple[str, ...]:
        """Columns that have no role."""
        taken = {*self.columns.values(), self.id_column}
        return tuple(name for name in self.rows.columns if name not in taken)


def read_scan_table(
    path: str | Path,
    *,
    id_column: str | None = None,
    t_r_column: str | None = None,
    site_column: str | None = None,
    motion_column: str | None = None,
    subject_column: str | None = None,
    session_column: str | None = None,
) -> ScanTable:
    """Read a table of scans or subjects.

    Parameters
    ----------
    path : str or path
        A .csv or .tsv file with a header.
    id_column : str or None
        Column of identities, of scans or of subjects; recognised by its name if None.
    t_r_column, site_column, motion_column, subject_column, session_column : str or None
        Columns of the repetition time in s, the site, the mean framewise displacement in mm, the
        subject and the session; recognised by their names if None. Where one is named, its
        values replace those that come with the recordings.

    Returns
    -------
    ScanTable
        The table, not yet joined.

    Raises
    ------
    InputError
        If the file cannot be read, a named column is absent, or no column holds identities.
    """
    path = Path(path)
    header = _read(path, nrows=0).columns
    explicit: dict[Role, str | None] = {
        "subject": subject_column,
        "session": session_column,
        "t_r": t_r_column,
        "site": site_column,
        "motion": motion_column,
    }
    for name in (id_column, *explicit.values()):
        if name is not None and name not in header:
            raise InputError(
                f"table {path} has no column {name!r}; it has {', '.join(header)}."
                + nearest(name, header)
            )
    columns = _assign(path, list(header), explicit, id_column)
    if id_column is None and not {"scan", "subject"} & set(columns):
        known = ", ".join((*RECOGNISED["scan"], *RECOGNISED["subject"]))
        raise InputError(
            f"table {path} has no column of identities: one of {known} was expected, but it has "
            f"{', '.join(header)}. Name the column that holds the ids of scans or subjects "
            "(id_column, --id-column)."
        )
    text = {name for name in (*columns.values(), id_column) if name is not None}
    numbers = {columns[role] for role in ("t_r", "motion") if role in columns}
    rows = read_cells(path, text=text - numbers, numbers=numbers).dropna(how="all")
    named = frozenset(role for role, name in explicit.items() if name is not None)
    return ScanTable(path, rows, columns, named, id_column)


def check_t_r(value: object, where: str) -> float:
    """Check a repetition time.

    Examples
    --------
    >>> check_t_r("0.735", "the table")
    0.735
    """
    try:
        seconds = float(str(value).strip())
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and 0 < seconds <= LONGEST_T_R:
        return seconds
    if seconds > LONGEST_T_R and math.isfinite(seconds):
        advice = f"That is surely in milliseconds; give {seconds / 1000:g}."
    else:
        advice = "Correct it there."
    raise InputError(
        f"{where} is {str(value)!r}, but a repetition time is a positive number of seconds, such "
        f"as 2.0. {advice}"
    )


def same_t_r(first: float, second: float) -> bool:
    """Say whether two repetition times are the same but for rounding."""
    return math.isclose(first, second, rel_tol=1e-3)


def read_cells(
    path: Path,
    *,
    text: Collection[str] = (),
    numbers: Collection[str] = (),
    missing: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a table, and tell words from values that are missing.

    An empty cell and ``n/a``, as BIDS writes it, are missing in every column. Words such as NA,
    NaN or null are missing in columns in which everything else is a number, or true or false; in
    a column of text they are words as any other: a group or a site may be called NA.
    """
    import pandas as pd

    kept = dict.fromkeys((*text, *numbers), str)
    rows = _read(path, dtype=kept, keep_default_na=False, na_values=["", "n/a", *missing])
    guessed = _read(path, dtype=kept, na_values=list(missing))
    for name, column in guessed.items():
        kind = pd.api.types.infer_dtype(column, skipna=True)
        # A column of nothing but NA is no column of numbers.
        counted = kind in {"integer", "floating", "boolean"} and column.notna().any()
        if name in numbers or counted:
            rows[name] = column
    return rows


def _read(path: Path, **options: Any) -> pd.DataFrame:
    """Read a .csv or .tsv file."""
    import pandas as pd

    if path.suffix not in {".csv", ".tsv"}:
        raise InputError(
            f"{path} is no table that can be read: a .csv (commas) or .tsv (tabs) file was "
            "expected. Save it as one of these."
        )
    try:
        separator = "\t" if path.suffix == ".tsv" else ","
        # Types are found column by column: in parts, they could differ within a column.
        options = {"low_memory": False, "encoding": "utf-8-sig", **options}
        table = pd.read_csv(path, sep=separator, **options)
    except FileNotFoundError as error:
        raise InputError(f"table {path} does not exist. Check its name and folder.") from error
    except (ValueError, OSError) as error:
        raise InputError(
            f"table {path} cannot be read: {str(error).strip()}. A header and then a row a scan, "
            f"with {'tabs' if path.suffix == '.tsv' else 'commas'} between columns, was expected. "
            "Save it again as UTF-8 text."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first cells of rows that are too long for their names.
        raise InputError(
            f"table {path}: rows have more cells than the header has names "
            f"({', '.join(map(str, table.columns))}). Name every column, and put text that holds "
            "the separator in quotes."
        )
    renamed: pd.DataFrame = table.rename(columns=str)
    return renamed


def _assign(
    path: Path, header: list[str], explicit: Mapping[Role, str | None], id_column: str | None
) -> dict[Role, str]:
    """Find the column of every role, by what the user named or else by its name."""
    columns: dict[Role, str] = {}
    for role, names in RECOGNISED.items():
        given = explicit.get(role)
        if given is not None:
            columns[role] = given
            continue
        free = [name for name in header if name != id_column and name not in explicit.values()]
        candidates = [name for known in names for name in free if name.strip().lower() == known]
        if role == "t_r" and len(candidates) > 1:
            raise InputError(
                f"table {path} has several columns of repetition times: {', '.join(candidates)}. "
                "Name the one to use (t_r_column, --t-r-column)."
            )
        if candidates and not (role == "scan" and id_column is not None):
            columns[role] = candidates[0]
    return columns


def clean_id(value: object) -> str:
    """Return an identity as text.

    Examples
    --------
    >>> clean_id(" 50003.0")
    '50003'
    """
    if is_missing(value):
        return ""
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"\d+\.0", text) else text


def loose_id(name: str, prefix: str) -> str:
    """Return an identity without its prefix and leading zeros.

    Examples
    --------
    >>> loose_id("sub-0050003", "sub-")
    '50003'
    """
    text = clean_id(name).removeprefix(prefix)
    return text.lstrip("0") or text[:1]


def is_missing(value: object) -> bool:
    """Say whether a cell of a table is empty."""
    return value is None or (isinstance(value, float) and math.isnan(value))
