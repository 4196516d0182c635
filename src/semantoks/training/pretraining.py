"""Pretraining: draw, compare, step, log, save."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.files import hold
from semantoks.training.batches import Batch
from semantoks.training.config import Configuration, paper, same_run, to_yaml
from semantoks.training.distributed import ALONE, Ranks, join
from semantoks.training.folder import (
    Progress,
    Record,
    check_tensorboard,
    graceful_stop,
    ignore,
    load_checkpoint,
    read_json,
    save_checkpoint,
)
from semantoks.training.learner import Learner
from semantoks.training.precision import kept_memory

if TYPE_CHECKING:
    from semantoks.data.store import Store

_LOGGER: Final = logging.getLogger(__name__)


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


def pretrain(
    store: Store,
    out: str | Path,
    configuration: Configuration | None = None,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] = ignore,
    notify: Callable[[str], None] = _LOGGER.warning,
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
    notify : callable
        Called with a sentence when the health of the run gives cause for a warning; by default it
        is logged.

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
    out, recipe = Path(out), configuration or paper()
    with join() as ranks, alone_in(out) if ranks.first else contextlib.nullcontext():
        pretraining = Pretraining(store, out, recipe, resume=resume, ranks=ranks)
        for damage in pretraining.damage() if ranks.first else ():
            notify(damage)
        return pretraining.run(progress, notify)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder: two processes in one would undo each other's files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.with_name(f".{folder.name}.lock"), "pretrain"):
        yield


class Pretraining:
    """The state of a run, and the loop over its steps."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        configuration: Configuration,
        *,
        resume: bool,
        ranks: Ranks = ALONE,
    ) -> None:
        self.store, self.folder, self.configuration = store, folder, configuration
        self.ranks = ranks
        self.learner = Learner(store, configuration, ranks)
        self.plan, self.device, self.model = (
            self.learner.plan, self.learner.device, self.learner.model,
        )  # fmt: skip
        self.step = 0
        self.saved = -1  # step of the newest good checkpoint
        self.damaged: tuple[Path, ...] = ()
        if resume:
            self._restore()
        elif folder.exists():
            raise InputError(
                f"{folder} exists. Choose another --out, or go on with that run with --resume."
            )
        if configuration.logging.tensorboard:
            check_tensorboard()
        ranks.wait()  # all have looked at the folder before the first changes it
        after = self.saved if resume else None
        self.record = Record(folder, store, self.learner, after=after) if ranks.first else None

    def run(
        self,
        progress: Callable[[Progress], None] = ignore,
        notify: Callable[[str], None] = _LOGGER.warning,
    ) -> Run:
        """Go through all steps that are left, then save the teacher."""
        began = time.perf_counter()
        self.notify = notify
        if self.step == self.plan.steps and (self.folder / "model").exists():
            described = read_json(self.folder / "run.json")
            if described["status"] != "finished":
                self._describe("finished", 0.0)  # killed after the last file but this one
            seconds = described.get("seconds", 0.0)
            return Run(self.folder, self.step, self.plan.steps, "finished", seconds)
        self._describe("running", 0.0)
        if self.saved < 0:
            self._look()
        with graceful_stop() as stopped:
            self._go(began, progress, stopped)
            return self._end(began)

    def damage(self) -> tuple[str, ...]:
        """Say which checkpoints could not be taken up."""
        return tuple(
            f"Checkpoint {path} is damaged or missing; going on from step {self.step}."
            for path in self.damaged
        )

    def _go(
        self, began: float, progress: Callable[[Progress], None], stopped: Callable[[], bool]
    ) -> None:
        """Do the steps that are left, or those until somebody asks to stop."""
        batches = contextlib.closing(self.learner.batches.after(self.step))
        with self._log() as log, kept_memory(self.device), batches as left:
            for batch in left:
                row = self._train(batch, began)
                if self.step % self.configuration.logging.steps == 0 or self.step == row.steps:
                    log(row)
                progress(row)
                self._finish_epoch()
                if self.ranks.any(stopped()):  # a signal may reach one process only
                    break

    def _end(self, began: float) -> Run:
        """Save what is not saved yet, and say how the run ended."""
        status = "finished" if self.step == self.plan.steps else "interrupted"
        if self.step > max(self.saved, 0):
            self._save()
        seconds = time.perf_counter() - began
        if status == "finished" and self.record:
            self.record.save_model()
        self._describe(status, seconds)
        self.ranks.wait()  # nobody leaves while the first still writes
        return Run(self.folder, self.step, self.plan.steps, status, seconds)

    def _train(self, batch: Batch, began: float) -> Progress:
        """Do one optimizer step and move the teacher."""
        now = self.learner.schedule(self.step)
        terms = self.learner.compare(batch, now)
        total = float(terms.total.detach())
        if not math.isfinite(total):
            raise InputError(self._not_finite("loss", total))
        norm = self.learner.improve(terms, now)
        # In fp16 a gradient that overflows is left out, and the loss scaled less.
        if not math.isfinite(norm) and not self.learner.scaler.is_enabled():
            raise InputError(self._not_finite("gradient", norm))
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

    def _finish_epoch(self) -> None:
        """At the end of an epoch, look at the health and save, where it is time."""
        epoch, place = divmod(self.step, self.plan.steps_an_epoch)
        if place:
            return
        last = self.step == self.plan.steps
        self._check_weights()
        if epoch % self.configuration.logging.health_epochs == 0 or last:
            self._look()
        if epoch % self.configuration.logging.checkpoint_epochs == 0 and not last:
            self._save()

    def _check_weights(self) -> None:
        """Stop before weights that are not finite are saved or examined."""
        if not all(bool(x.isfinite().all()) for x in self.model.parameters()):
            raise InputError(self._not_finite("weights", math.nan, after=True))

    def _look(self) -> None:
        """Look at the health."""
        if self.record:
            self.record.look(self.step, self.notify)

    def _describe(self, status: str, seconds: float) -> None:
        """Say how the run stands."""
        if self.record:
            self.record.describe(status, self.step, seconds)

    def _log(self) -> contextlib.AbstractContextManager[Callable[[Progress], None]]:
        """Open what steps are written to; other processes than the first write nothing."""
        return self.record.steps(after=self.step) if self.record else contextlib.nullcontext(ignore)

    def _save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        if not self.ranks.first:
            return
        self._check_weights()
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "precision": self.learner.precision,
            "scaler": self.learner.scaler.state_dict(),
            "configuration": to_yaml(self.configuration),
            "store_fingerprint": self.store.fingerprint,
        }
        keep = self.configuration.logging.keep
        save_checkpoint(self.folder / "checkpoints", self.step, content, keep=keep)
        self.saved = self.step

    def _restore(self) -> None:
        """Take up the newest checkpoint, if recipe and cohort are the same."""
        if self._was_killed_before_its_first_checkpoint():
            return
        content, self.damaged = load_checkpoint(self.folder)
        if not same_run(content["configuration"], self.configuration):
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
        self.learner.optimizer.load_state_dict(content["optimizer"])
        # What auto meant when the run began: another speed today must not change the numbers.
        self.learner.compute_in(content.get("precision", "float32"))
        self.learner.scaler.load_state_dict(content.get("scaler", {}))
        self.step = self.saved = content["step"]

    def _was_killed_before_its_first_checkpoint(self) -> bool:
        """Say whether the folder is that of a run like this one which never came to save."""
        written = self.folder / "config.yaml"
        if not self.folder.exists() or all(x.name.startswith(".") for x in self.folder.iterdir()):
            return True  # the first launch of a job that is always started with --resume
        if any(self.folder.glob("checkpoints/step-*.pt")) or not written.is_file():
            return False
        # The first checksum stands before its checkpoint; two are of checkpoints that were lost.
        if len([*self.folder.glob("checkpoints/step-*.sha256")]) > 1:
            return False
        return same_run(written.read_text(encoding="utf-8", errors="replace"), self.configuration)

    def _not_finite(self, what: str, value: float, *, after: bool = False) -> str:
        """Explain what to do about a loss, gradient or weights that are not finite."""
        last = max((self.folder / "checkpoints").glob("step-*.pt"), default=None)
        kept = f"The last good checkpoint is {last}." if last else "No checkpoint was written yet."
        when = f"after step {self.step}" if after else f"of step {self.step + 1}"
        return (
            f"the {what} {when} is {value}; the run in {self.folder} stops. "
            f"{kept} Try a smaller optimization.learning_rate or a larger "
            "optimization.warmup_epochs, and look for extreme values in the store."
        )


def _number(value: Tensor | None) -> float:
    """Return a term of the loss as a number, NaN where it was not computed."""
    return math.nan if value is None else float(value.detach())
