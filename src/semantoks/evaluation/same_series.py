"""The same person under two ids, found by the series themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.splits import subjects_of

ALIKE: Final = 0.9
"""Correlation from which two series count as the same recording.

Band-passed series of two people stay far below it at every shift, and so do two scans of one."""

_COURSES: Final = 8
_EDGES: Final = 48
_NEIGHBOURS: Final = 5
_LEAST_OVERLAP: Final = 40
_ROWS_AT_ONCE: Final = 2048
_NEARLY_ONE: Final = 1 - 1e-6
"""What rounding may not exceed: a correlation of 1 says that every number is the same."""


class SameSeries(NamedTuple):
    """Two scans of different subjects that are the same recording."""

    scans: tuple[str, str]
    subjects: tuple[str, str]
    correlation: float
    shift: int


def check_people(store: Store, scans: Sequence[str] | None = None) -> None:
    """Refuse a store in which a person stands under two ids.

    See Also
    --------
    same_series : What counts as the same.
    """
    found = same_series(store, scans)
    if not found:
        return
    first = found[0]
    how = (
        "every number is the same"
        if first.correlation == 1
        else f"correlation {first.correlation:.3f} at a shift of {first.shift} samples"
    )
    raise InputError(
        f"{len(found)} pair(s) of scans in {store.path} are of different subjects but the same "
        f"recording, the first are {first.scans[0]!r} of subject {first.subjects[0]!r} and "
        f"{first.scans[1]!r} of subject {first.subjects[1]!r} ({how}). A split could learn from "
        "one and test the other. Leave both out (same_recordings='leave-out', --same-recordings "
        "leave-out), or, if it is known whose it is, keep that one (leave_out, --leave-out)."
    )


def same_series(
    store: Store, scans: Sequence[str] | None = None, *, alike: float = ALIKE
) -> tuple[SameSeries, ...]:
    """Find scans of different subjects that are the same recording.

    Exact copies are found by a hash of the stored numbers. For copies that were cut or processed
    otherwise, the scans whose connectivity (its difference to the mean of all) is nearest to each
    other are compared by their time courses, at every shift that leaves at least 40 samples or
    half of the shorter scan in common. Two parts of one recording without a sample in common are
    not found.
    """
    names, subjects = store.scans["scan"].astype(str).to_numpy(), subjects_of(store.scans)
    rows = np.arange(len(store)) if scans is None else _rows_of(names, scans, store)
    if len(rows) < 2:
        return ()
    exact = set(_identical(store, rows, subjects))
    courses, signatures = _describe(store, rows)
    pairs: dict[tuple[int, int], tuple[float, int]] = dict.fromkeys(exact, (1.0, 0))
    for i, j in _near(signatures):
        a, b = int(rows[i]), int(rows[j])
        if subjects[a] != subjects[b] and (a, b) not in pairs:
            correlation, shift = _best_shift(courses[i], courses[j])
            if correlation >= alike:
                pairs[a, b] = (correlation, shift)
    return tuple(
        SameSeries(
            (str(names[a]), str(names[b])), (str(subjects[a]), str(subjects[b])), *pairs[a, b]
        )
        for a, b in sorted(pairs)
    )


def _rows_of(names: NDArray[Any], scans: Sequence[str], store: Store) -> NDArray[np.intp]:
    """Return the places of scans in the store."""
    place = {name: row for row, name in enumerate(names)}
    unknown = [str(scan) for scan in scans if str(scan) not in place]
    if unknown:
        raise InputError(
            f"{len(unknown)} scan(s) are not in {store.path}, the first is {unknown[0]!r}."
        )
    return np.array(sorted({place[str(scan)] for scan in scans}), dtype=np.intp)


def _identical(
    store: Store, rows: NDArray[np.intp], subjects: NDArray[Any]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of scans of different subjects with the same stored numbers."""
    first: dict[bytes, int] = {}
    for row in rows.tolist():
        start = store.offsets[row]
        series = store.samples[start : start + store.lengths[row]]
        digest = hashlib.sha256(np.ascontiguousarray(series).tobytes()).digest()
        other = first.setdefault(digest, row)
        if subjects[other] != subjects[row]:
            yield other, row


def _describe(
    store: Store, rows: NDArray[np.intp]
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a few time courses of every scan, and the correlations of some more."""
    # Random signs mix all ROIs, so that no choice of ROIs decides and missing ones matter little.
    draw = np.random.default_rng(0).choice([-1.0, 1.0], (len(store.atlas), _EDGES))
    signs: NDArray[np.float32] = draw.astype(np.float32)
    lower = np.tril_indices(_EDGES, -1)
    courses: list[NDArray[np.float32]] = []
    edges: NDArray[np.float32] = np.empty((len(rows), len(lower[0])), dtype=np.float32)
    for place, row in enumerate(rows.tolist()):
        mixed = store.series(row).T @ signs
        mixed -= mixed.mean(axis=0)
        spread = np.linalg.norm(mixed, axis=0)
        mixed /= np.where(spread > 0, spread, 1)
        edges[place] = (mixed.T @ mixed)[lower]
        courses.append(np.ascontiguousarray(mixed[:, :_COURSES].T))
    edges -= edges.mean(axis=0)
    length = np.linalg.norm(edges, axis=1, keepdims=True)
    edges /= np.where(length > 0, length, 1)
    return courses, edges


def _near(signatures: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return every scan with those whose signature is nearest to its own."""
    n = len(signatures)
    k = min(_NEIGHBOURS, n - 1)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, n, _ROWS_AT_ONCE):
        alike = signatures[start : start + _ROWS_AT_ONCE] @ signatures.T
        own = np.arange(len(alike))
        alike[own, start + own] = -np.inf
        nearest = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        pairs |= {
            (min(start + i, j), max(start + i, j))
            for i, row in enumerate(nearest.tolist())
            for j in row
        }
    return sorted(pairs)


def _best_shift(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, int]:
    """Return the largest correlation of two scans' time courses (course, time), and its shift."""
    n, m = a.shape[1], b.shape[1]
    overlap = min(n, m, max(_LEAST_OVERLAP, min(n, m) // 2))
    shifts = np.arange(overlap - m, n - overlap + 1)
    size = fft.next_fast_len(n + m, real=True)
    product = fft.irfft(fft.rfft(a, size) * np.conj(fft.rfft(b, size)), size)
    product = product.sum(axis=0)[shifts % size]
    begin, end = np.maximum(shifts, 0), np.minimum(shifts + m, n)
    energy_a = _energy(a, begin, end)
    energy_b = _energy(b, begin - shifts, end - shifts)
    # The windows are not centred again: band-passed courses have no mean to speak of.
    correlation = product / np.sqrt(np.maximum(energy_a * energy_b, 1e-12))
    best = int(np.argmax(correlation))
    return float(min(correlation[best], _NEARLY_ONE)), int(shifts[best])


def _energy(
    courses: NDArray[np.float32], begin: NDArray[np.intp], end: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the sum of squares between samples."""
    total = np.concatenate([[0.0], np.cumsum((courses.astype(np.float64) ** 2).sum(axis=0))])
    return np.asarray(total[end] - total[begin])
