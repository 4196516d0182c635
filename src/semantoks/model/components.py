"""A short description without labels or training: components of the logarithm of connectivity.

With R the correlation of a whole scan, log(.7 R + .3 I) is described by its leading components
over some scans, in order and with their own spread: a flat spectrum would let noise speak as loud
as what is reliable. Scores of the scans that made the basis are larger than those of others would
be; they are shrunk, so that a linear model learns on the scale on which it is tested.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.errors import InputError

if TYPE_CHECKING:
    from semantoks.data.store import Store

SHARE: Final = 0.7
"""Of the correlation; the rest is the identity, so that there is a logarithm."""
MOST: Final = 400
"""Components at most."""
_SMALLEST: Final = 1e-6
_SHARE_OF_SCANS: Final = 0.55
"""Components a scan at most."""
_NOISE_FROM: Final = (256, 0.3)
"""Eigenvalues after these many, or after this share of scans, count as noise."""
_SMALLEST_FACTOR: Final = 0.05
FEWEST_SAMPLES: Final = 20
"""Samples that a scan has at least."""
_FEWEST_SCANS: Final = 4
_MOST_SCANS: Final = 4_000
"""Scans that a basis is learned from at most: their inner products must fit into memory."""


def has_signal(
    series: Float[NDArray[np.floating[Any]], "roi time"], valid: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Tell which ROIs are valid and change."""
    alive = np.asarray(np.ptp(series, axis=1) > 0)
    return alive if valid is None else alive & valid


