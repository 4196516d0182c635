"""Splitters of subjects and sites, and checks for leakage."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.splits import (
    Kind,
    Split,
    dealt_folds,
    draw_groups,
    families_of,
    kind_of,
    random_state,
    strata_of,
    stratified_folds,
    subjects_of,
    text_of,
)


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


# A splitter answers in two ways. `splits(scans, truth)` returns checked `Split` objects with a
# validation part, for everything in this package. `split(X, y, groups)` yields (train, test) as
# scikit-learn expects, with the table of scans (or the subjects alone) as `groups`: rows for
# validation belong to train there, since its estimators choose inside of what they are given.


@dataclass(frozen=True)
class Cohort:
    """What splits are made of, checked."""

    scans: pd.DataFrame
    families: Shaped[NDArray[Any], "scan"]
    truth: Shaped[NDArray[Any], "scan"] | None
    kind: Kind


@dataclass(frozen=True)
class Splitter(BaseCrossValidator):  # type: ignore[misc]
    """What all splitters do: make splits, take validation parts out of training, and check."""

    # Where scikit-learn routes metadata, groups come to a splitter without being asked for.
    __metadata_request__split = {"groups": True}  # noqa: RUF012

    family_column: str | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def splits(
        self,
        scans: pd.DataFrame,
        truth: Shaped[ArrayLike, "scan"] | None = None,
        *,
        kind: Kind | None = None,
    ) -> list[Split]:
        """Make splits of a table of scans."""
        values = None if truth is None else np.asarray(truth)
        if values is not None and len(values) != len(scans):
            raise InputError(f"{len(values)} true values came for a table of {len(scans)} scans.")
        kind = kind or ("regression" if values is None else kind_of(values))
        cohort = Cohort(scans, families_of(scans, self.family_column), values, kind)
        made = self._make(cohort)
        check_splits(made, scans, values, kind=kind, family_column=self.family_column)
        return made

    def split(
        self,
        X: Any,
        y: Shaped[ArrayLike, "scan"] | None = None,
        groups: Any = None,
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield training and test rows, for scikit-learn."""
        for made in self.splits(_table_of(X, groups), y):
            yield np.sort(np.concatenate([made.train, made.validation])), made.test

    @abstractmethod
    def _make(self, cohort: Cohort) -> list[Split]:
        """Make the splits, which are checked afterwards."""


