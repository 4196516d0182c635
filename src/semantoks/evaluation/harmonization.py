"""Effects of sites and confounds taken out of features, learned in the training part alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import InputError
from semantoks.evaluation.confounds import ConfoundDesign, as_text, check_columns, check_rows

Matrix = NDArray[np.float64]

_LISTED = 5


class SiteEffect(NamedTuple):
    """What a site does to standardised features."""

    shift: Float[Matrix, "feature"]
    scale: Float[Matrix, "feature"]


class ComBat(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Bring mean and variance of every feature at every site to those of all sites.

    Features are standardised, z = (x - α - Cβ) / σ, with α the mean of the sites, β the slopes of
    the preserved covariates and σ² the variance that is left. Each site's mean γ and variance δ²
    of z are shrunk towards those of all features, with a normal prior for γ and an inverse gamma
    prior for δ², and (z - γ*) / δ* is brought back to the unit of the feature. Johnson, Li and
    Rabinovic 2007 (parametric empirical Bayes); Fortin et al. 2018 for images.

    Parameters
    ----------
    site_column : str
        Column that names the site.
    preserve : sequence of str
        Covariates whose effect shall stay, such as age. The target must not be among them.
    tolerance : float
        Largest relative change of γ* and δ*² at which their iteration ends.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> scans = pd.DataFrame({"site": ["a"] * 50 + ["b"] * 50})
    >>> features = random.standard_normal((100, 8))
    >>> features[50:] += 5
    >>> harmonised = ComBat().fit_transform(features, scans=scans)
    >>> bool(abs(harmonised[50:].mean() - harmonised[:50].mean()) < 0.1)
    True
    """

    def __init__(
        self,
        site_column: str = "site",
        preserve: Sequence[str] = (),
        *,
        tolerance: float = 1e-4,
    ) -> None:
        self.site_column = site_column
        self.preserve = preserve
        self.tolerance = tolerance

    @property
    def preserved(self) -> tuple[str, ...]:
        """Columns whose effect is kept."""
        return tuple(self.preserve)

    def fit(
        self,
        features: Shaped[NDArray[Any], "scan feature"],
        y: object = None,
        *,
        scans: pd.DataFrame,
    ) -> Self:
        """Learn what the sites do to the features.

        Parameters
        ----------
        features : ndarray of shape (scan, feature)
            Features of the training part.
        y : object
            Not used.
        scans : DataFrame
            The table of these scans.

        Returns
        -------
        ComBat
            Itself.

        Raises
        ------
        InputError
            If a column is absent, a site is unknown or has one scan (or the same one repeated),
            covariates cannot be told from sites, features are not finite, or fewer than two vary.
        """
        x, code = self._read(features, scans)
        counts = np.bincount(code)
        covariates = self._fit_covariates(scans)
        at_site = np.eye(len(counts))[code]
        design = np.hstack([at_site, covariates])
        _check_separable(design, self.preserved)
        effects = np.linalg.lstsq(design, x, rcond=None)[0]
        self.slopes_ = effects[len(counts) :]
        self.mean_ = counts / len(x) @ effects[: len(counts)]
        self.deviation_ = np.sqrt(((x - design @ effects) ** 2).mean(axis=0))
        varying = self.deviation_ > 1e-10 * np.abs(x).max(axis=0, initial=0.0)
        if varying.sum() < 2:
            raise InputError(
                f"ComBat pools the effects of a site over features; of {x.shape[1]} feature(s) "
                f"{varying.sum()} vary within sites, and two are needed. Use ConfoundRegression."
            )
        # a feature that is constant within sites has no variance to share: it is left as it is
        self.deviation_[~varying] = 0.0
        z = self._standardise(x, covariates)[:, varying]
        self.effects_ = {}
        for k, site in enumerate(self.sites_):
            if not z[code == k].var(axis=0).any():
                raise InputError(
                    f"the {(code == k).sum()} scans of site {site!r} in the training part have the "
                    "same features, so that the site has no variance. Leave repeated scans out."
                )
            shift, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
            shift[varying], scale[varying] = _posterior(z[code == k], self.tolerance)
            self.effects_[site] = SiteEffect(shift, scale)
        return self

    def transform(
        self, features: Shaped[NDArray[Any], "scan feature"], *, scans: pd.DataFrame
    ) -> Float[Matrix, "scan feature"]:
        """Take the effects of the sites out.

        Parameters
        ----------
        features : ndarray of shape (scan, feature)
            Features of any scans of the sites that were fitted on.
        scans : DataFrame
            The table of these scans.

        Returns
        -------
        ndarray of shape (scan, feature)
            Harmonised features, in the unit that they came in.

        Raises
        ------
        InputError
            If a site was not in the training part, or features are not finite.
        """
        check_is_fitted(self)
        check_rows(features, scans)
        sites = _sites(scans, self.site_column)
        new = sorted(set(sites) - set(self.sites_))
        if new:
            raise InputError(
                f"{len(new)} site(s) were not in the training part, such as "
                f"{', '.join(map(repr, new[:_LISTED]))}: ComBat knows nothing of their effect, so "
                "that their scans cannot be harmonised. Use splits by subject, not by site, or "
                "leave these scans out."
            )
        x = np.asarray(features, dtype=np.float64)
        covariates = self._covariates(scans)
        z = self._standardise(x, covariates)
        for site in np.unique(sites):
            effect = self.effects_[site]
            z[sites == site] = (z[sites == site] - effect.shift) / effect.scale
        harmonised = z * self.deviation_ + self.mean_ + covariates @ self.slopes_
        return np.where(self.deviation_ > 0, harmonised, x)

    def fit_transform(
        self,
        features: Shaped[NDArray[Any], "scan feature"],
        y: object = None,
        *,
        scans: pd.DataFrame,
    ) -> Float[Matrix, "scan feature"]:
        """Learn from scans and apply it to the same scans.

        Parameters
        ----------
        features : ndarray of shape (scan, feature)
            Features of the training part.
        y : object
            Not used.
        scans : DataFrame
            The table of these scans.

        Returns
        -------
        ndarray of shape (scan, feature)
            What `transform` returns of them.
        """
        return self.fit(features, scans=scans).transform(features, scans=scans)

    def _read(self, features: NDArray[Any], scans: pd.DataFrame) -> tuple[Matrix, NDArray[np.intp]]:
        """Return features, and the number of each scan's site."""
        check_rows(features, scans)
        self.sites_, code, counts = np.unique(
            _sites(scans, self.site_column), return_inverse=True, return_counts=True
        )
        single = [str(site) for site in self.sites_[counts < 2]]
        if single:
            raise InputError(
                f"{len(single)} site(s) have a single scan in the training part, such as "
                f"{', '.join(map(repr, single[:_LISTED]))}: a variance cannot be told from one "
                "scan. Leave these sites out, use fewer folds, or use ConfoundRegression."
            )
        return np.asarray(features, dtype=np.float64), code

    def _fit_covariates(self, scans: pd.DataFrame) -> Matrix:
        """Learn the lay-out of the covariates and return them."""
        self.design_ = ConfoundDesign(self.preserved).fit(scans) if self.preserved else None
        return self._covariates(scans, fitting=True)

    def _covariates(self, scans: pd.DataFrame, *, fitting: bool = False) -> Matrix:
        """Return covariates around their means in the training part, without empty columns."""
        if self.design_ is None:
            return np.zeros((len(scans), 0))
        laid_out = self.design_.transform(scans)
        if fitting:
            self.covariate_means_ = laid_out.mean(axis=0)
            self.kept_ = _independent(laid_out - self.covariate_means_)
        return np.asarray((laid_out - self.covariate_means_)[:, self.kept_])

    def _standardise(self, x: Matrix, covariates: Matrix) -> Matrix:
        """Return z, with features that do not vary at zero."""
        divisor = np.where(self.deviation_ > 0, self.deviation_, np.inf)
        return np.asarray((x - self.mean_ - covariates @ self.slopes_) / divisor)


