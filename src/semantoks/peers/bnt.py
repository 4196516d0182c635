"""Brain Network Transformer: connectivity profiles as tokens, read out over clusters of regions.

X. Kan et al., "Brain Network Transformer", NeurIPS 2022, arXiv:2210.06681. Written from a
description of the method and of the released code; no weights were released.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers.connectivity import correlation
from semantoks.peers.weights import Card, check_weights

FirstCentre = Literal["drawn", "unit"]
"""Length of the first centre: as drawn, as a slip of the released code has it, or 1 as the rest."""

CARD: Final = Card(
    title="Brain Network Transformer (BNT)",
    paper="Kan et al., NeurIPS 2022, arXiv:2210.06681",
    licence="code MIT; no weights were released",
    atlas="any whose number of regions can be divided by 4; published on CC200 and HCP-MMP 360",
    repetition_time=None,
    frames=None,
    scaling="Fisher z of the Ledoit-Wolf shrunk correlation of the whole scan, diagonal 0",
)
HEADS: Final = 4
_HIDDEN: Final = 1024
_BOTTLENECK: Final = 32


class Readout(nn.Module):
    """Pool tokens over clusters: a = softmax((e · c)² / |c|), pooled = aᵀ e."""

    def __init__(self, tokens: int, dim: int, clusters: int, first_centre: FirstCentre) -> None:
        super().__init__()
        if clusters > dim:
            raise ConfigurationError(
                f"{clusters} centres cannot be orthogonal in {dim} dimensions; choose fewer."
            )
        self.encoder = nn.Sequential(
            nn.Linear(tokens * dim, _BOTTLENECK),
            nn.LeakyReLU(),
            nn.Linear(_BOTTLENECK, _BOTTLENECK),
            nn.LeakyReLU(),
            nn.Linear(_BOTTLENECK, tokens * dim),
        )
        drawn = nn.init.xavier_uniform_(torch.empty(clusters, dim))
        self.centres: Tensor
        self.register_buffer("centres", orthogonal_centres(drawn, first_centre))

    def forward(self, tokens: Float[Tensor, "batch roi dim"]) -> Float[Tensor, "batch cluster dim"]:
        """Encode all tokens through a bottleneck, and pool what comes out."""
        encoded = self.encoder(tokens.flatten(1)).unflatten(1, tokens.shape[1:])
        pooled: Tensor = self.assign(encoded).transpose(1, 2) @ encoded
        return pooled

    def assign(self, encoded: Float[Tensor, "batch roi dim"]) -> Float[Tensor, "batch roi cluster"]:
        """Assign encoded tokens to clusters."""
        products = encoded @ self.centres.T
        shares: Tensor = (products.square() / self.centres.norm(dim=1)).softmax(-1)
        return shares


def orthogonal_centres(
    drawn: Float[Tensor, "cluster dim"], first_centre: FirstCentre
) -> Float[Tensor, "cluster dim"]:
    """Make centres orthogonal one after another."""
    rows: list[Tensor] = []
    for row in drawn:
        rest = row.clone()
        for before in rows:
            rest = rest - (row @ before) / (before @ before) * before
        rows.append(rest)
    lengths = torch.stack([row.norm() for row in rows])
    if first_centre == "drawn":
        lengths[0] = 1.0
    return torch.stack(rows) / lengths[:, None]


class BrainNetworkTransformer(nn.Module):
    """Transformer layers over connectivity profiles, the last one pooled, then a small network."""

    def __init__(
        self,
        *,
        rois: int = 200,
        clusters: int = 100,
        layers: int = 2,
        identity: int = 0,
        classes: int = 2,
        dropout: float = 0.1,
        first_centre: FirstCentre = "drawn",
    ) -> None:
        super().__init__()
        dim = rois + identity
        if dim % HEADS:
            raise ConfigurationError(
                f"the width of a token, {rois} regions and {identity} of identity, must be a "
                f"multiple of {HEADS}; set identity to {-rois % HEADS}."
            )
        self.rois = rois
        self.identity = nn.Parameter(torch.empty(rois, identity)) if identity else None
        if self.identity is not None:
            nn.init.kaiming_normal_(self.identity)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, HEADS, _HIDDEN, dropout, batch_first=True)
            for _ in range(layers)
        )
        self.readout = Readout(rois, dim, clusters, first_centre)
        self.reduce = nn.Sequential(nn.Linear(dim, 8), nn.LeakyReLU())
        self.head = nn.Sequential(
            nn.Linear(8 * clusters, 256),
            nn.LeakyReLU(),
            nn.Linear(256, 32),
            nn.LeakyReLU(),
            nn.Linear(32, classes),
        )

    def forward(self, x: Float[Tensor, "batch roi roi"]) -> Float[Tensor, "batch class"]:
        """Classify connectivity."""
        if x.shape[1:] != (self.rois, self.rois):
            raise InputError(
                f"connectivity must have shape (batch, {self.rois}, {self.rois}), but has "
                f"{tuple(x.shape)}; give that of the model's regions."
            )
        tokens = x
        if self.identity is not None:
            tokens = torch.cat([x, self.identity.expand(len(x), -1, -1)], dim=-1)
        for layer in self.layers:
            tokens = layer(tokens)
        logits: Tensor = self.head(self.reduce(self.readout(tokens)).flatten(1))
        return logits


def connectivity(
    series: Float[Tensor, "batch roi time"], kind: Literal["fisher_shrunk", "pearson"]
) -> Float[Tensor, "batch roi roi"]:
    """Compute what the model reads: Fisher z of the shrunk correlation, or Pearson's."""
    if kind == "pearson":
        return correlation(series).float()
    r = correlation(series, shrunk=True)
    same = torch.eye(r.shape[1], dtype=torch.bool, device=r.device)
    return r.masked_fill(same, 0.0).atanh().float()


