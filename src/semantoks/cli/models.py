"""Verbs on folders and models: info, report, import-checkpoint and push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import InputError
from semantoks.terminal import Output, rows_table


@app.command(sort_key=30)
def info(path: Path, *, output: Output = SILENT) -> None:
    """Describe a store, a run or a model folder.

    Example: semantoks info abide.store

    Parameters
    ----------
    path : Path
        A store, a run, or a model folder.
    output : Output
        What is printed.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if (path / "store.json").is_file():
        facts = _describe_store(path)
    elif (path / "run.json").is_file():
        from semantoks.training.folder import read_json

        facts = {"kind": "run", **read_json(path / "run.json")}
    else:
        from semantoks.model.checkpoint import load_model

        model = load_model(path)
        facts = {
            "kind": "model",
            "atlas": repr(model.encoder.atlas),
            "parameters": sum(p.numel() for p in model.encoder.parameters()),
            **model.encoder.arguments,
            "preprocessing": model.preprocessing,
            "provenance": {
                name: value
                for name, value in model.provenance.items()
                if name not in {"recipe", "subjects"}
            },
        }
    output.say(rows_table(str(path), facts))
    output.result(facts)


def _describe_store(path: Path) -> dict[str, Any]:
    """Collect what a person wants to know of a store."""
    from semantoks.data.store import Store

    store = Store.open(path).verify()
    scans = store.scans
    return {
        "kind": "store",
        "scans": len(store),
        "subjects": store.n_subjects,
        "scans that name no subject": store.n_unnamed_subjects,
        "sites": int(scans["site"].replace("", None).nunique()),
        "samples": f"{store.lengths.min()} to {store.lengths.max()} at {store.t_r:g} s",
        "atlas": repr(store.atlas),
        "networks": ", ".join(store.atlas.network_names),
        "preprocessing": store.preprocessing.to_dict(),
        "refused scans": len(store.refused),
        "columns": ", ".join(scans.columns),
        "fingerprint": store.fingerprint,
    }


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
        File of embed; by default that in RUN whose name begins with embeddings.
    probe : list of Path
        Folders of probe; by default those in RUN whose names begin with probe. May be given many
        times.
    phenotype : list of str
        Columns that the maps are coloured by; by default the probes' targets.
    store : Path
        Where the store is now, if it was moved.
    out : Path
        The page; by default RUN/report.html.
    output : Output
        What is printed.
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


@app.command(name="import-checkpoint", sort_key=80)
def import_checkpoint(
    file: Path,
    *,
    out: Path,
    config: Path | None = None,
    atlas: str | None = None,
    branch: Literal["teacher", "student"] = "teacher",
    license: str = "unknown",
    family: Literal[
        "semantoks", "bnt", "bolt", "brainmass", "brainlm", "brainjepa", "swift", "neurostorm"
    ] = "semantoks",
    gradients: Path | None = None,
    coordinates: Path | None = None,
    output: Output = SILENT,
) -> None:
    """Convert a checkpoint of released code to a model folder.

    The file is read as numbers only; one that holds code is refused and none is run.

    Example: semantoks import-checkpoint brainsemantoks_ckpt_epoch_100.pth --out released

    Parameters
    ----------
    file : Path
        The checkpoint.
    out : Path
        Folder of the model; it must not exist.
    config : Path
        YAML of the training run, where the checkpoint holds none and none is beside it.
    atlas : str
        Built-in atlas or table of the network map; by default the one that the configuration names.
    branch : str
        Which of the two encoders.
    license : str
        Licence of the weights, as the hub calls it, for the model's card.
    family : str
        Whose code wrote it: Brain-Semantoks, or another model of the field.
    gradients : Path
        Table of the regions' connectivity gradients, a row a region, for Brain-JEPA.
    coordinates : Path
        Table of the regions' places in mm, a row a region, for BrainLM of regions.
    output : Output
        What is printed.
    """
    if family != "semantoks":
        _import_peer(family, file, out, config, gradients, coordinates, output)
        return
    from semantoks.data.atlas import Atlas
    from semantoks.model.importing import import_checkpoint

    imported = import_checkpoint(
        file,
        out,
        config=config,
        atlas=Atlas.load(atlas) if atlas else None,
        branch=branch,
        license=license,
    )
    encoder, dropped = imported.encoder, imported.dropped
    parameters = sum(p.numel() for p in encoder.parameters())
    output.say(
        f"The {branch}'s encoder ({parameters / 1e6:.2f} M parameters, {encoder.atlas!r}) is in "
        f"{out}. Dropped, because nothing ever used them: {len(dropped)} keys with "
        f"{sum(dropped.values()) / 1e6:.2f} M parameters, the tokenizers of further atlases and a "
        "LayerNorm."
    )
    for notice in imported.notices:
        output.say(f"Note: {notice}")
    output.result(
        {
            "model": str(out),
            "parameters": parameters,
            "dropped": dropped,
            "notices": imported.notices,
        }
    )


def _import_peer(
    family: str,
    file: Path,
    out: Path,
    config: Path | None,
    gradients: Path | None,
    coordinates: Path | None,
    output: Output,
) -> None:
    """Import another model, and say what its weights ask for."""
    from semantoks.files import parse_yaml
    from semantoks.peers.families import card, import_released

    try:
        sizes = parse_yaml(config.read_text(encoding="utf-8")) if config else None
    except (OSError, ValueError) as error:
        raise InputError(f"configuration {config} cannot be read: {error}") from error
    model = import_released(
        family,
        file,
        out,
        config=sizes,
        gradients=_read_rows(gradients),
        coordinates=_read_rows(coordinates),
    )
    parameters = sum(p.numel() for p in model.parameters())
    described = card(family)
    output.say(f"{described.title} ({parameters / 1e6:.2f} M parameters) is in {out}.")
    output.say(f"Licence: {described.licence}.")
    output.say(f"It expects {described.atlas}; {described.scaling}.")
    output.result({"model": str(out), "family": family, "parameters": parameters})


def _read_rows(table: Path | None) -> Any:
    """Read a table of numbers without a header, a row a region."""
    if table is None:
        return None
    import numpy as np
    import torch

    delimiter = {".csv": ",", ".tsv": "\t"}.get(table.suffix)
    try:
        return torch.from_numpy(np.loadtxt(table, delimiter=delimiter, ndmin=2)).float()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{table} must hold numbers only, a row a region, without a header: {error}"
        ) from error


@app.command(sort_key=90)
def push(
    model: Path,
    repository: str,
    *,
    private: bool = True,
    revision: str | None = None,
    license: str | None = None,
    output: Output = SILENT,
) -> None:
    """Publish a model folder on the hub: weights, configuration and card.

    Log in first: hf auth login. Read the card, README.md in the folder, before you make it public.

    Example: semantoks push run someone/brain-semantoks-abide --license cc-by-4.0

    Parameters
    ----------
    model : Path
        A model folder, or a run that has finished.
    repository : str
        Owner and name on the hub; made if it is not there.
    private : bool
        Whether a repository that is made is only seen by its owner.
    revision : str
        Branch to push to.
    license : str
        Licence of the weights, as the hub calls it, named in the card and configuration that are
        pushed; the folder here stays as it is. By default the one that the folder names.
    output : Output
        What is printed.
    """
    from semantoks.model.checkpoint import push_encoder

    address = push_encoder(model, repository, private=private, revision=revision, license=license)
    output.say(f"Pushed to {address}.")
    output.result({"commit": address})
