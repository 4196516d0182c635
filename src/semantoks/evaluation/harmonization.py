"""Effects of sites and confounds taken out of features, learned in the training part alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
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

    Examples
    --------
    >>> scans = pd.DataFrame({"motion": [0.1, 0.2, 0.3, 0.4]})
    >>> features = 3 * scans[["motion"]].to_numpy() + 7
    >>> ConfoundRegression(["motion"]).fit_transform(features, scans=scans).round(3).ravel()
    array([7.75, 7.75, 7.75, 7.75])
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns

    @property
    def preserved(self) -> tuple[str, ...]:
        """Columns whose effect is kept: none by name."""
        return ()

    def fit(self, features: NDArray[Any], y: object = None, *, scans: pd.DataFrame) -> Self:
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
            If a column is absent, rows do not match, or there are as many confounds as scans.
        """
        check_rows(features, scans)
        self.design_ = ConfoundDesign(tuple(self.columns)).fit(scans)
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

    def transform(self, features: NDArray[Any], *, scans: pd.DataFrame) -> Matrix:
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
            If a category was not in the training part.
        """
        check_is_fitted(self)
        check_rows(features, scans)
        confounds = self.design_.transform(scans) - self.mean_
        return np.asarray(features - confounds @ self.slopes_, dtype=np.float64)

    def fit_transform(
        self, features: NDArray[Any], y: object = None, *, scans: pd.DataFrame
    ) -> Matrix:
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