@dataclass(frozen=True)
class SubjectFolds(Splitter):
    """Folds of subjects, divided anew in every repeat, with the same mixture of targets in each.

    Parameters
    ----------
    n_folds : int
        Number of folds.
    repeats : int
        How often the subjects are divided anew.
    validation : float
        Share of the people of a training part that choices are made on; none by default.
    family_column : str, optional
        Column of the table that names the family.
    seed : int
        Seed of the divisions.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": ["a", "a", "b", "c", "d"]})
    >>> [len(s.test) for s in SubjectFolds(n_folds=2, repeats=1).splits(scans, [0, 0, 1, 0, 1])]
    [3, 2]
    """

    n_folds: int = 5
    repeats: int = 5
    validation: float = 0.0

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits.

        Parameters
        ----------
        X, y, groups : object
            Not needed.

        Returns
        -------
        int
            Number of splits.
        """
        return self.n_folds * self.repeats

    def _make(self, cohort: Cohort) -> list[Split]:
        """Divide, repeat after repeat."""
        if self.n_folds < 2 or self.repeats < 1:
            raise InputError(
                f"{self.n_folds} folds repeated {self.repeats} times are not possible: at least 2 "
                "folds and 1 repeat are needed."
            )
        refuse_too_few(cohort, self.n_folds)
        strata = strata_of(cohort.truth, cohort.families, cohort.kind, self.n_folds)
        made = []
        for repeat in range(self.repeats):
            state = random_state(self.seed, repeat)
            folds = stratified_folds(strata, cohort.families, self.n_folds, state)
            made += [Split("subject", repeat, str(i), *rows) for i, rows in enumerate(folds)]
        return carve_validation(made, cohort, self.validation, self.seed)


@dataclass(frozen=True)
class RandomSubjectSplits(Splitter):
    """Random parts of people, drawn anew in every repeat, of every class the same share.

    Parameters
    ----------
    repeats : int
        How often the parts are drawn anew.
    validation : float
        Share of all people that choices are made on; 0 for none.
    test : float
        Share of all people that is predicted.
    family_column : str, optional
        Column of the table that names the family.
    seed : int
        Seed of the divisions.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": np.arange(50).astype(str)})
    >>> splits = RandomSubjectSplits(repeats=2).splits(scans, np.arange(50) % 2)
    >>> [(len(s.train), len(s.validation), len(s.test)) for s in splits]
    [(30, 10, 10), (30, 10, 10)]
    """

    repeats: int = 10
    validation: float = 0.2
    test: float = 0.2

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits.

        Parameters
        ----------
        X, y, groups : object
            Not needed.

        Returns
        -------
        int
            Number of splits.
        """
        return self.repeats

    def _make(self, cohort: Cohort) -> list[Split]:
        """Draw the test part, then the validation part of what is left."""
        check_share("test", self.test)
        check_share("validation", self.validation, zero="allowed")
        if self.repeats < 1 or self.test + self.validation >= 1:
            raise InputError(
                f"{self.repeats} repeats with shares of {self.test} (test) and {self.validation} "
                "(validation) are not possible: at least 1 repeat, and something to learn from."
            )
        n = len(np.unique(cohort.families))
        n_test = max(1, round(self.test * n))
        made = []
        for repeat in range(self.repeats):
            state = random_state(self.seed, repeat)
            test = draw_groups(
                cohort.truth, cohort.families, cohort.kind, n_test, state, "the test part"
            )
            rest, tested = np.flatnonzero(~test), np.flatnonzero(test)
            made.append(Split("random subject", repeat, "0", rest, tested))
        left = self.validation * n / (n - n_test)
        return carve_validation(made, cohort, left, self.seed)


def carve_validation(splits: list[Split], cohort: Cohort, share: float, seed: int) -> list[Split]:
    """Move a share of the people of every training part to a validation part."""
    check_share("validation", share, zero="allowed")
    if not share:
        return splits
    carved = []
    for number, made in enumerate(splits):
        train = made.train
        people = cohort.families[train]
        chosen = draw_groups(
            None if cohort.truth is None else cohort.truth[train],
            people,
            cohort.kind,
            max(1, round(share * len(np.unique(people)))),
            random_state(seed, number, 1),
            f"the validation part of {made}",
        )
        carved.append(dataclasses.replace(made, train=train[~chosen], validation=train[chosen]))
    return carved


def check_share(name: str, share: float, zero: Literal["allowed", "refused"] = "refused") -> None:
    """Refuse what is not a share."""
    if not (0 < share < 1 or (share == 0 and zero == "allowed")) or not math.isfinite(share):
        least = "at least 0" if zero == "allowed" else "above 0"
        raise InputError(f"the share for {name} is {share}; it must be {least} and below 1.")


def refuse_too_few(cohort: Cohort, n_folds: int) -> None:
    """Refuse folds of which one would get nobody, in all or of a class."""
    people, truth = cohort.families, cohort.truth
    n = len(np.unique(people))
    if n < n_folds:
        raise InputError(f"{n_folds} folds need as many subjects; there are {n}. Use fewer folds.")
    if cohort.kind == "regression" or truth is None:
        return
    counts = {c: len(np.unique(people[truth == c])) for c in np.unique(truth)}
    scarce = {str(c): k for c, k in counts.items() if k < n_folds}
    if scarce:
        listed = ", ".join(f"{c!r} ({k})" for c, k in list(scarce.items())[:5])
        raise InputError(
            f"{len(scarce)} class(es) of the target have fewer subjects than the {n_folds} folds: "
            f"{listed}. Use fewer folds, leave these scans out, or, if the target is a number, ask "
            "for regression."
        )


