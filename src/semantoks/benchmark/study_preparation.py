"""What a study does to features before a linear model reads them, fitted in training parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from sklearn.base import clone

from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.tasks import Task
from semantoks.errors import InputError
from semantoks.evaluation.confound_columns import confound_columns, find_confounds
from semantoks.evaluation.confounds import as_text, is_number
from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
from semantoks.evaluation.linear import learning_from_both
from semantoks.evaluation.preparation import Preparation
from semantoks.evaluation.splits import Split

PREPARED: Final = frozenset({"ridge", "logistic", "connectivity", "partial", "temporal"})
"""Ways to predict whose features are prepared: linear models of one row of features a scan."""
WITHOUT_FEATURES: Final = frozenset({"dummy", "confounds"})
"""Ways to predict that have no features to prepare."""


def preparation_of(plan: StudyPlan, task: Task, scans: pd.DataFrame) -> Preparation | None:
    """Make what the plan does to features."""
    if plan.prepare == "none":
        return None
    if plan.prepare == "regress-confounds":
        columns = confound_columns(scans, task.target, task.truth, plan.confounds or None)
        return ConfoundRegression(columns.used)
    site = find_confounds(scans).get("site")
    if site is None:
        raise InputError(
            "prepare: combat needs the site of every scan, but the table of scans has no column "
            "of sites (site, site_id or scan_site). Bring it with a table when preparing."
        )
    return ComBat(site)


def cannot_prepare(
    prepare: Preparation | None, scans: pd.DataFrame, splits: Sequence[Split]
) -> str:
    """Say why features cannot be prepared in some split, by rehearsing it on noise."""
    if prepare is None:
        return ""
    noise = np.random.default_rng(0).standard_normal((len(scans), 3))
    for split in splits:
        train = learning_from_both(split).train
        try:
            fitted = clone(prepare).fit(noise[train], scans=scans.iloc[train])
            fitted.transform(noise[split.test], scans=scans.iloc[split.test])
        except InputError as error:
            return f"{split}: {error}"
    return ""


def columns_read(
    how: str, plan: StudyPlan, scans: pd.DataFrame, prepare: Preparation | None
) -> tuple[str, ...]:
    """Name the columns of the table of scans that a way to predict reads beside the target."""
    read: Sequence[str] = ()
    if how == "confounds":
        read = plan.confounds or tuple(find_confounds(scans).values())
    elif how in PREPARED and isinstance(prepare, ConfoundRegression):
        read = prepare.columns
    elif how in PREPARED and isinstance(prepare, ComBat):
        read = (prepare.site_column, *prepare.preserved)
    return tuple(column for column in read if column in scans.columns)


def values_of(scans: pd.DataFrame, columns: Sequence[str]) -> dict[str, list[str]]:
    """Write the values of columns down, for a digest."""
    values = {}
    for column in columns:
        if is_number(scans[column]):
            numbers = scans[column].to_numpy(dtype=np.float64, na_value=np.nan)
            values[column] = [repr(number) for number in numbers.tolist()]
        else:
            values[column] = as_text(scans[column]).tolist()
    return values
