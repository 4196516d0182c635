"""What a linear model reads out of features, on scans of people that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import check_arrays
from semantoks.evaluation.linear import (
    Classifier,
    FoldPrediction,
    Scaling,
    learning_from_both,
    predict_fold,
)
from semantoks.evaluation.metrics import (
    WITHIN_SITE,
    auc,
    balanced_accuracy,
    f1,
    interval,
    mae,
    metrics_of,
    pearson_r,
    r2,
)
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.splitters import check_split

SAME_QUANTITY: Final = 0.99
"""Rank correlation from which two columns of numbers are taken for one quantity."""
SAME_CLASSES: Final = 0.95
"""Adjusted mutual information from which two columns of classes are taken for one."""


class Preparation(Protocol):
    """A scikit-learn transformer of features that looks up sites and confounds in a table."""

    @property
    def preserved(self) -> tuple[str, ...]:
        """Columns of the table whose effect on the features is kept."""
        ...

    def fit(
        self,
        features: Float[NDArray[np.floating[Any]], "scan feature"],
        y: object = None,
        *,
        scans: pd.DataFrame,
    ) -> Self:
        """Learn from the training part."""
        ...

    def transform(
        self, features: Float[NDArray[np.floating[Any]], "scan feature"], *, scans: pd.DataFrame
    ) -> Float[NDArray[np.float64], "scan feature"]:
        """Apply what was learned."""
        ...


def check_preparation(
    prepare: Preparation, scans: pd.DataFrame, truth: Shaped[ArrayLike, "scan"]
) -> None:
    """Refuse a preparation that would carry knowledge of the test part into the features."""
    name, truth = type(prepare).__name__, np.asarray(truth)
    if len(scans) != len(truth):
        raise InputError(
            f"{name} needs the table of the {len(truth)} scans; one with {len(scans)} rows came."
        )
    try:
        check_is_fitted(prepare)
    except NotFittedError:
        pass
    else:
        raise InputError(
            f"{name} was fitted before, on scans that are tested here or not: its parameters may "
            "know the test parts. Give one that is not fitted; it is fitted in every training part."
        )
    for column in prepare.preserved:
        if column in scans.columns and is_target(scans[column], truth):
            raise InputError(
                f"{name} would preserve column {column!r}, which is the target itself: the labels "
                "of the test part would be written into its features. Preserve other columns only."
            )


def is_target(column: pd.Series[Any], truth: Shaped[ArrayLike, "scan"]) -> bool:
    """Tell whether a column is the target, also under another name or in another unit.

    Examples
    --------
    >>> is_target(pd.Series(["m", "f", "m", "f"]), [1, 2, 1, 2])
    True
    >>> is_target(pd.Series(["Oslo", "Oslo", "Bonn", "Rome"]), [1, 1, 2, 2])
    False
    >>> is_target(pd.Series(range(30)), np.arange(30.0) ** 3)
    True
    """
    known = column.notna().to_numpy() & (column.astype(str).str.strip() != "").to_numpy()
    values, truth = column[known], np.asarray(truth)[known]
    code, found = pd.factorize(values)
    target_code, targets = pd.factorize(truth)
    if len(found) < 2 or len(targets) < 2:
        return False
    repeats = 2 * max(len(found), len(targets)) <= len(values)
    if repeats and adjusted_mutual_info_score(target_code, code) >= SAME_CLASSES:
        return True
    numeric = all(pd.api.types.is_numeric_dtype(x) for x in (values, pd.Series(truth)))
    if not numeric or len(targets) < 3 or len(found) < 3:
        return False
    ranks = spearmanr(values.to_numpy(dtype=np.float64), truth.astype(np.float64)).statistic
    return bool(abs(ranks) >= SAME_QUANTITY)


Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A metric with its interval."""

    value: float
    low: float
    high: float
    draws: Float[Matrix, "repeat_draw"]


