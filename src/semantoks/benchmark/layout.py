"""Scores and predictions as tidy tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from semantoks.benchmark.tasks import Task
from semantoks.evaluation.metrics import CONNECTIVITY, interval
from semantoks.evaluation.probe import FoldPrediction, Score


def score_table(
    scores: Mapping[str, Mapping[str, Score]],
    settings: Mapping[str, Any],
    reference: str | None = None,
) -> pd.DataFrame:
    """Lay scores out, one row a method and metric."""
    rows = []
    for method, metrics in scores.items():
        for name, score in metrics.items():
            other = (
                {}
                if reference is None
                else {"reference": reference}
                | {
                    f"reference_{key}": value
                    for key, value in _against(score, scores[reference][name], settings).items()
                }
            )
            rows.append(
                {
                    "method": method,
                    "target": settings["target"],
                    "kind": settings["kind"],
                    "split": settings["splits"],
                    "metric": name,
                    "value": score.value,
                    "low": score.low,
                    "high": score.high,
                    **_against(score, scores[CONNECTIVITY][name], settings),
                    **other,
                }
            )
    counts = ("n_scans", "n_subjects", "n_missing", "n_folds", "n_repeats")
    return pd.DataFrame(rows).assign(**{name: settings[name] for name in counts})


def _against(score: Score, reference: Score, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return a paired difference with its interval, NaN of a score to itself."""
    if score is reference:
        return dict.fromkeys(("difference", "difference_low", "difference_high"), float("nan"))
    low, high = interval(score.draws - reference.draws, settings["confidence"])
    return {
        "difference": score.value - reference.value,
        "difference_low": low,
        "difference_high": high,
    }


def prediction_table(
    predicted: Mapping[str, Sequence[FoldPrediction]], task: Task, scans: pd.DataFrame
) -> pd.DataFrame:
    """Lay predictions out, one row a method, repeat and scan."""
    parts = []
    for method, folds in predicted.items():
        for fold in folds:
            test = fold.split.test
            part = {
                "method": method,
                "target": task.target,
                "split": fold.split.name,
                "repeat": fold.split.repeat,
                "fold": fold.split.fold,
                "scan": scans["scan"].to_numpy()[test],
                "subject": scans["subject"].to_numpy()[test],
                "truth": task.name(task.truth[test]),
                "prediction": task.name(fold.prediction),
            }
            scores = {f"score_{c}": fold.score[:, i] for i, c in enumerate(task.classes)}
            parts.append(pd.DataFrame({**part, **scores}))
    return pd.concat(parts, ignore_index=True)
