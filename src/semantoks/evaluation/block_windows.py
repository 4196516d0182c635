"""The windows of the series that belong to blocks.

BOLD follows what evokes it with a delay. A block from 30 s to 50 s is therefore read from 35 s to
55 s of the series, at the default of 5 s: the response of Glover peaks 5 s after a short event and
is as long as the block. Who fits the delay does so on validation subjects, never on test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.evaluation.events import EVENT_COLUMNS

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
    for scan in sorted(events):
        kept = _usable(events[scan], conditions, left_out)
        for onset, duration, label in kept.itertuples(index=False):
            starts = _starts(duration, length, store.t_r, short)
            if not starts:
                if short == "refuse":
                    raise InputError(_too_short(store, scan, onset, duration, label, length))
                left_out["shorter than a window"] += 1
            for begin in starts:
                start = round((onset + delay + begin) / store.t_r)
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
