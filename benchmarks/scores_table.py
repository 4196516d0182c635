#!/usr/bin/env python3
"""Print scores as Markdown tables: one row a method, one column a target, with intervals.

``scores_table.py RUN/probe-* [--metric auc]`` reads the scores that ``semantoks probe`` or
``semantoks evaluate`` wrote: the value, its 95 % interval in brackets, and in parentheses the
difference to connectivity. A difference has two marks, one for each inference: * where its 95 %
bootstrap interval excludes zero (other people would hardly have given another sign), and † where
the corrected resampled t-test over folds has p < .05 after Holm's correction for the methods of
that target and split (another training set would hardly have). ``probe`` makes no t-test, so that
† is for scores of ``evaluate`` only.

``--against 'pretrained, ridge=untrained, ridge'`` (as often as you like) adds tables of a method
minus another one of the same study, computed from the predictions in its folder as ``evaluate``
computes the difference to connectivity, with the same marks; Holm's correction is for the pairs
that are asked for. The cohort of the study must be where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from semantoks.benchmark.study import study_differences


def marks(row: pd.Series) -> str:
    """Mark a difference by its bootstrap interval (*), and by its corrected t-test (†)."""
    clear = row["difference_low"] > 0 or row["difference_high"] < 0
    tested = row.get("p_corrected", float("nan")) < 0.05
    return f"{' *' if clear else ''}{' †' if tested else ''}"


def cell(row: pd.Series) -> str:
    """Write a score with its interval, and its difference to connectivity."""
    text = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if pd.isna(row["difference"]):
        return text
    return f"{text} ({row['difference']:+.3f}{marks(row)})"


def difference_cell(row: pd.Series) -> str:
    """Write a difference of two methods with its interval."""
    low, high = row["difference_low"], row["difference_high"]
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]{marks(row)}"


def show(rows: pd.DataFrame, heading: str) -> None:
    """Print one table of texts: a row a method, a column a target and split."""
    rows = rows.assign(
        column=rows["target"]
        + ", by "
        + rows["split"]
        + " (n = "
        + rows["n_scans"].astype(str)
        + ")"
    )
    columns, methods = rows["column"].unique(), rows["method"].unique()
    table = rows.pivot(index="method", columns="column", values="text").loc[methods, columns]
    print(f"\n**{heading}**\n")
    print("| method | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for method, texts in table.fillna("").iterrows():
        print(f"| {method} | " + " | ".join(texts) + " |")


def pair_of(text: str) -> tuple[str, str]:
    """Read METHOD=REFERENCE."""
    method, _, reference = text.partition("=")
    if not method.strip() or not reference.strip():
        raise argparse.ArgumentTypeError(f"{text!r} names no two methods; write METHOD=REFERENCE")
    return method.strip(), reference.strip()


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="that probe or evaluate wrote")
    parser.add_argument("--metric", action="append", default=None)
    parser.add_argument(
        "--against", metavar="METHOD=REFERENCE", type=pair_of, action="append", default=[]
    )
    args = parser.parse_args()
    metrics = args.metric or ["balanced_accuracy", "auc", "r2", "mae"]
    scores = pd.concat([pd.read_csv(folder / "scores.csv") for folder in args.folders])
    for metric in metrics:
        rows = scores[scores["metric"] == metric]
        if len(rows):
            show(rows.assign(text=rows.apply(cell, axis=1)), metric.replace("_", " "))
    if not args.against:
        return
    found = pd.concat([study_differences(folder, args.against) for folder in args.folders])
    found["method"] = found["method"] + " minus " + found["reference"]
    for metric in metrics:
        rows = found[found["metric"] == metric]
        if len(rows):
            named = f"{metric.replace('_', ' ')}, differences"
            show(rows.assign(text=rows.apply(difference_cell, axis=1)), named)


if __name__ == "__main__":
    main()
