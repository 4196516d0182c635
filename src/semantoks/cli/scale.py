"""How scores grow with the number of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.terminal import Output


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
    """Pretrain on nested parts of a cohort, and probe people that none of them has seen.

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
        Shares of the people who are not held out; by default an eighth, a quarter, half, all.
    held_out : float
        Share of the people who are probed and never pretrained on.
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
        Folds, and how often subjects are divided anew.
    leave_out : list of str
        Scans that take no part; may be given many times.
    output : Output
        How to speak.
    """
    from semantoks.benchmark.display import comparison_table
    from semantoks.benchmark.scaling import scale as run_scaling
    from semantoks.data.store import Store
    from semantoks.interpretation.study_page import write_study_page
    from semantoks.training.config import configure, load_recipe, parse_changes

    scaling = run_scaling(
        Store.open(data),
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
            "Models that were pretrained on nested parts of a cohort, probed on people whom none "
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
