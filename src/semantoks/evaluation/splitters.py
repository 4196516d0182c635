"""Splitters over the table of scans, which scikit-learn takes, too.

A splitter answers in two ways. `splits(scans, truth)` returns checked `Split` objects with a
validation part, for everything in this package. `split(X, y, groups)` yields (train, test) as
scikit-learn expects, with the table of scans (or the subjects alone) as `groups`: rows for
validation belong to train there, since its estimators choose inside of what they are given.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator

from semantoks.errors import InputError
from semantoks.evaluation.split_checks import check_splits
from semantoks.evaluation.split_parts import Kind, Split, families_of, kind_of
from semantoks.evaluation.stratification import (
    draw_groups,
    random_state,
    strata_of,
    stratified_folds,
)


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
