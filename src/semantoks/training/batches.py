"""What every step sees, decided by the seed and the step alone."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.model.encoder import SemantoksEncoder, network_mask
from semantoks.objective.sharing import Share
from semantoks.training.config import Configuration
from semantoks.training.distributed import ALONE, Ranks
from semantoks.training.plan import Plan
from semantoks.training.reading import Resident, Streamed, choose_residence, read_ahead
from semantoks.training.views import VIEWS, augment, draw_masks, draw_scans, draw_starts

if TYPE_CHECKING:
    from semantoks.data.store import Store

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
