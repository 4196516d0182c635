"""Where windows come from: the memory of the device, or the store, some steps ahead.

Either way they are the same numbers, float16 as the store has them, in the order (window, time,
roi). They become float32 on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float16, Int
from torch import Tensor

from semantoks.errors import InputError
from semantoks.training.sections import Residence

if TYPE_CHECKING:
    from semantoks.data.store import Store

_SHARE: Final = 1 / 3
"""Of the free memory that series may take; the rest is for the step."""
_BLOCK: Final = 64_000_000
"""Bytes that are on their way to the device at once."""
_WORKERS: Final = 4

Job = TypeVar("Job")
Result = TypeVar("Result")


def choose_residence(wanted: Residence, store: Store, device: torch.device) -> Residence:
    """Decide where the series of a cohort are during a run."""
    if wanted != "auto":
        return wanted
    return "device" if store.samples.nbytes <= _SHARE * _free_memory(device) else "stream"


def _free_memory(device: torch.device) -> float:
    """Say how many bytes of memory of its own a device has left."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0.0


class Resident:
    """The series of a cohort in the memory of the device."""

    def __init__(self, store: Store, device: torch.device, window: int) -> None:
        self.offsets, self.device = store.offsets, device
        self.window = torch.arange(window, device=device)
        rows, rois = store.samples.shape
        step = max(_BLOCK // (2 * rois), 1)
        try:
            self.samples = torch.empty(rows, rois, dtype=torch.float16, device=device)
            for first in range(0, rows, step):
                block = np.array(store.samples[first : first + step])
                self.samples[first : first + step] = torch.from_numpy(block)
        except RuntimeError as error:
            raise InputError(
                f"the series of store {store.path} take {store.samples.nbytes / 1e9:.1f} GB, for "
                f"which {device} has no room ({str(error).splitlines()[0]}). Leave them in the "
                "store: views.residence=stream."
            ) from error

    def read(
        self, scans: Int[np.ndarray, "window"], starts: Int[np.ndarray, "window"]
    ) -> Float16[Tensor, "window time roi"]:
        """Gather windows, all at once."""
        first = torch.from_numpy(self.offsets[scans] + starts).to(self.device)
        index = first[:, None] + self.window
        return self.samples.index_select(0, index.flatten()).view(*index.shape, -1)


class Streamed:
    """The series of a cohort in its store."""

    def __init__(self, store: Store, device: torch.device, window: int) -> None:
        self.store, self.window = store, window
        self.pinned = device.type == "cuda"  # what is pinned is sent while the device computes

    def read(
        self, scans: Int[np.ndarray, "window"], starts: Int[np.ndarray, "window"]
    ) -> Float16[Tensor, "window time roi"]:
        """Cut windows from the store; many threads may do so."""
        shape = (len(scans), self.window, len(self.store.atlas))
        halves = torch.empty(shape, dtype=torch.float16, pin_memory=self.pinned)
        self.store.stored_windows(scans, starts, self.window, out=halves.numpy())
        return halves


def read_ahead(
    jobs: Iterable[Job], work: Callable[[Job], Result], ahead: int
) -> Generator[tuple[Job, Result], None, None]:
    """Do jobs in order, some ahead of what is asked for, in threads.

    Examples
    --------
    >>> list(read_ahead([1, 2, 3], lambda number: 10 * number, ahead=2))
    [(1, 10), (2, 20), (3, 30)]
    """
    if ahead == 0:
        for job in jobs:
            yield job, work(job)
        return
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(min(ahead, _WORKERS), thread_name_prefix="semantoks-windows")
    try:
        for job in jobs:
            waiting.append((job, pool.submit(work, job)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
