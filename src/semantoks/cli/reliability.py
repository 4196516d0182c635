"""Features of people who came twice: are they still theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output


@app.command(sort_key=66)
def reliability(
    *,
    data: Path,
    embeddings: Annotated[list[Path] | None, Parameter(name="--embeddings")] = None,
    model: Annotated[list[Path] | None, Parameter(name="--model")] = None,
    out: Path,
    sessions: tuple[str, str] | None = None,
    features: Literal["mean+cls", "mean", "cls", "networks"] = "mean+cls",
    window: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    output: Output = SILENT,
) -> None:
    """Find people again by their features, in another session and in the other half of a scan.

    Connectivity is always beside. Identification, correlations and intraclass correlations have
    intervals (95 %) over subjects.

    Example: semantoks reliability --data stages.store --embeddings features.parquet --model run
    --out reliability

    Parameters
    ----------
    data : Path
        The store.
    embeddings : list of Path
        Files of embed, compared between sessions; may be given many times.
    model : list of Path
        Runs or model folders, compared between the halves of every scan; may be given many times.
    out : Path
        Folder for the measures; it must not exist.
    sessions : str
        Two sessions to compare, where there are more than two.
    features : str
        What is read out of the models, as in embed.
    window : int
        Samples in a window of the models; half a scan must hold one. By default as in training.
    draws : int
        Draws of subjects for the intervals.
    seed : int
        Of the draws.
    output : Output
        How to speak.
    """
    from semantoks.benchmark.retest import measure_reliability, write_reliability
    from semantoks.benchmark.retest_display import reliability_table
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding_file import read_embeddings
    from semantoks.model.checkpoint import load_encoder

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    files = {path.stem: path for path in embeddings or ()}
    folders = {path.name: path for path in model or ()}
    if len(files) + len(folders) < len(embeddings or ()) + len(model or ()):
        raise ConfigurationError(
            "two of --embeddings or of --model have the same name, but the table names methods "
            "after them. Rename one."
        )
    with output.progress("measuring reliability") as advance:
        found = measure_reliability(
            Store.open(data),
            {name: read_embeddings(path) for name, path in files.items()},
            models={name: load_encoder(path) for name, path in folders.items()},
            sessions=sessions,
            features=features,
            window=window,
            n_draws=draws,
            seed=seed,
            progress=advance,
        )
    write_reliability(found, out)
    output.say(reliability_table(found))
    output.say(f"Measures, and intraclass correlations of every feature, are in {out}.")
    output.result({"out": str(out), "measures": found.table.to_dict(orient="records")})
