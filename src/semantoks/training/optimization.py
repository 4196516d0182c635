"""Schedules as functions of the optimizer step, and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import nn

from semantoks.objective.prototypes import teacher_temperature
from semantoks.training.config import ObjectiveConfig, OptimizationConfig


class Schedule(NamedTuple):
    """What changes from step to step."""

    learning_rate: float
    weight_decay: float
    momentum: float
    curriculum: float
    temperature: float = 0.07  # of the teacher's prototypes
    frozen: bool = False  # whether prototypes stay as they began


def cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine.

    Examples
    --------
    >>> cosine(1.0, 0.0, 0.5)
    0.5
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def schedule(
    step: int,
    *,
    steps: int,
    steps_an_epoch: int,
    batch_size: int,
    optimization: OptimizationConfig,
    objective: ObjectiveConfig,
) -> Schedule:
    """Look up all schedules at an optimizer step."""
    peak = optimization.learning_rate * batch_size / 256
    warmup = min(optimization.warmup_epochs * steps_an_epoch, steps)
    if step < warmup:
        rate = peak * step / warmup
    else:
        rate = cosine(peak, 0.0, (step - warmup) / max(steps - warmup, 1))
    share = step / steps
    decay = cosine(optimization.weight_decay, optimization.weight_decay_end, share)
    momentum = cosine(optimization.teacher_momentum, 1.0, share)
    epoch = step / steps_an_epoch
    temperature = teacher_temperature(
        # DINO and iBOT look the temperature up once an epoch, DINOv2 every step.
        step if objective.kind == "dinov2" else math.floor(epoch),
        start=objective.temperature_start,
        end=objective.temperature,
        length=objective.temperature_epochs * (steps_an_epoch if objective.kind == "dinov2" else 1),
    )
    return Schedule(
        rate,
        decay,
        momentum,
        _curriculum(step, steps, objective),
        temperature,
        frozen=epoch < objective.frozen_epochs,
    )


def _curriculum(step: int, steps: int, objective: ObjectiveConfig) -> float:
    """Return the share of the network-summary term that is left."""
    if objective.summary_schedule == "constant":
        return 1.0
    fading = objective.summary_share * steps
    return cosine(1.0, 0.0, step / fading) if step < fading else 0.0


def make_optimizer(module: nn.Module, optimization: OptimizationConfig) -> torch.optim.AdamW:
    """Make AdamW over all trainable parameters, decay on biases and norms included."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=0.0, betas=optimization.betas, fused=True)


def optimizer_step(
    optimizer: torch.optim.AdamW,
    now: Schedule,
    *,
    clip: float,
    scaler: torch.amp.GradScaler | None = None,
    frozen: Mapping[nn.Parameter, Literal["gradient", "rate"]] = MappingProxyType({}),
) -> float:
    """Clip the gradient, set rates, step, and clear the gradient.

    What is frozen loses its gradient, or learns at a rate of 0, at which moments build up.
    """
    (group,) = optimizer.param_groups
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(group["params"], clip)
    group["lr"] = now.learning_rate
    group["weight_decay"] = now.weight_decay
    for parameter, how in frozen.items():
        if how == "gradient":
            parameter.grad = None
    kept = {parameter: parameter.detach().clone() for parameter in frozen}
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    with torch.no_grad():
        for parameter, before in kept.items():
            parameter.copy_(before)
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
