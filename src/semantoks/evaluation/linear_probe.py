"""The linear probe of the paper: batch norm and a linear layer on the features of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import (
    ClassWeight,
    ScanEstimator,
    TargetCoding,
    best_of,
    check_choices,
    check_known,
    encode_labels,
)
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.probe_training import ProbeData, TrainedProbes, train_probes
from semantoks.evaluation.splits import ChoiceSplit, Kind, Split
from semantoks.evaluation.windows import WindowFeatures, windows_of_scans

RATES: Final = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Learning rates that the validation part chooses among."""
EPOCHS: Final = 50
"""How often every window is seen."""


class ProbeSettings(NamedTuple):
    """How probes are trained."""

    rates: Sequence[float] = RATES
    epochs: int = EPOCHS
    class_weight: ClassWeight = "none"
    seed: int = 0


PAPER: Final = ProbeSettings()
"""The paper's protocol."""


def check_settings(settings: ProbeSettings) -> None:
    """Refuse settings that cannot be trained with."""
    if not len(settings.rates) or not all(0 < rate < np.inf for rate in settings.rates):
        raise ConfigurationError(f"rates must be positive, at least one; came {settings.rates!r}.")
    if settings.epochs < 1:
        raise ConfigurationError(f"epochs is {settings.epochs}; it must be at least 1.")
    if settings.class_weight not in get_args(ClassWeight):
        raise ConfigurationError(
            f"class_weight is 'none' or 'balanced', not {settings.class_weight!r}."
        )
    if not 0 <= settings.seed < 2**31:
        raise ConfigurationError(f"seed is {settings.seed}; it must be from 0 to 2³¹ - 1.")


@dataclass(frozen=True, eq=False)
class ProbeTarget:
    """A target with its splits, to be probed beside others."""

    truth: Shaped[NDArray[Any], "scan"]
    splits: Sequence[Split]


