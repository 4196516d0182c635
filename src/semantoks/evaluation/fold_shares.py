"""What each fold of one division adds to a score of all folds together.

Where people are divided once, as with one site left out, a score is that of all scans that were
tested. The mean of the folds' own scores is another quantity: a small site may have an R² of -20,
and the balanced accuracy of a site with one class is a recall. The shares of this module add up to
the score itself, so that a test over them is a test of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.evaluation.metrics import auc
from semantoks.evaluation.probe import FoldPrediction

Vector = NDArray[np.float64]


def fold_shares(metric: str, truth: NDArray[Any], folds: Sequence[FoldPrediction]) -> Vector:
    """Divide a metric on all tested scans into what each fold adds to it.

    Parameters
    ----------
    metric : str
        A metric of `METRICS`.
    truth : ndarray of shape (scan,)
        Codes of the classes, or values.
    folds : sequence of FoldPrediction
        Predictions of one division: no scan is tested twice.

    Returns
    -------
    ndarray of shape (fold,)
        Shares whose sum is the metric; NaN where it is not defined, and for F1 and Pearson's r,
        which are no sums over folds.

    Examples
    --------
    >>> from semantoks.evaluation.splits import Split
    >>> parts = [np.array([0, 1]), np.array([2])]
    >>> splits = [Split("mine", 0, str(i), np.arange(3, 6), part) for i, part in enumerate(parts)]
    >>> folds = [FoldPrediction(s, np.zeros(len(s.test)), np.empty((0, 0))) for s in splits]
    >>> fold_shares("balanced_accuracy", np.array([0, 1, 0, 1, 0, 1]), folds).tolist()
    [0.25, 0.25]
    """
    tests = [fold.split.test for fold in folds]
    tested = truth[np.concatenate(tests)]
    if metric == "auc":
        return _of_areas(tested, truth, folds)
    if metric == "balanced_accuracy":
        classes, counts = np.unique(tested, return_counts=True)
        weight = dict(zip(classes.tolist(), 1 / (counts * len(classes)), strict=True))
        return np.array(
            [
                sum(weight[c] for c in truth[rows][truth[rows] == fold.prediction].tolist())
                for rows, fold in zip(tests, folds, strict=True)
            ],
            dtype=np.float64,
        )
    errors = [truth[rows] - fold.prediction for rows, fold in zip(tests, folds, strict=True)]
    if metric == "mae":
        return np.array([np.abs(error).sum() for error in errors]) / len(tested)
    if metric != "r2":
        return np.full(len(folds), np.nan)
    total = float(np.sum((tested - tested.mean()) ** 2))
    if total <= 1e-24 * float(np.sum(np.square(tested))):
        return np.full(len(folds), np.nan)
    return 1 / len(folds) - np.array([np.square(error).sum() for error in errors]) / total


def _of_areas(tested: NDArray[Any], truth: NDArray[Any], folds: Sequence[FoldPrediction]) -> Vector:
    """Divide the area under the curve, whose pairs are of scans of one fold."""
    n_classes = folds[0].score.shape[1]
    codes = [1] if n_classes == 2 else [c for c in range(n_classes) if (tested == c).any()]
    areas = []
    for code in codes:
        positive = [(truth[fold.split.test] == code).astype(np.intp) for fold in folds]
        pairs = np.array([p.sum() * (len(p) - p.sum()) for p in positive], dtype=np.float64)
        within = [
            float(auc(p, np.stack([-fold.score[:, code], fold.score[:, code]], axis=1)))
            for p, fold in zip(positive, folds, strict=True)
        ]
        if pairs.any():
            areas.append(np.where(pairs > 0, within, 0.0) * pairs / pairs.sum())
    return np.mean(areas, axis=0) if areas else np.full(len(folds), np.nan)
