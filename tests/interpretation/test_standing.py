"""What is said about features beside connectivity follows from the intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.interpretation.standing import (
    Standing,
    bottom_lines,
    reference_score,
    standings,
    summaries,
)


def row(method="features", metric="balanced_accuracy", value=0.6, difference=(-0.1, -0.2, -0.05)):
    """One row of scores."""
    return {
        "method": method, "target": "diagnosis", "split": "subject", "metric": metric,
        "value": value, "low": value - 0.1, "high": value + 0.1, "difference": difference[0],
        "difference_low": difference[1], "difference_high": difference[2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("auc", 0.01, 0.2, "above"),
        ("auc", -0.2, -0.01, "below"),
        ("auc", -0.1, 0.1, "open"),
        ("auc", 0.0, 0.1, "open"),
        ("mae", 0.01, 0.2, "below"),
        ("mae", -0.2, -0.01, "above"),
    ],
)
def test_verdict_follows_the_interval(metric, low, high, verdict):
    standing = Standing(
        "features", "age", "subject", metric, 0.6, 0.55, 0.65, 0.5, 0.5 if metric == "auc" else 0.9,
        (low + high) / 2, low, high,
    )  # fmt: skip
    assert standing.verdict == verdict


@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("mae", -1)])
def test_a_method_at_chance_is_never_above_connectivity(metric, sign):
    standing = Standing(
        "features", "age", "subject", metric, 0.5, 0.4, 0.6, 0.3, 0.5, sign * 0.2, sign * 0.1,
        sign * 0.3,
    )  # fmt: skip
    assert standing.at_chance
    assert standing.verdict == "open"
    ((head, numbers, verdict),) = bottom_lines([standing])
    assert verdict == "open"
    assert head.startswith("features: open, above connectivity but not distinguishable from guess")
    assert "the method itself at chance" in numbers


def test_two_comparisons_of_one_target_and_split_stand_side_by_side():
    ridge = pd.DataFrame([row(), row("connectivity", value=0.7), row("dummy", value=0.5)])
    logistic = pd.DataFrame(
        [row(value=0.65, difference=(0.1, 0.05, 0.2)), row("connectivity", value=0.55)]
    )
    alone = pd.DataFrame([row(), row("connectivity", value=0.72)]).assign(target="sex")
    scores = pd.concat(
        [
            ridge.assign(comparison="probe-ridge"),
            logistic.assign(comparison="probe-logistic"),
            alone.assign(comparison="probe-sex"),
        ]
    )
    found = standings(scores)
    assert [(x.target, x.division, x.value, x.reference) for x in found] == [
        ("diagnosis", "subject, probe-ridge", 0.6, 0.7),
        ("diagnosis", "subject, probe-logistic", 0.65, 0.55),
        ("sex", "subject", 0.6, 0.72),
    ]
    assert len(summaries(scores)) == 7


def test_only_the_deciding_metric_and_real_methods_are_held_against_connectivity():
    scores = pd.DataFrame(
        [
            row(metric="auc"),
            row(),
            row("connectivity", value=0.7, difference=(0, 0, 0)),
            row("dummy", value=0.5),
        ]
    )
    (found,) = standings(scores)
    assert (found.method, found.metric, found.reference) == ("features", "balanced_accuracy", 0.7)


def test_nothing_is_claimed_without_an_interval_on_the_difference():
    scores = pd.DataFrame([row(difference=(-0.1, np.nan, np.nan))])
    assert standings(scores) == []
    columns = ["difference", "difference_low", "difference_high"]
    assert standings(scores.drop(columns=columns)) == []


def test_sentences_count_every_comparison_once():
    found = standings(pd.DataFrame([row(), row("untrained", difference=(0.1, -0.1, 0.3))]))
    lines = bottom_lines(found)
    assert [verdict for *_, verdict in lines] == ["below", "open"]
    assert lines[0][0] == "features: below connectivity in 1 of 1 comparisons"
    assert lines[0][1] == "diagnosis split by subject (−0.100 [−0.200, −0.050])."


def test_rows_of_folds_are_left_out_only_where_there_are_summaries():
    whole, fold = row(), {**row(value=0.1), "low": np.nan, "high": np.nan}
    assert summaries(pd.DataFrame([fold, whole, fold]))["value"].tolist() == [0.6]
    assert summaries(pd.DataFrame([fold]))["value"].tolist() == [0.1]


def test_chance_is_that_of_the_dummy_or_known_by_the_metric():
    where = ("diagnosis", "subject")
    rows = summaries(pd.DataFrame([row("dummy", value=0.33)]))
    assert reference_score(rows, *where, "balanced_accuracy", "dummy") == 0.33
    assert reference_score(rows, *where, "auc", "dummy") == 0.5
    assert np.isnan(reference_score(rows, *where, "mae", "dummy"))
    assert np.isnan(reference_score(rows, *where, "auc", "connectivity"))


@pytest.mark.parametrize(
    ("metric", "chance", "at_chance"),
    [("auc", 0.45, True), ("auc", 0.35, False), ("mae", 0.55, True), ("mae", 0.65, False)],
)
def test_a_method_that_guesses_is_called_so(metric, chance, at_chance):
    standing = Standing("a", "age", "subject", metric, 0.5, 0.4, 0.6, 0.5, chance, 0, -0.1, 0.1)
    assert standing.at_chance == at_chance
    assert ("at chance" in bottom_lines([standing])[0][1]) == at_chance
