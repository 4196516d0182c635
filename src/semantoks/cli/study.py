"""Verbs that compare: evaluate, ablate and scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    """Compare models, baselines, targets, splits and probes by a plan.

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
        What is printed.
    """
    from semantoks.benchmark.comparison import scores_tables
    from semantoks.benchmark.plan import read_plan
    from semantoks.benchmark.study import run_study
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
    """Say which methods were pretrained on subjects of this study, or may have been."""
    words = counts.map(
        lambda count: (
            "the model does not say whom it was pretrained on."
            if math.isnan(count)
            else f"pretrained, without labels, on {count:.0f} of the subjects."
        )
    )
    told = words[counts != 0]
    return [f"{'; '.join(of.index)}: {word}" for word, of in told.groupby(told, sort=False)]


@app.command(sort_key=74)
def ablate(
    *,
    data: Path,
    out: Path,
    target: Annotated[list[str], Parameter(name="--target")],
    only: Annotated[list[str] | None, Parameter(name="--only")] = None,
    recipe: str = "paper",
    set: Annotated[list[str] | None, Parameter(name="--set")] = None,
    seed: Annotated[list[int] | None, Parameter(name="--seed")] = None,
    features: str = "mean+cls",
    splits: Literal["subject", "site"] = "subject",
    folds: int = 5,
    repeats: int = 5,
    leave_out: Annotated[list[str] | None, Parameter(name="--leave-out")] = None,
    output: Output = SILENT,
) -> None:
    """Pretrain with and without each part of the method, and probe all on the same splits.

    Every variant is a run folder. Stopped, it goes on when the same command is given again.

    Example: semantoks ablate --data abide.store --recipe tiny --target diagnosis --out ablation

    Parameters
    ----------
    data : Path
        The store.
    out : Path
        Folder for runs, scores.csv and report.html.
    target : list of str
        Column of the table of scans; may be given many times.
    only : list of str
        Variants beside the full method; by default those of the paper, and no training at all.
    recipe : str
        Of the full method: paper, tiny, or a YAML file.
    set : list of str
        Changes of the recipe such as optimization.epochs=20; may be given many times.
    seed : list of int
        Seeds of pretraining; each gives every variant once more.
    features : str
        What is read out, as for embed.
    splits : str
        subject: repeated folds of subjects; site: one site left out at a time.
    folds, repeats : int
        Number of folds, and of repeated divisions of the subjects.
    leave_out : list of str
        Scans that take no part; may be given many times.
    output : Output
        What is printed.
    """
    from semantoks.benchmark.comparison import comparison_table
    from semantoks.benchmark.variants import PAPER
    from semantoks.benchmark.variants import ablate as run_ablation
    from semantoks.data.store import Store
    from semantoks.interpretation.study_page import write_study_page
    from semantoks.training.config import configure, load_recipe, parse_changes

    ablation = run_ablation(
        Store.open(data).verify(),
        out,
        configure(load_recipe(recipe), parse_changes(set or [])),
        target,
        names=tuple(only) if only else PAPER,
        seeds=tuple(seed) if seed else (0,),
        features=features,
        splits=splits,
        n_folds=folds,
        repeats=repeats,
        leave_out=tuple(leave_out or ()),
        say=output.say,
    )
    for comparison in ablation.comparisons:
        output.say(comparison_table(comparison))
    page = write_study_page(
        ablation.table,
        out / "report.html",
        title="semantoks ablation",
        words=[
            "The full method and the method without a part, pretrained alike and read out alike.",
            "Pretraining saw the scans that are tested, without labels.",
        ],
    )
    output.say(f"Scores are in {out / 'scores.csv'}, the page is {page}.")
    output.result({"out": str(out), "scores": ablation.table.to_dict(orient="records")})


@app.command(sort_key=75)
def scale(
    *,
    data: Path,
    out: Path,
    target: Annotated[list[str], Parameter(name="--target")],
    share: Annotated[list[float] | None, Parameter(name="--share")] = None,
    held_out: float = 0.5,
    budget: Literal["steps", "epochs"] = "steps",
    recipe: str = "paper",
    set: Annotated[list[str] | None, Parameter(name="--set")] = None,
    seed: Annotated[list[int] | None, Parameter(name="--seed")] = None,
    features: str = "mean+cls",
    folds: int = 5,
    repeats: int = 5,
    leave_out: Annotated[list[str] | None, Parameter(name="--leave-out")] = None,
    output: Output = SILENT,
) -> None:
    """Pretrain on nested subsets of a cohort, and probe subjects that none of them has seen.

    Every part is a run folder. Stopped, it goes on when the same command is given again.

    Example: semantoks scale --data abide.store --recipe tiny --target age --out scaling

    Parameters
    ----------
    data : Path
        The store.
    out : Path
        Folder for runs, scores.csv, laws.csv and report.html.
    target : list of str
        Column of the table of scans; may be given many times.
    share : list of float
        Shares of the subjects who are not held out; by default an eighth, a quarter, half, all.
    held_out : float
        Share of the subjects who are probed and never pretrained on.
    budget : str
        steps: all parts are trained for as many steps as the largest; epochs: for as many epochs.
    recipe : str
        paper, tiny, or a YAML file.
    set : list of str
        Changes of the recipe such as optimization.epochs=20; may be given many times.
    seed : list of int
        Seeds; each draws parts and weights anew.
    features : str
        What is read out, as for embed.
    folds, repeats : int
        Number of folds, and of repeated divisions of the subjects.
    leave_out : list of str
        Scans that take no part; may be given many times.
    output : Output
        What is printed.
    """
    from semantoks.benchmark.comparison import comparison_table
    from semantoks.benchmark.variants import scale as run_scaling
    from semantoks.data.store import Store
    from semantoks.interpretation.study_page import write_study_page
    from semantoks.training.config import configure, load_recipe, parse_changes

    scaling = run_scaling(
        Store.open(data).verify(),
        out,
        configure(load_recipe(recipe), parse_changes(set or [])),
        target,
        shares=tuple(share) if share else (0.125, 0.25, 0.5, 1.0),
        seeds=tuple(seed) if seed else (0,),
        held_out=held_out,
        budget=budget,
        features=features,
        n_folds=folds,
        repeats=repeats,
        leave_out=tuple(leave_out or ()),
        say=output.say,
    )
    for comparison in scaling.comparisons:
        output.say(comparison_table(comparison))
    page = write_study_page(
        scaling.table,
        out / "report.html",
        title="semantoks scaling",
        words=[
            "Models that were pretrained on nested parts of a cohort, probed on subjects whom none "
            "of them has seen.",
            f"Equal {budget} for all parts.",
        ],
        laws=scaling.laws,
    )
    output.say(f"Scores are in {out / 'scores.csv'}, the page is {page}.")
    output.result(
        {
            "out": str(out),
            "scores": scaling.table.to_dict(orient="records"),
            "laws": scaling.laws.to_dict(orient="records"),
        }
    )
