"""Linear models that predict one fold, fitted in its training part alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from semantoks.errors import InputError
from semantoks.evaluation.ridge import RidgeFit, fit_ridge
from semantoks.evaluation.splits import Kind, Split

Classifier = Literal["ridge", "logistic"]
Scaling = Literal["standardize", "center"]
Matrix = NDArray[np.float64]

_LOGISTIC_PENALTIES: Final = np.logspace(5, -1, 7)
_INNER_FOLDS = 5


@dataclass(frozen=True)
class FoldPrediction:
    """What was predicted of the test part of a split."""

    split: Split
    prediction: Shaped[NDArray[Any], "test"]
    score: Float[Matrix, "test class"]
    penalty: float = float("nan")
    chosen: Mapping[str, float] = field(default_factory=dict)


def learning_from_both(split: Split) -> Split:
    """Join training and validation part, for models that choose inside of what they learn from.

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
    train: Shaped[NDArray[Any], "train feature"],
    test: Shaped[NDArray[Any], "test feature"],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    kind: Kind,
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
) -> FoldPrediction:
    """Predict the test part of one split from its training part."""
    fitted = fit_linear(
        train,
        truth[split.train],
        subjects[split.train],
        n_classes=0 if kind == "regression" else int(truth.max()) + 1,
        classifier=classifier,
        scaling=scaling,
        where=str(split),
    )
    score = fitted.scores(test)
    if kind == "regression":
        return FoldPrediction(split, score[:, 0], np.empty((len(test), 0)), fitted.penalty)
    return FoldPrediction(split, score.argmax(axis=1), score, fitted.penalty)


class FittedLinear(NamedTuple):
    """A linear model and the scaling of what it reads."""

    scaler: StandardScaler
    model: RidgeFit | LogisticRegression
    penalty: float
    n_classes: int

    def scores(self, features: Shaped[NDArray[Any], "scan feature"]) -> Float[Matrix, "scan class"]:
        """Return continuous scores of the classes, or values."""
        scaled = _scaled(self.scaler, features)
        if isinstance(self.model, LogisticRegression):
            return _probabilities(self.model, scaled, self.n_classes)
        return self.model.predict(scaled)


def fit_linear(
    features: Shaped[NDArray[Any], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    n_classes: int,
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
    where: str = "fit",
) -> FittedLinear:
    """Fit a linear model, its penalty chosen by leaving out subjects."""
    scaler = StandardScaler(with_std=scaling == "standardize").fit(features)
    scaled = _scaled(scaler, features)
    if n_classes and classifier == "logistic":
        penalty = _choose_penalty(scaled, truth, subjects, n_classes, where)
        model = _logistic().set_params(C=1 / penalty).fit(scaled, truth)
        return FittedLinear(scaler, model, penalty, n_classes)
    outputs, weights = truth.astype(np.float64)[:, None], None
    if n_classes:
        outputs = np.where(truth[:, None] == np.arange(n_classes), 1.0, -1.0)
        weights = compute_sample_weight("balanced", truth)
    fit = fit_ridge(scaled, outputs, subjects=subjects, weights=weights)
    return FittedLinear(scaler, fit, fit.penalty, n_classes)


def _scaled(scaler: StandardScaler, features: NDArray[Any]) -> Matrix:
    """Centre features, and scale them if the scaler does."""
    return np.asarray(scaler.transform(features), dtype=np.float64)


def _choose_penalty(
    train: Matrix, known: NDArray[Any], people: NDArray[Any], n_classes: int, where: str
) -> float:
    """Choose the penalty of a logistic regression on folds of subjects of the training part."""
    fewest = min(len(np.unique(people[known == c])) for c in np.unique(known))
    if fewest < 2:
        raise InputError(
            f"{where}: a class has a single subject to learn from, so that no penalty can be "
            "chosen for the logistic classifier. Use the ridge classifier, or leave the class out."
        )
    inner = StratifiedGroupKFold(min(_INNER_FOLDS, fewest), shuffle=True, random_state=0)
    losses = np.zeros(len(_LOGISTIC_PENALTIES))
    weights = compute_sample_weight("balanced", known)
    for fit_on, tried_on in inner.split(train, known, people):
        model = _logistic()
        for i, penalty in enumerate(_LOGISTIC_PENALTIES):
            model.set_params(C=1 / penalty).fit(train[fit_on], known[fit_on])
            chance = _probabilities(model, train[tried_on], n_classes)
            right = chance[np.arange(len(tried_on)), known[tried_on]]
            losses[i] -= weights[tried_on] @ np.log(np.clip(right, 1e-12, None))
    return float(_LOGISTIC_PENALTIES[int(np.argmin(losses))])


def _logistic() -> LogisticRegression:
    """Make a class-balanced logistic regression that starts where its last fit ended."""
    return LogisticRegression(class_weight="balanced", warm_start=True, max_iter=5000, tol=1e-3)


def _probabilities(model: LogisticRegression, features: Matrix, n_classes: int) -> Matrix:
    """Return probabilities of all classes, zero for those that were not learned from."""
    chance = np.zeros((len(features), n_classes))
    chance[:, model.classes_] = model.predict_proba(features)
    return chance