def log_connectivity(
    series: Float[NDArray[np.floating[Any]], "roi time"], valid: NDArray[np.bool_] | None = None
) -> Float[NDArray[np.float64], "entry"]:
    """Compute the lower triangle, with diagonal, of log(.7 R + .3 I).

    A ROI without signal is given no bond to others and the diagonal that others have on average.

    Examples
    --------
    >>> series = np.array([[1.0, -1, 1, -1], [1, 1, -1, -1], [3, 3, 3, 3]])
    >>> log_connectivity(series).round(3).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    kept = np.flatnonzero(has_signal(series, valid))
    whole = np.zeros((len(series), len(series)))
    if len(kept):
        r = np.atleast_2d(np.corrcoef(series[kept].astype(np.float64)))
        logarithm = matrix_logarithm(SHARE * r + (1 - SHARE) * np.eye(len(kept)), _SMALLEST)
        np.fill_diagonal(whole, logarithm.diagonal().mean())
        whole[np.ix_(kept, kept)] = logarithm
    return whole[np.tril_indices(len(series))]


def matrix_logarithm(
    matrices: Float[NDArray[np.float64], "*batch roi roi"], smallest: float = 0.0
) -> Float[NDArray[np.float64], "*batch roi roi"]:
    """Compute the logarithms of symmetric matrices; smaller eigenvalues are raised to smallest."""
    values, vectors = np.linalg.eigh(matrices)
    values = np.log(np.maximum(values, smallest))
    return np.asarray((vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def log_connectivity_features(store: Store) -> Float[NDArray[np.float32], "scan entry"]:
    """Compute the logarithm of the connectivity of every scan."""
    rois = len(store.atlas)
    rows = np.empty((len(store), rois * (rois + 1) // 2), dtype=np.float32)
    for scan in range(len(store)):
        rows[scan] = log_connectivity(store.series(scan), store.valid[scan])
    return rows


class Components(NamedTuple):
    """Leading components of some scans, and the scale on which others are described."""

    mean: Float[NDArray[np.float64], "entry"]
    basis: Float[NDArray[np.float64], "entry component"]  # of length √taper
    shrink: Float[NDArray[np.float64], "component"]  # of scores of those who made the basis

    def transform(
        self, rows: Float[NDArray[np.floating[Any]], "scan entry"]
    ) -> Float[NDArray[np.float64], "scan component"]:
        """Describe scans that did not make the basis."""
        return np.asarray((rows - self.mean) @ self.basis)


def fit_components(
    rows: Float[NDArray[np.floating[Any]], "scan entry"], most: int = MOST
) -> tuple[Components, Float[NDArray[np.float64], "scan component"]]:
    """Learn components of scans, and describe these very scans.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((40, 300))
    >>> components, own = fit_components(rows)
    >>> own.shape
    (40, 22)
    """
    n = len(rows)
    check_enough(n)
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > 1e-10 * values[0]).sum()) if values[0] > 0 else 0
    k = min(most, int(_SHARE_OF_SCANS * n), rank - 1)
    if k < 1:
        raise InputError(f"the {n} scans to learn components from are all alike; give others.")
    noise = values[min(_NOISE_FROM[0], int(_NOISE_FROM[1] * n)) : n - 1].mean()
    root_taper = np.sqrt((values[:k] - values[k]) / values[:k])
    shrink = np.maximum(1 - noise / values[:k], _SMALLEST_FACTOR)
    basis = centred.T @ (vectors[:, :k] / np.sqrt(values[:k]) * root_taper)
    own = vectors[:, :k] * np.sqrt(values[:k]) * shrink * root_taper
    return Components(mean, np.asarray(basis), np.asarray(shrink)), np.asarray(own)


def check_enough(scans: int) -> None:
    """Refuse to learn components from a handful of scans."""
    if scans < _FEWEST_SCANS:
        raise InputError(
            f"components need at least {_FEWEST_SCANS} scans to be learned from, but {scans} came."
        )


class ComponentReadOut(nn.Module):
    """Components that travel with the weights of a model.

    Scans that made the basis are known by a digest of their series, and their scores are shrunk.
    """

    mean: Float[Tensor, "entry"]
    basis: Float[Tensor, "entry component"]
    shrink: Float[Tensor, "component"]
    made_of: Int[Tensor, "scan"]

    def __init__(self, rois: int, numbers: int, scans: int) -> None:
        super().__init__()
        entries = rois * (rois + 1) // 2
        self.sizes = {"numbers": numbers, "scans": scans}
        self.register_buffer("mean", torch.zeros(entries))
        self.register_buffer("basis", torch.zeros(entries, numbers))
        self.register_buffer("shrink", torch.ones(numbers))
        self.register_buffer("made_of", torch.zeros(scans, dtype=torch.int64))

    def describe(
        self, series: Float[NDArray[np.float32], "roi time"], valid: NDArray[np.bool_]
    ) -> Float[NDArray[np.float32], "component"]:
        """Describe a whole scan; ROIs without signal are taken to be as they are on average."""
        row = torch.from_numpy(log_connectivity(series, valid)).float().to(self.mean.device)
        known = torch.from_numpy(_known(has_signal(series, valid))).to(self.mean.device)
        scores = torch.where(known, row - self.mean, 0.0) @ self.basis
        if bool((self.made_of == _digest(series)).any()):
            scores = scores * self.shrink
        return np.asarray(scores.cpu().numpy())

    def describe_scales(self) -> dict[str, Any]:
        """Say how numbers are scaled, for those who read the folder of a model."""
        taper = self.basis.double().square().sum(dim=0)
        return {
            "share_of_correlation": SHARE,
            "taper": [round(value, 6) for value in taper.tolist()],
            "shrink_of_those_who_made_it": [round(v, 6) for v in self.shrink.double().tolist()],
        }


def fit_read_out(store: Store, most: int = MOST) -> ComponentReadOut:
    """Learn components of the scans of a store, or of 4,000 evenly chosen ones."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(_MOST_SCANS, len(store))).astype(int))
    rois = len(store.atlas)
    rows = np.empty((len(chosen), rois * (rois + 1) // 2), dtype=np.float32)
    unknown = np.zeros(rows.shape, dtype=bool)
    digests = np.empty(len(chosen), dtype=np.int64)
    for i, scan in enumerate(chosen):
        series, valid = store.series(int(scan)), store.valid[scan]
        rows[i], digests[i] = log_connectivity(series, valid), _digest(series)
        unknown[i] = ~_known(has_signal(series, valid))
    seen = np.maximum((~unknown).sum(axis=0), 1)
    average = np.where(unknown, 0, rows).sum(axis=0, dtype=np.float64) / seen
    np.copyto(rows, average.astype(np.float32), where=unknown)
    found, _ = fit_components(rows, most)
    made = ComponentReadOut(rois, found.basis.shape[1], len(chosen))
    made.mean.copy_(torch.from_numpy(found.mean))
    made.basis.copy_(torch.from_numpy(found.basis))
    made.shrink.copy_(torch.from_numpy(found.shrink))
    made.made_of.copy_(torch.from_numpy(digests))
    return made


def _known(signal: Bool[NDArray[np.bool_], "roi"]) -> Bool[NDArray[np.bool_], "entry"]:
    """Tell of which entries both ROIs have signal."""
    return np.logical_and.outer(signal, signal)[np.tril_indices(len(signal))]


def _digest(series: NDArray[np.float32]) -> int:
    """Condense the series of a scan to 64 bits."""
    content = np.ascontiguousarray(series, dtype=np.float32).tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)
