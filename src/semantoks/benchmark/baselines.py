"""Baselines: connectivity, confounds, temporal statistics, a perceptron and a dummy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import NDArray
from scipy.signal import periodogram
from scipy.stats import kurtosis, skew
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from torch import Tensor, nn

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError
from semantoks.evaluation.confounds import ConfoundDesign
from semantoks.evaluation.finetuning import (
    WindowModel,
    WindowTraining,
    take_scans,
    trained_predictions,
)
from semantoks.evaluation.linear import Classifier, FoldPrediction, learning_from_both, rotate
from semantoks.evaluation.metrics import SITE
from semantoks.evaluation.probe import predictions_of_folds
from semantoks.evaluation.readout import store_scans
from semantoks.evaluation.splits import Kind, Split
from semantoks.model.components import MOST, fit_components, has_signal

EdgeKind = Literal["correlation", "partial"]
"""Pearson's correlation of two ROIs, or their correlation given all other ROIs."""

_STRONGEST: Final = 1 - 1e-6
"""Correlations are cut here, so that two identical ROIs have a finite Fisher z."""


def connectivity_features(
    store: Store,
    *,
    kind: EdgeKind = "correlation",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Compute the Fisher z of the correlation of every pair of ROIs, of every scan.

    Parameters
    ----------
    store : Store
        The scans; whole series are used.
    kind : {"correlation", "partial"}
        Pearson's correlation, or the partial correlation given all other ROIs (from the precision
        of the covariance that Ledoit and Wolf shrink: there are about as many ROIs as samples).
    progress : callable, optional
        Called with the number of scans that are done and the number of all.

    Returns
    -------
    ndarray of float32, shape (scan, edge)
        The ROI × (ROI - 1) / 2 edges of the lower triangle, row by row; 0 where a ROI of the scan
        carries no signal.

    Raises
    ------
    ConfigurationError
        If the kind is unknown.
    """
    rois = len(store.atlas)
    lower = np.tril_indices(rois, -1)
    edges = np.empty((len(store), len(lower[0])), dtype=np.float32)
    for scan in range(len(store)):
        edges[scan] = fisher_z(store.series(scan), store.valid[scan], kind=kind)[lower]
        if progress is not None:
            progress(scan + 1, len(store))
    return edges


def fisher_z(
    series: Float[NDArray[np.floating[Any]], "roi time"],
    valid: NDArray[np.bool_] | None = None,
    *,
    kind: EdgeKind = "correlation",
) -> Float[NDArray[np.float64], "roi roi"]:
    """Compute the Fisher z of the correlations of one scan.

    Examples
    --------
    >>> series = np.array([[1.0, 2, 3, 4], [1, -1, -1, 1], [5, 5, 5, 5]])
    >>> fisher_z(series + np.array([[0], [1], [0]])).round(2).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if kind not in ("correlation", "partial"):
        raise ConfigurationError(f"edges are correlation or partial, not {kind!r}.")
    alive = has_signal(series, valid)
    z = np.zeros((len(series), len(series)))
    kept = np.flatnonzero(alive)
    if len(kept) > 1:
        measure = _measure(kind)
        correlation = measure.fit_transform([series[kept].T.astype(np.float64)])[0]
        np.fill_diagonal(correlation, 0.0)
        z[np.ix_(kept, kept)] = np.arctanh(np.clip(correlation, -_STRONGEST, _STRONGEST))
    return z


def _measure(kind: EdgeKind) -> Any:
    """Make nilearn's measure of connectivity."""
    if kind == "partial":
        shrunk = LedoitWolf(store_precision=False)
        return ConnectivityMeasure(shrunk, kind="partial correlation", standardize=False)
    empirical = EmpiricalCovariance(store_precision=False)
    return ConnectivityMeasure(empirical, kind="correlation", standardize=False)


def connectivity_halves(store: Store) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the Fisher z of Pearson's correlations in each half of every scan."""
    lower = np.tril_indices(len(store.atlas), -1)
    halves = np.empty((2, len(store), len(lower[0])), dtype=np.float32)
    for scan in range(len(store)):
        series, valid = store.series(scan), store.valid[scan]
        length = series.shape[1] // 2
        halves[0, scan] = fisher_z(series[:, :length], valid)[lower]
        halves[1, scan] = fisher_z(series[:, -length:], valid)[lower]
    return halves[0], halves[1]


