"""The attention probe: learned queries choose among tokens what a linear layer reads.

    a = softmax_i(q · t_i / √D),   p = Σ_i a_i t_i,   z = W (γ ∘ BatchNorm(p) + β) + b

over the network × patch tokens t_i of a window, standardised by the training part; they carry what
the encoder knows of their places. Trained like the linear probe, but by AdamW, and at every rate
the epoch is chosen on validation, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.probe_data import batch_size, draw_batches
from semantoks.evaluation.probe_settings import ProbeSettings, check_settings
from semantoks.evaluation.splits import ChoiceSplit, Kind, Split
from semantoks.evaluation.target_coding import TargetCoding, check_choices
from semantoks.evaluation.window_features import WindowTokens
from semantoks.evaluation.window_places import windows_of_scans
from semantoks.evaluation.window_training import seeded
from semantoks.training.precision import kept_memory

ATTENTION: Final = ProbeSettings(rates=(0.01, 0.003, 0.001, 0.0003))
"""How the attention probe is trained; rates are those of AdamW."""

_WINDOWS_AT_ONCE: Final = 256


def attention_probe_predictions(
    tokens: WindowTokens,
    truth: NDArray[Any],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: NDArray[Any],
    queries: int = 1,
    settings: ProbeSettings = ATTENTION,
    patience: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train the attention probe in every split and predict its test part.

    All rates of a split are trained at once. Rate and epoch are those that are best on the
    validation part (balanced accuracy, then cross-entropy; or mean absolute error), the first of
    equally good ones. Logits are averaged over the windows of a scan.

    Parameters
    ----------
    tokens : WindowTokens
        Tokens of the windows of all scans, from `window_tokens`, `take`-n if need be.
    truth : ndarray of shape (scan,)
        Codes of the classes (0, 1, ...), or values. Those of test scans are not looked at.
    splits : sequence of Split
        Splits with a validation part.
    kind : {"classification", "regression"}
        What the target is.
    subjects : ndarray of shape (scan,)
        Who each scan is of.
    queries : int
        Number of learned queries; the linear layer reads what all of them have found.
    settings : ProbeSettings
        Rates, epochs, weights of the classes and seed.
    patience : int
        Epochs without a better one at any rate after which training ends.
    progress : callable, optional
        Called with the number of splits that are done and the number of all.

    Returns
    -------
    tuple of FoldPrediction
        One a split, in the same order; `chosen` holds the learning rate and the epoch, from 1.

    Raises
    ------
    InputError
        If a split leaks or has no validation part, or tokens or targets are not finite.
    ConfigurationError
        If a setting is impossible.
    """
    check_settings(settings)
    if queries < 1 or patience < 1:
        raise ConfigurationError(
            f"queries is {queries} and patience {patience}; both must be at least 1."
        )
    truth = np.asarray(truth)
    choices = check_choices(splits, truth, subjects, kind=kind)
    _check_tokens(tokens, len(truth))
    n_classes = int(np.nanmax(truth)) + 1 if kind == "classification" else 0
    folds = []
    for number, (split, choice) in enumerate(zip(splits, choices, strict=True)):
        coding = TargetCoding.of(truth[choice.train], kind)
        cpu = torch.device("cpu")
        with seeded(settings.seed, cpu), kept_memory(cpu):
            probe = _train(tokens, truth, choice, coding, queries, settings, patience)
            outputs = _scan_outputs(probe.read, tokens, split.test)[0]
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


_Place = tuple[Tensor, Tensor]
"""Mean and deviation of every number of a token."""


class _Best(NamedTuple):
    """The probe that was best on validation."""

    key: tuple[float, float]
    rate: float
    epoch: int
    query: Tensor
    slopes: Tensor
    constant: Tensor
    place: _Place

    def read(self, tokens: Tensor) -> Tensor:
        """Read windows: (1, window, output)."""
        mean, deviation = self.place
        pooled = _attend((tokens - mean) / deviation, self.query)
        return (pooled.flatten(1) @ self.slopes + self.constant)[None]


