"""The attention probe: learned queries choose among tokens what a linear layer reads.

    a = softmax_i(q · t_i / √D),   p = Σ_i a_i t_i,   z = W (γ ∘ BatchNorm(p) + β) + b

over the network × patch tokens t_i of a window, standardised by the training part; they carry what
the encoder knows of their places. Trained like the linear probe, but by AdamW, and at every rate
the epoch is chosen on validation, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.attention_training import (
    LabelledTokens,
    check_tokens,
    scan_outputs,
    train_attention,
)
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.probe_settings import ProbeSettings, check_settings
from semantoks.evaluation.scan_estimator import ScanEstimator
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.target_coding import (
    ClassWeight,
    TargetCoding,
    check_choices,
    check_known,
    encode_labels,
)
from semantoks.evaluation.window_features import WindowTokens

ATTENTION: Final = ProbeSettings(rates=(0.01, 0.003, 0.001, 0.0003))
"""How the attention probe is trained; rates are those of AdamW."""


def attention_probe_predictions(
    tokens: WindowTokens,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    queries: int = 1,
    settings: ProbeSettings = ATTENTION,
    patience: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train the attention probe in every split and predict its test part.

    All rates of a split are trained at once. Rate and epoch are those that are best on the
    validation part (balanced accuracy, then cross-entropy; or mean absolute error), the first of
    equally good ones. Logits are averaged over the windows of a scan.
    """
    _check_options(settings, queries, patience)
    truth = np.asarray(truth)
    choices = check_choices(splits, truth, subjects, kind=kind)
    check_tokens(tokens, len(truth))
    n_classes = int(np.nanmax(truth)) + 1 if kind == "classification" else 0
    folds = []
    for number, (split, choice) in enumerate(zip(splits, choices, strict=True)):
        coding = TargetCoding.of(truth[choice.train], kind)
        train, chosen_on = (
            LabelledTokens(tokens, rows, truth[rows])
            for rows in (np.sort(choice.train), choice.validation)
        )
        probe = train_attention(
            train,
            chosen_on,
            coding,
            settings,
            queries=queries,
            patience=patience,
            where=str(choice),
        )
        outputs = scan_outputs(probe.read, tokens, split.test)[0]
        folds.append(
            FoldPrediction(
                split,
                coding.predict(outputs),
                coding.scores(outputs, n_classes),
                chosen={"learning_rate": probe.rate, "epoch": float(probe.epoch)},
            )
        )
        if progress is not None:
            progress(number + 1, len(splits))
    return tuple(folds)


class AttentionProbe(ScanEstimator):
    """The attention probe, for scikit-learn.

    Parameters
    ----------
    kind : {"classification", "regression"}
        What is predicted.
    queries : int
        Number of learned queries; the linear layer reads what all of them have found.
    rates : sequence of float
        Learning rates of AdamW that the validation part chooses among.
    epochs : int
        How often every window is seen at most.
    class_weight : {"none", "balanced"}
        Whether every window counts the same, or every class.
    patience : int
        Epochs without a better one at any rate after which training ends.
    seed : int
        Seed of weights and batches.

    Attributes
    ----------
    classes_ : ndarray
        Classes that can be predicted; only for classification.
    rate_ : float
        The learning rate that was chosen.
    epoch_ : int
        The epoch that was chosen, from 1.

    Examples
    --------
    >>> y = np.arange(40) % 2
    >>> x = np.random.default_rng(0).standard_normal((40, 2, 2, 4)).astype(np.float32)
    >>> x[:, 0, 1] += 4 * y[:, None]
    >>> tokens, train, other = WindowTokens(x, np.arange(40)), np.arange(30), np.arange(30, 40)
    >>> probe = AttentionProbe(epochs=20).fit(
    ...     tokens.take(train), y[train], validation=(tokens.take(other), y[other])
    ... )
    >>> probe.predict(tokens.take([0, 1, 2])).tolist()
    [0, 1, 0]
    """

    def __init__(
        self,
        kind: Kind = "classification",
        *,
        queries: int = 1,
        rates: Sequence[float] = ATTENTION.rates,
        epochs: int = ATTENTION.epochs,
        class_weight: ClassWeight = "none",
        patience: int = 10,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.queries = queries
        self.rates = rates
        self.epochs = epochs
        self.class_weight = class_weight
        self.patience = patience
        self.seed = seed

    def fit(
        self,
        X: WindowTokens,
        y: Shaped[ArrayLike, "scan"],
        *,
        validation: tuple[WindowTokens, ArrayLike],
    ) -> AttentionProbe:
        """Train at every rate and choose rate and epoch.

        Parameters
        ----------
        X : WindowTokens
            Tokens of the scans to learn from.
        y : array_like of shape (scan,)
            Classes (of any type) or values.
        validation : pair of WindowTokens and array_like
            Other scans, of other people, with their classes or values: the choice is made on them.

        Returns
        -------
        AttentionProbe
            Itself.

        Raises
        ------
        InputError
            If lengths differ, tokens or targets are not finite, or training diverged.
        ConfigurationError
            If a setting is impossible.
        """
        settings = ProbeSettings(self.rates, self.epochs, self.class_weight, self.seed)
        _check_options(settings, self.queries, self.patience)
        other, other_y = validation
        truth, other_truth, classes = encode_labels(y, other_y, self.kind)
        parts = list[LabelledTokens]()
        for tokens, values in ((X, truth), (other, other_truth)):
            check_tokens(tokens, len(values))
            check_known(values, self.kind, "fit")
            parts.append(LabelledTokens(tokens, np.arange(len(values)), values))
        coding = TargetCoding.of(truth, self.kind)
        probe = train_attention(
            parts[0],
            parts[1],
            coding,
            settings,
            queries=self.queries,
            patience=self.patience,
        )
        self._probe, self._coding = probe, coding
        self.rate_, self.epoch_ = probe.rate, probe.epoch
        if classes is not None:
            self.classes_ = classes[coding.classes]
        return self

    def decision_function(self, X: WindowTokens) -> Float[NDArray[np.float64], "scan class"]:
        """Return outputs, averaged over the windows of a scan.

        Parameters
        ----------
        X : WindowTokens
            Tokens.

        Returns
        -------
        ndarray of shape (scan, class)
            Logits; of shape (scan, 1) for regression, in the unit of the target.

        Raises
        ------
        InputError
            If tokens are not finite, or of another width than in `fit`.
        """
        check_is_fitted(self, "rate_")
        check_tokens(X, X.n_scans)
        came, width = X.tokens.shape[-1], self._probe.query.shape[-1]
        if came != width:
            raise InputError(f"tokens of {came} numbers came; the probe has learned {width}.")
        outputs = scan_outputs(self._probe.read, X, np.arange(X.n_scans))[0]
        if self.kind == "regression":
            return np.asarray(self._coding.predict(outputs)[:, None])
        return np.asarray(outputs)


def _check_options(settings: ProbeSettings, queries: int, patience: int) -> None:
    """Refuse what cannot be trained."""
    check_settings(settings)
    if queries < 1 or patience < 1:
        raise ConfigurationError(
            f"queries is {queries} and patience {patience}; both must be at least 1."
        )
