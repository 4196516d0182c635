"""A plan before the spend: what a run will need, measured on a few of its steps."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from semantoks.errors import InputError
from semantoks.training.batches import Batch
from semantoks.training.config import Configuration
from semantoks.training.distributed import ALONE, Ranks
from semantoks.training.learner import Learner
from semantoks.training.monitoring import examine

if TYPE_CHECKING:
    from semantoks.data.store import Store

PATIENCE: Final = 60.0
"""Seconds after which no further step is measured, once there is one of each kind."""
_REPEATS: Final = 5
_LOG_ROW: Final = 600  # bytes a logged step takes as CSV and as JSON


class Forecast(NamedTuple):
    """What a run will need."""

    steps: int
    device: str
    processes: int
    parameters: int
    flops_student: int
    flops_teacher: int
    bytes_weights: int
    bytes_gradients: int
    bytes_optimizer: int
    bytes_series: int
    bytes_activations: int
    bytes_peak: int
    seconds_a_step: float
    steps_measured: int
    seconds: float
    scans_a_second: float
    bytes_disk: int
    bytes_free: int


def forecast(
    store: Store,
    out: str | Path,
    configuration: Configuration,
    *,
    ranks: Ranks = ALONE,
    patience: float = PATIENCE,
) -> Forecast:
    """Do a few steps of a run, and say what the whole will need; nothing is written."""
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists; a run would not begin there. Choose another --out.")
    learner = Learner(store, configuration, ranks)
    if learner.plan.steps == 0:
        raise InputError("optimization.epochs = 0 has no steps to measure; nothing is trained.")
    kinds = _batches_of_each_kind(learner)
    before = _memory(learner.device)
    flops = [_count_flops(learner, batch) for batch in kinds]
    times = _time_steps(learner, kinds, patience)
    step = _average(learner, kinds, [_median(known) for known in times]) + _time_draw(learner)
    extra = _time(learner, kinds[0], curriculum=1.0) - _median(times[0])
    peak = _peak(learner.device)
    size = _sizes(learner)
    moving = size["gradients"] + size["optimizer"]
    return Forecast(
        steps=learner.plan.steps,
        device=str(learner.device),
        processes=ranks.size,
        parameters=sum(p.numel() for p in learner.model.student.parameters()),
        flops_student=round(_average(learner, kinds, [student for student, _ in flops])),
        flops_teacher=round(_average(learner, kinds, [teacher for _, teacher in flops])),
        bytes_weights=size["weights"],
        bytes_gradients=size["gradients"],
        bytes_optimizer=size["optimizer"],
        bytes_series=store.samples.nbytes if learner.batches.residence == "device" else 0,
        bytes_activations=max(peak - before - moving, 0),
        bytes_peak=peak,
        seconds_a_step=step,
        steps_measured=sum(map(len, times)),
        seconds=_whole(learner, step, max(extra, 0.0)),
        scans_a_second=learner.plan.batch_size / step,
        bytes_disk=_disk(learner, size["weights"] + size["optimizer"]),
        bytes_free=shutil.disk_usage(_existing(out)).free,
    )


def _whole(learner: Learner, step: float, extra: float) -> float:
    """Add up all steps, the network-summary term while it is there, and looks at the health."""
    objective, epochs = learner.configuration.objective, learner.configuration.optimization.epochs
    share = 1.0 if objective.summary_schedule == "constant" else objective.summary_share
    share = share if objective.summary_weight > 0 else 0.0
    looks = 1 + math.ceil(epochs / learner.configuration.logging.health_epochs)
    return learner.plan.steps * (step + share * extra) + looks * _time_look(learner)


def _disk(learner: Learner, checkpoint: int) -> int:
    """Add up checkpoints, the one more while it is written, the model at the end, and logs."""
    logging = learner.configuration.logging
    rows = learner.plan.steps // logging.steps
    model = _bytes(learner.model.teacher.encoder)
    return (logging.keep + 1) * checkpoint + model + rows * _LOG_ROW


def _average(learner: Learner, kinds: list[Batch], values: Sequence[int | float]) -> float:
    """Average over masked and unmasked steps by their shares; a short run may have one kind."""
    masked = learner.configuration.masks.probability
    shares = [masked if batch.masks is not None else 1 - masked for batch in kinds]
    return math.fsum(v * w for v, w in zip(values, shares, strict=True)) / math.fsum(shares)


def _batches_of_each_kind(learner: Learner) -> list[Batch]:
    """Draw the first masked and the first unmasked batch, where the recipe has both."""
    probability = learner.configuration.masks.probability
    wanted = {hidden for hidden, p in ((True, probability), (False, 1 - probability)) if p > 0}
    found: dict[bool, Batch] = {}
    with contextlib.closing(learner.batches.after(0)) as batches:
        for batch in batches:
            found.setdefault(batch.masks is not None, batch)
            if found.keys() >= wanted:
                break
    return list(found.values())


def _count_flops(learner: Learner, batch: Batch) -> tuple[int, int]:
    """Do a step, which warms up, and count what student and teacher compute."""
    counter = FlopCounterMode(display=False)
    now = learner.schedule(0)._replace(curriculum=0.0)
    with counter:
        terms = learner.compare(batch, now)
        learner.improve(terms, now)
    total = counter.get_total_flops()
    teacher = sum(counter.get_flop_counts().get("Distillation.teacher", {}).values())
    return total - teacher, teacher


def _time_steps(learner: Learner, kinds: list[Batch], patience: float) -> list[list[float]]:
    """Measure the seconds of steps of each kind, in turn."""
    began, times = time.perf_counter(), [[_time(learner, batch)] for batch in kinds]
    while len(times[0]) < _REPEATS:
        if learner.ranks.any(time.perf_counter() - began > patience):
            break
        for known, batch in zip(times, kinds, strict=True):
            known.append(_time(learner, batch))
    return times


def _time_draw(learner: Learner) -> float:
    """Measure the seconds that drawing a batch takes."""
    began = time.perf_counter()
    with contextlib.closing(learner.batches.after(0)) as batches:
        float(next(batches).views[0, 0, 0, 0])  # waits for the device
        return time.perf_counter() - began


def _time(learner: Learner, batch: Batch, *, curriculum: float = 0.0) -> float:
    """Measure the seconds of a step on a batch that is drawn already."""
    # A rate of nearly 0: what is measured is the speed, and weights must stay finite.
    now = learner.schedule(0)._replace(learning_rate=1e-9, curriculum=curriculum)
    began = time.perf_counter()
    learner.improve(learner.compare(batch, now), now)  # the norm comes back as a number: it waits
    return time.perf_counter() - began


def _time_look(learner: Learner) -> float:
    """Estimate the seconds of a look at the health from a part of its windows."""
    views, mask = learner.batches.health_views()
    some = min(len(views), 16)
    began = time.perf_counter()
    examine(learner.model, views[:some], None if mask is None else mask[:some])
    return (time.perf_counter() - began) * len(views) / some


def _sizes(learner: Learner) -> dict[str, int]:
    """Count the bytes of weights, gradients and moments."""
    student = [p for p in learner.model.student.parameters() if p.requires_grad]
    moments = [
        value
        for state in learner.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return {
        "weights": _bytes(learner.model),
        "gradients": sum(p.nbytes for p in student),
        "optimizer": sum(value.nbytes for value in moments),
    }


def _bytes(module: nn.Module) -> int:
    """Count the bytes of a module's parameters and buffers."""
    return sum(value.nbytes for value in module.state_dict().values())


def _memory(device: torch.device) -> int:
    """Say how much memory is in use, and begin to look for the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):  # elsewhere the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak(device)


def _peak(device: torch.device) -> int:
    """Say how much memory was in use at most, in bytes; 0 where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (x for x in status.read_text("ascii").splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if importlib.util.find_spec("resource") is None:  # Windows
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _existing(path: Path) -> Path:
    """Find the nearest folder that exists."""
    path = path.resolve()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]
