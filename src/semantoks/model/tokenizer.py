"""One token a network and patch: (batch, roi, time) -> (batch, network, patch, dim)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semantoks.data.atlas import Atlas
from semantoks.model.layers import LongConvolution


class NetworkTokenizer(nn.Module):
    """Read one patch of one network as one vector.

    token = LayerNorm(mean over time of GELU([dense(x), project(long(x))])): a dense convolution
    over all ROIs of the network beside long convolutions of every ROI on its own.

    Parameters
    ----------
    rois : int
        Number of ROIs of the network.
    dim : int
        Width of the token, even; each branch gives half of it.
    kernel_size : int
        Taps of the dense convolution, odd.
    """

    def __init__(self, rois: int, dim: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        half = dim // 2
        kernels = math.ceil(half / rois)
        self.dense = nn.Conv1d(rois, half, kernel_size, padding="same")
        self.long = LongConvolution(rois, kernels)
        self.project = nn.Linear(rois * kernels, half)
        self.norm = nn.LayerNorm(dim)

    def forward(self, patches: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch dim"]:
        """Read every patch on its own.

        Parameters
        ----------
        patches : Tensor of shape (batch, roi, time)
            Patches; what lies beyond their edges counts as zero.

        Returns
        -------
        Tensor of shape (batch, dim)
            One token a patch.
        """
        # Long convolution and projection are both linear: as one dense convolution they need no
        # depthwise pass and no (roi * kernel, time) array in between.
        long = self.long.weight()
        mixing = self.project.weight.view(-1, long.shape[1], long.shape[0])
        weight = torch.einsum("ock,kct->oct", mixing, long)
        padded = F.pad(patches, self.long.padding)
        structured = F.conv1d(padded, weight, self.project.bias)
        both = torch.cat([self.dense(patches), structured], dim=1)
        token: Tensor = self.norm(F.gelu(both).mean(dim=-1))
        return token


class SemanticTokenizer(nn.Module):
    """Turn windows into a lattice of tokens, one a network and patch.

    Parameters
    ----------
    atlas : Atlas
        Which ROI belongs to which network.
    dim : int
        Width of a token, even.
    patch : int
        Samples a patch.
    """

    def __init__(self, atlas: Atlas, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.networks = nn.ModuleList(NetworkTokenizer(size, dim) for size in atlas.network_sizes)
        # A network's ROIs need not stand together: gathered once, every network is a slice.
        order = torch.cat([torch.as_tensor(indices) for indices in atlas.network_indices])
        self.sizes = list(atlas.network_sizes)
        self.sorted = bool((order == torch.arange(len(order))).all())
        self.order: Tensor
        self.register_buffer("order", order, persistent=False)

    def forward(
        self, series: Float[Tensor, "batch roi time"]
    ) -> Float[Tensor, "batch network patch dim"]:
        """Read windows.

        Parameters
        ----------
        series : Tensor of shape (batch, roi, time)
            Standardized windows; time is a multiple of the patch.

        Returns
        -------
        Tensor of shape (batch, network, patch, dim)
            Tokens.
        """
        batch, rois, time = series.shape
        if not self.sorted:
            series = series[:, self.order]
        patches = series.view(batch, rois, time // self.patch, self.patch).transpose(1, 2)
        parts = torch.split(patches.reshape(-1, rois, self.patch), self.sizes, dim=1)
        tokens = torch.stack(
            [read(part) for read, part in zip(self.networks, parts, strict=True)], dim=1
        )
        return tokens.view(batch, -1, *tokens.shape[1:]).transpose(1, 2)
