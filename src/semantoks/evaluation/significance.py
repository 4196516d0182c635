"""Whether a difference, or a score, could be chance; and what many looks do to that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.metrics import LOWER_IS_BETTER, METRICS
from semantoks.evaluation.permuted_labels import permute_labels
from semantoks.evaluation.pooled_folds import fold_ratios, pooled_differences
from semantoks.evaluation.preparation import Preparation
from semantoks.evaluation.probe import (
    Classifier,
    FoldPrediction,
    Scaling,
    cross_validated_predictions,
    fold_metric,
    score_predictions,
)
from semantoks.evaluation.splits import Kind, Split

Correction = Literal["fdr_bh", "fdr_by", "holm"]
Vector = NDArray[np.float64]

FEWEST_FOLDS: Final = 5
"""Folds that a t-test of two methods needs; the spread of fewer is hardly known."""


class ResampledTest(NamedTuple):
    """A corrected resampled t-test of a difference."""

    difference: float
    low: float
    high: float
    statistic: float
    p: float
    n_folds: int


class PermutationTest(NamedTuple):
    """A score among those of permuted labels."""

    value: float
    null: Float[Vector, "permutation"]
    p: float


def resampled_t_test(
    differences: Shaped[ArrayLike, "fold"], n_train: float, n_test: float, confidence: float = 0.95
) -> ResampledTest:
    """Test whether differences of two methods in the folds of repeated splits are zero on average.

    Folds share training scans, so that their differences are not independent and a plain t-test
    finds differences where none are. Nadeau and Bengio (2003) put the variance of the mean of J
    folds at (1 / J + n_test / n_train) of the variance of the folds.

    Examples
    --------
    >>> test = resampled_t_test([0.02, 0.04, 0.03, 0.01, 0.05], n_train=80, n_test=20)
    >>> round(test.statistic, 3), round(test.p, 3)
    (2.828, 0.047)
    """
    x = np.asarray(differences, dtype=np.float64)
    x = x[np.isfinite(x)]
    if len(x) < 2:
        nan = float("nan")
        return ResampledTest(float(x[0]) if len(x) else nan, nan, nan, nan, nan, len(x))
    mean, error = float(x.mean()), float(np.sqrt((1 / len(x) + n_test / n_train) * x.var(ddof=1)))
    if error <= 1e-12 * abs(mean) or error == 0:
        p = float(mean == 0)
        return ResampledTest(mean, mean, mean, float(np.sign(mean)) * np.inf, p, len(x))
    t = mean / error
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1)) * error
    p = float(2 * stats.t.sf(abs(t), len(x) - 1))
    return ResampledTest(mean, mean - half, mean + half, t, p, len(x))


def compare_folds(
    first: Sequence[FoldPrediction],
    second: Sequence[FoldPrediction],
    truth: Shaped[NDArray[Any], "scan"],
    *,
    kind: Kind,
    metric: str | None = None,
) -> ResampledTest:
    """Test the difference of two methods on the same splits.

    Where people are divided anew for every repeat, the differences are those of the folds' own
    scores. Where they are divided once, so that every scan is tested once (one site left out, or
    one division into folds), the score is that of all scans together, and the mean of the folds'
    own scores is another quantity: R² of a few scans has no lower bound, and a site with one class
    has a recall, no balanced accuracy. What is tested there is the pooled difference, as a mean
    over folds of what each says of it (`pooled_differences`). F1 and Pearson's r are no ratios of
    sums over folds, and are not tested there.
    """
    name = _metric_name(kind, metric)
    if len(first) != len(second) or not len(first):
        raise InputError(f"{len(first)} folds came to be compared with {len(second)}.")
    for one, other in zip(first, second, strict=True):
        same = all(
            np.array_equal(getattr(one.split, part), getattr(other.split, part))
            for part in ("train", "test")
        )
        if not same:
            raise InputError(
                f"{one.split} of one method and {other.split} of the other do not hold the same "
                "scans, so that they cannot be compared in pairs. Use the same splits."
            )
    sizes = [(len(fold.split.train), len(fold.split.test)) for fold in first]
    n_train, n_test = np.mean(sizes, axis=0)
    differences = _fold_differences(first, second, truth, name)
    test = resampled_t_test(differences, float(n_train), float(n_test))
    if test.n_folds >= FEWEST_FOLDS:
        return test
    nan = float("nan")
    return test._replace(low=nan, high=nan, statistic=nan, p=nan)


def _fold_differences(
    first: Sequence[FoldPrediction],
    second: Sequence[FoldPrediction],
    truth: NDArray[Any],
    metric: str,
) -> Vector:
    """Differences whose mean is tested: of the folds' scores, or of one score of all folds."""
    tested = np.concatenate([fold.split.test for fold in first])
    once = len({fold.split.repeat for fold in first}) == 1 and len({*tested}) == len(tested)
    if len(first) > 1 and once:
        mine, theirs = (fold_ratios(metric, truth, folds) for folds in (first, second))
        if mine is None or theirs is None:
            return np.full(len(first), np.nan)
        return pooled_differences(mine, theirs)
    pairs = zip(first, second, strict=True)
    return np.array(
        [
            fold_metric(metric, truth, own) - fold_metric(metric, truth, other)
            for own, other in pairs
        ]
    )


