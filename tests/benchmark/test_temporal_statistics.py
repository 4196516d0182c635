"""What is left of a z-scored ROI: known numbers of known signals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kurtosis, skew

from semantoks.benchmark.baselines import (
    TEMPORAL_STATISTICS,
    temporal_features,
    temporal_statistics,
)

PLACE = {name: i for i, name in enumerate(TEMPORAL_STATISTICS)}


def test_autocorrelation_and_shape_are_those_of_known_signals():
    random = np.random.default_rng(0)
    noise = random.standard_normal(20_000)
    ar = np.zeros(20_000)
    for t in range(1, 20_000):
        ar[t] = 0.8 * ar[t - 1] + noise[t]
    found = temporal_statistics(np.stack([noise, ar, np.exp(noise)]), 2.0)
    np.testing.assert_allclose(found[PLACE["lag1"], :2], [0, 0.8], atol=0.03)
    assert found[PLACE["skewness"], 2] == pytest.approx(skew(np.exp(noise)))
    assert found[PLACE["kurtosis"], 2] == pytest.approx(kurtosis(np.exp(noise)))


@pytest.mark.parametrize(("hertz", "third"), [(0.02, 0), (0.055, 1), (0.09, 2)])
@pytest.mark.parametrize(("t_r", "length"), [(2.0, 100), (0.8, 500)])
def test_power_lies_in_the_third_of_the_band_where_the_signal_is(hertz, third, t_r, length):
    series = np.sin(2 * np.pi * hertz * t_r * np.arange(length))[None]
    shares = temporal_statistics(series, t_r, (0.01, 0.1))[3:, 0]
    assert shares[third] > 0.9
    assert shares.sum() == pytest.approx(1)


def test_scale_and_level_do_not_matter():
    series = np.random.default_rng(0).standard_normal((3, 100))
    np.testing.assert_allclose(
        temporal_statistics(5 * series + 7, 2.0), temporal_statistics(series, 2.0), atol=1e-9
    )


def test_rois_without_signal_have_the_mean_of_the_others(store):
    rows = temporal_features(store)
    assert rows.shape == (len(store), 6 * 8)
    assert np.isfinite(rows).all()
    of_first = rows[0].reshape(6, 8)
    assert not store.valid[0, 7]
    np.testing.assert_allclose(of_first[:, 7], of_first[:, :7].mean(axis=1), rtol=1e-5)
    assert not temporal_statistics(np.zeros((3, 50)), 2.0).any()
