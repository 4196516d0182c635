"""Many processes that train one model, as torchrun or SLURM starts them.

Every process draws the same order, windows and masks from (seed, step) and computes its part of
the batch; the loss is that of the whole batch (`semantoks.objective.sharing`), and gradients are
summed. There is no `DistributedDataParallel`: it averages gradients of losses that each process
has of its own, while here all share one, and a plain sum after the backward pass says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.objective.sharing import Share

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
