"""Pretraining: draw, compare, step, log, save."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.files import replacing
from semantoks.model.checkpoint import save_encoder
from semantoks.model.provenance import hash_subjects
from semantoks.training.batches import Batch
from semantoks.training.config import Configuration, paper, to_yaml
from semantoks.training.distributed import ALONE, Ranks, join
from semantoks.training.events import Progress, check_tensorboard, ignore, tensorboard
from semantoks.training.learner import Learner
from semantoks.training.monitoring import Health, Warned, examine, warn
from semantoks.training.precision import kept_memory
from semantoks.training.run import (
    Log,
    graceful_stop,
    load_checkpoint,
    read_json,
    save_checkpoint,
    versions,
    write_json,
)

if TYPE_CHECKING:
    from semantoks.data.store import Store

_LOGGER: Final = logging.getLogger(__name__)
_LOOKS: Final = 4
"""Looks at the health that are remembered: as many as a warning and its first time depend on."""


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
    with join() as ranks:
        recipe = configuration or paper()
        pretraining = Pretraining(store, Path(out), recipe, resume=resume, ranks=ranks)
        return pretraining.run(progress, notify)


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
    ranks : Ranks
        This process among those that train together; the first writes the folder.
    """

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
        self.started = _now()
        self.seconds_before = 0.0
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
        if ranks.first:
            self._open(resume=resume)

    def _open(self, *, resume: bool) -> None:
        """Make the folder, or clean it of what is later than the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=resume)
        with replacing(self.folder / "config.yaml") as path:
            path.write_text(to_yaml(self.configuration), encoding="utf-8")
        for left in (*self.folder.glob(".*.partial"), *self.folder.glob("checkpoints/.*.partial")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()  # a kill tore it
        after = self.saved if resume else None
        columns = [name for name in Progress._fields if name != "steps"]
        self.metrics = Log(self.folder, "metrics", columns, after=after)
        self.health = Log(self.folder, "health", ["step", "epoch", *Health._fields], after=after)
        columns = ["step", "epoch", *Warned._fields]
        self.warnings = Log(self.folder, "warnings", columns, after=after)
        self.looks = self._earlier_looks()
        self.health_views, self.health_mask = self.learner.batches.health_views()

    def run(
        self,
        progress: Callable[[Progress], None] = ignore,
        notify: Callable[[str], None] = _LOGGER.warning,
    ) -> Run:
        """Go through all steps that are left, then save the teacher.

        Parameters
        ----------
        progress : callable
            Called with `Progress` after every step.
        notify : callable
            Called with a sentence when the health of the run gives cause for a warning.

        Returns
        -------
        Run
            How it ended.
        """
        began = time.perf_counter()
        self.notify = notify
        if self.step == self.plan.steps and (self.folder / "model").exists():
            if read_json(self.folder / "run.json")["status"] != "finished":
                self._describe("finished", 0.0)  # killed after the last file but this one
            return Run(self.folder, self.step, self.plan.steps, "finished", self.seconds_before)
        self._describe("running", 0.0)
        if self.saved < 0:
            self._look_at_health()
        with graceful_stop() as stopped, self._events() as events, kept_memory(self.device):
            for batch in self.learner.batches.after(self.step):
                row = self._train(batch, began)
                due = self.step % self.configuration.logging.steps == 0 or self.step == row.steps
                if due and self.ranks.first:
                    self.metrics.write({name: _rounded(v) for name, v in row._asdict().items()})
                    events(row)
                progress(row)
                self._finish_epoch()
                if self.ranks.any(stopped()):  # a signal may reach one process only
                    break
        status = "finished" if self.step == self.plan.steps else "interrupted"
        if self.step > max(self.saved, 0):
            self._save()
        seconds = time.perf_counter() - began
        if status == "finished":
            self._save_model()
        self._describe(status, seconds)
        self.ranks.wait()  # nobody leaves while the first still writes
        return Run(self.folder, self.step, self.plan.steps, status, seconds)

    def _train(self, batch: Batch, began: float) -> Progress:
        """Do one optimizer step and move the teacher."""
        now = self.learner.schedule(self.step)
        terms = self.learner.compare(batch, now)
        total = float(terms.total.detach())
        if not math.isfinite(total):
            raise InputError(self._not_finite(total))
        norm = self.learner.improve(terms, now)
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
        if epoch % self.configuration.logging.health_epochs == 0 or last:
            self._look_at_health()
        if epoch % self.configuration.logging.checkpoint_epochs == 0 and not last:
            self._save()

    def _look_at_health(self) -> None:
        """Examine the model on the same windows as ever and write it down."""
        if not self.ranks.first:
            return
        found = examine(self.model, self.health_views, self.health_mask)
        place = {"step": self.step, "epoch": self.step // max(self.plan.steps_an_epoch, 1)}
        rounded = Health(*map(_rounded, found))  # as a resumed run reads it
        self.health.write(place | rounded._asdict())
        done = self.step / max(self.plan.steps, 1)
        known = {x.kind for x in warn(self.looks, done)}
        self.looks = [*self.looks, rounded][-_LOOKS:]
        for warned in warn(self.looks, done):
            if warned.kind not in known:  # said once, not at every look
                self.warnings.write(place | warned._asdict())
                self.notify(f"Warning, step {self.step}: {warned.message}")

    def _earlier_looks(self) -> list[Health]:
        """Read the last looks at the health before a resume."""
        rows = [[row.get(name) for name in Health._fields] for row in self.health.rows()]
        return [Health(*(math.nan if v is None else v for v in row)) for row in rows][-_LOOKS:]

    def _save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        if not self.ranks.first:
            return
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
        self.learner.optimizer.load_state_dict(content["optimizer"])
        # What auto meant when the run began: another speed today must not change the numbers.
        self.learner.compute_in(content.get("precision", "float32"))
        self.learner.scaler.load_state_dict(content.get("scaler", {}))
        self.step = self.saved = content["step"]
        described = read_json(self.folder / "run.json")
        self.started = described.get("started", self.started)
        self.seconds_before = described.get("seconds", 0.0)

    def _was_killed_before_its_first_checkpoint(self) -> bool:
        """Say whether the folder is that of a run like this one which never came to save."""
        written = self.folder / "config.yaml"
        if any(self.folder.glob("checkpoints/step-*")) or not written.is_file():
            return False
        return written.read_text(encoding="utf-8") == to_yaml(self.configuration)

    def _save_model(self) -> None:
        """Write the teacher's encoder."""
        if not self.ranks.first:
            return
        save_encoder(
            self.model.teacher.encoder,
            self.folder / "model",
            preprocessing=self.store.preprocessing.to_dict(),
            provenance=self._travelling_provenance(),
        )

    def _travelling_provenance(self) -> dict[str, Any]:
        """Say what the run is made of to those who have neither its folder nor its store."""
        provenance = self._provenance()
        del provenance["store"]["path"]
        subjects = self.store.scans["subject"].unique()
        return provenance | {
            "recipe": self.configuration.model_dump(mode="json"),
            "subjects": hash_subjects(subjects, salt=self.store.fingerprint),
        }

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
            "processes": self.ranks.size,
            "precision": self.learner.precision,
            "parameters": parameters,
            "versions": versions(),
        }

    def _describe(self, status: str, seconds: float) -> None:
        """Write run.json."""
        if not self.ranks.first:
            return
        content = {
            "status": status,
            "step": self.step,
            "started": self.started,
            "finished": None if status == "running" else _now(),
            "seconds": round(self.seconds_before + seconds, 1),
        }
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
        if self.configuration.logging.tensorboard and self.ranks.first:
            return tensorboard(self.folder / "tensorboard", after=self.step)
        return contextlib.nullcontext(ignore)


def _now() -> str:
    """Return the time in the form of ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _number(value: Tensor | None) -> float:
    """Return a term of the loss as a number, NaN where it was not computed."""
    return math.nan if value is None else float(value.detach())


def _rounded(value: Any) -> Any:
    """Keep the digits that mean something."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
