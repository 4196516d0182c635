"""Metrics are scikit-learn's, for every weighting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn import metrics as reference

from semantoks.errors import InputError
from semantoks.evaluation.metrics import (
    auc,
    balanced_accuracy,
    bootstrap_weights,
    f1,
    interval,
    mae,
    pearson_r,
    r2,
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def weights(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 4, size=(6, 80)).astype(float)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_balanced_accuracy_is_sklearns(random, weights, n_classes):
    truth = random.integers(0, n_classes, 80)
    # unbalanced predictions, so that swapped arguments would show
    prediction = np.where(random.random(80) < 0.5, truth, 0)
    expected = [
        reference.balanced_accuracy_score(truth, prediction, sample_weight=w) for w in weights
    ]
    np.testing.assert_allclose(balanced_accuracy(truth, prediction, weights), expected)
    once = balanced_accuracy(truth, prediction)
    np.testing.assert_allclose(once, reference.balanced_accuracy_score(truth, prediction))
    swapped = reference.balanced_accuracy_score(prediction, truth)
    assert abs(float(once) - swapped) > 0.05


@pytest.mark.parametrize("decimals", [8, 1])
def test_binary_auc_is_sklearns_with_and_without_ties(random, weights, decimals):
    truth = random.integers(0, 2, 80)
    score = np.round(random.standard_normal(80) + truth, decimals)
    columns = np.stack([-score, score], axis=1)
    expected = [reference.roc_auc_score(truth, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auc(truth, columns, weights), expected)
    np.testing.assert_allclose(auc(truth, columns), reference.roc_auc_score(truth, score))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_auc_compares_scans_of_one_fold_only(random, weights, n_classes):
    truth = random.integers(0, n_classes, 80)
    score = random.standard_normal((80, n_classes)) + np.eye(n_classes)[truth]
    folds = np.arange(80) // 27
    expected = auc(truth, score, weights, folds)
    shifted = score * np.array([1.0, 3, 0.2])[folds, None] + np.array([0.0, 100, -50])[folds, None]
    np.testing.assert_allclose(auc(truth, shifted, weights, folds), expected)
    assert abs(float(auc(truth, shifted)) - float(auc(truth, score))) > 0.02
    areas = []
    for c in [1] if n_classes == 2 else range(n_classes):
        concordant = pairs = 0.0
        for fold in range(3):
            w, y, s = weights[2][folds == fold], truth[folds == fold] == c, score[folds == fold, c]
            of = (w * y).sum() * (w * ~y).sum()
            concordant += of * reference.roc_auc_score(y, s, sample_weight=w)
            pairs += of
        areas.append(concordant / pairs)
    np.testing.assert_allclose(expected[2], np.mean(areas))


def test_folds_of_one_class_carry_no_pairs():
    score = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]])
    truth = np.array([0, 1, 0, 0])
    assert float(auc(truth, score, folds=[0, 0, 1, 1])) == 1.0
    assert np.isnan(auc(truth, score, folds=[1, 0, 1, 1]))
    with pytest.raises(InputError, match="folds of 3 scans"):
        auc(truth, score, folds=[0, 0, 1])


def test_auc_of_many_classes_is_the_mean_of_one_against_the_rest(random, weights):
    truth = random.integers(0, 3, 80)
    score = random.standard_normal((80, 3)) + 2 * np.eye(3)[truth]
    chance = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    expected = [
        reference.roc_auc_score(truth, chance, sample_weight=w, multi_class="ovr") for w in weights
    ]
    np.testing.assert_allclose(auc(truth, chance, weights), expected)


def test_auc_uses_continuous_scores_and_refuses_labels():
    truth = np.array([0, 0, 1, 1])
    score = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert float(auc(truth, score)) == 1.0
    assert float(balanced_accuracy(truth, score.argmax(axis=1))) == 0.5
    with pytest.raises(InputError, match="continuous scores, not labels"):
        auc(truth, np.array([0, 0, 1, 1]))


def test_r2_and_mae_are_sklearns(random, weights):
    truth = 40 + 10 * random.standard_normal(80)
    prediction = 0.3 * truth + random.standard_normal(80)
    np.testing.assert_allclose(
        r2(truth, prediction, weights),
        [reference.r2_score(truth, prediction, sample_weight=w) for w in weights],
    )
    np.testing.assert_allclose(
        mae(truth, prediction, weights),
        [reference.mean_absolute_error(truth, prediction, sample_weight=w) for w in weights],
    )


def test_r2_is_not_a_squared_correlation():
    truth = np.arange(10.0)
    biased = 3 * truth + 5
    assert np.corrcoef(truth, biased)[0, 1] == pytest.approx(1)
    assert float(r2(truth, biased)) < -10


@pytest.mark.parametrize("n_classes", [2, 4])
def test_f1_is_sklearns_on_repeated_scans(random, weights, n_classes):
    truth = random.integers(0, n_classes, 80)
    prediction = np.where(random.random(80) < 0.5, truth, random.integers(0, n_classes + 1, 80))
    expected = [
        reference.f1_score(
            *(np.repeat(x, w.astype(int)) for x in (truth, prediction)), average="macro"
        )
        for w in weights
    ]
    np.testing.assert_allclose(f1(truth, prediction, weights), expected)
    np.testing.assert_allclose(
        f1(truth, prediction), reference.f1_score(truth, prediction, average="macro")
    )


def test_pearson_r_is_scipys_on_repeated_scans(random, weights):
    truth = 1e4 + random.standard_normal(80)
    prediction = 0.5 * truth + random.standard_normal(80)
    expected = [
        pearsonr(*(np.repeat(x, w.astype(int)) for x in (truth, prediction))).statistic
        for w in weights
    ]
    np.testing.assert_allclose(pearson_r(truth, prediction, weights), expected)
    np.testing.assert_allclose(pearson_r(truth, prediction), pearsonr(truth, prediction).statistic)


def test_pearson_r_within_folds_is_that_of_centred_folds(random, weights):
    truth, prediction = random.standard_normal(80), random.standard_normal(80)
    folds = np.arange(80) // 27
    prediction -= 5 * np.array([truth[folds == k].mean() for k in range(3)])[folds]
    for w, found in zip(weights, pearson_r(truth, prediction, weights, folds), strict=True):
        x, y, k = (np.repeat(v, w.astype(int)) for v in (truth, prediction, folds))
        for fold in range(3):
            x[k == fold] -= x[k == fold].mean()
            y[k == fold] -= y[k == fold].mean()
        assert found == pytest.approx(pearsonr(x, y).statistic)
    assert float(pearson_r(truth, prediction)) < float(pearson_r(truth, prediction, folds=folds))


def test_pearson_r_of_constant_predictions_is_undefined():
    truth = np.arange(6.0)
    assert np.isnan(pearson_r(truth, np.full(6, 0.1)))
    of_folds = np.repeat([1.1, 2.2], 3)
    assert np.isnan(pearson_r(truth, of_folds, folds=np.repeat([0, 1], 3)))
    assert np.isfinite(pearson_r(truth, of_folds))


def test_metrics_are_undefined_where_a_draw_leaves_nothing_to_compare():
    weights = np.array([[1.0, 1, 0, 0]])
    score = np.array([[0.5, 0.5]] * 4)
    assert np.isnan(auc(np.array([0, 0, 1, 1]), score, weights)).all()
    assert np.isnan(r2(np.array([3.0, 3, 1, 2]), np.zeros(4), weights)).all()
    assert float(balanced_accuracy([0, 0, 1, 1], [0, 1, 1, 1], weights)[0]) == 0.5


def test_different_lengths_are_refused():
    with pytest.raises(InputError, match="3 true values, 2 predictions"):
        mae([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="at least one"):
        balanced_accuracy([], [])


def test_bootstrap_draws_subjects_with_all_their_scans():
    subjects = np.array(["b", "a", "b", "c", "a"])
    weights = bootstrap_weights(subjects, 500, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.12)
    np.testing.assert_array_equal(weights, bootstrap_weights(subjects, 500, seed=1))
    assert (weights != bootstrap_weights(subjects, 500, seed=2)).any()


def test_bootstrap_draws_folds_first_if_asked():
    subjects = np.repeat(np.arange(40), 2)
    folds = np.repeat(np.arange(4), 20)
    weights = bootstrap_weights(subjects, 500, seed=1, folds=folds)
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    of_folds = np.stack([weights[:, folds == fold].sum(axis=1) for fold in range(4)], axis=1) / 20
    assert set(np.unique(of_folds)) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert (of_folds.sum(axis=1) == 4).all()
    assert (of_folds == 0).mean() == pytest.approx(0.75**4, abs=0.04)
    # subjects are drawn within a fold that is drawn once, too
    once = weights[of_folds[:, 0] == 1][:, folds == 0]
    assert (once == 0).mean() == pytest.approx(0.9**10, abs=0.05)


def test_bootstrap_without_draws_is_refused():
    with pytest.raises(InputError, match="0 draws"):
        bootstrap_weights(["a"], 0, seed=0)


def test_interval_leaves_undefined_draws_out():
    assert interval([np.nan, 1.0, 1.0]) == (1.0, 1.0)
    assert np.isnan(interval([np.nan])).all()


def test_interval_covers_the_truth_about_as_often_as_it_says(random):
    covered = 0
    for seed in range(200):
        values = random.standard_normal((30, 1)).repeat(2, axis=1).ravel()
        subjects = np.arange(30).repeat(2)
        drawn = bootstrap_weights(subjects, 300, seed)
        low, high = interval(drawn @ values / drawn.sum(axis=1))
        covered += low < 0 < high
    assert 0.88 <= covered / 200 <= 0.99
