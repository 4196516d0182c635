"""Recordings, or a store, and a model to features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.cli.reading import AS_USUAL, Reading
from semantoks.cli.recordings import AS_FOUND, Recordings
from semantoks.cli.working import ALL_CORES, Working
from semantoks.errors import ConfigurationError
from semantoks.terminal import Output


@app.command(sort_key=50)
def embed(
    source: Path | None = None,
    *,
    model: str,
    out: Path,
    data: Path | None = None,
    atlas: str | None = None,
    smaller_atlas: Literal["refuse", "mask"] = "refuse",
    windows: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 8,
    window: int | None = None,
    features: str = "mean+cls",
    keep_store: Annotated[bool, Parameter(negative="")] = False,
    ignore_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    untrained: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32",
    recordings: Recordings = AS_FOUND,
    reading: Reading = AS_USUAL,
    working: Working = ALL_CORES,
    output: Output = SILENT,
) -> None:
    """Describe every scan by features, averaged over windows.

    From recordings, in one step: they are prepared as the model expects (its atlas, repetition time
    and band), with the same options as for prepare. An interrupted call goes on when it is called
    again. Or from a store, with --data.

    Example: semantoks embed xcp_d --model run --out features

    Example: semantoks embed --data abide.store --model run --out features.parquet

    Parameters
    ----------
    source : Path
        Folder or file with recordings.
    model : str
        A run or a model folder, or owner/name on the hub.
    out : Path
        A folder for a BIDS derivative dataset (a table and a sidecar a scan, features.parquet and
        the quality of the scans), or, by its suffix .parquet or .csv, a table with a row a scan.
    data : Path
        A store, instead of recordings.
    atlas : str
        Atlas of the recordings, if they have only a part of the model's ROIs (schaefer400, say);
        needs --smaller-atlas mask.
    smaller_atlas : str
        mask accepts recordings or a store of such an atlas: ROIs are placed by their labels, and
        networks without any are masked.
    windows : int
        Evenly spaced windows a scan.
    window : int
        Samples in a window, a multiple of the model's patch; by default as in training.
    features : str
        Any of mean (mean token), cls, networks (mean token of every network), network-statistics
        (mean and deviation of every network), second-order (correlations between the tokens of
        networks), synchrony and log-synchrony (correlations between learned time courses), joined
        by +; mean+cls is the reference.
    keep_store : bool
        Keep the store that recordings were read into, as OUT.store.
    ignore_preprocessing : bool
        Read series that were prepared otherwise than the model expects as they are, instead of
        refusing them; the provenance of the features says so.
    untrained : bool
        Same architecture with fresh weights: the baseline that pretraining must beat.
    seed : int
        Of the fresh weights.
    device : str
        auto takes a GPU where there is one; otherwise cpu, cuda, mps, ...
    precision : str
        Of matrix products; auto takes bf16 where it is faster.
    recordings : Recordings
        Which files, and what is known of them.
    reading : Reading
        How images are read.
    working : Working
        Who does the work. With --workers or --scheduler, every process loads the model from its
        folder, and what is done is kept beside OUT, so that an interrupted call goes on when it is
        called again.
    output : Output
        How to speak.
    """
    from semantoks.cli.encoding import Encoding, encode_recordings, encode_store

    encoding = Encoding(
        model=model,
        out=out,
        smaller_atlas=smaller_atlas,
        windows=windows,
        window=window,
        features=features,
        preprocessing="ignore" if ignore_preprocessing else "check",
        fresh_weights_seed=seed if untrained else None,
        device=device,
        precision=precision,
    )
    encoding.check_place()
    if source is not None and data is None:
        encode_recordings(
            source,
            encoding,
            atlas=atlas,
            keep_store=keep_store,
            recordings=recordings,
            reading=reading,
            working=working,
            output=output,
        )
    elif data is not None and source is None:
        if keep_store or atlas is not None or (recordings, reading) != (AS_FOUND, AS_USUAL):
            raise ConfigurationError(
                f"{data} is a store, which is prepared already; options that say how recordings "
                "are read have no effect on it. Leave them out, or give the recordings (semantoks "
                "embed SOURCE ...) instead of --data."
            )
        encode_store(data, encoding, working, output)
    else:
        raise ConfigurationError(
            "one thing is to be embedded: recordings (semantoks embed SOURCE ...) or a store "
            "(--data STORE)."
        )
