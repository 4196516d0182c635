"""Parts of a split, subjects and families, and stratification."""

from __future__ import annotations

import math
import warnings
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from semantoks.errors import InputError, nearest

Kind = Literal["classification", "regression"]

Part = Literal["train", "validation", "test"]

PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")
"""The parts of a split, in the order in which they are written."""

_MOST_NUMERIC_CLASSES: Final = 10


@dataclass(frozen=True)
class ChoiceSplit:
    """What may be looked at while something is chosen: a split without its test part.

    A rate, an epoch, a penalty or a read-out is chosen by functions that take this type, so that
    no test scan can reach them.
    """

    name: str
    repeat: int
    fold: str
    train: NDArray[np.intp]
    validation: NDArray[np.intp]

    def __str__(self) -> str:
        return f"{self.name} split, repeat {self.repeat}, fold {self.fold}"


@dataclass(frozen=True)
class Split:
    """Which scans are learned from, which are predicted, and which choices may be made on.

    Examples
    --------
    >>> split = Split("mine", 0, "0", np.array([0, 1]), np.array([3]), validation=np.array([2]))
    >>> choice = split.for_choice()
    >>> choice.validation, hasattr(choice, "test")
    (array([2]), False)
    """

    name: str
    repeat: int
    fold: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    validation: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))

    def __str__(self) -> str:
        return f"{self.name} split, repeat {self.repeat}, fold {self.fold}"

    def for_choice(self) -> ChoiceSplit:
        """Return what may be looked at while something is chosen."""
        if not len(self.validation):
            raise InputError(
                f"{self} has no validation part, so that nothing can be chosen on it, and choices "
                "are never made on the test part. Give the splitter a share for validation."
            )
        return ChoiceSplit(self.name, self.repeat, self.fold, self.train, self.validation)


def fewer_labels(
    split: Split,
    number: int,
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    kind: Kind,
    seed: int,
) -> Split:
    """Learn from the labels of so many people; those of fewer are among those of more.

    Of every class about the same share is kept. The test part stays as it is.

    Examples
    --------
    >>> split = Split("mine", 0, "0", np.arange(8), np.array([8]))
    >>> classes, people = np.arange(9) % 2, np.arange(9)
    >>> four, six = (
    ...     fewer_labels(split, n, classes, people, kind="classification", seed=0) for n in (4, 6)
    ... )
    >>> np.bincount(classes[four.train]).tolist(), set(four.train) < set(six.train)
    ([2, 2], True)
    """
    learned = np.concatenate([split.train, split.validation])
    people, first = np.unique(subjects[learned], return_index=True)
    if number > len(people):
        raise InputError(
            f"{split} has {len(people)} people to learn from, fewer than labels: {number}."
        )
    shuffled = np.random.default_rng(
        random_state(seed, split.repeat, zlib.crc32(split.fold.encode()))
    ).permutation(len(people))
    own = truth[learned][first][shuffled]
    strata = np.unique(own, return_inverse=True)[1] if kind == "classification" else 0 * shuffled
    # The i-th of c people of a class stands at (i + ½) / c: any beginning has its share of them.
    place = np.empty(len(people))
    for one in np.unique(strata):
        members = np.flatnonzero(strata == one)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    kept = np.isin(subjects, people[shuffled[np.argsort(place, kind="stable")[:number]]])
    return replace(
        split,
        train=split.train[kept[split.train]],
        validation=split.validation[kept[split.validation]],
    )


def kind_of(truth: Shaped[ArrayLike, "scan"]) -> Kind:
    """Tell whether a target is a class or a value.

    Examples
    --------
    >>> kind_of([1, 2, 1]), kind_of(np.linspace(20, 80, 30)), kind_of(list("abcdefghijklmn"))
    ('classification', 'regression', 'classification')
    """
    values = np.asarray(truth)
    number = np.issubdtype(values.dtype, np.number)
    many = number and len(np.unique(values)) > _MOST_NUMERIC_CLASSES
    return "regression" if many else "classification"


def subjects_of(scans: pd.DataFrame) -> Shaped[NDArray[Any], "scan"]:
    """Return who each scan is of."""
    subjects = text_of(scans, "subject")
    nameless = np.flatnonzero(subjects == "")
    if len(nameless):
        raise InputError(
            f"{len(nameless)} scan(s) have no subject, the first is in row {nameless[0]}: the "
            "scans of a person cannot be kept together. Name the subjects when preparing."
        )
    return subjects


def families_of(
    scans: pd.DataFrame, family_column: str | None = None
) -> Shaped[NDArray[Any], "scan"]:
    """Return which people must stay in one part.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abcd"), "family": ["x", "y", "x", ""]})
    >>> families_of(scans, "family").tolist()
    ['a', 'b', 'a', 'd']
    """
    subjects = subjects_of(scans)
    if family_column is None:
        return subjects
    families = text_of(scans, family_column)
    if not (families != "").any():
        raise InputError(
            f"column {family_column!r} names no family of any scan, so that families cannot be "
            "kept together. Fill it in, or give no column of families."
        )
    people, person = np.unique(subjects, return_inverse=True)
    names, family = np.unique(families, return_inverse=True)
    known = families != ""
    n = len(people) + len(names)
    links = coo_array(
        (np.ones(known.sum()), (person[known], len(people) + family[known])), shape=(n, n)
    )
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component[: len(people)], return_index=True)
    head = dict(zip(component[first].tolist(), people[first].tolist(), strict=True))
    return np.array([head[c] for c in component[person].tolist()], dtype=str)


def text_of(scans: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return a column as stripped text, missing values as empty text."""
    if column not in scans.columns:
        known = [str(name) for name in scans.columns]
        raise InputError(
            f"there is no column {column!r} in the table of scans, which has "
            f"{', '.join(known)}.{nearest(column, known)}"
        )
    return np.array(["" if pd.isna(v) else str(v).strip() for v in scans[column]], dtype=str)


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
