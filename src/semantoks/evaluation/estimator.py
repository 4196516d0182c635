"""What all probes share: checks of features, coding of targets, and the base of estimators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.metrics import balanced_accuracy, mae
from semantoks.evaluation.splits import ChoiceSplit, Kind, Split
from semantoks.evaluation.splitters import check_split


def check_arrays(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
) -> None:
    """Refuse arrays of different lengths, and features that are not finite."""
    if features.ndim != 2 or not len(features) == len(truth) == len(subjects):
        raise InputError(
            f"features must have shape (scan, feature) with a true value and a subject a scan; "
            f"came features {features.shape}, {len(truth)} true values, {len(subjects)} subjects."
        )
    _refuse_broken(features, lambda row: f" (subject {str(subjects[row])!r})")


def check_new(features: Float[NDArray[np.floating[Any]], "scan feature"], width: int) -> None:
    """Refuse features to predict from that are not those that were learned from."""
    if features.ndim != 2 or features.shape[1] != width:
        raise InputError(
            f"features of shape {features.shape} came; the probe has learned from {width} features "
            "and needs shape (scan, feature)."
        )
    _refuse_broken(features, lambda _: "")


def _refuse_broken(features: NDArray[np.floating[Any]], whose: Callable[[int], str]) -> None:
    """Refuse features that are not finite."""
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} scan(s) are not finite, the first is in row "
            f"{broken[0]}{whose(int(broken[0]))}. Leave the scan out, or embed it again."
        )


ClassWeight = Literal["none", "balanced"]
"""Whether every scan counts the same, as in the paper, or every class."""

_MARGIN = 1.0


@dataclass(frozen=True, eq=False)
class TargetCoding:
    """What was learned of a target in the training part."""

    kind: Kind
    classes: NDArray[np.int64]
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, truth: Shaped[NDArray[Any], "scan"], kind: Kind) -> TargetCoding:
        """Learn from the training part."""
        if kind == "classification":
            return cls(kind, np.unique(truth).astype(np.int64))
        deviation = float(np.std(truth))
        if not deviation > 0:
            raise InputError("all values to learn from are the same: nothing can be learned.")
        return cls(kind, np.empty(0, dtype=np.int64), float(np.mean(truth)), deviation)

    @property
    def n_outputs(self) -> int:
        """Number of outputs: one a class, or one for a value."""
        return len(self.classes) if self.kind == "classification" else 1

    def encode(self, truth: Shaped[NDArray[Any], "scan"]) -> Shaped[NDArray[Any], "scan"]:
        """Return what is trained on."""
        if self.kind == "classification":
            return np.searchsorted(self.classes, truth).astype(np.int64)
        return np.asarray((np.asarray(truth, dtype=np.float64) - self.mean) / self.deviation)

    def predict(
        self, outputs: Float[NDArray[np.float64], "... scan output"]
    ) -> Shaped[NDArray[Any], "... scan"]:
        """Turn outputs into predictions."""
        if self.kind == "classification":
            return np.asarray(self.classes[outputs.argmax(axis=-1)])
        return np.asarray(outputs[..., 0] * self.deviation + self.mean)

    def scores(
        self, outputs: Float[NDArray[np.float64], "scan output"], n_classes: int
    ) -> Float[NDArray[np.float64], "scan class"]:
        """Put the logits of the known classes among those of all."""
        if self.kind == "regression":
            return np.empty((len(outputs), 0))
        lowest = float(outputs.min(initial=0.0)) - _MARGIN
        scores = np.full((len(outputs), n_classes), lowest)
        scores[:, self.classes] = outputs
        return scores

    def losses(
        self,
        truth: Shaped[NDArray[Any], "scan"],
        outputs: Float[NDArray[np.float64], "candidate scan output"],
    ) -> Float[NDArray[np.float64], "candidate"]:
        """Measure what choices are made by; the lower, the better."""
        guesses = [self.predict(one) for one in outputs]
        if self.kind == "classification":
            losses = np.array([-float(balanced_accuracy(truth, guess)) for guess in guesses])
        else:
            losses = np.array([float(mae(truth, guess)) for guess in guesses])
        # The class of an output that is no number would be the first: a fair guess, but none.
        losses[~np.isfinite(outputs).all(axis=(1, 2))] = np.inf
        return losses

    def surprise(
        self,
        truth: Shaped[NDArray[Any], "scan"],
        outputs: Float[NDArray[np.float64], "scan output"],
    ) -> float:
        """Measure what decides between candidates that choices take for equal."""
        if self.kind == "regression":
            return float(mae(truth, self.predict(outputs)))
        seen = np.isin(truth, self.classes)
        chance = log_softmax(outputs[seen], axis=1)
        own = self.encode(np.asarray(truth)[seen])
        return float(-chance[np.arange(len(own)), own].mean()) if len(own) else 0.0

    def weigh(
        self, truth: Shaped[NDArray[Any], "scan"], class_weight: ClassWeight
    ) -> Float[NDArray[np.float64], "scan"]:
        """Weigh the scans of the training part."""
        if self.kind == "regression" or class_weight == "none":
            return np.ones(len(truth))
        code = self.encode(truth)
        counts = np.bincount(code, minlength=len(self.classes))
        share = np.asarray(len(truth) / (len(self.classes) * counts))
        return np.asarray(share[code])


def check_choices(
    splits: Sequence[Split],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    kind: Kind,
) -> tuple[ChoiceSplit, ...]:
    """Check splits and return what of them may be looked at while training.

    The target of test scans is not looked at: it may be unknown.
    """
    if kind not in get_args(Kind):
        raise ConfigurationError(f"kind is classification or regression, not {kind!r}.")
    if len(truth) != len(subjects):
        raise InputError(f"{len(truth)} true values came with the subjects of {len(subjects)}.")
    if not len(splits):
        raise InputError("there are no splits to predict.")
    choices = []
    for split in splits:
        check_split(split, subjects, truth if kind == "classification" else None)
        choice = choice_of(split)
        for part in (choice.train, choice.validation):
            check_known(truth[part], kind, str(split))
        choices.append(choice)
    return tuple(choices)


def choice_of(split: Split) -> ChoiceSplit:
    """Return what may be looked at while something is chosen, or say where to get it."""
    if not len(split.validation):
        raise InputError(
            f"{split} has no validation part, on which this method chooses its rate or its epoch. "
            "RandomSubjectSplits makes splits with one, and other splitters do if they are given a "
            "share for it (validation=0.2); closed-form probes need none."
        )
    return split.for_choice()


def check_known(truth: Shaped[NDArray[Any], "scan"], kind: Kind, where: str) -> None:
    """Refuse targets that cannot be learned from."""
    numbers = np.asarray(truth, dtype=np.float64)
    unknown = int((~np.isfinite(numbers)).sum())
    if unknown:
        raise InputError(
            f"{where}: the target of {unknown} of {len(numbers)} scan(s) to learn from or to "
            "choose on is not known. Leave these scans out."
        )
    if kind == "classification" and ((numbers < 0) | (numbers % 1 != 0)).any():
        raise InputError(f"{where}: classes must be given as codes 0, 1, 2 and so on.")


def encode_labels(
    y: Shaped[ArrayLike, "scan"], other: Shaped[ArrayLike, "scan"], kind: Kind
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Turn labels of any type into codes."""
    if kind not in get_args(Kind):
        raise ConfigurationError(f"kind is classification or regression, not {kind!r}.")
    first, second = np.asarray(y), np.asarray(other)
    if kind == "regression":
        return first.astype(np.float64), second.astype(np.float64), None
    labels = np.concatenate([first, second])
    if np.issubdtype(labels.dtype, np.floating):
        fractions = labels[np.isfinite(labels) & (labels % 1 != 0)]
        if len(fractions):
            raise InputError(
                f"the labels are values, not classes (one is {fractions[0]:g}): give "
                "kind='regression' for these, or classes."
            )
        check_known(np.abs(labels).round(), "classification", "fit")
    classes, codes = np.unique(labels, return_inverse=True)
    return codes[: len(first)], codes[len(first) :], classes


