"""The command line: a verb a stage."""

from __future__ import annotations

import datetime
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import cyclopts
from cyclopts import App, Parameter

from semantoks import __version__
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output, complain, rows_table

if TYPE_CHECKING:
    from semantoks.data.preparation import PreparationReport

if TYPE_CHECKING:
    from semantoks.data.store import Store
    from semantoks.training.config import Configuration
    from semantoks.training.distributed import Ranks

INTERRUPTED: Final = 130
_HELP: Final = """\
Brain-Semantoks: a foundation model of functional MRI.

Recordings in; pretraining; features; an honest probe beside connectivity; a report. The verbs
stand in the order in which they are used. Each explains itself, with an example, by --help.

Exit codes: 0 done, 1 something given cannot be used, 2 the command line or a configuration key is
wrong, 130 stopped by Ctrl-C, SIGTERM or SIGUSR1 (pretrain has saved by then)."""

app = App(
    name="semantoks",
    help=_HELP,
    version=__version__,
    help_format="plaintext",
    sort_key=None,
    default_parameter=Parameter(negative_iterable=""),
)
_SILENT: Final = Output()
"""What a verb does when it is called without output options."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after the program's name; by default those of this process.
    """
    # Threads that spin while they wait stall each other where cores are shared: measured, a run
    # ten times as long. This must stand before PyTorch is imported; who set it keeps it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str
        Words after the program's name.

    Returns
    -------
    int
        Exit code: 0, 1, 2 or 130.
    """
    try:
        return int(_call(arguments) or 0)
    except (cyclopts.CycloptsError, InputError, OSError, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _explain(error)


def _explain(error: BaseException) -> int:
    """Say in one paragraph what was wrong, and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        complain("stopped.")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        complain(f"{error.strerror or error}{where}. Nothing that was there is lost.")
        return 1
    if isinstance(error, cyclopts.CycloptsError):
        complain(f"{error} Try semantoks --help.")
        return 2
    complain(str(error))
    return 2 if isinstance(error, ConfigurationError) else 1


def _call(arguments: Sequence[str]) -> Any:
    """Parse and call; errors are raised."""
    return app(
        list(arguments), exit_on_error=False, print_error=False, result_action="return_value"
    )


@app.command(sort_key=1)
def demo(
    out: Path = Path("demo"),
    *,
    subjects: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=40))] = 160,
    seed: int = 0,
    output: Output = _SILENT,
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
        out, subjects, seed, call=lambda words: int(_call([*words, *quiet]) or 0), say=output.say
    )
    output.result(answer)
    return code