def dummy_predictions(
    truth: Shaped[NDArray[Any], "scan"], splits: Sequence[Split], *, kind: Kind
) -> tuple[FoldPrediction, ...]:
    """Predict the mean value of the training part, or always the first class, with equal scores.

    Which class is most frequent in a training part depends on the test part that was taken out of
    it, so that predicting it scores below chance. One class for all folds is exactly at chance.

    Examples
    --------
    >>> split = Split("mine", 0, "0", train=np.array([0, 1]), test=np.array([2]))
    >>> dummy_predictions(np.array([1.0, 2.0, 9.0]), [split], kind="regression")[0].prediction
    array([1.5])
    """
    if kind == "regression":
        return tuple(
            FoldPrediction(
                split,
                np.full(len(split.test), truth[split.train].mean()),
                np.empty((len(split.test), 0)),
            )
            for split in splits
        )
    n_classes = int(truth.max()) + 1
    return tuple(
        FoldPrediction(
            split,
            np.zeros(len(split.test), dtype=np.int64),
            np.full((len(split.test), n_classes), 1 / n_classes),
        )
        for split in splits
    )


def confound_predictions(
    scans: pd.DataFrame,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    columns: Sequence[str],
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    classifier: Classifier = "ridge",
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split from confounds.

    Numbers are standardised, texts become a column a value, missing numbers the mean and missing
    texts the most frequent value, all of the training part. A value that the training part does
    not have, such as a site that is left out, has zero in all columns.

    Examples
    --------
    >>> import numpy as np
    >>> scans = pd.DataFrame({"motion": [0.1, 0.9, 0.1, 0.8, 0.1, None]})
    >>> split = Split("mine", 0, "0", train=np.arange(4), test=np.array([4, 5]))
    >>> (fold,) = confound_predictions(
    ...     scans, np.array([1.0, 9, 1, 8, 1, 5]), [split],
    ...     columns=["motion"], kind="regression", subjects=np.arange(6),
    ... )
    >>> fold.prediction.round(1)
    array([1. , 4.8])
    """

    def describe(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        design = ConfoundDesign(tuple(columns), unseen="zero").fit(scans.iloc[split.train])
        train, test = design.transform(scans.iloc[split.train]), scans.iloc[split.test]
        return train, design.transform(test)

    return predictions_of_folds(
        describe, truth, splits, kind=kind, subjects=subjects, classifier=classifier
    )


def site_predictions(
    sites: Shaped[NDArray[Any], "scan"],
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
) -> tuple[FoldPrediction, ...]:
    """Predict from the site alone."""
    where = pd.DataFrame({SITE: sites})
    return confound_predictions(where, truth, splits, columns=[SITE], kind=kind, subjects=subjects)


def component_predictions(
    rows: Float[NDArray[np.floating[Any]], "scan entry"],
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    pools: Sequence[Split] | None = None,
    most: int = MOST,
) -> tuple[FoldPrediction, ...]:
    """Predict from components of connectivity that are learned in every training part.

    They need no labels: where some were left out, components are learned from pools, which are the
    splits before that.
    """
    rows = rotate(rows)  # components, too, are of inner products alone
    whole = {(pool.repeat, pool.fold): learning_from_both(pool).train for pool in pools or splits}

    def describe(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        pool = whole[split.repeat, split.fold]
        components, own = fit_components(rows[pool], most)
        scores = np.empty((len(rows), own.shape[1]))
        scores[pool] = own
        return scores[split.train], components.transform(rows[split.test])

    return predictions_of_folds(
        describe, truth, splits, kind=kind, subjects=subjects, scaling="center"
    )


def centred_by_site(
    rows: Float[NDArray[np.floating[Any]], "scan entry"], sites: Shaped[NDArray[Any], "scan"]
) -> Float[NDArray[np.float32], "scan entry"]:
    """Take the mean of every site off, of all its scans: no label is looked at.

    Examples
    --------
    >>> centred_by_site(np.array([[1.0], [3.0], [9.0]]), np.array(["a", "a", "b"])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    centred = np.array(rows, dtype=np.float32)
    for site in np.unique(sites):
        centred[sites == site] -= centred[sites == site].mean(axis=0)
    return centred


TEMPORAL_STATISTICS: Final = (
    "lag1",
    "skewness",
    "kurtosis",
    "power_low",
    "power_mid",
    "power_high",
)
"""Lag-1 autocorrelation, skewness, excess kurtosis, and the share of the power in each third of
the band that passed the filter."""


def temporal_features(
    store: Store, *, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """Compute temporal statistics of every ROI of every scan.

    A store holds z-scored series: the mean of every ROI is 0 and its standard deviation 1 in all
    scans, so that "mean and deviation of the ROIs" cannot tell anybody from anybody. What survives
    is how the signal moves: its autocorrelation, the shape of its distribution and its spectrum.
    """
    rows = np.empty((len(store), len(TEMPORAL_STATISTICS) * len(store.atlas)), dtype=np.float32)
    for scan in range(len(store)):
        statistics = temporal_statistics(
            store.series(scan), store.t_r, store.preprocessing.band, store.valid[scan]
        )
        rows[scan] = statistics.ravel()
        if progress is not None:
            progress(scan + 1, len(store))
    return rows


def temporal_statistics(
    series: Float[NDArray[np.floating[Any]], "roi time"],
    t_r: float,
    band: tuple[float | None, float | None] = (None, None),
    valid: NDArray[np.bool_] | None = None,
) -> Float[NDArray[np.float64], "statistic roi"]:
    """Compute temporal statistics of one scan.

    Examples
    --------
    >>> slow = np.sin(2 * np.pi * 0.02 * 2.0 * np.arange(100))
    >>> temporal_statistics(slow[None], 2.0, (0.01, 0.1))[[0, 3]].round(1).ravel().tolist()
    [1.0, 1.0]
    """
    alive = has_signal(series, valid)
    statistics = np.zeros((len(TEMPORAL_STATISTICS), len(series)))
    if not alive.any():
        return statistics
    x = series[alive].astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    lag1 = (x[:, 1:] * x[:, :-1]).sum(axis=1) / (x**2).sum(axis=1)
    shares = _power_shares(x, t_r, band)
    statistics[:, alive] = np.stack([lag1, skew(x, axis=1), kurtosis(x, axis=1), *shares])
    statistics[:, ~alive] = statistics[:, alive].mean(axis=1, keepdims=True)
    return statistics


def _power_shares(
    x: NDArray[np.float64], t_r: float, band: tuple[float | None, float | None]
) -> NDArray[np.float64]:
    """Return the share of the power in each third of the band, shape (third, roi)."""
    frequency, power = periodogram(x, fs=1 / t_r, axis=1)
    edges = np.linspace(band[0] or 0.0, band[1] or 0.5 / t_r, 4)
    third = np.clip(np.searchsorted(edges, frequency, side="right") - 1, 0, 2)
    summed = power @ np.eye(3)[third]
    return np.asarray((summed / summed.sum(axis=1, keepdims=True)).T)


MLP_TRAINING: Final = WindowTraining(learning_rate=1e-3)
"""As fine-tuning, but at a rate for weights that start from nothing."""


class RoiMlp(WindowModel):
    """Reads a window ROI by ROI, then all ROIs together.

    The series of every ROI goes through the same linear layer; what comes out of all of them is
    joined and goes through one hidden layer: Linear(time -> roi_dim), GELU, flatten, LayerNorm,
    dropout, Linear(roi * roi_dim -> hidden_dim), GELU, dropout, Linear(hidden_dim -> output).

    Examples
    --------
    >>> import torch
    >>> mlp = RoiMlp(200, 100, 2)
    >>> mlp(torch.zeros(3, 200, 100), np.ones((3, 200), dtype=bool)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        rois: int,
        window: int,
        n_outputs: int,
        *,
        roi_dim: int = 16,
        hidden_dim: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(window, hidden_dim)
        self.each = nn.Sequential(nn.Linear(window, roi_dim), nn.GELU())
        self.all = nn.Sequential(
            nn.Flatten(),
            nn.LayerNorm(rois * roi_dim),
            nn.Dropout(dropout),
            nn.Linear(rois * roi_dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, n_outputs),
        )

    def forward(
        self, series: Float[Tensor, "batch roi time"], valid: NDArray[np.bool_]
    ) -> Float[Tensor, "batch output"]:
        """Read windows."""
        outputs: Tensor = self.all(self.each(series))
        return outputs

    def rates(self, learning_rate: float) -> list[dict[str, Any]]:
        """Let all layers learn at the same rate."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]


def mlp_predictions(
    store: Store,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    rows: NDArray[np.intp] | None = None,
    window: int = 100,
    settings: WindowTraining = MLP_TRAINING,
    roi_dim: int = 16,
    hidden_dim: int = 128,
    dropout: float = 0.5,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train a perceptron in every split and predict its test part.

    Trained, chosen on validation and averaged over windows as fine-tuning is.
    """
    if min(window, roi_dim, hidden_dim) < 1 or not 0 <= dropout < 1:
        raise ConfigurationError(
            f"a perceptron on windows of {window} samples with {roi_dim} numbers a ROI, "
            f"{hidden_dim} hidden ones and a dropout of {dropout} is not possible."
        )

    def build(n_outputs: int) -> WindowModel:
        return RoiMlp(
            len(store.atlas),
            window,
            n_outputs,
            roi_dim=roi_dim,
            hidden_dim=hidden_dim,
            dropout=dropout,
        )

    scans = store_scans(store)
    return trained_predictions(
        build,
        scans if rows is None else take_scans(scans, rows),
        truth,
        splits,
        kind=kind,
        subjects=subjects,
        settings=settings,
        device=device,
        progress=progress,
    )
