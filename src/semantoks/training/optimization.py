"""Schedules as functions of the optimizer step, and the optimizer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from semantoks.training.config import ObjectiveConfig, OptimizationConfig


class Schedule(NamedTuple):
    """What changes from step to step.

    Parameters
    ----------
    learning_rate : float
        Of AdamW.
    weight_decay : float
        Of AdamW, on every parameter.
    momentum : float
        Of the teacher.
    curriculum : float
        Share of the network-summary term that is left.
    """

    learning_rate: float
    weight_decay: float
    momentum: float
    curriculum: float


def cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine.

    Parameters
    ----------
    start, end : float
        Value at the beginning and at the end.
    share : float
        How much of the way lies behind, between 0 and 1.

    Returns
    -------
    float
        Value at that point.

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
    """Look up all schedules at an optimizer step.

    Parameters
    ----------
    step : int
        Number of optimizer steps done, 0 for the first.
    steps : int
        Optimizer steps of the whole run.
    steps_an_epoch : int
        Optimizer steps of an epoch.
    batch_size : int
        Scans a step: the learning rate is given for 256.
    optimization : OptimizationConfig
        Rates and decays.
    objective : ObjectiveConfig
        Curriculum of the network-summary term.

    Returns
    -------
    Schedule
        Values for this step.
    """
    peak = optimization.learning_rate * batch_size / 256
    warmup = min(optimization.warmup_epochs * steps_an_epoch, steps)
    if step < warmup:
        rate = peak * step / warmup
    else:
        rate = cosine(peak, 0.0, (step - warmup) / max(steps - warmup, 1))
    share = step / steps
    decay = cosine(optimization.weight_decay, optimization.weight_decay_end, share)
    momentum = cosine(optimization.teacher_momentum, 1.0, share)
    return Schedule(rate, decay, momentum, _curriculum(step, steps, objective))


def _curriculum(step: int, steps: int, objective: ObjectiveConfig) -> float:
    """Return the share of the network-summary term that is left."""
    if objective.summary_schedule == "constant":
        return 1.0
    fading = objective.summary_share * steps
    return cosine(1.0, 0.0, step / fading) if step < fading else 0.0


def make_optimizer(module: nn.Module, optimization: OptimizationConfig) -> torch.optim.AdamW:
    """Make AdamW over all trainable parameters, decay on biases and norms included.

    Parameters
    ----------
    module : Module
        What is trained.
    optimization : OptimizationConfig
        Betas; rates are set at every step.

    Returns
    -------
    AdamW
        The optimizer.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=0.0, betas=optimization.betas, fused=True)


def optimizer_step(
    optimizer: torch.optim.AdamW,
    now: Schedule,
    *,
    clip: float,
    scaler: torch.amp.GradScaler | None = None,
) -> float:
    """Clip the gradient, set rates, step, and clear the gradient.

    Parameters
    ----------
    optimizer : AdamW
        Holds parameters with gradients.
    now : Schedule
        Rates of this step.
    clip : float
        Largest global L2 norm of the gradient.
    scaler : GradScaler, optional
        What the loss was scaled with, in fp16; a step whose gradient overflowed is left out.

    Returns
    -------
    float
        Norm of the gradient before clipping.
    """
    (group,) = optimizer.param_groups
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(group["params"], clip)
    group["lr"] = now.learning_rate
    group["weight_decay"] = now.weight_decay
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
