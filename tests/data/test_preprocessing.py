"""Preprocessing: what passes, what vanishes, and which scans are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semantoks.cli.application import run
from semantoks.data.signal import (
    Preprocessing,
    QualityError,
    cut_nan_tail,
    filter_series,
    find_bad_rois,
    preprocess,
    resample,
    resampled_length,
    standardize,
)
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError

Array = NDArray[np.float64]


def tone(frequency: float, t_r: float, seconds: float = 600, phase: float = 0.0) -> Array:
    """A sine of amplitude 1, shape (1, time), sampled up to and including `seconds`."""
    time = t_r * np.arange(resampled_length(int(seconds) + 1, 1.0, t_r))
    return np.sin(2 * np.pi * frequency * time + phase)[None]


def noise(n_rois: int = 6, n_samples: int = 300, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n_rois, n_samples))


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


# Resampling


@pytest.mark.parametrize("frequency", [0.26, 0.3, 0.45, 0.55, 0.6])
def test_tone_above_the_new_nyquist_frequency_vanishes(frequency: float) -> None:
    resampled = resample(tone(frequency, 0.735), 0.735, 2.0)
    assert rms(resampled[:, 20:-20]) < 1e-3


@pytest.mark.parametrize("t_r", [0.5, 0.735, 1.0, 1.5, 2.5, 3.0])
@pytest.mark.parametrize(("frequency", "phase"), [(0.05, 0.0), (0.02, 1.0), (0.1, 2.0)])
def test_slow_tone_survives_with_amplitude_and_phase(
    t_r: float, frequency: float, phase: float
) -> None:
    resampled = resample(tone(frequency, t_r, phase=phase), t_r, 2.0)
    expected = tone(frequency, 2.0, phase=phase)[:, : resampled.shape[1]]
    assert np.abs(resampled - expected)[:, 25:-25].max() < 2e-3


@pytest.mark.parametrize("t_r", [0.735, 1.5, 3.0])
def test_resampling_keeps_level_and_slope_up_to_the_ends(t_r: float) -> None:
    line = 1000 + 3 * t_r * np.arange(200)[None]
    resampled = resample(line, t_r, 2.0)
    np.testing.assert_allclose(resampled[0], 1000 + 6 * np.arange(resampled.shape[1]), atol=0.02)


def test_resampling_to_the_same_repetition_time_is_the_identity() -> None:
    series = noise()
    np.testing.assert_array_equal(resample(series, 2.0, 2.0), series)


@pytest.mark.parametrize(
    ("n_samples", "t_r", "target", "expected"),
    [
        (490, 0.735, 2.0, 180),  # the last sample lies at 359.4 s
        (78, 3.0, 2.0, 116),  # 231 s
        (146, 1.5, 2.0, 109),  # 217.5 s
        (11, 0.6, 2.0, 4),  # 6.000... s: rounding must not lose the sample at 6 s
        (1, 2.0, 1.0, 1),
        (0, 2.0, 1.0, 0),
    ],
)
def test_resampled_length(n_samples: int, t_r: float, target: float, expected: int) -> None:
    assert resampled_length(n_samples, t_r, target) == expected
    if n_samples:
        assert resample(np.zeros((2, n_samples)), t_r, target).shape == (2, expected)


@settings(max_examples=40, deadline=None)
@given(
    n_samples=st.integers(2, 300),
    t_r=st.floats(0.3, 4.0),
    target=st.floats(0.5, 3.0),
    level=st.floats(-1e4, 1e4),
)
def test_resampling_never_reads_beyond_the_scan_and_keeps_constants(
    n_samples: int, t_r: float, target: float, level: float
) -> None:
    resampled = resample(np.full((1, n_samples), level), t_r, target)
    assert (resampled.shape[1] - 1) * target <= (n_samples - 1) * t_r + 1e-5 * target
    np.testing.assert_allclose(resampled, level, rtol=1e-9, atol=1e-300)  # 5e-324 has no half


# Band-pass


@pytest.mark.parametrize("t_r", [0.735, 2.0, 3.0])
@pytest.mark.parametrize(
    ("frequency", "low", "high"),
    [
        (0.003, 0.0, 0.001),
        (0.01, 0.49, 0.51),
        (0.02, 0.98, 1.02),
        (0.05, 0.99, 1.01),
        (0.1, 0.48, 0.52),
        (0.15, 0.0, 0.02),
    ],
)
def test_gain_of_the_band_pass(t_r: float, frequency: float, low: float, high: float) -> None:
    before = tone(frequency, t_r, seconds=4000)
    after = filter_series(before, t_r, 0.01, 0.1, detrend=False)
    middle = slice(before.shape[1] // 4, -before.shape[1] // 4)
    gain = rms(after[:, middle]) / rms(before[:, middle])
    assert low <= gain <= high


def test_band_pass_does_not_shift_in_time() -> None:
    before = tone(0.05, 2.0, seconds=2000, phase=0.7)
    after = filter_series(before, 2.0)
    np.testing.assert_allclose(after[:, 150:-150], before[:, 150:-150], atol=0.005)


def test_open_sides_and_no_filter() -> None:
    slow, fast = tone(0.004, 2.0, 2000), tone(0.2, 2.0, 2000)
    inner = slice(200, -200)
    low = filter_series(slow + fast, 2.0, None, 0.1, detrend=False)
    high = filter_series(slow + fast, 2.0, 0.01, None, detrend=False)
    np.testing.assert_allclose(low[:, inner], slow[:, inner], atol=0.01)
    np.testing.assert_allclose(high[:, inner], fast[:, inner], atol=0.01)
    both = filter_series(slow + fast, 2.0, None, None, detrend=False)
    np.testing.assert_array_equal(both, slow + fast)


def test_detrending_removes_a_line_and_nothing_else() -> None:
    wiggle = noise(2, 400)
    wiggle = filter_series(wiggle, 2.0, None, None)
    line = np.array([[5.0], [-3.0]]) + np.linspace(0, 40, 400)
    np.testing.assert_allclose(filter_series(wiggle + line, 2.0, None, None), wiggle, atol=1e-9)


def test_filter_works_on_scans_shorter_than_its_padding() -> None:
    assert np.isfinite(filter_series(noise(2, 30), 3.0)).all()


@pytest.mark.parametrize(("t_r", "low_pass"), [(5.0, 0.1), (2.0, 0.25), (2.0, 0.3)])
def test_band_edge_above_the_nyquist_frequency_is_refused(t_r: float, low_pass: float) -> None:
    with pytest.raises(InputError, match="Nyquist frequency of repetition time"):
        filter_series(noise(), t_r, 0.01, low_pass)


# Z-score and bad ROIs


def test_standardize_is_exact_in_double_precision() -> None:
    series = (1e4 + 1e-1 * noise(4, 500)).astype(np.float64)
    result = standardize(series)
    np.testing.assert_allclose(result.mean(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose(result.std(axis=1), 1, rtol=1e-12)


def test_flat_missing_and_good_rois() -> None:
    series = 500 + 20 * noise(8, 200)
    series[0] = 12345.678
    series[1] = 0
    series[2] = np.nan
    # A constant that went through arithmetic in float32.
    jitter = np.random.default_rng(1).choice([-1, 0, 1], 200)
    series[3] = np.float32(12345.678) * (1 + jitter * np.finfo(np.float32).eps)
    series[4] = 1e-9 * noise(1, 200)  # leftovers of smoothing outside of the brain
    bad = find_bad_rois(series)
    assert bad.flat.tolist() == [True, True, False, True, True, False, False, False]
    assert bad.missing.tolist() == [False, False, True] + [False] * 5
    result = standardize(series)
    assert not result[:5].any()
    assert result[5:].std() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6])
def test_flatness_does_not_depend_on_the_unit(scale: float) -> None:
    series = noise(5, 200)
    series[0] = 3.0
    assert find_bad_rois(scale * series).flat.tolist() == [True, False, False, False, False]


def test_a_weak_roi_is_not_flat() -> None:
    series = 1000 + 50 * noise(5, 200)
    series[0] = 1000 + 0.5 * noise(1, 200, seed=4)
    assert not find_bad_rois(series).flat.any()
    assert not find_bad_rois(series.astype(np.float32)).flat.any()


def test_all_flat_scan() -> None:
    assert find_bad_rois(np.ones((3, 50))).flat.all()


def test_cut_nan_tail_keeps_what_any_roi_has() -> None:
    series = noise(3, 10)
    series[:, 7:] = np.nan
    series[0, 7] = 1.0
    series[:, 2] = np.nan
    assert cut_nan_tail(series).shape == (3, 8)
    assert cut_nan_tail(np.full((3, 4), np.nan)).shape == (3, 0)


# All in a row


def continuous_signal(t_r: float, seconds: float = 600) -> Array:
    """The same sum of tones within and without the band, sampled at any repetition time."""
    random = np.random.default_rng(3)
    time = t_r * np.arange(int(seconds / t_r))
    frequencies = np.concatenate([random.uniform(0.005, 0.09, 60), [0.14]])
    phases = random.uniform(0, 2 * np.pi, (3, len(frequencies)))
    angles = 2 * np.pi * frequencies[None, :, None] * time + phases[:, :, None]
    return 700 + 0.1 * time + np.sin(angles).sum(axis=1)


@pytest.mark.parametrize("t_r", [0.735, 1.5, 3.0])
def test_the_same_brain_looks_the_same_at_every_repetition_time(t_r: float) -> None:
    reference = preprocess(continuous_signal(2.0), 2.0, Preprocessing()).series
    other = preprocess(continuous_signal(t_r), t_r, Preprocessing()).series
    shared = min(reference.shape[1], other.shape[1]) - 30
    for a, b in zip(reference[:, 30:shared], other[:, 30:shared], strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.995
        assert a.std() == pytest.approx(b.std(), rel=0.02)


def test_aliased_tone_does_not_reach_the_store() -> None:
    series = 0.01 * noise(5, 800) + tone(0.55, 0.735, 0.735 * 800)[:, :800]
    result = preprocess(series, 0.735, Preprocessing()).series
    spectrum = np.abs(np.fft.rfft(result * np.hanning(result.shape[1]), axis=1)) ** 2
    frequencies = np.fft.rfftfreq(result.shape[1], 2.0)
    # 0.55 Hz would come out at 0.05 Hz, fifty times stronger than the noise.
    near = np.abs(frequencies - 0.05) < 0.004
    around = (frequencies > 0.02) & (frequencies < 0.09) & ~near
    assert spectrum[:, near].mean() < 3 * spectrum[:, around].mean()


def test_result_of_preprocess() -> None:
    series = 1000 + noise(40, 330).astype(np.float32)
    series[3] = 7.0
    series[5] = np.nan
    series = np.pad(series, ((0, 0), (0, 20)), constant_values=np.nan)
    result = preprocess(series, 1.0, Preprocessing())
    assert (result.series.dtype, result.series.shape) == (np.float32, (40, 165))
    assert (result.n_samples, result.t_r, result.coverage) == (165, 2.0, 0.95)
    assert np.flatnonzero(~result.valid).tolist() == [3, 5]
    assert np.flatnonzero(result.flat).tolist() == [3]
    assert not result.series[[3, 5]].any()
    good = result.series[result.valid].astype(np.float64)
    np.testing.assert_allclose(good.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(good.std(axis=1), 1, rtol=1e-6)


def test_a_roi_that_is_only_trend_becomes_flat() -> None:
    series = noise(30, 200)
    series[0] = 50 * np.arange(200)
    result = preprocess(series, 2.0, Preprocessing())
    assert np.flatnonzero(result.flat).tolist() == [0]
    assert not result.series[0].any()


def test_preprocess_leaves_its_input_alone() -> None:
    series = noise()
    series[0] = np.nan
    before = series.copy()
    preprocess(series, 2.0, Preprocessing(min_coverage=0.5))
    np.testing.assert_array_equal(series, before)


def with_nan(value: float) -> Array:
    series = noise(20, 300)
    series[4, 100] = value
    return series


@pytest.mark.parametrize(
    ("series", "category", "message"),
    [
        (noise(20, 199), "short", r"199 samples at 1 s are 100 at 2 s|too short"),
        (with_nan(np.nan), "nan", "ROI 5, sample 101"),
        (with_nan(np.inf), "nan", "ROI 5, sample 101"),
        (np.full((4, 300), np.nan), "nan", "every value is NaN"),
        (np.ones((4, 300)), "flat", "all of its 4 ROIs"),
        (noise(20, 300) * (np.arange(20) > 1)[:, None], "coverage", "2 flat .* leave 90.0%"),
    ],
)
def test_bad_scans_are_refused_by_category(series: Array, category: str, message: str) -> None:
    with pytest.raises(QualityError, match=message) as caught:
        preprocess(series, 1.0, Preprocessing(min_samples=101))
    assert caught.value.category == category
    assert isinstance(caught.value, InputError)


def test_the_length_limit_itself_is_accepted() -> None:
    assert preprocess(noise(3, 100), 2.0, Preprocessing()).n_samples == 100
    with pytest.raises(QualityError):
        preprocess(noise(3, 99), 2.0, Preprocessing())


@pytest.mark.parametrize("t_r", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_repetition_time(t_r: float) -> None:
    with pytest.raises(InputError, match="positive number of seconds"):
        preprocess(noise(), t_r, Preprocessing())


def test_band_that_the_scan_cannot_hold() -> None:
    with pytest.raises(InputError, match=r"0\.1 Hz is not below .* 0\.08333 Hz at 6 s"):
        preprocess(noise(), 6.0, Preprocessing())


# Settings


@pytest.mark.parametrize(
    "content",
    [
        {"target_t_r": 0},
        {"target_t_r": float("nan")},
        {"high_pass": -0.1},
        {"high_pass": 0.2},
        {"low_pass": 0.0},
        {"min_samples": 1},
        {"min_coverage": 1.5},
        {"high_pass": None, "low_pass": None, "filtered_before": [0.1, 0.01]},
        {"high_pass": None, "low_pass": None, "filtered_before": [None, None]},
        {"high_pass": None, "low_pass": None, "filtered_before": [0.01]},
        {"high_pass": None, "low_pass": None, "filtered_before": 0.01},
        {"high_pass": None, "filtered_before": [0.01, 0.1]},
    ],
)
def test_impossible_settings(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=list(content)[-1]):
        Preprocessing.from_dict(content)


def test_low_pass_above_the_target_nyquist_frequency() -> None:
    with pytest.raises(InputError, match="repetition time resampled to"):
        Preprocessing(target_t_r=6.0)


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'low_pass'"):
        Preprocessing.from_dict({"lowpass": 0.1})


def test_settings_survive_json() -> None:
    settings_ = Preprocessing(low_pass=None, min_coverage=0.5)
    assert Preprocessing.from_dict(json.loads(json.dumps(settings_.to_dict()))) == settings_


# Series that were filtered before


def test_band_before_survives_json_and_is_the_band() -> None:
    before = Preprocessing(high_pass=None, low_pass=None, filtered_before=(0.008, None))
    content = json.loads(json.dumps(before.to_dict()))
    assert content["filtered_before"] == [0.008, None]
    assert content == before.to_dict()  # an interrupted prepare compares the two
    assert Preprocessing.from_dict(content) == before
    assert before.band == (0.008, None)
    assert Preprocessing().band == (0.01, 0.1)


def test_settings_without_a_band_before_are_written_as_ever() -> None:
    # This very text goes into the fingerprint of a store.
    assert json.dumps(Preprocessing().to_dict()) == (
        '{"target_t_r": 2.0, "high_pass": 0.01, "low_pass": 0.1, "detrend": true, '
        '"min_samples": 100, "min_coverage": 0.95}'
    )


def test_filtered_series_are_not_filtered_again() -> None:
    series = noise()
    before = Preprocessing(
        high_pass=None, low_pass=None, detrend=False, filtered_before=(0.008, 0.08)
    )
    found = preprocess(series, 2.0, before).series
    np.testing.assert_allclose(found, standardize(series), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "band"),
    [("0.008 0.08", [0.008, 0.08]), ("none 0.1", [None, 0.1]), ("0.01 none", [0.01, None])],
)
def test_prepare_records_how_series_were_filtered(
    tmp_path: Path, words: str, band: list[float | None]
) -> None:
    prepare = recorded_cohort(tmp_path)
    out = tmp_path / "store"
    assert run([*prepare, "--out", str(out), "--filtered-before", *words.split()]) == 0
    store = Store.open(out)
    assert store.preprocessing == Preprocessing(
        high_pass=None, low_pass=None, filtered_before=(band[0], band[1])
    )
    assert json.loads((out / "store.json").read_text())["preprocessing"]["filtered_before"] == band
    # Without a band-pass, what is fast is still there.
    assert rms(np.diff(store.series(0), axis=1)) > 1
    plain = tmp_path / "plain"
    assert run([*prepare, "--out", str(plain), "--no-filter"]) == 0
    assert "filtered_before" not in (plain / "store.json").read_text()
    assert Store.open(plain).fingerprint != store.fingerprint


def test_prepare_does_not_filter_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*recorded_cohort(tmp_path), "--out", str(tmp_path / "store")]
    assert run([*words, "--filtered-before", "0.01", "0.1", "--low-pass", "0.08"]) == 2
    assert "leave --high-pass and --low-pass out" in capsys.readouterr().err
    assert run([*words, "--filtered-before", "0.1", "0.01"]) == 2
    assert "filtered_before is (0.1, 0.01)" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def recorded_cohort(folder: Path) -> list[str]:
    """Write a recording and its atlas; return how they are prepared."""
    (folder / "scans").mkdir()
    np.save(folder / "scans" / "a.npy", noise(3, 120))
    (folder / "atlas.tsv").write_text("label\tnetwork\nq\tVis\nr\tVis\ns\tDefault\n")
    atlas = str(folder / "atlas.tsv")
    return ["prepare", str(folder / "scans"), "--atlas", atlas, "--t-r", "2", "--quiet"]
