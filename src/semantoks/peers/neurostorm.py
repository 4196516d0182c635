"""SwiFT and NeuroSTORM: volumes in windows of space and time, mixed by attention or by a scan.

P. Y. Kim et al., "SwiFT: Swin 4D fMRI Transformer", NeurIPS 2023; C. Wang et al., "Towards a
general-purpose foundation model for fMRI analysis" (NeuroSTORM), 2025; A. Gu and T. Dao, "Mamba",
2023. Written from a description of the methods and of the released code; it reads the released
weights, and names its parts as they do. Volumes are (batch, 1, x, y, z, time); inside, channels
come last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers.weights import Card, check_weights

Mixer = Literal["attention", "scan"]
"""What mixes the tokens of a window: SwiFT's attention or NeuroSTORM's scan."""
Four = tuple[int, int, int, int]

_INPUT: Final = {
    "atlas": "no atlas, but volumes in MNI space at 2 mm, cropped and padded to 96 voxels an axis",
    "repetition_time": 0.8,
    "frames": 20,
    "scaling": "one mean and standard deviation over all foreground voxels and frames of a run, "
    "background at the smallest foreground value (prepare_volume)",
}
CARD: Final = Card(
    title="NeuroSTORM",
    paper="Wang et al. 2025",
    licence="code Apache-2.0 by its licence file, MIT by its card; weights as their card says",
    **_INPUT,  # type: ignore[arg-type]
)
SWIFT_CARD: Final = Card(
    title="SwiFT",
    paper="Kim et al., NeurIPS 2023",
    licence="code Apache-2.0",
    **_INPUT,  # type: ignore[arg-type]
)


class Attention(nn.Module):
    """Attention of the tokens of a window; -100 keeps apart what the roll brought together."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigurationError(f"{heads} attention heads must divide the width {dim}.")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch window token dim"], apart: Tensor | None
    ) -> Float[Tensor, "batch window token dim"]:
        """Mix tokens; `apart` is (window, token, token)."""
        qkv = self.qkv(x).view(*x.shape[:3], 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        mask = None if apart is None else apart[:, None].to(x.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, mask)
        out: Tensor = self.proj(mixed.transpose(2, 3).flatten(3))
        return out


class Mamba(nn.Module):
    """Selective scan: h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t, y_t = h_t C_t + D x_t."""

    def __init__(self, dim: int, *, states: int = 16, taps: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.states, self.rank, self.taps = states, rank, taps
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, taps, groups=inner, padding=taps - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            low, high = math.log(0.001), math.log(0.1)
            step = (torch.rand(inner) * (high - low) + low).exp().clamp(min=1e-4)
            self.dt_proj.bias.copy_(step + (-torch.expm1(-step)).log())  # inverse of softplus

    def forward(self, u: Float[Tensor, "row token dim"]) -> Float[Tensor, "row token dim"]:
        """Mix tokens in one direction, from a state of 0."""
        x, z = self.in_proj(u).chunk(2, -1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]]).mT
        sizes = [self.rank, self.states, self.states]
        r, into, out_of = self.x_proj(x).split(sizes, -1)
        step = F.softplus(self.dt_proj(r))
        y = self.scan(x, step, into, out_of) + self.D * x
        out: Tensor = self.out_proj(y * F.silu(z))
        return out

    def scan(
        self,
        x: Float[Tensor, "row token inner"],
        step: Float[Tensor, "row token inner"],
        into: Float[Tensor, "row token state"],
        out_of: Float[Tensor, "row token state"],
    ) -> Float[Tensor, "row token inner"]:
        """Go through the tokens, over tensors taken apart once; only the states are kept."""
        rates = -self.A_log.exp()
        h = x.new_zeros(len(x), x.shape[2], self.states)
        outputs = []
        apart = (value.unbind(1) for value in (step, step * x, into, out_of))
        for step_t, driven, into_t, out_t in zip(*apart, strict=True):
            h = (step_t[..., None] * rates).exp() * h + driven[..., None] * into_t[:, None]
            outputs.append((h @ out_t[..., None])[..., 0])
        return torch.stack(outputs, 1)


