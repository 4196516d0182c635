"""Models, targets, splits and probes, compared by a plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import InputError
from semantoks.terminal import Output

if TYPE_CHECKING:
    import pandas as pd


@app.command(sort_key=68)
def evaluate(
    plan: Path,
    *,
    out: Path,
    workers: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 1,
    output: Output = SILENT,
) -> None:
    """Compare models, baselines, targets, splits and probes, as a plan says.

    Every cell is kept: stopped, or with more in the plan, it goes on when called again. Where a
    method cannot do with the cohort, all others are scored, and the exit code is 1.

    Example: semantoks evaluate study.yaml --out study --workers 2

    Parameters
    ----------
    plan : Path
        YAML file with store, targets, splits, models and baselines; docs/evaluation.md explains it.
    out : Path
        Folder for scores.csv, folds.csv, splits, predictions and report.html.
    workers : int
        Processes that compute cells.
    output : Output
        How to speak.
    """
    from semantoks.benchmark.display import scores_tables
    from semantoks.benchmark.study import run_study
    from semantoks.benchmark.study_plan import read_plan
    from semantoks.interpretation.study_page import write_study_page

    study = run_study(read_plan(plan), out, workers=workers, say=output.say)
    for table in scores_tables(study.scores):
        output.say(table)
    for text in study.skipped:
        output.say(f"skipped {text}")
    for text in study.notices:
        output.say(f"note: {text}")
    page = write_study_page(
        study.scores,
        out / "report.html",
        title="semantoks study",
        words=[
            *(f"Skipped: {text.rstrip('.')}." for text in study.skipped),
            *(f"Note: {text}." for text in study.notices),
            *_seen(study.scores.groupby("method")["n_seen"].max()),
        ],
    )
    output.say(f"Scores are in {out / 'scores.csv'}, folds in {out / 'folds.csv'}, page {page}.")
    output.result(
        {
            "out": str(out),
            "scores": study.scores.to_dict(orient="records"),
            "skipped": list(study.skipped),
            "failed": list(study.failed),
            "notices": list(study.notices),
        }
    )
    if study.failed:
        raise InputError(
            f"{len(study.failed)} part(s) of the study failed and are not among its scores: "
            f"{' '.join(text.rstrip('.') + '.' for text in study.failed)} All others are in "
            f"{out / 'scores.csv'}. Change the plan or the cohort and run again: what is there is "
            "not computed again."
        )


def _seen(counts: pd.Series[float]) -> list[str]:
    """Say which methods were pretrained on people of this study, or may have been."""
    words = counts.map(
        lambda count: (
            "the model does not say whom it was pretrained on."
            if math.isnan(count)
            else f"pretrained, without labels, on {count:.0f} of the subjects."
        )
    )
    told = words[counts != 0]
    return [f"{'; '.join(of.index)}: {word}" for word, of in told.groupby(told, sort=False)]
