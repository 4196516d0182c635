"""Closed-form probes choose inside of what they learn from: training and validation part."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from semantoks.evaluation.linear import PENALTIES
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.splits import Split

N = 80
SUBJECTS = np.arange(N // 2).repeat(2).astype(str)
CLASSES = (np.arange(N) // 2) % 2
PARTS = (np.arange(40), np.arange(56, N), np.arange(40, 56))
SPLIT = Split("mine", 0, "0", PARTS[0], PARTS[1], validation=PARTS[2])
JOINED = Split("mine", 0, "0", np.arange(56), PARTS[1])


def features_of(effect: float) -> np.ndarray:
    random = np.random.default_rng(0)
    features = random.standard_normal((N // 2, 5)).repeat(2, axis=0)
    features += 0.1 * random.standard_normal((N, 5))
    features[:, 0] += effect * CLASSES
    return features


def probed(features, split, **options):
    return cross_validated_predictions(
        features, CLASSES, [split], kind="classification", subjects=SUBJECTS, **options
    )[0]


@pytest.mark.parametrize("classifier", ["ridge", "logistic"])
def test_validation_part_is_learned_from(classifier):
    features = features_of(1.0)
    fold = probed(features, SPLIT, classifier=classifier)
    joined = probed(features, JOINED, classifier=classifier)
    assert fold.split is SPLIT
    np.testing.assert_array_equal(fold.score, joined.score)
    assert fold.penalty == joined.penalty
    bare = probed(features, Split("mine", 0, "0", *PARTS[:2]), classifier=classifier)
    assert np.abs(fold.score - bare.score).max() > 1e-3


@pytest.mark.parametrize(("classifier", "strongest"), [("ridge", PENALTIES[-1]), ("logistic", 1e5)])
def test_equally_good_penalties_go_to_the_strongest(classifier, strongest):
    """Features that do not differ are predicted from equally well with every penalty."""
    assert probed(np.zeros((N, 3)), SPLIT, classifier=classifier).penalty == strongest


def test_penalty_of_logistic_is_that_of_left_out_subjects():
    features = features_of(0.7)
    x = StandardScaler().fit_transform(features[:56])
    y, people = CLASSES[:56], SUBJECTS[:56]
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x, y, people))
    assert all(not set(people[a]) & set(people[b]) for a, b in folds)
    penalties, losses = np.logspace(5, -1, 7), []
    for penalty in penalties:
        loss = 0.0
        for a, b in folds:
            model = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-6)
            chance = model.fit(x[a], y[a]).predict_proba(x[b])
            loss += log_loss(y[b], chance, normalize=False)
        losses.append(loss)
    expected = penalties[int(np.argmin(losses))]
    assert probed(features, SPLIT, classifier="logistic").penalty == expected
