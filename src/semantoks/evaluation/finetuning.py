"""Fine-tuning: the encoder and a linear layer learn a target together."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import (
    ClassWeight,
    ScanEstimator,
    TargetCoding,
    check_choices,
    check_known,
    encode_labels,
)
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    SmallerAtlas,
    feature_names,
    read_out,
    scans_of,
)
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.windows import place_windows
from semantoks.model.encoder import SemantoksEncoder, network_mask
from semantoks.training.config import ViewsConfig
from semantoks.training.optimization import cosine
from semantoks.training.plan import choose_device
from semantoks.training.precision import Precision, autocast, choose_precision, kept_memory
from semantoks.training.views import VIEWS, augment

TRAINING_VIEWS: Final = ViewsConfig(roi_dropout=0.0)
"""Augmentation of a training window: that of pretraining, but all ROIs stay."""


class WindowTraining(NamedTuple):
    """How a network is trained on windows."""

    learning_rate: float = 1e-4
    epochs: int = 50
    patience: int | None = None
    batch_size: int = 16
    weight_decay: float = 0.05
    clip: float = 1.0
    windows: int = 8
    class_weight: ClassWeight = "none"
    views: ViewsConfig = TRAINING_VIEWS
    precision: Precision = "float32"
    seed: int = 0


class WindowModel(nn.Module, ABC):
    """What turns windows into outputs and says how fast its parts learn."""

    def __init__(self, window: int, dim: int) -> None:
        super().__init__()
        self.window, self.dim = window, dim

    @abstractmethod
    def forward(
        self, series: Float[Tensor, "batch roi time"], valid: NDArray[np.bool_]
    ) -> Float[Tensor, "batch output"]:
        """Read windows."""

    @abstractmethod
    def rates(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group parameters by how fast they learn."""


def check_training(settings: WindowTraining) -> None:
    """Refuse settings that cannot be trained with."""
    for name in ("epochs", "batch_size", "windows"):
        if getattr(settings, name) < 1:
            raise ConfigurationError(f"{name} is {getattr(settings, name)}; at least 1 is needed.")
    for name in ("learning_rate", "clip"):
        if not 0 < getattr(settings, name) < math.inf:
            raise ConfigurationError(f"{name} is {getattr(settings, name)}; it must be positive.")
    if settings.weight_decay < 0:
        raise ConfigurationError(f"weight_decay is {settings.weight_decay}; 0 is the least.")
    if settings.patience is not None and settings.patience < 1:
        raise ConfigurationError(f"patience is {settings.patience}; at least 1 is needed, or None.")


@dataclass(frozen=True, eq=False)
class LabelledScans:
    """Scans with what is to be learned of them."""

    scans: Scans
    rows: NDArray[np.intp]
    truth: Shaped[NDArray[Any], "scan"]


class History(NamedTuple):
    """What happened in training."""

    losses: tuple[float, ...]
    best: int


