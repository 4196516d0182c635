"""Windows average to what `embed` says of a scan, and stay with their scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.windows import (
    WindowFeatures,
    WindowTokens,
    window_features,
    window_tokens,
)
from semantoks.model.encoder import SemantoksEncoder


@pytest.fixture
def encoder(store) -> SemantoksEncoder:
    torch.manual_seed(0)
    return SemantoksEncoder(store.atlas, dim=16, depth=2, head_dim=8, window=20, patch=5)


@pytest.mark.parametrize("features", ["mean+cls", "networks"])
def test_means_over_windows_are_the_embedding(store, encoder, features):
    windows = window_features(store, encoder, features, windows=3, batch_size=4)
    table = embed(store, encoder, features=features, windows=3)
    np.testing.assert_allclose(windows.scan_means(), table.features, atol=1e-5)
    assert windows.names == tuple(table.frame.columns[4:])
    assert windows.scan.tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_tokens_average_to_the_features(store, encoder):
    tokens = window_tokens(store, encoder, windows=3, dtype="float32", batch_size=4)
    assert tokens.tokens.shape == (11, 3, 4, 16)
    expected = window_features(store, encoder, "mean", windows=3)
    np.testing.assert_allclose(tokens.tokens.mean((1, 2)), expected.features, atol=1e-5)
    half = window_tokens(store, encoder, windows=3)
    assert half.tokens.dtype == np.float16
    np.testing.assert_allclose(half.tokens, tokens.tokens, atol=2e-3)


def test_encoder_stays_as_it_was_and_progress_is_told(store, encoder):
    encoder.train()
    calls: list[tuple[int, int]] = []
    window_features(store, encoder, windows=2, batch_size=5, progress=lambda *c: calls.append(c))
    assert encoder.training
    assert calls == [(5, 8), (8, 8)]
    assert all(p.grad is None for p in encoder.parameters())


def test_take_keeps_windows_with_their_scans(store, encoder):
    windows = window_features(store, encoder, windows=3)
    some = windows.take([4, 0, 3])
    assert some.n_scans == 3
    assert some.scan.tolist() == [0, 0, 0, 1, 2, 2, 2]
    np.testing.assert_array_equal(some.features[:3], windows.features[8:])
    np.testing.assert_array_equal(some.scan_means(), windows.scan_means()[[4, 0, 3]])
    tokens = window_tokens(store, encoder, windows=3)
    np.testing.assert_array_equal(tokens.take([4, 0]).tokens[3], tokens.tokens[0])
    for rows, message in (([5], "scans 5 to 5"), ([1, 1], "more than once")):
        with pytest.raises(InputError, match=message):
            windows.take(rows)


def test_what_does_not_fit_is_refused(store, encoder):
    with pytest.raises(InputError, match=r"0\.0 GB.*0 GB are allowed"):
        window_tokens(store, encoder, memory=0)
    with pytest.raises(ConfigurationError, match="float16 or float32"):
        window_tokens(store, encoder, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"3 scan\(s\) are shorter .*'000' with 20"):
        window_features(store, encoder, window=25)
    with torch.no_grad():
        encoder.cls_token[0] = float("nan")
    with pytest.raises(InputError, match="'000' is not finite"):
        window_features(store, encoder)
    with pytest.raises(InputError, match="scan by scan"):
        WindowFeatures(np.zeros((3, 2), np.float32), np.array([0, 2, 2]))
    with pytest.raises(InputError, match="must have shape"):
        WindowTokens(np.zeros((3, 2)), np.array([0, 0, 0]))
