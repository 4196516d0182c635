"""Task events: reading, designs, and windows of blocks."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.signal import filter_series
from semantoks.data.simulation import haemodynamic_course
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


def share_that_passes(
    store: Store, events: Mapping[int, pd.DataFrame], conditions: Sequence[str]
) -> float:
    """Compute what the store's band-pass leaves of the difference between conditions.

    For every scan the response of each condition is computed (blocks convolved with the canonical
    haemodynamic response), less the mean of all conditions, and filtered as the store was.

    Between 0.01 and 0.1 Hz, two conditions that alternate keep .97 at 15 s, .99 at 20 s, .97 at
    30 s, .84 at 40 s and .28 at 60 s a block. In a random order without pauses runs of one
    condition make the design slower than the band: .54 at 20 s and .41 at 30 s.
    """
    before, after = 0.0, 0.0
    high_pass, low_pass = store.preprocessing.band
    cut = seconds_cut(store)
    for scan, table in events.items():
        shifted = table.assign(onset=table["onset"] - cut[scan])
        courses = _contrasts(shifted, conditions, int(store.lengths[scan]), store.t_r)
        before += float((courses**2).sum())
        after += float((filter_series(courses, store.t_r, high_pass, low_pass) ** 2).sum())
    # At the ends of a short scan the filter may add a little to what it keeps.
    return min(1.0, after / before) if before > 0 else 0.0


def seconds_cut(store: Store) -> Float[NDArray[np.float64], "scan"]:
    """Return how long after the first volume of its file each series begins, in seconds.

    Onsets count from the first volume; readers cut volumes before the steady state off.
    """
    scans = store.scans
    if "n_non_steady" not in scans:
        return np.zeros(len(store))
    return (scans["n_non_steady"].fillna(0) * scans["t_r"]).to_numpy(np.float64)


def _contrasts(
    table: pd.DataFrame, conditions: Sequence[str], n_samples: int, t_r: float
) -> NDArray[np.float64]:
    """Return the response of each condition less their mean, without a level."""
    times = t_r * np.arange(n_samples)
    known = table[table["duration"].notna()]
    courses = []
    for name in conditions:
        own = known[known["trial_type"] == name]
        courses.append(
            haemodynamic_course(
                own["onset"].to_numpy(float), own["duration"].to_numpy(float), times
            )
        )
    contrasts = np.stack(courses) - np.mean(courses, axis=0)
    return np.asarray(contrasts - contrasts.mean(axis=1, keepdims=True))


# BOLD follows what evokes it with a delay. A block from 30 s to 50 s is therefore read from 35 s to
# 55 s of the series, at the default of 5 s: the response of Glover peaks 5 s after a short event
# and is as long as the block. Who fits the delay does so on validation subjects, never on test.

Short = Literal["refuse", "centre", "drop"]
"""What becomes of blocks that are shorter than a window."""
Outside = Literal["refuse", "drop"]
"""What becomes of windows that do not lie within their scan."""

HAEMODYNAMIC_DELAY: Final = 5.0
"""Seconds by which the response follows what evokes it."""


@dataclass(frozen=True)
class BlockWindows:
    """Windows of the series that belong to blocks."""

    scan: NDArray[np.int64]
    start: NDArray[np.int64]
    label: NDArray[np.str_]
    onset: NDArray[np.float64]
    length: int
    delay: float
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.scan)


class _Window(NamedTuple):
    """A window before it is known to be wanted."""

    scan: int
    start: int
    label: str
    onset: float


def block_windows(
    store: Store,
    events: Mapping[int, pd.DataFrame],
    *,
    length: int,
    conditions: Sequence[str] | None = None,
    delay: float = HAEMODYNAMIC_DELAY,
    short: Short = "refuse",
    outside: Outside = "refuse",
) -> BlockWindows:
    """Cut windows that belong to blocks.

    A block that is longer than a window gives as many windows as fit, one after the other, with
    what is left over at both ends. Events whose trial_type or duration is n/a are left out, and so
    are those of other conditions; `left_out` counts them.
    """
    if short not in get_args(Short) or outside not in get_args(Outside):
        raise ConfigurationError(
            f"short is one of {', '.join(get_args(Short))} and outside one of "
            f"{', '.join(get_args(Outside))}; {short!r} and {outside!r} came."
        )
    if length < 1 or not math.isfinite(delay):
        raise InputError(f"windows of {length} samples with a delay of {delay} s are not possible.")
    _check_conditions(events, conditions)
    left_out: Counter[str] = Counter()
    windows: list[_Window] = []
    cut = seconds_cut(store)
    for scan in sorted(events):
        kept = _usable(events[scan], conditions, left_out)
        for onset, duration, label in kept.itertuples(index=False):
            starts = _starts(duration, length, store.t_r, short)
            if not starts:
                if short == "refuse":
                    raise InputError(_too_short(store, scan, onset, duration, label, length))
                left_out["shorter than a window"] += 1
            for begin in starts:
                # Halves go down, whatever was cut off: round() would send them to even samples.
                start = math.ceil((onset - cut[scan] + delay + begin) / store.t_r - 0.5)
                if 0 <= start <= store.lengths[scan] - length:
                    windows.append(_Window(scan, start, label, onset))
                elif outside == "refuse":
                    raise InputError(_outside(store, scan, onset, delay, label, start, length))
                else:
                    left_out["outside of the scan"] += 1
    if not windows:
        raise InputError(
            "no block is left to be decoded: "
            + (", ".join(f"{n} {why}" for why, n in left_out.items()) or "there are no events")
            + "."
        )
    windows.sort(key=lambda window: (window.scan, window.start))
    rows, firsts, labels, onsets = zip(*windows, strict=True)
    return BlockWindows(
        np.array(rows, dtype=np.int64),
        np.array(firsts, dtype=np.int64),
        np.array(labels, dtype=str),
        np.array(onsets, dtype=np.float64),
        length,
        delay,
        dict(left_out),
    )


def _check_conditions(events: Mapping[int, pd.DataFrame], conditions: Sequence[str] | None) -> None:
    """Refuse conditions that never occur."""
    occurring = sorted({label for table in events.values() for label in table["trial_type"]} - {""})
    for name in conditions or ():
        if name not in occurring:
            raise InputError(
                f"no event is of the condition {name!r}.{nearest(name, occurring)} There are "
                f"{', '.join(map(repr, occurring))}."
            )


def _usable(
    table: pd.DataFrame, conditions: Sequence[str] | None, left_out: Counter[str]
) -> pd.DataFrame:
    """Leave out events of which not enough is known, and those of other conditions."""
    nameless = table["trial_type"] == ""
    other = ~nameless & ~table["trial_type"].isin(conditions or table["trial_type"])
    endless = ~nameless & ~other & table["duration"].isna()
    for why, rows in (
        ("without a trial_type", nameless),
        ("of another condition", other),
        ("without a duration", endless),
    ):
        if rows.any():
            left_out[why] += int(rows.sum())
    return table.loc[~(nameless | other | endless), list(EVENT_COLUMNS)]


def _starts(duration: float, length: int, t_r: float, short: Short) -> list[float]:
    """Return where windows begin, in seconds after the onset of their block."""
    window = length * t_r
    # The small term forgives how seconds are rounded in files.
    number = math.floor(duration / window + 1e-3)
    if number < 1:
        return [(duration - window) / 2] if short == "centre" else []
    slack = duration - number * window
    return [slack / 2 + i * window for i in range(number)]


def _too_short(
    store: Store, scan: int, onset: float, duration: float, label: str, length: int
) -> str:
    """Say that a block is shorter than a window."""
    return (
        f"the block {label!r} at {onset:g} s of scan {_name(store, scan)} lasts {duration:g} s, "
        f"which is shorter than a window of {length} samples ({length * store.t_r:g} s). Use a "
        "model with shorter patches, centre windows on such blocks (short='centre', --short "
        "centre), or leave them out (drop)."
    )


def _outside(
    store: Store, scan: int, onset: float, delay: float, label: str, start: int, length: int
) -> str:
    """Say that a window does not lie within its scan."""
    return (
        f"the window of the block {label!r} at {onset:g} s of scan {_name(store, scan)}, with a "
        f"delay of {delay:g} s, is samples {start} to {start + length - 1}, but the scan has "
        f"{store.lengths[scan]}. Check that onsets are in seconds from the first volume, or leave "
        "such windows out (outside='drop', --outside drop)."
    )


def _name(store: Store, scan: int) -> Any:
    """Name a scan for a message."""
    return repr(str(store.scans["scan"].iloc[scan]))
