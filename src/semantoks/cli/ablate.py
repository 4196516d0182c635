"""What each part of the method is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.terminal import Output


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
    """Pretrain the method and the method without a part, and probe all on the same splits.

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
        Folds, and how often subjects are divided anew.
    leave_out : list of str
        Scans that take no part; may be given many times.
    output : Output
        How to speak.
    """
    from semantoks.benchmark.ablation import PAPER
    from semantoks.benchmark.ablation import ablate as run_ablation
    from semantoks.benchmark.display import comparison_table
    from semantoks.data.store import Store
    from semantoks.interpretation.study_page import write_study_page
    from semantoks.training.config import configure, load_recipe, parse_changes

    ablation = run_ablation(
        Store.open(data),
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