def best_of(
    losses: Shaped[ArrayLike, "candidate"], seconds: Shaped[ArrayLike, "candidate"] | None = None
) -> int:
    """Choose the candidate with the lowest loss.

    Examples
    --------
    >>> best_of([-0.5, -0.75, -0.75]), best_of([-0.5, -0.75, -0.75], [0, 2, 1])
    (1, 2)
    """
    first = np.asarray(losses, dtype=np.float64)
    second = np.zeros(len(first)) if seconds is None else np.asarray(seconds, dtype=np.float64)
    if not np.isfinite(first).any():
        raise InputError("training diverged at every rate: no loss on the validation is finite.")
    keys = np.stack(
        [np.nan_to_num(second, nan=np.inf), np.where(np.isfinite(first), first, np.inf)]
    )
    return int(np.lexsort(keys)[0])


class ScanEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator that scores scans, and predicts the class of the largest score, or the value."""

    kind: Kind
    classes_: NDArray[Any]

    @abstractmethod
    def decision_function(self, X: Any) -> Float[NDArray[np.float64], "scan class"]:
        """Return scores of shape (scan, class), or values of shape (scan, 1)."""

    def predict(self, X: Any) -> Shaped[NDArray[Any], "scan"]:
        """Predict scans."""
        scores = self.decision_function(X)
        if self.kind == "regression":
            return scores[:, 0]
        return np.asarray(self.classes_[scores.argmax(axis=1)])
