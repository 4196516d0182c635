"""What is read out of an encoder: windows of scans, their description, one row a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from semantoks.data.placement import roi_positions
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.description import (
    PARTS,
    FeatureKind,
    Seen,
    feature_names,
    feature_parts,
    read_out,
)
from semantoks.model.encoder import Encoding, SemantoksEncoder, network_mask
from semantoks.training.precision import Precision, autocast, choose_precision, kept_memory

__all__ = [
    "FeatureKind",
    "Scans",
    "SmallerAtlas",
    "check_whole",
    "encode_scans",
    "feature_names",
    "read_out",
    "scans_of",
    "window_length",
    "window_starts",
]

SmallerAtlas = Literal["refuse", "mask"]
"""What becomes of scans of an atlas that is a part of the model's."""

_NOTHING: Final = Encoding(torch.empty(0), torch.empty(0))

Reader = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.float32]]


@dataclass(frozen=True)
class Scans:
    """Scans that windows can be cut from, ROIs in the order of the model's atlas."""

    lengths: NDArray[np.int64]
    valid: NDArray[np.bool_]
    read: Reader
    name: Callable[[int], str]

    def part(self, first: int, stop: int) -> Scans:
        """Take neighbouring scans."""
        return Scans(
            self.lengths[first:stop],
            self.valid[first:stop],
            lambda scans, starts, length: self.read(scans + first, starts, length),
            lambda scan: self.name(scan + first),
        )


def check_whole(name: str, value: object) -> int:
    """Refuse what is not a whole number of at least 1.

    Examples
    --------
    >>> check_whole("windows", 8)
    8
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    return int(value)


def window_starts(length: int, window: int, n_windows: int) -> NDArray[np.int64]:
    """Place windows evenly over a scan, the first at its beginning, the last at its end.

    Examples
    --------
    >>> window_starts(200, 100, 5)
    array([  0,  25,  50,  75, 100])
    >>> window_starts(101, 100, 8)
    array([0, 1])
    """
    n_windows = check_whole("windows", n_windows)
    if length < window:
        raise InputError(
            f"a scan of {length} samples is shorter than the window of {window}. Leave it out, or "
            "read shorter windows."
        )
    return np.unique(np.rint(np.linspace(0, length - window, n_windows)).astype(np.int64))


def window_length(encoder: SemantoksEncoder, window: int | None) -> int:
    """Return the length of the windows to read, the model's own if none is wanted."""
    if window is None:
        return encoder.window
    patch = encoder.patch
    window = check_whole("window", window)
    if window < patch or window % patch:
        raise InputError(
            f"windows of {window} samples do not hold whole patches of {patch}; the nearest that "
            f"do have {max(round(window / patch), 1) * patch}."
        )
    return window


