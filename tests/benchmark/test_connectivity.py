"""Edges are Fisher z of Pearson's correlation, also where a ROI is missing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from semantoks.benchmark.baselines import connectivity_features, fisher_z
from semantoks.errors import ConfigurationError

LOWER = np.tril_indices(8, -1)


def test_edges_are_fisher_z_of_pearson_correlations(store):
    edges = connectivity_features(store)
    assert edges.shape == (len(store), 28)
    assert edges.dtype == np.float32
    expected = np.arctanh(np.corrcoef(store.series(5))[LOWER])
    np.testing.assert_allclose(edges[5], expected, atol=1e-5)


def test_rois_without_signal_have_edges_of_zero(store):
    edges = connectivity_features(store)
    last = LOWER[0] == 7
    assert not store.valid[0, 7]
    assert (edges[0, last] == 0).all()
    assert (edges[0, ~last] != 0).all()
    np.testing.assert_allclose(
        edges[0, ~last],
        np.arctanh(np.corrcoef(store.series(0)[:7])[np.tril_indices(7, -1)]),
        atol=1e-5,
    )


def test_constant_and_identical_series_stay_finite():
    series = np.random.default_rng(0).standard_normal((4, 30))
    series[1], series[2] = series[0], 3.0
    z = fisher_z(series)
    assert np.isfinite(z).all()
    assert z[1, 0] > 7
    assert (z[2] == 0).all()
    assert (np.diag(z) == 0).all()
    np.testing.assert_array_equal(z, z.T)
    assert not fisher_z(np.zeros((3, 10))).any()


def test_progress_counts_scans(store):
    calls: list[tuple[int, int]] = []
    connectivity_features(store, progress=lambda done, of: calls.append((done, of)))
    assert calls[-1] == (len(store), len(store))
    assert len(calls) == len(store)


def test_partial_edges_are_those_of_the_precision_of_rois_with_signal(store):
    edges = connectivity_features(store, kind="partial")
    precision = np.linalg.inv(ledoit_wolf(store.series(0)[:7].T.astype(np.float64))[0])
    scale = np.sqrt(np.diag(precision))
    expected = np.arctanh(-precision / np.outer(scale, scale) * (1 - np.eye(7)))
    last = LOWER[0] == 7
    np.testing.assert_allclose(edges[0, ~last], expected[np.tril_indices(7, -1)], atol=1e-5)
    assert (edges[0, last] == 0).all()


def test_partial_correlation_leaves_out_what_a_third_roi_explains():
    random = np.random.default_rng(0)
    middle = random.standard_normal(4000)
    series = np.stack([middle + random.standard_normal(4000), middle, middle])
    series[2] += random.standard_normal(4000)
    assert fisher_z(series)[0, 2] > 0.4
    assert abs(fisher_z(series, kind="partial")[0, 2]) < 0.05
    assert fisher_z(series, kind="partial")[0, 1] > 0.4


def test_unknown_edges_are_refused():
    with pytest.raises(ConfigurationError, match="not 'tangent'"):
        fisher_z(np.zeros((3, 10)), kind="tangent")
