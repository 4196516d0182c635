"""Functional connectivity: what any description of a scan has to be held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance, LedoitWolf

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError

EdgeKind = Literal["correlation", "partial"]
"""Pearson's correlation of two ROIs, or their correlation given all other ROIs."""

_STRONGEST: Final = 1 - 1e-6
"""Correlations are cut here, so that two identical ROIs have a finite Fisher z."""


def connectivity_features(
    store: Store,
    *,
    kind: EdgeKind = "correlation",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Compute the Fisher z of the correlation of every pair of ROIs, of every scan.

    Parameters
    ----------
    store : Store
        The scans; whole series are used.
    kind : {"correlation", "partial"}
        Pearson's correlation, or the partial correlation given all other ROIs (from the precision
        of the covariance that Ledoit and Wolf shrink: there are about as many ROIs as samples).
    progress : callable, optional
        Called with the number of scans that are done and the number of all.

    Returns
    -------
    ndarray of float32, shape (scan, edge)
        The ROI × (ROI - 1) / 2 edges of the lower triangle, row by row; 0 where a ROI of the scan
        carries no signal.

    Raises
    ------
    ConfigurationError
        If the kind is unknown.
    """
    rois = len(store.atlas)
    lower = np.tril_indices(rois, -1)
    edges = np.empty((len(store), len(lower[0])), dtype=np.float32)
    for scan in range(len(store)):
        edges[scan] = fisher_z(store.series(scan), store.valid[scan], kind=kind)[lower]
        if progress is not None:
            progress(scan + 1, len(store))
    return edges


def fisher_z(
    series: Float[NDArray[np.floating[Any]], "roi time"],
    valid: NDArray[np.bool_] | None = None,
    *,
    kind: EdgeKind = "correlation",
) -> Float[NDArray[np.float64], "roi roi"]:
    """Compute the Fisher z of the correlations of one scan.

    Examples
    --------
    >>> series = np.array([[1.0, 2, 3, 4], [1, -1, -1, 1], [5, 5, 5, 5]])
    >>> fisher_z(series + np.array([[0], [1], [0]])).round(2).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if kind not in ("correlation", "partial"):
        raise ConfigurationError(f"edges are correlation or partial, not {kind!r}.")
    alive = np.ptp(series, axis=1) > 0
    if valid is not None:
        alive &= valid
    z = np.zeros((len(series), len(series)))
    kept = np.flatnonzero(alive)
    if len(kept) > 1:
        measure = _measure(kind)
        correlation = measure.fit_transform([series[kept].T.astype(np.float64)])[0]
        np.fill_diagonal(correlation, 0.0)
        z[np.ix_(kept, kept)] = np.arctanh(np.clip(correlation, -_STRONGEST, _STRONGEST))
    return z


def _measure(kind: EdgeKind) -> Any:
    """Make nilearn's measure of connectivity."""
    if kind == "partial":
        shrunk = LedoitWolf(store_precision=False)
        return ConnectivityMeasure(shrunk, kind="partial correlation", standardize=False)
    empirical = EmpiricalCovariance(store_precision=False)
    return ConnectivityMeasure(empirical, kind="correlation", standardize=False)
