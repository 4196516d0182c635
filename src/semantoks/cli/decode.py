"""Task recordings and their events to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import InputError
from semantoks.terminal import Output

_LITTLE = 0.5


@app.command(sort_key=65)
def decode(
    *,
    data: Path,
    model: Path,
    events: Path,
    out: Path,
    conditions: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    window: int | None = None,
    delay: float = 5.0,
    short: Literal["refuse", "centre", "drop"] = "refuse",
    outside: Literal["refuse", "drop"] = "refuse",
    missing_events: Literal["refuse", "drop"] = "refuse",
    features: Literal["mean+cls", "mean", "cls", "networks"] = "mean+cls",
    folds: int = 5,
    repeats: int = 5,
    classifier: Literal["ridge", "logistic"] = "ridge",
    untrained: Annotated[bool, Parameter(negative="")] = False,
    ignore_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    device: str = "auto",
    output: Output = SILENT,
) -> None:
    """Tell blocks of a task apart from windows of the series, beside connectivity and ROI means.

    Events are BIDS files *_events.tsv (onset, duration, trial_type), one a scan. Each block is read
    with a haemodynamic delay; folds never part a subject's scans.

    Example: semantoks decode --data task.store --model run --events bids --conditions faces shapes
    --out decoded

    Parameters
    ----------
    data : Path
        The store.
    model : Path
        A run or a model folder.
    events : Path
        Folder with the files of events.
    out : Path
        Folder for scores, predictions, windows and splits; it must not exist.
    conditions : list of str
        Values of trial_type that are told apart; by default all.
    window : int
        Samples in a window, a multiple of the model's patch; by default one patch.
    delay : float
        Seconds by which the response follows what evokes it.
    short : str
        What becomes of blocks that are shorter than a window: centre takes the window around the
        middle of the block, with something of what is before and after it.
    outside : str
        What becomes of windows that do not lie within their scan.
    missing_events : str
        What becomes of scans without a file of events.
    features : str
        What is read out of the model.
    folds, repeats : int
        Folds, and how often subjects are divided anew.
    classifier : str
        Linear model; its penalty is chosen inside training.
    untrained : bool
        Same architecture with fresh weights: the baseline that pretraining must beat.
    ignore_preprocessing : bool
        Read a store that was prepared otherwise than the model expects as it is.
    seed : int
        Of the divisions, of the bootstrap and of fresh weights.
    device : str
        auto takes a GPU where there is one; otherwise cpu, cuda, mps, ...
    output : Output
        How to speak.
    """
    from semantoks.benchmark.decoding import decode_blocks, write_decoding
    from semantoks.benchmark.decoding_display import decoding_table
    from semantoks.data.store import Store
    from semantoks.evaluation.block_windows import block_windows
    from semantoks.evaluation.event_design import share_that_passes
    from semantoks.evaluation.events import find_events
    from semantoks.evaluation.fresh import fresh_weights
    from semantoks.evaluation.readout import window_length
    from semantoks.model.checkpoint import load_model
    from semantoks.training.plan import choose_device

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    store, encoder = Store.open(data), load_model(model).encoder
    if untrained:
        encoder = fresh_weights(encoder, seed)
    found = find_events(store, events, missing=missing_events)
    windows = block_windows(
        store,
        found,
        length=window_length(encoder, encoder.patch if window is None else window),
        conditions=conditions,
        delay=delay,
        short=short,
        outside=outside,
    )
    passes = share_that_passes(store, found, sorted(set(windows.label.tolist())))
    with output.progress("encoding windows") as advance:
        decoding = decode_blocks(
            store,
            encoder.to(choose_device(device)),
            windows,
            features=features,
            n_folds=folds,
            repeats=repeats,
            seed=seed,
            classifier=classifier,
            preprocessing="ignore" if ignore_preprocessing else "check",
            progress=lambda done, total: advance(done, total, ""),
            origin={
                "model_folder": str(model),
                "fresh_weights_seed": seed if untrained else None,
                "events": str(events),
                "share_that_passes": passes,
            },
        )
    write_decoding(decoding, out)
    output.say(decoding_table(decoding))
    if passes < _LITTLE:
        output.say(
            f"Warning: the band-pass of the store leaves {passes:.0%} of what tells the conditions "
            "apart: the design is slower than the band. Prepare with a lower --high-pass."
        )
    output.say(f"Scores, predictions, windows and splits are in {out}.")
    output.result({"out": str(out), "scores": decoding.table.to_dict(orient="records")})
