"""What is known of a scan beside its signal, as numbers that a linear model can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.evaluation.probe import is_target

Unseen = Literal["refuse", "zero"]
"""What becomes of a category that was not in the training part."""

SITE_COLUMNS: Final = ("site", "site_id", "scan_site")
"""Names of columns, in lower case, that are taken for the site; earlier ones come first."""

CATEGORY_COLUMNS: Final = (
    *SITE_COLUMNS,
    *("sitename", "site_name", "center", "centre", "center_id", "centre_id"),
    *("scanner", "scanner_id", "scanner_name", "scanner_model", "scanner_serial", "device_id"),
)
"""Names of columns, in lower case, that hold sites or scanners: a number is only a name there."""


class ConfoundDesign(BaseEstimator):  # type: ignore[misc]
    """Columns of a table as a matrix: numbers standardised, texts one column a category.

    Means, deviations and categories are those of the scans that it is fitted on. A number that is
    missing becomes their mean, a category that is missing their most frequent one.

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
        categorical: Sequence[str] = (),
        unseen: Unseen = "refuse",
    ) -> None:
        self.columns = columns
        self.categorical = categorical
        self.unseen = unseen

    def fit(self, scans: pd.DataFrame) -> Self:
        """Learn means, deviations and categories."""
        if self.unseen not in ("refuse", "zero"):
            raise ConfigurationError(f"unseen must be refuse or zero, not {self.unseen!r}.")
        self._check_categorical()
        check_columns(scans, self.columns)
        self.texts_ = [
            c
            for c in self.columns
            if c in self.categorical
            or str(c).lower() in CATEGORY_COLUMNS
            or not is_number(scans[c])
        ]
        self.numbers_ = [c for c in self.columns if c not in self.texts_]
        numbers = _numbers(scans, self.numbers_)
        known = np.isfinite(numbers)
        self.means_ = np.where(known, numbers, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        spread = np.where(known, numbers, self.means_).std(axis=0)
        self.deviations_ = np.where(spread > 0, spread, 1.0)
        self.categories_, self.most_frequent_ = {}, {}
        for column in self.texts_:
            texts = as_text(scans[column])
            values, counts = np.unique(texts[texts != ""].astype(str), return_counts=True)
            self.categories_[column] = values
            self.most_frequent_[column] = values[counts.argmax()] if len(values) else ""
        return self

    def transform(self, scans: pd.DataFrame) -> Float[NDArray[np.float64], "scan column"]:
        """Lay the columns of other scans out."""
        check_columns(scans, self.columns)
        numbers = _numbers(scans, self.numbers_)
        filled = np.where(np.isfinite(numbers), numbers, self.means_)
        parts = [(filled - self.means_) / self.deviations_]
        for column in self.texts_:
            texts = as_text(scans[column])
            self._check_seen(column, texts)
            texts = np.where(texts == "", self.most_frequent_[column], texts)
            parts.append(texts[:, None] == self.categories_[column][None, :])
        return np.hstack(parts).astype(np.float64)

    def _check_categorical(self) -> None:
        """Refuse a name that is none of the columns: it would be read as a number in silence."""
        if isinstance(self.categorical, str):
            raise ConfigurationError(
                f"categorical is a list of columns, not the text {self.categorical!r}."
            )
        for name in self.categorical:
            if name not in self.columns:
                raise ConfigurationError(
                    f"categorical names {name!r}, which is none of the columns "
                    f"({', '.join(map(str, self.columns))}).{nearest(str(name), self.columns)}"
                )

    def _check_seen(self, column: str, texts: NDArray[Any]) -> None:
        """Refuse categories that were not fitted on, if they are to be refused."""
        new = sorted({*texts} - {*self.categories_[column]} - {""})
        if new and self.unseen == "refuse":
            raise InputError(
                f"{len(new)} value(s) of column {column!r} were not in the training part, the "
                f"first is {new[0]!r}: what it does to the features is not known. Use splits "
                "that have every value on both sides, or leave these scans out."
            )


def _numbers(scans: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """Return columns of numbers, shape (scan, column), NaN where missing."""
    return scans[list(columns)].to_numpy(dtype=np.float64, na_value=np.nan)


def as_text(column: pd.Series[Any]) -> NDArray[Any]:
    """Write the values of a column as text, so that the same number is the same text."""
    whole = is_number(column)
    texts = ["" if pd.isna(v) else (f"{float(v):g}" if whole else str(v).strip()) for v in column]
    return np.array(texts, dtype=object)


def is_number(column: pd.Series[Any]) -> bool:
    """Tell whether a column holds numbers."""
    numeric = pd.api.types.is_numeric_dtype(column)
    return bool(numeric and not pd.api.types.is_bool_dtype(column))


def check_columns(scans: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse columns that the table does not have."""
    for column in columns:
        if column not in scans.columns:
            raise InputError(
                f"the table of scans has no column {column!r}."
                f"{nearest(column, map(str, scans.columns))} It has "
                f"{', '.join(map(str, scans.columns)) or 'no columns'}."
            )


def check_rows(features: Shaped[NDArray[Any], "scan feature"], scans: pd.DataFrame) -> None:
    """Refuse a table of other scans than the features, and features that are not finite."""
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(scans):
        raise InputError(
            f"features of shape {features.shape} came with a table of {len(scans)} scans; a row a "
            "scan is needed in both."
        )
    broken = ~np.isfinite(features)
    if broken.any():
        columns = np.flatnonzero(broken.any(axis=0))
        first = broken[:, columns[0]]
        raise InputError(
            f"features are not finite in {broken.any(axis=1).sum()} of {len(features)} scans, in "
            f"{len(columns)} of {features.shape[1]} column(s); the first is column {columns[0]} "
            f"({first.sum()} scan(s), from row {np.flatnonzero(first)[0]}). Leave these scans or "
            "columns out, or embed the scans again."
        )


ConfoundRole = Literal["age", "sex", "site", "motion"]

RECOGNISED_CONFOUNDS: Final[Mapping[ConfoundRole, tuple[str, ...]]] = {
    "age": ("age", "age_at_scan", "age_years", "interview_age"),
    "sex": ("sex", "gender"),
    "site": SITE_COLUMNS,
    "motion": ("motion", "mean_fd", "func_mean_fd"),
}
"""Names of columns, in lower case, that are taken for each confound; earlier ones come first."""


class ConfoundColumns(NamedTuple):
    """Confounds that a target may be predicted from, and those that it may not."""

    used: tuple[str, ...]
    left_out: Mapping[str, str]


def confound_columns(
    scans: pd.DataFrame,
    target: str,
    truth: Shaped[ArrayLike, "scan"],
    columns: Sequence[str] | None = None,
) -> ConfoundColumns:
    """Choose the confounds that a target may be predicted from.

    Examples
    --------
    >>> scans = pd.DataFrame({"sex": [1, 2, 1, 2], "gender": list("mfmf"), "age": [9, 8, 9, 7]})
    >>> confound_columns(scans, "sex", [0, 1, 0, 1], ["age", "gender"])
    ConfoundColumns(used=('age',), left_out={'gender': "is the target 'sex' under another name"})
    """
    wanted = tuple(find_confounds(scans).values()) if columns is None else tuple(columns)
    check_columns(scans, wanted)
    left_out = {}
    for column in wanted:
        values = as_text(scans[column])
        if column == target:
            left_out[column] = "is the target"
        elif is_target(scans[column], truth):
            left_out[column] = f"is the target {target!r} under another name"
        elif len({*values} - {""}) < 2:
            left_out[column] = "has no two different values"
    used = tuple(column for column in wanted if column not in left_out)
    if not used:
        reasons = "; ".join(f"{column} {reason}" for column, reason in left_out.items())
        raise InputError(
            f"there are no confounds to predict {target!r} from ({reasons or 'none was found'}). "
            "Name columns of the table of scans that hold age, sex, site or motion."
        )
    return ConfoundColumns(used, left_out)


def sites_of(
    scans: pd.DataFrame, truth: Shaped[ArrayLike, "scan"]
) -> Shaped[NDArray[Any], "scan"] | None:
    """Read the site of every scan; None where there are not two, or they are the target.

    A scan of an unknown site is alone at it.

    Examples
    --------
    >>> scans = pd.DataFrame({"scan": list("abcd"), "site": ["Oslo", "Oslo", "Bonn", ""]})
    >>> sites_of(scans, [1.0, 2.0, 3.0, 4.0]).tolist()
    ['Oslo', 'Oslo', 'Bonn', '?d']
    """
    column = find_confounds(scans).get("site")
    if column is None or is_target(scans[column], truth):
        return None
    sites = np.asarray(as_text(scans[column]), dtype=str)
    if len({*sites} - {""}) < 2:
        return None
    alone = "?" + scans["scan"].to_numpy().astype(str).astype(object)
    return np.where(sites == "", alone, sites).astype(str)


def find_confounds(scans: pd.DataFrame) -> dict[ConfoundRole, str]:
    """Find the columns of age, sex, site and motion by their names.

    Examples
    --------
    >>> find_confounds(pd.DataFrame(columns=["AGE_AT_SCAN", "age", "Gender"]))
    {'age': 'age', 'sex': 'Gender'}
    """
    by_name = {str(column).lower(): str(column) for column in reversed(list(scans.columns))}
    found: dict[ConfoundRole, str] = {}
    for role, names in RECOGNISED_CONFOUNDS.items():
        known = [by_name[name] for name in names if name in by_name]
        if known:
            found[role] = known[0]
    return found
