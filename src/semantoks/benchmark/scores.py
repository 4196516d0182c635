"""Scores of a study: tables, paired differences and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.benchmark.methods import Question
from semantoks.benchmark.tasks import draw_weights
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.metrics import (
    CONNECTIVITY,
    METRICS,
    WITHIN_SITE,
    interval,
    metrics_of,
)
from semantoks.evaluation.probe import Score, fold_metric, score_predictions
from semantoks.evaluation.significance import compare_folds, correct_p_values
from semantoks.evaluation.splits import subjects_of

Answers = Mapping[str, Sequence[FoldPrediction]]


def fold_table(answers: Answers, question: Question, split: str) -> pd.DataFrame:
    """Score every fold on its own."""
    task = question.task
    return pd.DataFrame(
        [
            {
                "method": method,
                "target": task.target,
                "split": split,
                "repeat": fold.split.repeat,
                "fold": fold.split.fold,
                "metric": metric,
                "value": fold_metric(metric, task.truth, fold, question.sites),
                "n": len(fold.split.test),
            }
            for method, folds in answers.items()
            for fold in folds
            for metric in metrics_of(task.kind, question.sites)
        ]
    )


def summary_table(
    answers: Answers, question: Question, split: str, *, draws: int, seed: int
) -> pd.DataFrame:
    """Score methods over all folds, each held against connectivity on the same folds."""
    task, units = question.task, question.units
    known: dict[str, Any] = {"kind": task.kind, "sites": question.sites}
    # Most methods answer for all folds: draws and connectivity are the same for these.
    against: dict[int, tuple[NDArray[np.float64], dict[str, Score]]] = {}
    rows = []
    for method, folds in answers.items():
        others = answers[CONNECTIVITY][: len(folds)]
        if len(folds) not in against:
            weights = draw_weights([fold.split for fold in folds], units, draws, seed)
            scored = score_predictions(others, task.truth, weights, **known)
            against[len(folds)] = weights, scored
        weights, references = against[len(folds)]
        scores = score_predictions(folds, task.truth, weights, **known)
        tested = np.unique(np.concatenate([fold.split.test for fold in folds]))
        for metric, score in scores.items():
            row: dict[str, Any] = {
                "method": method,
                "target": task.target,
                "kind": task.kind,
                "split": split,
                "metric": metric,
                "value": score.value,
                "low": score.low,
                "high": score.high,
            }
            if method != CONNECTIVITY:
                row |= _against(score, references[metric])
                row |= _tested(folds, others, task.truth, metric, question)
            rows.append(
                row
                | {
                    "n_scans": len(task.rows),
                    "n_tested": len(tested),
                    "n_subjects": len(np.unique(subjects_of(question.scans))),
                    "n_learned": _people_learned_from(folds, subjects_of(question.scans)),
                    "n_missing": task.n_missing,
                    "n_folds": len({fold.split.fold for fold in folds}),
                    "n_repeats": len({fold.split.repeat for fold in folds}),
                }
            )
    return _corrected_by_metric(pd.DataFrame(rows))


def _people_learned_from(folds: Sequence[FoldPrediction], subjects: NDArray[Any]) -> int:
    """Count the people whose labels were learned from, on average over folds."""
    learned = [np.concatenate([fold.split.train, fold.split.validation]) for fold in folds]
    return round(float(np.mean([len(np.unique(subjects[rows])) for rows in learned])))


def difference_table(
    answers: Answers,
    pairs: Sequence[tuple[str, str]],
    question: Question,
    split: str,
    *,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Compare methods with references other than connectivity."""
    task, units = question.task, question.units
    rows = []
    for method, reference in pairs:
        n = min(len(answers[method]), len(answers[reference]))
        folds, others = answers[method][:n], answers[reference][:n]
        weights = draw_weights([fold.split for fold in folds], units, draws, seed)
        own, other = (
            score_predictions(each, task.truth, weights, kind=task.kind, sites=question.sites)
            for each in (folds, others)
        )
        rows += [
            {
                "method": method,
                "reference": reference,
                "target": task.target,
                "kind": task.kind,
                "split": split,
                "metric": metric,
                **_against(own[metric], other[metric]),
                **_tested(folds, others, task.truth, metric, question),
                "n_scans": len(task.rows),
                "n_folds": len({fold.split.fold for fold in folds}),
                "n_repeats": len({fold.split.repeat for fold in folds}),
            }
            for metric in metrics_of(task.kind, question.sites)
        ]
    return _corrected_by_metric(pd.DataFrame(rows))


def corrected(scores: pd.DataFrame) -> pd.DataFrame:
    """Correct p for all targets, splits and methods of a study, by Holm's method.

    The deciding metrics of all targets are one family, the second ones another, and so on: who
    looks at balanced accuracy of one target and R² of another has looked twice.
    """
    place = [
        (*METRICS[kind], WITHIN_SITE[kind]).index(metric)
        for kind, metric in zip(scores["kind"], scores["metric"], strict=True)
    ]
    wanted = {"p": "p_corrected_all", "p_permutation": "p_permutation_corrected"}
    for column, name in wanted.items():
        if column in scores:
            found = scores.groupby(pd.Series(place, index=scores.index))[column]
            scores = scores.assign(
                **{name: found.transform(lambda p: correct_p_values(p.to_numpy(), "holm"))}
            )
    return scores


def _corrected_by_metric(table: pd.DataFrame) -> pd.DataFrame:
    """Correct p for all rows of a metric, by Holm's method."""
    table["p_corrected"] = np.nan
    for _, part in table[table["p"].notna()].groupby("metric"):
        table.loc[part.index, "p_corrected"] = correct_p_values(part["p"].to_numpy(), "holm")
    return table


def _against(score: Score, reference: Score) -> dict[str, float]:
    """Return a paired difference with its interval, draw by draw."""
    low, high = interval(score.draws - reference.draws)
    return {
        "difference": score.value - reference.value,
        "difference_low": low,
        "difference_high": high,
    }


def _tested(
    folds: Sequence[FoldPrediction],
    others: Sequence[FoldPrediction],
    truth: NDArray[Any],
    metric: str,
    question: Question,
) -> dict[str, float]:
    """Test the difference over folds, which share people."""
    test = compare_folds(
        folds,
        others,
        truth,
        kind=question.task.kind,
        metric=metric,
        sites=question.sites,
        pools=question.pools,
    )
    return {"t_low": test.low, "t_high": test.high, "p": test.p}
