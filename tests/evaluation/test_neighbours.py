"""Neighbours are those of scikit-learn, and their number is chosen inside the training part."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.neighbours import neighbour_predictions
from semantoks.evaluation.splits import Split

N = 120
SUBJECTS = np.arange(N // 2).repeat(2).astype(str)
CLASSES = (np.arange(N) // 2) % 2
SPLIT = Split("mine", 0, "0", np.arange(70), np.arange(80, N), validation=np.arange(70, 80))
LEARNED = np.arange(80)


def features_of(seed: int, effect: float = 1.5) -> np.ndarray:
    random = np.random.default_rng(seed)
    own = random.standard_normal((N // 2, 6)).repeat(2, axis=0)
    features = 10 + own + 0.1 * random.standard_normal((N, 6))
    features[:, 0] += effect * (2 * CLASSES - 1)
    return features


def nearest(features, truth, kind="classification", **options):
    return neighbour_predictions(features, truth, [SPLIT], kind=kind, subjects=SUBJECTS, **options)[
        0
    ]


@pytest.mark.parametrize("k", [1, 5, 15])
def test_equal_to_scikit_learn(k):
    features = features_of(0)
    scaler = StandardScaler().fit(features[LEARNED])
    x, test = scaler.transform(features[LEARNED]), scaler.transform(features[SPLIT.test])
    fold = nearest(features, CLASSES, numbers=[k])
    model = KNeighborsClassifier(k, metric="cosine").fit(x, CLASSES[LEARNED])
    np.testing.assert_allclose(fold.score, model.predict_proba(test))  # as many of each class
    np.testing.assert_array_equal(fold.prediction, model.predict(test))
    age = features[:, 1] + 50
    fold = nearest(features, age, "regression", numbers=[k])
    model = KNeighborsRegressor(k, metric="cosine").fit(x, age[LEARNED])
    np.testing.assert_allclose(fold.prediction, model.predict(test))
    assert fold.chosen == {"neighbours": k}


def test_planted_is_found_and_the_number_is_chosen():
    features = features_of(1)
    fold = nearest(features, CLASSES)
    assert balanced_accuracy_score(CLASSES[SPLIT.test], fold.prediction) > 0.75
    assert fold.chosen["neighbours"] > 1
    age = 10 * features[:, 0]
    fold = nearest(features, age, "regression")
    assert r2_score(age[SPLIT.test], fold.prediction) > 0.3


def test_rare_class_has_as_many_votes_as_the_common_one():
    random = np.random.default_rng(2)
    rare = (np.arange(N) // 2) % 8 == 0
    features = random.standard_normal((N // 2, 3)).repeat(2, axis=0)
    features[:, 0] += 3.0 * rare
    fold = nearest(features, rare.astype(int))
    assert balanced_accuracy_score(rare[SPLIT.test], fold.prediction) > 0.75
    (known,) = neighbour_predictions(
        features,
        rare.astype(int),
        [SPLIT],
        kind="classification",
        subjects=SUBJECTS,
        numbers=[9],
    )
    counts = np.bincount(rare[LEARNED].astype(int))
    scaler = StandardScaler().fit(features[LEARNED])
    model = KNeighborsClassifier(9, metric="cosine").fit(
        scaler.transform(features[LEARNED]), rare[LEARNED].astype(int)
    )
    votes = model.predict_proba(scaler.transform(features[SPLIT.test])) / counts
    np.testing.assert_allclose(known.score, votes / votes.sum(1, keepdims=True))


def test_a_persons_other_scan_does_not_help_to_choose():
    """Labels are random, but both scans of a person look the same: one neighbour knows nothing."""
    random = np.random.default_rng(3)
    chosen = []
    for seed in range(6):
        truth = random.permutation(N // 2).repeat(2) % 2
        chosen.append(nearest(features_of(seed, 0.0), truth, numbers=[1, 25]).chosen["neighbours"])
    assert chosen.count(25) >= 2  # with leaking folds it would never be chosen


def test_equally_good_numbers_go_to_the_largest():
    features = np.c_[np.where(CLASSES == 1, 1.0, -1.0), np.zeros(N)]
    assert nearest(features, CLASSES, numbers=[1, 3, 9]).chosen["neighbours"] == 9


def test_target_of_test_scans_is_not_looked_at():
    features, hidden = features_of(4), CLASSES.astype(float)
    hidden[SPLIT.test] = np.nan
    np.testing.assert_array_equal(nearest(features, hidden).score, nearest(features, CLASSES).score)


def test_what_cannot_be_compared_is_refused():
    features = features_of(5)
    with pytest.raises(ConfigurationError, match="at least 1"):
        nearest(features, CLASSES, numbers=[0])
    with pytest.raises(InputError, match="fewer than the 90 neighbours"):
        nearest(features, CLASSES, numbers=[90])
    unknown = CLASSES.astype(float)
    unknown[75] = np.nan
    with pytest.raises(InputError, match="not known"):
        nearest(features, unknown)
    features[3, 1] = np.inf
    with pytest.raises(InputError, match=r"row 3 \(subject '1'\)"):
        nearest(features, CLASSES)
