"""The k-nearest-neighbour probe: scans are taken to be like those that look most like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import (
    ScanEstimator,
    check_arrays,
    check_known,
    check_new,
    encode_labels,
)
from semantoks.evaluation.linear import FoldPrediction, learning_from_both
from semantoks.evaluation.metrics import balanced_accuracy, mae
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.splitters import check_split

NUMBERS: Final = (1, 3, 5, 9, 15, 25, 41)
"""Numbers of neighbours to choose from."""

_INNER_FOLDS: Final = 5


def neighbour_predictions(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    numbers: Sequence[int] = NUMBERS,
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split from the scans that are nearest to each.

    Near is what has a small angle, features being standardised by the training part. The number of
    neighbours is chosen by leaving out folds of subjects of it, the largest of equally good ones.
    Classes vote, a scan of a rare class with more weight, so that all classes have the same in
    all; values are averaged. Nothing is chosen on the validation part: its scans are neighbours
    like those of the training part.

    Examples
    --------
    >>> split = Split("mine", 0, "0", train=np.arange(6), test=np.array([6, 7]))
    >>> x = np.array([[1.0, 0], [0, 1], [2, 0], [0, 2], [3, 0], [0, 3], [4, 1], [1, 4]])
    >>> (fold,) = neighbour_predictions(
    ...     x, np.arange(8) % 2, [split], kind="classification", subjects=np.arange(8), numbers=[1]
    ... )
    >>> fold.prediction
    array([0, 1])
    """
    _check(features, truth, subjects, kind, numbers)
    n_classes = int(np.nanmax(truth)) + 1 if kind == "classification" else 0
    folds = []
    for split in splits:
        check_split(split, subjects, truth if kind == "classification" else None)
        rows = np.sort(learning_from_both(split).train)
        check_known(truth[rows], kind, str(split))
        known = _Known(features[rows], truth[rows], subjects[rows], kind, n_classes)
        best = _choose_number(known, sorted(set(numbers)), str(split))
        score = _vote(known, features[split.test], [best])[0]
        prediction = score.argmax(axis=1) if kind == "classification" else score[:, 0]
        folds.append(
            FoldPrediction(
                split,
                prediction,
                score if kind == "classification" else np.empty((len(score), 0)),
                chosen={"neighbours": float(best)},
            )
        )
    return tuple(folds)


class NeighbourProbe(ScanEstimator):
    """The k-nearest-neighbour probe, for scikit-learn.

    Parameters
    ----------
    kind : {"classification", "regression"}
        What is predicted.
    numbers : sequence of int
        Numbers of neighbours to choose from, by leaving out folds of subjects.

    Attributes
    ----------
    classes_ : ndarray
        Classes that can be predicted; only for classification.
    neighbours_ : int
        The number that was chosen.

    Examples
    --------
    >>> x = np.array([[1.0, 0], [0, 1], [2, 0], [0, 2], [3, 0], [0, 3]])
    >>> probe = NeighbourProbe(numbers=[1]).fit(x, ["m", "f"] * 3)
    >>> probe.predict(np.array([[4.0, 1], [1, 4]])).tolist()
    ['m', 'f']
    """

    def __init__(self, kind: Kind = "classification", *, numbers: Sequence[int] = NUMBERS) -> None:
        self.kind = kind
        self.numbers = numbers

    def fit(
        self,
        X: Shaped[ArrayLike, "scan feature"],
        y: Shaped[ArrayLike, "scan"],
        *,
        groups: Shaped[ArrayLike, "scan"] | None = None,
    ) -> NeighbourProbe:
        """Keep the scans and choose the number of neighbours.

        Parameters
        ----------
        X : array_like of shape (scan, feature)
            Features of the scans to learn from.
        y : array_like of shape (scan,)
            Classes (of any type) or values.
        groups : array_like of shape (scan,), optional
            Who each scan is of; every scan is of another person by default.

        Returns
        -------
        NeighbourProbe
            Itself.

        Raises
        ------
        InputError
            If lengths differ, features or targets are not finite, or there are too few scans.
        ConfigurationError
            If the kind is unknown or a number of neighbours impossible.
        """
        features = np.asarray(X)
        truth, _, classes = encode_labels(y, np.asarray(y)[:0], self.kind)
        subjects = np.arange(len(truth)) if groups is None else np.asarray(groups)
        _check(features, truth, subjects, self.kind, self.numbers)
        check_known(truth, self.kind, "fit")
        n_classes = 0 if classes is None else len(classes)
        known = _Known(features, truth, subjects, self.kind, n_classes)
        self.neighbours_ = _choose_number(known, sorted(set(self.numbers)), "fit")
        self._known = known
        if classes is not None:
            self.classes_ = classes
        return self

    def decision_function(
        self, X: Shaped[ArrayLike, "scan feature"]
    ) -> Float[NDArray[np.float64], "scan class"]:
        """Return the shares of the votes.

        Parameters
        ----------
        X : array_like of shape (scan, feature)
            Features.

        Returns
        -------
        ndarray of shape (scan, class)
            Shares of the votes; of shape (scan, 1) for regression, the mean of the neighbours.

        Raises
        ------
        InputError
            If features are not finite, or not as many as in `fit`.
        """
        check_is_fitted(self, "neighbours_")
        features = np.asarray(X)
        check_new(features, self._known.features.shape[1])
        return np.asarray(_vote(self._known, features, [self.neighbours_])[0])


