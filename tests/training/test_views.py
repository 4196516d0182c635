"""Windows, augmentation and masks: shapes, shares and distributions of METHOD.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from semantoks.errors import ConfigurationError
from semantoks.training.config import MasksConfig, ViewsConfig
from semantoks.training.views import augment, check_masks, draw_masks, draw_scans, draw_starts

ALPHA = 1e-4
"""Seeds are fixed: a right distribution is not told from its formula, a wrong one is."""
OFF = ViewsConfig(roi_dropout=0, time_dropout=0, gain=0, noise=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_counts(found: Tensor, shares: dict[int, float]) -> None:
    """Hold how often values came to their probabilities."""
    values, counts = np.unique(found.numpy(), return_counts=True)
    assert set(values.tolist()) == set(shares)
    expected = [shares[value] * found.numel() for value in values.tolist()]
    assert stats.chisquare(counts, expected).pvalue > ALPHA


def assert_uniform(found: Tensor) -> None:
    """Hold values to the uniform distribution between 0 and 1."""
    assert stats.kstest(found.numpy(), "uniform").pvalue > ALPHA


def ones(batch: int = 500) -> Tensor:
    return torch.ones(batch, 2, 40, 100)


def test_one_scan_a_subject_each_as_likely() -> None:
    codes = np.array([0, 0, 0, 1, 2, 2])
    orders = np.stack([draw_scans(codes, np.random.default_rng(s)) for s in range(900)])
    assert all(set(codes[order]) == {0, 1, 2} for order in orders)
    first = orders[codes[orders] == 0]
    np.testing.assert_allclose(np.bincount(first)[:3] / 900, 1 / 3, atol=0.05)
    assert len({tuple(codes[order]) for order in orders}) == 6  # subjects are shuffled too


def test_starts_are_uniform_and_independent() -> None:
    lengths = np.tile([100, 103, 140], 2000)
    starts = draw_starts(lengths, 100, np.random.default_rng(0)).reshape(2000, 3, 2)
    assert (starts[:, 0] == 0).all()  # there is one place only
    pairs = np.zeros((4, 4))
    np.add.at(pairs, tuple(starts[:, 1].T), 1 / 2000)
    np.testing.assert_allclose(pairs, 1 / 16, atol=0.02)
    assert (starts[:, 2].min(), starts[:, 2].max()) == (0, 40)


def test_off_changes_nothing() -> None:
    views = torch.randn(3, 2, 40, 100)
    torch.testing.assert_close(augment(views, OFF, generator()), views, rtol=0, atol=0)


def test_roi_dropout() -> None:
    config = OFF.model_copy(update={"roi_dropout": 0.1})
    views = augment(ones(), config, generator())
    dropped = (views == 0).all(-1).flatten(0, 1)
    # The share is uniform on (0, .1): up to 4 of 40, in whole ROIs, but at least one.
    assert_counts(dropped.sum(-1), {1: 0.5, 2: 0.25, 3: 0.25})
    _, which = dropped.nonzero(as_tuple=True)
    assert_counts(which, dict.fromkeys(range(40), 1 / 40))
    assert not torch.equal(views[:, 0], views[:, 1])  # each window on its own


def test_time_dropout_is_one_stretch() -> None:
    config = OFF.model_copy(update={"time_dropout": 0.3})
    gone = (augment(ones(), config, generator()) == 0).all(2).flatten(0, 1)
    length = gone.sum(-1)
    # The share is uniform on (0, .3): up to 30 of 100, in whole samples, but at least one.
    assert_counts(length, {1: 2 / 30} | dict.fromkeys(range(2, 30), 1 / 30))
    start = gone.int().argmax(-1)
    # Spread over its places, a uniform start is uniform between 0 and 1 whatever the length.
    jitter = torch.rand(len(start), generator=generator(1))
    assert_uniform((start + jitter) / (100 - length + 1))
    edges = torch.diff(gone.int(), dim=-1).abs().sum(-1)
    assert edges.max() <= 2
    assert gone[:, 0].any()
    assert gone[:, -1].any()


def test_gain_and_noise() -> None:
    gained = augment(ones(), OFF.model_copy(update={"gain": 0.2}), generator())
    gain = gained[..., 0, 0]
    assert torch.equal(gained, gain[..., None, None].expand_as(gained))  # one a window
    assert_uniform((gain.flatten() - 0.8) / 0.4)
    assert stats.pearsonr(*gain.T.numpy()).pvalue > ALPHA  # of each window on its own
    noisy = (augment(ones(5), OFF.model_copy(update={"noise": 0.1}), generator()) - 1).flatten()
    assert stats.kstest(noisy.numpy(), "norm", args=(0, 0.1)).pvalue > ALPHA


def test_same_seed_same_views() -> None:
    views = torch.randn(3, 2, 40, 100)
    a, b, c = (augment(views, ViewsConfig(), generator(s)) for s in (1, 1, 2))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


def network_counts(masks: Tensor) -> Tensor:
    return masks.flatten(0, 1).all(-1).sum(-1)


def test_network_masks() -> None:
    masks = draw_masks(1000, 9, 5, MasksConfig(kind="network"), generator())
    assert masks.shape == (1000, 2, 9, 5)
    assert (masks.any(-1) == masks.all(-1)).all()  # whole networks
    counts = torch.bincount(network_counts(masks), minlength=10)
    assert counts.nonzero().flatten().tolist() == [5, 6]
    assert counts[5].item() / 2000 == pytest.approx(0.5, abs=0.05)
    each = masks.all(-1).float().mean((0, 1))
    assert torch.allclose(each, torch.full((9,), 5.5 / 9), atol=0.04)


def test_temporal_masks() -> None:
    masks = draw_masks(1000, 9, 5, MasksConfig(kind="temporal"), generator())
    assert (masks.any(2) == masks.all(2)).all()  # all networks
    hidden = masks.all(2).flatten(0, 1)
    lengths = torch.bincount(hidden.sum(-1), minlength=6)
    assert lengths.nonzero().flatten().tolist() == [3, 4]
    # ceil(5 r) - 1 is 3 up to r = .8 and 4 beyond: three quarters and one quarter.
    assert lengths[3].item() / 2000 == pytest.approx(0.75, abs=0.04)
    assert torch.diff(hidden.int(), dim=-1).abs().sum(-1).max() <= 2  # consecutive
    start = hidden.int().argmax(-1)
    for length in (3, 4):
        places = 5 - length + 1
        found = start[hidden.sum(-1) == length]
        assert_counts(found, dict.fromkeys(range(places), 1 / places))


def test_slice_masks_are_half_and_half() -> None:
    masks = draw_masks(1000, 9, 5, MasksConfig(), generator()).flatten(0, 1)
    networks = (masks.any(-1) == masks.all(-1)).all(-1)
    times = (masks.any(1) == masks.all(1)).all(-1)
    assert (networks ^ times).all()
    assert networks.float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_random_masks_hide_as_many_tokens_as_slices_anywhere() -> None:
    config = MasksConfig(kind="random")
    masks = draw_masks(2000, 9, 5, config, generator()).flatten(0, 1)
    slices = draw_masks(2000, 9, 5, MasksConfig(), generator()).flatten(0, 1)
    shares = [x.flatten(1).sum(1).bincount(minlength=46) / len(x) for x in (masks, slices)]
    assert torch.equal(*shares)  # the first draws of both are the same
    expected = (5.5 / 9 + 3.25 / 5) / 2  # 5 or 6 of 9 networks; 3 patches of 5, or at times 4
    assert masks.float().mean().item() == pytest.approx(expected, abs=0.005)
    torch.testing.assert_close(
        masks.float().mean(0), torch.full((9, 5), expected), atol=0.03, rtol=0
    )
    assert (masks.any(-1) != masks.all(-1)).any(-1).float().mean() > 0.99


@pytest.mark.parametrize("kind", ["slice", "network", "temporal", "random"])
@pytest.mark.parametrize(("networks", "patches"), [(1, 5), (5, 1), (2, 2), (3, 5)])
def test_small_lattices_are_hidden_in_part(networks: int, patches: int, kind: str) -> None:
    config = MasksConfig(kind=kind)  # type: ignore[arg-type]
    along = {"network": networks, "temporal": patches}.get(kind, networks * patches)
    if along == 1:
        with pytest.raises(ConfigurationError, match="would hide every token"):
            check_masks(networks, patches, config)
        return
    check_masks(networks, patches, config)
    hidden = draw_masks(200, networks, patches, config, generator()).flatten(2)
    assert hidden.any(-1).all()
    assert not hidden.all(-1).any()


def test_one_token_cannot_be_masked() -> None:
    with pytest.raises(ConfigurationError, match="would hide every token"):
        check_masks(1, 1, MasksConfig())
    check_masks(1, 1, MasksConfig(probability=0))
