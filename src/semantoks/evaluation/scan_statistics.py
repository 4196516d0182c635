"""Numbers of a scan that need all of its windows, and correlations of time courses."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_ROWS: Final = 100
"""Series that a second-order description compares at most: 4,950 pairs."""
_SHRINKAGE: Final = 0.5
"""Share of the identity in a covariance matrix whose logarithm is taken."""
_STRONGEST: Final = 1 - 1e-6
"""Correlations are cut here, so that two identical series have a finite Fisher z."""


def token_statistics(
    tokens: Float[NDArray[np.floating[Any]], "window network patch dim"],
) -> Float[Matrix, "network_2_dim"]:
    """Take mean and standard deviation of every network's tokens over patches and windows."""
    tokens = np.asarray(tokens, dtype=np.float64)
    return np.stack([tokens.mean((0, 2)), tokens.std((0, 2))], axis=1).ravel()


def second_order(
    tokens: Float[NDArray[np.floating[Any]], "window network patch dim"],
) -> Float[Matrix, "pair"]:
    """Correlate the tokens of networks over all patches and windows of a scan.

    Every token is projected onto q orthonormal directions, which were drawn once and for all for
    its width; q is as large as keeps network * q at 100 at most, and at least 1. That makes
    network * q series over (window, patch). The numbers are the Fisher z of the correlation of
    every pair of them, also of the same network. Drawn directions keep inner products on average,
    and, other than principal ones, let no scan depend on another.
    """
    _, networks, _, dim = tokens.shape
    projected = np.asarray(tokens, dtype=np.float64) @ _directions(dim, n_directions(networks, dim))
    series = projected.transpose(1, 3, 0, 2).reshape(networks * projected.shape[-1], -1)
    return fisher_z_of(correlation(series))


def correlation(
    series: Float[NDArray[np.floating[Any]], "... row time"],
) -> Float[Matrix, "... row row"]:
    """Correlate series with one another."""
    centred = np.asarray(series, dtype=np.float64)
    size = np.linalg.norm(centred, axis=-1, keepdims=True)
    centred = centred - centred.mean(-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    # What is left of a constant by rounding is no variation.
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-6 * size)
    found = unit @ unit.swapaxes(-1, -2)
    rows = np.arange(found.shape[-1])
    found[..., rows, rows] = 1.0
    return np.asarray(found)


def fisher_z_of(correlations: Float[Matrix, "... row row"]) -> Float[Matrix, "... pair"]:
    """Take the Fisher z of every pair of a correlation matrix."""
    row, column = np.tril_indices(correlations.shape[-1], -1)
    pairs = correlations[..., row, column]
    return np.asarray(np.arctanh(np.clip(pairs, -_STRONGEST, _STRONGEST)))


def log_of(covariances: Float[Matrix, "window row row"]) -> Float[Matrix, "entry"]:
    """Take the matrix logarithm of the mean of covariance matrices, half way to the identity.

    Where covariances are many, each says something of all others. The logarithm takes indirect
    ones out, as partial correlations do, and is less noisy; halfway to the identity, which is the
    covariance of ROIs that have nothing in common, it exists however short a scan is.
    """
    mean = covariances.mean(axis=0)
    lower = np.tril_indices(len(mean))
    if not np.isfinite(mean).all():  # of broken weights; whoever asked says so
        return np.full(len(lower[0]), np.nan)
    values, vectors = np.linalg.eigh((1 - _SHRINKAGE) * mean + _SHRINKAGE * np.eye(len(mean)))
    return np.asarray(((vectors * np.log(values)) @ vectors.T)[lower])


def n_directions(networks: int, dim: int) -> int:
    """Say onto how many directions `second_order` projects tokens.

    Examples
    --------
    >>> n_directions(9, 768)
    11
    """
    return max(1, min(dim, _ROWS // networks))


def _directions(dim: int, count: int) -> Matrix:
    """Draw orthonormal directions (dim, count), the same ones at every call."""
    drawn = np.random.default_rng(0).standard_normal((dim, count))
    return np.asarray(np.linalg.qr(drawn)[0])
