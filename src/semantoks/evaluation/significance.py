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
from semantoks.evaluation.linear import Classifier, FoldPrediction, Scaling
from semantoks.evaluation.metrics import LOWER_IS_BETTER, METRICS, auc, metrics_of
from semantoks.evaluation.probe import (
    Preparation,
    cross_validated_predictions,
    fold_metric,
    score_predictions,
)
from semantoks.evaluation.splits import Kind, Split

Rows = NDArray[np.intp]

_MANY: Final = {"subject": "subject(s)", "family": "families"}


def permute_labels(
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    random: np.random.Generator,
    blocks: Shaped[NDArray[Any], "scan"] | None = None,
    families: Shaped[NDArray[Any], "scan"] | None = None,
) -> Shaped[NDArray[Any], "scan"]:
    """Give the labels of every subject, or of every family, to another one.

    Where a subject has the same label in all scans, any two subjects of a block may change places.
    Where labels differ between the scans of a subject, the labels move as they are, among subjects
    with as many scans.

    With families, whole families change places. Where all members of a family have one label, any
    two families may; otherwise families with as many people, and it is drawn who of them takes
    whose label. Where labels differ between the scans of a person, families change places whose
    people have as many scans.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> permute_labels(np.array([1, 1, 2, 3]), np.array(list("aabc")), random)
    array([3, 3, 1, 2])
    """
    block = (
        np.zeros(len(truth), dtype=np.int64)
        if blocks is None
        else np.unique(blocks, return_inverse=True)[1]
    )
    units = subjects if families is None else families
    what = "subject" if np.array_equal(units, subjects) else "family"
    if not len(truth) == len(subjects) == len(units) == len(block):
        raise InputError(
            f"{len(truth)} labels came with {len(subjects)} subjects, {len(units)} families and "
            f"{len(block)} blocks."
        )
    names, code = np.unique(units, return_inverse=True)
    scans = [np.flatnonzero(code == i) for i in range(len(names))]
    split_up = [str(n) for n, rows in zip(names, scans, strict=True) if len({*block[rows]}) > 1]
    if split_up:
        raise InputError(
            f"{len(split_up)} {_MANY[what]} have scans in several blocks, the first is "
            f"{split_up[0]!r}: their labels cannot move within one. Permute without blocks."
        )
    places = _interchangeable(truth, subjects, scans)
    groups = [(block[rows[0]], shape) for rows, (shape, _) in zip(scans, places, strict=True)]
    permuted, moved = truth.copy(), False
    for group in sorted(set(groups)):
        members = [place for (_, place), of in zip(places, groups, strict=True) if of == group]
        order = random.permutation(len(members))
        moved |= len({tuple(tuple(truth[rows]) for rows in place) for place in members}) > 1
        for place, source in zip(members, order, strict=True):
            for rows, taken in zip(place, _in_any_order(members[source], random), strict=True):
                permuted[rows] = truth[taken] if len(rows) == len(taken) else truth[taken[0]]
    if not moved:
        raise InputError(
            f"no label can move: every {what} is alone in its block, or alone with its number of "
            "scans, or has the label of all others there. Permute without blocks, or within others."
        )
    return permuted


def _in_any_order(places: list[Rows], random: np.random.Generator) -> list[Rows]:
    """Draw who of a family comes first, among those with as many scans."""
    if len(places) == 1:
        return places
    return sorted((places[i] for i in random.permutation(len(places))), key=len)


def _interchangeable(
    truth: NDArray[Any], subjects: NDArray[Any], units: Sequence[Rows]
) -> list[tuple[tuple[int, ...], list[Rows]]]:
    """Say of each unit what others must share to take its labels, and where these stand.

    Units of the same shape have as many places, each of scans that have one label (as soon as all
    units' places do) or as many scans.
    """

    def have_one_label(places: Sequence[Rows]) -> bool:
        return all(len(np.unique(truth[rows])) == 1 for rows in places)

    if have_one_label(units):
        return [((0,), [rows]) for rows in units]
    people = [
        sorted(
            (rows[subjects[rows] == name] for name in dict.fromkeys(subjects[rows].tolist())),
            key=len,
        )
        for rows in units
    ]
    if have_one_label([rows for places in people for rows in places]):
        return [((len(places),), places) for places in people]
    return [(tuple(map(len, places)), places) for places in people]


# Where people are divided once, as with one site left out, a score is that of all scans that were
# tested. The mean of the folds' own scores is another quantity: a small site may have an R² of -20,
# and the balanced accuracy of a site with one class is a recall. But the score is a mean of ratios,
# sum of parts over sum of wholes, and of these sums every fold has its own piece.

Vector = NDArray[np.float64]


class FoldRatios(NamedTuple):
    """A score as a mean over terms (classes, or one alone) of sum of parts / sum of wholes."""

    parts: Float[NDArray[np.float64], "term fold"]
    wholes: Float[NDArray[np.float64], "term fold"]


