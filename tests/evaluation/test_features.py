"""The transformer: equal to the way over a store, at home in scikit-learn, clear in error."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing, QualityError, preprocess
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.features import SemantoksFeatures
from semantoks.model.checkpoint import load_encoder, save_encoder
from semantoks.model.encoder import SemantoksEncoder

ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4}, name="tiny")
CORTEX = Atlas.from_networks({"Vis": 3, "Cont": 2}, name="part")
DIM = 16
UNFILTERED = Preprocessing(high_pass=None, low_pass=None, detrend=False)
FILTERED = Preprocessing(
    high_pass=None, low_pass=None, detrend=False, filtered_before=(0.008, 0.08)
)


def make_encoder(atlas: Atlas = ATLAS) -> SemantoksEncoder:
    torch.manual_seed(0)
    return SemantoksEncoder(atlas, dim=DIM, depth=2, head_dim=8, window=20, patch=5)


@pytest.fixture(scope="module")
def encoder() -> SemantoksEncoder:
    return make_encoder()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    return save_encoder(make_encoder(), path, preprocessing=Preprocessing().to_dict())


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    """Raw series at 1 s, of different lengths."""
    random = np.random.default_rng(1)
    return [1000 + random.standard_normal((9, length)) for length in (60, 75, 90, 120)]


# --- equal to what prepare and embed do


@pytest.mark.parametrize("features", ["mean+cls", "mean", "cls", "networks"])
def test_arrays_and_store_have_the_same_features(folder, arrays, tmp_path, features):
    path = tmp_path / "store"
    with StoreWriter(path, ATLAS, Preprocessing(min_samples=20), {}) as writer:
        for i, series in enumerate(arrays):
            ready = preprocess(series, 1.0, Preprocessing(min_samples=20))
            who = Recording(ready.series, 1.0, ATLAS, scan=str(i), subject=str(i))
            writer.add(who, ready.valid)
        store = writer.finish(())
    model = SemantoksFeatures(folder, windows=3, features=features, t_r=1.0)
    from_arrays = model.fit_transform(arrays)
    table = embed(store, make_encoder(), windows=3, features=features)
    assert table.feature_names == list(model.get_feature_names_out())
    from_store = SemantoksFeatures(folder, windows=3, features=features).fit_transform(store)
    np.testing.assert_allclose(from_store, table.features, atol=1e-6)
    # The store keeps float16.
    np.testing.assert_allclose(from_arrays, table.features, atol=5e-3)
    assert from_arrays.dtype == np.float32


def test_read_outs_are_what_they_say(encoder, arrays):
    found = {
        kind: SemantoksFeatures(encoder, 1, kind, t_r=2.0, preprocessing=UNFILTERED).fit_transform(
            arrays
        )
        for kind in ("mean+cls", "mean", "cls", "networks")
    }
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in arrays]
    with torch.no_grad():
        windows = torch.from_numpy(np.stack([x[:, :20] for x in z]).astype(np.float32))
        summary, tokens = encoder(windows)
    np.testing.assert_allclose(found["cls"], summary.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["mean"], tokens.mean((1, 2)).numpy(), atol=1e-5)
    np.testing.assert_allclose(found["mean+cls"], np.hstack([found["mean"], found["cls"]]))
    networks = found["networks"].reshape(4, 3, DIM)
    np.testing.assert_allclose(networks, tokens.mean(2).numpy(), atol=1e-5)


def test_three_dimensions_lists_and_recordings_are_the_same(encoder, arrays):
    cut = [x[:, :60] for x in arrays]
    model = SemantoksFeatures(encoder, 2, t_r=1.0).fit(cut)
    expected = model.transform(cut)
    np.testing.assert_array_equal(model.transform(np.stack(cut)), expected)
    recordings = [Recording(x, 1.0, ATLAS, scan=str(i), subject="a") for i, x in enumerate(cut)]
    without = SemantoksFeatures(encoder, 2)
    np.testing.assert_array_equal(without.fit_transform(recordings), expected)


def test_many_scans_are_the_same_as_one_by_one(encoder):
    scans = np.random.default_rng(0).standard_normal((40, 9, 25))
    model = SemantoksFeatures(encoder, 2, t_r=2.0, preprocessing=UNFILTERED, batch_size=7).fit(
        scans
    )
    one_by_one = np.vstack([model.transform([scan]) for scan in scans])
    np.testing.assert_allclose(model.transform(scans), one_by_one, atol=1e-5)


# --- beyond the reference input


def test_missing_network_is_masked_and_a_missing_roi_is_zero(encoder):
    scan = np.random.default_rng(0).standard_normal((9, 25))
    lacking = scan.copy()
    lacking[3:5] = np.nan  # the network Cont
    lacking[8] = 7.0  # flat, within Default
    model = SemantoksFeatures(encoder, 1, t_r=2.0, preprocessing=UNFILTERED, min_coverage=0.5)
    found = model.fit_transform([scan, lacking])
    z = (scan - scan.mean(1, keepdims=True)) / scan.std(1, keepdims=True)
    z[[3, 4, 8]] = 0
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, 1] = True
    with torch.no_grad():
        summary, tokens = encoder(torch.from_numpy(z[None, :, :20].astype(np.float32)), mask)
    expected = np.hstack([tokens.mean((1, 2)).numpy(), summary.numpy()])
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(QualityError, match=r"array 1 of 2: 1 flat and 2 missing .* min_coverage"):
        model.set_params(min_coverage=None).fit_transform([scan, lacking])


def test_smaller_atlas_is_the_same_as_missing_networks(encoder, tmp_path):
    scan = np.random.default_rng(0).standard_normal((9, 25)).astype(np.float32)
    lacking = scan.copy()
    lacking[5:] = np.nan
    whole = SemantoksFeatures(encoder, 1, t_r=2.0, preprocessing=UNFILTERED, min_coverage=0.5)
    expected = whole.fit_transform([lacking])
    part = SemantoksFeatures(encoder, 1, t_r=2.0, preprocessing=UNFILTERED, atlas=CORTEX)
    np.testing.assert_array_equal(part.fit_transform([scan[:5]]), expected)
    assert part.n_features_in_ == 5
    ready = preprocess(scan[:5], 2.0, Preprocessing(2.0, None, None, False, 20))
    with StoreWriter(tmp_path / "s", CORTEX, Preprocessing(2.0, None, None, False), {}) as writer:
        writer.add(Recording(ready.series, 2.0, CORTEX, scan="a", subject="a"), ready.valid)
        store = writer.finish(())
    of_store = clone(part).set_params(t_r=None).fit_transform(store)
    np.testing.assert_allclose(of_store, expected, atol=5e-3)
    table = embed(store, encoder, windows=1, smaller_atlas="mask")
    np.testing.assert_array_equal(table.features.astype(np.float32), of_store)
    with pytest.raises(InputError, match=r"'part' .* the model was made for 'tiny'"):
        embed(store, encoder)
    with pytest.raises(ConfigurationError, match="'refuse' or 'mask'"):
        embed(store, encoder, smaller_atlas="pad")  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [5, 15, 25])
def test_shorter_and_longer_windows(encoder, window):
    scan = np.random.default_rng(0).standard_normal((9, 30))
    model = SemantoksFeatures(encoder, 1, window=window, t_r=2.0, preprocessing=UNFILTERED)
    found = model.fit_transform([scan])
    z = (scan - scan.mean(1, keepdims=True)) / scan.std(1, keepdims=True)
    with torch.no_grad():
        summary, _ = encoder(torch.from_numpy(z[None, :, :window].astype(np.float32)))
    np.testing.assert_allclose(found[:, DIM:], summary.numpy(), atol=1e-5)


def test_store_of_short_scans_can_be_read_with_shorter_windows(store, encoder):
    longer = SemantoksEncoder(store.atlas, dim=DIM, depth=1, head_dim=8, window=40, patch=5)
    with pytest.raises(InputError, match=r"4 scan\(s\) are shorter than the window of 40"):
        embed(store, longer)
    table = embed(store, longer, window=20, features="mean")
    assert table.features.shape == (5, DIM)
    assert table.provenance["window"] == 20
    assert table.provenance["features"] == "mean"


# --- at home in scikit-learn


def test_pandas_output_clone_and_pickle(folder, arrays):
    model = SemantoksFeatures(folder, 2, "networks", t_r=1.0).set_output(transform="pandas")
    table = model.fit_transform(arrays)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns[:2]) == ["Vis_0000", "Vis_0001"]
    assert table.shape == (4, 3 * DIM)
    again = clone(model).fit(arrays)
    assert again.get_params() == model.get_params()
    pd.testing.assert_frame_equal(again.transform(arrays), table)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(model)).transform(arrays), table)


@pytest.mark.parametrize("given", ["folder", "encoder"])
def test_pipeline_and_grid_search_over_lists(folder, encoder, given):
    random = np.random.default_rng(0)
    target = np.arange(16) % 2
    # What is to be found: one network fluctuates slowly in one group.
    scans = [random.standard_normal((9, 25 + i)) for i in range(16)]
    for scan, label in zip(scans, target, strict=True):
        if label:
            scan[5:] = np.repeat(random.standard_normal((4, scan.shape[1] // 5 + 1)), 5, axis=1)[
                :, : scan.shape[1]
            ]
    pipeline = make_pipeline(
        SemantoksFeatures(
            {"folder": folder, "encoder": encoder}[given], t_r=2.0, preprocessing=FILTERED
        ),
        StandardScaler(),
        LogisticRegression(),
    )
    grid = {
        "semantoksfeatures__features": ["mean+cls", "networks"],
        "semantoksfeatures__windows": [1, 2],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(scans, target)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.7
    assert search.predict(scans[:3]).shape == (3,)


class Lifted(SemantoksFeatures):
    """Takes the tables of scikit-learn's checks: every row becomes a series of five ROIs."""

    def fit(self, X: Any, y: Any = None) -> Lifted:
        self._n_columns = np.asarray(X).shape[-1]
        return super().fit(self._lift(X), y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def transform(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().transform(self._lift(X))

    def _lift(self, table: Any) -> Any:
        rows = np.nan_to_num(np.asarray(table))
        if rows.ndim != 2:
            return table
        n_rois = 5 if rows.shape[1] == self._n_columns else 4
        random = np.random.default_rng(0)
        basis = random.standard_normal((rows.shape[1], n_rois * 25))
        series = np.tanh(rows) @ basis + random.standard_normal(n_rois * 25)
        return series.reshape(len(rows), n_rois, 25)


NOT_FOR_SERIES = {
    "check_n_features_in_after_fitting": "n_features_in_ counts ROIs, not columns of a table",
    "check_n_features_in": "n_features_in_ counts ROIs, not columns of a table",
    "check_estimators_empty_data_messages": "wants the words for a table without columns",
    "check_complex_data": "wants scikit-learn's words; complex series are refused with ours",
    "check_dtype_object": "wants a TypeError; series of objects are refused as InputError",
    "check_estimator_sparse_tag": "wants the word sparse; a table of any kind is refused",
    "check_estimator_sparse_array": "wants the word sparse; a table of any kind is refused",
    "check_estimator_sparse_matrix": "wants the word sparse; a table of any kind is refused",
}
# They want 1e-7 of float32 features; what a matrix product rounds depends on the place in a batch.
TO_THE_LAST_BIT = dict.fromkeys(
    ["check_methods_sample_order_invariance", "check_methods_subset_invariance"],
    "equal but for rounding in float32",
)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(tmp_path):
    atlas = Atlas.from_networks({"Vis": 3, "Default": 2})
    encoder = SemantoksEncoder(atlas, dim=4, depth=1, head_dim=2, window=20, patch=5)
    model = save_encoder(encoder, tmp_path / "model", preprocessing=UNFILTERED.to_dict())
    results = check_estimator(
        Lifted(model, 1, t_r=2.0),
        expected_failed_checks=NOT_FOR_SERIES | TO_THE_LAST_BIT,
        on_fail=None,
        on_skip=None,
    )
    status = {result["check_name"]: result["status"] for result in results}
    assert {name for name, how in status.items() if how == "failed"} == set()
    expected = {name for name, how in status.items() if how == "xfail"}
    assert expected - set(TO_THE_LAST_BIT) == set(NOT_FOR_SERIES)
    assert sum(how == "passed" for how in status.values()) >= 30


# --- clear in error


@pytest.mark.parametrize(
    ("scans", "message"),
    [
        (
            np.zeros((9, 30)),
            r"array of shape \(9, 30\)\. Put the series of a single scan into a li",
        ),
        ([], "no scan"),
        ("scan.npy", "but got str"),
        (pd.DataFrame(np.zeros((9, 30))), "but got DataFrame"),
        (
            [np.zeros((9, 30)), np.zeros((8, 30))],
            r"array 1 of 2 has shape \(8, 30\).*Give the atlas",
        ),
        ([np.zeros((30, 9))], r"array 0 of 1 has shape \(30, 9\).*'tiny'.*Transpose it"),
        ([np.zeros(9)], r"array 0 of 1 has shape \(9,\)"),
        ([np.zeros((9, 30), dtype=complex)], "array 0 of 1 does not hold real numbers"),
        ([[["a"] * 30] * 9], "array 0 of 1 does not hold real numbers"),
        ([[[{}] * 30] * 9], "array 0 of 1 does not hold numbers"),
    ],
)
def test_what_is_no_list_of_series_is_refused_already_in_fit(folder, scans, message):
    with pytest.raises(InputError, match=message):
        SemantoksFeatures(folder, t_r=2.0).fit(scans)


def test_broken_scans_are_named_by_their_position(folder, arrays):
    def attempt(change: Any, **parameters: Any) -> None:
        scans = [x.copy() for x in arrays]
        scans[2] = change(scans[2])
        SemantoksFeatures(folder, t_r=1.0, **parameters).fit(scans).transform(scans)

    def with_nan(x: np.ndarray) -> np.ndarray:
        x[4, 7] = np.nan
        return x

    with pytest.raises(QualityError, match=r"array 2 of 4: too short: 30 .* at least 20 .*window"):
        attempt(lambda x: x[:, :30])
    with pytest.raises(QualityError, match=r"array 2 of 4: NaN .* ROI 5, sample 8"):
        attempt(with_nan)
    with pytest.raises(QualityError, match=r"array 2 of 4: all of its 9 ROIs are flat"):
        attempt(np.zeros_like)
    with pytest.raises(InputError, match=r"array 0 of 4: a band edge of 0\.1 Hz"):
        SemantoksFeatures(folder, t_r=6.0).fit_transform(arrays)


@pytest.mark.parametrize("given", ["folder", "encoder", "encoder of a folder"])
def test_repetition_time_is_not_guessed(folder, encoder, arrays, given):
    models = {"folder": folder, "encoder": encoder, "encoder of a folder": load_encoder(folder)}
    words = r"t_r is missing: array 0 of 4 does not.*give t_r=2\.0 if the series are at the model'"
    with pytest.raises(InputError, match=words):
        SemantoksFeatures(models[given]).fit(arrays)
    recording = Recording(arrays[0], 1.0, ATLAS, scan="anna", subject="anna")
    with pytest.raises(InputError, match=r"'anna'\) has repetition time 1 s, but t_r=2 was"):
        SemantoksFeatures(models[given], t_r=2.0).fit([recording])
    one, two = (SemantoksFeatures(folder, t_r=t_r).fit_transform(arrays) for t_r in (1.0, 2.0))
    assert np.abs(one - two).max() > 1e-3


def test_store_or_recording_that_the_model_does_not_expect_is_refused(folder, store, tmp_path):
    with pytest.raises(InputError, match=r"low_pass is 0\.1, expected None"):
        SemantoksFeatures(make_encoder(), preprocessing=UNFILTERED).fit(store)
    with pytest.raises(InputError, match=r"expected 0\.01.*filtered_before=\(low, high\)"):
        SemantoksFeatures(folder, t_r=2.0, preprocessing=UNFILTERED).fit([np.zeros((9, 60))])
    with pytest.raises(InputError, match="Give the store's own atlas"):
        SemantoksFeatures(folder, atlas=CORTEX).fit(store)
    recording = Recording(np.zeros((5, 60)), 1.0, CORTEX, scan="anna", subject="anna")
    with pytest.raises(InputError, match=r"array 0 of 1 \(scan 'anna'\) is of Atlas\('part'"):
        SemantoksFeatures(folder).fit([recording])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"features": "means"}, "no features 'means'.*Did you mean 'mean'"),
        ({"windows": 0}, "windows is 0; it must be a whole number of at least 1"),
        ({"windows": 2.5}, r"windows is 2\.5; it must be a whole"),
        ({"windows": True}, "windows is True; it must be a whole"),
        ({"window": 20.0}, r"window is 20\.0; it must be a whole"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole"),
        ({"batch_size": 6.4}, r"batch_size is 6\.4; it must be a whole"),
        ({"t_r": [2, 2]}, r"t_r is \[2, 2\]; it must be one positive number .*Recording"),
        ({"t_r": "2"}, "t_r is '2'; it must be one positive number"),
        ({"t_r": float("nan")}, "t_r is nan; it must be one positive"),
        ({"t_r": 0}, "t_r is 0; it must be one positive"),
        ({"t_r": 2.0}, r"t_r=2 was given with a store.*Leave t_r out"),
        ({"min_coverage": 0.5}, r"min_coverage=0\.5 was given with a store"),
        ({"min_coverage": "half"}, "min_coverage is 'half'; it is a share"),
        ({"min_coverage": 2}, "share between 0 and 1"),
        ({"atlas": "cc200"}, "atlas is 'cc200' of type str; Atlas was expected"),
        ({"preprocessing": {}}, "preprocessing is {} of type dict; Preprocessing was expected"),
        ({"window": 12}, "whole patches of 5; the nearest that do have 10"),
        ({"window": 0}, "window is 0; it must be a whole"),
        ({"model": 3}, "of type int"),
        ({"model": "nowhere"}, "nowhere"),
        ({"atlas": Atlas.from_networks({"Limbic": 2})}, "'Limbic_1', 'Limbic_2'"),
    ],
)
def test_impossible_parameters_are_refused_in_fit(folder, store, parameters, message):
    with pytest.raises(InputError, match=message):
        SemantoksFeatures(**{"model": folder, **parameters}).fit(store)


