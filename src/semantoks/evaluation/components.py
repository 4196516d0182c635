"""A short description without labels or training: components of the logarithm of connectivity.

With R the correlation of a whole scan, log(.7 R + .3 I) is described by its leading components
over some scans, in order and with their own spread: a flat spectrum would let noise speak as loud
as what is reliable. Scores of the scans that made the basis are larger than those of others would
be; they are shrunk, so that a linear model learns on the scale on which it is tested.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import InputError

SHARE: Final = 0.7
"""Of the correlation; the rest is the identity, so that there is a logarithm."""
MOST: Final = 400
"""Components at most."""
_SMALLEST: Final = 1e-6
_SHARE_OF_SCANS: Final = 0.55
"""Components a scan at most."""
_NOISE_FROM: Final = (256, 0.3)
"""Eigenvalues after these many, or after this share of scans, count as noise."""
_SMALLEST_FACTOR: Final = 0.05


def has_signal(
    series: Float[NDArray[np.floating[Any]], "roi time"], valid: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Tell which ROIs are valid and change."""
    alive = np.asarray(np.ptp(series, axis=1) > 0)
    return alive if valid is None else alive & valid


def log_connectivity(
    series: Float[NDArray[np.floating[Any]], "roi time"], valid: NDArray[np.bool_] | None = None
) -> Float[NDArray[np.float64], "entry"]:
    """Compute the lower triangle, with diagonal, of log(.7 R + .3 I).

    A ROI without signal is given no bond to others and the diagonal that others have on average.

    Examples
    --------
    >>> series = np.array([[1.0, -1, 1, -1], [1, 1, -1, -1], [3, 3, 3, 3]])
    >>> log_connectivity(series).round(3).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    kept = np.flatnonzero(has_signal(series, valid))
    whole = np.zeros((len(series), len(series)))
    if len(kept):
        r = np.atleast_2d(np.corrcoef(series[kept].astype(np.float64)))
        logarithm = matrix_logarithm(SHARE * r + (1 - SHARE) * np.eye(len(kept)), _SMALLEST)
        np.fill_diagonal(whole, logarithm.diagonal().mean())
        whole[np.ix_(kept, kept)] = logarithm
    return whole[np.tril_indices(len(series))]


def matrix_logarithm(
    matrices: Float[NDArray[np.float64], "*batch roi roi"], smallest: float = 0.0
) -> Float[NDArray[np.float64], "*batch roi roi"]:
    """Compute the logarithms of symmetric matrices; smaller eigenvalues are raised to smallest."""
    values, vectors = np.linalg.eigh(matrices)
    values = np.log(np.maximum(values, smallest))
    return np.asarray((vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def log_connectivity_features(store: Store) -> Float[NDArray[np.float32], "scan entry"]:
    """Compute the logarithm of the connectivity of every scan."""
    rois = len(store.atlas)
    rows = np.empty((len(store), rois * (rois + 1) // 2), dtype=np.float32)
    for scan in range(len(store)):
        rows[scan] = log_connectivity(store.series(scan), store.valid[scan])
    return rows


class Components(NamedTuple):
    """Leading components of some scans, and the scale on which others are described."""

    mean: Float[NDArray[np.float64], "entry"]
    basis: Float[NDArray[np.float64], "entry component"]  # of length √taper

    def transform(
        self, rows: Float[NDArray[np.floating[Any]], "scan entry"]
    ) -> Float[NDArray[np.float64], "scan component"]:
        """Describe scans that did not make the basis."""
        return np.asarray((rows - self.mean) @ self.basis)


def fit_components(
    rows: Float[NDArray[np.floating[Any]], "scan entry"],
) -> tuple[Components, Float[NDArray[np.float64], "scan component"]]:
    """Learn components of scans, and describe these very scans.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((40, 300))
    >>> components, own = fit_components(rows)
    >>> own.shape
    (40, 22)
    """
    n = len(rows)
    if n < 4:
        raise InputError(f"components need at least 4 scans to be learned from, but {n} came.")
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > 1e-10 * values[0]).sum()) if values[0] > 0 else 0
    k = min(MOST, int(_SHARE_OF_SCANS * n), rank - 1)
    if k < 1:
        raise InputError(f"the {n} scans to learn components from are all alike; give others.")
    noise = values[min(_NOISE_FROM[0], int(_NOISE_FROM[1] * n)) : n - 1].mean()
    root_taper = np.sqrt((values[:k] - values[k]) / values[:k])
    shrink = np.maximum(1 - noise / values[:k], _SMALLEST_FACTOR)
    basis = centred.T @ (vectors[:, :k] / np.sqrt(values[:k]) * root_taper)
    own = vectors[:, :k] * np.sqrt(values[:k]) * shrink * root_taper
    return Components(mean, np.asarray(basis)), np.asarray(own)
