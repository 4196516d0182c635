#!/usr/bin/env python3
"""Print probes as Markdown tables: one row a method, one column a target, with intervals.

``scores_table.py RUN/probe-* [--metric auc]`` reads the scores that ``semantoks probe`` wrote. A
difference to connectivity whose 95 % interval excludes zero is marked with *.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd


def cell(row: pd.Series) -> str:
    """Write a score with its interval, and its difference to connectivity."""
    text = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if pd.isna(row["difference"]):
        return text
    clear = row["difference_low"] > 0 or row["difference_high"] < 0
    return f"{text} ({row['difference']:+.3f}{' *' if clear else ''})"


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("probes", type=Path, nargs="+", help="folders that probe wrote")
    parser.add_argument("--metric", action="append", default=None)
    args = parser.parse_args()
    scores = pd.concat([pd.read_csv(probe / "scores.csv") for probe in args.probes])
    for metric in args.metric or ["balanced_accuracy", "auc", "r2", "mae"]:
        rows = scores[scores["metric"] == metric].copy()
        if rows.empty:
            continue
        rows["text"] = rows.apply(cell, axis=1)
        rows["column"] = (
            rows["target"] + ", by " + rows["split"] + " (n = " + rows["n_scans"].astype(str) + ")"
        )
        columns, methods = rows["column"].unique(), rows["method"].unique()
        table = rows.pivot(index="method", columns="column", values="text").loc[methods, columns]
        print(f"\n**{metric.replace('_', ' ')}**\n")
        print("| method | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for method, texts in table.iterrows():
            print(f"| {method} | " + " | ".join(texts) + " |")


if __name__ == "__main__":
    main()
