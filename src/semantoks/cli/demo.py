"""The whole main job on a simulated cohort."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app, call
from semantoks.errors import InputError
from semantoks.terminal import Output


def run_demo(
    out: Path,
    subjects: int,
    seed: int,
    *,
    call: Callable[[Sequence[str]], int],
    say: Callable[[str], None],
) -> tuple[int, dict[str, Any]]:
    """Simulate a cohort, run every verb on it, and hold the scores against the known answer."""
    from semantoks.data.simulation import simulate_cohort, write_cohort

    if out.exists():
        raise InputError(f"{out} exists; remove it, or name another folder: semantoks demo FOLDER.")
    say(f"Simulating {subjects} subjects at 3 sites (seed {seed}) in {out / 'recordings'} ...")
    out.mkdir(parents=True)
    recordings = simulate_cohort(subjects, seed=seed)
    write_cohort(recordings, out / "recordings", atlas_file=out / "atlas.tsv")
    commands = _commands(out, seed)
    for command in commands:
        say(f"\n$ semantoks {shlex.join(command)}")
        code = call(command)
        if code != 0:
            return code, {"stopped_at": shlex.join(command)}
    read = {name: _is_read(out / "run" / f"probe-{name}") for name in ("diagnosis", "handedness")}
    say("\nThe known answer: diagnosis was planted, handedness was not.")
    for name, methods in read.items():
        for method, above in methods.items():
            say(f"  {name:<11} {method:<13} {'above chance' if above else 'at chance'}")
    lines = [shlex.join(command) for command in commands]
    report = str(out / "run" / "report.html")
    return 0, {"report": report, "commands": lines, "above_chance": read}


def _commands(out: Path, seed: int) -> list[list[str]]:
    """List the command lines of the main job."""
    store, run = str(out / "store"), out / "run"
    data = ["--data", store]
    files = [str(run / "embeddings.parquet"), str(run / "untrained.parquet")]
    features = [word for file in files for word in ("--embeddings", file)]
    embed = ["embed", *data, "--model", str(run)]
    probes = [
        ["probe", *data, *features, "--target", name, "--out", str(run / f"probe-{name}")]
        for name in ("diagnosis", "handedness")
    ]
    atlas = ["--atlas", str(out / "atlas.tsv")]
    return [
        ["prepare", str(out / "recordings"), *atlas, "--out", store],
        ["pretrain", *data, "--recipe", "tiny", "--set", f"seed={seed}", "--out", str(run)],
        [*embed, "--out", files[0]],
        [*embed, "--untrained", "--out", files[1]],
        *probes,
        ["report", str(run)],
    ]


def _is_read(probe: Path) -> dict[str, bool]:
    """Say of every method but the dummy whether its interval lies above chance."""
    import pandas as pd

    scores = pd.read_csv(probe / "scores.csv")
    scores = scores[(scores["metric"] == "balanced_accuracy") & (scores["method"] != "dummy")]
    above = (scores["low"] > 0.5).tolist()
    return dict(zip(scores["method"].astype(str), above, strict=True))


@app.command(sort_key=10)
def demo(
    out: Path = Path("demo"),
    *,
    subjects: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=40))] = 160,
    seed: int = 0,
    output: Output = SILENT,
) -> int:
    """Run every step on a simulated cohort, in a few minutes.

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
        What is printed.

    Returns
    -------
    int
        Exit code.
    """
    quiet = () if output.speaks else ("--quiet",)
    code, answer = run_demo(
        out, subjects, seed, call=lambda words: int(call([*words, *quiet]) or 0), say=output.say
    )
    output.result(answer)
    return code
