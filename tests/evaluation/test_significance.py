"""Tests hold what they promise: p is uniform where there is nothing, small where there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.metrics import METRICS
from semantoks.evaluation.probe import cross_validated_predictions, fold_metric, score_predictions
from semantoks.evaluation.significance import (
    FoldRatios,
    compare_folds,
    correct_p_values,
    fold_ratios,
    permutation_test,
    permute_labels,
    pooled_differences,
    resampled_t_test,
)
from semantoks.evaluation.splits import Split


def splits_of(n: int, k: int = 4) -> list[Split]:
    folds = np.arange(n) % k
    return [
        Split("mine", 0, str(i), np.flatnonzero(folds != i), np.flatnonzero(folds == i))
        for i in range(k)
    ]


def test_without_shared_training_scans_it_is_the_t_test_of_scipy():
    x = np.random.default_rng(0).standard_normal(12) + 0.4
    found, expected = resampled_t_test(x, 1.0, 0.0), stats.ttest_1samp(x, 0)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found[1:3] == pytest.approx(expected.confidence_interval())


def test_the_correction_is_that_of_nadeau_and_bengio():
    x = np.array([0.01, 0.05, 0.02, 0.04])
    found = resampled_t_test(np.r_[x, np.nan], 90, 10)
    error = np.sqrt((1 / 4 + 10 / 90) * x.var(ddof=1))
    assert found.statistic == pytest.approx(0.03 / error)
    assert found.n_folds == 4
    assert found.p > stats.ttest_1samp(x, 0).pvalue


def test_a_t_test_of_nothing_is_no_result():
    assert np.isnan(resampled_t_test([0.1], 8, 2).p)
    assert resampled_t_test([0.1, 0.1], 8, 2).p == 0
    assert resampled_t_test([0.0, 0.0], 8, 2).p == 1


def test_the_plain_t_test_finds_too_much_where_the_corrected_one_does_not():
    """Two models of noise on repeated splits of 40 people: nobody is better."""
    random = np.random.default_rng(0)
    plain, corrected = 0, 0
    for _ in range(40):
        truth = random.standard_normal(40)
        x, y = (random.standard_normal((40, 3)) for _ in range(2))
        differences = []
        for _ in range(15):
            order = random.permutation(40)
            train, test = order[:30], order[30:]
            errors = [
                np.mean((truth[test] - z[test] @ np.linalg.lstsq(z[train], truth[train])[0]) ** 2)
                for z in (x, y)
            ]
            differences.append(errors[0] - errors[1])
        plain += stats.ttest_1samp(differences, 0).pvalue < 0.05
        corrected += resampled_t_test(differences, 30, 10).p < 0.05
    assert plain > 10
    assert corrected <= 5


def two_methods(splits: list[Split], kind: str = "classification", n_classes: int = 2) -> tuple:
    """Predict from good features and from noise; return the truth and both methods' folds."""
    random = np.random.default_rng(0)
    classes = kind == "classification"
    truth = random.integers(0, n_classes, 80) if classes else random.standard_normal(80)
    noise = random.standard_normal((80, 4))
    how = {"kind": kind, "subjects": np.arange(80)}
    folds = [
        cross_validated_predictions(x, truth, splits, **how)
        for x in (random.standard_normal((80, 4)) + 1.5 * truth[:, None], noise)
    ]
    return truth, *folds


def test_methods_are_compared_fold_by_fold_where_people_are_divided_anew():
    parts = [np.random.default_rng(i).permutation(80) for i in range(6)]
    splits = [Split("mine", i, "0", part[:60], part[60:]) for i, part in enumerate(parts)]
    truth, first, second = two_methods(splits)
    found = compare_folds(first, second, truth, kind="classification")
    values = [
        [balanced_accuracy_score(truth[f.split.test], f.prediction) for f in folds]
        for folds in (first, second)
    ]
    assert found.difference == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert found == resampled_t_test(np.subtract(*values), 60, 20)
    assert found.p < 0.05
    area = compare_folds(first, second, truth, kind="classification", metric="auc")
    assert area.difference > 0.2
    with pytest.raises(InputError, match="do not hold the same scans"):
        compare_folds(first, second[::-1], truth, kind="classification")
    with pytest.raises(ConfigurationError, match="not 'mae'"):
        compare_folds(first, second, truth, kind="classification", metric="mae")


def uneven(k: int = 8) -> list[Split]:
    """Leave one of k sites out, of 1 to 80 - k scans."""
    site = np.minimum(np.floor(np.sqrt(np.arange(80))), k - 1)
    return [
        Split("site", 0, str(i), np.flatnonzero(site != i), np.flatnonzero(site == i))
        for i in range(k)
    ]