class _Known(NamedTuple):
    """Scans that may be neighbours."""

    features: NDArray[np.floating[Any]]
    truth: NDArray[Any]
    subjects: NDArray[Any]
    kind: Kind
    n_classes: int

    def take(self, rows: NDArray[np.intp]) -> _Known:
        """Take some of them."""
        return self._replace(
            features=self.features[rows], truth=self.truth[rows], subjects=self.subjects[rows]
        )


def _choose_number(known: _Known, numbers: Sequence[int], where: str) -> int:
    """Leave out folds of subjects and take the number that predicts them best."""
    inner = _inner_folds(known, where)
    smallest = min(len(fit_on) for fit_on, _ in inner)
    possible = [k for k in numbers if k <= smallest]
    if not possible:
        raise InputError(
            f"{where}: {smallest} scans are left to learn from when a fold is left out, fewer than "
            f"the {numbers[0]} neighbours that were asked for."
        )
    truth = np.concatenate([known.truth[tried_on] for _, tried_on in inner])
    votes = np.concatenate(
        [_vote(known.take(a), known.features[b], possible) for a, b in inner], axis=1
    )
    if known.kind == "classification":
        losses = [-float(balanced_accuracy(truth, v.argmax(axis=1))) for v in votes]
    else:
        losses = [float(mae(truth, v[:, 0])) for v in votes]
    return possible[len(losses) - 1 - int(np.argmin(losses[::-1]))]


def _inner_folds(known: _Known, where: str) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Divide the subjects into folds, in classes with the same mixture in each."""
    if known.kind == "regression":
        n = min(_INNER_FOLDS, len(np.unique(known.subjects)))
        folds = GroupKFold(n, shuffle=True, random_state=0) if n > 1 else None
    else:
        classes = np.unique(known.truth)
        n = min(len(np.unique(known.subjects[known.truth == c])) for c in classes)
        n = min(_INNER_FOLDS, n)
        folds = StratifiedGroupKFold(n, shuffle=True, random_state=0) if n > 1 else None
    if folds is None:
        raise InputError(
            f"{where}: a single subject (of a class) is learned from, so that no number of "
            "neighbours can be chosen. Leave the class out, or give more subjects."
        )
    return list(folds.split(known.features, known.truth, known.subjects))


def _vote(
    known: _Known, features: NDArray[np.floating[Any]], numbers: Sequence[int]
) -> NDArray[np.float64]:
    """Ask the nearest scans, for several numbers of them: (number, scan, class or 1)."""
    scaler = StandardScaler().fit(known.features)
    search = NearestNeighbors(n_neighbors=max(numbers), metric="cosine", algorithm="brute")
    search.fit(scaler.transform(known.features))
    nearest = search.kneighbors(scaler.transform(features), return_distance=False)
    if known.kind == "regression":
        ballots = known.truth[nearest].astype(np.float64)[..., None]
    else:
        code = known.truth.astype(np.intp)
        counts = np.maximum(np.bincount(code, minlength=known.n_classes), 1)
        ballots = (np.eye(known.n_classes) / counts)[code[nearest]]
    votes = np.stack([ballots[:, :k].mean(axis=1) for k in numbers])
    if known.kind == "classification":
        votes /= votes.sum(axis=-1, keepdims=True)
    return votes


def _check(
    features: NDArray[np.floating[Any]],
    truth: NDArray[Any],
    subjects: NDArray[Any],
    kind: Kind,
    numbers: Sequence[int],
) -> None:
    """Refuse what cannot be compared."""
    if kind not in get_args(Kind):
        raise ConfigurationError(f"kind is classification or regression, not {kind!r}.")
    if not len(numbers) or min(numbers) < 1:
        raise ConfigurationError(f"numbers of neighbours must be at least 1; came {numbers!r}.")
    check_arrays(features, truth, subjects)