def scans_of(
    store: Store, encoder: SemantoksEncoder, smaller_atlas: SmallerAtlas = "refuse"
) -> Scans:
    """Take the scans of a store, in the model's atlas."""
    if smaller_atlas not in get_args(SmallerAtlas):
        raise ConfigurationError(f"smaller_atlas is 'refuse' or 'mask', not {smaller_atlas!r}.")

    def name(scan: int) -> str:
        return repr(store.scans["scan"].iloc[scan])

    if store.atlas == encoder.atlas:
        return Scans(store.lengths, store.valid, store.windows, name)
    if smaller_atlas == "refuse":
        raise InputError(
            f"the store has atlas {store.atlas.name!r} (fingerprint {store.atlas.fingerprint}, "
            f"{len(store.atlas)} ROIs), but the model was made for {encoder.atlas.name!r} "
            f"(fingerprint {encoder.atlas.fingerprint}, {len(encoder.atlas)} ROIs). Prepare the "
            "recordings with the model's atlas, or pretrain a model on this store."
        )
    placed = roi_positions(store.atlas, encoder.atlas)

    def read(
        scans: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        windows = np.zeros((len(scans), len(encoder.atlas), length), dtype=np.float32)
        windows[:, placed] = store.windows(scans, starts, length)
        return windows

    valid = np.zeros((len(store), len(encoder.atlas)), dtype=bool)
    valid[:, placed] = store.valid
    return Scans(store.lengths, valid, read, name)


def encode_scans(
    encoder: SemantoksEncoder,
    scans: Scans,
    *,
    features: FeatureKind = "mean+cls",
    windows: int = 8,
    window: int | None = None,
    batch_size: int = 64,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Describe every scan by what is read out of its windows.

    Most numbers are averaged over windows; those of "network-statistics", "second-order" and
    "log-synchrony" are of the tokens or correlations of all windows of a scan together. Networks
    of which a scan has no valid ROI are masked in all its windows.
    """
    parts = feature_parts(features)
    rows = _Rows(encoder, parts, len(scans.lengths))
    length = window_length(encoder, window)
    batch_size = check_whole("batch_size", batch_size)
    scan, start = _place_windows(scans, length, windows)
    network_valid = encoder.network_valid(scans.valid)
    device = next(encoder.parameters()).device
    chosen = choose_precision(precision, device, dim=encoder.dim)
    encodes = any(PARTS[part].encodes for part in parts)
    with _evaluating(encoder), kept_memory(device), autocast(chosen, device):
        for first in range(0, len(scan), batch_size):
            batch = slice(first, first + batch_size)
            series = torch.from_numpy(scans.read(scan[batch], start[batch], length)).to(device)
            mask = network_mask(network_valid[scan[batch]], length // encoder.patch)
            mask = None if mask is None else mask.to(device)
            encoding = encoder(series, mask) if encodes else _NOTHING
            rows.add(scan[batch], Seen(series, mask, encoding))
            if progress is not None:
                progress(min(first + batch_size, len(scan)), len(scan))
    found = rows.finish(np.bincount(scan, minlength=len(scans.lengths)))
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} scan(s) are not finite, the first is "
            f"{scans.name(int(broken[0]))}: the model's weights or this scan are broken."
        )
    return found.astype(np.float32)


class _Rows:
    """Rows of features that are filled batch by batch; windows come in the order of the scans."""

    def __init__(self, encoder: SemantoksEncoder, parts: tuple[str, ...], scans: int) -> None:
        widths = [len(PARTS[part].names(encoder)) for part in parts]
        ends = np.cumsum([0, *widths])
        self.encoder = encoder
        self.columns = {p: slice(a, b) for p, a, b in zip(parts, ends, ends[1:], strict=False)}
        self.rows = np.zeros((scans, ends[-1]))
        # What is kept of the windows of the scan that has come last, which may not be complete.
        self.open: dict[str, list[NDArray[Any]]] = {
            part: [] for part in parts if PARTS[part].describe is not None
        }
        self.last = -1

    def add(self, scan: NDArray[np.int64], seen: Seen) -> None:
        """Take the windows of a batch in."""
        kept: dict[str, NDArray[Any]] = {}
        for part, columns in self.columns.items():
            values = PARTS[part].look(self.encoder, seen).float().cpu().numpy()
            if part in self.open:
                kept[part] = values
            else:
                np.add.at(self.rows[:, columns], scan, values)
        if not kept:
            return
        for one in np.unique(scan):
            if one != self.last:
                self._close()
                self.last = int(one)
            for part, values in kept.items():
                self.open[part].append(values[scan == one])

    def finish(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return all rows, given how many windows each scan has."""
        self._close()
        for part, columns in self.columns.items():
            if part not in self.open:
                self.rows[:, columns] /= windows[:, None]
        return self.rows

    def _close(self) -> None:
        """Describe the scan whose windows are complete."""
        for part, values in self.open.items():
            describe = PARTS[part].describe
            if values and describe is not None:
                self.rows[self.last, self.columns[part]] = describe(np.concatenate(values))
                values.clear()


def check_lengths(scans: Scans, window: int) -> None:
    """Refuse scans that are shorter than a window."""
    short = np.flatnonzero(scans.lengths < window)
    if len(short):
        raise InputError(
            f"{len(short)} scan(s) are shorter than the window of {window} samples, the first is "
            f"{scans.name(int(short[0]))} with {scans.lengths[short[0]]}. Leave them out (prepare "
            f"the store with min_samples={window}), or read shorter windows (window, in whole "
            "patches)."
        )


def _place_windows(
    scans: Scans, window: int, windows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the scan and the first sample of every window."""
    check_lengths(scans, window)
    starts = [window_starts(int(length), window, windows) for length in scans.lengths]
    scan = np.repeat(np.arange(len(starts), dtype=np.int64), [len(s) for s in starts])
    return scan, np.concatenate([*starts, np.empty(0, dtype=np.int64)])


@contextmanager
def _evaluating(encoder: SemantoksEncoder) -> Iterator[None]:
    """Switch to evaluation without gradients, and back."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        encoder.train(training)
