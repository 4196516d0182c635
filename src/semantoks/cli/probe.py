"""Verbs on features: probe, audit, decode and reliability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output

if TYPE_CHECKING:
    from semantoks.benchmark.decoding import Decoding
    from semantoks.data.store import Store


@app.command(sort_key=60)
def probe(
    *,
    data: Path,
    embeddings: Annotated[list[Path], Parameter(name="--embeddings")],
    target: str,
    out: Path,
    kind: Literal["auto", "classification", "regression"] = "auto",
    splits: Literal["subject", "site"] = "subject",
    site_column: str = "site",
    family_column: str | None = None,
    folds: int = 5,
    repeats: int = 5,
    classifier: Literal["ridge", "logistic"] = "ridge",
    seed: int = 0,
    leave_out: Annotated[list[str] | None, Parameter(name="--leave-out")] = None,
    same_recordings: Literal["refuse", "leave-out"] = "refuse",
    exclude_seen: Annotated[list[Path] | None, Parameter(name="--exclude-seen")] = None,
    baseline: Annotated[
        list[Literal["log-connectivity", "components"]] | None, Parameter(name="--baseline")
    ] = None,
    output: Output = SILENT,
) -> None:
    """Predict a target from features, beside connectivity, the site alone and a dummy.

    Folds never part a subject's scans. Scores are of scans that were left out; intervals (95 %)
    are bootstrapped over subjects and splits, and so is the difference to connectivity.

    Example: semantoks probe --data abide.store --embeddings features.parquet --target diagnosis
    --out probe-diagnosis

    Parameters
    ----------
    data : Path
        The store.
    embeddings : list of Path
        Files of embed, each a row of the table named after its file; may be given many times.
    target : str
        Column of the table of scans.
    out : Path
        New folder for scores, predictions and splits.
    kind : str
        auto takes a number with more than 10 different values for a regression.
    splits : str
        subject: repeated folds of subjects; site: one site left out at a time.
    site_column : str
        Column that names the site.
    family_column : str
        Column that names the family; relatives stay together, in folds and in intervals.
    folds, repeats : int
        Number of folds, and of repeated divisions of the subjects.
    classifier : str
        Linear model for classes; its penalty is chosen inside training.
    seed : int
        Seed of the divisions and of the bootstrap.
    leave_out : list of str
        Scans to leave out, such as those of one recording under two names; may be given many
        times.
    same_recordings : str
        One recording under the names of two subjects: refuse, or leave-out both.
    exclude_seen : list of Path
        Runs or model folders: subjects that they were pretrained on are left out. For models of
        other stores these are subjects of the same identifiers, who may be others: do not name a
        model here that was trained on another cohort with such names (sub-001, ...).
    baseline : list of str
        log-connectivity and components: closed forms of connectivity that a short description has
        to beat; may be given many times.
    output : Output
        What is printed.
    """
    from semantoks.benchmark.comparison import compare, comparison_table, write_comparison
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding import read_embeddings

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    names = [path.stem for path in embeddings]
    if len({*names}) < len(names):
        raise ConfigurationError(
            "two files of --embeddings have the same name, but the table names methods after "
            f"files: {', '.join(map(str, embeddings))}. Rename one."
        )
    store = Store.open(data).verify()
    seen = _seen(store, exclude_seen or ())
    with output.progress(f"probing {target}") as advance:
        comparison = compare(
            store,
            {name: read_embeddings(path) for name, path in zip(names, embeddings, strict=True)},
            target,
            kind=kind,
            splits=splits,
            site_column=site_column,
            family_column=family_column,
            n_folds=folds,
            repeats=repeats,
            classifier=classifier,
            seed=seed,
            leave_out=(*(leave_out or ()), *seen),
            same_recordings=same_recordings,
            baselines=tuple(baseline or ()),
            progress=lambda done, total: advance(done, total, ""),
        )
    write_comparison(comparison, out)
    named = {*(leave_out or ()), *seen}
    doubled = [scan for scan in comparison.settings["leave_out"] if scan not in named]
    if doubled:
        output.say(f"Left out, as one recording under two names: {', '.join(doubled)}.")
    output.say(comparison_table(comparison))
    if exclude_seen:
        output.say(f"{len(seen)} scans of subjects that the models were trained on took no part.")
    output.say(f"Scores, predictions and splits are in {out}.")
    output.result({"out": str(out), "scores": comparison.table.to_dict(orient="records")})


def _seen(store: Store, models: Sequence[Path]) -> list[str]:
    """Name the scans of subjects that models were trained on."""
    from semantoks.evaluation.overlap import unseen
    from semantoks.model.checkpoint import load_model

    seen = set[str]()
    for model in models:
        fresh = unseen(load_model(model).provenance, store.scans, store.fingerprint, str(model))
        seen |= {*store.scans.loc[~fresh, "scan"].astype(str)}
    if len(seen) == len(store):
        raise InputError(
            "the models together were trained on all of these subjects: nobody is left if subjects "
            "that they have seen are left out. Test on another cohort."
        )
    return sorted(seen)


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
    """Predict site, motion, repetition time and length from features, and find seen subjects.

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
        Runs or model folders: scans of subjects that they were trained on are named. For models of
        other stores these are subjects of the same identifiers, who may be others.
    out : Path
        Folder for audit.csv, scans.csv and audit.json; it must not exist.
    folds, repeats : int
        Folds of subjects, and how often they are divided anew.
    seed : int
        Seed of the divisions and of the bootstrap.
    draws : int
        Draws for the intervals (95 %).
    leave_out : list of str
        Scans to leave out, such as those of one recording under two names; may be given many
        times.
    output : Output
        What is printed.
    """
    from semantoks.benchmark.audit import audit as look
    from semantoks.benchmark.audit import audit_table, write_audit
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding import read_embeddings
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
            Store.open(data).verify(),
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


_LITTLE = 0.5
_CONFOUNDED = 0.5


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
    unseen: Literal["subjects", "blocks"] = "subjects",
    family_column: str | None = None,
    folds: int = 5,
    repeats: int = 5,
    classifier: Literal["ridge", "logistic"] = "ridge",
    untrained: Annotated[bool, Parameter(negative="")] = False,
    ignore_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    device: str = "auto",
    output: Output = SILENT,
) -> None:
    """Classify blocks of a task from windows of the series, beside connectivity and ROI means.

    Events are BIDS files that end in _events.tsv (onset, duration, trial_type), one a scan. Each
    block is read with a haemodynamic delay; folds never part a subject's scans.

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
        New folder for scores, predictions, windows and splits.
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
    unseen : str
        subjects: blocks of subjects that were not learned from. blocks: blocks at times that were
        not learned from either, where all subjects share the order of stimuli (a film).
    family_column : str
        Column that names the family; relatives stay together.
    folds, repeats : int
        Number of folds, and of repeated divisions of the subjects.
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
        What is printed.
    """
    from semantoks.benchmark.decoding import decode_blocks, decoding_table, write_decoding
    from semantoks.data.store import Store
    from semantoks.evaluation.events import block_windows, find_events, share_that_passes
    from semantoks.evaluation.readout import window_length
    from semantoks.model.checkpoint import load_model
    from semantoks.model.encoder import fresh_weights
    from semantoks.training.plan import choose_device

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    store, encoder = Store.open(data).verify(), load_model(model).encoder
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
            unseen=unseen,
            family_column=family_column,
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
    for warning in _doubts(decoding, passes):
        output.say(f"Warning: {warning}")
    output.say(f"Scores, predictions, windows and splits are in {out}.")
    output.result({"out": str(out), "scores": decoding.table.to_dict(orient="records")})


def _doubts(decoding: Decoding, passes: float) -> Iterator[str]:
    """Explain what else than the conditions may decide the scores."""
    if passes < _LITTLE:
        yield (
            f"the band-pass of the store leaves {passes:.0%} of what tells the conditions apart: "
            "the design is slower than the band. Prepare with a lower --high-pass."
        )
    shared = decoding.settings["shared_order"]
    if decoding.settings["unseen"] == "subjects" and shared > _CONFOUNDED:
        yield (
            f"{shared:.0%} of the windows lie at times where all subjects have the same condition. "
            "Their scores may tell stimuli and times apart, not conditions: test blocks that were "
            "not learned from (--unseen blocks)."
        )


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
    """Identify subjects by their features, in another session and in the other half of a scan.

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
        What is printed.
    """
    from semantoks.benchmark.retest import measure_reliability, reliability_table, write_reliability
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding import read_embeddings
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
            Store.open(data).verify(),
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
