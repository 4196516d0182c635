"""An audit as a table for the terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from semantoks.benchmark.audit import Audit
from semantoks.benchmark.audit_scores import PREPARATIONS
from semantoks.evaluation.metrics import METRICS


def audit_table(found: Audit) -> Table:
    """Lay an audit out for the terminal.

    Parameters
    ----------
    found : Audit
        What `audit` returned.

    Returns
    -------
    rich.table.Table
        Quantity after quantity, one row a method: the deciding metric of the features as they are,
        with confounds regressed out, and after ComBat. A score whose interval holds chance stands
        in brackets.
    """
    shown = Table(
        title="what the features tell",
        caption=escape(
            f"{found.settings['n_scans']} scans of {found.settings['n_subjects']} subjects; "
            "intervals (95 %) are in audit.csv.\n(In brackets): the interval holds chance. "
            f"Regressed out: {', '.join(found.settings['regressed']) or 'nothing'};\n"
            "a linear model cannot read these afterwards, by construction. Others may."
        ),
    )
    shown.add_column("", overflow="fold")
    for name in ("as they are", "regressed", "ComBat"):
        shown.add_column(name, justify="right", no_wrap=True)
    deciding = [names[0] for names in METRICS.values()]
    table = found.table[found.table["metric"].isin(deciding)]
    for (quantity, split), rows in table.groupby(["quantity", "split"], sort=False):
        first = rows.iloc[0]
        metric = str(first["metric"]).replace("_", " ").replace("r2", "R²")
        where = ", one site left out" if split == "site" else ""
        heading = f"{quantity}{where}: {metric}, chance {first['chance']:.3f}"
        shown.add_row(escape(heading), style="bold")
        for method, own in rows.groupby("method", sort=False):
            cells = [_cell(own[own["preparation"] == name]) for name in PREPARATIONS]
            shown.add_row(escape(f"  {method}"), *cells)
        shown.add_section()
    return shown


def _cell(rows: pd.DataFrame) -> str:
    """Write a score, in brackets if its interval holds chance."""
    if not len(rows):
        return ""
    row: pd.Series[Any] = rows.iloc[0]
    above = row["low"] > row["chance"]
    return escape(f"{row['value']:.3f} " if above else f"({row['value']:.3f})")
