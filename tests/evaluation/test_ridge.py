"""The closed form is what scikit-learn and leaving out by hand find."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifierCV, RidgeCV

from semantoks.errors import InputError
from semantoks.evaluation.linear import fit_ridge, rotate

PENALTIES = np.logspace(-1, 4, 11)
SHAPES = [(40, 12), (40, 150)]


def problem(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, width)) + 3
    y = x[:, :3] @ np.array([[1.0, 0], [0, 2], [1, 1]]) + 2 * random.standard_normal((n, 2)) + 7
    return x, y, random.uniform(0.2, 3, n)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_scans_give_what_ridge_cv_gives(shape):
    x, y, _ = problem(*shape)
    fit = fit_ridge(x, y, subjects=np.arange(len(x)), penalties=PENALTIES)
    expected = RidgeCV(PENALTIES).fit(x, y)
    assert fit.penalty == expected.alpha_
    np.testing.assert_allclose(fit.predict(x), expected.predict(x), rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_balanced_classes_give_what_ridge_classifier_cv_gives(shape):
    x, y, _ = problem(*shape)
    code = (y[:, 0] > np.quantile(y[:, 0], 0.7)).astype(int)
    weights = np.where(code, len(code) / (2 * code.sum()), len(code) / (2 * (1 - code).sum()))
    outputs = np.where(code[:, None] == [0, 1], 1.0, -1.0)
    fit = fit_ridge(x, outputs, subjects=np.arange(len(x)), weights=weights, penalties=PENALTIES)
    expected = RidgeClassifierCV(PENALTIES, class_weight="balanced").fit(x, code)
    assert fit.penalty == expected.alpha_
    np.testing.assert_allclose(fit.predict(x)[:, 1], expected.decision_function(x), rtol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_left_out_errors_are_those_of_leaving_each_subject_out(shape):
    x, y, weights = problem(*shape)
    subjects = np.array(["a", "b", "c", "d"]).repeat([1, 2, 3, 4])
    subjects = np.r_[subjects, [f"single{i}" for i in range(len(x) - len(subjects))]]
    subjects = np.random.default_rng(3).permutation(subjects)
    fit = fit_ridge(x, y, subjects=subjects, weights=weights, penalties=PENALTIES)
    mean, target_mean = np.average(x, axis=0, weights=weights), np.average(y, 0, weights)
    for penalty, error in zip(PENALTIES[::5], fit.errors[::5], strict=True):
        total = 0.0
        for person in np.unique(subjects):
            out = subjects == person
            model = Ridge(penalty).fit(x[~out] - mean, y[~out] - target_mean, weights[~out])
            left = y[out] - target_mean - model.predict(x[out] - mean)
            total += (weights[out, None] * left**2).sum()
        assert error == pytest.approx(total / weights.sum(), rel=1e-7)


def test_twins_of_a_subject_do_not_make_the_penalty_weak():
    random = np.random.default_rng(0)
    x = random.standard_normal((30, 200)).repeat(2, axis=0) + 1e-3 * random.standard_normal((60, 1))
    y = random.standard_normal((30, 1)).repeat(2, axis=0)
    leaking = fit_ridge(x, y, subjects=np.arange(60))
    grouped = fit_ridge(x, y, subjects=np.arange(30).repeat(2))
    assert leaking.penalty < 10
    assert grouped.penalty > 1000


def test_ties_go_to_the_stronger_penalty():
    x = np.zeros((6, 2))
    y = np.arange(6.0)[:, None]
    assert fit_ridge(x, y, subjects=np.arange(6), penalties=PENALTIES).penalty == PENALTIES[-1]


def test_scans_of_one_subject_are_refused():
    with pytest.raises(InputError, match="one subject"):
        fit_ridge(np.eye(3), np.ones((3, 1)), subjects=np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rotation_leaves_predictions_unchanged(dtype):
    x, y, _ = problem(40, 9000)
    x = x.astype(dtype)
    rotated = rotate(x)
    assert rotated.shape[0] == 40
    assert rotated.shape[1] <= 40
    people = np.arange(30)
    before = fit_ridge(x[:30].astype(float), y[:30], subjects=people)
    after = fit_ridge(rotated[:30], y[:30], subjects=people)
    assert before.penalty == after.penalty
    np.testing.assert_allclose(
        after.predict(rotated[30:]), before.predict(x[30:].astype(float)), rtol=1e-6
    )


def test_rotation_of_few_features_only_centres():
    x, _, _ = problem(40, 5)
    np.testing.assert_allclose(rotate(x), x - x.mean(axis=0))
