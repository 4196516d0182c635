"""Many processes: launching them, and what they share."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    SubprocessContext,
    start_processes,
)

from semantoks.errors import ConfigurationError, InputError
from semantoks.objective.sharing import Share

if TYPE_CHECKING:
    from subprocess import Popen


# Every process draws the same order, windows and masks from (seed, step) and computes its part of
# the batch; the loss is that of the whole batch (`semantoks.objective.sharing`), and gradients are
# summed. There is no `DistributedDataParallel`: it averages gradients of losses that each process
# has of its own, while here all share one, and a plain sum after the backward pass says so.

_BUCKET: Final = 8_000_000
"""Numbers that are summed at once: many enough for the network, few enough for the memory."""


class Ranks(NamedTuple):
    """One process among those that train together."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """Give every process of a machine a GPU of its own."""
        found = torch.cuda.device_count()
        own = wanted == "cuda" or (wanted == "auto" and found > 0)  # cuda:1 was somebody's choice
        if self.size == 1 or not own:
            return wanted
        if self.local >= found:
            raise ConfigurationError(
                f"process {self.local} of this machine finds {found} GPU(s); start one process a "
                "GPU, or use --device cpu. Where the cluster shows every process its own GPU only, "
                "set LOCAL_RANK=0 for all."
            )
        torch.cuda.set_device(self.local)
        return f"cuda:{self.local}"

    def share(self, total: int) -> Share | None:
        """Take this process's part of a batch.

        Examples
        --------
        >>> Ranks(1, 2).share(5)
        Share(start=2, stop=5, total=5)
        """
        if self.size == 1:
            return None
        if total < self.size:
            raise InputError(
                f"{self.size} processes cannot share a batch of {total} scans; start fewer, or set "
                "a larger optimization.batch_size."
            )
        start, stop = (total * rank // self.size for rank in (self.rank, self.rank + 1))
        return Share(start, stop, total)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums over processes."""
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Ask whether something is so on any process; all wait for the answer."""
        if self.size == 1:
            return flag
        count = torch.tensor(int(flag))  # on the CPU: no GPU has to stop for it
        dist.all_reduce(count)
        return bool(count)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


ALONE: Final = Ranks()


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did.

    Examples
    --------
    >>> with join() as ranks:
    ...     ranks.size
    1
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and not dist.is_initialized():
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), local)
        return
    # Its functions have the group as a default argument, taken when it is imported. Imported later
    # (an optimizer does), they would keep the group and its threads until the interpreter is gone,
    # and a thread that then lets go of a tensor aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        # Two ways at once: weights and gradients meet where they are, questions on the CPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"WORLD_SIZE is {size}, but the processes do not find one another ({error}). Start "
            "with torchrun, or set RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT too."
        ) from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), local)
    finally:
        dist.destroy_process_group()


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Put neighbouring gradients of one type together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) + gradient.numel() > _BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


INTERRUPTED: Final = 130
_PATIENCE: Final = 20.0
"""Seconds that the others get to end by themselves once one process has failed."""
_ONE_REQUEST: Final = 1.0
"""Seconds in which two signals count as one: clusters may signal this process and its children."""


def check_devices(count: int, device: str) -> None:
    """Refuse more processes than there are devices for."""
    there = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if there:
        raise ConfigurationError(
            f"--devices starts processes itself, but {' and '.join(there)} of the environment say "
            "that torchrun or SLURM has started this one. Leave out --devices, or the launcher."
        )
    gpus = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not gpus and not torch.backends.mps.is_available()):
        return
    if device not in ("auto", "cuda"):
        raise ConfigurationError(
            f"--devices {count} cannot share device {device}: processes take a GPU each. Leave out "
            "--device, or use --device cpu."
        )
    if count > gpus:
        raise ConfigurationError(
            f"--devices {count} needs as many GPUs, but this machine has {gpus}. Ask for fewer, or "
            "use --device cpu."
        )


def launch(words: Sequence[str], count: int) -> int:
    """Run ``python -m semantoks`` in several processes that find one another; wait for them.

    The first Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 is passed on to the first process, which tells the
    others after the current step; a later one to all.
    """
    before = {kind: signal.getsignal(kind) for kind in _signals(*_PASSED_ON, "SIGQUIT")}
    # This process keeps the place where the others meet, so that its port is free for certain.
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = start_processes(
        name="semantoks",
        entrypoint=sys.executable,
        args=dict.fromkeys(range(count), ("-m", "semantoks", *words)),
        envs={rank: _environment(rank, count, meeting.port) for rank in range(count)},
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    handlers = cast("SubprocessContext", context).subprocess_handlers
    processes = [handlers[rank].proc for rank in range(count)]
    try:
        with _passed_on(processes) as asked:
            codes = _wait(processes)
            return _verdict(codes, stopped=asked())
    finally:
        context.close()
        for kind, handler in before.items():
            signal.signal(kind, handler)


_PASSED_ON: Final = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


def _signals(*names: str) -> list[signal.Signals]:
    """Keep the signals that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Say what torchrun says, and share the cores."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(cores // count, 1))),
    }


@contextlib.contextmanager
def _passed_on(processes: Sequence[Popen[bytes]]) -> Iterator[Callable[[], bool]]:
    """Pass signals on while the processes run; ask whether there was one."""
    times: list[float] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if times and now - times[-1] < _ONE_REQUEST:
            return
        # A lost terminal is no reason to lose steps.
        kind = signal.SIGTERM if number == getattr(signal, "SIGHUP", None) else number
        for process in processes if times else processes[:1]:
            process.send_signal(kind)
        times.append(now)

    for kind in _signals(*_PASSED_ON):
        signal.signal(kind, pass_on)
    yield lambda: bool(times)


def _wait(processes: Sequence[Popen[bytes]]) -> list[int | None]:
    """Wait until all have ended; once one has failed, not for long. None: it still runs."""
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        now = time.monotonic()
        if None not in codes or now >= deadline:
            return codes
        if any(code is not None and code < 0 for code in codes):
            return codes  # it could not tell the others, who wait for it
        if any(codes) and deadline == float("inf"):
            deadline = now + _PATIENCE
        time.sleep(0.05)


def _verdict(codes: Sequence[int | None], *, stopped: bool) -> int:
    """Make one exit code of many."""
    ended = [(rank, code) for rank, code in enumerate(codes) if code]
    if not ended:
        return 0
    if stopped and all(code == INTERRUPTED or code < 0 for _, code in ended):
        return INTERRUPTED
    for rank, code in ended:
        if code < 0:
            name = signal.Signals(-code).name
            raise InputError(
                f"process {rank} of {len(codes)} was ended by {name}, the others were stopped. "
                "SIGKILL often means that the machine has too little memory. Go on with --resume."
            )
    return ended[0][1]
