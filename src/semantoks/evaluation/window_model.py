"""Networks that read windows, and how they are trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.errors import ConfigurationError
from semantoks.evaluation.target_coding import ClassWeight
from semantoks.training.config import ViewsConfig
from semantoks.training.precision import Precision

TRAINING_VIEWS: Final = ViewsConfig(roi_dropout=0.0)
"""Augmentation of a training window: that of pretraining, but all ROIs stay."""


class WindowTraining(NamedTuple):
    """How a network is trained on windows."""

    learning_rate: float = 1e-4
    epochs: int = 50
    patience: int | None = None
    batch_size: int = 16
    weight_decay: float = 0.05
    clip: float = 1.0
    windows: int = 8
    class_weight: ClassWeight = "none"
    views: ViewsConfig = TRAINING_VIEWS
    precision: Precision = "float32"
    seed: int = 0


class WindowModel(nn.Module, ABC):
    """What turns windows into outputs and says how fast its parts learn."""

    def __init__(self, window: int, dim: int) -> None:
        super().__init__()
        self.window, self.dim = window, dim

    @abstractmethod
    def forward(
        self, series: Float[Tensor, "batch roi time"], valid: NDArray[np.bool_]
    ) -> Float[Tensor, "batch output"]:
        """Read windows."""

    @abstractmethod
    def rates(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group parameters by how fast they learn."""


def check_training(settings: WindowTraining) -> None:
    """Refuse settings that cannot be trained with."""
    for name in ("epochs", "batch_size", "windows"):
        if getattr(settings, name) < 1:
            raise ConfigurationError(f"{name} is {getattr(settings, name)}; at least 1 is needed.")
    for name in ("learning_rate", "clip"):
        if not 0 < getattr(settings, name) < math.inf:
            raise ConfigurationError(f"{name} is {getattr(settings, name)}; it must be positive.")
    if settings.weight_decay < 0:
        raise ConfigurationError(f"weight_decay is {settings.weight_decay}; 0 is the least.")
    if settings.patience is not None and settings.patience < 1:
        raise ConfigurationError(f"patience is {settings.patience}; at least 1 is needed, or None.")
