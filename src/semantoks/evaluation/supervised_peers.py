"""BNT and BolT as probes: trained by their papers' protocols, the epoch chosen on validation.

They learn from labels alone. What they read, how they are optimised and what they lose is that of
their released code; how people are divided and what is looked at is ours: the released code swaps
validation and test part, or has none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, ClassVar, Final, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import (
    ScanEstimator,
    TargetCoding,
    check_choices,
    check_known,
    encode_labels,
)
from semantoks.evaluation.finetuning import History, keep_best, report_of_split, seeded
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.metrics import auc
from semantoks.evaluation.readout import Scans, array_scans, store_scans
from semantoks.evaluation.splits import Kind, Split
from semantoks.peers import bnt, bolt
from semantoks.training.plan import choose_device

SupervisedFamily = Literal["bnt", "bolt"]
"""Models of others that are trained with labels from the beginning."""
SUPERVISED: Final[tuple[SupervisedFamily, ...]] = get_args(SupervisedFamily)

Rows = Int[NDArray[np.intp], "scan"]


class _Protocol(ABC):
    """What a family reads of scans, and how it learns."""

    epochs: ClassVar[int]
    batch: ClassVar[int]
    drops_last: ClassVar[bool] = False

    def __init__(self, scans: Scans, device: torch.device) -> None:
        self.scans, self.device = scans, device
        self.rois = scans.valid.shape[1]

    def whole(self, scan: int) -> Float[Tensor, "roi time"]:
        """Read a whole scan; ROIs that are not valid are 0."""
        (series,) = self.scans.read(np.array([scan]), np.array([0]), int(self.scans.lengths[scan]))
        return torch.from_numpy(series * self.scans.valid[scan][:, None]).float()

    @abstractmethod
    def build(self, outputs: int) -> nn.Module:
        """Make a fresh model."""

    @abstractmethod
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer."""

    @abstractmethod
    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        """Set the rate of a step, the first of which is 0."""

    @abstractmethod
    def loss(
        self, model: nn.Module, rows: Rows, targets: Tensor, random: torch.Generator
    ) -> Float[Tensor, ""]:
        """Compare what is said of a batch with its targets: (batch, class) or (batch, 1)."""

    @abstractmethod
    def outputs(self, model: nn.Module, rows: Rows) -> Float[Tensor, "scan output"]:
        """Say what the model makes of whole scans."""


class _Bnt(_Protocol):
    """Fisher z of the shrunk correlation of the whole scan; Adam, L2, cosine, mixup."""

    epochs, batch, drops_last = 200, 16, True

    def __init__(self, scans: Scans, device: torch.device) -> None:
        super().__init__(scans, device)
        self.connectivity = torch.cat(
            [
                bnt.connectivity(self.whole(scan)[None], "fisher_shrunk")
                for scan in range(len(scans.lengths))
            ]
        )

    def build(self, outputs: int) -> nn.Module:
        identity = -self.rois % bnt.HEADS
        clusters = min(100, self.rois + identity)
        return bnt.BrainNetworkTransformer(
            rois=self.rois, clusters=clusters, identity=identity, classes=outputs
        )

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), weight_decay=1e-4)

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = bnt.learning_rate(step + 1, steps)

    def loss(
        self, model: nn.Module, rows: Rows, targets: Tensor, random: torch.Generator
    ) -> Float[Tensor, ""]:
        share = float(torch.rand((), generator=random))  # Beta(1, 1)
        order = torch.randperm(len(rows), generator=random)
        x, mixed = bnt.mixup(self._read(rows), targets, share, order.to(self.device))
        said = model(x)
        if targets.shape[1] == 1:
            return F.mse_loss(said, mixed, reduction="sum")
        return bnt.loss(said, mixed)

    def outputs(self, model: nn.Module, rows: Rows) -> Float[Tensor, "scan output"]:
        parts = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        return torch.cat([model(self._read(part)) for part in parts])

    def _read(self, rows: Rows) -> Tensor:
        return self.connectivity[torch.from_numpy(rows)].to(self.device)


