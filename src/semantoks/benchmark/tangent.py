"""Connectivity in the tangent space of a reference that is fitted on the training part.

A covariance C is described by log(G^-½ C G^-½), its displacement from a mean G. G is learned, so
that there is no table of tangent features that is good for all splits: they are computed anew in
every split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from nilearn.connectome import sym_matrix_to_vec, vec_to_sym_matrix
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear import Classifier, FoldPrediction, rotate
from semantoks.evaluation.probe import predictions_of_folds
from semantoks.evaluation.splits import Kind, Split
from semantoks.model.components import has_signal, matrix_logarithm

MeanKind = Literal["euclidean", "geometric"]
"""Arithmetic mean of the covariances, or the one that is nearest to all in the affine metric."""
Matrix = NDArray[np.float64]

_SCANS_AT_ONCE: Final = 32
_MOST_STEPS: Final = 10
_TOLERANCE: Final = 1e-7
_SMALLEST: Final = 1e-12
"""For eigenvalues: float32 may have made those of nearly singular matrices negative."""
_MOST_FILLINGS: Final = 20


class Covariances(NamedTuple):
    """Covariances of the ROIs of scans."""

    packed: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> Covariances:
        """Return those of some scans."""
        return Covariances(self.packed[rows], self.valid[rows])

    def matrices(self, rows: NDArray[np.intp]) -> Float[Matrix, "scan roi roi"]:
        """Return covariances as matrices."""
        return np.asarray(vec_to_sym_matrix(self.packed[rows].astype(np.float64)))


def covariances(store: Store, *, progress: Callable[[int, int], None] | None = None) -> Covariances:
    """Estimate the covariance of the ROIs of every scan, shrunk as Ledoit and Wolf do."""
    rois = len(store.atlas)
    packed = np.empty((len(store), rois * (rois + 1) // 2), dtype=np.float32)
    valid = np.zeros((len(store), rois), dtype=bool)
    for scan in range(len(store)):
        series = store.series(scan).astype(np.float64)
        valid[scan] = has_signal(series, store.valid[scan])
        kept = np.flatnonzero(valid[scan])
        matrix = np.eye(rois)
        if len(kept):
            matrix[np.ix_(kept, kept)] = ledoit_wolf(series[kept].T)[0]
        packed[scan] = sym_matrix_to_vec(matrix)
        if progress is not None:
            progress(scan + 1, len(store))
    return Covariances(packed, valid)


def tangent_predictions(
    of_scans: Covariances,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    mean: MeanKind = "euclidean",
    classifier: Classifier = "ridge",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split in the tangent space of its training part.

    A split costs an eigendecomposition a scan with the Euclidean mean, and about six with the
    geometric one.
    """
    if len(of_scans.packed) != len(truth):
        raise InputError(f"covariances of {len(of_scans.packed)} scans came for {len(truth)}.")
    done = 0

    def describe(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        nonlocal done
        reference = tangent_reference(of_scans.take(split.train), mean=mean)
        features = tangent_features(
            of_scans.take(np.concatenate([split.train, split.test])), reference
        )
        done += 1
        if progress is not None:
            progress(done, len(splits))
        # the model sees nothing but inner products, and these are the same
        rotated = rotate(features)
        return rotated[: len(split.train)], rotated[len(split.train) :]

    return predictions_of_folds(
        describe,
        truth,
        splits,
        kind=kind,
        subjects=subjects,
        classifier=classifier,
        scaling="center",
    )


def tangent_reference(
    training: Covariances, *, mean: MeanKind = "euclidean"
) -> Float[Matrix, "roi roi"]:
    """Compute the mean covariance of the training part.

    ROIs that a scan lacks are filled, together with the Euclidean mean itself, by what the mean
    expects of them given the ROIs that the scan has, until the mean does not change.
    """
    if mean not in ("euclidean", "geometric"):
        raise ConfigurationError(f"the mean is euclidean or geometric, not {mean!r}.")
    whole = np.asarray(training.valid.all(axis=1))
    lacking = np.flatnonzero(~whole)
    n, rows = len(whole), training.matrices(lacking)
    fixed = vec_to_sym_matrix(training.packed[whole].sum(axis=0, dtype=np.float64))
    reference = (fixed + rows.sum(axis=0)) / n
    for _ in range(_MOST_FILLINGS if len(lacking) else 0):
        filled = [
            _fill(c, training.valid[i], reference) for i, c in zip(lacking, rows, strict=True)
        ]
        before, reference = reference, (fixed + np.sum(filled, axis=0)) / n
        if np.abs(reference - before).max() < 1e-6:
            break
    return reference if mean == "euclidean" else _geometric_mean(training, reference)


def tangent_features(
    of_scans: Covariances, reference: Float[Matrix, "roi roi"]
) -> NDArray[np.float32]:
    """Describe covariances by their displacement from a reference."""
    whitener = _of_eigenvalues(reference, lambda values: values**-0.5)
    parts = [
        sym_matrix_to_vec(matrix_logarithm(whitener @ matrices @ whitener, _SMALLEST)).astype(
            np.float32
        )
        for matrices in _in_parts(of_scans, reference)
    ]
    return np.concatenate(parts)


def _geometric_mean(training: Covariances, start: Matrix) -> Matrix:
    """Descend to the mean of the affine metric, as in algorithm 3 of Fletcher and Joshi 2007."""
    mean, step, last = start, 1.0, np.inf
    for _ in range(_MOST_STEPS):
        root = _of_eigenvalues(mean, np.sqrt)
        whitener = np.linalg.inv(root)
        gradient = np.zeros_like(mean)
        for matrices in _in_parts(training, start):
            gradient += matrix_logarithm(whitener @ matrices @ whitener, _SMALLEST).sum(axis=0)
        gradient /= len(training.packed)
        size = float(np.linalg.norm(gradient))
        step, last = (step / 2, last) if size > last else (step, size)
        mean = root @ _of_eigenvalues(step * gradient, np.exp) @ root
        if size / mean.size < _TOLERANCE:
            break
    return mean


def _in_parts(of_scans: Covariances, reference: Matrix) -> Any:
    """Yield some covariances at a time, those of ROIs that a scan lacks filled in."""
    for first in range(0, len(of_scans.packed), _SCANS_AT_ONCE):
        rows = np.arange(first, min(first + _SCANS_AT_ONCE, len(of_scans.packed)))
        matrices = of_scans.matrices(rows)
        for i in np.flatnonzero(~of_scans.valid[rows].all(axis=1)):
            matrices[i] = _fill(matrices[i], of_scans.valid[first + i], reference)
        yield matrices


def _fill(covariance: Matrix, valid: NDArray[np.bool_], reference: Matrix) -> Matrix:
    """Return a covariance whose missing ROIs depend on the others as in the reference."""
    has, lacks = np.flatnonzero(valid), np.flatnonzero(~valid)
    known, across = reference[np.ix_(has, has)], reference[np.ix_(lacks, has)]
    slopes = np.linalg.solve(known, across.T).T
    own = covariance[np.ix_(has, has)]
    filled = covariance.copy()
    filled[np.ix_(lacks, has)] = slopes @ own
    filled[np.ix_(has, lacks)] = (slopes @ own).T
    rest = reference[np.ix_(lacks, lacks)] - slopes @ across.T
    filled[np.ix_(lacks, lacks)] = rest + slopes @ own @ slopes.T
    return filled


def _of_eigenvalues(matrix: Matrix, function: Callable[[Matrix], Matrix]) -> Matrix:
    """Apply a function to the eigenvalues of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * function(values)) @ vectors.T)
