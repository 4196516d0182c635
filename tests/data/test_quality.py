"""The quality of a scan, on series whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.quality import ScanQuality, measure, read_bad_networks
from semantoks.data.signal import Preprocessing, preprocess

ATLAS = Atlas.from_networks({"Vis": 6, "Default": 6})
TIME = np.arange(300) * 2.0


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((12, 300))


def quality(series: np.ndarray, t_r: float = 2.0) -> ScanQuality:
    ready = preprocess(series, t_r, Preprocessing(min_coverage=0))
    return measure(series, ready, t_r=t_r, atlas=ATLAS)


def test_what_cannot_be_read_has_no_numbers() -> None:
    found = measure(None, None, t_r=None, atlas=ATLAS)
    assert found.n_volumes == 0
    assert np.isnan([found.t_r, found.tsnr, found.in_band]).all()


def test_flat_and_missing_rois_are_counted_by_network() -> None:
    series = noise()
    series[[0, 1]] = 3.0
    series[7] = np.nan
    found = quality(series)
    assert (found.n_flat, found.n_missing) == (2, 1)
    assert found.coverage == pytest.approx(9 / 12)
    assert read_bad_networks(found.bad_networks) == {"Vis": 2, "Default": 1}


def test_tsnr_is_mean_over_deviation_and_absent_for_centred_series() -> None:
    assert quality(50 + noise()).tsnr == pytest.approx(50, rel=0.1)
    assert np.isnan(quality(noise()).tsnr)


def test_share_in_band_tells_a_slow_tone_from_a_fast_one() -> None:
    slow, fast = np.sin(2 * np.pi * 0.05 * TIME), np.sin(2 * np.pi * 0.2 * TIME)
    both = np.tile(slow + fast, (12, 1))
    assert measure(both, None, t_r=2.0, atlas=ATLAS).in_band == pytest.approx(0.5, abs=0.02)
    only = np.tile(slow, (12, 1))
    assert measure(only, None, t_r=2.0, atlas=ATLAS).in_band > 0.98
    white = measure(noise(), None, t_r=2.0, atlas=ATLAS).in_band
    assert white == pytest.approx(0.09 / 0.25, abs=0.05)


def test_a_jump_of_the_whole_brain_is_a_spike() -> None:
    series = noise()
    assert quality(series).spikes < 0.01
    series[:, 150:] += 20
    found = measure(series, None, t_r=2.0, atlas=ATLAS)
    assert found.spikes >= 1 / 299
    assert found.largest_step > 3


def test_global_signal_and_network_contrast() -> None:
    independent = quality(noise())
    assert independent.global_share == pytest.approx(1 / 12, abs=0.05)
    shared = np.random.default_rng(1).standard_normal((2, 300))
    found = quality(noise() + 2 * np.repeat(shared, 6, axis=0))
    assert found.network_contrast > 0.5 > abs(independent.network_contrast)
    one = quality(0.01 * noise() + shared[0])
    assert one.global_share > 0.99


def test_distance_correlation_needs_coordinates_and_is_negative_for_smooth_brains() -> None:
    assert np.isnan(quality(noise()).distance_correlation)
    table = ATLAS.to_table()
    table["x"], table["y"], table["z"] = np.arange(12.0) * 10, 0.0, 0.0
    atlas = Atlas.from_table(table, name="line")
    kernel = np.exp(-np.abs(np.subtract.outer(np.arange(12), np.arange(12))) / 3)
    series = np.linalg.cholesky(kernel) @ noise()
    ready = preprocess(series, 2.0, Preprocessing())
    right = measure(series, ready, t_r=2.0, atlas=atlas).distance_correlation
    order = np.random.default_rng(3).permutation(12)
    shuffled = preprocess(series[order], 2.0, Preprocessing())
    wrong = measure(series, shuffled, t_r=2.0, atlas=atlas).distance_correlation
    assert right < -0.7 < -0.4 < wrong


def test_padding_is_not_counted_and_everything_is_plain() -> None:
    padded = np.concatenate([noise(), np.full((12, 40), np.nan)], axis=1)
    found = measure(padded, None, t_r=2.0, atlas=ATLAS)
    assert found.n_volumes == 300
    assert json.loads(json.dumps(found.to_dict()))["seconds"] == 600
