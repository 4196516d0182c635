"""Pretraining: draw, compare, step, log, save."""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.model.checkpoint import save_encoder
from semantoks.objective.distillation import LossTerms
from semantoks.training.config import Configuration, paper, to_yaml
from semantoks.training.events import Progress, ignore, tensorboard
from semantoks.training.monitoring import Health, examine
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step, schedule
from semantoks.training.plan import choose_device, make_model, make_plan
from semantoks.training.run import (
    Log,
    graceful_stop,
    load_checkpoint,
    save_checkpoint,
    versions,
    write_json,
)
from semantoks.training.views import augment, draw_masks, draw_scans, draw_windows

if TYPE_CHECKING:
    from semantoks.data.store import Store

HEALTH_WINDOWS = 256
# Streams of randomness of one seed; a stream and a step (or epoch) decide every draw, so that a
# resumed run draws what an uninterrupted one would have drawn.
_WEIGHTS, _ORDER, _WINDOWS, _AUGMENTATION, _MASKS, _HEALTH = range(6)


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Parameters
    ----------
    folder : Path
        Run folder.
    step, steps : int
        Optimizer steps done, and of the whole run.
    status : str
        "finished" or "interrupted".
    seconds : float
        Time that this part took.
    """

    folder: Path
    step: int
    steps: int
    status: str
    seconds: float


class Batch(NamedTuple):
    """What one step sees.

    Parameters
    ----------
    views : Tensor of shape (batch, view, roi, time)
        Augmented windows.
    masks : Tensor of shape (batch, view, network, patch) or None
        What the student does not see; None on steps without masks.
    """

    views: Tensor
    masks: Tensor | None


def pretrain(
    store: Store,
    out: str | Path,
    configuration: Configuration | None = None,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] = ignore,
) -> Run:
    """Pretrain an encoder on a cohort.

    Parameters
    ----------
    store : Store
        The cohort.
    out : str or Path
        Run folder; it must not exist unless `resume`.
    configuration : Configuration, optional
        The recipe; by default the paper's.
    resume : bool
        Go on from the newest checkpoint in `out`, with the same recipe and cohort.
    progress : callable
        Called with `Progress` after every step.

    Returns
    -------
    Run
        Where the run is and how it ended. After Ctrl-C its status is "interrupted" and a
        checkpoint is kept.

    Raises
    ------
    InputError
        If the folder exists, the cohort is too small or its scans too short, the loss is no
        longer finite, or a checkpoint cannot be written or read.
    ConfigurationError
        If the device does not exist.

    Examples
    --------
    >>> from semantoks.training.config import configure, tiny
    >>> run = pretrain(store, "runs/first", configure(tiny(), {"seed": 1}))  # doctest: +SKIP
    """
    pretraining = Pretraining(store, Path(out), configuration or paper(), resume=resume)
    return pretraining.run(progress)


class Pretraining:
    """The state of a run, and the loop over its steps.

    Parameters
    ----------
    store : Store
        The cohort.
    folder : Path
        Run folder.
    configuration : Configuration
        The recipe.
    resume : bool
        Take up the newest checkpoint.
    """

    def __init__(
        self, store: Store, folder: Path, configuration: Configuration, *, resume: bool
    ) -> None:
        self.store, self.folder, self.configuration = store, folder, configuration
        self.plan = make_plan(store, configuration)
        self.device = choose_device(configuration.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(configuration.seed, _WEIGHTS))
            self.model = make_model(store, configuration).to(self.device)
        self.optimizer = make_optimizer(self.model.student, configuration.optimization)
        self.health_windows = self._draw_health_windows()
        self.step = 0
        self.times: dict[str, str] = {}
        if resume:
            self._restore()
        elif folder.exists():
            raise InputError(
                f"{folder} exists. Choose another --out, or go on with that run with --resume."
            )
        folder.mkdir(parents=True, exist_ok=resume)
        (folder / "config.yaml").write_text(to_yaml(configuration), encoding="utf-8")
        after = self.step if resume else None
        columns = [name for name in Progress._fields if name != "steps"]
        self.metrics = Log(folder, "metrics", columns, after=after)
        self.health = Log(folder, "health", ["step", "epoch", *Health._fields], after=after)

    def run(self, progress: Callable[[Progress], None] = ignore) -> Run:
        """Go through all steps that are left, then save the teacher.

        Parameters
        ----------
        progress : callable
            Called with `Progress` after every step.

        Returns
        -------
        Run
            How it ended.
        """
        began = time.perf_counter()
        self._describe("running", 0.0)
        if self.step == 0:
            self._look_at_health()
        with graceful_stop() as stopped, self._events() as events:
            for batch in self._batches():
                row = self._train(batch, began)
                if self.step % self.configuration.logging.steps == 0 or self.step == row.steps:
                    self.metrics.write({name: _rounded(v) for name, v in row._asdict().items()})
                    events(row)
                progress(row)
                self._finish_epoch()
                if stopped():
                    break
        status = "finished" if self.step == self.plan.steps else "interrupted"
        if self.step > 0:
            self._save()
        seconds = time.perf_counter() - began
        if status == "finished":
            self._save_model()
        self._describe(status, seconds)
        return Run(self.folder, self.step, self.plan.steps, status, seconds)

    def _batches(self) -> Iterator[Batch]:
        """Draw the batches of all steps that are left."""
        plan = self.plan
        while self.step < plan.steps:
            epoch, first = divmod(self.step, plan.steps_an_epoch)
            order = draw_scans(self.store.subject_codes, self._rng(_ORDER, epoch))
            for place in range(first, plan.steps_an_epoch):
                yield self._draw(order[place * plan.batch_size : (place + 1) * plan.batch_size])

    def _draw(self, scans: NDArray[np.intp]) -> Batch:
        """Draw the windows and masks of this step."""
        config = self.configuration
        rng = self._rng(_WINDOWS, self.step)
        views = draw_windows(self.store, scans, window=config.model.window, rng=rng)
        generator = self._generator(_AUGMENTATION, self.step)
        views = augment(views.to(self.device), config.views, generator)
        generator = self._generator(_MASKS, self.step)
        masked = torch.rand((), generator=generator, device=self.device)
        if masked >= config.masks.probability:
            return Batch(views, None)
        networks = len(self.store.atlas.network_names)
        patches = config.model.window // config.model.patch
        return Batch(views, draw_masks(len(scans), networks, patches, config.masks, generator))

    def _train(self, batch: Batch, began: float) -> Progress:
        """Do one optimizer step and move the teacher."""
        now = self._schedule()
        terms: LossTerms = self.model(batch.views, batch.masks, curriculum=now.curriculum)
        total = float(terms.total.detach())
        if not math.isfinite(total):
            raise InputError(self._not_finite(total))
        torch.autograd.backward(terms.total)
        norm = optimizer_step(self.optimizer, now, clip=self.configuration.optimization.clip)
        self.model.update_teacher(now.momentum)
        self.step += 1
        return Progress(
            step=self.step,
            steps=self.plan.steps,
            epoch=(self.step - 1) // self.plan.steps_an_epoch + 1,
            learning_rate=now.learning_rate,
            weight_decay=now.weight_decay,
            momentum=now.momentum,
            summary_weight=now.curriculum,
            masked=batch.masks is not None,
            total=total,
            compression=_number(terms.compression),
            expansion=_number(terms.expansion),
            token=_number(terms.token),
            summary=_number(terms.summary),
            gradient_norm=norm,
            seconds=time.perf_counter() - began,
        )

    def _schedule(self) -> Schedule:
        """Look up the schedules of this step."""
        return schedule(
            self.step,
            steps=self.plan.steps,
            steps_an_epoch=self.plan.steps_an_epoch,
            batch_size=self.plan.batch_size,
            optimization=self.configuration.optimization,
            objective=self.configuration.objective,
        )

    def _finish_epoch(self) -> None:
        """At the end of an epoch, look at the health and save, where it is time."""
        epoch, place = divmod(self.step, self.plan.steps_an_epoch)
        if place:
            return
        last = self.step == self.plan.steps
        if epoch % self.configuration.logging.health_epochs == 0 or last:
            self._look_at_health()
        if epoch % self.configuration.logging.checkpoint_epochs == 0 and not last:
            self._save()

    def _look_at_health(self) -> None:
        """Examine the model on the same windows as ever and write it down."""
        found = examine(self.model, self.health_windows)
        epoch = self.step // max(self.plan.steps_an_epoch, 1)
        row = {"step": self.step, "epoch": epoch, **found._asdict()}
        self.health.write({name: _rounded(value) for name, value in row.items()})

    def _draw_health_windows(self) -> Tensor:
        """Cut one window from up to 256 scans, each of another subject."""
        rng = self._rng(_HEALTH, 0)
        scans = draw_scans(self.store.subject_codes, rng)[:HEALTH_WINDOWS]
        windows = draw_windows(self.store, scans, window=self.configuration.model.window, rng=rng)
        return windows[:, 0].contiguous().to(self.device)

    def _save(self) -> Path:
        """Write a checkpoint of everything that the next step depends on."""
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "configuration": to_yaml(self.configuration),
            "store_fingerprint": self.store.fingerprint,
        }
        keep = self.configuration.logging.keep
        return save_checkpoint(self.folder / "checkpoints", self.step, content, keep=keep)

    def _restore(self) -> None:
        """Take up the newest checkpoint, if recipe and cohort are the same."""
        content = load_checkpoint(self.folder)
        if content["configuration"] != to_yaml(self.configuration):
            raise ConfigurationError(
                f"the run in {self.folder} was started with another configuration. Resume it with "
                f"--recipe {self.folder / 'config.yaml'}, or start another run."
            )
        if content["store_fingerprint"] != self.store.fingerprint:
            raise InputError(
                f"the run in {self.folder} was started on another store than {self.store.path} "
                "(the fingerprints differ). Give the same --data, or start another run."
            )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]

    def _save_model(self) -> None:
        """Write the teacher's encoder."""
        if (self.folder / "model").exists():  # a finished run that is resumed has nothing to add
            return
        save_encoder(
            self.model.teacher.encoder,
            self.folder / "model",
            preprocessing=self.store.preprocessing.to_dict(),
            provenance=self._provenance(),
        )

    def _provenance(self) -> dict[str, Any]:
        """Say what the run is made of."""
        parameters = sum(p.numel() for p in self.model.student.parameters())
        return {
            "store": {
                "path": str(self.store.path.resolve()),
                "fingerprint": self.store.fingerprint,
                "n_scans": len(self.store),
                "n_subjects": self.plan.subjects,
            },
            "seed": self.configuration.seed,
            "steps": self.plan.steps,
            "epochs": self.configuration.optimization.epochs,
            "batch_size": self.plan.batch_size,
            "device": str(self.device),
            "parameters": parameters,
            "versions": versions(),
        }

    def _describe(self, status: str, seconds: float) -> None:
        """Write run.json."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.times = {"started": now} if status == "running" else self.times | {"finished": now}
        content = {"status": status, "step": self.step, "seconds": round(seconds, 1), **self.times}
        write_json(self.folder / "run.json", content | self._provenance())

    def _not_finite(self, total: float) -> str:
        """Say what to do about a loss that is not finite."""
        last = max((self.folder / "checkpoints").glob("step-*.pt"), default=None)
        kept = f"The last good checkpoint is {last}." if last else "No checkpoint was written yet."
        return (
            f"the loss of step {self.step + 1} is {total}; the run in {self.folder} stops. {kept} "
            "Try a smaller optimization.learning_rate or a larger optimization.warmup_epochs, and "
            "look for extreme values in the store."
        )

    def _events(self) -> contextlib.AbstractContextManager[Callable[[Progress], None]]:
        """Open TensorBoard's event file if it was asked for."""
        if self.configuration.logging.tensorboard:
            return tensorboard(self.folder / "tensorboard")
        return contextlib.nullcontext(ignore)

    def _rng(self, stream: int, count: int) -> np.random.Generator:
        """Make NumPy's source of randomness for a stream and a step or epoch."""
        return np.random.default_rng([self.configuration.seed, stream, count])

    def _generator(self, stream: int, count: int) -> torch.Generator:
        """Make PyTorch's source of randomness for a stream and a step."""
        generator = torch.Generator(self.device)
        return generator.manual_seed(_seed(self.configuration.seed, stream, count))


def _seed(*words: int) -> int:
    """Mix numbers into one seed."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def _number(value: Tensor | None) -> float:
    """Return a term of the loss as a number, NaN where it was not computed."""
    return math.nan if value is None else float(value.detach())


def _rounded(value: Any) -> Any:
    """Keep the digits that mean something."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
