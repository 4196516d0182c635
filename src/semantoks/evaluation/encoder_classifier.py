"""An encoder with a linear layer on top, whose layers learn at different speeds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.errors import ConfigurationError
from semantoks.evaluation.readout import FeatureKind, feature_names, read_out
from semantoks.evaluation.window_model import WindowModel
from semantoks.model.encoder import SemantoksEncoder, network_mask

LAYER_DECAY: Final = 0.9
"""How much slower every layer learns than the one after it."""


class EncoderClassifier(WindowModel):
    """An encoder and a linear layer on what is read out of it."""

    def __init__(
        self,
        encoder: SemantoksEncoder,
        n_outputs: int,
        *,
        features: FeatureKind = "mean+cls",
        layer_decay: float = LAYER_DECAY,
    ) -> None:
        super().__init__(encoder.window, encoder.dim)
        self.encoder, self.features, self.layer_decay = encoder, features, layer_decay
        self.head = nn.Linear(len(feature_names(encoder, features)), n_outputs)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, series: Float[Tensor, "batch roi time"], valid: NDArray[np.bool_]
    ) -> Float[Tensor, "batch output"]:
        """Read windows; networks of which a scan has no valid ROI are masked."""
        patches = series.shape[2] // self.encoder.patch
        mask = network_mask(self.encoder.network_valid(valid), patches)
        encoding = self.encoder(series, None if mask is None else mask.to(series.device))
        outputs: Tensor = self.head(read_out(encoding, self.features))
        return outputs

    def rates(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group parameters by layer: the deeper, the slower."""
        depth = len(self.encoder.blocks)
        layers: list[list[nn.Parameter]] = [[] for _ in range(depth + 2)]
        for name, parameter in self.named_parameters():
            layers[_layer_of(name, depth)].append(parameter)
        return [
            {"params": layer, "lr": learning_rate * self.layer_decay ** (depth + 1 - i)}
            for i, layer in enumerate(layers)
        ]


def check_layer_decay(layer_decay: float) -> None:
    """Refuse what is no share."""
    if not 0 < layer_decay <= 1:
        raise ConfigurationError(
            f"layer_decay is {layer_decay!r}; it must be above 0 and at most 1 (all alike)."
        )


def _layer_of(name: str, depth: int) -> int:
    """Return which layer a parameter is in: 0 the tokenizer, 1 the first block, and so on."""
    if name.startswith("encoder.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1 if name.startswith(("encoder.norm.", "head.")) else 0
