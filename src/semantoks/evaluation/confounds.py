"""What is known of a scan beside its signal, as numbers that a linear model can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from semantoks.errors import ConfigurationError, InputError, nearest

Unseen = Literal["refuse", "zero"]
"""What becomes of a category that was not in the training part."""


class ConfoundDesign(BaseEstimator):  # type: ignore[misc]
    """Columns of a table as a matrix: numbers standardised, texts one column a category.

    Means, deviations and categories are those of the scans that it is fitted on. A number that is
    missing becomes their mean, a category that is missing their most frequent one.

    Parameters
    ----------
    columns : sequence of str
        Columns of the table.
    categorical : sequence of str
        Columns that hold categories even if these are written as numbers.
    unseen : {"refuse", "zero"}
        Whether a category that was not fitted on is refused, or has zero in all columns.

    Examples
    --------
    >>> scans = pd.DataFrame({"age": [10.0, None, 30.0], "site": ["a", "a", "b"]})
    >>> ConfoundDesign(["age", "site"]).fit(scans).transform(scans).round(1).tolist()
    [[-1.2, 1.0, 0.0], [0.0, 1.0, 0.0], [1.2, 0.0, 1.0]]
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        categorical: Sequence[str] = ("site",),
        unseen: Unseen = "refuse",
    ) -> None:
        self.columns = columns
        self.categorical = categorical
        self.unseen = unseen

    def fit(self, scans: pd.DataFrame) -> Self:
        """Learn means, deviations and categories.

        Parameters
        ----------
        scans : DataFrame
            The table of the training part.

        Returns
        -------
        ConfoundDesign
            Itself.

        Raises
        ------
        InputError
            If a column is absent.
        ConfigurationError
            If `unseen` is unknown.
        """
        if self.unseen not in ("refuse", "zero"):
            raise ConfigurationError(f"unseen must be refuse or zero, not {self.unseen!r}.")
        check_columns(scans, self.columns)
        self.texts_ = [c for c in self.columns if c in self.categorical or not is_number(scans[c])]
        self.numbers_ = [c for c in self.columns if c not in self.texts_]
        table = self._table(scans)
        self.categories_ = {c: set(table[c]) for c in self.texts_}
        numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
        texts = make_pipeline(
            SimpleImputer(missing_values="", strategy="most_frequent", keep_empty_features=True),
            OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        )
        self.encoder_ = ColumnTransformer(
            [("numbers", numbers, self.numbers_), ("texts", texts, self.texts_)]
        ).fit(table)
        return self

    def transform(self, scans: pd.DataFrame) -> NDArray[np.float64]:
        """Lay the columns of other scans out.

        Parameters
        ----------
        scans : DataFrame
            Their table.

        Returns
        -------
        ndarray of shape (scan, column)
            Numbers first, then a column a category.

        Raises
        ------
        InputError
            If a column is absent, or a category is new and new ones are refused.
        """
        check_columns(scans, self.columns)
        table = self._table(scans)
        for column in self.texts_ if self.unseen == "refuse" else ():
            new = sorted(set(table[column]) - self.categories_[column] - {""})
            if new:
                raise InputError(
                    f"{len(new)} value(s) of column {column!r} were not in the training part, the "
                    f"first is {new[0]!r}: what it does to the features is not known. Use splits "
                    "that have every value on both sides, or leave these scans out."
                )
        return np.asarray(self.encoder_.transform(table), dtype=np.float64)

    def _table(self, scans: pd.DataFrame) -> pd.DataFrame:
        """Return numbers as floats, categories as text, empty where missing."""
        parts = {c: pd.to_numeric(scans[c]).astype(np.float64) for c in self.numbers_}
        return pd.DataFrame(parts | {c: as_text(scans[c]) for c in self.texts_}, scans.index)


def as_text(column: pd.Series[Any]) -> NDArray[Any]:
    """Write the values of a column as text, so that the same number is the same text.

    Parameters
    ----------
    column : Series
        Any column.

    Returns
    -------
    ndarray of str objects, shape (scan,)
        Stripped text; empty where the value is missing.
    """
    whole = is_number(column)
    texts = ["" if pd.isna(v) else (f"{float(v):g}" if whole else str(v).strip()) for v in column]
    return np.array(texts, dtype=object)


def is_number(column: pd.Series[Any]) -> bool:
    """Tell whether a column holds numbers.

    Parameters
    ----------
    column : Series
        Any column.

    Returns
    -------
    bool
        False for text, and for true and false.
    """
    numeric = pd.api.types.is_numeric_dtype(column)
    return bool(numeric and not pd.api.types.is_bool_dtype(column))


def check_columns(scans: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse columns that the table does not have.

    Parameters
    ----------
    scans : DataFrame
        The table of scans.
    columns : sequence of str
        What is to be taken from it.

    Raises
    ------
    InputError
        If one is absent.
    """
    for column in columns:
        if column not in scans.columns:
            raise InputError(
                f"the table of scans has no column {column!r}."
                f"{nearest(column, map(str, scans.columns))} It has "
                f"{', '.join(map(str, scans.columns)) or 'no columns'}."
            )


def check_rows(features: NDArray[Any], scans: pd.DataFrame) -> None:
    """Refuse a table of other scans than the features.

    Parameters
    ----------
    features : ndarray of shape (scan, feature)
        Features.
    scans : DataFrame
        The table of scans.

    Raises
    ------
    InputError
        If they have not a row a scan both.
    """
    if features.ndim != 2 or len(features) != len(scans):
        raise InputError(
            f"features of shape {features.shape} came with a table of {len(scans)} scans; a row a "
            "scan is needed in both."
        )