@pytest.mark.parametrize(
    ("kind", "n_classes"), [("classification", 2), ("classification", 3), ("regression", 0)]
)
def test_where_every_scan_is_tested_once_the_tested_difference_is_the_pooled_one(kind, n_classes):
    splits = uneven()
    truth, first, second = two_methods(splits, kind, n_classes)
    once = np.ones((1, 80))
    scores = [score_predictions(folds, truth, once, kind=kind) for folds in (first, second)]
    for metric in METRICS[kind]:
        values = [score[metric].value for score in scores]
        ratios = fold_ratios(metric, truth, first)
        found = compare_folds(first, second, truth, kind=kind, metric=metric)
        if metric in ("f1", "pearson_r"):  # no ratios of sums over folds
            assert ratios is None
            assert np.isnan(found.p)
            assert found.n_folds == 0
            continue
        assert ratios is not None
        pooled = np.mean(ratios.parts.sum(axis=1) / ratios.wholes.sum(axis=1))
        assert abs(pooled - values[0]) < 1e-12
        assert abs(found.difference - (values[0] - values[1])) < 1e-12
        assert found.n_folds == len(splits)
        other = fold_ratios(metric, truth, second)
        assert other is not None
        sizes = np.mean([(len(s.train), len(s.test)) for s in splits], axis=0)
        assert found == resampled_t_test(pooled_differences(ratios, other), *sizes)


def test_sites_of_different_size_that_agree_are_no_disagreement():
    """Every site has 80 % right by one method and 50 % by the other: nothing varies."""
    sizes = [10, 20, 30, 100, 400]
    ends = np.cumsum([0, *sizes])
    truth, rows = np.zeros(ends[-1], dtype=int), np.arange(ends[-1])
    parts = [np.arange(low, high) for low, high in itertools.pairwise(ends)]
    truth[rows % 2 == 1] = 1

    def right_of_ten(count: int) -> list[FoldPrediction]:
        wrong = rows // 2 % 10 >= count if count > 5 else rows // 2 % 2 == 1
        given = np.where(wrong, 1 - truth, truth)
        return [
            FoldPrediction(Split("site", 0, str(i), np.setdiff1d(rows, p), p), given[p], None)
            for i, p in enumerate(parts)
        ]

    found = compare_folds(right_of_ten(8), right_of_ten(5), truth, kind="classification")
    assert found.difference > 0.25
    assert found.p < 0.01


