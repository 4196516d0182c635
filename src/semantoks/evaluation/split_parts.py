"""A split: the scans that are learned from, chosen on and tested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from semantoks.errors import InputError, nearest

Kind = Literal["classification", "regression"]

Part = Literal["train", "validation", "test"]

PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")
"""The parts of a split, in the order in which they are written."""

_MOST_NUMERIC_CLASSES: Final = 10


@dataclass(frozen=True)
class ChoiceSplit:
    """What may be looked at while something is chosen: a split without its test part.

    A rate, an epoch, a penalty or a read-out is chosen by functions that take this type, so that
    no test scan can reach them.
    """

    name: str
    repeat: int
    fold: str
    train: NDArray[np.intp]
    validation: NDArray[np.intp]

    def __str__(self) -> str:
        return f"{self.name} split, repeat {self.repeat}, fold {self.fold}"


@dataclass(frozen=True)
class Split:
    """Which scans are learned from, which are predicted, and which choices may be made on.

    Examples
    --------
    >>> split = Split("mine", 0, "0", np.array([0, 1]), np.array([3]), validation=np.array([2]))
    >>> choice = split.for_choice()
    >>> choice.validation, hasattr(choice, "test")
    (array([2]), False)
    """

    name: str
    repeat: int
    fold: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    validation: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))

    def __str__(self) -> str:
        return f"{self.name} split, repeat {self.repeat}, fold {self.fold}"

    def for_choice(self) -> ChoiceSplit:
        """Return what may be looked at while something is chosen."""
        if not len(self.validation):
            raise InputError(
                f"{self} has no validation part, so that nothing can be chosen on it, and choices "
                "are never made on the test part. Give the splitter a share for validation."
            )
        return ChoiceSplit(self.name, self.repeat, self.fold, self.train, self.validation)


def kind_of(truth: Shaped[ArrayLike, "scan"]) -> Kind:
    """Tell whether a target is a class or a value.

    Examples
    --------
    >>> kind_of([1, 2, 1]), kind_of(np.linspace(20, 80, 30)), kind_of(list("abcdefghijklmn"))
    ('classification', 'regression', 'classification')
    """
    values = np.asarray(truth)
    number = np.issubdtype(values.dtype, np.number)
    many = number and len(np.unique(values)) > _MOST_NUMERIC_CLASSES
    return "regression" if many else "classification"


def subjects_of(scans: pd.DataFrame) -> Shaped[NDArray[Any], "scan"]:
    """Return who each scan is of."""
    subjects = text_of(scans, "subject")
    nameless = np.flatnonzero(subjects == "")
    if len(nameless):
        raise InputError(
            f"{len(nameless)} scan(s) have no subject, the first is in row {nameless[0]}: the "
            "scans of a person cannot be kept together. Name the subjects when preparing."
        )
    return subjects


def families_of(
    scans: pd.DataFrame, family_column: str | None = None
) -> Shaped[NDArray[Any], "scan"]:
    """Return which people must stay in one part.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abcd"), "family": ["x", "y", "x", ""]})
    >>> families_of(scans, "family").tolist()
    ['a', 'b', 'a', 'd']
    """
    subjects = subjects_of(scans)
    if family_column is None:
        return subjects
    families = text_of(scans, family_column)
    if not (families != "").any():
        raise InputError(
            f"column {family_column!r} names no family of any scan, so that families cannot be "
            "kept together. Fill it in, or give no column of families."
        )
    people, person = np.unique(subjects, return_inverse=True)
    names, family = np.unique(families, return_inverse=True)
    known = families != ""
    n = len(people) + len(names)
    links = coo_array(
        (np.ones(known.sum()), (person[known], len(people) + family[known])), shape=(n, n)
    )
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component[: len(people)], return_index=True)
    head = dict(zip(component[first].tolist(), people[first].tolist(), strict=True))
    return np.array([head[c] for c in component[person].tolist()], dtype=str)


def text_of(scans: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return a column as stripped text, missing values as empty text."""
    if column not in scans.columns:
        known = [str(name) for name in scans.columns]
        raise InputError(
            f"there is no column {column!r} in the table of scans, which has "
            f"{', '.join(known)}.{nearest(column, known)}"
        )
    return np.array(["" if pd.isna(v) else str(v).strip() for v in scans[column]], dtype=str)
