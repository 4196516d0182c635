"""What probes learn from, in which batches, and what becomes of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST_BATCH: Final = 256
"""Windows in a step, unless the training part has less than eight times as many."""
EPSILON: Final = 1e-5
"""Added to variances, as in BatchNorm1d."""

_INITIAL_DEVIATION: Final = 2e-5


@dataclass(frozen=True, eq=False)
class ProbeData:
    """What one probe learns from, at every rate.

    Parameters
    ----------
    rows : ndarray of int, shape (item,)
        Rows of the windows to learn from.
    truth : ndarray of shape (item,)
        Codes of the classes without a gap (0, 1, ...), or standardised values.
    weights : ndarray of shape (item,), optional
        Weight of every window in the loss; all the same if not given.
    """

    rows: NDArray[np.intp]
    truth: NDArray[np.int64] | NDArray[np.float64]
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class TrainedProbes:
    """Probes of one training part, a rate each.

    Parameters
    ----------
    weight : ndarray of shape (rate, output, feature)
        Of Linear.
    bias : ndarray of shape (rate, output)
        Of Linear.
    gain, shift : ndarray of shape (rate, feature)
        Weight and bias of BatchNorm1d.
    running_mean, running_variance : ndarray of shape (feature,)
        Of BatchNorm1d.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    gain: NDArray[np.float64]
    shift: NDArray[np.float64]
    running_mean: NDArray[np.float64]
    running_variance: NDArray[np.float64]

    def outputs(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply the probes as in evaluation: with running moments.

        The output is affine in the features, so that the mean output over the windows of a scan is
        the output of their mean.

        Parameters
        ----------
        features : ndarray of shape (row, feature)
            Features of windows, or means of them.

        Returns
        -------
        ndarray of shape (rate, row, output)
            Logits, or standardised values.
        """
        scale = self.gain / np.sqrt(self.running_variance + EPSILON)
        centred = np.asarray(features, dtype=np.float64) - self.running_mean
        slopes = self.weight * scale[:, None]
        constant = np.einsum("rod,rd->ro", self.weight, self.shift) + self.bias
        return np.asarray(centred @ slopes.transpose(0, 2, 1) + constant[:, None])


def batch_size(n_items: int) -> int:
    """Return how many windows a step sees: an eighth of all, at most 256.

    Parameters
    ----------
    n_items : int
        Windows to learn from.

    Returns
    -------
    int
        Windows in a step, at least the two that a variance needs.

    Examples
    --------
    >>> batch_size(5600), batch_size(800)
    (256, 100)
    """
    return max(min(LARGEST_BATCH, n_items // 8), min(2, n_items))


def draw_batches(rows: NDArray[np.intp], *, epochs: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Draw the batches of a training part; they depend on nothing but it and the seed.

    Every epoch is a permutation, whose last windows are left out if they do not fill a batch.

    Parameters
    ----------
    rows : ndarray of int, shape (item,)
        Rows of the windows.
    epochs : int
        How often each is seen.
    seed : int
        Seed of the permutations.

    Yields
    ------
    ndarray of int, shape (batch,)
        Positions in `rows`.
    """
    random = np.random.default_rng([seed, _checksum(rows)])
    size = batch_size(len(rows))
    for _ in range(epochs):
        order = random.permutation(len(rows))
        for first in range(0, len(rows) - size + 1, size):
            yield order[first : first + size]


def initial_weight(data: ProbeData, n_outputs: int, width: int, *, seed: int) -> Tensor:
    """Draw the weights that all rates of a probe start from.

    Parameters
    ----------
    data : ProbeData
        What is learned from.
    n_outputs, width : int
        Shape of the weights.
    seed : int
        Seed of the draw.

    Returns
    -------
    Tensor of shape (output, feature)
        Truncated normal of deviation 2e-5.
    """
    generator = torch.Generator().manual_seed((seed << 32) + _checksum(data.rows))
    weight = torch.empty(n_outputs, width)
    return torch.nn.init.trunc_normal_(weight, std=_INITIAL_DEVIATION, generator=generator)


class Group(NamedTuple):
    """Probes that learn from the same windows.

    Parameters
    ----------
    rows : ndarray of int, shape (item,)
        Rows of the windows.
    members : tuple of int
        Which probes.
    """

    rows: NDArray[np.intp]
    members: tuple[int, ...]


def group_by_windows(data: Sequence[ProbeData]) -> tuple[Group, ...]:
    """Put probes that learn from the same windows together.

    Parameters
    ----------
    data : sequence of ProbeData
        What each probe learns from.

    Returns
    -------
    tuple of Group
        Those with most steps first.
    """
    members: dict[bytes, list[int]] = {}
    for i, d in enumerate(data):
        members.setdefault(np.asarray(d.rows, dtype=np.int64).tobytes(), []).append(i)
    groups = [Group(data[m[0]].rows, tuple(m)) for m in members.values()]
    return tuple(sorted(groups, key=lambda g: len(g.rows) // batch_size(len(g.rows)), reverse=True))


def _checksum(rows: NDArray[np.intp]) -> int:
    """Return a number that tells training parts apart."""
    return zlib.crc32(np.asarray(rows, dtype=np.int64).tobytes())
