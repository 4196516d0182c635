"""Reliabilities as a table for the terminal."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from semantoks.benchmark.retest import Reliability

_WORDS: Final = {
    "identification": "identified",
    "identification_raw": "identified, mean not taken off",
    "median_icc_agreement": "ICC(2,1), median feature",
    "median_icc_consistency": "ICC(3,1), median feature",
}


def reliability_table(reliability: Reliability) -> Table:
    """Lay reliabilities out for the terminal."""
    shown = Table(title="reliability", caption=escape(_caption(reliability)))
    shown.add_column("", overflow="fold")
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("minus connectivity", justify="right", no_wrap=True)
    for between, of_pair in reliability.table.groupby("between", sort=False):
        first = of_pair.iloc[0]
        shown.add_row(escape(f"{between} ({first['n_recordings']} compared)"), style="bold")
        for measure in _WORDS:
            rows = of_pair[of_pair["measure"] == measure]
            chance = rows["chance"].iloc[0]
            known = f" (chance {chance:.3f})" if np.isfinite(chance) else ""
            shown.add_row(escape(f" {_WORDS[measure]}{known}"))
            for _, row in rows.iterrows():
                shown.add_row(escape(f"   {row['method']}"), _value(row), _difference(row))
        shown.add_section()
    return shown


def _caption(reliability: Reliability) -> str:
    """Say how the intervals are to be read, and what is not there."""
    lines = ["In brackets: 95 % interval over subjects. *: zero is outside."]
    return "\n".join([*lines, *reliability.settings["notes"]])


def _value(row: pd.Series) -> str:
    """Write a value with its interval."""
    if np.isnan(row["value"]):
        return "not defined"
    return escape(f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")


def _difference(row: pd.Series) -> str:
    """Write a difference with its interval, marked if zero is outside."""
    if np.isnan(row["difference"]):
        return ""
    low, high = row["difference_low"], row["difference_high"]
    mark = " *" if low > 0 or high < 0 else "  "
    return escape(f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]") + mark
