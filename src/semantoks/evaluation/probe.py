"""What a linear model reads out of features, on scans of people that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.metrics import (
    METRICS,
    auc,
    balanced_accuracy,
    f1,
    interval,
    mae,
    pearson_r,
    r2,
)
from semantoks.evaluation.ridge import fit_ridge
from semantoks.evaluation.splits import Kind, Split, check_split

Classifier = Literal["ridge", "logistic"]
Scaling = Literal["standardize", "center"]
Matrix = NDArray[np.float64]

_LOGISTIC_PENALTIES: Final = np.logspace(5, -1, 7)
_INNER_FOLDS = 5


@dataclass(frozen=True)
class FoldPrediction:
    """What was predicted of the test part of a split.

    Parameters
    ----------
    split : Split
        The split.
    prediction : ndarray of shape (test,)
        Predicted class codes, or values.
    score : ndarray of shape (test, class)
        Continuous scores of the classes; of shape (test, 0) for regression.
    penalty : float
        The penalty that was chosen in the training part; NaN if there is none.
    """

    split: Split
    prediction: NDArray[Any]
    score: Matrix
    penalty: float = float("nan")


@dataclass(frozen=True)
class Score:
    """A metric with its interval.

    Parameters
    ----------
    value : float
        The metric on the predictions of all folds, averaged over repeats; NaN if it is not
        defined, as the area under the curve is where no fold holds two classes.
    low, high : float
        95 % interval over draws in all repeats.
    draws : ndarray of shape (repeat * draw,)
        The metric in each draw of each repeat, repeats one after the other.
    """

    value: float
    low: float
    high: float
    draws: Matrix


def cross_validated_predictions(
    features: NDArray[np.floating[Any]],
    truth: NDArray[Any],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: NDArray[Any],
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split from its training part.

    Scaling, penalty and weights are fitted in the training part alone; the penalty is chosen by
    leaving out subjects of it. Classes weigh equally. Every split is checked first.

    Parameters
    ----------
    features : ndarray of shape (scan, feature)
        Features of the scans.
    truth : ndarray of shape (scan,)
        Codes of the classes (0, 1, ...), or values.
    splits : sequence of Split
        What is learned from and what is predicted.
    kind : {"classification", "regression"}
        What the target is.
    subjects : ndarray of shape (scan,)
        Who each scan is of.
    classifier : {"ridge", "logistic"}
        Linear model for classes; values are always predicted by ridge regression.
    scaling : {"standardize", "center"}
        Whether features are brought to unit variance, or only centred.

    Returns
    -------
    tuple of FoldPrediction
        One a split, in the same order.

    Raises
    ------
    InputError
        If a split leaks, lengths differ, or features are not finite.
    ConfigurationError
        If the classifier or the scaling is unknown.

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
    if classifier not in ("ridge", "logistic"):
        raise ConfigurationError(f"classifier must be ridge or logistic, not {classifier!r}.")
    if scaling not in ("standardize", "center"):
        raise ConfigurationError(f"scaling must be standardize or center, not {scaling!r}.")
    _check_arrays(features, truth, subjects)
    for split in splits:
        check_split(split, subjects, truth if kind == "classification" else None)
    n_classes = int(truth.max()) + 1 if kind == "classification" else 0
    folds = []
    for split in splits:
        train, test = features[split.train], features[split.test]
        scaler = StandardScaler(with_std=scaling == "standardize").fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
        known, people = truth[split.train], subjects[split.train]
        if kind == "regression":
            folds.append(_regress(split, train, test, known, people))
        elif classifier == "ridge":
            folds.append(_classify_ridge(split, train, test, known, people, n_classes))
        else:
            folds.append(_classify_logistic(split, train, test, known, people, n_classes))
    return tuple(folds)


def score_predictions(
    folds: Sequence[FoldPrediction], truth: NDArray[Any], weights: Matrix, *, kind: Kind
) -> dict[str, Score]:
    """Score out-of-fold predictions, with intervals over draws of subjects or of folds.

    A metric is computed once a repeat, on the predictions of all of its folds together, and
    averaged over repeats; the area under the curve counts only pairs of scans of one fold, and
    Pearson's r centres each fold. The
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

    Parameters
    ----------
    folds : sequence of FoldPrediction
        Predictions, in a repeat at most one a scan.
    truth : ndarray of shape (scan,)
        Codes of the classes, or values.
    weights : ndarray of shape (draw, scan)
        What `bootstrap_weights` returned (with folds, if there is one repeat); the same for all
        methods that are compared.
    kind : {"classification", "regression"}
        What the target is.

    Returns
    -------
    dict of str to Score
        By name of the metric, the leading one first.

    Raises
    ------
    InputError
        If a scan is predicted more than once in a repeat.
    """
    repeats: dict[int, list[FoldPrediction]] = {}
    for fold in folds:
        repeats.setdefault(fold.split.repeat, []).append(fold)
    values: dict[str, list[float]] = {name: [] for name in METRICS[kind]}
    draws: dict[str, list[Matrix]] = {name: [] for name in METRICS[kind]}
    for repeat, parts in repeats.items():
        tested = np.concatenate([part.split.test for part in parts])
        if len(np.unique(tested)) != len(tested):
            raise InputError(f"in repeat {repeat} of the splits a scan is tested more than once.")
        prediction = np.concatenate([part.prediction for part in parts])
        score = np.concatenate([part.score for part in parts])
        folds_of = np.repeat(np.arange(len(parts)), [len(part.split.test) for part in parts])
        for name in METRICS[kind]:
            once, drawn = (
                _metric(name, truth[tested], prediction, score, w, folds_of)
                for w in (None, weights[:, tested])
            )
            values[name].append(float(once))
            draws[name].append(drawn)
    scores = {}
    for name in METRICS[kind]:
        pooled = np.concatenate(draws[name])
        known = [value for value in values[name] if np.isfinite(value)]
        value = float(np.mean(known)) if known else float("nan")
        scores[name] = Score(value, *interval(pooled), pooled)
    return scores


def _metric(
    name: str,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    score: Matrix,
    weights: Matrix | None,
    folds: NDArray[np.intp],
) -> Matrix:
    """Compute one metric by its name."""
    if name == "auc":
        return auc(truth, score, weights, folds)
    if name == "pearson_r":
        return pearson_r(truth, prediction, weights, folds)
    metric = {"balanced_accuracy": balanced_accuracy, "f1": f1, "r2": r2, "mae": mae}[name]
    return metric(truth, prediction, weights)


def _regress(
    split: Split, train: Matrix, test: Matrix, known: NDArray[Any], people: NDArray[Any]
) -> FoldPrediction:
    """Predict values."""
    fit = fit_ridge(train, known.astype(np.float64)[:, None], subjects=people)
    return FoldPrediction(split, fit.predict(test)[:, 0], np.empty((len(test), 0)), fit.penalty)


def _classify_ridge(
    split: Split,
    train: Matrix,
    test: Matrix,
    known: NDArray[Any],
    people: NDArray[Any],
    n_classes: int,
) -> FoldPrediction:
    """Regress one column of ±1 a class, and predict the class of the largest."""
    outputs = np.where(known[:, None] == np.arange(n_classes), 1.0, -1.0)
    fit = fit_ridge(train, outputs, subjects=people, weights=_class_weights(known))
    score = fit.predict(test)
    return FoldPrediction(split, score.argmax(axis=1), score, fit.penalty)


def _classify_logistic(
    split: Split,
    train: Matrix,
    test: Matrix,
    known: NDArray[Any],
    people: NDArray[Any],
    n_classes: int,
) -> FoldPrediction:
    """Fit a logistic regression, its penalty chosen on folds of subjects of the training part."""
    fewest = min(len(np.unique(people[known == c])) for c in np.unique(known))
    if fewest < 2:
        raise InputError(
            f"{split}: a class has a single subject to learn from, so that no penalty can be "
            "chosen for the logistic classifier. Use the ridge classifier, or leave the class out."
        )
    inner = StratifiedGroupKFold(min(_INNER_FOLDS, fewest), shuffle=True, random_state=0)
    losses = np.zeros(len(_LOGISTIC_PENALTIES))
    for fit_on, tried_on in inner.split(train, known, people):
        model = _logistic()
        for i, penalty in enumerate(_LOGISTIC_PENALTIES):
            model.set_params(C=1 / penalty).fit(train[fit_on], known[fit_on])
            chance = _probabilities(model, train[tried_on], n_classes)
            right = chance[np.arange(len(tried_on)), known[tried_on]]
            weights = _class_weights(known)[tried_on]
            losses[i] -= weights @ np.log(np.clip(right, 1e-12, None))
    penalty = float(_LOGISTIC_PENALTIES[int(np.argmin(losses))])
    model = _logistic().set_params(C=1 / penalty).fit(train, known)
    score = _probabilities(model, test, n_classes)
    return FoldPrediction(split, score.argmax(axis=1), score, penalty)


def _logistic() -> LogisticRegression:
    """Make a class-balanced logistic regression that starts where its last fit ended."""
    return LogisticRegression(class_weight="balanced", warm_start=True, max_iter=5000, tol=1e-3)


def _probabilities(model: LogisticRegression, features: Matrix, n_classes: int) -> Matrix:
    """Return probabilities of all classes, zero for those that were not learned from."""
    chance = np.zeros((len(features), n_classes))
    chance[:, model.classes_] = model.predict_proba(features)
    return chance


def _class_weights(known: NDArray[Any]) -> Matrix:
    """Weigh scans so that all classes that occur weigh the same, one scan 1 on average."""
    classes, code, counts = np.unique(known, return_inverse=True, return_counts=True)
    return np.asarray(len(known) / (len(classes) * counts))[code]


def _check_arrays(
    features: NDArray[np.floating[Any]], truth: NDArray[Any], subjects: NDArray[Any]
) -> None:
    """Refuse arrays of different lengths, and features that are not finite."""
    if features.ndim != 2 or not len(features) == len(truth) == len(subjects):
        raise InputError(
            f"features must have shape (scan, feature) with a true value and a subject a scan; "
            f"came features {features.shape}, {len(truth)} true values, {len(subjects)} subjects."
        )
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} scan(s) are not finite, the first is in row "
            f"{broken[0]} (subject {str(subjects[broken[0]])!r})."
        )
