"""Splits that know sites: one left out at a time, or all of them mixed alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.evaluation.split_parts import Split, text_of
from semantoks.evaluation.splitters import (
    Cohort,
    Splitter,
    carve_validation,
    refuse_too_few,
)
from semantoks.evaluation.stratification import (
    dealt_folds,
    random_state,
    strata_of,
    stratified_folds,
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
