"""Fine-tuning: the encoder and a linear layer learn a target together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.encoder_classifier import (
    LAYER_DECAY,
    EncoderClassifier,
    check_layer_decay,
)
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.readout import FeatureKind, Scans, SmallerAtlas, scans_of
from semantoks.evaluation.scan_estimator import ScanEstimator
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.target_coding import TargetCoding, check_known, encode_labels
from semantoks.evaluation.trained_predictions import trained_predictions
from semantoks.evaluation.window_model import WindowModel, WindowTraining, check_training
from semantoks.evaluation.window_training import (
    LabelledScans,
    seeded,
    take_scans,
    train_on_windows,
    window_outputs,
)
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.plan import choose_device

PAPER_TRAINING: Final = WindowTraining()
"""The paper's protocol of fine-tuning."""


def finetune_predictions(
    store: Store,
    encoder: SemantoksEncoder,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    rows: NDArray[np.intp] | None = None,
    settings: WindowTraining = PAPER_TRAINING,
    features: FeatureKind = "mean+cls",
    layer_decay: float = LAYER_DECAY,
    smaller_atlas: SmallerAtlas = "refuse",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Fine-tune a copy of the encoder in every split and predict its test part.

    The epoch is chosen on the validation part; test scans are read once, afterwards.
    """

    def build(n_outputs: int) -> WindowModel:
        return EncoderClassifier(
            copy.deepcopy(encoder), n_outputs, features=features, layer_decay=layer_decay
        )

    check_layer_decay(layer_decay)
    scans = scans_of(store, encoder, smaller_atlas)
    return trained_predictions(
        build,
        scans if rows is None else take_scans(scans, rows),
        truth,
        splits,
        kind=kind,
        subjects=subjects,
        settings=settings,
        device=device,
        progress=progress,
    )


class FineTuning(ScanEstimator):
    """The paper's fine-tuning, for scikit-learn.

    Parameters
    ----------
    encoder : SemantoksEncoder
        The model to start from; it is copied, not changed.
    kind : {"classification", "regression"}
        What is predicted.
    settings : WindowTraining
        How to train; by default as in the paper.
    features : {"mean+cls", "mean", "cls", "networks", ...}
        What the linear layer reads.
    layer_decay : float
        How much slower every layer learns than the one after it.
    smaller_atlas : {"refuse", "mask"}
        What becomes of a store whose ROIs are only a part of the model's.
    device : str
        "auto", "cpu", "cuda" or another name of PyTorch.

    Attributes
    ----------
    model_ : EncoderClassifier
        The trained network.
    classes_ : ndarray
        Classes that can be predicted; only for classification.
    history_ : History
        Losses on validation and the epoch that was taken.
    """

    def __init__(
        self,
        encoder: SemantoksEncoder,
        kind: Kind = "classification",
        *,
        settings: WindowTraining = PAPER_TRAINING,
        features: FeatureKind = "mean+cls",
        layer_decay: float = LAYER_DECAY,
        smaller_atlas: SmallerAtlas = "refuse",
        device: str = "auto",
    ) -> None:
        self.encoder = encoder
        self.kind = kind
        self.settings = settings
        self.features = features
        self.layer_decay = layer_decay
        self.smaller_atlas = smaller_atlas
        self.device = device

    def fit(
        self,
        X: Store | Scans,
        y: Shaped[ArrayLike, "scan"],
        *,
        validation: tuple[Store | Scans, ArrayLike],
        progress: Callable[[int, int], None] | None = None,
    ) -> FineTuning:
        """Train a copy of the encoder.

        Parameters
        ----------
        X : Store or Scans
            The scans to learn from; `scans_of` and `take_scans` make a part of a store.
        y : array_like of shape (scan,)
            Classes (of any type) or values.
        validation : pair of Store or Scans and array_like
            Other scans, of other people, with their classes or values: the epoch is chosen on them.
        progress : callable, optional
            Called with the number of epochs that are done and the number of all.

        Returns
        -------
        FineTuning
            Itself.

        Raises
        ------
        InputError
            If lengths differ, a target is not known, or a scan is too short.
        ConfigurationError
            If a setting is impossible.
        """
        check_training(self.settings)
        check_layer_decay(self.layer_decay)
        truth, other, classes = encode_labels(y, validation[1], self.kind)
        train, chosen_on = self._labelled(X, truth), self._labelled(validation[0], other)
        coding, where = TargetCoding.of(truth, self.kind), choose_device(self.device)
        with seeded(self.settings.seed, where):
            model = EncoderClassifier(
                copy.deepcopy(self.encoder),
                coding.n_outputs,
                features=self.features,
                layer_decay=self.layer_decay,
            ).to(where)
            history = train_on_windows(
                model, train, chosen_on, coding, self.settings, progress=progress
            )
        self.model_, self.history_, self._coding = model, history, coding
        if classes is not None:
            self.classes_ = classes[coding.classes]
        return self

    def decision_function(self, X: Store | Scans) -> Float[NDArray[np.float64], "scan class"]:
        """Return outputs, averaged over the windows of a scan.

        Parameters
        ----------
        X : Store or Scans
            Scans.

        Returns
        -------
        ndarray of shape (scan, class)
            Logits; of shape (scan, 1) for regression, in the unit of the target.

        Raises
        ------
        InputError
            If a scan is too short, or the atlas differs.
        """
        check_is_fitted(self, "model_")
        scans = self._scans(X)
        rows = np.arange(len(scans.lengths))
        outputs = window_outputs(self.model_, scans, rows, self.settings)
        if self.kind == "regression":
            return np.asarray(self._coding.predict(outputs)[:, None])
        return outputs

    def _labelled(self, given: Store | Scans, values: NDArray[Any]) -> LabelledScans:
        """Refuse targets that do not fit the scans."""
        scans = self._scans(given)
        if len(scans.lengths) != len(values):
            raise InputError(f"{len(values)} targets came with {len(scans.lengths)} scans.")
        check_known(values, self.kind, "fit")
        return LabelledScans(scans, np.arange(len(values)), values)

    def _scans(self, given: Store | Scans) -> Scans:
        """Take the scans of a store, or scans as they are."""
        if isinstance(given, Store):
            return scans_of(given, self.encoder, self.smaller_atlas)
        return given
