"""Features and tokens of the windows of scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    SmallerAtlas,
    check_whole,
    evaluating,
    feature_names,
    read_out,
    scans_of,
    window_length,
    window_starts,
)
from semantoks.model.encoder import Encoding, SemantoksEncoder, network_mask
from semantoks.training.precision import Precision, autocast, choose_precision, kept_memory


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


TokenType = Literal["float16", "float32"]
"""How tokens are kept in memory."""

_GIGABYTE: Final = 1e9


@dataclass(frozen=True, eq=False)
class WindowFeatures:
    """Features of the windows of scans.

    Examples
    --------
    >>> windows = WindowFeatures(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1]))
    >>> windows.take([1]).scan, windows.scan_means().shape
    (array([0, 0]), (2, 4))
    """

    features: NDArray[np.float32]
    scan: NDArray[np.intp]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = len(self.names) in (0, self.features.shape[-1])
        if self.features.ndim != 2 or len(self.features) != len(self.scan) or not named:
            raise InputError(
                "features of windows must have shape (window, feature), with a scan a window and "
                f"a name a feature; came features {self.features.shape}, {len(self.scan)} scans "
                f"and {len(self.names)} names."
            )
        check_scan_order(self.scan)

    @property
    def n_scans(self) -> int:
        """Number of scans."""
        return int(self.scan[-1]) + 1 if len(self.scan) else 0

    def take(self, rows: Any) -> WindowFeatures:
        """Take the windows of some scans."""
        windows, scan = windows_of_scans(self.scan, rows)
        return WindowFeatures(self.features[windows], scan, self.names)

    def scan_means(self) -> Float[NDArray[np.float64], "scan feature"]:
        """Average over the windows of every scan."""
        starts = np.flatnonzero(np.diff(self.scan, prepend=-1))
        if not len(starts):
            return np.empty((0, self.features.shape[1]))
        totals = np.add.reduceat(self.features, starts, axis=0, dtype=np.float64)
        return np.asarray(totals / np.bincount(self.scan)[:, None])


@dataclass(frozen=True, eq=False)
class WindowTokens:
    """Tokens of the windows of scans."""

    tokens: NDArray[Any]
    scan: NDArray[np.intp]

    def __post_init__(self) -> None:
        if self.tokens.ndim != 4 or len(self.tokens) != len(self.scan):
            raise InputError(
                "tokens of windows must have shape (window, network, patch, dim), with a scan a "
                f"window; came tokens {self.tokens.shape} and {len(self.scan)} scans."
            )
        check_scan_order(self.scan)

    @property
    def n_scans(self) -> int:
        """Number of scans."""
        return int(self.scan[-1]) + 1 if len(self.scan) else 0

    def take(self, rows: Any) -> WindowTokens:
        """Take the windows of some scans."""
        windows, scan = windows_of_scans(self.scan, rows)
        return WindowTokens(self.tokens[windows], scan)


def window_features(
    store: Store,
    encoder: SemantoksEncoder,
    features: FeatureKind = "mean+cls",
    *,
    windows: int = 8,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
    batch_size: int = 64,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> WindowFeatures:
    """Read every window of every scan out of the encoder.

    As `embed`, but before windows are averaged.

    Parameters
    ----------
    store : Store
        The scans.
    encoder : SemantoksEncoder
        The model; used where its weights are, and left in the mode that it came in.
    features : {"mean+cls", "mean", "cls", "networks", ...}
        What is read out.
    windows : int
        Windows a scan, evenly spaced; fewer of a scan that has fewer places.
    window : int, optional
        Samples in a window, a multiple of the model's patch; the model's window by default.
    smaller_atlas : {"refuse", "mask"}
        What becomes of a store whose ROIs are only a part of the model's.
    batch_size : int
        Windows that are encoded at once.
    precision : {"auto", "float32", "bf16", "fp16"}
        Of matrix products.
    progress : callable, optional
        Called with the number of windows that are done and the number of all.

    Returns
    -------
    WindowFeatures
        One row a window, scans in the order of the store.

    Raises
    ------
    InputError
        If the atlas differs, a scan is shorter than a window, or features are not finite.
    """
    names = feature_names(encoder, features)
    scans = scans_of(store, encoder, smaller_atlas)
    places = place_windows(scans, window_length(encoder, window), windows)
    rows = np.empty((len(places.scan), len(names)), dtype=np.float32)
    options = _Reading(check_whole("batch_size", batch_size), precision, progress)
    for batch, encoding in _encodings(encoder, scans, places, options):
        rows[batch] = read_out(encoding, features).float().cpu().numpy()
        _check_finite(rows[batch], places.scan[batch], scans)
    return WindowFeatures(rows, places.scan, tuple(names))


def window_tokens(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    windows: int = 8,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
    dtype: TokenType = "float16",
    memory: float = 8.0,
    batch_size: int = 64,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> WindowTokens:
    """Keep all tokens of every window of every scan.

    Parameters
    ----------
    store : Store
        The scans.
    encoder : SemantoksEncoder
        The model; used where its weights are, and left in the mode that it came in.
    windows : int
        Windows a scan, evenly spaced; fewer of a scan that has fewer places.
    window : int, optional
        Samples in a window, a multiple of the model's patch; the model's window by default.
    smaller_atlas : {"refuse", "mask"}
        What becomes of a store whose ROIs are only a part of the model's.
    dtype : {"float16", "float32"}
        How tokens are kept.
    memory : float
        Most gigabytes that the tokens may take.
    batch_size : int
        Windows that are encoded at once.
    precision : {"auto", "float32", "bf16", "fp16"}
        Of matrix products.
    progress : callable, optional
        Called with the number of windows that are done and the number of all.

    Returns
    -------
    WindowTokens
        One lattice a window, scans in the order of the store.

    Raises
    ------
    InputError
        If the tokens would take more memory than allowed, the atlas differs, a scan is shorter
        than a window, or tokens are not finite.
    ConfigurationError
        If there is no such dtype.
    """
    if dtype not in get_args(TokenType):
        raise ConfigurationError(f"tokens are kept as float16 or float32, not {dtype!r}.")
    length = window_length(encoder, window)
    scans = scans_of(store, encoder, smaller_atlas)
    places = place_windows(scans, length, windows)
    lattice = (len(encoder.token_atlas.network_names), length // encoder.patch, encoder.dim)
    needed = len(places.scan) * int(np.prod(lattice)) * np.dtype(dtype).itemsize / _GIGABYTE
    if needed > memory:
        raise InputError(
            f"the tokens of {len(places.scan)} windows would take {needed:.1f} GB, and "
            f"{memory:g} GB are allowed. Read fewer windows a scan (windows), keep them as "
            "float16, or allow more (memory)."
        )
    tokens = np.empty((len(places.scan), *lattice), dtype=dtype)
    options = _Reading(check_whole("batch_size", batch_size), precision, progress)
    for batch, encoding in _encodings(encoder, scans, places, options):
        tokens[batch] = encoding.tokens.float().cpu().numpy()
        _check_finite(tokens[batch], places.scan[batch], scans)
    return WindowTokens(tokens, places.scan)


class _Reading(NamedTuple):
    """How windows are encoded."""

    batch_size: int
    precision: Precision
    progress: Callable[[int, int], None] | None


def _encodings(
    encoder: SemantoksEncoder, scans: Scans, places: Places, options: _Reading
) -> Iterator[tuple[slice, Encoding]]:
    """Encode windows batch by batch; networks that a scan lacks are masked."""
    network_valid = encoder.network_valid(scans.valid)
    device = next(encoder.parameters()).device
    chosen = choose_precision(options.precision, device, dim=encoder.dim)
    patches = places.length // encoder.patch
    with evaluating(encoder), kept_memory(device):
        for first in range(0, len(places.scan), options.batch_size):
            batch = slice(first, first + options.batch_size)
            scan, start = places.scan[batch], places.start[batch]
            series = torch.from_numpy(scans.read(scan, start, places.length)).to(device)
            mask = network_mask(network_valid[scan], patches)
            with torch.inference_mode(), autocast(chosen, device):
                encoding = encoder(series, None if mask is None else mask.to(device))
            yield batch, encoding
            if options.progress is not None:
                done = min(first + options.batch_size, len(places.scan))
                options.progress(done, len(places.scan))


def _check_finite(rows: NDArray[Any], scan: NDArray[np.intp], scans: Scans) -> None:
    """Refuse what is not finite, naming the scan."""
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"what was read of scan {scans.name(int(scan[np.argmin(finite)]))} is not finite: the "
            "model's weights or this scan are broken, or its tokens do not fit float16."
        )
