"""What was shown when: BIDS files of events, one a scan."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError, nearest

MissingEvents = Literal["refuse", "drop"]
"""What becomes of scans without a file of events."""

EVENT_COLUMNS: Final = ("onset", "duration", "trial_type")
"""What is read of a file of events."""
_UNKNOWN: Final = ("n/a", "")


def read_events(path: str | Path) -> pd.DataFrame:
    """Read a BIDS file of events."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Rows that are longer than the header would be cut, or shift the columns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, sep="\t", dtype=str, keep_default_na=False, index_col=False
            ).fillna("")
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"the file of events {path} cannot be read: {reason}.") from error
    lacking = [name for name in EVENT_COLUMNS if name not in table.columns]
    if lacking:
        found = [str(name) for name in table.columns]
        hint = nearest(lacking[0], found)
        if len(found) == 1 and re.search(r"[,; ]", found[0]):
            hint = " Columns are to be separated by tabs."
        raise InputError(
            f"the file of events {path} has no column {lacking[0]!r}; it has "
            f"{', '.join(map(repr, found))}.{hint}"
        )
    if not len(table):
        raise InputError(f"the file of events {path} has no rows.")
    onset = _seconds(table["onset"], path, unknown="refuse")
    duration = _seconds(table["duration"], path, unknown="keep")
    negative = np.flatnonzero(duration < 0)
    if len(negative):
        raise InputError(
            f"{path}, line {negative[0] + 2}: the duration is {duration[negative[0]]:g} s; it "
            "cannot be negative."
        )
    label = table["trial_type"].str.strip().replace(dict.fromkeys(_UNKNOWN, ""))
    events = pd.DataFrame({"onset": onset, "duration": duration, "trial_type": label})
    return events.sort_values("onset", kind="stable").reset_index(drop=True)


def find_events(
    store: Store, folder: str | Path, *, missing: MissingEvents = "refuse"
) -> dict[int, pd.DataFrame]:
    """Find and read the file of events of every scan.

    A file ``<scan>_events.tsv`` is that of its scan. Otherwise names are compared as BIDS writes
    them: a file belongs to a scan if nothing in its name (sub, ses, task, run, ...) contradicts the
    name of the scan or its subject, and the one that has most in common is taken. A file that names
    no subject, such as ``task-faces_events.tsv``, is that of all scans of the task.
    """
    if missing not in get_args(MissingEvents):
        raise ConfigurationError(f"missing is 'refuse' or 'drop', not {missing!r}.")
    folder = Path(folder)
    files = sorted([*folder.rglob("*_events.tsv"), *folder.rglob("events.tsv")])
    if not files:
        state = "holds no file *_events.tsv" if folder.is_dir() else "is not a folder"
        raise InputError(f"{folder} {state}: events are read from BIDS files, one a scan.")
    entities = {file: _entities(file.name) for file in files}
    chosen: dict[int, Path] = {}
    names = zip(store.scans["scan"].astype(str), store.scans["subject"].astype(str), strict=True)
    lacking = []
    for row, (scan, subject) in enumerate(names):
        file = _file_of(scan, subject, entities)
        if file is None:
            lacking.append(scan)
        else:
            chosen[row] = file
    if lacking and (missing == "refuse" or not chosen):
        raise InputError(
            f"{len(lacking)} of {len(store)} scans have no file of events in {folder}, the first "
            f"is {lacking[0]!r} (expected {lacking[0]}_events.tsv, or a BIDS name that fits it). "
            "Add the files, or leave these scans out (missing='drop', --missing-events drop)."
        )
    read = {file: read_events(file) for file in sorted(set(chosen.values()))}
    return {row: read[file] for row, file in chosen.items()}


def _seconds(
    column: pd.Series[str], path: Path, unknown: Literal["refuse", "keep"]
) -> NDArray[np.float64]:
    """Read seconds; n/a becomes NaN where it may."""
    values = column.str.strip()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    allowed = values.isin(_UNKNOWN).to_numpy() if unknown == "keep" else np.zeros(len(values), bool)
    broken = np.flatnonzero(~np.isfinite(numbers) & ~allowed)
    if len(broken):
        raise InputError(
            f"{path}, line {broken[0] + 2}: the {column.name} is {values.iloc[broken[0]]!r}; it "
            f"must be a number of seconds{' or n/a' if unknown == 'keep' else ''}."
        )
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _entities(name: str) -> dict[str, str]:
    """Read key-value pairs of a BIDS name, values without leading zeros."""
    pairs = re.findall(r"(?:^|_)([a-zA-Z]+)-([^_.\\/]+)", name)
    return {key: value.lstrip("0") or "0" for key, value in pairs}


def _file_of(scan: str, subject: str, files: Mapping[Path, Mapping[str, str]]) -> Path | None:
    """Return the file of events of a scan, or nothing."""
    exact = [file for file in files if file.name == f"{scan}_events.tsv"]
    said = {"sub": subject.removeprefix("sub-").lstrip("0") or "0"} | _entities(scan)
    fitting = {
        file: sum(said.get(key) == value for key, value in found.items())
        for file, found in files.items()
        if all(said.get(key, value) == value for key, value in found.items())
    }
    best = [file for file, shared in fitting.items() if shared == max(fitting.values())]
    candidates = exact or best
    if len(candidates) > 1:
        raise InputError(
            f"scan {scan!r} has {len(candidates)} files of events that fit it equally: "
            f"{candidates[0]} and {candidates[1]}. Call one {scan}_events.tsv, or remove the other."
        )
    return candidates[0] if candidates else None