@app.command(sort_key=2)
def prepare(
    source: Path,
    *,
    out: Path,
    atlas: str = "schaefer400-tian3-buckner7",
    format: Literal["auto", "pcp", "arrays", "original-hdf5"] = "auto",
    table: Path | None = None,
    id_column: str | None = None,
    subject_column: str | None = None,
    session_column: str | None = None,
    t_r_column: str | None = None,
    site_column: str | None = None,
    motion_column: str | None = None,
    t_r: float | None = None,
    target_t_r: float = 2.0,
    high_pass: float | Literal["none"] = 0.01,
    low_pass: float | Literal["none"] = 0.1,
    filter: bool = True,
    filtered_before: tuple[float | Literal["none"], float | Literal["none"]] | None = None,
    detrend: bool = True,
    min_samples: int = 100,
    min_coverage: float = 0.95,
    strict: Annotated[bool, Parameter(negative="")] = False,
    keep_going: Annotated[bool, Parameter(negative="")] = False,
    output: Output = _SILENT,
) -> None:
    """Read recordings, preprocess them, and write a store.

    Scans whose data are not good enough (too short, too many flat ROIs, NaN, the same series under
    two names) are left out by name. An interrupted run goes on when it is called again.

    Example: semantoks prepare ABIDE_pcp --atlas cc200 --table subjects.csv --out abide.store

    Parameters
    ----------
    source : Path
        Folder or file with the recordings.
    out : Path
        Folder of the store; it must not exist.
    atlas : str
        schaefer400-tian3-buckner7, schaefer400-tian3, schaefer400, the same with 17 networks
        (schaefer400-17networks...), cc200, or a TSV/CSV file with the columns label and network.
    format : str
        Layout of SOURCE.
    table : Path
        CSV or TSV with a row a scan or subject: repetition time, site, motion, phenotypes.
    id_column, subject_column, session_column, t_r_column, site_column, motion_column : str
        Columns of the table, where their names are not recognised.
    t_r : float
        Repetition time in s, where neither files nor table say it.
    target_t_r : float
        Repetition time in s to which all scans are resampled.
    high_pass, low_pass : float
        Edges of the band-pass filter in Hz; none for no edge.
    filter : bool
        Band-pass; --no-filter leaves the band as it is.
    filtered_before : float float
        Edges in Hz (or none) of the band that the series were filtered to before they came here,
        such as 0.008 0.08. No band-pass is applied then, and models that expect about this band
        (each edge within a factor of 1.5) accept the store.
    detrend : bool
        Take a straight line out of every ROI.
    min_samples : int
        Shortest scan, in samples after resampling.
    min_coverage : float
        Smallest share of ROIs that are neither flat nor missing.
    strict : bool
        Refuse the whole source if any scan is refused or names no subject.
    keep_going : bool
        Leave out, too, what cannot be read, lacks a repetition time or is not in the table.
    output : Output
        How to speak.
    """
    from semantoks.data.atlas import Atlas
    from semantoks.data.preparation import prepare as prepare_store
    from semantoks.data.preprocessing import Preprocessing
    from semantoks.data.scan_table import read_scan_table

    if strict and keep_going:
        raise ConfigurationError("--strict and --keep-going exclude each other; choose one.")
    columns = {
        "id_column": id_column,
        "subject_column": subject_column,
        "session_column": session_column,
        "t_r_column": t_r_column,
        "site_column": site_column,
        "motion_column": motion_column,
    }
    if table is None and any(columns.values()):
        raise ConfigurationError("columns are named, but there is no table; give --table FILE.")
    if filtered_before is not None:
        if (high_pass, low_pass) != (0.01, 0.1):
            raise ConfigurationError(
                "--filtered-before applies no band-pass; leave --high-pass and --low-pass out."
            )
        filter = False
    preprocessing = Preprocessing(
        target_t_r=target_t_r,
        high_pass=_edge(high_pass) if filter else None,
        low_pass=_edge(low_pass) if filter else None,
        filtered_before=None
        if filtered_before is None
        else (_edge(filtered_before[0]), _edge(filtered_before[1])),
        detrend=detrend,
        min_samples=min_samples,
        min_coverage=min_coverage,
    )
    with output.progress("preparing scans") as advance:
        report = prepare_store(
            source,
            out,
            atlas=Atlas.load(atlas),
            ignore=[Path(atlas)],
            format=format,
            table=read_scan_table(table, **columns) if table else None,
            t_r=t_r,
            preprocessing=preprocessing,
            policy="strict" if strict else "keep-going" if keep_going else "default",
            progress=lambda done, total: advance(done, total, ""),
        )
    _say_prepared(report, output)


