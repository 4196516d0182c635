"""Known answers: what is there is found, what is not stays at chance, and nothing leaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.metrics import bootstrap_weights
from semantoks.evaluation.probe import Score, cross_validated_predictions, score_predictions
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import subject_folds

N_SUBJECTS, SESSIONS = 80, 2
SUBJECTS = np.array([f"{i:03d}" for i in range(N_SUBJECTS)]).repeat(SESSIONS)
SCANS = pd.DataFrame({"subject": SUBJECTS})


def of_subjects(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).repeat(SESSIONS, axis=0)


def person_features(random: np.random.Generator, width: int = 40) -> np.ndarray:
    """Both scans of a person look much alike, as brains do."""
    own = of_subjects(random.standard_normal((N_SUBJECTS, width)))
    return own + 0.3 * random.standard_normal(own.shape)


def scored(features, truth, kind, classifier="ridge", repeats=2, n_folds=5) -> dict[str, Score]:
    splits = subject_folds(SCANS, truth, kind=kind, repeats=repeats, n_folds=n_folds)
    folds = cross_validated_predictions(
        features, truth, splits, kind=kind, subjects=SUBJECTS, classifier=classifier
    )
    return score_predictions(folds, truth, bootstrap_weights(SUBJECTS, 300, 0), kind=kind)


@pytest.mark.parametrize("classifier", ["ridge", "logistic"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_planted_classes_are_found(classifier, n_classes):
    random = np.random.default_rng(0)
    truth = of_subjects(np.arange(N_SUBJECTS) % n_classes)
    features = person_features(random)
    features[:, :n_classes] += 3 * np.eye(n_classes)[truth]
    scores = scored(features, truth, "classification", classifier, repeats=1, n_folds=3)
    assert scores["balanced_accuracy"].low > 1 / n_classes + 0.2
    assert scores["auc"].value > 0.85


@pytest.mark.parametrize("classifier", ["ridge", "logistic"])
def test_random_classes_are_at_chance_although_people_are_recognisable(classifier):
    covered = 0
    for seed in range(3):
        random = np.random.default_rng(seed)
        truth = of_subjects(random.permutation(np.arange(N_SUBJECTS) % 2))
        features = person_features(random, width=15)
        scores = scored(features, truth, "classification", classifier, repeats=1, n_folds=3)
        covered += all(score.low <= 0.5 <= score.high for score in scores.values())
    assert covered >= 2


def test_shuffled_labels_are_at_chance_on_average():
    random = np.random.default_rng(1)
    features = person_features(random)
    features[:, 0] += 4 * of_subjects(np.arange(N_SUBJECTS) % 2)
    values = []
    for _ in range(12):
        truth = of_subjects(random.permutation(np.arange(N_SUBJECTS) % 2))
        scores = scored(features, truth, "classification", repeats=1)
        values.append([s.value for s in scores.values()])
    # 12 shuffles of 80 people: the standard error of the mean is about .02
    np.testing.assert_allclose(np.mean(values, axis=0), 0.5, atol=0.06)


def test_planted_values_are_found_and_random_ones_are_not():
    random = np.random.default_rng(0)
    age = of_subjects(random.uniform(20, 80, N_SUBJECTS))
    features = person_features(random)
    nothing = scored(features, age, "regression")
    assert nothing["r2"].value < 0.05
    features[:, 0] += age / 4
    found = scored(features, age, "regression")
    assert found["r2"].low > 0.5
    assert found["mae"].high < nothing["mae"].low


def test_unbalanced_classes_are_not_decided_by_their_frequency():
    random = np.random.default_rng(0)
    truth = of_subjects((np.arange(N_SUBJECTS) % 8 == 0).astype(int))
    features = person_features(random)
    features[:, 0] += 5 * truth
    for classifier in ("ridge", "logistic"):
        scores = scored(features, truth, "classification", classifier, repeats=1)
        assert scores["balanced_accuracy"].value > 0.65


def test_every_scan_is_predicted_once_a_repeat_and_scored_as_sklearn_does():
    random = np.random.default_rng(2)
    truth = of_subjects(random.permutation(np.arange(N_SUBJECTS) % 2))
    features = person_features(random)
    features[:, 0] += truth
    splits = subject_folds(SCANS, truth, kind="classification", repeats=3)
    folds = cross_validated_predictions(
        features, truth, splits, kind="classification", subjects=SUBJECTS
    )
    weights = bootstrap_weights(SUBJECTS, 50, 0)
    scores = score_predictions(folds, truth, weights, kind="classification")
    accuracy, area, drawn = [], [], []
    for repeat in range(3):
        parts = [fold for fold in folds if fold.split.repeat == repeat]
        rows = np.concatenate([p.split.test for p in parts])
        assert sorted(rows) == list(range(len(truth)))
        prediction = np.concatenate([p.prediction for p in parts])
        accuracy.append(balanced_accuracy_score(truth[rows], prediction))
        # all folds hold as many pairs, so that the mean over folds is the sum over all pairs
        area.append(np.mean([roc_auc_score(truth[p.split.test], p.score[:, 1]) for p in parts]))
        w = weights[7, rows]
        drawn.append(balanced_accuracy_score(truth[rows], prediction, sample_weight=w))
    assert scores["balanced_accuracy"].value == pytest.approx(np.mean(accuracy))
    assert scores["balanced_accuracy"].draws[7::50] == pytest.approx(drawn)
    assert scores["auc"].value == pytest.approx(np.mean(area))


def test_area_does_not_compare_the_scores_of_two_models():
    truth = np.array([0, 1, 0, 1])
    folds = [
        FoldPrediction(
            Split("mine", 0, str(k), 2 - test, test),
            np.array([1, 1]),
            np.array([[0.0, offset], [0.0, offset + 1]]),
        )
        for k, (test, offset) in enumerate([(np.array([0, 1]), 0.0), (np.array([2, 3]), 9.0)])
    ]
    scores = score_predictions(folds, truth, np.ones((2, 4)), kind="classification")
    assert scores["auc"].value == 1.0
    assert scores["auc"].draws.tolist() == [1.0, 1.0]
    one_class = score_predictions(folds, np.array([0, 0, 1, 1]), np.ones((2, 4)),
                                  kind="classification")  # fmt: skip
    assert np.isnan([one_class["auc"].value, one_class["auc"].low]).all()


def test_regression_is_scored_by_true_r2():
    split = Split("mine", 0, "0", np.array([0]), np.array([1, 2, 3]))
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    fold = FoldPrediction(split, np.array([3.0, 6.0, 9.0]), np.empty((3, 0)))
    scores = score_predictions([fold], truth, np.ones((1, 4)), kind="regression")
    assert scores["r2"].value == pytest.approx(r2_score(truth[1:], fold.prediction))
    assert scores["r2"].value < 0


def test_scaling_is_fitted_in_the_training_part_only():
    random = np.random.default_rng(0)
    truth = of_subjects(np.arange(N_SUBJECTS) % 2)
    features = person_features(random)
    features[:, 0] += truth
    split = subject_folds(SCANS, truth, kind="classification", repeats=1)[0]
    changed = features.copy()
    changed[split.test[1:]] *= 1e6  # would move mean and deviation, were they looked at
    first, second = (
        cross_validated_predictions(x, truth, [split], kind="classification", subjects=SUBJECTS)[0]
        for x in (features, changed)
    )
    np.testing.assert_allclose(first.score[0], second.score[0])
    assert first.penalty == second.penalty


def test_logistic_scores_are_probabilities_of_the_fit_with_the_chosen_penalty():
    random = np.random.default_rng(0)
    truth = of_subjects(np.arange(N_SUBJECTS) % 2)
    features = person_features(random)
    features[:, 0] += truth
    split = subject_folds(SCANS, truth, kind="classification", repeats=1)[0]
    (fold,) = cross_validated_predictions(
        features, truth, [split], kind="classification", subjects=SUBJECTS, classifier="logistic"
    )
    scaler = StandardScaler().fit(features[split.train])
    model = LogisticRegression(C=1 / fold.penalty, class_weight="balanced", max_iter=5000)
    model.fit(scaler.transform(features[split.train]), truth[split.train])
    expected = model.predict_proba(scaler.transform(features[split.test]))
    np.testing.assert_allclose(fold.score, expected, atol=2e-3)


@pytest.mark.parametrize("classifier", ["ridge", "logistic"])
def test_class_that_is_not_learned_from_is_never_predicted(classifier):
    random = np.random.default_rng(0)
    truth = of_subjects(np.arange(N_SUBJECTS) % 3)
    test = np.flatnonzero((truth == 1) | (np.arange(len(truth)) < 12))
    split = Split("mine", 0, "0", np.setdiff1d(np.arange(len(truth)), test), test)
    (fold,) = cross_validated_predictions(
        person_features(random),
        truth,
        [split],
        kind="classification",
        subjects=SUBJECTS,
        classifier=classifier,
    )
    assert fold.score.shape == (len(test), 3)
    assert 1 not in fold.prediction


def test_leaking_split_is_refused_before_anything_is_fitted():
    truth = of_subjects(np.arange(N_SUBJECTS) % 2)
    good = subject_folds(SCANS, truth, kind="classification", repeats=1)[0]
    leaking = Split("mine", 0, "1", np.r_[good.train, good.test[:1]], good.test[1:])
    with pytest.raises(InputError, match="mine split, repeat 0, fold 1 leaks"):
        cross_validated_predictions(
            np.zeros((len(truth), 2)),
            truth,
            [good, leaking],
            kind="classification",
            subjects=SUBJECTS,
        )


def test_bad_arguments_are_refused():
    truth = of_subjects(np.arange(N_SUBJECTS) % 2)
    splits = subject_folds(SCANS, truth, kind="classification", repeats=1)
    features = np.zeros((len(truth), 2))

    def probe(x=features, **options):
        arguments = {"kind": "classification", "subjects": SUBJECTS, **options}
        return cross_validated_predictions(x, truth, splits, **arguments)

    with pytest.raises(ConfigurationError, match="not 'forest'"):
        probe(classifier="forest")
    with pytest.raises(ConfigurationError, match="not 'robust'"):
        probe(scaling="robust")
    with pytest.raises(InputError, match=r"features \(3, 2\)"):
        probe(features[:3])
    broken = features.copy()
    broken[5, 1] = np.nan
    with pytest.raises(InputError, match=r"not finite, the first is in row 5 \(subject '002'\)"):
        probe(broken)


def test_penalty_of_logistic_needs_two_subjects_a_class():
    truth = np.r_[np.zeros(8, int), np.ones(4, int)]
    subjects = np.array(list("aabbccdd") + list("eeff"))
    split = Split("mine", 0, "0", np.arange(10), np.array([10, 11]))
    with pytest.raises(InputError, match="a single subject to learn from"):
        cross_validated_predictions(
            np.zeros((12, 2)),
            truth,
            [split],
            kind="classification",
            subjects=subjects,
            classifier="logistic",
        )


def test_scan_that_is_tested_twice_in_a_repeat_is_refused():
    split = Split("mine", 0, "0", np.array([0]), np.array([1]))
    fold = FoldPrediction(split, np.array([1.0]), np.empty((1, 0)))
    with pytest.raises(InputError, match="tested more than once"):
        score_predictions([fold, fold], np.array([1.0, 2.0]), np.ones((2, 2)), kind="regression")
