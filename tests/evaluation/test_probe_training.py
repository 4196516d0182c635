"""Probes that are trained together are those that are trained one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semantoks.evaluation.probe_training import (
    ProbeData,
    batch_size,
    draw_batches,
    group_by_windows,
    initial_weight,
    train_probes,
    window_keys,
)

RATES = (0.03, 0.003, 0.0001)
EPOCHS, SEED = 4, 3


def one_by_one(features, data: ProbeData, kind: str, rate: float):
    """Train one probe with torch's own modules, on the same batches from the same start.

    In float64: on features this far from standard, torch's modules themselves lose digits in
    float32, up to 2e-5 of a logit.
    """
    width = features.shape[1]
    outputs = int(data.truth.max()) + 1 if kind == "classification" else 1
    norm, linear = torch.nn.BatchNorm1d(width), torch.nn.Linear(width, outputs)
    with torch.no_grad():
        linear.weight.copy_(initial_weight(data, outputs, width, seed=SEED))
        linear.bias.zero_()
    model = torch.nn.Sequential(norm, linear).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    x = torch.from_numpy(features[data.rows]).double()
    weights = np.ones(len(data.rows)) if data.weights is None else data.weights
    for batch in draw_batches(data.rows, epochs=EPOCHS, seed=SEED):
        y, w = torch.from_numpy(data.truth[batch]), torch.from_numpy(weights[batch])
        z = model(x[batch])
        if kind == "classification":
            loss = torch.nn.functional.cross_entropy(z, y, reduction="none")
        else:
            loss = (z[:, 0] - y).abs()
        optimizer.zero_grad()
        ((loss * w).sum() / w.sum()).backward()
        optimizer.step()
    return model.eval()


def cohort(kind: str, random: np.random.Generator, width: int = 24):
    """Features far from standard, and training parts of different sizes, two of them the same."""
    scale, place = random.uniform(0.01, 30, width), random.uniform(-50, 50, width)
    raw = random.standard_normal((3000, width))
    features = (raw * scale + place).astype(np.float32)
    parts = [np.arange(2300), random.permutation(3000)[:2500], np.arange(100, 741)]
    data = []
    for rows, classes in zip([*parts, parts[1]], (2, 4, 3, 2), strict=True):
        if kind == "classification":
            truth = (raw[rows, 0] + random.standard_normal(len(rows)) > 0).astype(np.int64)
            truth[random.random(len(rows)) < 0.3] = classes - 1
        else:
            truth = raw[rows, 0] + random.standard_normal(len(rows))
        weights = random.uniform(0.5, 2, len(rows)) if classes == 3 else None
        data.append(ProbeData(rows, truth, weights))
    return features, data


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_all_at_once_equals_one_by_one_with_torchs_modules(kind):
    features, data = cohort(kind, np.random.default_rng(0))
    together = train_probes(features, data, kind=kind, rates=RATES, epochs=EPOCHS, seed=SEED)
    largest = 0.0
    for (probes, d), (i, rate) in itertools.product(
        zip(together, data, strict=True), enumerate(RATES)
    ):
        model = one_by_one(features, d, kind, rate)
        norm, linear = model
        expected = {
            "weight": (probes.weight[i], linear.weight),
            "bias": (probes.bias[i], linear.bias),
            "gain": (probes.gain[i], norm.weight),
            "shift": (probes.shift[i], norm.bias),
            "running_mean": (probes.running_mean, norm.running_mean),
            "running_variance": (probes.running_variance, norm.running_var),
        }
        for name, (found, wanted) in expected.items():
            wanted = wanted.detach().double().numpy()
            difference = np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)
            largest = max(largest, difference.max())
            assert difference.max() <= 1e-5, name
        with torch.no_grad():
            wanted = model(torch.from_numpy(features).double()).numpy()
        difference = np.abs(probes.outputs(features)[i] - wanted)
        largest = max(largest, difference.max())
        assert difference.max() <= 1e-5
    assert largest > 0  # two ways of computing, not one


def test_probe_does_not_depend_on_what_is_trained_beside_it():
    features, data = cohort("classification", np.random.default_rng(1))
    options = {"kind": "classification", "epochs": 2, "seed": 0}
    together = train_probes(features, data, rates=RATES, **options)
    alone = train_probes(features, data[2:3], rates=RATES[:1], **options)[0]
    np.testing.assert_allclose(together[2].weight[0], alone.weight[0], atol=1e-6)
    np.testing.assert_allclose(together[2].running_variance, alone.running_variance, rtol=1e-5)


def test_rows_that_are_not_learned_from_are_not_looked_at():
    features, data = cohort("classification", np.random.default_rng(2))
    options = {"kind": "classification", "rates": RATES, "epochs": 2, "seed": 0}
    (clean,) = train_probes(features, data[2:3], **options)
    features[np.setdiff1d(np.arange(len(features)), data[2].rows)] = np.nan
    (poisoned,) = train_probes(features, data[2:3], **options)
    np.testing.assert_array_equal(clean.weight, poisoned.weight)


def test_constant_feature_does_no_harm():
    features, data = cohort("classification", np.random.default_rng(3))
    features[:, 5] = 7.25
    (probes,) = train_probes(
        features, data[:1], kind="classification", rates=RATES, epochs=2, seed=0
    )
    assert np.isfinite(probes.outputs(features)).all()
    assert np.abs(probes.weight[:, :, 5]).max() < 1e-2


@pytest.mark.parametrize(("items", "size"), [(10_000, 256), (2048, 256), (800, 100), (9, 2)])
def test_batches_are_an_eighth_of_the_windows_at_most_256_and_whole(items, size):
    rows = np.arange(5, 5 + items)
    batches = list(draw_batches(rows, epochs=2, seed=0))
    assert batch_size(items) == size
    assert {len(b) for b in batches} == {size}
    assert len(batches) == 2 * (items // size)
    first = np.concatenate(batches[: len(batches) // 2])
    assert len(np.unique(first)) == len(first) == items // size * size


def test_splits_take_steps_together_where_they_share_windows():
    def cluster(*parts: np.ndarray) -> list[list[int]]:
        data = [ProbeData(rows, np.zeros(len(rows), dtype=np.int64)) for rows in parts]
        return [[i for g in groups for i in g.members] for groups in group_by_windows(data)]

    half, other = np.arange(3000), np.arange(1000, 4000)
    assert cluster(half, other, half) == [[0, 2, 1]]
    assert cluster(half, np.arange(5000)) == [[0], [1]]  # another number of steps
    strangers = [np.arange(3000 * i, 3000 * (i + 1)) for i in range(5)]
    assert cluster(*strangers) == [[0], [1], [2], [3], [4]]


def test_order_of_windows_does_not_depend_on_the_others():
    rows = np.arange(200, 1000, 3)
    few = [rows[b] for b in draw_batches(rows, epochs=2, seed=1)]
    keys = window_keys(5000, 1, 1)
    np.testing.assert_array_equal(keys[:1000], window_keys(1000, 1, 1))
    second = np.concatenate(few[len(few) // 2 :])
    assert (np.diff(keys[second]) > 0).all()
    first = np.concatenate(few[: len(few) // 2])
    assert not np.array_equal(first, second)
