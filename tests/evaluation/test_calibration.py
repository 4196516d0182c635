"""A longer proof: intervals hold chance, and zero for the difference of equal methods."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.evaluation.metrics import bootstrap_weights, interval
from semantoks.evaluation.probe import cross_validated_predictions, score_predictions
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import leave_one_site_out, subject_folds

N, COHORTS, DRAWS = 160, 100, 300
PEOPLE = np.array([f"{i:03d}" for i in range(N)])


def two_methods(rng: np.random.Generator, truth: np.ndarray, width: int, signal: float) -> list:
    """Return correlated features, as those of real scans are, twice with noise of their own."""
    fixed = np.random.default_rng(5)
    mixing, direction = fixed.standard_normal((20, width)), fixed.standard_normal(width)
    shared = rng.standard_normal((N, 20)) @ mixing + signal * np.outer(truth - 0.5, direction)
    return [shared + rng.standard_normal((N, width)) for _ in range(2)]


def divide(scheme: str, truth: np.ndarray, rng: np.random.Generator, seed: int) -> list[Split]:
    scans = pd.DataFrame({"scan": PEOPLE, "subject": PEOPLE})
    if scheme == "sites":
        sites = rng.permutation(np.r_[np.repeat(np.arange(8), 4), rng.integers(0, 8, N - 32)])
        scans["site"] = [f"site {s}" for s in sites]
        return leave_one_site_out(scans, truth, kind="classification")
    repeats = 5 if scheme == "five repeats" else 1
    return subject_folds(scans, truth, kind="classification", repeats=repeats, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "width", "signal"),
    [
        ("five repeats", 40, 0.0),
        ("five repeats", 800, 0.0),
        ("five repeats", 40, 0.4),
        ("one repeat", 40, 0.0),
        ("one repeat", 40, 0.4),
        ("sites", 40, 0.0),
        ("sites", 40, 0.4),
    ],
)
def test_intervals_hold_what_is_true(scheme: str, width: int, signal: float) -> None:
    names = ("balanced_accuracy", "auc")
    values, holds = {n: [] for n in names}, {n: [] for n in names}
    same = {n: [] for n in names}
    for cohort in range(COHORTS):
        rng = np.random.default_rng([cohort, 7])
        truth = rng.integers(0, 2, N)
        splits = divide(scheme, truth, rng, cohort)
        fold = np.zeros(N)
        for k, split in enumerate(splits):
            fold[split.test] = k
        weights = bootstrap_weights(PEOPLE, DRAWS, cohort, None if "five" in scheme else fold)
        first, second = (
            score_predictions(
                cross_validated_predictions(
                    x, truth, splits, kind="classification", subjects=PEOPLE
                ),
                truth,
                weights,
                kind="classification",
            )
            for x in two_methods(rng, truth, width, signal)
        )
        for name in names:
            values[name].append(first[name].value)
            holds[name].append((first[name].low, first[name].high))
            low, high = interval(first[name].draws - second[name].draws)
            same[name].append(low <= 0 <= high)
    for name in names:
        # the mean over all cohorts stands for what is true where it is not chance
        true = np.mean(values[name]) if signal else 0.5
        covered = np.mean([low <= true <= high for low, high in holds[name]])
        assert covered >= 0.87, (name, covered)
        assert np.mean(same[name]) >= 0.85, (name, np.mean(same[name]))
        if not signal:
            # 100 cohorts with a standard deviation of about .06
            assert np.mean(values[name]) == pytest.approx(0.5, abs=0.018)
