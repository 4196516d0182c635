"""Features to what they tell beside the target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output


@app.command(sort_key=65)
def audit(
    *,
    data: Path,
    embeddings: Annotated[list[Path], Parameter(name="--embeddings")],
    target: str | None = None,
    model: Annotated[list[Path] | None, Parameter(name="--model")] = None,
    out: Path,
    folds: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=2))] = 5,
    repeats: int = 1,
    seed: int = 0,
    draws: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 1000,
    leave_out: Annotated[list[str] | None, Parameter(name="--leave-out")] = None,
    output: Output = SILENT,
) -> None:
    """Read site, motion, repetition time and length from features, and look for seen people.

    Everything is read from the features as they are, with these confounds regressed out, and after
    ComBat, all fitted in the training part; connectivity is beside. With a target: whether the
    site explains it, what confounds alone reach, and what is left of its score afterwards and at
    sites that were not learned from.

    Example: semantoks audit --data abide.store --embeddings features.parquet --target diagnosis
    --model run --out audit

    Parameters
    ----------
    data : Path
        The store.
    embeddings : list of Path
        Files of embed; may be given many times.
    target : str
        Column of the table of scans that is to be predicted.
    model : list of Path
        Runs or model folders: scans of people that they were trained on are named. If it was not on
        this store, people of the same identifiers are, who may be others.
    out : Path
        Folder for audit.csv, scans.csv and audit.json; it must not exist.
    folds, repeats : int
        Folds of subjects, and how often they are divided anew.
    seed : int
        Of the divisions and of the bootstrap.
    draws : int
        Draws for the intervals (95 %).
    leave_out : list of str
        Scans that take no part, such as those of one recording under two names; may be given many
        times.
    output : Output
        How to speak.
    """
    from semantoks.benchmark.audit import audit as look
    from semantoks.benchmark.audit import write_audit
    from semantoks.benchmark.audit_display import audit_table
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding_file import read_embeddings
    from semantoks.model.checkpoint import load_model

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    files = {path.stem: path for path in embeddings}
    folders = {path.name: path for path in model or ()}
    if len(files) < len(embeddings) or len(folders) < len(model or ()):
        raise ConfigurationError(
            "two of --embeddings or of --model have the same name, but the table names them after "
            "their files. Rename one."
        )
    with output.progress("auditing") as advance:
        found = look(
            Store.open(data),
            {name: read_embeddings(path) for name, path in files.items()},
            target=target,
            provenances={name: load_model(path).provenance for name, path in folders.items()},
            n_folds=folds,
            repeats=repeats,
            seed=seed,
            n_draws=draws,
            leave_out=tuple(leave_out or ()),
            progress=advance,
        )
    write_audit(found, out)
    output.say(audit_table(found))
    for line in found.warnings:
        output.say(f"Warning: {line}")
    for line in found.settings["notes"]:
        output.say(f"Note: {line}")
    output.say(
        f"All scores and metrics with intervals, and the scans that were seen, are in {out}."
    )
    output.result(
        {
            "out": str(out),
            "warnings": list(found.warnings),
            "scores": found.table.to_dict("records"),
        }
    )
