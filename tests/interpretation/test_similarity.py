"""Likeness of tokens, against the definition, and maps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.interpretation.knowledge import TokenSimilarity, _cosines, project, token_similarity
from semantoks.model.encoder import SemantoksEncoder


def encoder_of(atlas, **options):
    torch.manual_seed(0)
    return SemantoksEncoder(atlas, dim=16, depth=1, head_dim=8, **options).eval()


@pytest.mark.parametrize("patches", [1, 4])
def test_cosines_are_the_mean_over_pairs_of_different_tokens(patches):
    tokens = np.random.default_rng(0).standard_normal((2, 3, patches, 5))
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    found = _cosines(tokens)
    for b, i, j in np.ndindex(2, 3, 3):
        pairs = [
            unit[b, i, p] @ unit[b, j, q]
            for p in range(patches)
            for q in range(patches)
            if i != j or p != q
        ]
        assert found[b, i, j] == pytest.approx(np.mean(pairs) if pairs else 1.0)


def test_similarity_is_symmetric_bounded_and_the_same_twice(small_store):
    encoder = encoder_of(small_store.atlas)
    found = token_similarity(small_store, encoder, n_scans=10)
    assert found.n_scans == 10
    assert found.networks == ("Vis", "SomMot", "Default")
    np.testing.assert_allclose(found.matrix, found.matrix.T)
    assert (np.abs(found.matrix) <= 1).all()
    np.testing.assert_array_equal(found.matrix, token_similarity(small_store, encoder, 10).matrix)
    other = token_similarity(small_store, encoder, 10, seed=1)
    assert not np.allclose(found.matrix, other.matrix)


def test_more_scans_than_there_are_means_all(small_store):
    assert token_similarity(small_store, encoder_of(small_store.atlas), 999).n_scans == 24


def test_networks_that_are_missing_everywhere_are_unknown(small_store):
    _, second, third = small_store.atlas.network_indices
    valid = np.ones((24, len(small_store.atlas)), dtype=bool)
    valid[:, second] = False
    valid[0, third] = False
    store = dataclasses.replace(small_store, valid=valid)
    found = token_similarity(store, encoder_of(store.atlas))
    assert np.isnan(found.matrix[1]).all()
    assert np.isfinite(found.matrix[np.ix_([0, 2], [0, 2])]).all()
    assert found.between == pytest.approx(found.matrix[0, 2])


def test_one_network_has_no_pairs():
    assert np.isnan(TokenSimilarity(np.ones((1, 1)), ("Vis",), 1).between)


def test_another_atlas_is_refused(small_store):
    other = Atlas.from_networks({"Vis": 12}, name="other")
    with pytest.raises(InputError, match=r"'small'.*'other'"):
        token_similarity(small_store, encoder_of(other))


def test_scans_shorter_than_a_window_are_refused(small_store):
    with pytest.raises(InputError, match=r"no scan .* 200 samples"):
        token_similarity(small_store, encoder_of(small_store.atlas, window=200))


def test_map_is_the_same_twice_and_keeps_groups_apart():
    random = np.random.default_rng(0)
    features = random.standard_normal((40, 8))
    features[:20] += 8
    first, second = project(features), project(features)
    assert first.method == "t-SNE"
    np.testing.assert_array_equal(first.points, second.points)
    distances = np.linalg.norm(first.points[:, None] - first.points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert ((nearest < 20) == (np.arange(40) < 20)).all()


@pytest.mark.parametrize("shape", [(3, 5), (29, 4), (40, 1), (5, 1)])
def test_few_scans_or_features_are_drawn_by_components(shape):
    found = project(np.random.default_rng(0).standard_normal(shape))
    assert found.method == "PCA"
    assert found.points.shape == (shape[0], 2)


def test_equal_features_stand_on_one_point():
    assert not project(np.ones((40, 4))).points.any()


def test_unusable_features_are_refused():
    with pytest.raises(InputError, match="at least 3 scans"):
        project(np.ones((2, 4)))
    with pytest.raises(InputError, match="NaN or infinite"):
        project(np.full((5, 4), np.nan))
