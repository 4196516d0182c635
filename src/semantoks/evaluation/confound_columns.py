"""Which columns of a table of scans are age, sex, site and motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import pandas as pd
from jaxtyping import Shaped
from numpy.typing import ArrayLike

from semantoks.errors import InputError
from semantoks.evaluation.confounds import SITE_COLUMNS, as_text, check_columns
from semantoks.evaluation.preparation import is_target

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
