"""Bricks that know nothing of brains: long convolution, attention block, head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, nearest


class LongConvolution(nn.Module):
    """Depthwise convolution with long, structured kernels.

    A kernel is joined from learned pieces. Piece s of S is stretched by 2^max(s - 1, 0) and scaled
    by decay^(S - 1 - s); the whole is divided by the L2 norm that it had at initialisation. In the
    paper: k = concat(4 w₀, 2 w₁, up(w₂)) / |k₀|. The output of channel c and kernel j is
    y = k_jc * x_c + g_jc x_c.
    """

    def __init__(
        self,
        channels: int,
        kernels: int,
        *,
        taps: int = 4,
        pieces: int = 3,
        decay: tuple[float, float] = (2.0, 2.0),
    ) -> None:
        super().__init__()
        self.pieces = nn.ParameterList(
            nn.Parameter(torch.randn(kernels, channels, taps)) for _ in range(pieces)
        )
        self.gain = nn.Parameter(torch.randn(kernels, channels))
        self.scales: Tensor
        powers = torch.arange(pieces - 1, -1, -1, dtype=torch.float32)[:, None, None]
        scales = torch.linspace(*decay, channels)[:, None] ** powers
        self.register_buffer("scales", scales, persistent=False)
        self.norm: Tensor
        self.register_buffer("norm", self._joined().detach().norm(dim=-1, keepdim=True))

    def _joined(self) -> Tensor:
        """Stretch, scale and join the pieces: (kernel, channel, taps)."""
        stretched = [
            piece.repeat_interleave(2 ** max(s - 1, 0), dim=-1) * self.scales[s]
            for s, piece in enumerate(self.pieces)
        ]
        return torch.cat(stretched, dim=-1)

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros to put before and behind a series so that its length stays."""
        taps = self._joined().shape[-1]
        return (taps - 1) // 2, taps // 2

    def weight(self) -> Float[Tensor, "kernel channel taps"]:
        """Return kernel and gain as one correlation kernel."""
        # conv1d correlates, so a true convolution has its taps flipped.
        kernel = (self._joined() / self.norm).flip(-1)
        # Made where it is used: a GPU would have to wait for what is sent.
        taps = torch.arange(kernel.shape[-1], device=kernel.device)
        here = taps == (len(taps) - 1) // 2
        return kernel + self.gain[..., None] * here

    def toeplitz(self, time: int) -> Float[Tensor, "channel kernel time time"]:
        """Return kernel and gain as matrices that convolve a series of a fixed length."""
        weight = self.weight().transpose(0, 1)
        before, _ = self.padding
        # All lags from 1 - time to time - 1 in a row; a matrix is `time` shifts of it.
        left = time - 1 - before
        lags = F.pad(weight, (left, 2 * time - 1 - weight.shape[-1] - left))
        return lags.unfold(-1, time, 1).flip(-2).contiguous()

    def forward(
        self, series: Float[Tensor, "batch channel time"]
    ) -> Float[Tensor, "batch channels_out time"]:
        """Convolve every channel with its kernels."""
        weight = self.weight().transpose(0, 1).flatten(0, 1)[:, None]
        return F.conv1d(F.pad(series, self.padding), weight, groups=series.shape[1])


class _MeanGelu(torch.autograd.Function):
    """Mean over time of GELU, with a gradient that is laid out like the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Average over the middle axis."""
        ctx.save_for_backward(x)
        return F.gelu(x).mean(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Spread the gradient over time."""
        (x,) = ctx.saved_tensors
        # Autograd's own would stride over the batch, value by value.
        share = (gradient.contiguous() / x.shape[1])[:, None].expand_as(x)
        spread: Tensor = torch.ops.aten.gelu_backward(share, x)
        return spread


def mean_gelu(x: Float[Tensor, "batch dim time"]) -> Float[Tensor, "batch dim"]:
    """Average GELU(x) over time."""
    means: Tensor = _MeanGelu.apply(x.permute(1, 2, 0))  # type: ignore[no-untyped-call]
    return means.t()


class LayerScale(nn.Module):
    """A learned gain a dimension, small at first."""

    def __init__(self, dim: int, initial: float = 0.1) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((dim,), initial))

    def forward(
        self, x: Float[Tensor, "*batch dim"], *, onto: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """Scale the last axis and add what it is a correction of."""
        return torch.addcmul(onto, x, self.gain)


class Attention(nn.Module):
    """Self-attention among all tokens of a window."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.heads = dim // head_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        chosen: Int[Tensor, "row"] | None = None,
    ) -> Float[Tensor, "*lattice dim"]:
        """Mix tokens."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = _attend(query, key, value)
        joined = mixed.transpose(1, 2).reshape(batch, tokens, dim)
        out: Tensor = self.out(joined if chosen is None else _choose(joined, chosen))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x + γ₁ attention(norm(x)), then x + γ₂ mlp(norm(x))."""

    def __init__(self, dim: int, head_dim: int, mlp_ratio: int, layer_scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, head_dim)
        self.scale1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim)
        )
        self.scale2 = LayerScale(dim, layer_scale)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        chosen: Int[Tensor, "row"] | None = None,
    ) -> Float[Tensor, "*lattice dim"]:
        """Mix tokens, then dimensions."""
        attended = self.attention(self.norm1(x), chosen)
        x = x if chosen is None else _choose(x, chosen)
        x = self.scale1(attended, onto=x)
        out: Tensor = self.scale2(self.mlp(self.norm2(x)), onto=x)
        return out


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix values of (batch, head, token, dim): softmax(q k / sqrt(dim)) v."""
    if query.device.type == "cpu" and query.dtype != torch.float32:
        # PyTorch's own is four times as slow in half precision on CPUs.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        mixed: Tensor = scores.softmax(-1) @ value
        return mixed
    return F.scaled_dot_product_attention(query, key, value)


def _choose(x: Tensor, places: Tensor) -> Tensor:
    """Take tokens out of (batch, token, dim) by their place among all."""
    return x.flatten(0, 1).index_select(0, places)


class Head(nn.Module):
    """Project onto the unit sphere on which student and teacher are compared."""

    def __init__(
        self, dim: int, *, hidden_dim: int = 1024, output_dim: int = 128, hidden_layers: int = 1
    ) -> None:
        super().__init__()
        widths = [dim, *[hidden_dim] * hidden_layers]
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], output_dim))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch output_dim"]:
        """Project."""
        # In half precision lengths, and with them cosines, would be off by a percent.
        return F.normalize(self.mlp(x).float(), dim=-1)


def patch_positions(patches: int, dim: int) -> Float[Tensor, "patches dim"]:
    """Give the fixed positions of patches: sines, then cosines, of 10000^(-k / (dim/2)) p.

    Examples
    --------
    >>> patch_positions(2, 4)[0]
    tensor([0., 0., 1., 1.])
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(patches, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


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
