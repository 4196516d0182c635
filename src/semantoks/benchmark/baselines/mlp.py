"""A multilayer perceptron on the series of the ROIs: a network that needs no pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.readout import Scans
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.trained_predictions import trained_predictions
from semantoks.evaluation.window_model import WindowModel, WindowTraining
from semantoks.evaluation.window_training import take_scans

MLP_TRAINING: Final = WindowTraining(learning_rate=1e-3)
"""As fine-tuning, but at a rate for weights that start from nothing."""


class RoiMlp(WindowModel):
    """Reads a window ROI by ROI, then all ROIs together.

    The series of every ROI goes through the same linear layer; what comes out of all of them is
    joined and goes through one hidden layer: Linear(time -> roi_dim), GELU, flatten, LayerNorm,
    dropout, Linear(roi * roi_dim -> hidden_dim), GELU, dropout, Linear(hidden_dim -> output).

    Examples
    --------
    >>> import torch
    >>> mlp = RoiMlp(200, 100, 2)
    >>> mlp(torch.zeros(3, 200, 100), np.ones((3, 200), dtype=bool)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        rois: int,
        window: int,
        n_outputs: int,
        *,
        roi_dim: int = 16,
        hidden_dim: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(window, hidden_dim)
        self.each = nn.Sequential(nn.Linear(window, roi_dim), nn.GELU())
        self.all = nn.Sequential(
            nn.Flatten(),
            nn.LayerNorm(rois * roi_dim),
            nn.Dropout(dropout),
            nn.Linear(rois * roi_dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, n_outputs),
        )

    def forward(
        self, series: Float[Tensor, "batch roi time"], valid: NDArray[np.bool_]
    ) -> Float[Tensor, "batch output"]:
        """Read windows."""
        outputs: Tensor = self.all(self.each(series))
        return outputs

    def rates(self, learning_rate: float) -> list[dict[str, Any]]:
        """Let all layers learn at the same rate."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]


def mlp_predictions(
    store: Store,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    rows: NDArray[np.intp] | None = None,
    window: int = 100,
    settings: WindowTraining = MLP_TRAINING,
    roi_dim: int = 16,
    hidden_dim: int = 128,
    dropout: float = 0.5,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train a perceptron in every split and predict its test part.

    Trained, chosen on validation and averaged over windows as fine-tuning is.
    """
    if min(window, roi_dim, hidden_dim) < 1 or not 0 <= dropout < 1:
        raise ConfigurationError(
            f"a perceptron on windows of {window} samples with {roi_dim} numbers a ROI, "
            f"{hidden_dim} hidden ones and a dropout of {dropout} is not possible."
        )

    def name(scan: int) -> str:
        return repr(store.scans["scan"].iloc[scan])

    def build(n_outputs: int) -> WindowModel:
        return RoiMlp(
            len(store.atlas),
            window,
            n_outputs,
            roi_dim=roi_dim,
            hidden_dim=hidden_dim,
            dropout=dropout,
        )

    scans = Scans(store.lengths, store.valid, store.windows, name)
    return trained_predictions(
        build,
        scans if rows is None else take_scans(scans, rows),
        truth,
        splits,
        kind=kind,
        subjects=subjects,
        settings=settings,
        device=device,
        progress=progress,
    )
