"""Splits of the table of scans that no person is in two parts of: the everyday names.

Made by splitters (`RandomSubjectSplits`, `SubjectFolds`, `LeaveOneSiteOut`,
`SiteStratifiedFolds`, `PredefinedSplits`), checked by `check_splits`, written down and read by
`write_splits` and `read_splits` of `semantoks.evaluation.split_table`.
"""

from __future__ import annotations

import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike

from semantoks.evaluation.predefined_splits import PredefinedSplits
from semantoks.evaluation.site_splitters import LeaveOneSiteOut, SiteStratifiedFolds
from semantoks.evaluation.split_checks import check_split, check_splits
from semantoks.evaluation.split_parts import (
    ChoiceSplit,
    Kind,
    Split,
    families_of,
    subjects_of,
)
from semantoks.evaluation.splitters import RandomSubjectSplits, Splitter, SubjectFolds

__all__ = [
    "ChoiceSplit",
    "Kind",
    "LeaveOneSiteOut",
    "PredefinedSplits",
    "RandomSubjectSplits",
    "SiteStratifiedFolds",
    "Split",
    "Splitter",
    "SubjectFolds",
    "check_split",
    "check_splits",
    "families_of",
    "leave_one_site_out",
    "subject_folds",
    "subjects_of",
]


def subject_folds(
    scans: pd.DataFrame,
    truth: Shaped[ArrayLike, "scan"],
    *,
    kind: Kind,
    n_folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
) -> list[Split]:
    """Divide the subjects into folds, repeatedly, with about the same mixture of targets in each.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": ["a", "a", "b", "c", "d"]})
    >>> splits = subject_folds(scans, [0, 0, 1, 0, 1], kind="classification", n_folds=2, repeats=1)
    >>> [len(split.test) for split in splits]
    [3, 2]
    """
    return SubjectFolds(n_folds, repeats, seed=seed).splits(scans, truth, kind=kind)


def leave_one_site_out(
    scans: pd.DataFrame, truth: Shaped[ArrayLike, "scan"], *, kind: Kind, site_column: str = "site"
) -> list[Split]:
    """Test on each site what was learned on all others.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abcd"), "site": ["x", "x", "y", "y"]})
    >>> for split in leave_one_site_out(scans, [0, 1, 0, 1], kind="classification"):
    ...     print(split.fold, split.test)
    x [0 1]
    y [2 3]
    """
    return LeaveOneSiteOut(site_column).splits(scans, truth, kind=kind)