@app.command(sort_key=3)
def info(path: Path, *, output: Output = _SILENT) -> None:
    """Say what a store, a run or a model folder holds.

    Example: semantoks info abide.store

    Parameters
    ----------
    path : Path
        A store, a run, or a model folder.
    output : Output
        How to speak.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if (path / "store.json").is_file():
        facts = _describe_store(path)
    elif (path / "run.json").is_file():
        from semantoks.training.run import read_json

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


@app.command(sort_key=4)
def pretrain(
    *,
    data: Path,
    out: Path,
    recipe: str | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    output: Output = _SILENT,
) -> int:
    """Pretrain an encoder on a store by self-distillation.

    Ctrl-C saves a checkpoint and says how to go on. Under torchrun, processes share every batch.

    Example: semantoks pretrain --data abide.store --recipe tiny --set optimization.epochs=20 --out
    run

    Parameters
    ----------
    data : Path
        The store.
    out : Path
        Run folder; it must not exist unless --resume.
    recipe : str
        paper (default), tiny, or a YAML file such as another run's config.yaml.
    set : list of str
        Changes such as optimization.epochs=20; may be given many times.
    resume : bool
        Go on from the newest checkpoint in OUT, with its recipe.
    dry_run : bool
        Do a few steps, say what the run will need (time, memory, disk), and write nothing.
    output : Output
        How to speak.

    Returns
    -------
    int
        Exit code.
    """
    from semantoks.data.store import Store
    from semantoks.training.config import configure, load_recipe, parse_changes
    from semantoks.training.distributed import join
    from semantoks.training.pretraining import Pretraining

    if recipe is None:
        recipe = str(out / "config.yaml") if resume and (out / "config.yaml").exists() else "paper"
    configuration = configure(load_recipe(recipe), parse_changes(set or []))
    if dry_run and resume:
        raise ConfigurationError("--dry-run and --resume exclude each other; choose one.")
    warned: list[str] = []
    with join() as ranks:
        output = output if ranks.first else replace(output, quiet=True, json=False)
        if dry_run:
            return _forecast(Store.open(data), out, configuration, ranks, output)
        pretraining = Pretraining(Store.open(data), out, configuration, resume=resume, ranks=ranks)
        for path in pretraining.damaged:
            output.say(f"Checkpoint {path} is damaged; going on from an earlier one.")
        plan = pretraining.plan
        processes = f" by {ranks.size} processes" if ranks.size > 1 else ""
        output.say(
            f"{plan.subjects} subjects, {plan.steps} steps of {plan.batch_size} scans in "
            f"{configuration.optimization.epochs} epochs, on {pretraining.device}{processes}."
        )
        with output.progress("pretraining") as advance:
            ended = pretraining.run(
                lambda row: advance(
                    row.step, row.steps, f"epoch {row.epoch}  loss {row.total:.3f}"
                ),
                warned.append,
            )
    for warning in warned:
        output.say(warning)
    output.result({**vars(ended), "folder": str(ended.folder), "warnings": warned})
    if ended.status == "interrupted":
        output.say(
            f"Stopped after step {ended.step} of {ended.steps}; saved in {out / 'checkpoints'}. "
            f"Go on with: semantoks pretrain --data {data} --out {out} --resume"
        )
        return INTERRUPTED
    output.say(f"The teacher is in {out / 'model'}; {ended.steps} steps, {ended.seconds:.0f} s.")
    return 0


@app.command(sort_key=5)
def embed(
    *,
    data: Path,
    model: Path,
    out: Path,
    windows: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 8,
    window: int | None = None,
    features: Literal["mean+cls", "mean", "cls", "networks"] = "mean+cls",
    smaller_atlas: Literal["refuse", "mask"] = "refuse",
    ignore_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    untrained: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32",
    output: Output = _SILENT,
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
        mean+cls (mean token and CLS, the reference), either alone, or the mean token of every
        network.
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
    output : Output
        How to speak.
    """
    import torch

    from semantoks.data.store import Store
    from semantoks.evaluation.embedding import embed, write_embeddings
    from semantoks.model.checkpoint import load_model
    from semantoks.model.encoder import SemantoksEncoder
    from semantoks.training.plan import choose_device

    store = Store.open(data)
    saved = load_model(model)
    encoder = saved.encoder
    if untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = SemantoksEncoder(encoder.atlas, **encoder.arguments)
        encoder.preprocessing = saved.preprocessing
    with output.progress("encoding windows") as advance:
        embeddings = embed(
            store,
            encoder.to(choose_device(device)),
            windows=windows,
            window=window,
            features=features,
            smaller_atlas=smaller_atlas,
            preprocessing="ignore" if ignore_preprocessing else "check",
            precision=precision,
            progress=lambda done, total: advance(done, total, ""),
            origin={"model_folder": str(model), "fresh_weights_seed": seed if untrained else None},
        )
    write_embeddings(embeddings, out)
    n_features = len(embeddings.feature_names)
    output.say(f"{len(store)} scans with {n_features} features each are in {out}.")
    output.result({"out": str(out), "n_scans": len(store), "n_features": n_features})


@app.command(sort_key=6)
def probe(
    *,
    data: Path,
    embeddings: Annotated[list[Path], Parameter(name="--embeddings")],
    target: str,
    out: Path,
    kind: Literal["auto", "classification", "regression"] = "auto",
    splits: Literal["subject", "site"] = "subject",
    site_column: str = "site",
    folds: int = 5,
    repeats: int = 5,
    classifier: Literal["ridge", "logistic"] = "ridge",
    seed: int = 0,
    output: Output = _SILENT,
) -> None:
    """Read a target from the features, beside connectivity and a dummy on the same splits.

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
        Folder for scores, predictions and splits; it must not exist.
    kind : str
        auto takes a number with more than 10 different values for a regression.
    splits : str
        subject: repeated folds of subjects; site: one site left out at a time.
    site_column : str
        Column that names the site.
    folds, repeats : int
        Folds, and how often subjects are divided anew.
    classifier : str
        Linear model for classes; its penalty is chosen inside training.
    seed : int
        Of the divisions and of the bootstrap.
    output : Output
        How to speak.
    """
    from semantoks.benchmark.comparison import compare, write_comparison
    from semantoks.benchmark.display import comparison_table
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding_file import read_embeddings

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    names = [path.stem for path in embeddings]
    if len({*names}) < len(names):
        raise ConfigurationError(
            "two files of --embeddings have the same name, but the table names methods after "
            f"files: {', '.join(map(str, embeddings))}. Rename one."
        )
    with output.progress(f"probing {target}") as advance:
        comparison = compare(
            Store.open(data),
            {name: read_embeddings(path) for name, path in zip(names, embeddings, strict=True)},
            target,
            kind=kind,
            splits=splits,
            site_column=site_column,
            n_folds=folds,
            repeats=repeats,
            classifier=classifier,
            seed=seed,
            progress=lambda done, total: advance(done, total, ""),
        )
    write_comparison(comparison, out)
    output.say(comparison_table(comparison))
    output.say(f"Scores, predictions and splits are in {out}.")
    output.result({"out": str(out), "scores": comparison.table.to_dict(orient="records")})


