"""Splits into training and test parts that no person is in both of."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from semantoks.errors import InputError, nearest

Kind = Literal["classification", "regression"]

_QUANTILE_BINS = 10


@dataclass(frozen=True)
class Split:
    """Which scans are learned from, which are predicted, and which choices may be made on.

    Parameters
    ----------
    name : str
        How the split was made: "subject" or "site".
    repeat : int
        Number of the repetition, from 0.
    fold : str
        Number of the fold, or the site that is left out.
    train : ndarray of int
        Rows of the scans that are learned from.
    test : ndarray of int
        Rows of the scans that are predicted.
    validation : ndarray of int
        Rows of the scans that choices may be made on, such as a rate or when to stop; none by
        default. Never rows of the test part.
    """

    name: str
    repeat: int
    fold: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    validation: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))

    def __str__(self) -> str:
        return f"{self.name} split, repeat {self.repeat}, fold {self.fold}"


def subject_folds(
    scans: pd.DataFrame,
    truth: ArrayLike,
    *,
    kind: Kind,
    n_folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
) -> list[Split]:
    """Divide the subjects into folds, repeatedly, with about the same mixture of targets in each.

    Parameters
    ----------
    scans : DataFrame
        One row a scan, with the column subject.
    truth : array_like of shape (scan,)
        Class or value of each scan.
    kind : {"classification", "regression"}
        Whether folds are stratified by class, or by quantile of the value.
    n_folds : int
        Number of folds.
    repeats : int
        How often the subjects are divided anew.
    seed : int
        Seed of the divisions.

    Returns
    -------
    list of Split
        `repeats` × `n_folds` splits, every one checked; in a repeat every scan is tested once.

    Raises
    ------
    InputError
        If there are fewer subjects than folds, in all or in a class.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": ["a", "a", "b", "c", "d"]})
    >>> splits = subject_folds(scans, [0, 0, 1, 0, 1], kind="classification", n_folds=2, repeats=1)
    >>> [len(split.test) for split in splits]
    [3, 2]
    """
    truth, subjects = np.asarray(truth), subjects_of(scans)
    if n_folds < 2 or repeats < 1:
        raise InputError(
            f"{n_folds} folds repeated {repeats} times are not possible: at least 2 folds and 1 "
            "repeat are needed."
        )
    _check_enough_subjects(truth, subjects, kind, n_folds)
    strata = truth if kind == "classification" else _quantile_bins(truth, subjects, n_folds)
    splits = []
    for repeat in range(repeats):
        folds = StratifiedGroupKFold(
            n_folds, shuffle=True, random_state=_state_of_repeat(seed, repeat)
        )
        for fold, (train, test) in enumerate(folds.split(strata, strata, subjects)):
            splits.append(Split("subject", repeat, str(fold), train, test))
    for split in splits:
        check_split(split, subjects, truth if kind == "classification" else None)
    return splits


def leave_one_site_out(
    scans: pd.DataFrame, truth: ArrayLike, *, kind: Kind, site_column: str = "site"
) -> list[Split]:
    """Test on each site what was learned on all others.

    Who was scanned at several sites is not learned from when one of these sites is tested.

    Parameters
    ----------
    scans : DataFrame
        One row a scan, with the column subject and `site_column`.
    truth : array_like of shape (scan,)
        Class or value of each scan.
    kind : {"classification", "regression"}
        What the target is.
    site_column : str
        Column that names the site.

    Returns
    -------
    list of Split
        One split a site, every one checked; every scan is tested once.

    Raises
    ------
    InputError
        If the column is absent or incomplete, there is one site only, the target is the site, or
        the scans of a training part are of one class.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abcd"), "site": ["x", "x", "y", "y"]})
    >>> for split in leave_one_site_out(scans, [0, 1, 0, 1], kind="classification"):
    ...     print(split.fold, split.test)
    x [0 1]
    y [2 3]
    """
    truth, subjects = np.asarray(truth), subjects_of(scans)
    sites = _sites_of(scans, site_column)
    if kind == "classification" and _same_partition(truth, sites):
        raise InputError(
            f"the target is the site itself (column {site_column!r}): a site that is left out "
            "cannot be recognised. Use subject splits for this target."
        )
    splits = []
    for _, test in LeaveOneGroupOut().split(truth, truth, sites):
        train = np.flatnonzero(~np.isin(subjects, subjects[test]))
        splits.append(Split("site", 0, str(sites[test[0]]), train, test))
    for split in splits:
        check_split(split, subjects, truth if kind == "classification" else None)
    return splits


def check_split(split: Split, subjects: ArrayLike, classes: ArrayLike | None = None) -> None:
    """Refuse a split that leaks, or that nothing can be learned from.

    Parameters
    ----------
    split : Split
        The split.
    subjects : array_like of shape (scan,)
        Who each scan is of.
    classes : array_like of shape (scan,), optional
        Class of each scan; not given for regression.

    Raises
    ------
    InputError
        If training or test part is empty, a row repeats or does not exist, a subject is in two
        parts, or the training part holds one class only.

    Examples
    --------
    >>> split = Split("mine", 0, "0", train=np.array([0, 1]), test=np.array([2]))
    >>> check_split(split, ["a", "b", "b"])
    Traceback (most recent call last):
        ...
    semantoks.errors.InputError: mine split, repeat 0, fold 0 leaks: 1 subject(s) are in both ...
    """
    subjects = np.asarray(subjects)
    rows = np.concatenate([split.train, split.validation, split.test])
    if not len(split.train) or not len(split.test):
        raise InputError(
            f"{split} has {len(split.train)} scans to learn from and {len(split.test)} to test; "
            "both parts need some."
        )
    if len(np.unique(rows)) != len(rows):
        raise InputError(f"{split} leaks: a scan occurs more than once in its parts.")
    if rows.min() < 0 or rows.max() >= len(subjects):
        raise InputError(f"{split} names row {rows.max()}, but there are {len(subjects)} scans.")
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    for (one, a), (other, b) in combinations(parts.items(), 2):
        shared = np.intersect1d(subjects[a], subjects[b])
        if len(shared):
            raise InputError(
                f"{split} leaks: {len(shared)} subject(s) are in both the {one} and the {other} "
                f"part, the first is {str(shared[0])!r}. Keep all scans of a person in one part."
            )
    if classes is not None and len(np.unique(np.asarray(classes)[split.train])) < 2:
        raise InputError(
            f"{split}: all scans to learn from are of one class, so that nothing can be learned. "
            "Use other splits, or scans of more sites."
        )


def subjects_of(scans: pd.DataFrame) -> NDArray[Any]:
    """Return who each scan is of.

    Parameters
    ----------
    scans : DataFrame
        One row a scan, with the column subject.

    Returns
    -------
    ndarray of shape (scan,)
        Subjects as text.

    Raises
    ------
    InputError
        If the column is absent, or a scan has no subject.
    """
    subjects = _text(scans, "subject")
    nameless = np.flatnonzero(subjects == "")
    if len(nameless):
        raise InputError(
            f"{len(nameless)} scan(s) have no subject, the first is in row {nameless[0]}: the "
            "scans of a person cannot be kept together. Name the subjects when preparing."
        )
    return subjects


def _state_of_repeat(seed: int, repeat: int) -> int:
    """Return a state that no other seed and repeat share; seed + repeat would be shared."""
    if seed < 0:
        raise InputError(f"the seed of the divisions must not be negative; {seed} came.")
    return int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])


def _check_enough_subjects(
    truth: NDArray[Any], subjects: NDArray[Any], kind: Kind, n_folds: int
) -> None:
    """Every fold must be able to get a subject, of every class."""
    n = len(np.unique(subjects))
    if n < n_folds:
        raise InputError(f"{n_folds} folds need as many subjects; there are {n}. Use fewer folds.")
    if kind == "regression":
        return
    counts = {c: len(np.unique(subjects[truth == c])) for c in np.unique(truth)}
    scarce = {str(c): k for c, k in counts.items() if k < n_folds}
    if scarce:
        listed = ", ".join(f"{c!r} ({k})" for c, k in list(scarce.items())[:5])
        raise InputError(
            f"{len(scarce)} class(es) of the target have fewer subjects than the {n_folds} folds: "
            f"{listed}. Use fewer folds, leave these scans out, or, if the target is a number, ask "
            "for regression."
        )


def _quantile_bins(truth: NDArray[Any], subjects: NDArray[Any], n_folds: int) -> NDArray[np.intp]:
    """Bin values by rank, so coarsely that every fold can get a scan of every bin."""
    n_bins = max(1, min(_QUANTILE_BINS, len(np.unique(subjects)) // n_folds))
    rank = np.argsort(np.argsort(truth, kind="stable"), kind="stable")
    return np.asarray(rank * n_bins // len(truth), dtype=np.intp)


def _sites_of(scans: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return each scan's site; at least two sites, none unknown."""
    if column not in scans.columns:
        raise InputError(
            f"there is no column {column!r} to take the site from; the table of scans has "
            f"{', '.join(map(str, scans.columns))}.{nearest(column, map(str, scans.columns))}"
        )
    sites = _text(scans, column)
    unknown = int((sites == "").sum())
    names = np.unique(sites[sites != ""])
    if unknown == len(sites) or len(names) < 2:
        found = f"only {str(names[0])!r}" if len(names) else "nothing"
        raise InputError(
            f"leaving one site out needs at least two sites; column {column!r} holds {found}."
        )
    if unknown:
        raise InputError(
            f"{unknown} of {len(sites)} scans have no site in column {column!r}, so that they can "
            "neither be left out nor kept. Fill the column in or leave these scans out."
        )
    return sites


def _same_partition(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two columns name the same groups of scans."""
    pairs = len(set(zip(a.tolist(), b.tolist(), strict=True)))
    return pairs == len(np.unique(a)) == len(np.unique(b))


def _text(scans: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return a column as stripped text, missing values as empty text."""
    if column not in scans.columns:
        raise InputError(f"the table of scans has no column {column!r}.")
    values = scans[column]
    return np.array(["" if pd.isna(v) else str(v).strip() for v in values], dtype=str)
