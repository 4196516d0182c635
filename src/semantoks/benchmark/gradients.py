"""Integrated gradients: how a held-out score comes together from ROIs, signed.

Groups are compared by the mean of what is signed. The mean of absolute gradients is not offered:
on cohorts whose answer is known it does not find it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError
from semantoks.evaluation.linear import FittedLinear
from semantoks.evaluation.metrics import bootstrap_weights
from semantoks.evaluation.readout import (
    WINDOW_PARTS,
    FeatureKind,
    Scans,
    evaluating,
    feature_parts,
    read_out,
    window_starts,
)
from semantoks.model.encoder import SemantoksEncoder, network_mask

STEPS: Final = 32
"""Places between a baseline and a scan where the gradient is taken."""
LARGEST_GAP: Final = 0.05
"""Share of the score that attributions may miss."""
FEWEST_PEOPLE: Final = 10
"""People whose gradients say anything of a group."""
_DRAWS: Final = 1000

Matrix = NDArray[np.float64]


class Gradients(NamedTuple):
    """What ROIs add to the score of scans, against two baselines, and the share that is missed."""

    silence: Float[Matrix, "scan roi"]
    others: Float[Matrix, "scan roi"]
    gap: float


def check_gradients(features: FeatureKind) -> None:
    """Refuse what no gradient reaches: read-outs that do not pass through tokens of a window."""
    for part in feature_parts(features):
        if part not in WINDOW_PARTS:
            raise ConfigurationError(
                f"gradients are of features that pass through tokens ({', '.join(WINDOW_PARTS)}), "
                f"not of {part}; leave gradients out, or name other features."
            )


def choose_people(
    subjects: NDArray[Any], truth: NDArray[Any], classes: int, count: int, seed: int
) -> NDArray[np.intp]:
    """Draw scans, one a person and as many of each class.

    Examples
    --------
    >>> rows = choose_people(np.array(["a", "a", "b", "c"]), np.array([0, 0, 1, 1]), 2, 2, seed=0)
    >>> len(rows), sorted(np.array([0, 0, 1, 1])[rows].tolist())
    (2, [0, 1])
    """
    order = np.random.default_rng(seed).permutation(len(subjects))
    _, first = np.unique(subjects[order], return_index=True)
    rows = order[np.sort(first)]
    if not classes:
        return np.sort(rows[:count])
    each = [rows[truth[rows] == one][: max(1, count // classes)] for one in range(classes)]
    return np.sort(np.concatenate(each))


def score_weights(probe: FittedLinear) -> Float[Matrix, "feature"]:
    """Say by how much the score of the second class, or a value, grows with a feature."""
    if isinstance(probe.model, LogisticRegression):
        raise ConfigurationError("gradients are of the ridge probe.")
    weights = probe.model.coefficients
    weights = weights[:, 1] - weights[:, 0] if probe.n_classes else weights[:, 0]
    scale = probe.scaler.scale_
    return np.asarray(weights if scale is None else weights / scale)


def integrated_gradients(
    encoder: SemantoksEncoder,
    scans: Scans,
    rows: NDArray[np.intp],
    weights: Float[Matrix, "row feature"],
    subjects: NDArray[Any],
    *,
    features: FeatureKind,
    windows: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Gradients:
    """Integrate gradients from silence, and from another person with random phases, to a scan."""
    random = np.random.default_rng(seed)
    parts: list[list[Matrix]] = [[], []]
    missed, whole = np.zeros(2), np.zeros(2)
    for number, (row, weight) in enumerate(zip(rows.tolist(), weights, strict=True)):
        starts = window_starts(int(scans.lengths[row]), encoder.window, windows)
        series = scans.read(np.full(len(starts), row), starts, encoder.window)
        there = encoder.network_valid(scans.valid[[row]])
        mask = network_mask(there, encoder.window // encoder.patch)
        others = rows[subjects[rows] != subjects[row]]
        other = _random_phases(scans, int(random.choice(others)), encoder.window, random)
        other *= scans.valid[row][:, None]
        for i, baseline in enumerate((np.zeros_like(other), other)):
            with evaluating(encoder):
                one, gap, size = _along(encoder, series, baseline, mask, weight, features)
            parts[i].append(one)
            missed[i] += abs(gap)
            whole[i] += abs(size)
        progress(number + 1, len(rows))
    gap = float((missed / np.maximum(whole, np.finfo(float).tiny)).max())
    return Gradients(np.array(parts[0]), np.array(parts[1]), gap)


def _random_phases(
    scans: Scans, row: int, length: int, random: np.random.Generator
) -> Float[NDArray[np.float32], "roi time"]:
    """Give all ROIs of a window the same random phases: spectrum and correlations stay."""
    start = random.integers(int(scans.lengths[row]) - length + 1)
    (series,) = scans.read(np.array([row]), np.array([start]), length)
    spectrum = np.fft.rfft(series, axis=1)
    turned = spectrum * np.exp(2j * np.pi * random.random(spectrum.shape[1]))
    turned[:, 0] = spectrum[:, 0]
    return np.asarray(np.fft.irfft(turned, n=length, axis=1), dtype=np.float32)


def _along(
    encoder: SemantoksEncoder,
    series: Float[NDArray[np.float32], "window roi time"],
    baseline: Float[NDArray[np.float32], "roi time"],
    mask: Tensor | None,
    weight: Float[Matrix, "feature"],
    features: FeatureKind,
) -> tuple[Float[Matrix, "roi"], float, float]:
    """Integrate along a straight line; say what the sum misses of the score's difference."""
    first = next(encoder.parameters())
    end = torch.from_numpy(series).to(first)
    begin = torch.from_numpy(baseline).to(first).expand_as(end)
    along = torch.from_numpy(weight).to(first)

    def scores(x: Tensor) -> Tensor:
        hidden = None if mask is None else mask.to(first.device).expand(len(x), -1, -1)
        return read_out(encoder(x, hidden), features) @ along

    with torch.enable_grad():
        share = (torch.arange(STEPS, device=first.device) + 0.5).to(first) / STEPS
        x = begin + share[:, None, None, None] * (end - begin)
        x = x.flatten(0, 1).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(scores(x).sum(), x)
    with torch.no_grad():
        mean = gradient.reshape(STEPS, *end.shape).mean(0)
        added = (mean * (end - begin)).sum(2).mean(0)
        size = float((scores(end) - scores(begin)).mean())
    return added.cpu().double().numpy(), size - float(added.sum()), size