def cross_validated_predictions(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
    prepare: Preparation | None = None,
    scans: pd.DataFrame | None = None,
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split from its training part.

    Preparation, scaling, penalty and weights are fitted in the training part alone; the penalty is
    chosen by leaving out subjects of it, the strongest of equally good ones. A validation part is
    not needed for any choice here: its scans are learned from like those of the training part.
    Classes weigh equally. Every split is checked first.

    Examples
    --------
    >>> from semantoks.evaluation.splits import Split
    >>> split = Split("mine", 0, "0", train=np.arange(6), test=np.array([6, 7]))
    >>> x, truth = np.array([[0.0, 9, 1, 8, 0, 9, 1, 8]]).T, np.array([0, 1, 0, 1, 0, 1, 0, 1])
    >>> (fold,) = cross_validated_predictions(
    ...     x, truth, [split], kind="classification", subjects=np.arange(8)
    ... )
    >>> fold.prediction
    array([0, 1])
    """
    check_arrays(features, truth, subjects)
    table = pd.DataFrame(index=range(len(truth))) if scans is None else scans
    if prepare is not None:
        check_preparation(prepare, table, truth)

    def describe(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        train, test = features[split.train], features[split.test]
        if prepare is None:
            return train, test
        fitted = clone(prepare).fit(train, scans=table.iloc[split.train])
        return (
            fitted.transform(train, scans=table.iloc[split.train]),
            fitted.transform(test, scans=table.iloc[split.test]),
        )

    return predictions_of_folds(
        describe,
        truth,
        splits,
        kind=kind,
        subjects=subjects,
        classifier=classifier,
        scaling=scaling,
    )


def predictions_of_folds(
    describe: Callable[[Split], tuple[NDArray[Any], NDArray[Any]]],
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split from features that depend on the split.

    Validation parts are learned from like training parts.
    """
    if classifier not in ("ridge", "logistic"):
        raise ConfigurationError(f"classifier must be ridge or logistic, not {classifier!r}.")
    if scaling not in ("standardize", "center"):
        raise ConfigurationError(f"scaling must be standardize or center, not {scaling!r}.")
    if len(truth) != len(subjects):
        raise InputError(f"{len(truth)} true values came with {len(subjects)} subjects.")
    for split in splits:
        check_split(split, subjects, truth if kind == "classification" else None)
    folds = []
    for split in splits:
        both = learning_from_both(split)
        fold = predict_fold(
            both,
            *describe(both),
            truth,
            subjects,
            kind=kind,
            classifier=classifier,
            scaling=scaling,
        )
        folds.append(replace(fold, split=split))
    return tuple(folds)


def score_predictions(
    folds: Sequence[FoldPrediction],
    truth: Shaped[NDArray[Any], "scan"],
    weights: Float[Matrix, "draw scan"],
    *,
    kind: Kind,
    sites: Shaped[NDArray[Any], "scan"] | None = None,
) -> dict[str, Score]:
    """Score out-of-fold predictions, with intervals over draws of subjects or of folds.

    A metric is computed once a repeat, on the predictions of all of its folds together, and
    averaged over repeats; the area under the curve counts only pairs of scans of one fold, and
    Pearson's r centres each fold. Where sites are given, both are also taken within sites: of
    pairs of one site and fold, and with the mean of every site and fold removed. The
    interval is that of the draws of all repeats together: it tells how much the score depends on
    which people were tested and on how they were divided. The models are not fitted anew in a
    draw. Where subjects are divided once only, draws of subjects know nothing of the division, so
    that folds (or sites) should be drawn first, then the subjects in them.

    How often intervals of nominally 95 % held chance on random labels, and in brackets zero
    for the difference to an equally good method, in 200 simulated cohorts of 160 people with 40
    features (balanced accuracy / area under the curve)::

        5 repeats, subjects                    .98 / .94  (1.00 / .97)
        2 repeats, subjects                    .94 / .93  (1.00 / .98)
        1 repeat, subjects                     .86 / .85  ( .89 / .92)
        1 repeat, folds and subjects           .93 / .92  ( .95 / .96)
        8 sites, subjects                      .80 / .87  ( .92 / .94)
        8 sites, sites and subjects            .93 / .95  ( .98 / 1.00)
        3 sites, sites and subjects            .95 / .95  ( .97 / .96)
        20 sites, sites and subjects           .95 / .99  ( .97 / 1.00)

    and the same, of the mean score of all cohorts, where labels are decoded (balanced accuracy
    about .76)::

        5 repeats, subjects                    .95 / .92  ( .94 / .91)
        2 repeats, subjects                    .89 / .90  ( .91 / .88)
        1 repeat, subjects                     .86 / .86  ( .84 / .82)
        1 repeat, folds and subjects           .93 / .94  ( .93 / .93)
        8 sites, subjects                      .94 / .93  ( .90 / .90)
        8 sites, sites and subjects            .98 / .98  ( .96 / .96)
        3 sites, subjects                      .77 / .69  ( .76 / .69)
        3 sites, sites and subjects            .94 / .88  ( .88 / .85)
    """
    repeats: dict[int, list[FoldPrediction]] = {}
    for fold in folds:
        repeats.setdefault(fold.split.repeat, []).append(fold)
    names = metrics_of(kind, sites)
    values: dict[str, list[float]] = {name: [] for name in names}
    draws: dict[str, list[Matrix]] = {name: [] for name in names}
    for repeat, parts in repeats.items():
        tested = np.concatenate([part.split.test for part in parts])
        if len(np.unique(tested)) != len(tested):
            raise InputError(f"in repeat {repeat} of the splits a scan is tested more than once.")
        prediction = np.concatenate([part.prediction for part in parts])
        score = np.concatenate([part.score for part in parts])
        folds_of = np.repeat(np.arange(len(parts)), [len(part.split.test) for part in parts])
        for name in names:
            groups = _groups(name, folds_of, sites, tested)
            once, drawn = (
                _metric(name, truth[tested], prediction, score, w, groups)
                for w in (None, weights[:, tested])
            )
            values[name].append(float(once))
            draws[name].append(drawn)
    scores = {}
    for name in names:
        pooled = np.concatenate(draws[name])
        known = [value for value in values[name] if np.isfinite(value)]
        value = float(np.mean(known)) if known else float("nan")
        scores[name] = Score(value, *interval(pooled), pooled)
    return scores


def fold_metric(
    name: str,
    truth: Shaped[NDArray[Any], "scan"],
    fold: FoldPrediction,
    sites: Shaped[NDArray[Any], "scan"] | None = None,
) -> float:
    """Compute a metric on the test part of one split."""
    test = fold.split.test
    groups = _groups(name, np.zeros(len(test), dtype=np.intp), sites, test)
    return float(_metric(name, truth[test], fold.prediction, fold.score, None, groups))


def _groups(
    name: str, folds: NDArray[np.intp], sites: NDArray[Any] | None, tested: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Say which tested scans are compared with one another: of a fold, or of a fold and site."""
    if sites is None or name not in WITHIN_SITE.values():
        return folds
    names, code = np.unique(sites[tested], return_inverse=True)
    return folds * len(names) + code


def _metric(
    name: str,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    score: Matrix,
    weights: Matrix | None,
    folds: NDArray[np.intp],
) -> Matrix:
    """Compute one metric by its name."""
    if name.startswith("auc"):
        return auc(truth, score, weights, folds)
    if name.startswith("pearson_r"):
        return pearson_r(truth, prediction, weights, folds)
    metric = {"balanced_accuracy": balanced_accuracy, "f1": f1, "r2": r2, "mae": mae}[name]
    return metric(truth, prediction, weights)
