"""Functional connectivity of the two halves of every scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semantoks.benchmark.baselines.connectivity import fisher_z
from semantoks.data.store import Store


def connectivity_halves(store: Store) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the Fisher z of Pearson's correlations in each half of every scan."""
    lower = np.tril_indices(len(store.atlas), -1)
    halves = np.empty((2, len(store), len(lower[0])), dtype=np.float32)
    for scan in range(len(store)):
        series, valid = store.series(scan), store.valid[scan]
        length = series.shape[1] // 2
        halves[0, scan] = fisher_z(series[:, :length], valid)[lower]
        halves[1, scan] = fisher_z(series[:, -length:], valid)[lower]
    return halves[0], halves[1]
