"""Pretraining: draw, compare, step, log, save."""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.files import replacing
from semantoks.model.checkpoint import save_encoder
from semantoks.model.provenance import hash_subjects
from semantoks.objective.distillation import LossTerms
from semantoks.training.batches import WEIGHTS, Batch, Batches, mix
from semantoks.training.config import Configuration, paper, to_yaml
from semantoks.training.events import Progress, check_tensorboard, ignore, tensorboard
from semantoks.training.monitoring import Health, examine
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step, schedule
from semantoks.training.plan import choose_device, make_model, make_plan
from semantoks.training.precision import autocast, choose_precision, kept_memory
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
        dim = configuration.model.dim
        self.precision = choose_precision(configuration.precision, self.device, dim=dim)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(configuration.seed, WEIGHTS))
            self.model = make_model(store, configuration).to(self.device)
        self.optimizer = make_optimizer(self.model.student, configuration.optimization)
        self.batches = Batches(store, configuration, self.plan, self.model.student.encoder)
        self.health_windows, self.health_mask = self.batches.health_windows()
        self.step = 0
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
        folder.mkdir(parents=True, exist_ok=resume)
        with replacing(folder / "config.yaml") as path:
            path.write_text(to_yaml(configuration), encoding="utf-8")
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
        if self.step == self.plan.steps and (self.folder / "model").exists():
            return Run(self.folder, self.step, self.plan.steps, "finished", self.seconds_before)
        self._describe("running", 0.0)
        if self.step == 0:
            self._look_at_health()
        with graceful_stop() as stopped, self._events() as events, kept_memory(self.device):
            for batch in self.batches.after(self.step):
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

    def _train(self, batch: Batch, began: float) -> Progress:
        """Do one optimizer step and move the teacher."""
        now = self._schedule()
        with autocast(self.precision, self.device):
            terms: LossTerms = self.model(
                batch.views, batch.masks, curriculum=now.curriculum, absent=batch.absent
            )
        total = float(terms.total.detach())
        if not math.isfinite(total):
            raise InputError(self._not_finite(total))
        torch.autograd.backward(self.scaler.scale(terms.total))
        clip = self.configuration.optimization.clip
        norm = optimizer_step(self.optimizer, now, clip=clip, scaler=self.scaler)
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
        found = examine(self.model, self.health_windows, self.health_mask)
        epoch = self.step // max(self.plan.steps_an_epoch, 1)
        row = {"step": self.step, "epoch": epoch, **found._asdict()}
        self.health.write({name: _rounded(value) for name, value in row.items()})

    def _save(self) -> Path:
        """Write a checkpoint of everything that the next step depends on."""
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision,
            "scaler": self.scaler.state_dict(),
            "configuration": to_yaml(self.configuration),
            "store_fingerprint": self.store.fingerprint,
        }
        keep = self.configuration.logging.keep
        return save_checkpoint(self.folder / "checkpoints", self.step, content, keep=keep)

    def _restore(self) -> None:
        """Take up the newest checkpoint, if recipe and cohort are the same."""
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
        self.optimizer.load_state_dict(content["optimizer"])
        # What auto meant when the run began: another speed today must not change the numbers.
        self.precision = content.get("precision", "float32")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.scaler.load_state_dict(content.get("scaler", {}))
        self.step = content["step"]
        described = read_json(self.folder / "run.json")
        self.started = described.get("started", self.started)
        self.seconds_before = described.get("seconds", 0.0)

    def _save_model(self) -> None:
        """Write the teacher's encoder."""
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
            "precision": self.precision,
            "parameters": parameters,
            "versions": versions(),
        }

    def _describe(self, status: str, seconds: float) -> None:
        """Write run.json."""
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
        if self.configuration.logging.tensorboard:
            return tensorboard(self.folder / "tensorboard")
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