def mixup(
    x: Float[Tensor, "batch roi roi"],
    targets: Float[Tensor, "batch class"],
    share: float,
    order: Int[Tensor, "batch"],
) -> tuple[Float[Tensor, "batch roi roi"], Float[Tensor, "batch class"]]:
    """Mix every subject with another; share ~ Beta(1, 1) and order are drawn once a batch."""
    return share * x + (1 - share) * x[order], share * targets + (1 - share) * targets[order]


def loss(
    logits: Float[Tensor, "batch class"], targets: Float[Tensor, "batch class"]
) -> Float[Tensor, ""]:
    """Add up the cross-entropies of a batch."""
    return F.cross_entropy(logits, targets, reduction="sum")


def learning_rate(step: int, steps: int, *, high: float = 1e-4, low: float = 1e-5) -> float:
    """Look up the learning rate of a step, the first of which is 1."""
    return low + (high - low) * (1 + math.cos(math.pi * step / steps)) / 2


_NAMES: Final = {  # ours: released
    "identity": "node_identity",
    "layers.": "attention_list.",
    "reduce.": "dim_reduction.",
    "head.": "fc.",
}


def load(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> BrainNetworkTransformer:
    """Take the weights of a released state; all sizes are in its shapes."""
    if gradients is not None or coordinates is not None:
        raise ConfigurationError("BNT knows neither gradients nor coordinates; leave them out.")
    layers = len({name.split(".")[1] for name in found if name.startswith("attention_list.")})
    last = f"attention_list.{layers - 1}."
    centres = found.get(last + "dec.assignment.cluster_centers")
    leave, code = found.get("fc.4.weight"), found.get("node_identity")
    if not isinstance(centres, Tensor) or not isinstance(leave, Tensor) or centres.ndim != 2:
        raise InputError(
            f"{where} does not hold the weights of BNT: its last layer must have cluster centres, "
            "and fc.4.weight must be there. Check the family and the file."
        )
    clusters, dim = centres.shape
    identity = code.shape[-1] if isinstance(code, Tensor) else 0
    model = BrainNetworkTransformer(
        rois=dim - identity,
        clusters=clusters,
        layers=layers,
        identity=identity,
        classes=len(leave),
    )
    state = model.state_dict()
    names = {ours: _released(ours, last) for ours in state}
    shapes = {theirs: tuple(state[ours].shape) for ours, theirs in names.items()}
    # The readout's encoder is in the file twice.
    twins = {k: k.replace(".dec.encoder.", ".encoder.") for k in found if ".dec.encoder." in k}
    for twin, first in twins.items():
        if first not in found or not torch.equal(found[twin], found[first]):
            raise InputError(f"{where} holds {twin!r} that differs from {first!r}; copy it again.")
    kept = {name: value for name, value in found.items() if name not in twins}
    checked = check_weights(kept, shapes, where=where, family="BNT")
    model.load_state_dict({ours: checked[theirs] for ours, theirs in names.items()})
    return model.eval()


def _released(name: str, last: str) -> str:
    """Translate the name of one of our tensors."""
    if name == "readout.centres":
        return last + "dec.assignment.cluster_centers"
    if name.startswith("readout."):
        return last + name.removeprefix("readout.")
    for ours, theirs in _NAMES.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    layer, _, rest = name.partition(".self_attn.")
    if rest:
        return f"{layer}.transformer.self_attn.{rest}"
    for part in (".linear1.", ".linear2.", ".norm1.", ".norm2."):
        name = name.replace(part, f".transformer{part}")
    return name
