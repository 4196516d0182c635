"""Read-outs with known answers; parts that are joined are those that were asked for alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.features import SemantoksFeatures
from semantoks.evaluation.readout import (
    PARTS,
    Scans,
    correlation,
    encode_scans,
    feature_names,
    feature_parts,
    fisher_z_of,
    log_of,
    read_out,
    scans_of,
    second_order,
    token_statistics,
    window_starts,
)
from semantoks.model.components import fit_read_out
from semantoks.model.encoder import Encoding, SemantoksEncoder

DIM = 16


def make(store: Store, **arguments: object) -> SemantoksEncoder:
    torch.manual_seed(0)
    sizes = {"dim": DIM, "depth": 2, "head_dim": 8, "window": 20, "patch": 5, "time_courses": 2}
    return SemantoksEncoder(store.atlas, **(sizes | arguments))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder(store: Store) -> SemantoksEncoder:
    return make(store)


def tokens_of_scan(encoder: SemantoksEncoder, store: Store, scan: int, n: int) -> np.ndarray:
    series = store.series(scan)
    starts = window_starts(series.shape[1], 20, n)
    cut = np.stack([series[:, s : s + 20] for s in starts]).astype(np.float32)
    with torch.no_grad():
        return encoder(torch.from_numpy(cut)).tokens.numpy()


# --- the numbers


def test_statistics_of_tokens():
    tokens = np.arange(2 * 3 * 4 * 5, dtype=float).reshape(2, 3, 4, 5) ** 1.5
    found = token_statistics(tokens).reshape(3, 2, 5)
    for network in range(3):
        own = tokens[:, network].reshape(8, 5)
        np.testing.assert_allclose(found[network, 0], own.mean(0))
        np.testing.assert_allclose(found[network, 1], own.std(0))


def test_correlation_is_that_of_numpy_and_constant_series_have_none():
    series = np.random.default_rng(0).standard_normal((4, 5, 30))
    found = correlation(series)
    np.testing.assert_allclose(found[2], np.corrcoef(series[2]), atol=1e-12)
    series[:, 1] = 0.1
    found = correlation(series)
    assert not np.delete(found[:, 1], 1, axis=1).any()
    assert (found[:, 1, 1] == 1).all()


def test_second_order_finds_networks_whose_tokens_move_together():
    random = np.random.default_rng(0)
    tokens = random.standard_normal((8, 9, 5, 32))
    tokens[:, 4] = 3 * tokens[:, 2] + 1  # the same course, another scale and place
    found = second_order(tokens)
    assert found.shape == (99 * 98 // 2,)
    full = np.zeros((99, 99))
    full[np.tril_indices(99, -1)] = found
    together = np.diag(full[44:55, 22:33])
    assert (together > 6).all()  # correlation 1, cut
    assert np.abs(np.diag(full[44:55, 33:44])).max() < 1
    # Any shift or scale of a network's tokens leaves them as they are.
    tokens[:, 3] = 0.5 * tokens[:, 3] - 2
    np.testing.assert_allclose(second_order(tokens), found, atol=1e-8)


def test_second_order_of_tokens_that_do_not_vary_is_zero():
    assert not second_order(np.ones((1, 3, 1, 8))).any()
    assert not second_order(np.ones((4, 3, 5, 8))).any()


def test_number_of_second_order_features_is_bounded():
    for networks in (1, 5, 9, 17, 50, 100):
        n = len(second_order(np.random.default_rng(0).standard_normal((2, networks, 3, 64))))
        assert n <= 4950
    assert len(second_order(np.zeros((2, 120, 3, 64)))) == 120 * 119 // 2


def test_fisher_z_is_the_lower_triangle_row_by_row():
    matrix = np.array([[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]])
    np.testing.assert_allclose(np.tanh(fisher_z_of(matrix)), [0.1, 0.2, 0.3])
    assert np.isfinite(fisher_z_of(np.ones((3, 3)))).all()


def test_logarithm_is_that_of_scipy():
    random = np.random.default_rng(0)
    found = correlation(random.standard_normal((3, 6, 40)))
    expected = scipy.linalg.logm(0.5 * found.mean(0) + 0.5 * np.eye(6))
    np.testing.assert_allclose(log_of(found), expected[np.tril_indices(6)], atol=1e-10)
    assert not log_of(np.eye(4)[None]).any()
    assert np.isfinite(log_of(np.ones((1, 5, 5)))).all()  # as short as can be


# --- over a store


def test_parts_of_a_scan_are_those_of_all_its_windows(store, encoder):
    scans = scans_of(store, encoder)
    for part, expected in (
        ("network-statistics", token_statistics),
        ("second-order", second_order),
    ):
        found = encode_scans(encoder, scans, features=part, windows=3)
        assert found.shape == (5, len(feature_names(encoder, part)))
        for scan in (0, 3, 4):  # 1 window, 3 windows, 3 windows
            tokens = tokens_of_scan(encoder, store, scan, 3)
            np.testing.assert_allclose(found[scan], expected(tokens), atol=2e-3, rtol=1e-3)


def test_synchrony_is_the_mean_over_windows_of_correlations_of_time_courses(store, encoder):
    found = encode_scans(encoder, scans_of(store, encoder), features="synchrony", windows=3)
    weights = [w.detach().numpy() for w in encoder.synchrony.weights]
    series, expected, matrices = store.series(4), [], []
    for start in (0, 12, 24):
        rois = store.atlas.network_indices
        courses = [w @ series[r, start : start + 20] for w, r in zip(weights, rois, strict=True)]
        joined = np.concatenate(courses)
        matrices.append(joined @ joined.T / 20)
        expected.append(np.arctanh(np.corrcoef(joined)[np.tril_indices(6, -1)]))
    np.testing.assert_allclose(found[4], np.mean(expected, axis=0), rtol=1e-3, atol=1e-3)
    assert np.abs(found[4]).max() < 5
    logs = encode_scans(encoder, scans_of(store, encoder), features="log-synchrony", windows=3)
    np.testing.assert_allclose(logs[4], log_of(np.array(matrices)), rtol=1e-3, atol=1e-3)
    names = feature_names(encoder, "synchrony")
    assert names[:4] == [
        "synchrony_Vis_01~Vis_00",
        "synchrony_Cont_00~Vis_00",
        "synchrony_Cont_00~Vis_01",
        "synchrony_Cont_01~Vis_00",
    ]
    logarithms = feature_names(encoder, "log-synchrony")
    assert logarithms[:3] == [
        "log_synchrony_Vis_00~Vis_00",
        "log_synchrony_Vis_01~Vis_00",
        "log_synchrony_Vis_01~Vis_01",
    ]
    assert len(logarithms) == logs.shape[1] == 21
    lacking = [i for i, name in enumerate(names) if "Cont" in name]
    assert not found[1, lacking].any()  # scan 1 has no network Cont
    assert found[1, 0] != 0


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_joined_parts_are_the_parts_whatever_the_batch(store, batch_size):
    encoder = make(store)
    encoder.components = fit_read_out(store)
    scans = scans_of(store, encoder)
    joined = "+".join(PARTS)
    found = encode_scans(encoder, scans, features=joined, windows=4, batch_size=batch_size)
    alone = [encode_scans(encoder, scans, features=part, windows=4) for part in PARTS]
    # Tokens that hardly vary make correlations of rounding errors; none do here.
    np.testing.assert_allclose(found, np.hstack(alone), atol=2e-4)
    assert len(feature_names(encoder, joined)) == len(set(feature_names(encoder, joined)))
    assert found.shape[1] == len(feature_names(encoder, joined))


def test_table_and_transformer_know_joined_parts(store, encoder):
    features = "networks+second-order+synchrony"
    table = embed(store, encoder, windows=2, features=features)
    model = SemantoksFeatures(encoder, 2, features, ignore_preprocessing=True).fit(store)
    np.testing.assert_allclose(model.transform(store), table.features, atol=1e-5)
    assert table.feature_names == list(model.get_feature_names_out())
    assert table.provenance["features"] == features
    assert table.provenance["model"]["time_courses"] == 2


def test_time_courses_alone_ask_the_encoder_for_nothing(store, encoder, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(encoder), "forward", refuse)
    encode_scans(encoder, scans_of(store, encoder), features="synchrony+log-synchrony")


def test_no_scans_have_no_rows(encoder):
    nothing = Scans(
        np.empty(0, dtype=np.int64),
        np.empty((0, 9), dtype=bool),
        lambda _a, _b, n: np.empty((0, 9, n), dtype=np.float32),
        str,
    )
    assert encode_scans(encoder, nothing, features="mean+second-order").shape[0] == 0


# --- what is refused


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("mean+clss", "no features 'clss'.*Did you mean 'cls'"),
        ("", "no features ''"),
        ("mean+", "no features ''"),
        ("networks+cls+networks", "twice"),
    ],
)
def test_unknown_parts_are_refused(features, message):
    with pytest.raises(ConfigurationError, match=message):
        feature_parts(features)


def test_time_courses_that_a_model_lacks_are_refused(store):
    encoder = make(store, time_courses=0)
    for part in ("synchrony", "mean+log-synchrony"):
        with pytest.raises(ConfigurationError, match="this model has none; pretrain one with"):
            embed(store, encoder, features=part)


def test_what_is_no_description_of_a_window_is_refused():
    with pytest.raises(ConfigurationError, match="second-order is no description of a window"):
        read_out(Encoding(torch.zeros(2, 8), torch.zeros(2, 3, 4, 8)), "mean+second-order")
