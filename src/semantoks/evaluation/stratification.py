"""Groups of people drawn so that classes, values or sites are mixed alike in every part."""

from __future__ import annotations

import math
import warnings
from typing import Any, Final

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from semantoks.errors import InputError
from semantoks.evaluation.split_parts import Kind

_QUANTILE_BINS: Final = 10


def random_state(seed: int, *numbers: int) -> int:
    """Return a state that no other seed and numbers share; seed + repeat would be shared."""
    if seed < 0:
        raise InputError(f"the seed of the divisions must not be negative; {seed} came.")
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


def strata_of(
    truth: Shaped[NDArray[Any], "scan"] | None,
    groups: Shaped[NDArray[Any], "scan"],
    kind: Kind,
    n_parts: int,
    most_bins: int = _QUANTILE_BINS,
) -> NDArray[np.intp]:
    """Return the class of every scan, or the quantile of its value."""
    if truth is None:
        return np.zeros(len(groups), dtype=np.intp)
    if kind == "classification":
        return np.unique(truth, return_inverse=True)[1]
    n_bins = max(1, min(most_bins, len(np.unique(groups)) // n_parts))
    rank = np.argsort(np.argsort(truth, kind="stable"), kind="stable")
    return np.asarray(rank * n_bins // len(truth), dtype=np.intp)


def stratified_folds(
    strata: NDArray[Any], groups: Shaped[NDArray[Any], "scan"], n_folds: int, state: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Divide groups into folds with about the same strata in each."""
    # A fold's share of a stratum is a share of its groups: scikit-learn balances them one by one.
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class in y")
        return list(folds.split(strata, strata, groups))


def dealt_folds(
    sites: NDArray[np.intp],
    targets: NDArray[np.intp],
    groups: Shaped[NDArray[Any], "scan"],
    n_folds: int,
    state: int,
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Deal groups out to folds, the sites as evenly as possible, and the classes as that allows.

    For sites of which a class has fewer groups than there are folds: these cannot be in every fold,
    but the site can be, and so can the class of all such sites together.

    Examples
    --------
    >>> sites, targets = np.repeat(np.arange(5), 4), np.arange(20) % 2
    >>> folds = dealt_folds(sites, targets, np.arange(20), n_folds=4, state=0)
    >>> [np.bincount(sites[test]).tolist() for _, test in folds]
    [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    >>> sorted(int(targets[test].sum()) for _, test in folds)
    [2, 2, 3, 3]
    """
    random = np.random.default_rng(state)
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    site, target = sites[first], targets[first]
    at_site = np.zeros((int(site.max()) + 1, n_folds))
    of_class = np.zeros((int(target.max()) + 1, n_folds))
    fold = np.empty(len(first), dtype=np.intp)
    order = random.permutation(len(first))
    ranked = random.permutation(len(at_site))[site[order]]
    for group in order[np.lexsort((target[order], ranked))]:
        s, t = site[group], target[group]
        keys = (random.random(n_folds), at_site.sum(axis=0), of_class[t], at_site[s])
        fold[group] = chosen = np.lexsort(keys)[0]
        at_site[s, chosen] += 1
        of_class[t, chosen] += 1
    tested = fold[place]
    return [(np.flatnonzero(tested != k), np.flatnonzero(tested == k)) for k in range(n_folds)]


def draw_groups(
    truth: Shaped[NDArray[Any], "scan"] | None,
    groups: Shaped[NDArray[Any], "scan"],
    kind: Kind,
    number: int,
    state: int,
    what: str,
) -> NDArray[np.bool_]:
    """Draw groups at random, of every class (or quantile) the same share."""
    ids, first = np.unique(groups, return_index=True)
    if not 0 < number < len(ids):
        raise InputError(
            f"{number} of {len(ids)} people cannot be drawn for {what}: both this part and the "
            "rest need some. Change the shares, or use more scans."
        )
    share = min(number, len(ids) - number) / len(ids)
    values = None if truth is None else truth[first]
    # Two of a stratum in the smaller part, so that rounding leaves none of them out.
    strata = strata_of(values, ids, kind, math.ceil(2 / share))
    if kind == "classification" and truth is not None:
        _refuse_scarce(truth[first], share, what)
    division = StratifiedShuffleSplit(1, test_size=number, random_state=state)
    _, drawn = next(division.split(strata, strata))
    return np.isin(groups, ids[drawn])


def _refuse_scarce(classes: NDArray[Any], share: float, what: str) -> None:
    """Refuse a class of which a share would be nobody."""
    names, counts = np.unique(classes, return_counts=True)
    scarce = [
        f"{str(name)!r} ({count})"
        for name, count in zip(names, counts, strict=True)
        if count * share < 1 - 1e-9
    ]
    if scarce:
        raise InputError(
            f"{len(scarce)} class(es) of the target have too few people for a share of {share:.2g} "
            f"({what}): {', '.join(scarce[:5])}. Take larger shares, leave these scans out, or, if "
            "the target is a number, ask for regression."
        )