def _table_of(features: Any, groups: Any) -> pd.DataFrame:
    """Return the table of scans that scikit-learn handed through."""
    if isinstance(groups, pd.DataFrame):
        return groups.reset_index(drop=True)
    if groups is not None:
        return pd.DataFrame({"subject": np.asarray(groups)})
    if isinstance(features, pd.DataFrame) and "subject" in features.columns:
        return features.reset_index(drop=True)
    raise InputError(
        "which scans are of the same person must be known to split them: give the table of scans, "
        "or the subject of each scan, as groups."
    )


_VALUE_BINS = 3


@dataclass(frozen=True)
class LeaveOneSiteOut(Splitter):
    """Test on each site what was learned on all others.

    Who was scanned at several sites, or has a relative at the tested one, is not learned from.

    Parameters
    ----------
    site_column : str
        Column that names the site.
    validation : float
        Share of the people of a training part that choices are made on; none by default.
    family_column : str, optional
        Column of the table that names the family.
    seed : int
        Seed of the choice of validation parts.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abcd"), "site": ["x", "x", "y", "y"]})
    >>> for split in LeaveOneSiteOut().splits(scans, [0, 1, 0, 1]):
    ...     print(split.fold, split.test)
    x [0 1]
    y [2 3]
    """

    site_column: str = "site"
    validation: float = 0.0

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits: one a site.

        Parameters
        ----------
        X : object, optional
            The table of scans, if it is not given as groups.
        y : object
            Not needed.
        groups : DataFrame, optional
            The table of scans.

        Returns
        -------
        int
            Number of splits.

        Raises
        ------
        InputError
            If neither is a table of scans with sites.
        """
        table = groups if isinstance(groups, pd.DataFrame) else X
        if not isinstance(table, pd.DataFrame):
            raise InputError("the number of sites is known from the table of scans: give it.")
        return len(np.unique(sites_of(table, self.site_column)))

    def _make(self, cohort: Cohort) -> list[Split]:
        """Leave out one site after the other."""
        sites = sites_of(cohort.scans, self.site_column)
        truth, people = cohort.truth, cohort.families
        classes = truth is not None and cohort.kind == "classification"
        if classes and truth is not None and _same_partition(truth, sites):
            raise InputError(
                f"the target is the site itself (column {self.site_column!r}): a site that is left "
                "out cannot be recognised. Use subject splits for this target."
            )
        made = []
        for site in np.unique(sites):
            test = np.flatnonzero(sites == site)
            train = np.flatnonzero(~np.isin(people, people[test]))
            made.append(Split("site", 0, str(site), train, test))
        if not self.validation:
            return made
        empty = next((split for split in made if not len(split.train)), None)
        if empty is not None:
            raise InputError(f"{empty} has 0 scans to learn from: everyone was at this site, too.")
        return carve_validation(made, cohort, self.validation, self.seed)


@dataclass(frozen=True)
class SiteStratifiedFolds(Splitter):
    """Folds of subjects with the same mixture of sites, and of classes within sites.

    What is too small to be in every fold is merged: where no class of any site has as many people
    as there are folds, every fold gets the same share of each site and, over all sites, of each
    class. Sites that have fewer people than there are folds count as one, if together they have as
    many; otherwise they are refused.

    Parameters
    ----------
    n_folds : int
        Number of folds.
    repeats : int
        How often the subjects are divided anew.
    validation : float
        Share of the people of a training part that choices are made on; none by default.
    site_column : str
        Column that names the site.
    family_column : str, optional
        Column of the table that names the family.
    seed : int
        Seed of the divisions.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abcdefgh"), "site": ["x", "y"] * 4})
    >>> splits = SiteStratifiedFolds(n_folds=2, repeats=1).splits(scans, [0, 0, 1, 1] * 2)
    >>> [sorted(scans["site"].iloc[split.test]) for split in splits]
    [['x', 'x', 'y', 'y'], ['x', 'x', 'y', 'y']]
    """

    n_folds: int = 5
    repeats: int = 5
    validation: float = 0.0
    site_column: str = "site"

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits.

        Parameters
        ----------
        X, y, groups : object
            Not needed.

        Returns
        -------
        int
            Number of splits.
        """
        return self.n_folds * self.repeats

    def _make(self, cohort: Cohort) -> list[Split]:
        """Divide, repeat after repeat, within sites and classes."""
        if self.n_folds < 2 or self.repeats < 1:
            raise InputError(
                f"{self.n_folds} folds repeated {self.repeats} times are not possible: at least 2 "
                "folds and 1 repeat are needed."
            )
        refuse_too_few(cohort, self.n_folds)
        sites = sites_of(cohort.scans, self.site_column)
        sites = _merge_small_sites(sites, cohort.families, self.n_folds)
        targets = strata_of(
            cohort.truth, cohort.families, cohort.kind, self.n_folds, most_bins=_VALUE_BINS
        )
        site = np.unique(sites, return_inverse=True)[1]
        strata = np.unique(site * (targets.max() + 1) + targets, return_inverse=True)[1]
        # of a family, the first scan counts, as where groups are drawn
        first = np.unique(cohort.families, return_index=True)[1]
        too_small = np.bincount(strata[first]).max() < self.n_folds
        made = []
        for repeat in range(self.repeats):
            state = random_state(self.seed, repeat)
            if too_small:
                folds = dealt_folds(site, targets, cohort.families, self.n_folds, state)
            else:
                folds = stratified_folds(strata, cohort.families, self.n_folds, state)
            made += [
                Split("site-stratified", repeat, str(i), *rows) for i, rows in enumerate(folds)
            ]
        return carve_validation(made, cohort, self.validation, self.seed)


