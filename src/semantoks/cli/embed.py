"""A store and a model to features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.cli.working import ALL_CORES, Working
from semantoks.terminal import Output


@app.command(sort_key=50)
def embed(
    *,
    data: Path,
    model: Path,
    out: Path,
    windows: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 8,
    window: int | None = None,
    features: str = "mean+cls",
    smaller_atlas: Literal["refuse", "mask"] = "refuse",
    ignore_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    untrained: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32",
    working: Working = ALL_CORES,
    output: Output = SILENT,
) -> None:
    """Describe every scan of a store by features, averaged over windows.

    Example: semantoks embed --data abide.store --model run --out features.parquet

    Parameters
    ----------
    data : Path
        The store.
    model : Path
        A run or a model folder.
    out : Path
        Table with a row a scan: .parquet or .csv.
    windows : int
        Evenly spaced windows a scan.
    window : int
        Samples in a window, a multiple of the model's patch; by default as in training.
    features : str
        Any of mean (mean token), cls, networks (mean token of every network), network-statistics
        (mean and deviation of every network), second-order (correlations between the tokens of
        networks), synchrony and log-synchrony (correlations between learned time courses), joined
        by +; mean+cls is the reference.
    smaller_atlas : str
        mask accepts a store that holds only a part of the model's ROIs, placed by their labels.
    ignore_preprocessing : bool
        Read a store that was prepared otherwise than the model expects as it is, instead of
        refusing it; the table's provenance says so.
    untrained : bool
        Same architecture with fresh weights: the baseline that pretraining must beat.
    seed : int
        Of the fresh weights.
    device : str
        auto takes a GPU where there is one; otherwise cpu, cuda, mps, ...
    precision : str
        Of matrix products; auto takes bf16 where it is faster.
    working : Working
        Who encodes. With --workers or --scheduler, every process loads the model from its folder,
        and what is done is kept beside OUT, so that an interrupted call goes on when it is called
        again.
    output : Output
        How to speak.
    """
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding import embed, write_embeddings
    from semantoks.evaluation.shared_encoding import ModelPlace, Sharing
    from semantoks.training.plan import choose_device

    store = Store.open(data)
    place = ModelPlace(str(model), seed if untrained else None)
    sharing = None
    if working.scheduler is not None or working.workers not in (None, 1):
        keep = out.with_name(f".{out.name}.partial")
        sharing = Sharing(place, working.workers, working.scheduler, device, keep)
    encoder = place.load()
    if sharing is None:
        encoder = encoder.to(choose_device(device))
    with output.progress("encoding scans" if sharing else "encoding windows") as advance:
        embeddings = embed(
            store,
            encoder,
            windows=windows,
            window=window,
            features=features,
            smaller_atlas=smaller_atlas,
            preprocessing="ignore" if ignore_preprocessing else "check",
            precision=precision,
            progress=lambda done, total: advance(done, total, ""),
            origin={"model_folder": str(model), "fresh_weights_seed": seed if untrained else None},
            sharing=sharing,
        )
    write_embeddings(embeddings, out)
    n_features = len(embeddings.feature_names)
    output.say(f"{len(store)} scans with {n_features} features each are in {out}.")
    output.result({"out": str(out), "n_scans": len(store), "n_features": n_features})
