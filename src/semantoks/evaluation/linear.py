"""Linear models that predict one fold, fitted in its training part alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from semantoks.errors import InputError
from semantoks.evaluation.ridge import fit_ridge
from semantoks.evaluation.splits import Kind, Split

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
    chosen : mapping of str to float
        What else was chosen, in the training or the validation part: a learning rate, an epoch, a
        number of neighbours.
    """

    split: Split
    prediction: NDArray[Any]
    score: Matrix
    penalty: float = float("nan")
    chosen: Mapping[str, float] = field(default_factory=dict)


def learning_from_both(split: Split) -> Split:
    """Join training and validation part, for models that choose inside of what they learn from.

    Parameters
    ----------
    split : Split
        A split with or without a validation part.

    Returns
    -------
    Split
        The same test part, and no validation part.

    Examples
    --------
    >>> split = Split("mine", 0, "0", np.array([0, 3]), np.array([1]), validation=np.array([2]))
    >>> learning_from_both(split).train
    array([0, 2, 3])
    """
    if not len(split.validation):
        return split
    both = np.sort(np.concatenate([split.train, split.validation]))
    return replace(split, train=both, validation=split.validation[:0])


def predict_fold(
    split: Split,
    train: NDArray[Any],
    test: NDArray[Any],
    truth: NDArray[Any],
    subjects: NDArray[Any],
    *,
    kind: Kind,
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
) -> FoldPrediction:
    """Predict the test part of one split from its training part.

    Parameters
    ----------
    split : Split
        The split, checked before.
    train : ndarray of shape (train, feature)
        Features of the scans that are learned from.
    test : ndarray of shape (test, feature)
        Features of the scans that are predicted.
    truth : ndarray of shape (scan,)
        Codes of the classes (0, 1, ...), or values, of all scans that the split counts.
    subjects : ndarray of shape (scan,)
        Who each of these scans is of, or, where relatives are alike, of which family: what is left
        out together where a penalty is chosen.
    kind : {"classification", "regression"}
        What the target is.
    classifier : {"ridge", "logistic"}
        Linear model for classes; values are always predicted by ridge regression.
    scaling : {"standardize", "center"}
        Whether features are brought to unit variance, or only centred.

    Returns
    -------
    FoldPrediction
        Predictions of the test part.
    """
    scaler = StandardScaler(with_std=scaling == "standardize").fit(train)
    train, test = (np.asarray(scaler.transform(x), dtype=np.float64) for x in (train, test))
    known, people = truth[split.train], subjects[split.train]
    if kind == "regression":
        return _regress(split, train, test, known, people)
    classify = _classify_ridge if classifier == "ridge" else _classify_logistic
    return classify(split, train, test, known, people, int(truth.max()) + 1)


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
