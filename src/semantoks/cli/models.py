"""Models that come from elsewhere and go elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from semantoks.cli.application import SILENT, app
from semantoks.terminal import Output


@app.command(name="import-checkpoint", sort_key=80)
def import_checkpoint(
    file: Path,
    *,
    out: Path,
    config: Path | None = None,
    atlas: str | None = None,
    branch: Literal["teacher", "student"] = "teacher",
    license: str = "unknown",
    output: Output = SILENT,
) -> None:
    """Turn a checkpoint of the released Brain-Semantoks code into a model folder.

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
    output : Output
        How to speak.
    """
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
    """Push a model folder to the hub: weights, configuration and card.

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
        How to speak.
    """
    from semantoks.model.publishing import push_encoder

    address = push_encoder(model, repository, private=private, revision=revision, license=license)
    output.say(f"Pushed to {address}.")
    output.result({"commit": address})