class Mlp(nn.Module):
    """Two layers, four times as wide in between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid dim"]:
        """Mix dimensions."""
        out: Tensor = self.linear2(F.gelu(self.linear1(x)))
        return out


class Block(nn.Module):
    """Pre-norm block over windows: x + mix(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, dim: int, mixer: Mixer, heads: int, window: Four, shifted: bool, prompts: int = 0
    ) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if mixer == "attention":
            self.attn = Attention(dim, heads)
        else:
            self.mamba = Mamba(dim)
        self.mixer = mixer
        self.mlp = Mlp(dim)
        self.prompt = nn.Parameter(torch.zeros(1, prompts, dim)) if prompts else None
        if self.prompt is not None:
            nn.init.trunc_normal_(self.prompt, std=0.02)

    def forward(
        self, x: Float[Tensor, "batch x y z time dim"]
    ) -> Float[Tensor, "batch x y z time dim"]:
        """Mix within windows, then dimensions."""
        x = x + self.mix(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def mix(
        self, x: Float[Tensor, "batch x y z time dim"]
    ) -> Float[Tensor, "batch x y z time dim"]:
        """Pad, roll, cut into windows, mix, and put back."""
        grid = x.shape[1:5]
        window = tuple(min(g, w) for g, w in zip(grid, self.window, strict=True))
        shift = tuple(
            w // 2 if self.shifted and g > w else 0 for g, w in zip(grid, self.window, strict=True)
        )
        pads = [-g % w for g, w in zip(grid, window, strict=True)]
        x = F.pad(x, (0, 0, *(p for pad in reversed(pads) for p in (0, pad))))
        padded = tuple(x.shape[1:5])
        x = x.roll([-s for s in shift], (1, 2, 3, 4))
        rows = cut(x, window)
        if self.mixer == "attention":
            apart = regions(padded, window, shift) if any(shift) else None
            rows = self.attn(rows, None if apart is None else apart.to(rows.device))
        else:
            rows = self._scan(rows)
        x = join(rows, padded, window).roll(list(shift), (1, 2, 3, 4))
        return x[:, : grid[0], : grid[1], : grid[2], : grid[3]]

    def _scan(
        self, rows: Float[Tensor, "batch window token dim"]
    ) -> Float[Tensor, "batch window token dim"]:
        """Scan windows, behind prompts if there are any."""
        flat = rows.flatten(0, 1)
        if self.prompt is None:
            mixed: Tensor = self.mamba(flat)
        else:
            behind = torch.cat([self.prompt.expand(len(flat), -1, -1), flat], dim=1)
            mixed = self.mamba(behind)[:, self.prompt.shape[1] :]
        return mixed.view(rows.shape)


def cut(
    x: Float[Tensor, "batch x y z time dim"], window: Sequence[int]
) -> Float[Tensor, "batch window token dim"]:
    """Cut a grid into windows, x slowest and time fastest in both."""
    counts = [g // w for g, w in zip(x.shape[1:5], window, strict=True)]
    sizes = [n for pair in zip(counts, window, strict=True) for n in pair]
    x = x.reshape(len(x), *sizes, x.shape[-1])
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6, 8, 9).flatten(5, 8).flatten(1, 4)


def join(
    rows: Float[Tensor, "batch window token dim"], grid: Sequence[int], window: Sequence[int]
) -> Float[Tensor, "batch x y z time dim"]:
    """Put windows back into a grid."""
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    x = rows.reshape(len(rows), *counts, *window, rows.shape[-1])
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9).reshape(len(rows), *grid, rows.shape[-1])


