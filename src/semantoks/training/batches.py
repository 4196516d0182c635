"""What every step sees, decided by the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float16, Int
from numpy.typing import NDArray
from torch import Tensor

from semantoks.errors import InputError
from semantoks.model.encoder import SemantoksEncoder, network_mask
from semantoks.objective.sharing import Share
from semantoks.training.config import Configuration, Residence
from semantoks.training.distributed import ALONE, Ranks
from semantoks.training.plan import Plan
from semantoks.training.views import VIEWS, augment, draw_masks, draw_scans, draw_starts

if TYPE_CHECKING:
    from semantoks.data.store import Store


# Either way they are the same numbers, float16 as the store has them, in the order (window, time,
# roi). They become float32 on the device.

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


HEALTH_SCANS: Final = 256
# Streams of randomness of one seed; a stream and a step (or epoch) decide every draw, so that a
# resumed run draws what an uninterrupted one would have drawn.
WEIGHTS, _ORDER, _WINDOWS, _AUGMENTATION, _MASKS, _HEALTH = range(6)


class Batch(NamedTuple):
    """What one step sees."""

    views: Tensor
    masks: Tensor | None
    absent: Tensor | None
    share: Share | None


class Cut(NamedTuple):
    """Which windows a step looks at."""

    step: int
    scans: NDArray[np.intp]
    starts: NDArray[np.int64]


class Batches:
    """Draws the batches of a run."""

    def __init__(
        self,
        store: Store,
        configuration: Configuration,
        plan: Plan,
        encoder: SemantoksEncoder,
        ranks: Ranks = ALONE,
    ) -> None:
        self.share = ranks.share(plan.batch_size)
        self.mine = slice(None) if self.share is None else slice(self.share.start, self.share.stop)
        self.store, self.configuration, self.plan = store, configuration, plan
        self.device = encoder.cls_token.device
        self.network_valid = encoder.network_valid(store.valid)
        views, window = configuration.views, configuration.model.window
        self.residence = choose_residence(views.residence, store, self.device)
        resident = self.residence == "device"
        self._ahead = 0 if resident else views.ahead
        self._source = (Resident if resident else Streamed)(store, self.device, window)

    def after(self, step: int) -> Generator[Batch, None, None]:
        """Draw the batches of all steps that are left."""
        with closing(read_ahead(self._cuts(step), self._read, self._ahead)) as read:
            for cut, windows in read:
                yield self._draw(cut, windows)

    def _cuts(self, step: int) -> Iterator[Cut]:
        """Draw which windows the steps that are left look at."""
        size, window = self.plan.batch_size, self.configuration.model.window
        for at in range(step, self.plan.steps):
            epoch, place = divmod(at, self.plan.steps_an_epoch)
            if place == 0 or at == step:
                order = draw_scans(self.store.subject_codes, self._rng(_ORDER, epoch))
            scans = order[place * size :][:size]
            yield Cut(
                at, scans, draw_starts(self.store.lengths[scans], window, self._rng(_WINDOWS, at))
            )

    def _read(self, cut: Cut) -> Tensor:
        """Read this process's part of the windows."""
        scans = np.repeat(cut.scans[self.mine], VIEWS)
        return self._source.read(scans, cut.starts[self.mine].ravel())

    def _draw(self, cut: Cut, windows: Tensor) -> Batch:
        """Augment the windows of a step and draw its masks."""
        config, share = self.configuration, self.share
        windows = windows.to(self.device, non_blocking=self.device.type == "cuda")
        views = windows.float().transpose(1, 2)
        views = views.view(-1, VIEWS, *views.shape[1:])
        views = augment(views, config.views, self._generator(_AUGMENTATION, cut.step), share)
        generator = self._generator(_MASKS, cut.step)
        masked = torch.rand((), generator=generator, device=self.device)
        absent = self._absent(cut.scans)
        if masked >= config.masks.probability:
            return Batch(views, None, absent, share)
        networks = self.network_valid.shape[1]
        patches = config.model.window // config.model.patch
        masks = draw_masks(len(cut.scans), networks, patches, config.masks, generator)[self.mine]
        return Batch(views, masks, absent, share)

    def _absent(self, scans: NDArray[np.intp]) -> Tensor | None:
        """Say which networks the scans of this process lack, if any of the batch lacks one."""
        valid = self.network_valid[scans]
        return None if valid.all() else torch.from_numpy(~valid[self.mine]).to(self.device)

    def health_views(self) -> tuple[Tensor, Tensor | None]:
        """Cut two windows, as far apart as can be, from up to 256 scans of different subjects."""
        window = self.configuration.model.window
        scans = draw_scans(self.store.subject_codes, self._rng(_HEALTH, 0))[:HEALTH_SCANS]
        starts = np.stack([np.zeros_like(scans), self.store.lengths[scans] - window], axis=1)
        windows = self.store.windows(np.repeat(scans, VIEWS), starts.ravel(), window)
        views = torch.from_numpy(windows).view(-1, VIEWS, *windows.shape[1:])
        mask = network_mask(self.network_valid[scans], window // self.configuration.model.patch)
        return views.to(self.device), None if mask is None else mask.to(self.device)

    def _rng(self, stream: int, count: int) -> np.random.Generator:
        """Make NumPy's source of randomness for a stream and a step or epoch."""
        return np.random.default_rng([self.configuration.seed, stream, count])

    def _generator(self, stream: int, count: int) -> torch.Generator:
        """Make PyTorch's source of randomness for a stream and a step."""
        generator = torch.Generator(self.device)
        return generator.manual_seed(mix(self.configuration.seed, stream, count))


def mix(*words: int) -> int:
    """Mix numbers into one seed."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
