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
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import (
    ClassWeight,
    ScanEstimator,
    TargetCoding,
    check_choices,
    check_known,
    encode_labels,
)
from semantoks.evaluation.finetuning import seeded
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.linear_probe import ProbeSettings, check_settings
from semantoks.evaluation.probe_training import batch_size, draw_batches
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.windows import WindowTokens, windows_of_scans
from semantoks.training.precision import kept_memory

_WINDOWS_AT_ONCE: Final = 256


class LabelledTokens(NamedTuple):
    """Scans with what is to be predicted of them."""

    tokens: WindowTokens
    scans: NDArray[np.intp]
    truth: Shaped[NDArray[Any], "labelled"]


_Place = tuple[Tensor, Tensor]
"""Mean and deviation of every number of a token."""


class TrainedAttention(NamedTuple):
    """The probe that was best on validation."""

    key: tuple[float, float]
    rate: float
    epoch: int
    query: Float[Tensor, "query dim"]
    slopes: Float[Tensor, "query_dim output"]
    constant: Float[Tensor, "query_dim output"]
    place: _Place

    def read(self, tokens: Float[Tensor, "window token dim"]) -> Float[Tensor, "1 window output"]:
        """Read windows."""
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

    def freeze(self, i: int, key: tuple[float, float], epoch: int) -> TrainedAttention:
        """Take one rate as it reads in evaluation: an affine function of what it attends to."""
        own = slice(i * len(self.gain[i]), (i + 1) * len(self.gain[i]))
        scale = self.gain[i] / (self.running_variance[own] + 1e-5).sqrt()
        offset = self.shift[i] - self.running_mean[own] * scale
        return TrainedAttention(
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


def train_attention(
    train: LabelledTokens,
    validation: LabelledTokens,
    coding: TargetCoding,
    settings: ProbeSettings,
    *,
    queries: int = 1,
    patience: int = 10,
    where: str = "fit",
) -> TrainedAttention:
    """Train at all rates and return the best rate and epoch on validation."""
    cpu = torch.device("cpu")
    with seeded(settings.seed, cpu), kept_memory(cpu):
        best = _train(train, validation, coding, settings, queries, patience)
    if best is None:
        raise InputError(f"{where}: training diverged at every rate.")
    return best


def _train(
    train: LabelledTokens,
    validation: LabelledTokens,
    coding: TargetCoding,
    settings: ProbeSettings,
    queries: int,
    patience: int,
) -> TrainedAttention | None:
    """Train at all rates; None if all of them diverged."""
    tokens = train.tokens
    rows, of = windows_of_scans(tokens.scan, train.scans)
    encoded = coding.encode(train.truth)[of]
    weights = coding.weigh(train.truth, settings.class_weight)[of]
    place = _moments(tokens, rows)
    width = tokens.tokens.shape[-1]
    probes = _Probes(width, queries, coding.n_outputs, settings.rates, place)
    optimizer = torch.optim.AdamW(probes.groups(), weight_decay=0.0)
    batches = draw_batches(rows, epochs=settings.epochs, seed=settings.seed)
    best: TrainedAttention | None = None
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
        chosen_on = scan_outputs(probes, validation.tokens, validation.scans)
        best = _better(best, probes, chosen_on, validation.truth, coding, epoch)
        if best is not None and epoch - best.epoch >= patience:
            break
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
    best: TrainedAttention | None,
    probes: _Probes,
    outputs: NDArray[np.float64],
    truth: NDArray[Any],
    coding: TargetCoding,
    epoch: int,
) -> TrainedAttention | None:
    """Return what is best on validation so far."""
    losses = coding.losses(truth, outputs)
    for i, loss in enumerate(losses):
        if not np.isfinite(outputs[i]).all():
            continue
        key = (float(loss), coding.surprise(truth, outputs[i]))
        if best is None or key < best.key:
            best = probes.freeze(i, key, epoch)
    return best


def scan_outputs(
    read: Callable[[Tensor], Tensor], tokens: WindowTokens, scans: NDArray[np.intp]
) -> Float[NDArray[np.float64], "rate scan output"]:
    """Average outputs over the windows of scans."""
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


def check_tokens(tokens: WindowTokens, n_scans: int) -> None:
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