def train_on_windows(
    model: WindowModel,
    train: LabelledScans,
    validation: LabelledScans,
    coding: TargetCoding,
    settings: WindowTraining,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Train a model and leave it as it was after the epoch that was best on validation."""
    check_training(settings)
    state = _State(model, train, coding, settings)

    def train_epoch() -> tuple[float, float]:
        state.train_epoch()
        outputs = window_outputs(model, validation.scans, validation.rows, settings)
        return _validation_loss(coding, validation.truth, outputs)

    with kept_memory(state.device):
        epochs, patience = settings.epochs, settings.patience
        return keep_best(model, train_epoch, epochs=epochs, patience=patience, progress=progress)


def keep_best(
    model: nn.Module,
    train_epoch: Callable[[], tuple[float, float]],
    *,
    epochs: int,
    patience: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Train epoch by epoch, and leave a model as it was after the one with the smallest loss."""
    losses: list[float] = []
    best, kept, found = (math.inf, math.inf), model.state_dict(), -1
    for epoch in range(epochs):
        loss = train_epoch()
        losses.append(loss[0])
        if loss < best:
            best, found = loss, epoch
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        if progress is not None:
            progress(epoch + 1, epochs)
        if patience is not None and epoch - found >= patience:
            break
    if found < 0:
        raise InputError("training diverged: no epoch has a finite loss on validation.")
    model.load_state_dict(kept)
    return History(tuple(losses), found)


def window_outputs(
    model: WindowModel, scans: Scans, rows: NDArray[np.intp], settings: WindowTraining
) -> Float[NDArray[np.float64], "scan output"]:
    """Average what a model says of evenly spaced windows of every scan."""
    device = next(model.parameters()).device
    precision = choose_precision(settings.precision, device, dim=model.dim)
    chosen = take_scans(scans, rows)
    places = place_windows(chosen, model.window, settings.windows)
    at_once = settings.batch_size * settings.windows
    outputs, training = [], model.training
    model.eval()
    with torch.inference_mode(), autocast(precision, device):
        for first in range(0, len(places.scan), at_once):
            scan = places.scan[first : first + at_once]
            series = chosen.read(scan, places.start[first : first + at_once], model.window)
            said = model(torch.from_numpy(series).to(device), chosen.valid[scan])
            outputs.append(said.double().cpu().numpy())
    model.train(training)
    totals = np.add.reduceat(
        np.concatenate(outputs), np.searchsorted(places.scan, range(len(rows)))
    )
    return np.asarray(totals / np.bincount(places.scan)[:, None])


def take_scans(scans: Scans, rows: NDArray[np.intp]) -> Scans:
    """Take some of the scans."""
    rows = np.asarray(rows, dtype=np.int64)
    return Scans(
        scans.lengths[rows],
        scans.valid[rows],
        lambda which, starts, length: scans.read(rows[which], starts, length),
        lambda position: scans.name(int(rows[position])),
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed, and leave the state of others' random numbers as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class _State:
    """A model in training: its optimizer, schedule and randomness."""

    def __init__(
        self,
        model: WindowModel,
        train: LabelledScans,
        coding: TargetCoding,
        settings: WindowTraining,
    ) -> None:
        self.model, self.settings = model, settings
        self.scans = take_scans(train.scans, train.rows)
        place_windows(self.scans, model.window, 1)  # refuses scans that are too short
        self.regression = coding.kind == "regression"
        self.device = next(model.parameters()).device
        truth = torch.from_numpy(coding.encode(train.truth)).to(self.device)
        self.truth = truth.float() if self.regression else truth
        weights = coding.weigh(train.truth, settings.class_weight)
        self.weights = torch.from_numpy(weights).float().to(self.device)
        self.precision = choose_precision(settings.precision, self.device, dim=model.dim)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.random = np.random.default_rng(settings.seed)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        groups = model.rates(settings.learning_rate)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        steps = settings.epochs * math.ceil(len(train.rows) / settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: cosine(1.0, 0.0, step / steps)
        )

    def train_epoch(self) -> None:
        """See one random window of every scan."""
        self.model.train()
        order = self.random.permutation(len(self.scans.lengths))
        for first in range(0, len(order), self.settings.batch_size):
            self._step(order[first : first + self.settings.batch_size])

    def _step(self, rows: NDArray[np.intp]) -> None:
        """Take one step of the optimizer."""
        window = self.model.window
        starts = self.random.integers(0, self.scans.lengths[rows] - window + 1)
        series = torch.from_numpy(self.scans.read(rows, starts, window)).to(self.device)
        series = augment_windows(series, self.settings.views, self.generator)
        with autocast(self.precision, self.device):
            outputs = self.model(series, self.scans.valid[rows]).float()
        picked = torch.from_numpy(rows).to(self.device)
        loss = self._loss(outputs, self.truth[picked], self.weights[picked])
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()

    def _loss(self, outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy or absolute error, weighted."""
        if self.regression:
            return ((outputs[:, 0] - truth).abs() * weights).sum() / weights.sum()
        each = F.cross_entropy(outputs, truth, reduction="none")
        return (each * weights).sum() / weights.sum()


def augment_windows(
    windows: Float[Tensor, "batch roi time"], config: ViewsConfig, generator: torch.Generator
) -> Float[Tensor, "batch roi time"]:
    """Augment windows one by one."""
    missing = -len(windows) % VIEWS
    # Pretraining augments by pairs; every window of a pair is drawn for on its own.
    full = torch.cat([windows, windows[-1:].expand(missing, -1, -1)]) if missing else windows
    pairs = full.reshape(-1, VIEWS, *full.shape[1:])
    return augment(pairs, config, generator).flatten(0, 1)[: len(windows)]


def _validation_loss(
    coding: TargetCoding, truth: NDArray[Any], outputs: NDArray[np.float64]
) -> tuple[float, float]:
    """Return what an epoch is chosen by, and what decides between equals."""
    if not np.isfinite(outputs).all():
        return math.inf, math.inf
    loss = float(coding.losses(truth, outputs[None])[0])
    return loss, float(coding.surprise(truth, outputs))


LAYER_DECAY: Final = 0.9
"""How much slower every layer learns than the one after it."""


class EncoderClassifier(WindowModel):
    """An encoder and a linear layer on what is read out of it."""

    def __init__(
        self,
        encoder: SemantoksEncoder,
        n_outputs: int,
        *,
        features: FeatureKind = "mean+cls",
        layer_decay: float = LAYER_DECAY,
    ) -> None:
        super().__init__(encoder.window, encoder.dim)
        self.encoder, self.features, self.layer_decay = encoder, features, layer_decay
        self.head = nn.Linear(len(feature_names(encoder, features)), n_outputs)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, series: Float[Tensor, "batch roi time"], valid: NDArray[np.bool_]
    ) -> Float[Tensor, "batch output"]:
        """Read windows; networks of which a scan has no valid ROI are masked."""
        patches = series.shape[2] // self.encoder.patch
        mask = network_mask(self.encoder.network_valid(valid), patches)
        encoding = self.encoder(series, None if mask is None else mask.to(series.device))
        outputs: Tensor = self.head(read_out(encoding, self.features))
        return outputs

    def rates(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group parameters by layer: the deeper, the slower."""
        depth = len(self.encoder.blocks)
        layers: list[list[nn.Parameter]] = [[] for _ in range(depth + 2)]
        for name, parameter in self.named_parameters():
            layers[_layer_of(name, depth)].append(parameter)
        return [
            {"params": layer, "lr": learning_rate * self.layer_decay ** (depth + 1 - i)}
            for i, layer in enumerate(layers)
        ]


def check_layer_decay(layer_decay: float) -> None:
    """Refuse what is no share."""
    if not 0 < layer_decay <= 1:
        raise ConfigurationError(
            f"layer_decay is {layer_decay!r}; it must be above 0 and at most 1 (all alike)."
        )


def _layer_of(name: str, depth: int) -> int:
    """Return which layer a parameter is in: 0 the tokenizer, 1 the first block, and so on."""
    if name.startswith("encoder.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1 if name.startswith(("encoder.norm.", "head.")) else 0


def trained_predictions(
    build: Callable[[int], WindowModel],
    scans: Scans,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    settings: WindowTraining,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train a network in every split and predict its test part."""
    check_training(settings)
    truth = np.asarray(truth)
    if len(truth) != len(scans.lengths):
        raise InputError(
            f"{len(truth)} true values came with {len(scans.lengths)} scans; say which rows of the "
            "store they are of (rows)."
        )
    choices = check_choices(splits, truth, subjects, kind=kind)
    where, folds = choose_device(device), []
    for number, (split, choice) in enumerate(zip(splits, choices, strict=True)):
        coding = TargetCoding.of(truth[choice.train], kind)
        report = report_of_split(progress, number, len(splits))
        with seeded(settings.seed, where):
            model = build(coding.n_outputs).to(where)
            train, validation = (
                LabelledScans(scans, part, truth[part])
                for part in (choice.train, choice.validation)
            )
            history = train_on_windows(model, train, validation, coding, settings, progress=report)
        outputs = window_outputs(model, scans, split.test, settings)
        n_classes = int(np.nanmax(truth)) + 1 if kind == "classification" else 0
        folds.append(
            FoldPrediction(
                split,
                coding.predict(outputs),
                coding.scores(outputs, n_classes),
                chosen={"epoch": float(history.best + 1)},
            )
        )
    return tuple(folds)


def report_of_split(
    progress: Callable[[int, int], None] | None, number: int, n_splits: int
) -> Callable[[int, int], None] | None:
    """Count epochs over all splits."""
    if progress is None:
        return None

    def report(done: int, of: int) -> None:
        progress(number * of + done, n_splits * of)

    return report


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
