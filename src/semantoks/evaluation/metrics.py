"""Metrics for many weightings of the scans at once, so that a bootstrap is one product of matrices.

Every metric takes the truth first, and either no weights or weights of shape (scan,) or
(draw, scan); it returns one number a draw. `semantoks.evaluation.metrics` draws whole subjects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray

from semantoks.errors import InputError
from semantoks.evaluation.splits import Kind

Vector = NDArray[np.float64]


def bootstrap_weights(
    subjects: Shaped[ArrayLike, "scan"],
    n: int,
    seed: int,
    folds: Shaped[ArrayLike, "scan"] | None = None,
) -> Float[Vector, "n scan"]:
    """Draw subjects with replacement, each with all of their scans.

    With `folds`, folds are drawn with replacement first, and then in each of them as many of its
    subjects as it has. All scans of a fold were predicted by one model; drawing folds tells how
    much a score depends on that, which drawing subjects alone does not.

    Examples
    --------
    >>> weights = bootstrap_weights(["a", "a", "b"], n=4, seed=0)
    >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
    ((4, 3), True)
    """
    people = np.asarray(subjects)
    fold = np.zeros(len(people)) if folds is None else np.asarray(folds)
    if n < 1 or not len(people):
        found = len(np.unique(people))
        raise InputError(f"a bootstrap of {n} draws over {found} subjects is not possible.")
    random = np.random.default_rng(seed)
    names = np.unique(fold)
    times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    weights = np.zeros((n, len(people)))
    for name, drawn in zip(names, times.T, strict=True):
        rows = np.flatnonzero(fold == name)
        inside, code = np.unique(people[rows], return_inverse=True)
        share = np.full(len(inside), 1 / len(inside))
        weights[:, rows] = random.multinomial(drawn * len(inside), share)[:, code]
    return weights


def interval(draws: Shaped[ArrayLike, "draw"], confidence: float = 0.95) -> tuple[float, float]:
    """Compute the percentile interval of what a bootstrap returned.

    Examples
    --------
    >>> interval(range(101), 0.5)
    (25.0, 75.0)
    """
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[np.isfinite(defined)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


CONNECTIVITY: Final = "connectivity"
"""The method that every other one is held against."""
DUMMY: Final = "dummy"
"""The method that does not look at the scans."""
SITE: Final = "site"
"""The method that knows of a scan only where it was made."""
METRICS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "classification": ("balanced_accuracy", "auc", "f1"),
    "regression": ("r2", "mae", "pearson_r"),
}
"""Metrics of each kind of target, the deciding one first."""
WITHIN_SITE: Final[Mapping[Kind, str]] = {
    "classification": "auc_within_site",
    "regression": "pearson_r_within_site",
}
"""Metrics that compare scans of one site only, so that knowing the site gains nothing."""
METRIC_NAMES: Final[Mapping[str, str]] = {
    "balanced_accuracy": "balanced accuracy",
    "auc": "area under the ROC curve",
    "f1": "F1 (mean over the classes)",
    "r2": "R² (explained variance)",
    "mae": "mean absolute error (unit of the target; lower is better)",
    "pearson_r": "Pearson's r (within folds)",
    "auc_within_site": "area under the ROC curve within sites (pairs of one site)",
    "pearson_r_within_site": "Pearson's r within sites (means of sites removed)",
}
"""Metrics in words."""
LOWER_IS_BETTER: Final = frozenset({"mae"})
"""Metrics of which a smaller value is the better one."""


def metrics_of(kind: Kind, sites: object = None) -> tuple[str, ...]:
    """List the metrics of a kind of target, with the one within sites where these are known.

    Examples
    --------
    >>> metrics_of("regression", sites=["Oslo", "Bonn"])
    ('r2', 'mae', 'pearson_r', 'pearson_r_within_site')
    """
    return METRICS[kind] if sites is None else (*METRICS[kind], WITHIN_SITE[kind])


def balanced_accuracy(
    truth: Shaped[ArrayLike, "scan"],
    prediction: Shaped[ArrayLike, "scan"],
    weights: Shaped[ArrayLike, "*draw scan"] | None = None,
) -> Float[Vector, "*draw"]:
    """Compute the mean of the recalls of the classes that occur in the truth.

    Examples
    --------
    >>> round(float(balanced_accuracy([0, 0, 0, 1], [0, 0, 1, 1])), 4)
    0.8333
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    drawn = _weights(weights, len(truth), len(prediction))
    members = truth[:, None] == np.unique(truth)[None, :]
    hits = members & (truth == prediction)[:, None]
    present = drawn @ members.astype(np.float64)
    recall = _ratio(drawn @ hits.astype(np.float64), present)
    return np.asarray(_ratio(np.nansum(recall, axis=-1), (present > 0).sum(axis=-1)))


