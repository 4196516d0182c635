"""The whole main job on a simulated cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app, call
from semantoks.terminal import Output


@app.command(sort_key=10)
def demo(
    out: Path = Path("demo"),
    *,
    subjects: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=40))] = 160,
    seed: int = 0,
    output: Output = SILENT,
) -> int:
    """Run the whole main job on a simulated cohort, in a few minutes.

    Every command is printed before it runs. The planted phenotype, diagnosis, must be decoded; the
    unplanted one, handedness, must stay at chance.

    Example: semantoks demo

    Parameters
    ----------
    out : Path
        Folder for everything; it must not exist.
    subjects : int
        Size of the cohort.
    seed : int
        Of the cohort and of the weights.
    output : Output
        How to speak.

    Returns
    -------
    int
        Exit code.
    """
    from semantoks.demo import run_demo

    quiet = () if output.speaks else ("--quiet",)
    code, answer = run_demo(
        out, subjects, seed, call=lambda words: int(call([*words, *quiet]) or 0), say=output.say
    )
    output.result(answer)
    return code
