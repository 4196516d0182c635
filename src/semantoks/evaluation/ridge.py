"""Weighted ridge regression whose penalty is chosen by leaving out one subject at a time.

With s the roots of the weights, Z = s (X - weighted mean) and Z Zᵀ = V Λ Vᵀ, the fitted values of
s y for penalty λ are H s y, H = V Λ/(Λ + λ) Vᵀ + u uᵀ, u = s/|s| being the unpenalised intercept.
The residuals of the scans g of a subject, had the subject not been there, are
(I - H_gg)⁻¹ (s y - H s y)_g: exact, and no fit is repeated.

scikit-learn's RidgeCV leaves out scans, not subjects, so that a second session would help to
choose; with explicit folds it repeats every fit, and it gives ties to the weaker penalty. Where
every subject has one scan both agree (tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from semantoks.errors import InputError

Matrix = NDArray[np.float64]

PENALTIES: Final = np.logspace(-2, 8, 31)
"""Penalties to choose from, weakest first."""

_COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge regression."""

    coefficients: Float[Matrix, "feature output"]
    intercept: Float[Matrix, "output"]
    penalty: float
    errors: Float[Matrix, "penalty"]

    def predict(self, features: Float[Matrix, "scan feature"]) -> Float[Matrix, "scan output"]:
        """Predict the outputs of new scans."""
        return features @ self.coefficients + self.intercept


def fit_ridge(
    features: Float[Matrix, "scan feature"],
    outputs: Float[Matrix, "scan output"],
    *,
    subjects: Shaped[NDArray[Any], "scan"],
    weights: Float[Matrix, "scan"] | None = None,
    penalties: Float[Matrix, "penalty"] = PENALTIES,
) -> RidgeFit:
    """Fit a ridge regression with the penalty that predicts left-out subjects best.

    Equal errors go to the stronger penalty. One penalty serves all outputs.

    Examples
    --------
    >>> x = np.arange(6.0)[:, None]
    >>> fit = fit_ridge(x, 2 * x + 1, subjects=np.arange(6))
    >>> bool(abs(fit.predict(np.array([[10.0]]))[0, 0] - 21) < 0.1)
    True
    """
    if len(np.unique(subjects)) < 2:
        raise InputError("a penalty cannot be chosen on the scans of one subject.")
    weights = np.ones(len(features)) if weights is None else weights
    root, share = np.sqrt(weights), weights / weights.sum()
    feature_mean, output_mean = share @ features, share @ outputs
    scaled = root[:, None] * (features - feature_mean)
    target = root[:, None] * (outputs - output_mean)
    vectors, values = _spectrum(scaled)

    penalties = np.sort(penalties)
    errors = _left_out_errors(vectors, values, target, root, penalties, subjects)
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    within = vectors.T @ target
    # the residual direction outside of the spectrum does not reach the coefficients
    coefficients = scaled.T @ (vectors @ (within / (values + penalties[best])[:, None]))
    return RidgeFit(
        coefficients, output_mean - feature_mean @ coefficients, float(penalties[best]), errors
    )


def rotate(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
) -> Float[Matrix, "scan kept"]:
    """Replace many features by as few as there are scans, without changing any distance.

    A ridge or logistic regression on centred (not scaled) features depends on nothing but the
    inner products of the scans. These numbers have the same inner products (around the mean), so
    that predictions stay the same while 19,900 edges become as many columns as there are scans.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((5, 100))
    >>> rotated = rotate(x)
    >>> rotated.shape[1] <= 5
    True
    >>> bool(np.isclose(np.linalg.norm(x[0] - x[3]), np.linalg.norm(rotated[0] - rotated[3])))
    True
    """
    n, width = features.shape
    if width <= n:
        return np.asarray(features - features.mean(axis=0), dtype=np.float64)
    gram = np.zeros((n, n))
    for start in range(0, width, _COLUMNS_AT_ONCE):
        block = np.asarray(features[:, start : start + _COLUMNS_AT_ONCE], dtype=np.float64)
        block = block - block.mean(axis=0)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(values[-1], 0.0) * n * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def _spectrum(scaled: Matrix) -> tuple[Matrix, Matrix]:
    """Return V (scan, k) and Λ (k,) of Z Zᵀ, by way of whichever side of Z is shorter."""
    n, width = scaled.shape
    wide = width > n
    values, vectors = np.linalg.eigh(scaled @ scaled.T if wide else scaled.T @ scaled)
    kept = values > max(values[-1], 0.0) * max(n, width) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    return (vectors if wide else scaled @ (vectors / np.sqrt(values))), values


def _left_out_errors(
    vectors: Matrix,
    values: Matrix,
    target: Matrix,
    root: Matrix,
    penalties: Matrix,
    subjects: NDArray[Any],
) -> Matrix:
    """Weighted mean squared error of every subject left out, for each penalty."""
    shrink = values / (values + penalties[:, None])
    within = vectors.T @ target
    direction = root / np.linalg.norm(root)
    residuals = target - np.stack([vectors @ (s[:, None] * within) for s in shrink])
    own = vectors**2 @ shrink.T + direction[:, None] ** 2
    left_out = residuals / (1.0 - own.T)[:, :, None]
    for scans in _scans_of_repeated(subjects):
        v, u = vectors[scans], direction[scans]
        hat = np.einsum("ik,pk,jk->pij", v, shrink, v, optimize=True) + np.outer(u, u)
        left_out[:, scans] = np.linalg.solve(np.eye(len(scans)) - hat, residuals[:, scans])
    return np.asarray((left_out**2).sum(axis=(1, 2)) / (root**2).sum())


def _scans_of_repeated(subjects: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the scans of every subject that has more than one."""
    _, code, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(code, kind="stable")
    scans = np.split(order, np.cumsum(counts)[:-1])
    return [s for s in scans if len(s) > 1]
