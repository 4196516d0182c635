"""The closed-form description: logarithm of connectivity, and its components."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import logm

from semantoks.errors import InputError
from semantoks.model.components import fit_components, log_connectivity


def test_the_logarithm_is_that_of_the_shrunk_correlation() -> None:
    series = np.random.default_rng(0).standard_normal((6, 40))
    wanted = logm(0.7 * np.corrcoef(series) + 0.3 * np.eye(6))[np.tril_indices(6)]
    np.testing.assert_allclose(log_connectivity(series), wanted, atol=1e-10)


def test_missing_rois_leave_the_others_as_they_are() -> None:
    series = np.random.default_rng(0).standard_normal((6, 40))
    valid = np.array([True] * 5 + [False])
    found = log_connectivity(series, valid)
    np.testing.assert_allclose(found[:15], log_connectivity(series[:5]), atol=1e-12)
    assert not found[15:20].any()


def test_scores_are_tapered_and_shrunk_by_hand() -> None:
    rows = np.random.default_rng(1).standard_normal((20, 50)) * np.linspace(5, 0.1, 50)
    components, own = fit_components(rows)
    _, s, vt = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    values, k = s**2, 11
    taper = (values[:k] - values[k]) / values[:k]
    scores = (rows - rows.mean(0)) @ vt[:k].T
    np.testing.assert_allclose(
        np.abs(components.transform(rows)), np.abs(scores * np.sqrt(taper)), atol=1e-9
    )
    shrunk = np.clip(1 - values[6:19].mean() / values[:k], 0.05, 1)
    np.testing.assert_allclose(np.abs(own), np.abs(scores * shrunk * np.sqrt(taper)), atol=1e-9)


def test_own_and_new_scans_have_the_same_spread() -> None:
    random = np.random.default_rng(2)
    signal = random.standard_normal((400, 8)) @ random.standard_normal((8, 3000))
    rows = signal + random.standard_normal((400, 3000)) * 4
    components, own = fit_components(rows[:200])
    new = components.transform(rows[200:])
    assert 0.85 < np.median(new[:, :8].std(0) / own[:, :8].std(0)) < 1.15


@pytest.mark.parametrize("rows", [np.zeros((3, 5)), np.ones((10, 5))])
def test_too_few_or_equal_scans_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(InputError, match="scans"):
        fit_components(rows)