@app.command(sort_key=7)
def report(
    run: Path,
    *,
    embeddings: Path | None = None,
    probe: Annotated[list[Path] | None, Parameter(name="--probe")] = None,
    phenotype: Annotated[list[str] | None, Parameter(name="--phenotype")] = None,
    store: Path | None = None,
    out: Path | None = None,
    output: Output = _SILENT,
) -> None:
    """Write a run as one page: cohort, training, health, maps and scores.

    Example: semantoks report run --probe probe-diagnosis

    Parameters
    ----------
    run : Path
        Run folder.
    embeddings : Path
        File of embed; by default RUN/embeddings*.parquet.
    probe : list of Path
        Folders of probe; by default RUN/probe*. May be given many times.
    phenotype : list of str
        Columns that the maps are coloured by; by default the probes' targets.
    store : Path
        Where the store is now, if it was moved.
    out : Path
        The page; by default RUN/report.html.
    output : Output
        How to speak.
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


@app.command(name="import-checkpoint", sort_key=8)
def import_checkpoint(
    file: Path,
    *,
    out: Path,
    config: Path | None = None,
    atlas: str | None = None,
    branch: Literal["teacher", "student"] = "teacher",
    license: str = "unknown",
    output: Output = _SILENT,
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


@app.command(sort_key=9)
def push(
    model: Path,
    repository: str,
    *,
    private: bool = True,
    revision: str | None = None,
    license: str | None = None,
    output: Output = _SILENT,
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


def _forecast(
    store: Store, out: Path, configuration: Configuration, ranks: Ranks, output: Output
) -> int:
    """Say what a run will need."""
    from semantoks.training.forecast import forecast

    needs = forecast(store, out, configuration, ranks=ranks)
    each = " a process" if ranks.size > 1 else ""
    sizes = {name: _size(value) for name, value in needs._asdict().items() if "bytes" in name}
    parts = ("weights", "gradients", "optimizer", "activations")
    rows = {
        "steps": f"{needs.steps:,} of {needs.scans_a_second * needs.seconds_a_step:,.0f} scans",
        "parameters": f"{needs.parameters:,} (student)",
        f"FLOPs a step{each}": f"{needs.flops_student + needs.flops_teacher:.3g} (student "
        f"{needs.flops_student:.3g} forward and backward, teacher {needs.flops_teacher:.3g})",
        f"memory{each}": f"{sizes['bytes_peak']} at most ("
        + ", ".join(f"{part} {sizes[f'bytes_{part}']}" for part in parts)
        + ")",
        "time a step": f"{needs.seconds_a_step:.3g} s, {needs.scans_a_second:,.1f} scans/s "
        f"(median of {needs.steps_measured} steps on {needs.device})",
        "time of the run": f"{datetime.timedelta(seconds=round(needs.seconds))} (h:mm:ss)",
        "disk": f"{sizes['bytes_disk']} of {sizes['bytes_free']} that are free",
    }
    output.say(rows_table(f"What a run in {out} would need; nothing was written", rows))
    if needs.bytes_disk > needs.bytes_free:
        output.say("Warning: the disk is too small; lower logging.keep or choose another --out.")
    output.result(needs._asdict())
    return 0


def _size(number: int) -> str:
    """Write a number of bytes for a person."""
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _edge(value: float | Literal["none"]) -> float | None:
    """Read an edge of a filter; the word none means that there is none."""
    return None if isinstance(value, str) else value


def _say_prepared(report: PreparationReport, output: Output) -> None:
    """Say which scans are in the store and which were refused, and why."""
    for refusal in report.refused:
        output.say(f"refused {refusal.scan} [{refusal.category}]: {refusal.reason}")
    for notice in report.notices:
        output.say(notice)
    resumed = f" ({report.n_resumed} of them before an interruption)" if report.n_resumed else ""
    output.say(
        f"{report.n_written} of {report.n_found} scans{resumed} are in {report.path}, "
        f"{len(report.refused)} were refused ({report.path / 'refused.csv'}); "
        f"{report.seconds:.1f} s."
    )
    output.result(
        {
            "store": str(report.path),
            "n_found": report.n_found,
            "n_written": report.n_written,
            "n_unnamed_subjects": report.nameless,
            "refused": [vars(refusal) for refusal in report.refused],
            "seconds": report.seconds,
        }
    )


def _describe_store(path: Path) -> dict[str, Any]:
    """Collect what a person wants to know of a store."""
    from semantoks.data.store import Store

    store = Store.open(path)
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
