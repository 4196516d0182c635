"""What learns: student, teacher and optimizer on a device, a step at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from semantoks.errors import InputError
from semantoks.objective.distillation import LossTerms
from semantoks.training.batches import WEIGHTS, Batch, Batches, mix
from semantoks.training.config import Configuration
from semantoks.training.distributed import ALONE, Ranks
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step, schedule
from semantoks.training.plan import choose_device, make_model, make_plan
from semantoks.training.precision import Precision, autocast, choose_precision

if TYPE_CHECKING:
    from semantoks.data.store import Store


class Learner:
    """Student, teacher and optimizer for a cohort; it knows no files."""

    def __init__(self, store: Store, configuration: Configuration, ranks: Ranks = ALONE) -> None:
        self.configuration, self.ranks = configuration, ranks
        self.plan = make_plan(store, configuration)
        self.device = choose_device(ranks.device(configuration.device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(configuration.seed, WEIGHTS))
            self.model = make_model(store, configuration).to(self.device)
        self.optimizer = make_optimizer(self.model.student, configuration.optimization)
        chosen = choose_precision(configuration.precision, self.device, dim=configuration.model.dim)
        # Processes may measure differently; all compute in what all find faster.
        self.compute_in("float32" if ranks.any(chosen == "float32") else chosen)
        self.batches = Batches(store, configuration, self.plan, self.model.student.encoder, ranks)

    def compute_in(self, precision: Precision) -> None:
        """Choose the precision of matrix products."""
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def schedule(self, step: int) -> Schedule:
        """Look up the schedules."""
        return schedule(
            step,
            steps=self.plan.steps,
            steps_an_epoch=self.plan.steps_an_epoch,
            batch_size=self.plan.batch_size,
            optimization=self.configuration.optimization,
            objective=self.configuration.objective,
        )

    def compare(self, batch: Batch, now: Schedule) -> LossTerms:
        """Compare student and teacher."""
        with _room(self.device), autocast(self.precision, self.device):
            terms: LossTerms = self.model(
                batch.views,
                batch.masks,
                curriculum=now.curriculum,
                absent=batch.absent,
                share=batch.share,
                temperature=now.temperature,
            )
        return terms

    def improve(self, terms: LossTerms, now: Schedule) -> float:
        """Do one optimizer step and move the teacher."""
        with _room(self.device):
            torch.autograd.backward(self.scaler.scale(terms.total))
            self.ranks.sum_gradients(self.model.student.parameters())
            clip = self.configuration.optimization.clip
            frozen = self.model.frozen() if now.frozen else {}
            norm = optimizer_step(self.optimizer, now, clip=clip, scaler=self.scaler, frozen=frozen)
            self.model.update_teacher(now.momentum)
        return norm


@contextlib.contextmanager
def _room(device: torch.device) -> Iterator[None]:
    """Say what to do where a step does not fit into the memory of the device."""
    try:
        yield
    except RuntimeError as error:
        # Only CUDA has a class of its own for it; a CPU and an Apple GPU say it in words.
        if not any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise
        raise InputError(
            f"a step does not fit into the memory of {device} ({str(error).splitlines()[0]}). "
            "Share every batch among more GPUs (--devices), set a smaller optimization.batch_size, "
            "try --precision bf16, or leave the series in the store (views.residence=stream)."
        ) from error
