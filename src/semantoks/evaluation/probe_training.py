"""Many linear probes trained at once: every rate, split and target in one problem.

A probe is BatchNorm1d and Linear, trained by stochastic gradient descent with momentum:

    z = W (γ ∘ x̂ + β) + b,    x̂ = (x - μ) / σ,   μ and σ² of the batch.

Trained one by one, nearly all time goes into reading and normalising the same windows again and
again. Nothing below x needs a gradient, so that with G = ∂loss/∂z of a batch and X its windows

    A = (Gᵀ X - (Σ G) μ) / σ,   ∂W = A ∘ γ + (Σ G) β,   ∂γ = Σ A ∘ W,   ∂β = Wᵀ Σ G,   ∂b = Σ G.

X̂ is never made, and all rates and targets of a split read the same X. Splits share windows, too:
every epoch puts all windows in one random order, of which each split takes its own, so that the
batches of a step are about the same stretch of the order. That stretch is read once; a table says
which of it is in the batch of which split, and G is 0 for what is not. Moments of all batches are
then two products, with X and with X ∘ X, and (W γ / σ) Xᵀ and Gᵀ X one each, with a row a split,
rate, target and class. The gradients of a softmax add up to zero over the classes, so that the sum
of all W never changes and only the differences to the first class are trained: one row for two
classes. None of this changes a result by more than rounding; tests train each probe on its own with
torch's modules.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from semantoks.evaluation.splits import Kind
from semantoks.training.precision import kept_memory

LARGEST_BATCH: Final = 256
"""Windows in a step, unless the training part has less than eight times as many."""
EPSILON: Final = 1e-5
"""Added to variances, as in BatchNorm1d."""

_INITIAL_DEVIATION: Final = 2e-5
# From here on, products with windows of others cost more than to read one's own.
_MOST_OTHERS: Final = 4


@dataclass(frozen=True, eq=False)
class ProbeData:
    """What one probe learns from, at every rate."""

    rows: NDArray[np.intp]
    truth: NDArray[np.int64] | NDArray[np.float64]
    weights: Float[NDArray[np.float64], "item"] | None = None


@dataclass(frozen=True, eq=False)
class TrainedProbes:
    """Probes of one training part, a rate each."""

    weight: Float[NDArray[np.float64], "rate output feature"]
    bias: Float[NDArray[np.float64], "rate output"]
    gain: Float[NDArray[np.float64], "rate feature"]
    shift: Float[NDArray[np.float64], "rate feature"]
    running_mean: Float[NDArray[np.float64], "feature"]
    running_variance: Float[NDArray[np.float64], "feature"]

    def outputs(
        self, features: Float[NDArray[np.float64], "row feature"]
    ) -> Float[NDArray[np.float64], "rate row output"]:
        """Apply the probes as in evaluation: with running moments.

        The output is affine in the features, so that the mean output over the windows of a scan is
        the output of their mean.
        """
        scale = self.gain / np.sqrt(self.running_variance + EPSILON)
        centred = np.asarray(features, dtype=np.float64) - self.running_mean
        slopes = self.weight * scale[:, None]
        constant = np.einsum("rod,rd->ro", self.weight, self.shift) + self.bias
        return np.asarray(centred @ slopes.transpose(0, 2, 1) + constant[:, None])


def batch_size(n_items: int) -> int:
    """Return how many windows a step sees: an eighth of all, at most 256.

    Examples
    --------
    >>> batch_size(5600), batch_size(800)
    (256, 100)
    """
    return max(min(LARGEST_BATCH, n_items // 8), min(2, n_items))


def window_keys(n_windows: int, epoch: int, seed: int) -> Float[NDArray[np.float64], "window"]:
    """Draw a number for every window, by which windows are put in order in an epoch.

    The order of some windows depends on nothing but their rows: not on how many others there are,
    and not on who else learns from them. Any part of a random order is a random order.
    """
    return np.random.default_rng([seed, epoch]).random(n_windows)


def draw_batches(rows: NDArray[np.intp], *, epochs: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Draw the batches of a training part; they depend on nothing but it and the seed.

    In every epoch, windows that do not fill a last batch are left out.
    """
    size = batch_size(len(rows))
    for epoch in range(epochs):
        order = np.argsort(window_keys(int(rows.max()) + 1, epoch, seed)[rows])
        for first in range(0, len(rows) - size + 1, size):
            yield order[first : first + size]


def initial_weight(
    data: ProbeData, n_outputs: int, width: int, *, seed: int
) -> Float[Tensor, "output feature"]:
    """Draw the weights that all rates of a probe start from."""
    generator = torch.Generator().manual_seed((seed << 32) + _checksum(data.rows))
    weight = torch.empty(n_outputs, width)
    return torch.nn.init.trunc_normal_(weight, std=_INITIAL_DEVIATION, generator=generator)


