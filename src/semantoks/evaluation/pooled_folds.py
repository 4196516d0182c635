"""What each fold of one division says of a score of all folds together.

Where people are divided once, as with one site left out, a score is that of all scans that were
tested. The mean of the folds' own scores is another quantity: a small site may have an R² of -20,
and the balanced accuracy of a site with one class is a recall. But the score is a mean of ratios,
sum of parts over sum of wholes, and of these sums every fold has its own piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from semantoks.evaluation.metrics import auc
from semantoks.evaluation.probe import FoldPrediction

Vector = NDArray[np.float64]


class FoldRatios(NamedTuple):
    """A score as a mean over terms (classes, or one alone) of sum of parts / sum of wholes."""

    parts: Float[NDArray[np.float64], "term fold"]
    wholes: Float[NDArray[np.float64], "term fold"]


def fold_ratios(
    metric: str, truth: Shaped[NDArray[Any], "scan"], folds: Sequence[FoldPrediction]
) -> FoldRatios | None:
    """Divide a metric on all tested scans into what each fold has of it.

    Examples
    --------
    >>> from semantoks.evaluation.splits import Split
    >>> tests = [np.array([0, 1]), np.array([2])]
    >>> splits = [Split("mine", 0, str(i), np.arange(3, 6), test) for i, test in enumerate(tests)]
    >>> folds = [FoldPrediction(s, np.zeros(len(s.test)), np.empty((0, 0))) for s in splits]
    >>> fold_ratios("balanced_accuracy", np.array([0, 1, 0, 1, 0, 1]), folds).parts.tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    true = [truth[fold.split.test] for fold in folds]
    tested = np.concatenate(true)
    if metric == "auc":
        return _of_areas(tested, true, folds)
    if metric == "balanced_accuracy":
        masks = [[own == code for own in true] for code in np.unique(tested)]
        right = [own == fold.prediction for own, fold in zip(true, folds, strict=True)]
        return FoldRatios(
            _sums([[m & r for m, r in zip(own, right, strict=True)] for own in masks]),
            _sums(masks),
        )
    errors = [own - fold.prediction for own, fold in zip(true, folds, strict=True)]
    if metric == "mae":
        return FoldRatios(
            _sums([[np.abs(error) for error in errors]]), _sums([[np.ones(len(t)) for t in true]])
        )
    if metric != "r2":
        return None
    squares = _sums([[np.square(own - tested.mean()) for own in true]])
    if squares.sum() <= 1e-24 * float(np.sum(np.square(tested))):
        return None
    return FoldRatios(squares - _sums([[np.square(error) for error in errors]]), squares)


def pooled_differences(first: FoldRatios, second: FoldRatios) -> Float[Vector, "fold"]:
    """Write the difference of two pooled scores as a mean over folds.

    Fold f has K times (its piece of the difference minus what its whole would have of it), added to
    the difference itself: the linearisation of a ratio, term by term. So a large site counts for
    more, but that it is large does not pass for a disagreement between sites.

    Examples
    --------
    >>> wholes = np.array([[10.0, 90.0]])
    >>> better, worse = FoldRatios(0.7 * wholes, wholes), FoldRatios(0.5 * wholes, wholes)
    >>> pooled_differences(better, worse).round(6).tolist()
    [0.2, 0.2]
    """
    pieces, wholes = first.parts - second.parts, first.wholes
    totals = wholes.sum(axis=1, keepdims=True)
    each = pieces.sum(axis=1, keepdims=True) / totals
    beyond: Vector = ((pieces - wholes * each) / totals).mean(axis=0)
    return np.asarray(each.mean() + wholes.shape[1] * beyond, dtype=np.float64)


def _of_areas(
    tested: NDArray[Any], true: list[NDArray[Any]], folds: Sequence[FoldPrediction]
) -> FoldRatios | None:
    """Divide the area under the curve, whose pairs are of scans of one fold."""
    n_classes = folds[0].score.shape[1]
    codes = [1] if n_classes == 2 else [c for c in range(n_classes) if (tested == c).any()]
    parts, wholes = [], []
    for code in codes:
        positive = [(own == code).astype(np.intp) for own in true]
        pairs = np.array([p.sum() * (len(p) - p.sum()) for p in positive], dtype=np.float64)
        within = [
            float(auc(p, np.stack([-fold.score[:, code], fold.score[:, code]], axis=1)))
            for p, fold in zip(positive, folds, strict=True)
        ]
        if pairs.any():
            parts.append(np.where(pairs > 0, within, 0.0) * pairs)
            wholes.append(pairs)
    return FoldRatios(np.array(parts), np.array(wholes)) if parts else None


def _sums(values: Sequence[Sequence[NDArray[Any]]]) -> Float[NDArray[np.float64], "term fold"]:
    """Sum values over the scans of every fold."""
    return np.array([[np.sum(fold) for fold in term] for term in values], dtype=np.float64)
