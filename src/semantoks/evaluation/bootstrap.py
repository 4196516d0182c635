"""Draws of whole subjects, and the interval of what they give."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray

from semantoks.errors import InputError

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
