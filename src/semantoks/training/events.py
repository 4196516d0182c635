"""What is told to whom while a run goes on: progress, and TensorBoard if it was asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from semantoks.errors import ConfigurationError


class Progress(NamedTuple):
    """One logged step."""

    step: int
    steps: int
    epoch: int
    learning_rate: float
    weight_decay: float
    momentum: float
    summary_weight: float
    masked: bool
    total: float
    compression: float
    expansion: float
    token: float
    summary: float
    gradient_norm: float
    seconds: float


def check_tensorboard() -> None:
    """Refuse to promise TensorBoard where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            "logging.tensorboard needs an extra: pip install 'semantoks[tensorboard]'."
        )


@contextlib.contextmanager
def tensorboard(folder: Path, *, after: int = 0) -> Iterator[Callable[[Progress], None]]:
    """Open an event file for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=after + 1) as writer:

        def write(row: Progress) -> None:
            for name, value in row._asdict().items():
                if not math.isnan(value):
                    writer.add_scalar(name, value, row.step)

        yield write


def ignore(row: Progress) -> None:
    """Listen to nothing."""