class _Bolt(_Protocol):
    """Random crops of z-scored series, whole scans where it is tested; Adam, one cycle."""

    epochs, batch = 20, 32
    crop: Final = 60

    def __init__(self, scans: Scans, device: torch.device) -> None:
        super().__init__(scans, device)
        self.series = [
            bolt.standardize(self.whole(scan)[None])[0] for scan in range(len(scans.lengths))
        ]
        self.cut = min(self.crop, int(scans.lengths.min()))

    def build(self, outputs: int) -> nn.Module:
        return bolt.BolT(rois=self.rois, classes=outputs)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters())

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        now = bolt.schedule(step, steps)
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = now.learning_rate, (now.beta1, 0.999)

    def loss(
        self, model: nn.Module, rows: Rows, targets: Tensor, random: torch.Generator
    ) -> Float[Tensor, ""]:
        crops = []
        for row in rows.tolist():
            first = bolt.draw_crop(self.series[row].shape[1], self.cut, random)
            crops.append(self.series[row][:, first : first + self.cut])
        said = model.read(torch.stack(crops).to(self.device))  # type: ignore[operator]
        if targets.shape[1] > 1:
            return bolt.loss(said, targets.argmax(1))[0]
        _, _, spread = bolt.loss(said, torch.zeros_like(targets[:, 0], dtype=torch.long))
        return F.mse_loss(said.logits, targets) + spread

    def outputs(self, model: nn.Module, rows: Rows) -> Float[Tensor, "scan output"]:
        return torch.cat([model(self.series[row][None].to(self.device)) for row in rows.tolist()])


_PROTOCOLS: Final[dict[SupervisedFamily, type[_Protocol]]] = {"bnt": _Bnt, "bolt": _Bolt}


class _Part(NamedTuple):
    """Scans with what is to be learned, or checked, of them."""

    protocol: _Protocol
    rows: Rows
    truth: Shaped[NDArray[Any], "scan"]


