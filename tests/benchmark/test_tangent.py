"""The tangent space is nilearn's, and its reference knows nothing of the test part."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import LedoitWolf
from sklearn.metrics import balanced_accuracy_score

from semantoks.benchmark.tangent import (
    Covariances,
    covariances,
    tangent_features,
    tangent_predictions,
    tangent_reference,
)
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.splits import subjects_of
from semantoks.evaluation.splitters import subject_folds


@pytest.fixture(scope="module")
def of_store(store) -> Covariances:
    return covariances(store)


def complete(of_store: Covariances) -> np.ndarray:
    return np.flatnonzero(of_store.valid.all(axis=1))


def test_tangent_space_with_the_geometric_mean_is_nilearns(store, of_store):
    rows = complete(of_store)
    train, test = rows[:40], rows[40:60]
    measure = ConnectivityMeasure(
        LedoitWolf(store_precision=False), kind="tangent", vectorize=True, standardize=False
    )
    expected = measure.fit([store.series(i).T.astype(np.float64) for i in train]).transform(
        [store.series(i).T.astype(np.float64) for i in test]
    )
    reference = tangent_reference(of_store.take(train), mean="geometric")
    np.testing.assert_allclose(reference, measure.mean_, atol=1e-5)
    found = tangent_features(of_store.take(test), reference)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_euclidean_mean_is_the_mean(of_store):
    some = of_store.take(complete(of_store)[:10])
    np.testing.assert_allclose(
        tangent_reference(some), some.matrices(np.arange(10)).mean(axis=0), atol=1e-6
    )


def test_the_reference_has_no_displacement_from_itself_also_where_a_roi_is_missing(of_store):
    reference = tangent_reference(of_store.take(complete(of_store)[:10]))
    one = Covariances(_pack(reference), np.ones((1, 8), dtype=bool))
    np.testing.assert_allclose(tangent_features(one, reference), 0, atol=1e-5)
    lacking = reference.copy()
    lacking[2], lacking[:, 2], lacking[2, 2] = 0, 0, 1
    valid = np.arange(8)[None] != 2
    found = tangent_features(Covariances(_pack(lacking), valid), reference)
    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_missing_rois_do_not_pull_the_reference(of_store):
    rows = complete(of_store)[:30]
    packed, valid = of_store.packed[rows].copy(), of_store.valid[rows].copy()
    for scan in range(0, 10):
        matrix = of_store.matrices(rows[[scan]])[0]
        matrix[3], matrix[:, 3], matrix[3, 3] = 0, 0, 1
        packed[scan], valid[scan, 3] = _pack(matrix)[0], False
    whole = tangent_reference(of_store.take(rows))
    filled = tangent_reference(Covariances(packed, valid))
    naive = tangent_reference(Covariances(packed, np.ones_like(valid)))
    assert np.linalg.norm(filled - whole) < 0.5 * np.linalg.norm(naive - whole)


def test_coupling_is_decoded_and_a_test_scan_does_not_reach_the_reference(store, of_store):
    truth = (store.scans["diagnosis"] == "patient").to_numpy().astype(int)
    subjects = subjects_of(store.scans)
    splits = subject_folds(store.scans, truth, kind="classification", n_folds=4, repeats=1)
    how = {"kind": "classification", "subjects": subjects}
    calls: list[tuple[int, int]] = []
    found = tangent_predictions(
        of_store, truth, splits, **how, progress=lambda i, n: calls.append((i, n))
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    prediction = np.empty(len(truth), dtype=int)
    for fold in found:
        prediction[fold.split.test] = fold.prediction
    assert balanced_accuracy_score(truth, prediction) > 0.9
    # another test scan changes nothing about the others
    changed, first = of_store.packed.copy(), splits[0].test
    changed[first[0]] = _pack(np.diag(np.arange(1.0, 9.0)))[0]
    again = tangent_predictions(Covariances(changed, of_store.valid), truth, splits[:1], **how)
    np.testing.assert_allclose(again[0].score[1:], found[0].score[1:], atol=1e-4)


def test_what_does_not_fit_is_refused(of_store):
    with pytest.raises(ConfigurationError, match="not 'log'"):
        tangent_reference(of_store, mean="log")
    with pytest.raises(InputError, match="came for 3"):
        tangent_predictions(of_store, np.zeros(3), [], kind="regression", subjects=np.arange(3))


def _pack(matrix: np.ndarray) -> np.ndarray:
    """Write a matrix as nilearn does."""
    packed = matrix.copy()
    np.fill_diagonal(packed, np.diag(packed) / np.sqrt(2))
    return packed[np.tril_indices(len(matrix))][None].astype(np.float32)
