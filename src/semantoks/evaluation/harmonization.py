"""Effects of sites and confounds taken out of features, learned in the training part alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import InputError
from semantoks.evaluation.combat import ComBat
from semantoks.evaluation.confounds import ConfoundDesign, check_rows

__all__ = ["ComBat", "ConfoundRegression"]

Matrix = NDArray[np.float64]


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