def _train(
    learned: _Part,
    chosen_on: _Part,
    coding: TargetCoding,
    *,
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[nn.Module, History]:
    """Train a fresh model and leave it as it was after the epoch that was best on validation."""
    protocol, train = learned.protocol, learned.rows
    batch = min(protocol.batch, len(train))
    if batch < 2:
        raise InputError(f"{len(train)} scan(s) to learn from are too few; at least 2 are needed.")
    used = len(train) - len(train) % batch if protocol.drops_last else len(train)
    # BNT's schedule counts the batch that is dropped.
    steps = epochs * math.ceil(len(train) / batch)
    order, random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    targets = _targets(coding, learned.truth).to(protocol.device)
    with seeded(seed, protocol.device):
        model = protocol.build(coding.n_outputs).to(protocol.device)
        optimizer = protocol.optimizer(model)
        numbers = count()

        def train_epoch() -> tuple[float, float]:
            model.train()
            shuffled = order.permutation(len(train))
            for first in range(0, used, batch):
                picked = shuffled[first : first + batch]
                protocol.set_rate(optimizer, next(numbers), steps)
                loss = protocol.loss(model, train[picked], targets[picked], random)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
            said = _say(chosen_on.protocol, model, chosen_on.rows)
            return _loss_on(coding, chosen_on.truth, said)

        return model, keep_best(model, train_epoch, epochs=epochs, progress=progress)


def _say(
    protocol: _Protocol, model: nn.Module, rows: Rows
) -> Float[NDArray[np.float64], "scan output"]:
    """Say what a model makes of whole scans."""
    model.eval()
    with torch.inference_mode():
        return np.asarray(protocol.outputs(model, rows).double().cpu().numpy())


def _targets(coding: TargetCoding, truth: NDArray[Any]) -> Float[Tensor, "scan output"]:
    """Write classes as shares, values as standardized numbers."""
    encoded = torch.from_numpy(coding.encode(truth))
    if coding.kind == "regression":
        return encoded.float()[:, None]
    return F.one_hot(encoded, coding.n_outputs).float()


def _loss_on(
    coding: TargetCoding, truth: NDArray[Any], outputs: NDArray[np.float64]
) -> tuple[float, float]:
    """Return what an epoch is chosen by: the area under the curve, as in BNT's paper, or errors."""
    if not np.isfinite(outputs).all():
        return math.inf, math.inf
    surprise = float(coding.surprise(truth, outputs))
    if coding.kind == "regression":
        return float(coding.losses(truth, outputs[None])[0]), surprise
    seen = np.isin(truth, coding.classes)
    area = float(auc(coding.encode(truth[seen]), outputs[seen])) if seen.any() else math.nan
    return (-area if np.isfinite(area) else 0.0), surprise


def _published(family: str, epochs: int | None) -> int:
    """Return how many epochs are trained; as published if nobody says."""
    if family not in _PROTOCOLS:
        raise ConfigurationError(
            f"{family!r} is no model that is trained with labels alone: {', '.join(SUPERVISED)}."
        )
    if epochs is not None and epochs < 1:
        raise ConfigurationError(f"epochs is {epochs}; at least 1 is needed.")
    return _PROTOCOLS[family].epochs if epochs is None else epochs


def supervised_predictions(
    family: SupervisedFamily,
    scans: Scans,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train a model of others in every split and predict its test part, once."""
    published = _published(family, epochs)
    if len(truth) != len(scans.lengths):
        raise InputError(f"{len(truth)} true values came with {len(scans.lengths)} scans.")
    choices = check_choices(splits, truth, subjects, kind=kind)
    protocol = _PROTOCOLS[family](scans, choose_device(device))
    n_classes = int(np.nanmax(truth)) + 1 if kind == "classification" else 0
    folds = []
    for number, (split, choice) in enumerate(zip(splits, choices, strict=True)):
        coding = TargetCoding.of(truth[choice.train], kind)
        report = report_of_split(progress, number, len(splits))
        learned, chosen_on = (
            _Part(protocol, part, truth[part]) for part in (choice.train, choice.validation)
        )
        model, history = _train(
            learned, chosen_on, coding, epochs=published, seed=seed, progress=report
        )
        outputs = _say(protocol, model, split.test)
        folds.append(
            FoldPrediction(
                split,
                coding.predict(outputs),
                coding.scores(outputs, n_classes),
                chosen={"epoch": float(history.best + 1)},
            )
        )
    return tuple(folds)


class SupervisedPeer(ScanEstimator):
    """BNT or BolT, trained from the beginning, for scikit-learn.

    Parameters
    ----------
    family : {"bnt", "bolt"}
        Which model.
    kind : {"classification", "regression"}
        What is predicted; values are an extension of ours, by squared errors.
    epochs : int, optional
        Epochs of training; by default as published (BNT 200, BolT 20).
    seed : int
        Of weights, order, crops and mixtures.
    device : str
        "auto", "cpu", "cuda" or another name of PyTorch.

    Attributes
    ----------
    model_ : torch.nn.Module
        The trained network.
    classes_ : ndarray
        Classes that can be predicted; only for classification.
    history_ : History
        Losses on validation (minus the area under the curve, or the mean absolute error).

    References
    ----------
    Kan et al.: Brain Network Transformer. NeurIPS 2022, arXiv 2210.06681. Bedel et al.: BolT.
    Medical Image Analysis 2023, arXiv 2205.11578.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> scans = [random.standard_normal((8, 60)) for _ in range(12)]
    >>> probe = SupervisedPeer("bnt", epochs=1)
    >>> probe.fit(scans[:8], ["a", "b"] * 4, validation=(scans[8:], ["a", "b"] * 2)).classes_
    array(['a', 'b'], dtype='<U1')
    >>> probe.decision_function(scans[:3]).shape
    (3, 2)
    """

    def __init__(
        self,
        family: SupervisedFamily,
        kind: Kind = "classification",
        *,
        epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.family = family
        self.kind = kind
        self.epochs = epochs
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: Store | Scans | Sequence[ArrayLike],
        y: Shaped[ArrayLike, "scan"],
        *,
        validation: tuple[Store | Scans | Sequence[ArrayLike], ArrayLike],
        progress: Callable[[int, int], None] | None = None,
    ) -> SupervisedPeer:
        """Train a fresh model.

        Parameters
        ----------
        X : Store, Scans or sequence of arrays of shape (roi, time)
            The scans to learn from.
        y : array_like of shape (scan,)
            Classes (of any type) or values.
        validation : pair
            Other scans, of other people, with their classes or values: the epoch is chosen on them.
        progress : callable, optional
            Called with the number of epochs that are done and the number of all.

        Returns
        -------
        SupervisedPeer
            Itself.

        Raises
        ------
        InputError
            If lengths differ, a target is not known, or scans do not fit each other.
        ConfigurationError
            If there is no such family, or a setting is impossible.
        """
        epochs = _published(self.family, self.epochs)
        truth, other, classes = encode_labels(y, validation[1], self.kind)
        learned, chosen_on = self._part(X, truth), self._part(validation[0], other)
        if learned.protocol.rois != chosen_on.protocol.rois:
            raise InputError(
                f"scans to learn from have {learned.protocol.rois} ROIs, those to choose on "
                f"{chosen_on.protocol.rois}."
            )
        coding = TargetCoding.of(truth, self.kind)
        self.model_, self.history_ = _train(
            learned, chosen_on, coding, epochs=epochs, seed=self.seed, progress=progress
        )
        self._coding = coding
        self.n_features_in_ = learned.protocol.rois
        if classes is not None:
            self.classes_ = classes[coding.classes]
        return self

    def _part(self, given: Store | Scans | Sequence[ArrayLike], values: NDArray[Any]) -> _Part:
        """Refuse targets that do not fit the scans."""
        scans = scans_from(given)
        if len(scans.lengths) != len(values):
            raise InputError(f"{len(values)} targets came with {len(scans.lengths)} scans.")
        check_known(values, self.kind, "fit")
        protocol = _PROTOCOLS[self.family](scans, choose_device(self.device))
        return _Part(protocol, np.arange(len(values)), values)

    def decision_function(
        self, X: Store | Scans | Sequence[ArrayLike]
    ) -> Float[NDArray[np.float64], "scan class"]:
        """Return outputs of whole scans.

        Parameters
        ----------
        X : Store, Scans or sequence of arrays of shape (roi, time)
            Scans.

        Returns
        -------
        ndarray of shape (scan, class)
            Logits; of shape (scan, 1) for regression, in the unit of the target.

        Raises
        ------
        InputError
            If scans have other ROIs than those that were learned from.
        """
        check_is_fitted(self, "model_")
        scans = scans_from(X)
        if scans.valid.shape[1] != self.n_features_in_:
            raise InputError(
                f"scans of {scans.valid.shape[1]} ROIs came; the model has learned from "
                f"{self.n_features_in_}."
            )
        device = next(self.model_.parameters()).device
        protocol = _PROTOCOLS[self.family](scans, device)
        outputs = _say(protocol, self.model_, np.arange(len(scans.lengths)))
        if self.kind == "regression":
            return np.asarray(self._coding.predict(outputs)[:, None])
        return outputs


def scans_from(given: Store | Scans | Sequence[ArrayLike]) -> Scans:
    """Take the scans of a store, or arrays of shape (roi, time) as they are."""
    if isinstance(given, Scans):
        return given
    if isinstance(given, Store):
        return store_scans(given)
    arrays = [np.asarray(one, dtype=np.float32) for one in given]
    shapes = {one.shape[0] if one.ndim == 2 else -1 for one in arrays}
    if len(shapes) != 1 or -1 in shapes:
        raise InputError(
            "scans must be arrays of shape (roi, time) with the same ROIs; came "
            f"{sorted({one.shape for one in arrays})[:3]}."
        )
    broken = [i for i, one in enumerate(arrays) if not np.isfinite(one).all()]
    if broken:
        raise InputError(f"array {broken[0]} of {len(arrays)} holds values that are not finite.")
    valid = np.stack([np.ptp(one, axis=1) > 0 for one in arrays])
    return array_scans(arrays, valid, lambda scan: f"array {scan} of {len(arrays)}")
