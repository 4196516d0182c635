"""The two halves of every scan, described apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    SmallerAtlas,
    encode_scans,
    scans_of,
    window_length,
)
from semantoks.model.encoder import SemantoksEncoder


def half_features(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    features: FeatureKind = "mean+cls",
    windows: int = 4,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the first and the second half of every scan.

    Scans were filtered and z-scored as a whole, so that samples near the cut know of each other for
    about the longest period that passed, and the level of a ROI in one half tells that of the
    other.
    """
    check_halves(store, encoder, window=window, smaller_atlas=smaller_atlas)
    whole = scans_of(store, encoder, smaller_atlas)
    first, second = (
        encode_scans(
            encoder,
            half_of(whole, half),
            features=features,
            windows=windows,
            window=window,
            progress=progress,
        )
        for half in (0, 1)
    )
    return first, second


def check_halves(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
) -> None:
    """Refuse scans of which half does not hold a window, before anything is computed."""
    whole, wanted = scans_of(store, encoder, smaller_atlas), window_length(encoder, window)
    short = np.flatnonzero(whole.lengths // 2 < wanted)
    if not len(short):
        return
    first, fits = int(short[0]), int(whole.lengths.min()) // 2 // encoder.patch * encoder.patch
    advice = f"Take windows of at most {fits} samples (--window {fits})" if fits else "Leave them"
    raise InputError(
        f"half of {len(short)} scan(s) of {store.path} is shorter than the window of {wanted} "
        f"samples, the first is {whole.name(first)} with {whole.lengths[first]} in all. {advice}"
        + (", or prepare a store " if fits else " out: prepare a store ")
        + f"of scans with at least {2 * wanted} samples."
    )


def half_of(scans: Scans, half: int) -> Scans:
    """Return one half of every scan."""
    lengths = scans.lengths // 2
    offset = (scans.lengths - lengths) * half

    def read(
        which: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        return scans.read(which, starts + offset[which], length)

    def name(scan: int) -> str:
        return f"{'second' if half else 'first'} half of {scans.name(scan)}"

    return Scans(lengths, scans.valid, read, name)
