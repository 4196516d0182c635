"""Edges are Fisher z of Pearson's correlation, also where a ROI is missing."""

from __future__ import annotations

import numpy as np

from semantoks.benchmark.baselines.connectivity import connectivity_features, fisher_z

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
