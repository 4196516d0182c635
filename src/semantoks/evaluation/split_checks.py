"""What every split must pass before anything is learned: no leak, and something to learn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike, NDArray

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.split_parts import Kind, Split, families_of, kind_of, subjects_of


def check_splits(
    splits: Sequence[Split],
    scans: pd.DataFrame,
    truth: Shaped[ArrayLike, "scan"] | None = None,
    *,
    kind: Kind | None = None,
    family_column: str | None = None,
    store: Store | None = None,
) -> None:
    """Refuse splits that leak, or that nothing can be learned from.

    Parameters
    ----------
    splits : sequence of Split
        The splits; at least one.
    scans : DataFrame
        The rows that the splits count, with the columns scan and subject.
    truth : array_like of shape (scan,), optional
        Class or value of each scan.
    kind : {"classification", "regression"}, optional
        What the target is; by default as `kind_of` says.
    family_column : str, optional
        Column that names the family.
    store : Store, optional
        Where the series are: one person under two ids is looked for by the series themselves.

    Raises
    ------
    InputError
        If a split does not pass `check_split`, two subjects of the store have the same series, or
        there are no splits.
    """
    if not splits:
        raise InputError("there are no splits to check.")
    subjects, families = subjects_of(scans), families_of(scans, family_column)
    classes = None
    if truth is not None:
        if len(np.asarray(truth)) != len(scans):
            raise InputError(
                f"{len(np.asarray(truth))} true values came for a table of {len(scans)} scans."
            )
        classes = truth if (kind or kind_of(truth)) == "classification" else None
    for split in splits:
        check_split(split, subjects, classes, families)
    if store is not None:
        check_people(store, list(scans["scan"]))


def check_split(
    split: Split,
    subjects: Shaped[ArrayLike, "scan"],
    classes: Shaped[ArrayLike, "scan"] | None = None,
    families: Shaped[ArrayLike, "scan"] | None = None,
) -> None:
    """Refuse a split that leaks, or that nothing can be learned from.

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
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise InputError(f"{split} names row {wrong}, but there are {len(subjects)} scans.")
    _refuse_shared(split, subjects, "subject(s)", "Keep all scans of a person in one part.")
    if families is not None:
        kin = np.asarray(families)
        _refuse_shared(split, kin, "families", "Keep relatives, and so twins, in one part.")
    if classes is not None and len(np.unique(np.asarray(classes)[split.train])) < 2:
        raise InputError(
            f"{split}: all scans to learn from are of one class, so that nothing can be learned. "
            "Use other splits, or scans of more sites."
        )


def _refuse_shared(split: Split, groups: NDArray[Any], what: str, advice: str) -> None:
    """Refuse a split with a group of scans in two of its parts."""
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    for (one, a), (other, b) in combinations(parts.items(), 2):
        shared = np.intersect1d(groups[a], groups[b])
        if len(shared):
            first = str(shared[0])
            whose = f"that of subject {first!r}" if what == "families" else repr(first)
            raise InputError(
                f"{split} leaks: {len(shared)} {what} are in both the {one} and the {other} part, "
                f"the first is {whose}. {advice}"
            )
