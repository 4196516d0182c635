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
    """One logged step.

    Parameters
    ----------
    step, steps : int
        Optimizer steps done, and of the whole run.
    epoch : int
        Epoch that the step belongs to, counted from 1.
    learning_rate, weight_decay, momentum, summary_weight : float
        Schedules at this step; `summary_weight` is the share of the curriculum that is left.
    masked : bool
        Whether the student saw masked windows.
    total, compression, expansion, token, summary : float
        Terms of the loss; NaN where a term was not computed.
    gradient_norm : float
        Before clipping.
    seconds : float
        Since the run (or its last part) began.
    """

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
    """Refuse to promise TensorBoard where it is not installed.

    Raises
    ------
    ConfigurationError
        If TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            "logging.tensorboard needs an extra: pip install 'semantoks[tensorboard]'."
        )


@contextlib.contextmanager
def tensorboard(folder: Path, *, after: int = 0) -> Iterator[Callable[[Progress], None]]:
    """Open an event file for TensorBoard.

    Parameters
    ----------
    folder : Path
        Where the file goes.
    after : int
        Numbers of later steps in older files are not shown: they are written anew.

    Yields
    ------
    callable
        Writes the numbers of a `Progress`.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=after + 1) as writer:

        def write(row: Progress) -> None:
            for name, value in row._asdict().items():
                if not math.isnan(value):
                    writer.add_scalar(name, value, row.step)

        yield write


def ignore(row: Progress) -> None:
    """Listen to nothing.

    Parameters
    ----------
    row : Progress
        One logged step.
    """