@functools.lru_cache(maxsize=64)
def regions(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> Float[Tensor, "window token token"]:
    """Set -100 between tokens that were no neighbours before the roll."""
    label = torch.zeros(1, *grid, 1)
    for axis, (n, w, s) in enumerate(zip(grid, window, shift, strict=True)):
        place = torch.arange(n)
        band = (place >= n - w).float() + (place >= n - s).float() if s else torch.zeros(n)
        shape = [1] * 6
        shape[axis + 1] = n
        label = label * 3 + band.view(shape)
    rows = cut(label, window)[0, :, :, 0]
    return torch.where(rows[:, :, None] == rows[:, None], 0.0, -100.0)


class PatchMerging(nn.Module):
    """Join 8 neighbours in space: twice as wide, an eighth as many."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim)
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch x y z time dim"]
    ) -> Float[Tensor, "batch x2 y2 z2 time dim2"]:
        """Join neighbours."""
        offsets = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in offsets], dim=-1)
        out: Tensor = self.reduction(self.norm(x))
        return out


class PatchExpanding(nn.Module):
    """Part a token into 8 neighbours in space: half as wide."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim, bias=False)
        self.norm = nn.LayerNorm(dim // 2)

    def forward(
        self, x: Float[Tensor, "batch x y z time dim"]
    ) -> Float[Tensor, "batch x2 y2 z2 time half"]:
        """Part tokens."""
        batch, a, b, c, time, dim = x.shape
        x = self.expand(x).view(batch, a, b, c, time, 2, 2, 2, dim // 2)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4, 8).reshape(batch, 2 * a, 2 * b, 2 * c, time, -1)
        out: Tensor = self.norm(x)
        return out


class Stage(nn.Module):
    """Blocks, and then a change of the grid where there is one."""

    def __init__(self, blocks: Sequence[Block], then: nn.Module | None, name: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.then = name
        if then is not None:
            self.add_module(name, then)

    def forward(
        self, x: Float[Tensor, "batch x y z time dim"]
    ) -> Float[Tensor, "batch x2 y2 z2 time dim2"]:
        """Run through the blocks, then change the grid."""
        for block in self.blocks:
            x = block(x)
        then = self._modules.get(self.then)
        return x if then is None else then(x)


class _Patches(nn.Module):
    """Project patches of space."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(patch**3, dim)


class _Positions(nn.Module):
    """Learned positions in space and time."""

    def __init__(self, dim: int, grid: int, frames: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, grid, grid, grid, 1))
        self.time_embed = nn.Parameter(torch.zeros(1, dim, 1, 1, 1, frames))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.time_embed, std=0.02)

    def forward(
        self, x: Float[Tensor, "batch x y z time dim"]
    ) -> Float[Tensor, "batch x y z time dim"]:
        """Add positions; a shorter clip takes the first in time."""
        time = self.time_embed[..., : x.shape[4]]
        return x + (self.pos_embed + time).permute(0, 2, 3, 4, 5, 1)


class Sizes(NamedTuple):
    """Sizes of a model; the defaults are those of the publications."""

    size: int = 96
    frames: int = 20
    patch: int = 6
    dim: int = 36
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: Four = (4, 4, 4, 4)
    first_window: Four = (4, 4, 4, 4)
    last_stage: Literal["whole", "windows"] = "whole"


class VolumeEncoder(nn.Module):
    """Patches of volumes, four stages of windows; a clip is the mean of what comes out."""

    def __init__(self, mixer: Mixer, sizes: Sizes = Sizes(), *, prompts: int = 0) -> None:  # noqa: B008
        super().__init__()
        grid, last = sizes.size // sizes.patch, len(sizes.depths) - 1
        if sizes.size % sizes.patch or grid % 2**last:
            raise ConfigurationError(
                f"a volume of {sizes.size} must be a multiple of the patch {sizes.patch}, and its "
                f"grid of {grid} one of {2**last}, which the stages halve."
            )
        self.sizes = sizes
        self.patch_embed = _Patches(sizes.patch, sizes.dim)
        self.pos_embeds, self.layers = nn.ModuleList(), nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(sizes.depths, sizes.heads, strict=True)):
            dim, side = sizes.dim * 2**i, grid // 2**i
            whole = i == last and sizes.last_stage == "whole"
            window = sizes.first_window if i == 0 else sizes.window
            window = (side, side, side, sizes.window[3]) if whole else window
            blocks = [
                Block(dim, mixer, heads, window, j % 2 == 1 and not whole, prompts)
                for j in range(depth)
            ]
            self.pos_embeds.append(_Positions(dim, side, sizes.frames))
            then = PatchMerging(dim) if i < last else None
            self.layers.append(Stage(blocks, then, "downsample"))

    def patches(
        self, x: Float[Tensor, "batch 1 x y z time"]
    ) -> Float[Tensor, "batch gx gy gz time voxel"]:
        """Cut volumes into patches."""
        side, patch = self.sizes.size, self.sizes.patch
        if x.shape[1:5] != (1, side, side, side) or x.shape[5] > self.sizes.frames:
            raise InputError(
                f"volumes must have shape (batch, 1, {side}, {side}, {side}, up to "
                f"{self.sizes.frames} frames), but have {tuple(x.shape)}; pad or cut them first."
            )
        g = side // patch
        cubes = x[:, 0].reshape(len(x), g, patch, g, patch, g, patch, x.shape[5])
        return cubes.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(5)

    def stages(
        self, tokens: Float[Tensor, "batch x y z time dim"]
    ) -> list[Float[Tensor, "batch x2 y2 z2 time dim2"]]:
        """Run tokens through all stages; what comes out of each."""
        found = []
        for position, stage in zip(self.pos_embeds, self.layers, strict=True):
            tokens = stage(position(tokens))
            found.append(tokens)
        return found

    def forward(self, x: Float[Tensor, "batch 1 x y z time"]) -> Float[Tensor, "batch feature"]:
        """Average the last stage over space and time."""
        return self.stages(self.patch_embed.fc(self.patches(x)))[-1].mean((1, 2, 3, 4))


class VolumeAutoencoder(nn.Module):
    """NeuroSTORM's pretraining: tokens are replaced, and their voxels guessed."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:  # noqa: B008
        super().__init__()
        encoder = VolumeEncoder("scan", sizes)
        self.sizes, self.encoder = sizes, encoder
        self.mask_token = nn.Parameter(torch.zeros(sizes.dim))
        self.window_mask_token = nn.Parameter(torch.zeros(math.prod(sizes.window), sizes.dim))
        self.atlas_mask_token = nn.Parameter(torch.zeros(sizes.dim))
        last = len(sizes.depths) - 1
        self.first_patch_expanding = PatchExpanding(sizes.dim * 2**last)
        self.layers_up = nn.ModuleList()
        for i in reversed(range(last)):
            dim = sizes.dim * 2**i
            blocks = [
                Block(dim, "scan", sizes.heads[i], sizes.window, j % 2 == 1)
                for j in range(sizes.depths[i])
            ]
            self.layers_up.append(Stage(blocks, PatchExpanding(dim) if i else None, "upsample"))
        self.norm_up = nn.LayerNorm(sizes.dim)
        self.decoder_pred = nn.Linear(sizes.dim, sizes.patch**3)

    def hide(
        self,
        tokens: Float[Tensor, "batch x y z time dim"],
        mask: Bool[Tensor, "batch place"],
        kind: Literal["window", "random", "atlas"],
    ) -> tuple[Tensor, Bool[Tensor, "batch x y z time"]]:
        """Replace windows, or single tokens, by learned ones."""
        grid = tokens.shape[1:5]
        if kind == "window":
            rows = mask[:, :, None, None]
            whole = rows.expand(-1, -1, len(self.window_mask_token), 1).float()
            hidden = join(whole, grid, self.sizes.window)[..., 0] > 0
            cubes = cut(tokens, self.sizes.window)
            return join(torch.where(rows, self.window_mask_token, cubes), grid,
                        self.sizes.window), hidden  # fmt: skip
        hidden = mask.view(len(mask), *grid)
        learned = self.mask_token if kind == "random" else self.atlas_mask_token
        return torch.where(hidden[..., None], learned, tokens), hidden

    def forward(
        self,
        x: Float[Tensor, "batch 1 x y z time"],
        mask: Bool[Tensor, "batch place"],
        kind: Literal["window", "random", "atlas"] = "window",
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch x y z time voxel"]]:
        """Compute the mean squared error over hidden patches, and all guesses."""
        patches = self.encoder.patches(x)
        tokens, hidden = self.hide(self.encoder.patch_embed.fc(patches), mask, kind)
        y = self.first_patch_expanding(self.encoder.stages(tokens)[-1])
        for stage in self.layers_up:
            y = stage(y)
        guess = self.decoder_pred(self.norm_up(y))
        error = (guess - patches).square().mean(-1)
        return error[hidden].mean(), guess


def draw_mask(
    batch: int, places: int, ratio: float, generator: torch.Generator
) -> Bool[Tensor, "batch place"]:
    """Hide int(ratio · places) windows or tokens of every clip."""
    rank = torch.rand(batch, places, generator=generator).argsort(1).argsort(1)
    return rank < int(ratio * places)


def draw_atlas_mask(
    labels: Int[Tensor, "x y z"], batch: int, frames: int, ratio: float, generator: torch.Generator
) -> Bool[Tensor, "batch place"]:
    """Hide max(1, int(ratio · regions)) regions of every clip in all frames; 0 is never hidden."""
    known = torch.unique(labels)
    known = known[known > 0]
    count = max(1, int(ratio * len(known)))
    masks = []
    for _ in range(batch):
        chosen = known[torch.randperm(len(known), generator=generator)[:count]]
        masks.append(torch.isin(labels, chosen)[..., None].expand(*labels.shape, frames).flatten())
    return torch.stack(masks)


def redundancy(
    h: Float[Tensor, "window token dim"],
    window: Four,
    *,
    space: int = 5,
    time: int = 5,
) -> Float[Tensor, "window token"]:
    """Score how redundant the tokens of windows are: the chance that training drops them."""
    places = torch.cartesian_prod(*(torch.arange(n, device=h.device) for n in window))
    apart = (places[:, None] - places).abs()
    far = apart[..., :3].amax(-1)
    same = torch.eye(len(places), dtype=torch.bool, device=h.device)
    near = (apart[..., 3] == 0) & (far <= space // 2) & ~same
    before = (far == 0) & (apart[..., 3] <= time // 2) & ~same
    a = (h @ h.mT / h.shape[-1] ** 0.5).softmax(-1)

    def weights(of: Tensor, other: Tensor) -> Tensor:
        strongest = (a * other).amax(-1, keepdim=True)
        share = strongest * a / ((a * of).sum(-1, keepdim=True) + 1e-8)
        weighted: Tensor = share * of.any(-1)[:, None]
        return weighted

    w = (0.5 * (weights(near, before) + weights(before, near))).clamp(0, 1)
    number = (near.sum(-1) + before.sum(-1)).clamp(min=1)
    score: Tensor = (w.sum(-1) / number).clamp(0, 1)
    return score


class ContrastiveHead(nn.Module):
    """SwiFT's projector: linear, batch norm, unit length."""

    def __init__(self, dim: int = 288, output: int = 128) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(dim, output, bias=False), nn.BatchNorm1d(output)

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch output"]:
        """Project features."""
        return F.normalize(self.bn1(self.fc1(x)))


def nt_xent(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Tell each sample's partner among all others."""
    z = F.normalize(torch.cat([first, second]))
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(own, -math.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    return F.cross_entropy(logits, partner)


class Volumes(NamedTuple):
    """A run, ready to be stored."""

    frames: Int8[Tensor, "time x y z"]
    scale: float


def prepare_volume(
    volume: Float[Tensor, "x y z time"],
    zooms: Sequence[float],
    mask: Tensor | None = None,
    *,
    millimetres: float = 2.0,
    seconds: float = 0.8,
    largest: int = 96,
) -> Volumes:
    """Resample, crop, scale and round a run that is in MNI space.

    `zooms` are three voxel sizes in mm and the repetition time in s. Without a mask background is
    what is exactly 0. The anatomy stays in: voxels are not scaled one by one.
    """
    size = [round(n * z / millimetres) for n, z in zip(volume.shape[:3], zooms, strict=False)]
    x = _crop(_resample(volume.permute(3, 0, 1, 2).float(), size), largest)
    frames = max(round(len(x) * float(zooms[3]) / seconds), 1)
    flat = x.flatten(1).T[None]
    x = F.interpolate(flat, frames, mode="linear", align_corners=False)[0].T.view(-1, *x.shape[1:])
    if mask is None:
        background = x == 0
    else:
        inside = _crop(_resample(mask[None].float(), size), largest)
        background = (inside == 0).expand_as(x)
    x = x.masked_fill(background, 0).clamp(min=0)
    values = x[~background].double()
    if len(values) < 2 or values.std() == 0:
        raise InputError("the volume has no foreground that varies; check the file and the mask.")
    x = ((x - values.mean()) / values.std()).float()
    x = x.masked_fill(background, float(x[~background].min()))
    scale = float(x.abs().max()) / 127
    return Volumes((x / scale).round().clamp(-127, 127).to(torch.int8), scale)


def _resample(x: Float[Tensor, "time x y z"], size: Sequence[int]) -> Float[Tensor, "time a b c"]:
    """Resample space, if need be."""
    if list(x.shape[1:]) == list(size):
        return x
    return F.interpolate(x[None], list(size), mode="trilinear", align_corners=False)[0]


def _crop(x: Float[Tensor, "time x y z"], largest: int) -> Float[Tensor, "time a b c"]:
    """Keep the middle of axes that are too long."""
    for axis in (1, 2, 3):
        n = x.shape[axis]
        x = x.narrow(axis, max(n - largest, 0) // 2, min(n, largest))
    return x


def clip(
    volumes: Volumes, start: int, frames: int, size: int = 96
) -> Float[Tensor, "1 x y z time"]:
    """Read a clip, padded by the value of the first voxel."""
    x = volumes.frames[start : start + frames].float() * volumes.scale
    pads = [size - n for n in x.shape[1:]]
    if min(pads) < 0:
        raise InputError(f"frames of {tuple(x.shape[1:])} do not fit into {size} voxels an axis.")
    sides = (side for pad in reversed(pads) for side in (-(-pad // 2), pad // 2))
    return F.pad(x, tuple(sides), value=float(x[0, 0, 0, 0])).permute(1, 2, 3, 0)[None]


def load(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> VolumeEncoder:
    """Take NeuroSTORM's encoder from a released checkpoint of its autoencoder."""
    state, sizes = _read(found, where, config, gradients, coordinates, "mamba", "NeuroSTORM")
    autoencoder = VolumeAutoencoder(sizes)
    shapes = {
        name.removeprefix("encoder."): tuple(value.shape)
        for name, value in autoencoder.state_dict().items()
    }
    token = state.get("mask_token")
    if "window_mask_token" not in state and isinstance(token, Tensor) and token.ndim == 2:
        # Before May 2026 the token of windows had the name of the single one.
        state["window_mask_token"] = state.pop("mask_token")
        del shapes["mask_token"], shapes["atlas_mask_token"]
    return _fill(VolumeEncoder("scan", sizes), state, shapes, where, "NeuroSTORM")


def load_swift(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> VolumeEncoder:
    """Take SwiFT's encoder from a released checkpoint."""
    state, sizes = _read(found, where, config, gradients, coordinates, "attn", "SwiFT")
    model = VolumeEncoder("attention", sizes)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    width = (sizes.dim * 2 ** (len(sizes.depths) - 1),)
    if "norm.weight" in state or "norm.bias" in state:  # nothing reads it
        shapes |= {"norm.weight": width, "norm.bias": width}
    return _fill(model, state, shapes, where, "SwiFT")


def _fill(
    model: VolumeEncoder,
    state: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    where: str,
    family: str,
) -> VolumeEncoder:
    """Check all weights, and take those of the encoder."""
    checked = check_weights(state, shapes, where=where, family=family)
    model.load_state_dict({name: checked[name] for name in model.state_dict()})
    return model.eval()


def _read(
    found: Mapping[str, Any],
    where: str,
    config: Mapping[str, Any] | None,
    gradients: Tensor | None,
    coordinates: Tensor | None,
    mixer: str,
    family: str,
) -> tuple[dict[str, Any], Sizes]:
    """Take the state of the model out of a checkpoint, and read its sizes."""
    if gradients is not None or coordinates is not None:
        raise ConfigurationError(
            f"{family} knows neither gradients nor coordinates; leave them out."
        )
    whole = found.get("state_dict")
    state = {
        name.removeprefix("model."): value
        for name, value in (whole if isinstance(whole, Mapping) else {}).items()
        if not name.startswith("output_head.")
    }
    patch, last = state.get("patch_embed.fc.weight"), 0
    while f"pos_embeds.{last + 1}.pos_embed" in state:
        last += 1
    first = [state.get(f"pos_embeds.0.{name}") for name in ("pos_embed", "time_embed")]
    if not any(f".{mixer}." in name for name in state) or not all(
        isinstance(value, Tensor) for value in (patch, *first)
    ):
        raise InputError(
            f"{where} does not hold the weights of {family} under 'state_dict'; check the family "
            "and the file."
        )
    place, time = (tuple(value.shape) for value in first if isinstance(value, Tensor))
    side = round(patch.shape[1] ** (1 / 3)) if isinstance(patch, Tensor) else 0
    given, plain = dict(config or {}), Sizes()
    window = tuple(given.get("window_size", plain.window))
    whole_stage = given.get("last_layer_full_MSA", True)
    return state, Sizes(
        size=place[2] * side,
        frames=time[5],
        patch=side,
        dim=place[1],
        depths=tuple(_depth(state, i) for i in range(last + 1)),
        heads=tuple(given.get("num_heads", plain.heads)),
        window=(window[0], window[1], window[2], window[3]),
        first_window=tuple(given.get("first_window_size", window)),
        last_stage="whole" if whole_stage else "windows",
    )


def _depth(state: Mapping[str, Any], stage: int) -> int:
    """Count the blocks of a stage."""
    prefix = f"layers.{stage}.blocks."
    return len({name.split(".")[3] for name in state if name.startswith(prefix)})