def linear_probe_predictions(
    windows: WindowFeatures,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    settings: ProbeSettings = PAPER,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train the paper's linear probe in every split and predict its test part.

    BatchNorm1d and Linear learn from the windows of the training part; the rate that is best on
    the scans of the validation part (balanced accuracy, or mean absolute error) is taken, the
    lowest of equally good ones. Values are standardised by the training part and predicted in
    their unit. Logits are averaged over the windows of a scan. All splits and rates are trained at
    once.
    """
    target = ProbeTarget(truth, splits)
    (folds,) = linear_probe_of_targets(
        windows, [target], kind=kind, subjects=subjects, settings=settings, progress=progress
    )
    return folds


def linear_probe_of_targets(
    windows: WindowFeatures,
    targets: Sequence[ProbeTarget],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    settings: ProbeSettings = PAPER,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[FoldPrediction, ...], ...]:
    """Train the probes of several targets of a kind at once.

    The same as one call of `linear_probe_predictions` a target. Targets whose training parts are
    the same share batches and most of the time.
    """
    check_settings(settings)
    cases = [
        (truth, split, choice)
        for truth, splits in ((np.asarray(t.truth), t.splits) for t in targets)
        for split, choice in zip(
            splits, check_choices(splits, truth, subjects, kind=kind), strict=True
        )
    ]
    _check_windows(windows, len(subjects))
    prepared = [_prepare(windows.scan, truth, choice, kind, settings) for truth, _, choice in cases]
    trained = train_probes(
        windows.features,
        [data for _, data in prepared],
        kind=kind,
        rates=settings.rates,
        epochs=settings.epochs,
        seed=settings.seed,
        progress=progress,
    )
    means = windows.scan_means()
    folds = iter(
        _predict(means, case, coding, probes, settings)
        for case, (coding, _), probes in zip(cases, prepared, trained, strict=True)
    )
    return tuple(tuple(next(folds) for _ in target.splits) for target in targets)


class LinearProbe(ScanEstimator):
    """The paper's linear probe, for scikit-learn.

    Parameters
    ----------
    kind : {"classification", "regression"}
        What is predicted.
    rates : sequence of float
        Learning rates that the validation part chooses among.
    epochs : int
        How often every window is seen.
    class_weight : {"none", "balanced"}
        Whether every window counts the same, as in the paper, or every class.
    seed : int
        Seed of weights and batches.

    Attributes
    ----------
    classes_ : ndarray
        Classes that can be predicted; only for classification.
    rate_ : float
        The learning rate that was chosen.
    losses_ : ndarray of shape (rate,)
        Negative balanced accuracy or mean absolute error on the validation part.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> x = random.standard_normal((80, 3)).astype(np.float32)
    >>> x[:, 0] += 4 * y.repeat(2)
    >>> windows = WindowFeatures(x, np.arange(40).repeat(2))
    >>> train, other = np.arange(30), np.arange(30, 40)
    >>> probe = LinearProbe(epochs=5)
    >>> probe = probe.fit(
    ...     windows.take(train), y[train], validation=(windows.take(other), y[other])
    ... )
    >>> probe.predict(windows.take([0, 1, 2])).tolist()
    [0, 1, 0]
    """

    def __init__(
        self,
        kind: Kind = "classification",
        *,
        rates: Sequence[float] = RATES,
        epochs: int = EPOCHS,
        class_weight: ClassWeight = "none",
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.rates = rates
        self.epochs = epochs
        self.class_weight = class_weight
        self.seed = seed

    def fit(
        self,
        X: WindowFeatures,
        y: Shaped[ArrayLike, "scan"],
        *,
        validation: tuple[WindowFeatures, ArrayLike],
    ) -> LinearProbe:
        """Train at every rate and choose one.

        Parameters
        ----------
        X : WindowFeatures
            Windows of the scans to learn from.
        y : array_like of shape (scan,)
            Classes (of any type) or values.
        validation : pair of WindowFeatures and array_like
            Other scans, of other people, with their classes or values: the rate is chosen on them.

        Returns
        -------
        LinearProbe
            Itself.

        Raises
        ------
        InputError
            If lengths differ, or features or targets are not finite.
        ConfigurationError
            If a setting is impossible.
        """
        settings = ProbeSettings(self.rates, self.epochs, self.class_weight, self.seed)
        check_settings(settings)
        other, other_y = validation
        truth, other_truth, classes = encode_labels(y, other_y, self.kind)
        for windows, values in ((X, truth), (other, other_truth)):
            _check_windows(windows, len(values))
            check_known(values, self.kind, "fit")
        everything = ChoiceSplit("fit", 0, "0", np.arange(len(truth)), np.empty(0, dtype=np.intp))
        coding, data = _prepare(X.scan, truth, everything, self.kind, settings)
        (probes,) = train_probes(
            X.features,
            [data],
            kind=self.kind,
            rates=settings.rates,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        losses = coding.losses(other_truth, probes.outputs(other.scan_means()))
        best = _choose(losses, settings.rates)
        self._probes, self._coding, self._best = probes, coding, best
        self.losses_, self.rate_ = losses, float(settings.rates[best])
        if classes is not None:
            self.classes_ = classes[coding.classes]
        return self

    def decision_function(self, X: WindowFeatures) -> Float[NDArray[np.float64], "scan class"]:
        """Return outputs, averaged over the windows of a scan.

        Parameters
        ----------
        X : WindowFeatures
            Windows.

        Returns
        -------
        ndarray of shape (scan, class)
            Logits; of shape (scan, 1) for regression, in the unit of the target.

        Raises
        ------
        InputError
            If features are not finite, or not as many as in `fit`.
        """
        check_is_fitted(self, "rate_")
        _check_windows(X, X.n_scans)
        width = self._probes.weight.shape[-1]
        if X.features.shape[1] != width:
            raise InputError(f"{X.features.shape[1]} features came; the probe has learned {width}.")
        outputs = self._probes.outputs(X.scan_means())[self._best]
        if self.kind == "regression":
            return self._coding.predict(outputs)[:, None]
        return np.asarray(outputs)


def _prepare(
    scan: NDArray[np.intp],
    truth: NDArray[Any],
    choice: ChoiceSplit,
    kind: Kind,
    settings: ProbeSettings,
) -> tuple[TargetCoding, ProbeData]:
    """Take the windows of the training part, with their targets."""
    train = np.sort(choice.train)
    known = truth[train]
    coding = TargetCoding.of(known, kind)
    rows, of = windows_of_scans(scan, train)
    weights = None
    if settings.class_weight == "balanced":
        weights = coding.weigh(known, "balanced")[of]
    return coding, ProbeData(rows, coding.encode(known)[of], weights)


def _predict(
    means: NDArray[np.float64],
    case: tuple[NDArray[Any], Split, ChoiceSplit],
    coding: TargetCoding,
    probes: TrainedProbes,
    settings: ProbeSettings,
) -> FoldPrediction:
    """Choose the rate on the validation part and predict the test part."""
    truth, split, choice = case
    known = truth[choice.validation]
    losses = coding.losses(known, probes.outputs(means[choice.validation]))
    best = _choose(losses, settings.rates)
    outputs = probes.outputs(means[split.test])[best]
    n_classes = int(np.nanmax(truth)) + 1 if coding.kind == "classification" else 0
    return FoldPrediction(
        split,
        coding.predict(outputs),
        coding.scores(outputs, n_classes),
        chosen={"learning_rate": float(settings.rates[best])},
    )


def _choose(losses: NDArray[np.float64], rates: Sequence[float]) -> int:
    """Take the best rate, the lowest among equals."""
    return best_of(losses, rates)


def _check_windows(windows: WindowFeatures, n_scans: int) -> None:
    """Refuse features that are not finite or of other scans."""
    if windows.n_scans != n_scans:
        raise InputError(
            f"the windows are of {windows.n_scans} scans, but {n_scans} scans have a target; "
            "take() the scans of the target."
        )
    broken = np.flatnonzero(~np.isfinite(windows.features).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} window(s) are not finite, the first is of scan "
            f"{windows.scan[broken[0]]}. Leave the scan out, or embed it again."
        )
