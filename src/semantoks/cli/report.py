"""A run to a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.terminal import Output


@app.command(sort_key=70)
def report(
    run: Path,
    *,
    embeddings: Path | None = None,
    probe: Annotated[list[Path] | None, Parameter(name="--probe")] = None,
    phenotype: Annotated[list[str] | None, Parameter(name="--phenotype")] = None,
    store: Path | None = None,
    out: Path | None = None,
    output: Output = SILENT,
) -> None:
    """Write a run as one page: cohort, training, health, maps and scores.

    Example: semantoks report run --probe probe-diagnosis

    Parameters
    ----------
    run : Path
        Run folder.
    embeddings : Path
        File of embed; by default RUN/embeddings*.parquet.
    probe : list of Path
        Folders of probe; by default RUN/probe*. May be given many times.
    phenotype : list of str
        Columns that the maps are coloured by; by default the probes' targets.
    store : Path
        Where the store is now, if it was moved.
    out : Path
        The page; by default RUN/report.html.
    output : Output
        How to speak.
    """
    from semantoks.interpretation.report import write_report

    page = write_report(
        run,
        embeddings=embeddings,
        comparisons=probe or (),
        out=out,
        phenotypes=phenotype or (),
        store=store,
    )
    output.say(f"The report is {page}.")
    output.result({"report": str(page)})
