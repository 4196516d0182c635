"""A network trained on one random window of every scan an epoch, and chosen on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.errors import InputError
from semantoks.evaluation.readout import Scans
from semantoks.evaluation.target_coding import TargetCoding
from semantoks.evaluation.window_model import WindowModel, WindowTraining, check_training
from semantoks.evaluation.window_places import place_windows
from semantoks.training.config import ViewsConfig
from semantoks.training.optimization import cosine
from semantoks.training.precision import autocast, choose_precision, kept_memory
from semantoks.training.views import VIEWS, augment


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
    losses: list[float] = []
    best, kept, found = (math.inf, math.inf), model.state_dict(), -1
    with kept_memory(state.device):
        for epoch in range(settings.epochs):
            state.train_epoch()
            outputs = window_outputs(model, validation.scans, validation.rows, settings)
            loss = _validation_loss(coding, validation.truth, outputs)
            losses.append(loss[0])
            if loss < best:
                best, found = loss, epoch
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            if progress is not None:
                progress(epoch + 1, settings.epochs)
            if settings.patience is not None and epoch - found >= settings.patience:
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
