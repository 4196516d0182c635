"""One token a network and patch: (batch, roi, time) -> (batch, network, patch, dim)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError
from semantoks.model.layers import REFERENCE_BRANCHES, BranchShape, branch_widths, mean_gelu

Spatial = Literal["networks", "maximal", "minimal"]
"""What a token stands for: a network, every ROI on its own, or the whole brain."""
Tokenization = Literal["semantic", "linear"]
"""How a patch becomes a token: by convolutions, or by one linear projection."""
Pooling = Literal["mean", "max", "attention"]
"""How the samples of a patch become one token."""


class NetworkTokenizer(nn.Module):
    """Read one patch of one network as one vector.

    token = LayerNorm(pool over time of GELU([branch(x) for every branch])); in the paper, the mean
    of a dense convolution over all ROIs of the network beside long convolutions of every ROI on its
    own.
    """

    def __init__(
        self,
        rois: int,
        dim: int,
        *,
        branches: Sequence[BranchShape] = REFERENCE_BRANCHES,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        widths = branch_widths(branches, dim)
        self.branches = nn.ModuleList(
            branch.build(rois, width) for branch, width in zip(branches, widths, strict=True)
        )
        self.pooling = pooling
        self.attention = AttentionPool(dim) if pooling == "attention" else None
        self.norm = nn.LayerNorm(dim)

    def forward(self, patches: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch dim"]:
        """Read every patch on its own."""
        heard = [branch(patches) for branch in self.branches]
        if self.attention is not None:
            pooled: Tensor = self.attention(F.gelu(torch.cat(heard, dim=1)))
        elif self.pooling == "mean":  # pooled before they are joined: 20 times less to copy
            pooled = torch.cat([mean_gelu(x) for x in heard], dim=1)
        else:
            pooled = torch.cat([F.gelu(x).amax(dim=-1) for x in heard], dim=1)
        token: Tensor = self.norm(pooled.float())
        return token


class LinearTokenizer(nn.Module):
    """Project one patch of one network onto one vector: the ablation of the semantic tokenizer."""

    def __init__(self, rois: int, dim: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Linear(rois * patch, dim)

    def forward(self, patches: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch dim"]:
        """Project every patch on its own."""
        token: Tensor = self.project(patches.flatten(1))
        return token


class SemanticTokenizer(nn.Module):
    """Turn windows into a lattice of tokens, one a network and patch."""

    def __init__(
        self,
        atlas: Atlas,
        dim: int,
        patch: int,
        *,
        tokenization: Tokenization = "semantic",
        branches: Sequence[BranchShape] = REFERENCE_BRANCHES,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.patch = patch
        self.networks = nn.ModuleList(
            LinearTokenizer(size, dim, patch)
            if tokenization == "linear"
            else NetworkTokenizer(size, dim, branches=branches, pooling=pooling)
            for size in atlas.network_sizes
        )
        # A network's ROIs need not stand together: gathered once, every network is a slice.
        order = np.concatenate(atlas.network_indices)
        self.sizes = list(atlas.network_sizes)
        self.sorted = bool((np.diff(order) > 0).all())
        self.order: Tensor
        self.register_buffer("order", torch.as_tensor(order), persistent=False)

    def forward(
        self,
        series: Float[Tensor, "batch roi time"],
        hidden: Bool[Tensor, "batch network patch"] | None = None,
    ) -> Float[Tensor, "batch network patch dim"]:
        """Read windows."""
        batch, rois, time = series.shape
        if not self.sorted:
            series = series.index_select(1, self.order)
        lattice = (len(self.networks), batch, time // self.patch)
        # Patches last: every product of the branches then runs over contiguous memory.
        patches = series.view(batch, rois, -1, self.patch).permute(1, 3, 0, 2)
        parts = torch.split(patches.reshape(rois, self.patch, -1), self.sizes)
        if hidden is None:
            tokens = torch.cat(self._read(parts))
        else:
            seen = ~hidden.transpose(0, 1).reshape(len(parts), -1)
            network, patch = seen.nonzero(as_tuple=True)
            shown = torch.split(patch, seen.sum(1).tolist())
            read = self._read([p.index_select(2, i) for p, i in zip(parts, shown, strict=True)])
            known = torch.cat(read)
            tokens = known.new_zeros(seen.numel(), known.shape[-1])
            tokens = tokens.index_copy(0, network * seen.shape[1] + patch, known)
        return tokens.view(*lattice, -1).transpose(0, 1)

    def _read(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Read (roi, time, patch) of every network: (patch, dim) each."""
        return [read(p.permute(2, 0, 1)) for read, p in zip(self.networks, parts, strict=True)]


class RoiTokenizer(nn.Module):
    """Turn windows into a lattice of tokens, one a ROI and patch, by one shared projection."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(patch, dim)

    def forward(
        self,
        series: Float[Tensor, "batch roi time"],
        hidden: Bool[Tensor, "batch roi patch"] | None = None,
    ) -> Float[Tensor, "batch roi patch dim"]:
        """Project every patch of every ROI on its own."""
        batch, rois, time = series.shape
        patches = series.reshape(batch, rois, time // self.patch, self.patch)
        tokens: Tensor = self.project(patches)
        return tokens


class AttentionPool(nn.Module):
    """A weighted mean over the samples of a patch: Σ_t softmax_t(w · x_t) x_t."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # All samples count the same at first; a bias would cancel in the softmax.
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "batch dim time"]) -> Float[Tensor, "batch dim"]:
        """Weigh and average."""
        share = torch.softmax(self.weight @ x, dim=-1)
        return (x * share[:, None]).sum(dim=-1)


def token_atlas(atlas: Atlas, spatial: Spatial) -> Atlas:
    """Group ROIs into what a token stands for.

    Examples
    --------
    >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 1})
    >>> token_atlas(atlas, "maximal").network_names
    ('Vis_1', 'Vis_2', 'Default_1')
    >>> token_atlas(atlas, "minimal").network_sizes
    (3,)
    """
    if spatial == "networks":
        return atlas
    groups = atlas.labels if spatial == "maximal" else ("Brain",) * len(atlas)
    return atlas.with_networks(groups, name=f"{atlas.name} ({spatial})")


def check_tokenization(
    *,
    dim: int,
    spatial: Spatial,
    tokenization: Tokenization,
    pooling: Pooling,
    branches: Sequence[BranchShape],
) -> None:
    """Refuse choices for the tokenizer that do not fit together."""
    if spatial == "maximal" and tokenization != "linear":
        raise ConfigurationError(
            "spatial = maximal gives every ROI its own token by one shared linear projection; set "
            "tokenization = linear too."
        )
    if tokenization == "linear":
        if pooling != "mean" or tuple(branches) != REFERENCE_BRANCHES:
            raise ConfigurationError(
                "tokenization = linear has neither pooling nor branches; leave them as they are."
            )
    else:
        branch_widths(branches, dim)
