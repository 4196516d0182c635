"""Many linear probes trained at once: every rate, split and target in one problem.

A probe is BatchNorm1d and Linear, trained by stochastic gradient descent with momentum:

    z = W (γ ∘ x̂ + β) + b,    x̂ = (x - μ) / σ,   μ and σ² of the batch.

Trained one by one, nearly all time goes into reading and normalising the same windows again and
again. Nothing below x needs a gradient, so that with G = ∂loss/∂z of a batch and X its windows

    A = (Gᵀ X - (Σ G) μ) / σ,   ∂W = A ∘ γ + (Σ G) β,   ∂γ = Σ A ∘ W,   ∂β = Wᵀ Σ G,   ∂b = Σ G.

X̂ is never made. All rates and all targets of a split see the same batches, so that X is gathered
once for all of them, with its moments while it is in the cache, and both products, (W γ / σ) Xᵀ
and Gᵀ X, have a row a rate, target and class. The
gradients of a softmax add up to zero over the classes, so that the sum of all W never changes and
only the differences to the first class are trained: one row for two classes. None of this changes a
result by more than rounding; tests train each probe on its own with torch's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from semantoks.evaluation.probe_data import (
    EPSILON,
    Group,
    ProbeData,
    TrainedProbes,
    batch_size,
    draw_batches,
    group_by_windows,
    initial_weight,
)
from semantoks.evaluation.splits import Kind
from semantoks.training.precision import kept_memory

MOMENTUM: Final = 0.9
"""Of the gradient descent."""

_FORGET: Final = 0.1  # share of a batch in the running moments, as in BatchNorm1d


def train_probes(
    features: NDArray[np.float32],
    data: Sequence[ProbeData],
    *,
    kind: Kind,
    rates: Sequence[float],
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[TrainedProbes, ...]:
    """Train every probe at every rate, by cross-entropy or absolute error.

    Parameters
    ----------
    features : ndarray of float32, shape (window, feature)
        Features; only rows that are learned from are looked at.
    data : sequence of ProbeData
        What each probe learns from. Those with the same rows share batches, and the time for them.
    kind : {"classification", "regression"}
        What is predicted.
    rates : sequence of float
        Learning rates.
    epochs : int
        How often each window is seen.
    seed : int
        Seed of weights and batches.
    progress : callable, optional
        Called with the number of steps that are done and the number of all.

    Returns
    -------
    tuple of TrainedProbes
        In the order of `data`.
    """
    groups = group_by_windows(data)
    problem = _Problem(features, data, groups, kind, tuple(rates), seed)
    batches = [draw_batches(g.rows, epochs=epochs, seed=seed) for g in groups]
    steps = [epochs * (len(g.rows) // batch_size(len(g.rows))) for g in groups]
    with torch.inference_mode(), kept_memory(torch.device("cpu")):
        for step in range(max(steps)):
            # Longest first: those that are not done yet stand in front.
            active = sum(step < n for n in steps)
            problem.step([next(b) for b in batches[:active]])
            if progress is not None:
                progress(step + 1, max(steps))
    return problem.trained()


class _Parameters(NamedTuple):
    """What is trained, or its velocity."""

    weight: Tensor  # probe, rate, output, feature: of classes, differences to the first
    bias: Tensor  # probe, rate, output
    gain: Tensor  # probe, rate, feature
    shift: Tensor  # probe, rate, feature


class _Moments(NamedTuple):
    """Mean and variance of the batches of the groups."""

    mean: Tensor
    variance: Tensor


class _Problem:
    """All probes, those of a group behind one another, and the step that they take together."""

    def __init__(
        self,
        features: NDArray[np.float32],
        data: Sequence[ProbeData],
        groups: Sequence[Group],
        kind: Kind,
        rates: tuple[float, ...],
        seed: int,
    ) -> None:
        self.kind, self.groups = kind, groups
        self.order = [member for group in groups for member in group.members]
        self.data = [data[i] for i in self.order]
        sizes = [len(g.members) for g in groups]
        self.group_of = torch.arange(len(groups)).repeat_interleave(torch.tensor(sizes))
        self.ends = np.cumsum(sizes).tolist()
        self.rates = torch.tensor(rates, dtype=torch.float32)
        self._take_windows(features)
        self._start(features.shape[1], seed)
        self._label()

    def _take_windows(self, features: NDArray[np.float32]) -> None:
        """Keep the windows that are learned from, around their mean.

        Batch norm does not see a constant; squares of centred numbers keep their digits.
        """
        used = np.unique(np.concatenate([g.rows for g in self.groups]))
        taken = np.asarray(features[used], dtype=np.float32)
        self.center = taken.mean(axis=0, dtype=np.float64).astype(np.float32)
        taken -= self.center
        self.x = torch.from_numpy(taken)
        self.items = _table([np.searchsorted(used, g.rows) for g in self.groups])
        largest = max(batch_size(len(g.rows)) for g in self.groups)
        self.gathered = [self.x.new_empty(largest, self.x.shape[1]) for _ in self.groups]
        self.squares = self.x.new_empty(largest, self.x.shape[1])
        self.ones = self.x.new_ones(1, largest)

    def _start(self, width: int, seed: int) -> None:
        """Set weights, velocities and running moments to where they start."""
        counts = [int(d.truth.max()) + 1 if self.kind == "classification" else 1 for d in self.data]
        drawn = [
            initial_weight(d, n, width, seed=seed) for d, n in zip(self.data, counts, strict=True)
        ]
        first = int(self.kind == "classification")  # the class that the others differ from
        outputs = max(counts) - first
        shape = (len(self.data), len(self.rates))
        self.now = _Parameters(
            torch.zeros(*shape, outputs, width),
            torch.zeros(*shape, outputs),
            torch.ones(*shape, width),
            torch.zeros(*shape, width),
        )
        for weight, start in zip(self.now.weight, drawn, strict=True):
            weight[:, : len(start) - first] = start[1:] - start[0] if first else start
        self.velocity = _Parameters(*(torch.zeros_like(p) for p in self.now))
        self.counts, self.sums = counts, [start.sum(0) for start in drawn]
        absent = torch.arange(outputs) >= torch.tensor(counts)[:, None] - first
        self.absent = absent[:, None, :, None] if bool(absent.any()) else None
        mean = torch.from_numpy(-self.center).repeat(len(self.groups), 1)
        self.running = _Moments(mean, torch.ones(len(self.groups), width))

    def _label(self) -> None:
        """Put truth and weight of every window into tables, one row a probe."""
        longest = max(len(d.truth) for d in self.data)
        kind = torch.int64 if self.kind == "classification" else torch.float32
        self.truth = torch.zeros(len(self.data), longest, dtype=kind)
        self.weights = torch.ones(len(self.data), longest)
        self.weighted = any(d.weights is not None for d in self.data)
        for i, d in enumerate(self.data):
            self.truth[i, : len(d.truth)] = torch.as_tensor(d.truth, dtype=kind)
            if d.weights is not None:
                self.weights[i, : len(d.truth)] = torch.as_tensor(d.weights, dtype=torch.float32)

    def step(self, batches: Sequence[NDArray[np.intp]]) -> None:
        """Take one step of the groups in front.

        Parameters
        ----------
        batches : sequence of ndarray of shape (batch,)
            Positions in the rows of the group.
        """
        n, probes = len(batches), self.ends[len(batches) - 1]
        sizes = [len(b) for b in batches]
        picked = _table(batches)
        x, moments = self._gather(picked, sizes)
        of = self.group_of[:probes]
        mean, scale = moments.mean[of], (moments.variance + EPSILON).rsqrt()[of]

        now = _Parameters(*(p[:probes] for p in self.now))
        reading = now.weight * (now.gain * scale[:, None])[:, :, None]
        # Summed as products and rows, not as einsum: that would copy the weights.
        offset = (now.weight * now.shift[:, :, None]).sum(-1) + now.bias
        offset -= (reading * mean[:, None, None]).sum(-1)
        z = self._forward(reading, x, sizes) + offset[..., None]
        g = self._loss_gradient(z, picked, sizes, of)

        total = g.sum(-1)
        a = self._backward(g, x, sizes)
        a.sub_(total[..., None] * mean[:, None, None]).mul_(scale[:, None, None])
        gain = (a * now.weight).sum(2)
        shift = (total[..., None] * now.weight).sum(2)
        weight = a.mul_(now.gain[:, :, None]).add_(total[..., None] * now.shift[:, :, None])
        if self.kind == "classification":  # W_c moves by its gradient, W_0 by minus all of them
            weight, total = weight + weight.sum(2, keepdim=True), total + total.sum(2, keepdim=True)
        self._move(now, _Parameters(weight, total, gain, shift))
        self._remember(moments, sizes, n)

    def _gather(self, picked: Tensor, sizes: list[int]) -> tuple[list[Tensor], _Moments]:
        """Copy the windows of every batch and take mean and variance of each."""
        totals = self.x.new_empty(2, len(sizes), self.x.shape[1])
        rows = self.items[: len(sizes)].gather(1, picked)
        x = []
        for i, n in enumerate(sizes):
            batch = torch.index_select(self.x, 0, rows[i, :n], out=self.gathered[i][:n])
            share = self.ones[:, :n]
            torch.mm(share, batch, out=totals[0, i : i + 1])
            squares = torch.mul(batch, batch, out=self.squares[:n])
            torch.mm(share, squares, out=totals[1, i : i + 1])
            x.append(batch)
        mean, square = totals.div_(torch.tensor(sizes)[:, None])
        return x, _Moments(mean, square.sub_(mean.square()).clamp_(min=0))

    def _spans(self, n: int) -> Iterator[tuple[int, slice]]:
        """Say which probes are of which group."""
        for group in range(n):
            yield group, slice(self.ends[group - 1] if group else 0, self.ends[group])

    def _forward(self, reading: Tensor, x: Sequence[Tensor], sizes: list[int]) -> Tensor:
        """Apply the weights to the windows: (probe, rate, output, item)."""
        z = reading.new_zeros(*reading.shape[:3], max(sizes))
        for group, probes in self._spans(len(sizes)):
            heard = torch.mm(reading[probes].flatten(0, 2), x[group].T)
            z[probes, ..., : sizes[group]] = heard.view(*z[probes].shape[:3], -1)
        return z

    def _backward(self, g: Tensor, x: Sequence[Tensor], sizes: list[int]) -> Tensor:
        """Return GᵀX: (probe, rate, output, feature)."""
        a = g.new_empty(*g.shape[:3], self.x.shape[1])
        for group, probes in self._spans(len(sizes)):
            rows = g[probes, ..., : sizes[group]].flatten(0, 2)
            torch.mm(rows, x[group], out=a[probes].view(-1, a.shape[-1]))
        return a

    def _loss_gradient(self, z: Tensor, picked: Tensor, sizes: list[int], of: Tensor) -> Tensor:
        """Gradient of the mean loss over the batch; 0 beyond the end of a short batch."""
        picked = picked[of]
        truth = self.truth[: len(of)].gather(1, picked)[:, None, None]
        weight: Tensor | float = 1 / sizes[0]
        if self.weighted or len(set(sizes)) > 1:
            inside = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
            weight = self.weights[: len(of)].gather(1, picked) * inside[of]
            weight = (weight / weight.sum(1, keepdim=True))[:, None, None]
        if self.kind == "regression":
            return torch.sign(z - truth).mul_(weight)
        if z.shape[2] == 1:
            return torch.sigmoid(z).sub_(truth).mul_(weight)
        if self.absent is not None:
            z = z.masked_fill(self.absent[: len(of)], -torch.inf)
        hit = truth == torch.arange(1, z.shape[2] + 1)[:, None]
        # The first class has the logit 0.
        share = F.softmax(F.pad(z, (0, 0, 1, 0)), 2)[:, :, 1:]
        return (share - hit.to(z.dtype)) * weight

    def _move(self, now: _Parameters, gradient: _Parameters) -> None:
        """Take the step of every rate: v = .9 v + g, w = w - rate v."""
        for p, v, g in zip(now, self.velocity, gradient, strict=True):
            v = v[: len(p)]
            v.mul_(MOMENTUM).add_(g)
            p.addcmul_(v, self.rates.view(1, -1, *[1] * (p.ndim - 2)), value=-1)

    def _remember(self, moments: _Moments, sizes: list[int], n: int) -> None:
        """Update running moments, the variance as an unbiased one."""
        count = torch.tensor(sizes, dtype=torch.float32)[:, None]
        unbiased = moments.variance * (count / (count - 1))
        self.running.mean[:n].lerp_(moments.mean, _FORGET)
        self.running.variance[:n].lerp_(unbiased, _FORGET)

    def trained(self) -> tuple[TrainedProbes, ...]:
        """Return the probes, in the order in which they were asked for."""
        found: list[TrainedProbes | None] = [None] * len(self.order)
        for i, asked in enumerate(self.order):
            group = int(self.group_of[i])
            weight, bias = self._whole(i)
            found[asked] = TrainedProbes(
                weight=_numbers(weight),
                bias=_numbers(bias),
                gain=_numbers(self.now.gain[i]),
                shift=_numbers(self.now.shift[i]),
                running_mean=_numbers(self.running.mean[group]) + self.center,
                running_variance=_numbers(self.running.variance[group]),
            )
        return tuple(probes for probes in found if probes is not None)

    def _whole(self, i: int) -> tuple[Tensor, Tensor]:
        """Return weights and biases of all outputs of a probe."""
        weight, bias = self.now.weight[i], self.now.bias[i]
        if self.kind == "regression":
            return weight, bias
        n = self.counts[i]
        weight, bias = weight[:, : n - 1], bias[:, : n - 1]
        first = (self.sums[i] - weight.sum(1)) / n
        zero = -bias.sum(1) / n
        return (
            torch.cat([first[:, None], first[:, None] + weight], 1),
            torch.cat([zero[:, None], zero[:, None] + bias], 1),
        )


def _table(rows: Sequence[NDArray[np.intp]]) -> Tensor:
    """Put rows of different lengths below one another, the shorter ones filled up with 0."""
    if len({len(row) for row in rows}) == 1:
        return torch.from_numpy(np.stack(rows))
    table = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(table)


def _numbers(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor as float64 numbers."""
    return values.double().numpy().copy()