def gradient_tables(
    found: Gradients,
    truth: NDArray[Any],
    classes: int,
    units: NDArray[Any],
    atlas: Atlas,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the groups, or how attributions go with the value: networks, and ROIs."""
    if classes:
        contrast = [(truth == 0).astype(np.float64), (truth == 1).astype(np.float64)]
    else:
        z = (truth - truth.mean()) / truth.std()
        contrast = [np.ones(len(truth)), z]
    draws = bootstrap_weights(units.astype(str), _DRAWS, seed)
    of_network = np.zeros((len(atlas), len(atlas.network_names)))
    for k, places in enumerate(atlas.network_indices):
        of_network[places, k] = 1
    networks = pd.DataFrame(
        {"network": atlas.network_names, "n_roi": [len(places) for places in atlas.network_indices]}
    )
    rois = pd.DataFrame({"label": atlas.labels, "network": atlas.networks})
    rois[["x", "y", "z"]] = atlas.coordinates
    for table, sums in ((networks, of_network), (rois, np.eye(len(atlas)))):
        value, low, high = _contrast(found.silence @ sums, contrast, draws, classes)
        table["value"], table["low"], table["high"] = value, low, high
        table["against_others"] = _contrast(found.others @ sums, contrast, draws, classes)[0]
    order = networks["value"].abs().sort_values(ascending=False).index
    return networks.reindex(order).reset_index(drop=True), rois


def _contrast(
    added: Float[Matrix, "scan column"],
    contrast: list[Float[Matrix, "scan"]],
    draws: Float[Matrix, "draw scan"],
    classes: int,
) -> tuple[NDArray[np.float64], ...]:
    """Take the difference of two classes, or the covariance with a standardised value."""

    def of(weights: Float[Matrix, "draw scan"]) -> Float[Matrix, "draw column"]:
        first, second = (weights * one for one in contrast)
        known = first.sum(axis=1, keepdims=True)
        mean = (first @ added) / np.maximum(known, 1)
        if classes:
            other = (second @ added) / np.maximum(second.sum(axis=1, keepdims=True), 1)
            return np.asarray(other - mean)
        return np.asarray((second @ added - second.sum(axis=1, keepdims=True) * mean) / known)

    low, high = np.quantile(of(draws), [0.025, 0.975], axis=0)
    return of(np.ones((1, draws.shape[1])))[0], low, high