def test_store_refuses_what_is_for_arrays_in_transform_too(folder, store, arrays):
    model = SemantoksFeatures(folder, t_r=1.0).fit(arrays)
    with pytest.raises(InputError, match="t_r=1 was given with a store"):
        model.transform(store)


def test_model_of_series_that_were_filtered_before_does_not_say_what_arrays_need(arrays):
    encoder = make_encoder()
    encoder.preprocessing = FILTERED.to_dict()
    with pytest.raises(InputError, match=r"filtered before \(0\.008 to 0\.08 Hz\).*Say it"):
        SemantoksFeatures(encoder, t_r=2.0).fit(arrays)
    raw, filtered = (
        SemantoksFeatures(encoder, t_r=2.0, preprocessing=settings).fit_transform(arrays)
        for settings in (Preprocessing(high_pass=0.008, low_pass=0.08), FILTERED)
    )
    assert np.abs(raw - filtered).max() > 1e-3


# --- what fit decides


def test_parameters_set_after_fit_wait_for_the_next_fit(folder, arrays):
    model = SemantoksFeatures(folder, 2, t_r=1.0).fit(arrays)
    expected, names = model.transform(arrays), list(model.get_feature_names_out())
    changes = {"features": "mean", "windows": 1, "window": 15, "t_r": 2.0, "atlas": CORTEX}
    model.set_params(**changes)
    np.testing.assert_array_equal(model.transform(arrays), expected)
    assert list(model.get_feature_names_out()) == names
    assert (model.features_, model.windows_, model.window_) == ("mean+cls", 2, 20)
    model.set_params(atlas=None).fit(arrays)
    assert (model.features_, model.windows_, model.window_) == ("mean", 1, 15)
    assert model.transform(arrays).shape == (4, len(model.get_feature_names_out())) == (4, DIM)


def test_failed_fit_leaves_the_estimator_as_it_was(folder, arrays):
    model = SemantoksFeatures(folder, t_r=1.0)
    for scans in ([np.zeros((8, 30))], []):
        with pytest.raises(InputError):
            model.fit(scans)
        with pytest.raises(NotFittedError):
            model.transform(arrays)
        with pytest.raises(NotFittedError):
            model.get_feature_names_out()
    expected = model.fit(arrays).transform(arrays)
    with pytest.raises(InputError):
        model.set_params(features="mean").fit([np.zeros((8, 30))])
    np.testing.assert_array_equal(model.transform(arrays), expected)
    assert len(model.get_feature_names_out()) == 2 * DIM