def _posterior(z: Matrix, tolerance: float) -> tuple[Matrix, Matrix]:
    """Return γ* and δ* of one site from its standardised features."""
    n, shift, variance = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    prior_mean, prior_variance = shift.mean(), shift.var(ddof=1)
    mean, spread = variance.mean(), max(variance.var(ddof=1), 1e-12)  # not 0 where all vary alike
    shape, rate = (2 * spread + mean**2) / spread, (mean * spread + mean**3) / spread
    squares = ((z - shift) ** 2).sum(axis=0)
    g, d = shift, variance
    while True:
        new_g = (n * prior_variance * shift + d * prior_mean) / (n * prior_variance + d)
        sums = squares + n * (shift - new_g) ** 2
        new_d = (0.5 * sums + rate) / (n / 2 + shape - 1)
        change = max(_relative_change(g, new_g), _relative_change(d, new_d))
        g, d = new_g, new_d
        if change <= tolerance:
            return g, np.sqrt(d)


def _relative_change(old: Matrix, new: Matrix) -> float:
    """Return the largest change, measured by what was there."""
    return float((np.abs(new - old) / np.maximum(np.abs(old), 1e-6)).max())


def _independent(columns: Matrix) -> NDArray[np.intp]:
    """Return the columns that are no sum of those before them, as the last category is."""
    kept = list[int]()
    for i in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, i]]) == len(kept) + 1:
            kept.append(i)
    return np.array(kept, dtype=np.intp)


