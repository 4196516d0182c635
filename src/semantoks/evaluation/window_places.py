"""Which windows are cut from which scans."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.evaluation.readout import Scans, window_starts


class Places(NamedTuple):
    """Where windows are."""

    scan: NDArray[np.intp]
    start: NDArray[np.int64]
    length: int


def place_windows(scans: Scans, length: int, windows: int) -> Places:
    """Place windows evenly over every scan."""
    short = np.flatnonzero(scans.lengths < length)
    if len(short):
        raise InputError(
            f"{len(short)} scan(s) are shorter than the window of {length} samples, the first is "
            f"{scans.name(int(short[0]))} with {scans.lengths[short[0]]}. Leave them out, or read "
            "shorter windows (window, in whole patches)."
        )
    starts = [window_starts(int(n), length, windows) for n in scans.lengths]
    scan = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
    return Places(scan, np.concatenate([*starts, np.empty(0, dtype=np.int64)]), length)


def check_scan_order(scan: NDArray[np.intp]) -> None:
    """Refuse windows that are not in the order of scans 0, 1, ... without a gap."""
    steps = np.diff(np.asarray(scan, dtype=np.intp), prepend=-1)
    if len(steps) and (steps[0] != 1 or not np.isin(steps, (0, 1)).all()):
        raise InputError(
            "windows must come scan by scan, 0, 1, 2 and so on, without a gap; give `scan` as "
            "positions of the scans and use take() to choose among them."
        )


def windows_of_scans(
    scan: NDArray[np.intp], rows: Any
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the windows of some scans.

    Examples
    --------
    >>> windows_of_scans(np.array([0, 0, 1, 2, 2]), [2, 0])
    (array([3, 4, 0, 1]), array([0, 0, 1, 1]))
    """
    rows = np.asarray(rows, dtype=np.intp)
    n_scans = int(scan[-1]) + 1 if len(scan) else 0
    if len(rows) and not (rows.min() >= 0 and rows.max() < n_scans):
        raise InputError(
            f"scans {rows.min()} to {rows.max()} were asked for; there are windows of scans 0 to "
            f"{n_scans - 1}."
        )
    if len(np.unique(rows)) != len(rows):
        raise InputError("a scan was asked for more than once; name every row once.")
    counts = np.bincount(scan, minlength=n_scans)
    starts = np.cumsum(counts) - counts
    taken = np.repeat(np.arange(len(rows)), counts[rows])
    ends = np.cumsum(counts[rows])
    within = np.arange(len(taken)) - np.repeat(ends - counts[rows], counts[rows])
    return starts[rows][taken] + within, taken
