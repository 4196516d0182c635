"""A comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from semantoks.benchmark.comparison import Comparison
from semantoks.evaluation.metrics import LOWER_IS_BETTER, METRICS


def comparison_table(comparison: Comparison) -> Table:
    """Lay a comparison out for the terminal."""
    settings = comparison.settings
    how = "one site left out" if settings["splits"] == "site" else "folds of subjects"
    shown = Table(
        title=escape(f"{settings['target']} ({settings['kind']}, {how})"),
        caption=escape(_caption(settings)),
    )
    shown.add_column("", overflow="fold")
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("minus connectivity", justify="right", no_wrap=True)
    for name in METRICS[settings["kind"]]:
        better = " (lower is better)" if name in LOWER_IS_BETTER else ""
        shown.add_row(name.replace("_", " ") + better, style="bold")
        rows = comparison.table[comparison.table["metric"] == name]
        numbers = rows[["value", "low", "high"]].to_numpy(dtype=np.float64)
        differences = rows[["difference", "difference_low", "difference_high"]].to_numpy(np.float64)
        for method, number, difference in zip(rows["method"], numbers, differences, strict=True):
            method = escape(f"  {method}")
            shown.add_row(method, _with_interval(number), _difference(difference))
        shown.add_section()
    return shown


def scores_tables(scores: pd.DataFrame) -> list[Table]:
    """Lay the scores of a study out for the terminal, the deciding metric of each target."""
    tables = []
    for (target, split), part in scores.groupby(["target", "split"], sort=False):
        metric = METRICS[part["kind"].iloc[0]][0]
        rows = part[part["metric"] == metric]
        shown = Table(
            title=escape(f"{target}, split by {split}: {metric.replace('_', ' ')}"),
            caption=_tested(rows),
        )
        shown.add_column("", overflow="fold")
        for heading in ("value", "minus connectivity", "p (Holm)"):
            shown.add_column(heading, justify="right", no_wrap=True)
        for _, row in rows.iterrows():
            numbers = row[["value", "low", "high"]].to_numpy(dtype=np.float64)
            names = ["difference", "difference_low", "difference_high"]
            differences = row[names].to_numpy(dtype=np.float64)
            p = float(row["p_corrected"])
            shown.add_row(
                escape(str(row["method"])),
                _with_interval(numbers),
                _difference(differences),
                "" if np.isnan(p) else f"{p:.3f}",
            )
        tables.append(shown)
    return tables


def _tested(rows: pd.DataFrame) -> str:
    """Say how many scans have the target, how many of them were tested, and how many have none."""
    n_scans, n_tested, n_missing = (
        int(rows[name].max()) for name in ("n_scans", "n_tested", "n_missing")
    )
    tested = "all" if n_tested == n_scans else str(n_tested)
    missing = f"; {n_missing} more lack the target" if n_missing else ""
    return f"{n_scans} scans of {rows['n_subjects'].max()} subjects, {tested} tested{missing}."


def _caption(settings: Mapping[str, Any]) -> str:
    """Say what was tested, and how the intervals are to be read."""
    missing = f", {settings['n_missing']} without the target" if settings["n_missing"] else ""
    lines = [
        f"{settings['n_scans']} scans of {settings['n_subjects']} subjects{missing}.",
        "In brackets: 95 % interval over subjects and splits. *: zero is outside.",
    ]
    if settings["n_repeats"] == 1:
        folds = "sites" if settings["splits"] == "site" else "folds"
        lines.append(f"One division only: the interval is over {folds}, then subjects in them.")
    if settings["transductive"]:
        names = ", ".join(settings["transductive"])
        lines.append(f"Pretraining saw these scans, without labels: {names}.")
    return "\n".join(lines)


def _with_interval(number: NDArray[np.float64], form: str = "{:.3f}") -> str:
    """Write a value with its interval, or that there is none."""
    if np.isnan(number[0]):
        return "not defined"
    value, low, high = (form.format(x) for x in number)
    return escape(f"{value} [{low}, {high}]")


def _difference(number: NDArray[np.float64]) -> str:
    """Write a difference with its interval, marked if zero is outside; nothing if there is none."""
    value, low, high = number
    if np.isnan(value):
        return ""
    return _with_interval(number, "{:+.3f}") + (" *" if low > 0 or high < 0 else "  ")