def _check_separable(design: Matrix, preserve: Sequence[str]) -> None:
    """Refuse covariates that are the same for all scans of each site."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise InputError(
            f"the covariates to preserve ({', '.join(preserve)}) cannot be told from the sites in "
            "the training part, as they hardly differ within sites: what would be preserved is the "
            "effect of the sites. Preserve other columns."
        )


def _sites(scans: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return the site of each scan, none unknown."""
    check_columns(scans, [column])
    sites = as_text(scans[column])
    unknown = int((sites == "").sum())
    if unknown:
        raise InputError(
            f"{unknown} of {len(sites)} scans have no site in column {column!r}, so that they "
            "cannot be harmonised. Fill the column in or leave these scans out."
        )
    return sites


class ConfoundRegression(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Subtract from every feature what confounds predict of it linearly.

    The regression is that of the training part: X - (C - mean C) B, with B of least squares.

    Parameters
    ----------
    columns : sequence of str
        Confounds in the table of scans: numbers, or texts of which every value has a column.
    categorical : sequence of str
        Those of them that hold categories though these are written as numbers, so that every value
        has a column. Columns that are called as sites or scanners are (site, site_id, scan_site,
        scanner and others, in any case) always do.

    Examples
    --------
    >>> scans = pd.DataFrame({"motion": [0.1, 0.2, 0.3, 0.4]})
    >>> features = 3 * scans[["motion"]].to_numpy() + 7
    >>> ConfoundRegression(["motion"]).fit_transform(features, scans=scans).round(3).ravel()
    array([7.75, 7.75, 7.75, 7.75])
    >>> scans = pd.DataFrame({"batch": [1, 1, 2, 2, 3, 3]})
    >>> features = np.array([[0, 2, 7, 9, 4, 6]])
    >>> regression = ConfoundRegression(["batch"], categorical=["batch"])
    >>> regression.fit_transform(features.T, scans=scans).round(3).ravel() + 0.0
    array([3.667, 5.667, 3.667, 5.667, 3.667, 5.667])
    """

    def __init__(self, columns: Sequence[str], *, categorical: Sequence[str] = ()) -> None:
        self.columns = columns
        self.categorical = categorical

    @property
    def preserved(self) -> tuple[str, ...]:
        """Columns whose effect is kept: none by name."""
        return ()

    def fit(
        self,
        features: Shaped[NDArray[Any], "scan feature"],
        y: object = None,
        *,
        scans: pd.DataFrame,
    ) -> Self:
        """Learn what confounds do to the features.

        Parameters
        ----------
        features : ndarray of shape (scan, feature)
            Features of the training part.
        y : object
            Not used.
        scans : DataFrame
            The table of these scans.

        Returns
        -------
        ConfoundRegression
            Itself.

        Raises
        ------
        InputError
            If a column is absent, rows do not match, features are not finite, or there are as many
            confounds as scans.
        ConfigurationError
            If `categorical` names none of the columns.
        """
        check_rows(features, scans)
        design = ConfoundDesign(tuple(self.columns), categorical=self.categorical)
        self.design_ = design.fit(scans)
        confounds = self.design_.transform(scans)
        self.mean_ = confounds.mean(axis=0)
        centred = confounds - self.mean_
        if np.linalg.matrix_rank(centred) >= len(features) - 1:
            raise InputError(
                f"{len(features)} scans are too few to tell the effects of {centred.shape[1]} "
                "columns of confounds: nothing of the features would be left. Take fewer confounds."
            )
        self.slopes_ = np.linalg.lstsq(centred, features - features.mean(axis=0), rcond=None)[0]
        return self

    def transform(
        self, features: Shaped[NDArray[Any], "scan feature"], *, scans: pd.DataFrame
    ) -> Float[Matrix, "scan feature"]:
        """Subtract what was learned.

        Parameters
        ----------
        features : ndarray of shape (scan, feature)
            Features of any scans.
        scans : DataFrame
            The table of these scans.

        Returns
        -------
        ndarray of shape (scan, feature)
            What is left; the mean of the training part stays.

        Raises
        ------
        InputError
            If a category was not in the training part, or features are not finite.
        """
        check_is_fitted(self)
        check_rows(features, scans)
        confounds = self.design_.transform(scans) - self.mean_
        return np.asarray(features - confounds @ self.slopes_, dtype=np.float64)

    def fit_transform(
        self,
        features: Shaped[NDArray[Any], "scan feature"],
        y: object = None,
        *,
        scans: pd.DataFrame,
    ) -> Float[Matrix, "scan feature"]:
        """Learn from scans and apply it to the same scans.

        Parameters
        ----------
        features : ndarray of shape (scan, feature)
            Features of the training part.
        y : object
            Not used.
        scans : DataFrame
            The table of these scans.

        Returns
        -------
        ndarray of shape (scan, feature)
            What `transform` returns of them.
        """
        return self.fit(features, scans=scans).transform(features, scans=scans)
