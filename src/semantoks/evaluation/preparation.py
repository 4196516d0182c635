"""What is done to features before a model reads them, and when that would leak."""

from __future__ import annotations

from typing import Any, Final, Protocol, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import InputError

SAME_QUANTITY: Final = 0.99
"""Rank correlation from which two columns of numbers are taken for one quantity."""
SAME_CLASSES: Final = 0.95
"""Adjusted mutual information from which two columns of classes are taken for one."""


class Preparation(Protocol):
    """A scikit-learn transformer of features that looks up sites and confounds in a table."""

    @property
    def preserved(self) -> tuple[str, ...]:
        """Columns of the table whose effect on the features is kept."""
        ...

    def fit(
        self,
        features: Float[NDArray[np.floating[Any]], "scan feature"],
        y: object = None,
        *,
        scans: pd.DataFrame,
    ) -> Self:
        """Learn from the training part."""
        ...

    def transform(
        self, features: Float[NDArray[np.floating[Any]], "scan feature"], *, scans: pd.DataFrame
    ) -> Float[NDArray[np.float64], "scan feature"]:
        """Apply what was learned."""
        ...


def check_preparation(
    prepare: Preparation, scans: pd.DataFrame, truth: Shaped[ArrayLike, "scan"]
) -> None:
    """Refuse a preparation that would carry knowledge of the test part into the features."""
    name, truth = type(prepare).__name__, np.asarray(truth)
    if len(scans) != len(truth):
        raise InputError(
            f"{name} needs the table of the {len(truth)} scans; one with {len(scans)} rows came."
        )
    try:
        check_is_fitted(prepare)
    except NotFittedError:
        pass
    else:
        raise InputError(
            f"{name} was fitted before, on scans that are tested here or not: its parameters may "
            "know the test parts. Give one that is not fitted; it is fitted in every training part."
        )
    for column in prepare.preserved:
        if column in scans.columns and is_target(scans[column], truth):
            raise InputError(
                f"{name} would preserve column {column!r}, which is the target itself: the labels "
                "of the test part would be written into its features. Preserve other columns only."
            )


def is_target(column: pd.Series[Any], truth: Shaped[ArrayLike, "scan"]) -> bool:
    """Tell whether a column is the target, also under another name or in another unit.

    Examples
    --------
    >>> is_target(pd.Series(["m", "f", "m", "f"]), [1, 2, 1, 2])
    True
    >>> is_target(pd.Series(["Oslo", "Oslo", "Bonn", "Rome"]), [1, 1, 2, 2])
    False
    >>> is_target(pd.Series(range(30)), np.arange(30.0) ** 3)
    True
    """
    known = column.notna().to_numpy() & (column.astype(str).str.strip() != "").to_numpy()
    values, truth = column[known], np.asarray(truth)[known]
    code, found = pd.factorize(values)
    target_code, targets = pd.factorize(truth)
    if len(found) < 2 or len(targets) < 2:
        return False
    repeats = 2 * max(len(found), len(targets)) <= len(values)
    if repeats and adjusted_mutual_info_score(target_code, code) >= SAME_CLASSES:
        return True
    numeric = all(pd.api.types.is_numeric_dtype(x) for x in (values, pd.Series(truth)))
    if not numeric or len(targets) < 3 or len(found) < 3:
        return False
    ranks = spearmanr(values.to_numpy(dtype=np.float64), truth.astype(np.float64)).statistic
    return bool(abs(ranks) >= SAME_QUANTITY)
