"""What a network's tokenizer listens with: dense and long convolutions side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, nearest
from semantoks.model.layers import LongConvolution

_STRICT: Final = {"extra": "forbid"}


@dataclass(frozen=True)
class DenseBranch:
    """Shape of a convolution over all ROIs of a network."""

    kind: Literal["dense"] = "dense"
    kernel_size: int = 3
    width: int | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigurationError(
                f"the kernel of a dense branch must have an odd number of taps, but has "
                f"{self.kernel_size}."
            )

    def build(self, rois: int, width: int) -> nn.Module:
        """Make the branch of one network."""
        return DenseConvolution(rois, width, self.kernel_size)


@dataclass(frozen=True)
class LongBranch:
    """Shape of long structured convolutions of every ROI on its own, mixed linearly."""

    kind: Literal["long"] = "long"
    taps: int = 4
    pieces: int = 3
    decay_min: float = 2.0
    decay_max: float = 2.0
    width: int | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        if min(self.taps, self.pieces, self.decay_min, self.decay_max) <= 0:
            raise ConfigurationError(
                f"taps, pieces and decay of a long branch must be positive, but are {self.taps}, "
                f"{self.pieces} and {self.decay_min} to {self.decay_max}."
            )

    def build(self, rois: int, width: int) -> nn.Module:
        """Make the branch of one network."""
        long = LongConvolution(
            rois,
            math.ceil(width / rois),
            taps=self.taps,
            pieces=self.pieces,
            decay=(self.decay_min, self.decay_max),
        )
        return MixedLongConvolution(long, width)


BranchShape = DenseBranch | LongBranch
REFERENCE_BRANCHES: Final[tuple[BranchShape, ...]] = (DenseBranch(), LongBranch())
"""The branches of the paper: each gives half of a token."""


class DenseConvolution(nn.Conv1d):
    """Convolution over all ROIs of a network, as one matrix product."""

    def __init__(self, rois: int, width: int, kernel_size: int) -> None:
        super().__init__(rois, width, kernel_size, padding="same")

    def forward(
        self, patches: Float[Tensor, "batch roi time"]
    ) -> Float[Tensor, "batch width time"]:
        """Convolve."""
        batch, _, time = patches.shape
        taps = self.weight.shape[-1]
        padded = F.pad(patches.permute(1, 2, 0), (0, 0, (taps - 1) // 2, taps // 2))
        shifted = torch.stack([padded[:, tap : tap + time] for tap in range(taps)], dim=1)
        return _mix(self.weight, self.bias, shifted, (batch, time))


class MixedLongConvolution(nn.Module):
    """Long convolutions of every ROI, then a linear mixture of all of them."""

    def __init__(self, long: LongConvolution, width: int) -> None:
        super().__init__()
        self.long = long
        self.project = nn.Linear(long.gain.numel(), width)

    def forward(
        self, patches: Float[Tensor, "batch roi time"]
    ) -> Float[Tensor, "batch width time"]:
        """Convolve and mix."""
        batch, rois, time = patches.shape
        # A patch is short: as a matrix of (kernel * time, time) a ROI, its convolutions are one
        # batched product whose output already lies as the mixture wants it.
        kernels = self.long.toeplitz(time).view(rois, -1, time)
        heard = torch.bmm(kernels, patches.permute(1, 2, 0))
        return _mix(self.project.weight, self.project.bias, heard, (batch, time))


def _mix(weight: Tensor, bias: Tensor | None, heard: Tensor, size: tuple[int, int]) -> Tensor:
    """Multiply (row, time * batch) by a weight: (batch, width, time), the batch contiguous."""
    batch, time = size
    weight = weight.flatten(1)
    rows = heard.view(weight.shape[1], time * batch)
    mixed = weight @ rows if bias is None else torch.addmm(bias[:, None], weight, rows)
    return mixed.view(len(weight), time, batch).permute(2, 0, 1)


def branch_widths(branches: Sequence[BranchShape], dim: int) -> tuple[int, ...]:
    """Divide a token among branches.

    Examples
    --------
    >>> branch_widths(REFERENCE_BRANCHES, 768)
    (384, 384)
    >>> branch_widths((DenseBranch(width=16), LongBranch()), 64)
    (16, 48)
    """
    free = sum(branch.width is None for branch in branches)
    left = dim - sum(branch.width or 0 for branch in branches)
    share = left // free if free else 0
    found = tuple(share if branch.width is None else branch.width for branch in branches)
    if not branches or min(found) < 1 or sum(found) != dim:
        widths = ", ".join("any" if b.width is None else str(b.width) for b in branches)
        raise ConfigurationError(
            f"the branches of the tokenizer (widths: {widths or 'none'}) cannot fill a token of "
            f"dim = {dim} exactly; choose widths that add up to it."
        )
    return found


def read_branch(content: BranchShape | Mapping[str, Any]) -> BranchShape:
    """Read the shape of a branch.

    Examples
    --------
    >>> read_branch({"kind": "dense", "kernel_size": 5}).kernel_size
    5
    """
    if not isinstance(content, Mapping):
        return content
    kinds: dict[str, type[BranchShape]] = {"dense": DenseBranch, "long": LongBranch}
    kind = kinds.get(str(content.get("kind")))
    if kind is None:
        raise ConfigurationError(
            f"a branch of the tokenizer has kind {content.get('kind')!r}; it must be dense or long."
        )
    known = kind.__dataclass_fields__
    for key in content:
        if key not in known:
            raise ConfigurationError(
                f"a {content['kind']} branch of the tokenizer has no {key!r}.{nearest(key, known)}"
            )
    return kind(**content)
