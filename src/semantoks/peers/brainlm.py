"""BrainLM: a masked autoencoder of recordings, as pictures or as patches of regions.

J. Ortega Caro, A. H. de Oliveira Fonseca et al., "BrainLM: A foundation model for brain activity
recordings", ICLR 2024. Written from a description of the method and of the released code; it reads
the released weights. Two models carry the name: one sees a recording as a picture of 424 rows
(111M, 650M), the other as patches of regions with their places (13M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.model.layers import patch_positions
from semantoks.peers.weights import Card, check_weights

CARD: Final = Card(
    title="BrainLM",
    paper="Ortega Caro, Fonseca et al., ICLR 2024",
    licence="code Apache-2.0; weights CC BY-NC-ND 4.0: not for commerce, no converted copies in "
    "public",
    atlas="424 regions of A424; as a picture, its rows by y from back to front",
    repetition_time=0.735,
    frames=200,
    scaling="every region minus its median, over its interquartile range, of its own scan (the "
    "statistics of the cohort are not released); as a picture, divided by 5.6430855 as well",
    asks=("config", "coordinates"),
)
PICTURE_SCALE: Final = 5.6430855
_PADDING: Final = -1.0
_EPS: Final = 1e-12


class Attention(nn.Module):
    """Self-attention; with taps, each head adds a convolution of its values along the tokens."""

    def __init__(self, dim: int, heads: int, taps: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigurationError(f"{heads} attention heads must divide the width {dim}.")
        self.heads, self.taps = heads, taps
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        if taps:
            self.conv = nn.Conv1d(heads, heads, taps, padding=taps // 2, groups=heads, bias=False)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Mix tokens."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        if self.taps:
            # One dimension: in two, PyTorch 2.13 computes a wrong gradient of the taps on CPUs.
            channels = v.permute(0, 3, 1, 2).flatten(0, 1)
            mixed = mixed + self.conv(channels).view(len(v), -1, *v.shape[1:3]).permute(0, 2, 3, 1)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Transformer block, with its norms before its parts (no taps) or behind them."""

    def __init__(self, dim: int, heads: int, hidden: int, taps: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(dim, eps=_EPS)
        self.attention = Attention(dim, heads, taps)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Mix tokens, then dimensions."""
        if self.attention.taps:
            x = self.norm1(x + self.attention(x))
            after: Tensor = self.norm2(x + self.mlp(x))
            return after
        x = x + self.attention(self.norm1(x))
        before: Tensor = x + self.mlp(self.norm2(x))
        return before


class Stack(NamedTuple):
    """Sizes of an encoder or a decoder."""

    dim: int
    depth: int
    heads: int
    hidden: int

    def blocks(self, taps: int = 0) -> nn.ModuleList:
        """Make the blocks."""
        return nn.ModuleList(
            Block(self.dim, self.heads, self.hidden, taps) for _ in range(self.depth)
        )


def _put_back(
    tokens: Float[Tensor, "batch kept dim"],
    kept: Int[Tensor, "batch kept"],
    count: int,
    hidden: Float[Tensor, "1 1 dim"],
) -> Float[Tensor, "batch token dim"]:
    """Put tokens where they were, and a learned vector where they were hidden."""
    places = kept[..., None].expand(-1, -1, tokens.shape[-1])
    return hidden.to(tokens.dtype).expand(len(tokens), count, -1).scatter(1, places, tokens)


def _take(
    tokens: Float[Tensor, "batch token dim"], kept: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch kept dim"]:
    """Select each scan's tokens by its own indices."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


class Reconstruction(NamedTuple):
    """What was guessed of a scan, and what of it counts."""

    guess: Float[Tensor, "batch roi time"]
    hidden: Bool[Tensor, "batch roi time"]

    def loss(
        self,
        series: Float[Tensor, "batch roi time"],
        *,
        kind: Literal["squared", "absolute"] = "squared",
        target: Literal["raw", "standardized"] = "raw",
    ) -> Float[Tensor, ""]:
        """Average the error over what was hidden; a standardized target is so by region."""
        wanted = series
        if target == "standardized":
            mean, variance = series.mean(-1, keepdim=True), series.var(-1, keepdim=True)
            wanted = (series - mean) / (variance + 1e-6).sqrt()
        error = self.guess - wanted
        error = error.square() if kind == "squared" else error.abs()
        return (error * self.hidden).sum() / self.hidden.sum()


class Picture(nn.Module):
    """Recording as a picture of (region, time), padded to a square; patches are tokens."""

    def __init__(
        self,
        *,
        encoder: Stack = Stack(768, 12, 12, 3072),  # noqa: B008
        decoder: Stack = Stack(512, 8, 16, 2048),  # noqa: B008
        patch: int = 16,
        size: int = 432,
        rois: int = 424,
        frames: int = 200,
    ) -> None:
        super().__init__()
        if size % patch or (size - rois) % 2 or (size - frames) % 2:
            raise ConfigurationError(
                f"a picture of {size} must be a multiple of the patch {patch}, and leave an even "
                f"rest around {rois} regions and {frames} frames."
            )
        self.rois, self.frames, self.patch_size, self.side = rois, frames, patch, size // patch
        self.above, self.left = (size - rois) // 2, (size - frames) // 2
        self.cls = nn.Parameter(torch.randn(1, 1, encoder.dim) * 0.02)
        self.patch = nn.Conv2d(3, encoder.dim, patch, patch)
        self.blocks = encoder.blocks()
        self.norm = nn.LayerNorm(encoder.dim, eps=_EPS)
        self.hidden = nn.Parameter(torch.randn(1, 1, decoder.dim) * 0.02)
        self.enter = nn.Linear(encoder.dim, decoder.dim)
        self.decoder_blocks = decoder.blocks()
        self.decoder_norm = nn.LayerNorm(decoder.dim, eps=_EPS)
        self.leave = nn.Linear(decoder.dim, 3 * patch * patch)
        self.position: Tensor
        self.decoder_position: Tensor
        for name, dim in (("position", encoder.dim), ("decoder_position", decoder.dim)):
            self.register_buffer(name, square_positions(self.side, dim), persistent=False)
        self.apply(_initialise)

    def embed(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch token dim"]:
        """Pad, and project patches; the three channels of a picture are the same."""
        if series.shape[1:] != (self.rois, self.frames):
            raise InputError(
                f"series must have shape (batch, {self.rois} ROIs, {self.frames} frames), but have "
                f"{tuple(series.shape)}; order the regions and resample first."
            )
        around = (self.left, self.left, self.above, self.above)
        picture = F.pad(series, around, value=_PADDING)[:, None]
        weight = self.patch.weight.sum(1, keepdim=True)
        return F.conv2d(picture, weight, self.patch.bias, self.patch_size).flatten(2).mT

    def encode(
        self, series: Float[Tensor, "batch roi time"], kept: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Encode [CLS] and all tokens, or those kept."""
        tokens = self.embed(series) + self.position
        tokens = tokens if kept is None else _take(tokens, kept)
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def forward(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch dim"]:
        """Compute [CLS] of the whole picture; nothing is hidden."""
        return self.encode(series)[:, 0]

    def reconstruct(
        self, series: Float[Tensor, "batch roi time"], kept: Int[Tensor, "batch kept"]
    ) -> Reconstruction:
        """Guess the picture from the tokens that were kept."""
        latent = self.enter(self.encode(series, kept))
        tokens = _put_back(latent[:, 1:], kept, self.side**2, self.hidden)
        x = torch.cat([latent[:, :1], tokens + self.decoder_position], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        x = self.leave(self.decoder_norm(x))[:, 1:]
        side, patch = self.side, self.patch_size
        pixels = x.unflatten(-1, (patch, patch, 3)).mean(-1).unflatten(1, (side, side))
        picture = pixels.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
        hidden = torch.ones(len(x), side * side, dtype=torch.bool, device=x.device)
        hidden = hidden.scatter(1, kept, torch.zeros_like(kept, dtype=torch.bool))
        grid = hidden.view(-1, side, side)
        spread = grid.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        rows = slice(self.above, self.above + self.rois)
        columns = slice(self.left, self.left + self.frames)
        return Reconstruction(picture[:, rows, columns], spread[:, rows, columns])

    def forecast(
        self, series: Float[Tensor, "batch roi time"], kind: ForecastKind, share: float
    ) -> Reconstruction:
        """Guess the last part of the frames from those before it."""
        columns, zeroed = forecast_columns(
            kind, share, frames=self.frames, left=self.left, patch=self.patch_size
        )
        last = -(-(self.frames + self.left) // self.patch_size)  # behind the last patch of frames
        column = torch.arange(self.side**2, device=series.device) % self.side
        kept = ((column < last - columns) | (column >= last)).nonzero()[:, 0]
        first = self.patch_size * (last - columns) - self.left
        silent = slice(max(first - zeroed, 0), first)
        cut = series.clone()
        cut[..., silent] = 0
        made = self.reconstruct(cut, kept.expand(len(series), -1))
        hidden = made.hidden.clone()
        hidden[..., silent] = True
        return Reconstruction(made.guess, hidden)


ForecastKind = Literal["predict_last", "predict_last_pixel"]


def forecast_columns(
    kind: ForecastKind, share: float, *, frames: int, left: int, patch: int
) -> tuple[int, int]:
    """Count the token columns to hide, and the frames before them to set to 0."""
    end = frames + left
    ceiling = patch * math.ceil(end / patch)
    count = int(frames * share)
    columns, rest = divmod(ceiling - (end - count), patch)
    if rest and kind == "predict_last":
        columns += 1
    pixel = kind == "predict_last_pixel" and rest
    return columns, count - (end - (ceiling - patch * columns)) if pixel else 0


def square_positions(side: int, dim: int) -> Float[Tensor, "token dim"]:
    """Make the fixed code of a grid: of a token's column, then of its row."""
    code = patch_positions(side, dim // 2)
    columns, rows = code.repeat(side, 1), code.repeat_interleave(side, 0)
    return torch.cat([columns, rows], dim=-1)


class Regions(nn.Module):
    """Recording as patches of regions; a token knows its time and the place of its region."""

    def __init__(
        self,
        *,
        coordinates: Float[Tensor, "roi 3"],
        encoder: Stack = Stack(256, 4, 4, 1024),  # noqa: B008
        decoder: Stack = Stack(256, 2, 4, 1024),  # noqa: B008
        frames: int = 200,
        patch: int = 20,
        taps: int = 65,
        output: Literal["linear", "tanh"] = "linear",
    ) -> None:
        super().__init__()
        if encoder.dim != decoder.dim or frames % patch:
            raise ConfigurationError(
                f"encoder and decoder must be equally wide ({encoder.dim}, {decoder.dim}), and "
                f"{frames} frames a multiple of the patch {patch}."
            )
        dim = encoder.dim
        self.frames, self.patch, self.output = frames, patch, output
        self.coordinates: Tensor
        self.register_buffer("coordinates", coordinates.detach().clone().float(), persistent=False)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.signal, self.place = nn.Linear(patch, dim), nn.Linear(3, dim)
        self.position: Tensor
        code = alternating_positions(frames // patch, dim)
        self.register_buffer("position", code, persistent=False)
        self.blocks = encoder.blocks(taps)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.hidden = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.enter, self.decoder_place = nn.Linear(dim, dim), nn.Linear(3, dim)
        self.decoder_blocks = decoder.blocks(taps)
        self.decoder_norm = nn.LayerNorm(dim, eps=_EPS)
        self.leave1, self.leave2 = nn.Linear(dim, dim // 2), nn.Linear(dim // 2, patch)
        self.drop = nn.Dropout(0.1)
        self.apply(_initialise)

    def embed(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch token dim"]:
        """Project patches and places, without time."""
        wanted = (len(self.coordinates), self.frames)
        if series.shape[1:] != wanted:
            raise InputError(
                f"series must have shape (batch, {wanted[0]} ROIs, {wanted[1]} frames), but have "
                f"{tuple(series.shape)}; order the regions and resample first."
            )
        patches = series.reshape(*series.shape[:2], -1, self.patch)
        tokens: Tensor = self.signal(patches) + self.place(self.coordinates)[:, None]
        return tokens.flatten(1, 2)

    def encode(
        self, series: Float[Tensor, "batch roi time"], kept: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Encode [CLS] and all tokens, or those kept, in their order."""
        time = self.position.repeat(len(self.coordinates), 1)
        tokens = self.drop(self.embed(series) + time)
        tokens = tokens if kept is None else _take(tokens, kept)
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def forward(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch dim"]:
        """Compute [CLS] of all tokens in their natural order; nothing is hidden."""
        return self.encode(series)[:, 0]

    def reconstruct(
        self, series: Float[Tensor, "batch roi time"], kept: Int[Tensor, "batch kept"]
    ) -> Reconstruction:
        """Guess all patches from the tokens that were kept."""
        rois, patches = len(self.coordinates), self.frames // self.patch
        latent = self.enter(self.encode(series, kept))
        tokens = _put_back(latent[:, 1:], kept, rois * patches, self.hidden)
        place = self.decoder_place(self.coordinates)[:, None] + self.position
        x = torch.cat([latent[:, :1], self.drop(tokens + place.flatten(0, 1))], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        x = self.leave2(F.leaky_relu(self.leave1(self.decoder_norm(x)), 0.1))[:, 1:]
        x = x.tanh() if self.output == "tanh" else x
        hidden = torch.ones(len(x), rois * patches, dtype=torch.bool, device=x.device)
        hidden = hidden.scatter(1, kept, torch.zeros_like(kept, dtype=torch.bool))
        spread = hidden.view(-1, rois, patches).repeat_interleave(self.patch, 2)
        return Reconstruction(x.reshape(len(x), rois, self.frames), spread)


def alternating_positions(count: int, dim: int) -> Float[Tensor, "count dim"]:
    """Make the fixed code of time: sine for even columns, cosine for odd."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def _initialise(module: nn.Module) -> None:
    """Draw weights from N(0, .02²)."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def keep_lowest(noise: Float[Tensor, "batch token"], ratio: float) -> Int[Tensor, "batch kept"]:
    """Keep the ⌊n (1 - ratio)⌋ tokens of the lowest noise, in its order."""
    return noise.argsort(dim=1, stable=True)[:, : int(noise.shape[1] * (1 - ratio))]


def draw_kept(
    batch: int, tokens: int, ratio: float, generator: torch.Generator
) -> Int[Tensor, "batch kept"]:
    """Draw which tokens of every scan are kept."""
    return keep_lowest(torch.rand(batch, tokens, generator=generator), ratio)


def row_order(coordinates: Float[Tensor, "roi 3"]) -> Int[Tensor, "roi"]:
    """Order the rows of a picture by y from back to front, equal ones as they come."""
    return coordinates[:, 1].argsort(stable=True)


def robust_scale(series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch roi time"]:
    """Subtract the median of every region and divide by its interquartile range, of its scan."""
    low, middle, high = (series.quantile(q, dim=-1, keepdim=True) for q in (0.25, 0.5, 0.75))
    spread = high - low
    return torch.where(spread > 0, (series - middle) / spread, 0.0)


def decay_groups(model: nn.Module, weight_decay: float = 0.05) -> list[dict[str, Any]]:
    """Part the weights: biases and norms do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]


def learning_rate(step: int, *, steps: int, warmup: int, peak: float = 1e-3) -> float:
    """Look up the learning rate: a line from 0, then half a cosine to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


_PICTURE_NAMES: Final = {  # ours: released
    "cls": "vit.embeddings.cls_token",
    "patch.": "vit.embeddings.patch_embeddings.projection.",
    "leave.": "decoder.decoder_pred.",
}
_REGION_NAMES: Final = {
    "cls": "vit.embeddings.cls_token",
    "signal.": "vit.embeddings.signal_embedding_projection.",
    "place.": "vit.embeddings.xyz_embedding_projection.",
    "decoder_place.": "decoder.decoder_xyz_projection.",
    "leave1.": "decoder.decoder_pred1.",
    "leave2.": "decoder.decoder_pred2.",
}
_BOTH_NAMES: Final = {
    "blocks.": "vit.encoder.layer.",
    "norm.": "vit.layernorm.",
    "hidden": "decoder.mask_token",
    "enter.": "decoder.decoder_embed.",
    "decoder_blocks.": "decoder.decoder_layers.",
    "decoder_norm.": "decoder.decoder_norm.",
}
_PICTURE_BLOCK: Final = {
    "attention.out.": "attention.output.dense.",
    "attention.": "attention.attention.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "mlp.0.": "intermediate.dense.",
    "mlp.2.": "output.dense.",
}
_REGION_BLOCK: Final = _PICTURE_BLOCK | {
    "attention.": "attention.self.",
    "norm1.": "attention.output.LayerNorm.",
    "norm2.": "output.LayerNorm.",
}


def load(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> Picture | Regions:
    """Take a released model, told by its names; `config` is its config.json."""
    if gradients is not None:
        raise ConfigurationError("BrainLM knows no gradients; leave them out.")
    if config is None:
        raise ConfigurationError(
            f"{where} does not say how many attention heads it has; give its config.json by the "
            "keyword config, or leave that file beside the weights."
        )
    regions = "vit.embeddings.signal_embedding_projection.weight" in found
    model: Picture | Regions
    if regions:
        model = _regions(config, coordinates, where)
    else:
        if coordinates is not None:
            raise ConfigurationError(
                f"{where} is the BrainLM of pictures, which takes its regions by row_order and "
                "knows no coordinates; leave them out."
            )
        model = _picture(config, where)
    state = model.state_dict()
    names = {ours: _released(ours, regions=regions) for ours in state}
    shapes = {theirs: tuple(state[ours].shape) for ours, theirs in names.items()}
    taps = {name: (*shape, 1) for name, shape in shapes.items() if name.endswith(".conv.weight")}
    shapes |= taps  # released as a convolution in two dimensions
    codes = _codes(model, found)
    dead = {name: tuple(found[name].shape) for name in found if regions and _is_dead(name)}
    fixed = {name: tuple(value.shape) for name, value in codes.items()}
    checked = check_weights(found, shapes | fixed | dead, where=where, family="BrainLM")
    for name, code in codes.items():  # those of the file were computed in float32
        if not torch.allclose(checked[name].float(), code, rtol=0, atol=5e-3):
            raise InputError(f"{where} holds another code of positions in {name!r}; copy it again.")
    model.load_state_dict(
        {ours: checked[theirs].view_as(state[ours]) for ours, theirs in names.items()}
    )
    return model.eval()


def _is_dead(name: str) -> bool:
    """Say whether nothing reads a released tensor of the model of regions."""
    return name.startswith("decoder.decoder_pred.")


def _codes(model: Picture | Regions, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Compute the fixed codes that a file repeats."""
    if isinstance(model, Picture):
        codes = {
            "vit.embeddings.position_embeddings": model.position,
            "decoder.decoder_pos_embed": model.decoder_position,
        }
        return {name: F.pad(code, (0, 0, 1, 0))[None] for name, code in codes.items()}
    names = ("vit.embeddings.pos_embedding.pe", "decoder.pos_embedding.pe")
    lengths = [len(found[name]) if isinstance(found.get(name), Tensor) else 0 for name in names]
    dim = model.position.shape[1]
    return {n: alternating_positions(k, dim) for n, k in zip(names, lengths, strict=True)}


def _stacks(config: Mapping[str, Any], where: str) -> tuple[Stack, Stack]:
    """Read the sizes of encoder and decoder."""
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    wanted = [*keys, *(f"decoder_{key}" for key in keys)]
    missing = [key for key in wanted if not isinstance(config.get(key), int)]
    if missing:
        raise ConfigurationError(
            f"the configuration of {where} must give {', '.join(missing)} as whole numbers; give "
            "the config.json of this very file."
        )
    sizes = [int(config[key]) for key in wanted]
    return Stack(*sizes[:4]), Stack(*sizes[4:])


def _picture(config: Mapping[str, Any], where: str) -> Picture:
    encoder, decoder = _stacks(config, where)
    size = config.get("image_size", [432, 432])
    if not isinstance(size, list) or len(set(size)) != 1:
        raise ConfigurationError(
            f"the pictures of {where} must be square, but image_size is {size}."
        )
    return Picture(
        encoder=encoder, decoder=decoder, patch=int(config.get("patch_size", 16)), size=int(size[0])
    )


def _regions(config: Mapping[str, Any], coordinates: Tensor | None, where: str) -> Regions:
    encoder, decoder = _stacks(config, where)
    if coordinates is None or coordinates.ndim != 2 or coordinates.shape[1] != 3:
        raise ConfigurationError(
            f"{where} carries no places of its regions; give them by the keyword coordinates, "
            "shape (roi, 3), in mm, in the order of the regions."
        )
    landmarks = [config.get(key, 64) for key in ("num_landmarks", "segment_means_seq_len")]
    if landmarks[0] != landmarks[1]:
        raise ConfigurationError(
            f"{where} approximates its attention by {landmarks[0]} of {landmarks[1]} landmarks, "
            "which no released model does; this implementation computes it in full."
        )
    return Regions(
        coordinates=coordinates,
        encoder=encoder,
        decoder=decoder,
        frames=int(config.get("num_timepoints_per_voxel", 200)),
        patch=int(config.get("timepoint_patching_size", 20)),
        taps=int(config.get("conv_kernel_size", 65)),
        output="tanh" if config.get("use_tanh_decoder") else "linear",
    )


def _released(name: str, *, regions: bool) -> str:
    """Translate the name of one of our tensors."""
    names = _BOTH_NAMES | (_REGION_NAMES if regions else _PICTURE_NAMES)
    for ours, theirs in names.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    _, _, rest = name.partition(".layer." if ".layer." in name else ".decoder_layers.")
    if not rest:
        return name
    number, _, part = rest.partition(".")
    for ours, theirs in (_REGION_BLOCK if regions else _PICTURE_BLOCK).items():
        if part.startswith(ours):
            part = theirs + part.removeprefix(ours)
            break
    return f"{name.removesuffix(rest)}{number}.{part}"


def named_weights(model: Picture | Regions) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the weights as the released files do."""
    for name, parameter in model.named_parameters():
        yield _released(name, regions=isinstance(model, Regions)), parameter