def fold_ratios(
    metric: str, truth: Shaped[NDArray[Any], "scan"], folds: Sequence[FoldPrediction]
) -> FoldRatios | None:
    """Divide a metric on all tested scans into what each fold has of it.

    Examples
    --------
    >>> from semantoks.evaluation.splits import Split
    >>> tests = [np.array([0, 1]), np.array([2])]
    >>> splits = [Split("mine", 0, str(i), np.arange(3, 6), test) for i, test in enumerate(tests)]
    >>> folds = [FoldPrediction(s, np.zeros(len(s.test)), np.empty((0, 0))) for s in splits]
    >>> fold_ratios("balanced_accuracy", np.array([0, 1, 0, 1, 0, 1]), folds).parts.tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    true = [truth[fold.split.test] for fold in folds]
    tested = np.concatenate(true)
    if metric == "auc":
        return _of_areas(tested, true, folds)
    if metric == "balanced_accuracy":
        masks = [[own == code for own in true] for code in np.unique(tested)]
        right = [own == fold.prediction for own, fold in zip(true, folds, strict=True)]
        return FoldRatios(
            _sums([[m & r for m, r in zip(own, right, strict=True)] for own in masks]),
            _sums(masks),
        )
    errors = [own - fold.prediction for own, fold in zip(true, folds, strict=True)]
    if metric == "mae":
        return FoldRatios(
            _sums([[np.abs(error) for error in errors]]), _sums([[np.ones(len(t)) for t in true]])
        )
    if metric != "r2":
        return None
    squares = _sums([[np.square(own - tested.mean()) for own in true]])
    if squares.sum() <= 1e-24 * float(np.sum(np.square(tested))):
        return None
    return FoldRatios(squares - _sums([[np.square(error) for error in errors]]), squares)


def pooled_differences(first: FoldRatios, second: FoldRatios) -> Float[Vector, "fold"]:
    """Write the difference of two pooled scores as a mean over folds.

    Fold f has K times (its piece of the difference minus what its whole would have of it), added to
    the difference itself: the linearisation of a ratio, term by term. So a large site counts for
    more, but that it is large does not pass for a disagreement between sites.

    Examples
    --------
    >>> wholes = np.array([[10.0, 90.0]])
    >>> better, worse = FoldRatios(0.7 * wholes, wholes), FoldRatios(0.5 * wholes, wholes)
    >>> pooled_differences(better, worse).round(6).tolist()
    [0.2, 0.2]
    """
    pieces, wholes = first.parts - second.parts, first.wholes
    totals = wholes.sum(axis=1, keepdims=True)
    each = pieces.sum(axis=1, keepdims=True) / totals
    beyond: Vector = ((pieces - wholes * each) / totals).mean(axis=0)
    return np.asarray(each.mean() + wholes.shape[1] * beyond, dtype=np.float64)


def _of_areas(
    tested: NDArray[Any], true: list[NDArray[Any]], folds: Sequence[FoldPrediction]
) -> FoldRatios | None:
    """Divide the area under the curve, whose pairs are of scans of one fold."""
    n_classes = folds[0].score.shape[1]
    codes = [1] if n_classes == 2 else [c for c in range(n_classes) if (tested == c).any()]
    parts, wholes = [], []
    for code in codes:
        positive = [(own == code).astype(np.intp) for own in true]
        pairs = np.array([p.sum() * (len(p) - p.sum()) for p in positive], dtype=np.float64)
        within = [
            float(auc(p, np.stack([-fold.score[:, code], fold.score[:, code]], axis=1)))
            for p, fold in zip(positive, folds, strict=True)
        ]
        if pairs.any():
            parts.append(np.where(pairs > 0, within, 0.0) * pairs)
            wholes.append(pairs)
    return FoldRatios(np.array(parts), np.array(wholes)) if parts else None


def _sums(values: Sequence[Sequence[NDArray[Any]]]) -> Float[NDArray[np.float64], "term fold"]:
    """Sum values over the scans of every fold."""
    return np.array([[np.sum(fold) for fold in term] for term in values], dtype=np.float64)


Correction = Literal["fdr_bh", "fdr_by", "holm"]

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
    sites: Shaped[NDArray[Any], "scan"] | None = None,
    pools: Sequence[Split] = (),
) -> ResampledTest:
    """Test the difference of two methods on the same splits.

    How much folds have in common is told by the sizes of their training and test parts; where
    labels were left out, by those of the splits before that (pools): folds that learn from fewer
    people share no more.

    Where people are divided anew for every repeat, the differences are those of the folds' own
    scores. Where they are divided once, so that every scan is tested once (one site left out, or
    one division into folds), the score is that of all scans together, and the mean of the folds'
    own scores is another quantity: R² of a few scans has no lower bound, and a site with one class
    has a recall, no balanced accuracy. What is tested there is the pooled difference, as a mean
    over folds of what each says of it (`pooled_differences`). F1, Pearson's r and metrics within
    sites are no ratios of sums over folds, and are not tested there.
    """
    name = _metric_name(kind, metric, sites)
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
    divided = pools or [fold.split for fold in first]
    sizes = [(len(split.train), len(split.test)) for split in divided]
    n_train, n_test = np.mean(sizes, axis=0)
    differences = _fold_differences(first, second, truth, name, sites)
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
    sites: NDArray[Any] | None,
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
            fold_metric(metric, truth, own, sites) - fold_metric(metric, truth, other, sites)
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


def _metric_name(kind: Kind, metric: str | None, sites: object = None) -> str:
    """Return the metric to test, the deciding one if none is named."""
    if metric is None:
        return METRICS[kind][0]
    known = metrics_of(kind, sites)
    if metric not in known:
        raise ConfigurationError(f"metrics of a {kind} are {', '.join(known)}, not {metric!r}.")
    return metric
