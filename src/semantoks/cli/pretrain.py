"""A store to a run."""

from __future__ import annotations

import contextlib
import datetime
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import INTERRUPTED, SILENT, app
from semantoks.errors import ConfigurationError
from semantoks.terminal import Output, rows_table

if TYPE_CHECKING:
    from semantoks.data.store import Store
    from semantoks.training.config import Configuration
    from semantoks.training.distributed import Ranks


@app.command(sort_key=40)
def pretrain(
    *,
    data: Path,
    out: Path,
    recipe: str | None = None,
    subjects: Path | None = None,
    split: Path | None = None,
    repeat: int = 0,
    fold: str | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set")] = None,
    device: str | None = None,
    precision: Literal["auto", "float32", "bf16", "fp16"] | None = None,
    devices: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 1,
    resume: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    output: Output = SILENT,
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
        paper (default), tiny, components (no training: a closed form in seconds), or a YAML file
        such as another run's config.yaml.
    subjects : Path
        List of the subjects to pretrain on, one a line or a table with a column subject.
    split : Path
        Split file of evaluate: only subjects without a scan in the test part of one of them.
    repeat : int
        Which repeat of these splits.
    fold : str
        Which fold of it, where it has several.
    set : list of str
        Changes such as optimization.epochs=20; may be given many times.
    device : str
        auto takes a GPU where there is one; otherwise cpu, cuda, mps, ... The same as --set
        device=...
    precision : str
        Of matrix products; auto takes bf16 where it is faster. The same as --set precision=...
    devices : int
        Processes on this machine that share every batch, a GPU each or parts of the cores.
    resume : bool
        Go on from the newest checkpoint in OUT, with its recipe.
    dry_run : bool
        Do a few steps, say what the run will need (time, memory, disk), and write nothing.
    output : Output
        What is printed.

    Returns
    -------
    int
        Exit code.
    """
    from semantoks.data.store import Store
    from semantoks.training.config import configure, load_recipe
    from semantoks.training.distributed import join
    from semantoks.training.pretraining import alone_in

    if recipe is None:
        recipe = str(out / "config.yaml") if resume and (out / "config.yaml").exists() else "paper"
    changes = _changes(set or [], device=device, precision=precision)
    configuration = configure(load_recipe(recipe), changes)
    if dry_run and resume:
        raise ConfigurationError("--dry-run and --resume exclude each other; choose one.")
    store = Store.open(data).verify()
    chosen = _chosen(store, subjects, split, repeat, fold)
    part = [] if subjects is None else ["--subjects", str(subjects)]
    if split is not None:
        part = ["--split", str(split), "--repeat", str(repeat)]
        part += [] if fold is None else ["--fold", fold]
    if devices > 1:
        from semantoks.training.distributed import check_devices, launch

        check_devices(devices, configuration.device)
        words = ["pretrain", "--data", str(data), "--out", str(out), "--recipe", recipe]
        words += [word for setting in set or [] for word in ("--set", setting)]
        words += [*part, *([] if device is None else ["--device", device])]
        words += [] if precision is None else ["--precision", precision]
        words += ["--resume"] * resume + ["--dry-run"] * dry_run
        return launch([*words, *output.words()], devices)
    held = contextlib.nullcontext() if dry_run else alone_in(out)
    with join() as ranks, held if ranks.first else contextlib.nullcontext():
        output = output if ranks.first else replace(output, quiet=True, json=False)
        if dry_run:
            return _forecast(chosen, out, configuration, ranks, output)
        return _pretrain(chosen, out, configuration, ranks, output, resume=resume, part=part)


def _chosen(
    store: Store, subjects: Path | None, split: Path | None, repeat: int, fold: str | None
) -> Store:
    """Select the subjects to pretrain on; all where no list and no split is given."""
    if subjects is not None and split is not None:
        raise ConfigurationError("--subjects and --split exclude each other; choose one.")
    if split is None and (repeat or fold is not None):
        raise ConfigurationError("--repeat and --fold choose among splits; give --split FILE too.")
    if subjects is not None:
        from semantoks.data.selection import read_subjects, select_subjects

        return select_subjects(store, read_subjects(subjects))
    if split is not None:
        from semantoks.evaluation.overlap import people_to_train_on

        return people_to_train_on(store, split, repeat=repeat, fold=fold)
    return store


def _changes(settings: list[str], **flags: str | None) -> dict[str, Any]:
    """Read what --set and the flags of the same keys change."""
    from semantoks.training.config import parse_changes

    changes = parse_changes(settings)
    for key, value in flags.items():
        if value is None:
            continue
        if changes.get(key, value) != value:
            raise ConfigurationError(
                f"--{key} {value} and --set {key}={changes[key]} contradict each other; give one."
            )
        changes[key] = value
    return changes


def _pretrain(
    store: Store,
    out: Path,
    configuration: Configuration,
    ranks: Ranks,
    output: Output,
    *,
    resume: bool,
    part: list[str],
) -> int:
    """Run, and say how it ended."""
    from semantoks.training.pretraining import Pretraining

    warned: list[str] = []

    def warn(warning: str) -> None:
        warned.append(warning)
        output.say(warning)  # at once: the run may go on for days

    pretraining = Pretraining(store, out, configuration, resume=resume, ranks=ranks)
    for damage in pretraining.damage():
        output.say(damage)
    plan = pretraining.plan
    processes = f" by {ranks.size} processes" if ranks.size > 1 else ""
    output.say(
        f"{plan.subjects} subjects, {plan.steps} steps of {plan.batch_size} scans in "
        f"{configuration.optimization.epochs} epochs, on {pretraining.device}{processes}."
    )
    with output.progress("pretraining") as advance:
        ended = pretraining.run(
            lambda row: advance(row.step, row.steps, f"epoch {row.epoch}  loss {row.total:.3f}"),
            warn,
        )
    output.result({**vars(ended), "folder": str(ended.folder), "warnings": warned})
    if ended.status == "interrupted":
        words = ["semantoks", "pretrain", "--data", str(store.path), "--out", str(out)]
        output.say(
            f"Stopped after step {ended.step} of {ended.steps}; saved in {out / 'checkpoints'}. "
            f"Go on{processes} with: {shlex.join([*words, *part, '--resume'])}"
        )
        return INTERRUPTED
    what = "The teacher" if ended.steps else "The model, untrained,"
    if configuration.model.components:
        what += " with components of log-connectivity"
    output.say(f"{what} is in {out / 'model'}; {ended.steps} steps, {ended.seconds:.0f} s.")
    return 0


def _forecast(
    store: Store, out: Path, configuration: Configuration, ranks: Ranks, output: Output
) -> int:
    """Say what a run will need."""
    from semantoks.training.forecast import forecast

    needs = forecast(store, out, configuration, ranks=ranks)
    each = " a process" if ranks.size > 1 else ""
    sizes = {name: _size(value) for name, value in needs._asdict().items() if "bytes" in name}
    parts = ("weights", "gradients", "optimizer", "series", "activations")
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
