"""What probes learn from, in which batches, and what becomes of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

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