class _Probes(nn.Module):
    """Probes at several rates, which see the same windows."""

    def __init__(
        self, width: int, queries: int, outputs: int, rates: Sequence[float], place: _Place
    ) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.mean, self.deviation = place
        read = queries * width
        query = 0.02 * torch.randn(queries, width)
        weight = nn.init.trunc_normal_(torch.empty(read, outputs), std=2e-5)
        # A parameter a rate, since the optimizer has its rates by parameter.
        starts = (query, torch.ones(read), torch.zeros(read), weight, torch.zeros(outputs))
        self.query, self.gain, self.shift, self.weight, self.bias = (
            nn.ParameterList(nn.Parameter(start.clone()) for _ in rates) for start in starts
        )
        self.running_mean = torch.zeros(len(rates) * read)
        self.running_variance = torch.ones(len(rates) * read)

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters of every rate."""
        parts = (self.query, self.gain, self.shift, self.weight, self.bias)
        return [
            {"params": list(own), "lr": rate}
            for rate, own in zip(self.rates, zip(*parts, strict=True), strict=True)
        ]

    def forward(self, tokens: Tensor) -> Tensor:
        """Read windows (window, token, dim): (rate, window, output)."""
        tokens = (tokens - self.mean) / self.deviation
        pooled = _attend(tokens, torch.cat(list(self.query))).flatten(1)
        normed = F.batch_norm(
            pooled, self.running_mean, self.running_variance, training=self.training
        )
        normed = normed.view(len(tokens), len(self.rates), -1).transpose(0, 1)
        heard = normed * _stack(self.gain)[:, None] + _stack(self.shift)[:, None]
        return torch.baddbmm(_stack(self.bias)[:, None], heard, _stack(self.weight))

    def freeze(self, i: int, key: tuple[float, float], epoch: int) -> _Best:
        """Take one rate as it reads in evaluation: an affine function of what it attends to."""
        own = slice(i * len(self.gain[i]), (i + 1) * len(self.gain[i]))
        scale = self.gain[i] / (self.running_variance[own] + 1e-5).sqrt()
        offset = self.shift[i] - self.running_mean[own] * scale
        return _Best(
            key,
            float(self.rates[i]),
            epoch,
            self.query[i].detach().clone(),
            (scale[:, None] * self.weight[i]).detach(),
            (offset @ self.weight[i] + self.bias[i]).detach(),
            (self.mean, self.deviation),
        )


def _stack(parameters: nn.ParameterList) -> Tensor:
    """Put the parameters of all rates together."""
    return torch.stack(list(parameters))


def _attend(tokens: Tensor, query: Tensor) -> Tensor:
    """Average tokens as the queries weigh them: (window, query, dim)."""
    scores = tokens @ query.T / math.sqrt(tokens.shape[-1])
    return torch.softmax(scores, 1).transpose(1, 2) @ tokens


def _train(
    tokens: WindowTokens,
    truth: NDArray[Any],
    choice: ChoiceSplit,
    coding: TargetCoding,
    queries: int,
    settings: ProbeSettings,
    patience: int,
) -> _Best:
    """Train at all rates and return the best rate and epoch on validation."""
    train = np.sort(choice.train)
    rows, of = windows_of_scans(tokens.scan, train)
    encoded = coding.encode(truth[train])[of]
    weights = coding.weigh(truth[train], settings.class_weight)[of]
    place = _moments(tokens, rows)
    width = tokens.tokens.shape[-1]
    probes = _Probes(width, queries, coding.n_outputs, settings.rates, place)
    optimizer = torch.optim.AdamW(probes.groups(), weight_decay=0.0)
    batches = draw_batches(rows, epochs=settings.epochs, seed=settings.seed)
    best: _Best | None = None
    for epoch in range(1, settings.epochs + 1):
        probes.train()
        for _ in range(len(rows) // batch_size(len(rows))):
            batch = next(batches)
            outputs = probes(_read(tokens, rows[batch]))
            loss = _loss(outputs, encoded[batch], weights[batch], coding.kind)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        probes.eval()
        outputs = _scan_outputs(probes, tokens, choice.validation)
        best = _better(best, probes, outputs, truth[choice.validation], coding, epoch)
        if best is not None and epoch - best.epoch >= patience:
            break
    if best is None:
        raise InputError(f"{choice}: training diverged at every rate.")
    return best


def _loss(outputs: Tensor, truth: NDArray[Any], weights: NDArray[Any], kind: Kind) -> Tensor:
    """Sum over rates of the mean loss: no rate sees the gradient of another."""
    share = torch.from_numpy(weights / weights.sum()).float()
    known = torch.from_numpy(truth)
    if kind == "regression":
        return ((outputs[..., 0] - known.float()).abs() * share).sum()
    each = F.cross_entropy(outputs.flatten(0, 1), known.repeat(len(outputs)), reduction="none")
    return (each.view(len(outputs), -1) * share).sum()


def _better(
    best: _Best | None,
    probes: _Probes,
    outputs: NDArray[np.float64],
    truth: NDArray[Any],
    coding: TargetCoding,
    epoch: int,
) -> _Best | None:
    """Return what is best on validation so far."""
    losses = coding.losses(truth, outputs)
    for i, loss in enumerate(losses):
        if not np.isfinite(outputs[i]).all():
            continue
        key = (float(loss), coding.surprise(truth, outputs[i]))
        if best is None or key < best.key:
            best = probes.freeze(i, key, epoch)
    return best


def _scan_outputs(
    read: Callable[[Tensor], Tensor], tokens: WindowTokens, scans: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Average outputs over the windows of scans: (rate, scan, output)."""
    rows, of = windows_of_scans(tokens.scan, scans)
    with torch.inference_mode():
        outputs = np.concatenate(
            [read(batch).double().numpy() for batch in _chunks(tokens, rows)], axis=1
        )
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    totals = np.add.reduceat(outputs, starts, axis=1)
    return np.asarray(totals / np.bincount(of)[:, None])