class Group(NamedTuple):
    """Probes that learn from the same windows."""

    rows: NDArray[np.intp]
    members: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return len(self.rows) // batch_size(len(self.rows))


def group_by_windows(data: Sequence[ProbeData]) -> tuple[tuple[Group, ...], ...]:
    """Put together what can be trained together.

    Batches of groups with as many steps in an epoch stand at about the same place in the order of
    all windows. If each group has a good part of them, the batches of a step are mostly the same
    windows, so that all groups can read them at once.
    """
    members: dict[bytes, list[int]] = {}
    for i, d in enumerate(data):
        members.setdefault(np.asarray(d.rows, dtype=np.int64).tobytes(), []).append(i)
    groups = [Group(data[m[0]].rows, tuple(m)) for m in members.values()]
    clusters: list[tuple[Group, ...]] = []
    for steps in sorted({g.steps for g in groups}):
        alike = tuple(g for g in groups if g.steps == steps)
        union = len(np.unique(np.concatenate([g.rows for g in alike])))
        together = union <= _MOST_OTHERS * min(len(g.rows) for g in alike)
        clusters.extend([alike] if together else [(g,) for g in alike])
    return tuple(clusters)


def _checksum(rows: NDArray[np.intp]) -> int:
    """Return a number that tells training parts apart."""
    return zlib.crc32(np.asarray(rows, dtype=np.int64).tobytes())


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
    """Train every probe at every rate, by cross-entropy or absolute error."""
    clusters = group_by_windows(data)
    total = epochs * sum(cluster[0].steps for cluster in clusters)
    found: list[TrainedProbes | None] = [None] * len(data)
    done = 0
    with torch.inference_mode(), kept_memory(torch.device("cpu")):
        for groups in clusters:
            cluster = _Cluster(features, data, groups, kind, rates, seed)
            for batch in cluster.batches(epochs):
                cluster.step(batch)
                done += 1
                if progress is not None:
                    progress(done, total)
            for asked, probes in cluster.trained():
                found[asked] = probes
    return tuple(probes for probes in found if probes is not None)


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


class _Batch(NamedTuple):
    """A stretch of windows that holds the batches of all groups."""

    windows: Tensor  # window
    inside: Tensor  # group, window: 1 in the batch of the group