def auc(
    truth: Shaped[ArrayLike, "scan"],
    score: Shaped[ArrayLike, "scan class"],
    weights: Shaped[ArrayLike, "*draw scan"] | None = None,
    folds: Shaped[ArrayLike, "scan"] | None = None,
) -> Float[Vector, "*draw"]:
    """Compute the area under the ROC curve from continuous scores.

    More than two classes: the mean over the classes of the area of one class against the rest.

    Scores of two folds come from two models, whose intercepts and scales differ, so that comparing
    them says nothing (and on random labels gives less than .5, since a fold with many scans of a
    class was predicted by a model that saw few of them). With `folds`, only pairs of scans of the
    same fold count: the sum over folds of the concordant pairs, over the sum of all pairs. A fold
    with one class has no pairs.

    Examples
    --------
    >>> score = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]
    >>> float(auc([0, 0, 1, 1], score))
    0.75
    >>> float(auc([0, 0, 1, 1], score, folds=[0, 1, 0, 1]))
    1.0
    """
    truth, score = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if score.ndim != 2 or score.shape[1] < 2 or truth.max(initial=0) >= score.shape[1]:
        raise InputError(
            f"the area under the curve needs scores of shape (scan, class); came {score.shape} "
            f"for classes up to {truth.max(initial=0)}. Give continuous scores, not labels."
        )
    drawn = _weights(weights, len(truth), len(score))
    columns: Sequence[int] = [1] if score.shape[1] == 2 else range(score.shape[1])
    fold = _folds(folds, len(truth))
    members = [np.flatnonzero(fold == one) for one in np.unique(fold)]
    areas = np.stack([_area(truth == c, score[:, c], drawn, members) for c in columns])
    return np.asarray(_ratio(np.nansum(areas, axis=0), np.isfinite(areas).sum(axis=0)))


def r2(
    truth: Shaped[ArrayLike, "scan"],
    prediction: Shaped[ArrayLike, "scan"],
    weights: Shaped[ArrayLike, "*draw scan"] | None = None,
) -> Float[Vector, "*draw"]:
    """Compute the share of the variance that the prediction explains.

    This is 1 - (squared error / variance of the truth), which is negative for predictions that are
    worse than the mean; it is not the square of a correlation.

    Examples
    --------
    >>> float(r2([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]))
    -3.0
    """
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    drawn = _weights(weights, len(truth), len(prediction))
    centred = truth - truth.mean()
    total = drawn.sum(axis=-1)
    variance = _ratio(drawn @ centred**2, total) - _ratio(drawn @ centred, total) ** 2
    error = _ratio(drawn @ (truth - prediction) ** 2, total)
    variance = np.where(variance > 1e-12 * np.mean(centred**2), variance, 0.0)
    return np.asarray(1.0 - _ratio(error, variance))


def mae(
    truth: Shaped[ArrayLike, "scan"],
    prediction: Shaped[ArrayLike, "scan"],
    weights: Shaped[ArrayLike, "*draw scan"] | None = None,
) -> Float[Vector, "*draw"]:
    """Compute the mean absolute error.

    Examples
    --------
    >>> float(mae([1.0, 2.0], [2.0, 4.0]))
    1.5
    """
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    drawn = _weights(weights, len(truth), len(prediction))
    return np.asarray(_ratio(drawn @ np.abs(truth - prediction), drawn.sum(axis=-1)))