def sites_of(scans: pd.DataFrame, column: str = "site") -> NDArray[Any]:
    """Return each scan's site."""
    sites = text_of(scans, column)
    unknown = int((sites == "").sum())
    names = np.unique(sites[sites != ""])
    if unknown == len(sites) or len(names) < 2:
        found = f"only {str(names[0])!r}" if len(names) else "nothing"
        raise InputError(
            f"splits by site need at least two sites; column {column!r} holds {found}."
        )
    if unknown:
        raise InputError(
            f"{unknown} of {len(sites)} scans have no site in column {column!r}, so that they can "
            "neither be left out nor kept. Fill the column in or leave these scans out."
        )
    return sites


def _merge_small_sites(sites: NDArray[Any], people: NDArray[Any], n_folds: int) -> NDArray[Any]:
    """Make one of the sites that cannot be in every fold, or refuse them."""
    counts = {str(s): len(np.unique(people[sites == s])) for s in np.unique(sites)}
    small = [site for site, n in counts.items() if n < n_folds]
    if not small:
        return sites
    merged = np.isin(sites, small)
    together = len(np.unique(people[merged]))
    if together < n_folds:
        listed = ", ".join(f"{site!r} ({counts[site]})" for site in small[:5])
        raise InputError(
            f"{len(small)} site(s) have fewer people than the {n_folds} folds, so that the folds "
            f"cannot hold the same mixture of sites: {listed}. Together they have {together}. Use "
            "fewer folds, or leave these sites out."
        )
    return np.where(merged, small[0], sites)


def _same_partition(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Tell whether two columns name the same groups of scans."""
    pairs = len(set(zip(a.tolist(), b.tolist(), strict=True)))
    return pairs == len(np.unique(a)) == len(np.unique(b))


# Made by splitters (`RandomSubjectSplits`, `SubjectFolds`, `LeaveOneSiteOut`,
# `SiteStratifiedFolds`, `PredefinedSplits`), checked by `check_splits`, written down and read by
# `write_splits` and `read_splits` of `semantoks.evaluation.split_files`.


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
