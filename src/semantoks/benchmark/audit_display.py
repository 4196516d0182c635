"""An audit as a table for the terminal."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
from rich.markup import escape
from rich.table import Table

from semantoks.benchmark.audit import Audit
from semantoks.benchmark.audit_scores import CONFOUNDS_ALONE, SITE_ALONE
from semantoks.evaluation.metrics import METRICS

_WORDS: Final = {"none": "as they are", "regression": "regressed", "combat": "ComBat"}


def audit_table(found: Audit) -> Table:
    """Lay an audit out for the terminal."""
    shown = Table(
        title="what the features tell",
        caption=escape(
            f"{found.settings['n_scans']} scans of {found.settings['n_subjects']} subjects; in "
            "brackets: 95 % interval.\n"
            f"Regressed out: {', '.join(found.settings['regressed']) or 'nothing'};\n"
            "a linear model cannot read these afterwards, by construction. Others may."
        ),
    )
    shown.add_column("", overflow="fold")
    shown.add_column("features")
    shown.add_column("score", justify="right", no_wrap=True)
    deciding = [names[0] for names in METRICS.values()]
    table = found.table[found.table["metric"].isin(deciding)]
    for (quantity, split), rows in table.groupby(["quantity", "split"], sort=False):
        first = rows.iloc[0]
        metric = str(first["metric"]).replace("_", " ").replace("r2", "R²")
        where = ", one site left out" if split == "site" else ""
        shown.add_row(escape(f"{quantity}{where}"), style="bold")
        shown.add_row(escape(f"{metric}, chance {first['chance']:.3f}"), style="bold")
        for method, own in rows.groupby("method", sort=False):
            label = f"  {method}"
            for _, row in own.iterrows():
                words = _WORDS[row["preparation"]]
                if str(method) in (SITE_ALONE, CONFOUNDS_ALONE):
                    words = ""  # there are no features to be prepared
                shown.add_row(escape(label), words, _score(row))
                label = ""
        shown.add_section()
    return shown


def _score(row: pd.Series[Any]) -> str:
    """Write a score with its interval."""
    return escape(f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
