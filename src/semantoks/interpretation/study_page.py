"""A study, an ablation or a scaling law as one page: a figure and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from semantoks.errors import InputError
from semantoks.evaluation.metrics import CONNECTIVITY, DUMMY, METRIC_NAMES, METRICS
from semantoks.files import replacing
from semantoks.interpretation.figures.canvas import render
from semantoks.interpretation.figures.scores import (
    LabelAxis,
    ScalingAxis,
    draw_label_curves,
    draw_scaling,
    draw_scores,
)
from semantoks.interpretation.page import Block, Picture, Section, Table, Words, render_page
from semantoks.interpretation.standing import score_axes, score_table, summaries, with_interval

UNTRAINED = "untrained"
_SOME_LABELS = r"(.+) \d+ labels"


def write_study_page(
    table: pd.DataFrame,
    out: Path,
    *,
    title: str,
    words: Sequence[str] = (),
    laws: pd.DataFrame | None = None,
) -> Path:
    """Write scores of many methods as one self-contained html page."""
    rows = summaries(table.assign(comparison=""))
    sections = [Section("about", "About", [Words(text) for text in words])] if words else []
    if laws is not None:
        sections.append(_scaling(table, laws))
    few = rows["division"].astype(str).str.fullmatch(_SOME_LABELS)
    if few.any():
        sections.append(_label_curves(table))
    for k, target in enumerate(rows["target"].astype(str).unique()):
        of_target = rows[rows["target"].astype(str) == target]
        drawn = score_axes(of_target[~few[of_target.index]], target)
        picture = render(draw_scores(drawn), f"scores{k}", f"Scores of {target}")
        caption = (
            "Dots are scores, bars their 95 % intervals. The dashed line is connectivity, the "
            "dotted line guessing. Overlap of bars is not the test: the interval on the difference "
            "is, because all methods saw the same people."
        )
        blocks: list[Block] = [Picture(picture, caption), score_table(of_target)]
        if "reference" in table.columns:
            blocks.append(_reference_table(table[table["target"].astype(str) == target]))
        sections.append(Section(f"target{k}", target, blocks))
    try:
        with replacing(out) as beside:
            beside.write_text(render_page(title, "", sections), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the page {out} cannot be written: {error.strerror}.") from error
    return out


def _reference_table(table: pd.DataFrame) -> Table:
    """Hold every method against the one that was chosen for it."""
    reference = str(table["reference"].iloc[0])
    columns = [f"reference_{name}" for name in ("difference", "difference_low", "difference_high")]
    cells = [
        [
            METRIC_NAMES.get(str(row["metric"]), str(row["metric"])).split(" (")[0],
            str(row["method"]),
            with_interval(*(float(row[column]) for column in columns)),
        ]
        for _, row in table.iterrows()
        if row["method"] != reference
    ]
    headings = ["metric", "method", f"minus {reference} [95\u00a0%]"]
    return Table(headings, cells, f"Paired differences to {reference}, on the same people.")


def _label_curves(table: pd.DataFrame) -> Section:
    """Draw the deciding metric of every target over the number of people with labels."""
    whole = table["split"].astype(str).str.replace(_SOME_LABELS, r"\1", regex=True)
    panels = []
    for (target, split), rows in table.groupby(["target", whole], sort=False):
        if rows["split"].nunique() < 2:
            continue
        metric = METRICS[rows["kind"].iloc[0]][0]
        said = METRIC_NAMES[metric].split(" (")[0]
        title = f"{target}, split by {split}"
        panels.append(LabelAxis(title, said, rows[rows["metric"] == metric]))
    return Section(
        "labels",
        "Scores by labels",
        [
            Picture(
                render(draw_label_curves(panels), "labels", "Scores by the number of labels"),
                "Everybody is tested whoever is learned from; people whose labels are learned from "
                "are nested. What needs no labels is learned from all people of a training part. "
                "Bars: 95 % intervals.",
            )
        ],
    )


def _scaling(table: pd.DataFrame, laws: pd.DataFrame) -> Section:
    """Draw the leading metric of every target over the number of people."""
    panels, said = [], []
    for _, law in laws.iterrows():
        rows = table[(table["target"] == law["target"]) & (table["metric"] == law["metric"])]
        factor, exponent, low, high = (
            float(law[name]) for name in ("scale", "exponent", "low", "high")
        )
        known = bool(np.isfinite([factor, exponent]).all())
        metric = METRIC_NAMES.get(str(law["metric"]), str(law["metric"]))
        panels.append(
            ScalingAxis(
                str(law["target"]),
                metric,
                rows[rows["n_pretraining"] > 0],
                {
                    str(row["method"]): float(row["value"])
                    for _, row in rows.iterrows()
                    if row["method"] in (CONNECTIVITY, DUMMY, UNTRAINED)
                },
                (factor, exponent) if known else None,
            )
        )
        written = with_interval(exponent, low, high) if known else "not fitted"
        said.append([str(law["target"]), metric, written, str(law["n_points"])])
    blocks: list[Block] = [
        Picture(
            render(draw_scaling(panels), "scaling", "Scores by the number of people"),
            "Each dot is a model that was pretrained on a part of the people; parts are nested, "
            "and nobody who is tested was pretrained on. Bars: 95 % intervals.",
        ),
        Table(
            ["target", "metric", "exponent [95\u00a0%]", "runs"],
            said,
            "Power law in the logarithm of the number of people: score = factor · log(n)^exponent.",
        ),
    ]
    return Section("scaling", "Scores by size", blocks)