def _moments(tokens: WindowTokens, rows: NDArray[np.intp]) -> _Place:
    """Mean and deviation of every number of a token over the training part."""
    width = tokens.tokens.shape[-1]
    total, square, count = np.zeros(width), np.zeros(width), 0
    for batch in _chunks(tokens, rows):
        flat = batch.flatten(0, 1).double()
        total, square = total + flat.sum(0).numpy(), square + flat.square().sum(0).numpy()
        count += len(flat)
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
    deviation[deviation < 1e-6 * (1 + np.abs(mean))] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _chunks(tokens: WindowTokens, rows: NDArray[np.intp]) -> Iterator[Tensor]:
    """Read windows some at a time."""
    for first in range(0, len(rows), _WINDOWS_AT_ONCE):
        yield _read(tokens, rows[first : first + _WINDOWS_AT_ONCE])


def _read(tokens: WindowTokens, rows: NDArray[np.intp]) -> Tensor:
    """Read windows as (window, token, dim)."""
    picked = tokens.tokens[rows].astype(np.float32, copy=False)
    return torch.from_numpy(picked).flatten(1, 2)


def _check_tokens(tokens: WindowTokens, n_scans: int) -> None:
    """Refuse tokens of other scans, or that are not finite."""
    if tokens.n_scans != n_scans:
        raise InputError(
            f"the tokens are of {tokens.n_scans} scans, but {n_scans} scans have a target; take() "
            "the scans of the target."
        )
    for first in range(0, len(tokens.scan), _WINDOWS_AT_ONCE):
        part = tokens.tokens[first : first + _WINDOWS_AT_ONCE]
        broken = np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(axis=1))
        if len(broken):
            raise InputError(
                f"the tokens of scan {tokens.scan[first + broken[0]]} are not finite. Leave the "
                "scan out, or read its tokens again."
            )