def test_linearised_differences_have_the_spread_of_a_bootstrap_over_sites():
    """Sites of very different sizes: the variance of the mean is that of drawing sites anew."""
    random = np.random.default_rng(0)
    sizes = random.integers(5, 120, 60)
    wholes = np.array([sizes // 2, sizes - sizes // 2], dtype=np.float64)
    effect = random.normal(0.1, 0.05, 60)
    first, second = FoldRatios(wholes * (0.6 + effect), wholes), FoldRatios(wholes * 0.6, wholes)
    values = pooled_differences(first, second)
    drawn = random.integers(60, size=(4000, 60))
    pieces = (first.parts - second.parts)[:, drawn].sum(axis=2) / wholes[:, drawn].sum(axis=2)
    assert values.std(ddof=1) / np.sqrt(60) == pytest.approx(pieces.mean(axis=0).std(), rel=0.06)


def test_a_small_site_with_a_wild_score_does_not_decide():
    """One site of two alike people has an R² of -10,000: of 82 people its errors are small."""
    random = np.random.default_rng(0)
    truth = np.r_[random.standard_normal(80), 0.0, 0.02]
    site = np.r_[np.repeat(np.arange(8), 10), 8, 8]
    splits = [
        Split("site", 0, str(i), np.flatnonzero(site != i), np.flatnonzero(site == i))
        for i in range(9)
    ]

    def folds_with(error: float, at_the_last: float) -> list[FoldPrediction]:
        wrong = random.standard_normal(82) * np.where(site == 8, at_the_last, error)
        return [
            FoldPrediction(s, truth[s.test] + wrong[s.test], np.empty((len(s.test), 0)))
            for s in splits
        ]

    good, bad = folds_with(0.3, 1.0), folds_with(0.9, 0.01)
    values = [[fold_metric("r2", truth, fold) for fold in folds] for folds in (good, bad)]
    own = resampled_t_test(np.subtract(*values), 73, 9)
    assert own.difference < 0  # the mean of the sites' own R² is of the other sign
    assert own.p > 0.3
    found = compare_folds(good, bad, truth, kind="regression")
    assert found.difference > 0.3
    assert found.p < 0.05


@pytest.mark.parametrize("n", [2, 4, 5])
def test_the_spread_of_fewer_than_five_folds_gives_no_p(n):
    truth, first, second = two_methods(splits_of(80, n))
    found = compare_folds(first, second, truth, kind="classification")
    assert found.n_folds == n
    assert np.isfinite(found.difference)
    assert np.isnan([found.p, found.low, found.high]).all() == (n < 5)


def test_p_is_uniform_where_labels_say_nothing():
    random = np.random.default_rng(0)
    splits = splits_of(18, 2)
    p = []
    for seed in range(25):
        features, truth = random.standard_normal((18, 2)), np.arange(18) // 2 % 2
        found = permutation_test(
            features,
            random.permutation(truth),
            lambda _: splits,
            kind="classification",
            subjects=np.arange(18),
            metric="auc",
            n_permutations=11,
            seed=seed,
        )
        # p has steps: spread each over the step that it stands for, ties over all of theirs
        ties = (found.null == found.value).sum()
        p.append(found.p - random.random() * (1 + ties) / 12)
    assert stats.kstest(p, "uniform").pvalue > 0.05


@pytest.mark.parametrize(("kind", "metric"), [("classification", None), ("regression", "mae")])
def test_p_is_small_where_labels_are_planted(kind, metric):
    random = np.random.default_rng(0)
    truth = np.arange(30) % 2 if kind == "classification" else random.standard_normal(30)
    features = random.standard_normal((30, 3)) + 3 * truth[:, None]
    calls: list[tuple[int, int]] = []
    found = permutation_test(
        features,
        truth,
        lambda labels: splits_of(len(labels), 2 if kind == "regression" else 3),
        kind=kind,
        subjects=np.arange(30),
        metric=metric,
        n_permutations=19,
        progress=lambda i, n: calls.append((i, n)),
    )
    assert found.p == pytest.approx(1 / 20)
    assert calls[-1] == (19, 19)


def test_labels_that_follow_the_site_do_not_count_within_sites():
    """The diagnosis is decodable by the site alone: free permutations find it, blocks do not."""
    random = np.random.default_rng(0)
    site = np.repeat([0, 1], 20)
    truth = np.where(random.random(40) < 0.15, 1 - site, site)
    features = random.standard_normal((40, 2)) + 4 * site[:, None]
    how = {"kind": "classification", "subjects": np.arange(40), "n_permutations": 39}
    order = random.permutation(40)
    splits = [
        Split("mine", 0, str(i), np.sort(order[np.arange(40) % 2 != i]), np.sort(order[i::2]))
        for i in range(2)
    ]
    free = permutation_test(features, truth, lambda _: splits, **how)
    within = permutation_test(features, truth, lambda _: splits, blocks=site, **how)
    assert free.p <= 0.05
    assert within.p > 0.1


def test_labels_of_a_subject_move_together():
    random = np.random.default_rng(0)
    subjects = np.array(["a", "b", "a", "c", "d", "c"])
    truth = np.array([1, 2, 1, 3, 4, 3])
    for _ in range(20):
        labels = permute_labels(truth, subjects, random)
        assert labels[0] == labels[2]
        assert labels[3] == labels[5]
        assert sorted({labels[0], labels[1], labels[3], labels[4]}) == [1, 2, 3, 4]
    sessions = np.array([1, 2, 5, 3, 4, 6])  # differ within a subject: only like ones change places
    seen = {tuple(permute_labels(sessions, subjects, random)) for _ in range(40)}
    assert seen == {
        (a, b, c, d, e, f)
        for a, c, d, f in ((1, 5, 3, 6), (3, 6, 1, 5))
        for b, e in ((2, 4), (4, 2))
    }


def test_labels_of_a_family_move_together():
    random = np.random.default_rng(0)
    subjects = np.array(["a", "b", "c", "d", "e", "e"])
    kin = np.array(["a", "a", "c", "c", "e", "e"])  # two pairs of twins, one person with two scans
    alike = np.array([1, 1, 2, 2, 3, 3])
    seen = {tuple(permute_labels(alike, subjects, random, families=kin)) for _ in range(60)}
    assert len(seen) == 6  # any two families
    assert all(a == b and c == d and e == f for a, b, c, d, e, f in seen)
    unlike = np.array([1, 2, 3, 4, 5, 5])  # only families of two people change places
    seen = {tuple(permute_labels(unlike, subjects, random, families=kin)) for _ in range(90)}
    assert len(seen) == 8
    assert {frozenset(labels[:2]) for labels in seen} == {frozenset({1, 2}), frozenset({3, 4})}
    assert {labels[4:] for labels in seen} == {(5, 5)}
    blocks = np.array([0, 1, 0, 0, 0, 0])
    with pytest.raises(InputError, match="1 families have scans in several blocks"):
        permute_labels(alike, subjects, random, blocks, kin)
    with pytest.raises(InputError, match="every family is alone"):
        permute_labels(alike, subjects, random, kin, kin)


def test_permuted_labels_of_twins_are_those_of_families():
    """Pairs that are alike in features and label: permuting people finds too much."""
    random = np.random.default_rng(1)
    kin = np.repeat(np.arange(16), 2)
    fold = kin % 2
    splits = [
        Split("mine", 0, str(i), np.flatnonzero(fold != i), np.flatnonzero(fold == i))
        for i in range(2)
    ]
    how = {"kind": "classification", "subjects": np.arange(32), "n_permutations": 30}
    spread = np.zeros(2)
    for seed in range(3):
        truth = np.repeat(random.permutation(np.arange(16) // 2 % 2), 2)
        features = np.repeat(random.standard_normal((16, 2)), 2, axis=0)
        for i, families in enumerate((None, kin)):
            given = {**how, "seed": seed, "families": families}
            null = permutation_test(features, truth, lambda _: splits, **given).null
            spread[i] += null.std() / 3
    assert spread[1] > 1.2 * spread[0]


def test_labels_stay_in_their_blocks():
    random = np.random.default_rng(0)
    truth, blocks = np.array([1, 2, 3, 4]), np.array(["x", "x", "y", "y"])
    for _ in range(10):
        assert set(permute_labels(truth, np.arange(4), random, blocks)[:2]) == {1, 2}
    with pytest.raises(InputError, match="scans in several blocks, the first is '0'"):
        permute_labels(truth, np.array([0, 1, 0, 2]), random, blocks)
    with pytest.raises(InputError, match="no label can move"):
        permute_labels(truth, np.arange(4), random, np.arange(4))
    constant = np.array([0, 0, 1, 1])  # within each block all labels are the same
    with pytest.raises(InputError, match="has the label of all others there"):
        permute_labels(constant, np.arange(4), np.random.default_rng(0), constant)


def test_corrections_are_known_ones():
    # Benjamini and Hochberg 1995, table 1: four of fifteen are significant at .05, Holm finds three
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert (correct_p_values(p) <= 0.05).sum() == 4
    assert (correct_p_values(p, "holm") <= 0.05).sum() == 3
    np.testing.assert_allclose(correct_p_values(p), stats.false_discovery_control(p))
    np.testing.assert_allclose(
        correct_p_values([0.03, np.nan, 0.01, 0.04], "holm"), [0.06, np.nan, 0.03, 0.06]
    )
    assert (correct_p_values(p, "fdr_by") >= correct_p_values(p)).all()
    assert np.isnan(correct_p_values([np.nan])).all()
    with pytest.raises(InputError, match="between 0 and 1"):
        correct_p_values([1.2])
    with pytest.raises(ConfigurationError, match="not 'bonferroni'"):
        correct_p_values([0.1], "bonferroni")


def test_fold_without_a_defined_metric_is_left_out():
    split = splits_of(8, 4)
    truth = np.array([0, 1, 0, 1, 0, 1, 0, 1])  # each test part holds one class
    folds = [FoldPrediction(s, truth[s.test], np.eye(2)[truth[s.test]]) for s in split]
    assert compare_folds(folds, folds, truth, kind="classification", metric="auc").n_folds == 0


def test_a_permutation_without_a_score_does_not_speak_for_the_method():
    features = np.linspace(-1, 1, 12)[:, None]
    truth = (np.arange(12) >= 6).astype(int)
    split = Split("mine", 0, "0", np.arange(1, 11), np.array([0, 11]))
    found = permutation_test(
        features,
        truth,
        lambda _: [split],
        kind="classification",
        subjects=np.arange(12),
        metric="auc",
        n_permutations=40,
    )
    undefined = np.isnan(found.null)  # both people who are tested have the same label
    assert found.value == 1
    assert undefined.any()
    assert found.p == (1 + np.sum(undefined | (found.null >= 1))) / 41


def test_permutations_are_held_against_the_score_of_the_table():
    """Sites of one class each: their own scores are recalls, the score is that of all scans."""
    random = np.random.default_rng(0)
    truth = np.r_[np.arange(40) % 2, np.zeros(6, dtype=int)]
    site = np.r_[np.arange(40) // 10, np.full(6, 4)]
    features = random.standard_normal((46, 3)) + truth[:, None]
    splits = [
        Split("site", 0, str(i), np.flatnonzero(site != i), np.flatnonzero(site == i))
        for i in range(5)
    ]
    found = permutation_test(
        features,
        truth,
        lambda _: splits,
        kind="classification",
        subjects=np.arange(46),
        n_permutations=2,
    )
    folds = cross_validated_predictions(
        features, truth, splits, kind="classification", subjects=np.arange(46)
    )
    predicted = np.empty(46, dtype=int)
    for fold in folds:
        predicted[fold.split.test] = fold.prediction
    assert found.value == pytest.approx(balanced_accuracy_score(truth, predicted))
