"""The paper's probe finds what is planted, chooses on validation, and never sees the test part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, r2_score

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear_probe import (
    LinearProbe,
    ProbeSettings,
    ProbeTarget,
    linear_probe_of_targets,
    linear_probe_predictions,
)
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import RandomSubjectSplits
from semantoks.evaluation.windows import WindowFeatures

N, WINDOWS, WIDTH = 120, 4, 12
SUBJECTS = np.array([f"{i:03d}" for i in range(N)])
SCANS = pd.DataFrame({"subject": SUBJECTS})
QUICK = ProbeSettings(epochs=15)
CLASSES = np.arange(N) % 3


def windows_of(random: np.random.Generator, shift: np.ndarray | None = None) -> WindowFeatures:
    """Windows of a scan look alike, as those of a brain do; the last scan has fewer."""
    scan = np.arange(N).repeat(WINDOWS)[:-2]
    own = random.standard_normal((N, WIDTH))
    if shift is not None:
        own[:, : shift.shape[1]] += shift
    features = 5 + own[scan] + 0.5 * random.standard_normal((len(scan), WIDTH))
    return WindowFeatures(features.astype(np.float32), scan)


def splits_of(truth: np.ndarray, repeats: int = 2, seed: int = 0) -> list[Split]:
    return RandomSubjectSplits(repeats=repeats, seed=seed).splits(SCANS, truth)


def probed(windows, truth, splits, kind="classification", settings=QUICK, **options):
    return linear_probe_predictions(
        windows, truth, splits, kind=kind, subjects=SUBJECTS, settings=settings, **options
    )


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_planted_classes_are_found(class_weight):
    windows = windows_of(np.random.default_rng(0), 3 * np.eye(3)[CLASSES])
    settings = QUICK._replace(class_weight=class_weight)
    for fold in probed(windows, CLASSES, splits_of(CLASSES), settings=settings):
        truth = CLASSES[fold.split.test]
        assert balanced_accuracy_score(truth, fold.prediction) > 0.8
        np.testing.assert_array_equal(fold.score.argmax(1), fold.prediction)
        assert fold.chosen["learning_rate"] in QUICK.rates


def test_planted_values_are_found_and_come_in_their_unit():
    random = np.random.default_rng(0)
    age = random.uniform(20, 80, N)
    windows = windows_of(random, 3 * (age[:, None] - 50) / 17)
    for fold in probed(windows, age, splits_of(age), "regression"):
        assert r2_score(age[fold.split.test], fold.prediction) > 0.5
        assert fold.score.shape == (len(fold.split.test), 0)


def test_shuffled_labels_are_at_chance():
    random = np.random.default_rng(1)
    windows = windows_of(random, 3 * np.eye(3)[CLASSES])
    scores = []
    for seed in range(4):
        truth = random.permutation(CLASSES)
        for fold in probed(windows, truth, splits_of(truth, 3, seed)):
            scores.append(balanced_accuracy_score(truth[fold.split.test], fold.prediction))
    # Of 12 splits of 24 tested scans, of which some are the same.
    assert abs(np.mean(scores) - 1 / 3) < 0.08


def test_nothing_of_the_test_part_reaches_training_or_choice():
    random = np.random.default_rng(2)
    clean = windows_of(random, 2 * np.eye(3)[CLASSES])
    (split,) = splits_of(CLASSES, 1)
    truth = CLASSES.astype(float)
    truth[split.test] = np.nan
    poisoned = clean.features.copy()
    tested = np.isin(clean.scan, split.test)
    poisoned[tested] = 1e4 * random.standard_normal((tested.sum(), WIDTH))
    parts = [
        (windows.take(rows), labels[rows])
        for windows, labels in (
            (clean, CLASSES),
            (WindowFeatures(poisoned, clean.scan), truth),
        )
        for rows in (split.train, split.validation)
    ]
    probes = [LinearProbe(epochs=5).fit(*parts[i], validation=parts[i + 1]) for i in (0, 2)]
    (first,) = probed(clean, CLASSES, [split])
    (hidden,) = probed(clean, truth, [split])
    np.testing.assert_array_equal(first.score, hidden.score)
    (second,) = probed(WindowFeatures(poisoned, clean.scan), truth, [split])
    assert first.chosen == second.chosen
    np.testing.assert_array_equal(*(p.losses_ for p in probes))
    rows = clean.take(split.validation)
    np.testing.assert_array_equal(*(p.decision_function(rows) for p in probes))


def test_rate_is_chosen_on_the_validation_part():
    """Validation labels that are the wrong way round call for the rate that learns least."""
    windows = windows_of(np.random.default_rng(3), 4 * np.eye(3)[CLASSES])
    (split,) = splits_of(CLASSES, 1)
    upside_down = CLASSES.copy()
    upside_down[split.validation] = (CLASSES[split.validation] + 1) % 3
    settings = QUICK._replace(rates=(0.03, 1e-9), epochs=4)
    (honest,) = probed(windows, CLASSES, [split], settings=settings)
    (turned,) = probed(windows, upside_down, [split], settings=settings)
    assert honest.chosen["learning_rate"] == 0.03
    assert turned.chosen["learning_rate"] == 1e-9


def test_targets_that_are_probed_together_are_as_if_alone():
    windows = windows_of(np.random.default_rng(4), 2 * np.eye(3)[CLASSES])
    other = (CLASSES == 0).astype(int)
    shared, own = splits_of(CLASSES), splits_of(other, seed=5)
    targets = [ProbeTarget(CLASSES, shared), ProbeTarget(other, shared), ProbeTarget(other, own)]
    calls: list[tuple[int, int]] = []
    together = linear_probe_of_targets(
        windows,
        targets,
        kind="classification",
        subjects=SUBJECTS,
        settings=QUICK,
        progress=lambda *done: calls.append(done),
    )
    assert calls[-1][0] == calls[-1][1] == len(calls)
    for target, folds in zip(targets, together, strict=True):
        alone = probed(windows, target.truth, target.splits)
        for a, b in zip(folds, alone, strict=True):
            assert a.split is b.split
            assert a.chosen == b.chosen
            np.testing.assert_allclose(a.score, b.score, atol=1e-4)


def test_face_of_scikit_learn_is_the_same_probe_with_labels():
    windows = windows_of(np.random.default_rng(5), 2 * np.eye(3)[CLASSES])
    (split,) = splits_of(CLASSES, 1)
    labels = np.array(["a", "b", "c"])[CLASSES]
    # In one table, as `fit` sees it: rows decide on batches.
    order = np.concatenate([np.sort(split.train), np.sort(split.validation), split.test])
    place = np.argsort(order)
    moved = Split(
        "mine",
        0,
        "0",
        place[split.train],
        place[split.test],
        validation=place[split.validation],
    )
    (fold,) = linear_probe_predictions(
        windows.take(order),
        CLASSES[order],
        [moved],
        kind="classification",
        subjects=SUBJECTS[order],
        settings=QUICK,
    )
    probe = LinearProbe(epochs=QUICK.epochs)
    train, validation = (
        (windows.take(np.sort(part)), labels[np.sort(part)])
        for part in (split.train, split.validation)
    )
    probe.fit(*train, validation=validation)
    test = windows.take(split.test)
    np.testing.assert_allclose(probe.decision_function(test), fold.score, atol=1e-4)
    np.testing.assert_array_equal(probe.predict(test), np.array(["a", "b", "c"])[fold.prediction])
    assert probe.rate_ == fold.chosen["learning_rate"]
    with pytest.raises(InputError, match="3 features came; the probe has learned 12"):
        probe.predict(WindowFeatures(test.features[:, :3], test.scan))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_outputs_of_a_scan_are_the_mean_over_its_windows(kind):
    random = np.random.default_rng(6)
    windows = windows_of(random, 2 * np.eye(3)[CLASSES])
    truth = CLASSES if kind == "classification" else random.standard_normal(N)
    parts = [(windows.take(rows), truth[rows]) for rows in (np.arange(80), np.arange(80, 100))]
    probe = LinearProbe(kind, rates=(0.03,), epochs=15).fit(*parts[0], validation=parts[1])
    tested = windows.take(np.arange(100, N))
    each = WindowFeatures(tested.features, np.arange(len(tested.features)))  # a window a scan
    outputs = probe.decision_function(each)
    expected = [outputs[tested.scan == scan].mean(axis=0) for scan in range(tested.n_scans)]
    np.testing.assert_allclose(probe.decision_function(tested), expected, atol=1e-5)
    assert np.ptp(outputs[:WINDOWS], axis=0).max() > 1e-2  # windows of a scan do differ


def test_class_that_is_not_learned_from_is_never_predicted():
    windows = windows_of(np.random.default_rng(6), 2 * np.eye(3)[CLASSES])
    people = np.arange(N)
    train = people[(CLASSES != 1) & (people < 80)]
    split = Split("mine", 0, "0", train, people[100:], validation=people[80:100])
    (fold,) = probed(windows, CLASSES, [split])
    assert fold.score.shape == (20, 3)
    assert 1 not in fold.prediction
    assert len(np.unique(fold.score[:, 1])) == 1


def test_what_cannot_be_probed_is_refused():
    random = np.random.default_rng(7)
    windows = windows_of(random)
    (split,) = splits_of(CLASSES, 1)
    bare = Split("mine", 0, "0", split.train, split.test)
    with pytest.raises(InputError, match=r"no validation part.*RandomSubjectSplits"):
        probed(windows, CLASSES, [bare])
    unknown = CLASSES.astype(float)
    unknown[split.validation[0]] = np.nan
    with pytest.raises(InputError, match=r"target of 1 of \d+ scan\(s\) to learn from"):
        probed(windows, unknown, [split])
    with pytest.raises(InputError, match="codes 0, 1, 2"):
        probed(windows, CLASSES + 0.5, [split])
    broken = windows.features.copy()
    broken[9, 2] = np.nan
    with pytest.raises(InputError, match=r"1 window.* not finite, the first is of scan 2"):
        probed(WindowFeatures(broken, windows.scan), CLASSES, [split])
    with pytest.raises(InputError, match="windows are of 10 scans, but 120 scans have a target"):
        probed(windows.take(np.arange(10)), CLASSES, [split])
    with pytest.raises(InputError, match="all values to learn from are the same"):
        probed(windows, np.ones(N), [split], "regression")
    for wrong in ({"rates": ()}, {"rates": (0.1, -1)}, {"epochs": 0}, {"class_weight": "some"}):
        with pytest.raises(ConfigurationError):
            probed(windows, CLASSES, [split], settings=QUICK._replace(**wrong))


def test_rate_that_diverges_is_never_chosen():
    windows = windows_of(np.random.default_rng(8), 2 * np.eye(3)[CLASSES])
    (split,) = splits_of(CLASSES, 1)
    settings = QUICK._replace(rates=(1e30, 0.01), epochs=3)
    (fold,) = probed(windows, CLASSES, [split], settings=settings)
    assert fold.chosen["learning_rate"] == 0.01
    assert np.isfinite(fold.score).all()
    with pytest.raises(InputError, match="diverged at every rate"):
        probed(windows, CLASSES, [split], settings=settings._replace(rates=(1e30,)))


def test_kind_that_is_none_is_refused():
    windows = windows_of(np.random.default_rng(9))
    with pytest.raises(ConfigurationError, match="not 'ranking'"):
        LinearProbe("ranking").fit(windows, CLASSES, validation=(windows, CLASSES))
    (split,) = splits_of(CLASSES, 1)
    with pytest.raises(ConfigurationError, match="not 'ranking'"):
        probed(windows, CLASSES, [split], "ranking")