class _Cluster:
    """Probes that take their steps together, those of a group behind one another."""

    def __init__(
        self,
        features: NDArray[np.float32],
        data: Sequence[ProbeData],
        groups: Sequence[Group],
        kind: Kind,
        rates: Sequence[float],
        seed: int,
    ) -> None:
        self.kind, self.groups, self.seed = kind, groups, seed
        self.order = [member for group in groups for member in group.members]
        self.data = [data[i] for i in self.order]
        sizes = torch.tensor([len(g.members) for g in groups])
        self.group_of = torch.arange(len(groups)).repeat_interleave(sizes)
        self.rates = torch.tensor(rates, dtype=torch.float32)
        self._take_windows(features)
        self._start(features.shape[1])
        self._label()

    def _take_windows(self, features: NDArray[np.float32]) -> None:
        """Keep the windows that are learned from, around their mean.

        Batch norm does not see a constant; squares of centred numbers keep their digits.
        """
        self.used = np.unique(np.concatenate([g.rows for g in self.groups]))
        taken = np.asarray(features[self.used], dtype=np.float32)
        self.center = taken.mean(axis=0, dtype=np.float64).astype(np.float32)
        taken -= self.center
        self.x = torch.from_numpy(taken)

    def _start(self, width: int) -> None:
        """Set weights, velocities and running moments to where they start."""
        counts = [int(d.truth.max()) + 1 if self.kind == "classification" else 1 for d in self.data]
        drawn = [
            initial_weight(d, n, width, seed=self.seed)
            for d, n in zip(self.data, counts, strict=True)
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
        numbers = torch.int64 if self.kind == "classification" else torch.float32
        self.truth = torch.zeros(len(self.data), len(self.used), dtype=numbers)
        self.weights = torch.ones(len(self.data), len(self.used))
        self.weighted = any(d.weights is not None for d in self.data)
        for i, d in enumerate(self.data):
            places = torch.from_numpy(np.searchsorted(self.used, d.rows))
            self.truth[i, places] = torch.as_tensor(d.truth, dtype=numbers)
            if d.weights is not None:
                self.weights[i, places] = torch.as_tensor(d.weights, dtype=torch.float32)

    def batches(self, epochs: int) -> Iterator[_Batch]:
        """Draw the batches of all groups, as `draw_batches` draws those of one."""
        member = np.stack([np.isin(self.used, g.rows) for g in self.groups])
        sizes = [batch_size(len(g.rows)) for g in self.groups]
        for epoch in range(epochs):
            keys = window_keys(int(self.used[-1]) + 1, epoch, self.seed)[self.used]
            order = np.argsort(keys)
            places = [np.flatnonzero(row[order]) for row in member]
            for step in range(self.groups[0].steps):
                parts = [p[step * n : (step + 1) * n] for p, n in zip(places, sizes, strict=True)]
                start, stop = min(p[0] for p in parts), max(p[-1] for p in parts) + 1
                inside = np.zeros((len(parts), stop - start), dtype=np.float32)
                for row, part in zip(inside, parts, strict=True):
                    row[part - start] = 1
                yield _Batch(torch.from_numpy(order[start:stop]), torch.from_numpy(inside))

    def step(self, batch: _Batch) -> None:
        """Take one step of all probes."""
        x, of = self.x.index_select(0, batch.windows), self.group_of
        count = batch.inside.sum(1, keepdim=True)
        moments = self._moments(x, batch.inside / count)
        self._remember(moments, count)
        mean, scale = moments.mean[of], (moments.variance + EPSILON).rsqrt()[of]

        now = self.now
        reading = now.weight * (now.gain * scale[:, None])[:, :, None]
        # Summed as products and rows, not as einsum: that would copy the weights.
        offset = (now.weight * now.shift[:, :, None]).sum(-1) + now.bias
        offset -= (reading * mean[:, None, None]).sum(-1)
        z = torch.addmm(offset.view(-1, 1), reading.flatten(0, 2), x.T)
        g = self._loss_gradient(z.view(*offset.shape, -1), batch)

        total = g.sum(-1)
        a = torch.mm(g.flatten(0, 2), x).view_as(now.weight)
        a.sub_(total[..., None] * mean[:, None, None]).mul_(scale[:, None, None])
        gain = (a * now.weight).sum(2)
        shift = (total[..., None] * now.weight).sum(2)
        weight = a.mul_(now.gain[:, :, None]).add_(total[..., None] * now.shift[:, :, None])
        if self.kind == "classification":  # W_c moves by its gradient, W_0 by minus all of them
            weight, total = weight + weight.sum(2, keepdim=True), total + total.sum(2, keepdim=True)
        self._move(_Parameters(weight, total, gain, shift))

    def _moments(self, x: Tensor, share: Tensor) -> _Moments:
        """Mean and variance over each batch: (group, feature)."""
        mean, square = share @ x, share @ x.square()
        return _Moments(mean, square.sub_(mean.square()).clamp_(min=0))

    def _loss_gradient(self, z: Tensor, batch: _Batch) -> Tensor:
        """Gradient of the mean loss over the batch; 0 for windows that are not in it."""
        truth = self.truth.index_select(1, batch.windows)[:, None, None]
        weight = batch.inside[self.group_of]
        if self.weighted:
            weight = weight * self.weights.index_select(1, batch.windows)
        weight = (weight / weight.sum(1, keepdim=True))[:, None, None]
        if self.kind == "regression":
            return torch.sign(z - truth).mul_(weight)
        if z.shape[2] == 1:
            return torch.sigmoid(z).sub_(truth).mul_(weight)
        if self.absent is not None:
            z = z.masked_fill(self.absent, -torch.inf)
        hit = truth == torch.arange(1, z.shape[2] + 1)[:, None]
        # The first class has the logit 0.
        share = F.softmax(F.pad(z, (0, 0, 1, 0)), 2)[:, :, 1:]
        return (share - hit.to(z.dtype)) * weight

    def _move(self, gradient: _Parameters) -> None:
        """Take the step of every rate: v = .9 v + g, w = w - rate v."""
        for p, v, g in zip(self.now, self.velocity, gradient, strict=True):
            v.mul_(MOMENTUM).add_(g)
            p.addcmul_(v, self.rates.view(1, -1, *[1] * (p.ndim - 2)), value=-1)

    def _remember(self, moments: _Moments, count: Tensor) -> None:
        """Update running moments, the variance as an unbiased one."""
        self.running.mean.lerp_(moments.mean, _FORGET)
        self.running.variance.lerp_(moments.variance * (count / (count - 1)), _FORGET)

    def trained(self) -> Iterator[tuple[int, TrainedProbes]]:
        """Return the probes."""
        for i, asked in enumerate(self.order):
            group = int(self.group_of[i])
            weight, bias = self._whole(i)
            yield (
                asked,
                TrainedProbes(
                    weight=_numbers(weight),
                    bias=_numbers(bias),
                    gain=_numbers(self.now.gain[i]),
                    shift=_numbers(self.now.shift[i]),
                    running_mean=_numbers(self.running.mean[group]) + self.center,
                    running_variance=_numbers(self.running.variance[group]),
                ),
            )

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


def _numbers(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor as float64 numbers."""
    return values.double().numpy().copy()
