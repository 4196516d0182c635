"""Scores as pictures and as a table, for every page that shows some."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from semantoks.evaluation.metrics import CONNECTIVITY, DUMMY, METRIC_NAMES
from semantoks.interpretation.figures import ScoreAxis
from semantoks.interpretation.page import Table
from semantoks.interpretation.standing import number, reference_score, with_interval


def score_axes(rows: pd.DataFrame, target: str) -> list[ScoreAxis]:
    """Return one small picture a division and metric of a target."""
    panels = []
    for (division, metric), block in rows.groupby(["division", "metric"], sort=False):
        where = (rows, target, str(division), str(metric))
        panels.append(
            ScoreAxis(
                split=f"{target}, split by {division}",
                metric=METRIC_NAMES.get(str(metric), str(metric)),
                rows=block.sort_values("method", key=_last, kind="stable"),
                reference=reference_score(*where, CONNECTIVITY),
                chance=reference_score(*where, DUMMY),
            )
        )
    return panels


def _last(methods: pd.Series) -> pd.Series:
    """Order methods: features first, then connectivity, then guessing."""
    return methods.map({CONNECTIVITY: 1, DUMMY: 2}).fillna(0)


def _rank(column: pd.Series) -> Callable[[pd.Series], pd.Series]:
    """Order values as they first appear."""
    places = {value: k for k, value in enumerate(column.unique())}
    return lambda values: values.map(places)


def score_table(rows: pd.DataFrame) -> Table:
    """Return all scores as a table."""
    wanted = ("difference", "difference_low", "difference_high", "n_scans", "n_subjects")
    full = rows.assign(**{c: np.nan for c in wanted if c not in rows})
    ranks: dict[str, Callable[[pd.Series], pd.Series]] = {"method": _last}
    for key in ("metric", "division", "target"):
        ranks[key] = _rank(rows[key])
    for key, rank in ranks.items():  # stable, so that the last one counts most
        full = full.sort_values(key, key=rank, kind="stable")
    cells = []
    for _, row in full.iterrows():
        difference = [float(row[c]) for c in ("difference", "difference_low", "difference_high")]
        metric = str(row["metric"])
        cells.append(
            [
                str(row["target"]), str(row["division"]),
                METRIC_NAMES.get(metric, metric).split(" (")[0],
                str(row["method"]),
                with_interval(float(row["value"]), float(row["low"]), float(row["high"])),
                with_interval(*difference) if row["method"] != CONNECTIVITY else "–",
                number(float(row["n_scans"]), 0), number(float(row["n_subjects"]), 0),
            ]
        )  # fmt: skip
    headings = ["target", "split", "metric", "method", "score [95\u00a0%]",
                "minus connectivity [95\u00a0%]", "scans", "subjects"]  # fmt: skip
    return Table(headings, cells, "All scores with 95 % intervals over subjects and splits.")