def permutation_test(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    divide: Callable[[NDArray[Any]], Sequence[Split]],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    families: Shaped[NDArray[Any], "scan"] | None = None,
    blocks: Shaped[NDArray[Any], "scan"] | None = None,
    metric: str | None = None,
    n_permutations: int = 200,
    seed: int = 0,
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
    prepare: Preparation | None = None,
    scans: pd.DataFrame | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PermutationTest:
    """Compare a score with those of labels that were given to other subjects.

    Preparation, scaling, penalty and model are fitted anew for every permutation. The labels of
    all scans of a subject move together, and those of a family, whose members are alike.
    """
    name = _metric_name(kind, metric)
    if n_permutations < 1:
        raise InputError(f"{n_permutations} permutations cannot tell what chance does.")
    random = np.random.default_rng(seed)

    def score(labels: NDArray[Any]) -> float:
        folds = cross_validated_predictions(
            features,
            labels,
            divide(labels),
            kind=kind,
            subjects=subjects if families is None else families,
            classifier=classifier,
            scaling=scaling,
            prepare=prepare,
            scans=scans,
        )
        # The score of the tables: of all folds of a repeat together.
        return score_predictions(folds, labels, np.ones((1, len(labels))), kind=kind)[name].value

    value, null = score(truth), np.empty(n_permutations)
    for i in range(n_permutations):
        null[i] = score(permute_labels(truth, subjects, random, blocks, families))
        if progress is not None:
            progress(i + 1, n_permutations)
    worse = null > value if name in LOWER_IS_BETTER else null < value
    as_good = ~worse  # a permutation without a score counts against the method
    p = (1 + int(as_good.sum())) / (1 + n_permutations) if np.isfinite(value) else float("nan")
    return PermutationTest(value, null, p)


def correct_p_values(
    p: Shaped[ArrayLike, "test"], method: Correction = "fdr_bh"
) -> Float[Vector, "test"]:
    """Correct p-values for how many there are.

    Examples
    --------
    >>> correct_p_values([0.01, 0.04, 0.03], "holm").tolist()
    [0.03, 0.06, 0.06]
    """
    if method not in ("fdr_bh", "fdr_by", "holm"):
        raise ConfigurationError(f"the correction is fdr_bh, fdr_by or holm, not {method!r}.")
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(values.shape, np.nan)
    known = np.isfinite(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise InputError("p-values lie between 0 and 1.")
    if method == "holm":
        order = np.argsort(values[known], kind="stable")
        factors = np.arange(known.sum(), 0, -1)
        stepped = np.maximum.accumulate(np.minimum(values[known][order] * factors, 1.0))
        back = np.empty_like(stepped)
        back[order] = stepped
        corrected[known] = back
    elif known.any():
        corrected[known] = stats.false_discovery_control(
            values[known], method="bh" if method == "fdr_bh" else "by"
        )
    return corrected


def _metric_name(kind: Kind, metric: str | None) -> str:
    """Return the metric to test, the deciding one if none is named."""
    if metric is None:
        return METRICS[kind][0]
    if metric not in METRICS[kind]:
        raise ConfigurationError(
            f"metrics of a {kind} are {', '.join(METRICS[kind])}, not {metric!r}."
        )
    return metric