def f1(
    truth: Shaped[ArrayLike, "scan"],
    prediction: Shaped[ArrayLike, "scan"],
    weights: Shaped[ArrayLike, "*draw scan"] | None = None,
) -> Float[Vector, "*draw"]:
    """Compute the mean over the classes of F1, the harmonic mean of precision and recall.

    Examples
    --------
    >>> round(float(f1([0, 0, 0, 1], [0, 0, 1, 1])), 4)
    0.7333
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    drawn = _weights(weights, len(truth), len(prediction))
    classes = np.union1d(truth, prediction)
    true, said = truth[:, None] == classes, prediction[:, None] == classes
    both = drawn @ (true & said).astype(np.float64)
    either = drawn @ (true.astype(np.float64) + said)
    score = _ratio(2 * both, either)
    return np.asarray(_ratio(np.nansum(score, axis=-1), (either > 0).sum(axis=-1)))


def pearson_r(
    truth: Shaped[ArrayLike, "scan"],
    prediction: Shaped[ArrayLike, "scan"],
    weights: Shaped[ArrayLike, "*draw scan"] | None = None,
    folds: Shaped[ArrayLike, "scan"] | None = None,
) -> Float[Vector, "*draw"]:
    """Compute Pearson's correlation of truth and prediction.

    Predictions of two folds come from two models with different means. A fold whose people lie high
    was predicted by a model that saw the others, who lie low, so that random predictions of all
    folds together correlate negatively with the truth. With `folds`, truth and prediction are
    centred in each fold first.

    Examples
    --------
    >>> float(pearson_r([1.0, 2.0, 3.0], [30.0, 20.0, 10.0]))
    -1.0
    """
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    drawn = _weights(weights, len(truth), len(prediction))
    fold = _folds(folds, len(truth))
    products = np.zeros((3, *drawn.shape[:-1]))
    scale = np.zeros(3)
    for one in np.unique(fold):
        rows = np.flatnonzero(fold == one)
        x, y, w = truth[rows], prediction[rows], drawn[..., rows]
        x, y = x - x.mean(), y - y.mean()
        # What is left of a constant by rounding is no variation.
        y = np.where(np.abs(y) > 1e-9 * np.abs(prediction[rows]).max(), y, 0.0)
        sums, pairs = w @ np.stack([x, y], axis=1), np.stack([x * y, x * x, y * y], axis=1)
        means = _ratio(sums, w.sum(axis=-1)[..., None])
        taken = np.stack([sums[..., i] * means[..., j] for i, j in ((0, 1), (0, 0), (1, 1))])
        products += np.moveaxis(w @ pairs, -1, 0) - np.nan_to_num(taken)
        scale += pairs.sum(axis=0)
    spread = [np.where(products[i] > 1e-12 * scale[i], products[i], 0.0) for i in (1, 2)]
    return np.asarray(np.clip(_ratio(products[0], np.sqrt(spread[0] * spread[1])), -1, 1))


def _area(
    positive: NDArray[np.bool_], score: Vector, drawn: Vector, folds: Sequence[NDArray[np.intp]]
) -> Vector:
    """Area under one ROC curve: how often a positive stands above a negative of its fold."""
    concordant, pairs = np.zeros(drawn.shape[:-1]), np.zeros(drawn.shape[:-1])
    for rows in folds:
        above, of = _concordance(positive[rows], score[rows], drawn[..., rows])
        concordant, pairs = concordant + above, pairs + of
    return np.asarray(_ratio(concordant, pairs))


def _concordance(
    positive: NDArray[np.bool_], score: Vector, drawn: Vector
) -> tuple[Vector, Vector]:
    """Count pairs whose positive stands above the negative, ties half, and all pairs."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    up = np.add.reduceat((drawn * positive)[..., order], starts, axis=-1)
    down = np.add.reduceat((drawn * ~positive)[..., order], starts, axis=-1)
    below = np.cumsum(down, axis=-1) - 0.5 * down
    return (up * below).sum(axis=-1), up.sum(axis=-1) * down.sum(axis=-1)


def _weights(weights: ArrayLike | None, n_truth: int, n_prediction: int) -> Vector:
    """Check lengths and return weights whose last axis is scan."""
    drawn = np.ones(n_truth) if weights is None else np.asarray(weights, dtype=np.float64)
    if n_truth == 0 or n_truth != n_prediction or drawn.shape[-1] != n_truth:
        raise InputError(
            f"a metric needs as many predictions and weights as true values, and at least one; "
            f"came {n_truth} true values, {n_prediction} predictions and weights of shape "
            f"{drawn.shape}."
        )
    return drawn


def _folds(folds: ArrayLike | None, n_scans: int) -> NDArray[Any]:
    """Return the fold of each scan, one for all if none is given."""
    fold = np.zeros(n_scans) if folds is None else np.asarray(folds)
    if len(fold) != n_scans:
        raise InputError(f"{n_scans} true values came with the folds of {len(fold)} scans.")
    return fold


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Divide, NaN where the denominator is zero."""
    denominator = np.asarray(denominator, dtype=np.float64)
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, np.nan, numerator / safe)
