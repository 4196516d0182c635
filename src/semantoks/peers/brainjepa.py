"""Brain-JEPA: a foundation model that predicts the tokens of hidden regions and times.

Z. Dong, R. Li et al., "Brain-JEPA: Brain dynamics foundation model with gradient positioning and
spatiotemporal masking", NeurIPS 2024, arXiv:2409.19407. Written from a description of the method
and of the released code; it reads the released weights. Regions of interest (ROIs) are 50 of Tian
S3, then 400 of Schaefer in 17-network order. Their gradients have no licence and are not included.
Tokens are ordered roi * patches + patch, in encoder, predictor and masks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.model.layers import patch_positions
from semantoks.peers.weights import Card, check_weights


@dataclass(frozen=True)
class BrainJepaConfig:
    """Sizes of a Brain-JEPA model; the defaults are those of the released weights.

    Parameters
    ----------
    rois, frames : int
        Shape of a window of a scan.
    patch : int
        Frames per token.
    gradients : int
        Connectivity gradients per region.
    dim, depth, heads : int
        Width, blocks and attention heads of the encoder; weights do not reveal `heads`.
    predictor_dim, predictor_depth : int
        Width and blocks of the predictor, which has as many heads as the encoder.
    """

    rois: int = 450
    frames: int = 160
    patch: int = 16
    gradients: int = 30
    dim: int = 768
    depth: int = 12
    heads: int = 12
    predictor_dim: int = 384
    predictor_depth: int = 6


SMALL: Final = BrainJepaConfig(dim=384, depth=12, heads=6)
BASE: Final = BrainJepaConfig()
LARGE: Final = BrainJepaConfig(dim=1024, depth=24, heads=16)


class Attention(nn.Module):
    """Self-attention with biases: softmax(q k' / sqrt(dim / heads)) v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigurationError(f"heads must divide the width {dim}, but they are {heads}.")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Mix tokens."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Mix tokens, then dimensions."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class GradientPosition(nn.Module):
    """Brain gradient positioning: the time of a token, then the place of its region.

    position(r, t) = [sin and cos of t, u_r] with U = A gradients + b and
    u = 2 (U - min U) / (max U - min U) - 1, extremes over all regions and channels.
    """

    def __init__(self, dim: int, patches: int, gradients: Float[Tensor, "roi gradient"]) -> None:
        super().__init__()
        if dim % 4:
            raise ConfigurationError(f"the width must be a multiple of 4, but it is {dim}.")
        if not gradients.isfinite().all():
            raise InputError("gradients must be finite, but hold NaN or infinity; correct them.")
        self.gradients: Tensor
        self.register_buffer("gradients", gradients.detach().clone().float(), persistent=False)
        self.time: Tensor
        self.register_buffer("time", patch_positions(patches, dim // 2), persistent=False)
        self.linear = nn.Linear(gradients.shape[1], dim // 2)

    def forward(self) -> Float[Tensor, "token dim"]:
        """Compute the positions of all tokens."""
        u = self.linear(self.gradients)
        u = 2 * (u - u.min()) / (u.max() - u.min()) - 1  # the extremes stay in the graph
        where = u[:, None].expand(-1, len(self.time), -1)
        return torch.cat([self.time.expand(len(u), -1, -1), where], dim=-1).flatten(0, 1)


class Encoder(nn.Module):
    """Context or target encoder: norm(blocks(patch(series) + position))."""

    def __init__(
        self,
        *,
        gradients: Float[Tensor, "roi gradient"],
        frames: int = 160,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
    ) -> None:
        super().__init__()
        if frames % patch:
            raise ConfigurationError(f"{frames} frames must be a multiple of the patch, {patch}.")
        self.shape = (len(gradients), frames)
        self.patch = nn.Linear(patch, dim)  # the same for all regions
        self.position = GradientPosition(dim, frames // patch, gradients)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(_initialise)

    def embed(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch token dim"]:
        """Project patches, without position."""
        if tuple(series.shape[1:]) != self.shape:
            raise InputError(
                f"series must have shape (batch, {self.shape[0]} ROIs, {self.shape[1]} frames), "
                f"but have {tuple(series.shape)}; select regions and frames first."
            )
        patches = series.reshape(*series.shape[:2], -1, self.patch.in_features)
        tokens: Tensor = self.patch(patches).flatten(1, 2)
        return tokens

    def forward(
        self, series: Float[Tensor, "batch roi time"], kept: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Encode all tokens, or only those kept."""
        tokens = self.embed(series) + self.position()
        if kept is not None:
            tokens = take(tokens, kept)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out


class Predictor(nn.Module):
    """Predict target tokens from context tokens.

    x = norm(blocks([W context + position, mask token + position])); prediction = W' x on targets.
    """

    def __init__(
        self,
        *,
        gradients: Float[Tensor, "roi gradient"],
        patches: int = 10,
        encoder_dim: int = 768,
        dim: int = 384,
        depth: int = 6,
        heads: int = 12,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.position = GradientPosition(dim, patches, gradients)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.leave = nn.Linear(dim, encoder_dim)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.apply(_initialise)

    def forward(
        self,
        tokens: Float[Tensor, "batch context encoder_dim"],
        context: Int[Tensor, "batch context"],
        targets: Int[Tensor, "batch target"],
    ) -> Float[Tensor, "batch target encoder_dim"]:
        """Predict the tokens at the target indices, in their order."""
        position = self.position()
        hidden = self.mask_token + position[targets]
        x = torch.cat([self.enter(tokens) + position[context], hidden], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.leave(self.norm(x[:, context.shape[1] :]))
        return out


def _initialise(module: nn.Module) -> None:
    """Draw weights from N(0, .02²); the depth-wise rescaling of I-JEPA is not in effect."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def take(
    tokens: Float[Tensor, "batch token dim"], indices: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen dim"]:
    """Select each scan's tokens by its own indices."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


class Masks(NamedTuple):
    """Token indices of a batch."""

    context: Int[Tensor, "batch context"]
    targets: Int[Tensor, "batch target"]  # cross-ROI, then right, then left; may repeat a token


class _BlockSizes(NamedTuple):
    """Sizes of the blocks, drawn once a batch."""

    roi_rows: int
    roi_columns: int
    observed_rows: int
    observed_columns: int


_ROI_ROWS: Final = (0.45, 0.60)  # α: other regions, same times
_ROI_COLUMNS: Final = (0.20, 0.60)
_OBSERVED: Final = (0.84, 1.0)
_SIDE_ROWS: Final = (0.15, 0.30)  # β and γ: other times, of the hidden and of other regions
_SIDE_COLUMNS: Final = (0.0, 0.40)


def draw_masks(
    batch: int,
    *,
    rois: int = 450,
    patches: int = 10,
    generator: torch.Generator,
    cut: Literal["tail", "random"] = "tail",
    start: Literal["released", "all"] = "released",
) -> Masks:
    """Draw spatiotemporal masks of a batch, cut to a common length; they never overlap.

    `cut` drops the last tokens, as released (few of the last regions stay), or random ones.
    `start` leaves out the last possible column of a block, as released (the last patch is never
    observed), or not. The defaults keep comparisons with the released model exact.
    """
    if batch < 1 or rois < 8 or patches < 5:
        raise InputError(
            "masks need at least 1 scan, 8 regions and 5 patches, but got "
            f"{batch}, {rois} and {patches}; enlarge the batch or the model."
        )
    sizes = _BlockSizes(
        int(rois * _uniform(_ROI_ROWS, generator)),
        int(patches * _uniform(_ROI_COLUMNS, generator)),
        int(rois * _uniform(_OBSERVED, generator)),
        int(patches * _uniform(_OBSERVED, generator)),
    )
    last = 1 if start == "all" else 0
    scans = [_draw_scan(rois, patches, sizes, last, generator) for _ in range(batch)]
    context = _cut([scan[0] for scan in scans], cut, generator)
    # The released check counted regions instead of tokens and never fired.
    if not context.shape[1]:
        raise InputError(
            f"masks must leave context, but a scan of {rois} regions x {patches} patches has "
            "none; draw again or use more regions."
        )
    return Masks(context, _cut([scan[1] for scan in scans], cut, generator))


def _draw_scan(
    rois: int, patches: int, sizes: _BlockSizes, last: int, generator: torch.Generator
) -> tuple[Int[Tensor, "context"], Int[Tensor, "target"]]:
    """Draw context and targets of one scan, before they are cut."""
    all_rows = torch.ones(rois, dtype=torch.bool)
    # 1. Observation block: E x [l, l + w_o).
    observed = _choose(all_rows, sizes.observed_rows, generator)
    left = _integer(patches - sizes.observed_columns + last, generator)
    columns = _span(left, sizes.observed_columns, patches)
    # 2. Cross-ROI target: A x [l + s, l + s + w_a); the context loses the rows A.
    hidden = _choose(all_rows, sizes.roi_rows, generator)
    shift = _integer(sizes.observed_columns - sizes.roi_columns + last, generator)
    targets = [_indices(hidden, _span(left + shift, sizes.roi_columns, patches))]
    # 3. K = E and A, K' = all others; with one row outside E, the released code takes all but A.
    both = observed & hidden
    rest = ~hidden if sizes.observed_rows == rois - 1 else ~both
    # 4. Right, then left: columns of a side, rows of K' and K; the context loses the columns.
    side = math.ceil(patches * _SIDE_COLUMNS[1]) - 1  # the most columns that are drawn: 3 of 10
    for first in (patches - side, 0):
        share = _uniform(_SIDE_ROWS, generator)
        count = int(patches * _uniform(_SIDE_COLUMNS, generator))
        rows = _choose(rest, int(share * int(rest.sum())), generator)
        rows |= _choose(both, int(share * int(both.sum())), generator)
        drawn = _choose(_span(first, side, patches), count, generator)
        targets.append(_indices(rows, drawn))
        columns &= ~drawn
    # 5. The context is what is left of the observation.
    return _indices(observed & ~hidden, columns), torch.cat(targets)


def _cut(
    lists: list[Tensor], cut: Literal["tail", "random"], generator: torch.Generator
) -> Int[Tensor, "batch token"]:
    """Shorten all lists to the shortest, keeping the order."""
    shortest = min(map(len, lists))
    if cut == "tail":
        return torch.stack([indices[:shortest] for indices in lists])
    kept = [torch.randperm(len(i), generator=generator)[:shortest].sort().values for i in lists]
    return torch.stack([i[k] for i, k in zip(lists, kept, strict=True)])


def _uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    share = float(torch.rand((), dtype=torch.float64, generator=generator))
    return limits[0] + (limits[1] - limits[0]) * share


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def _span(first: int, length: int, among: int) -> Bool[Tensor, "among"]:
    numbers = torch.arange(among)
    return (numbers >= first) & (numbers < first + length)


def _choose(
    allowed: Bool[Tensor, "row"], count: int, generator: torch.Generator
) -> Bool[Tensor, "row"]:
    """Mark `count` random ones of those allowed."""
    numbers = allowed.nonzero()[:, 0]
    chosen = torch.zeros_like(allowed)
    chosen[numbers[torch.randperm(len(numbers), generator=generator)[:count]]] = True
    return chosen


def _indices(rows: Bool[Tensor, "roi"], columns: Bool[Tensor, "patch"]) -> Int[Tensor, "token"]:
    """Compute the ascending token indices of rows x columns."""
    return (rows[:, None] & columns).flatten().nonzero()[:, 0]


class Prediction(NamedTuple):
    """Tokens at the target indices, from the predictor and from the target encoder."""

    predicted: Float[Tensor, "batch target dim"]
    targets: Float[Tensor, "batch target dim"]


class BrainJepa(nn.Module):
    """Context encoder, predictor, and target encoder (a moving average of the first)."""

    def __init__(
        self, config: BrainJepaConfig = BASE, *, gradients: Float[Tensor, "roi gradient"]
    ) -> None:
        super().__init__()
        if tuple(gradients.shape) != (config.rois, config.gradients):
            raise InputError(
                f"gradients must have shape ({config.rois} ROIs, {config.gradients}), but have "
                f"{tuple(gradients.shape)}; give those of the model's regions, in their order."
            )
        self.context_encoder = Encoder(
            gradients=gradients,
            frames=config.frames,
            patch=config.patch,
            dim=config.dim,
            depth=config.depth,
            heads=config.heads,
        )
        self.predictor = Predictor(
            gradients=gradients,
            patches=config.frames // config.patch,
            encoder_dim=config.dim,
            dim=config.predictor_dim,
            depth=config.predictor_depth,
            heads=config.heads,
        )
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def forward(self, series: Float[Tensor, "batch roi time"], masks: Masks) -> Prediction:
        """Predict h = LayerNorm(target encoder), which has no gain or bias."""
        tokens = self.context_encoder(series, masks.context)
        predicted = self.predictor(tokens, masks.context, masks.targets)
        with torch.no_grad():
            whole = self.target_encoder(series)
            targets = take(F.layer_norm(whole, whole.shape[-1:]), masks.targets)
        return Prediction(predicted, targets)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder: t <- m t + (1 - m) s."""
        students = self.context_encoder.parameters()
        for target, student in zip(self.target_encoder.parameters(), students, strict=True):
            target.mul_(momentum).add_(student, alpha=1 - momentum)


def jepa_loss(prediction: Prediction) -> Float[Tensor, ""]:
    """Average d² / 2 where |d| < 1, else |d| - 1/2."""
    return F.smooth_l1_loss(prediction.predicted, prediction.targets)


class Collapse(NamedTuple):
    """Signs of a collapse, which normalised targets hide from the loss: both near 1."""

    cosine: Float[Tensor, ""]
    effective_rank: Float[Tensor, ""]


@torch.no_grad()
def collapse(tokens: Float[Tensor, "batch token dim"]) -> Collapse:
    """Compute the mean cosine of tokens within scans, and exp(-Σ p log p), p singular values."""
    count = tokens.shape[1]
    squares = F.normalize(tokens, dim=-1).sum(1).square().sum(-1)
    values = torch.linalg.svdvals(tokens.flatten(0, 1))
    rank = torch.special.entr(values / values.sum()).sum().exp()
    return Collapse(((squares - count) / (count * (count - 1))).mean(), rank)


class Schedule(NamedTuple):
    """Values for one optimizer step."""

    learning_rate: float
    weight_decay: float
    momentum: float  # of the target encoder, after the step


def schedule(
    step: int,
    *,
    steps: int,
    warmup: int,
    learning_rate: tuple[float, float, float] = (5e-5, 1e-3, 1e-6),
    weight_decay: tuple[float, float] = (0.04, 0.4),
    momentum: tuple[float, float] = (0.996, 1.0),
    momentum_unit: Literal["step", "micro-batch"] = "step",
    accumulation: int = 8,
) -> Schedule:
    """Compute the schedules at an optimizer step, 1 for the first (300 epochs, 40 of warm-up).

    The learning rate goes from start to peak on a line and to its end on a half cosine; weight
    decay on a half cosine; momentum on a line. The released code counts the length of that line
    in micro-batches, of which a step accumulates several, so that momentum ends at .9965.
    """
    start, peak, end = learning_rate
    if step < warmup:
        rate = start + (peak - start) * step / warmup
    else:
        rate = end + (peak - end) * _half_cosine((step - warmup) / max(steps - warmup, 1))
    decay = weight_decay[1] + (weight_decay[0] - weight_decay[1]) * _half_cosine(step / steps)
    length = steps * (accumulation if momentum_unit == "micro-batch" else 1)
    return Schedule(rate, decay, momentum[0] + (step - 1) * (momentum[1] - momentum[0]) / length)


def _half_cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def make_optimizer(model: BrainJepa) -> torch.optim.AdamW:
    """Make AdamW of context encoder and predictor; the (1, 1, dim) mask token is decayed too."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)


def set_schedule(optimizer: torch.optim.AdamW, now: Schedule) -> None:
    """Set the learning rate, and the weight decay of matrices."""
    matrices, vectors = optimizer.param_groups
    matrices["lr"] = vectors["lr"] = now.learning_rate
    matrices["weight_decay"] = now.weight_decay


def frame_indices(
    scan_frames: int,
    start: float,
    *,
    window: int = 480,
    frames: int = 160,
    short: Literal["error", "repeat"] = "error",
) -> Int[Tensor, "frame"]:
    """Compute floor(start + (window - 1) j / (frames - 1)), the unfiltered frames of a window.

    Training draws `start` from U(0, scan_frames - window): 490 frames of .735 s in UK Biobank.
    Where the scan is short, the released code repeats its last frame.
    """
    offsets = torch.linspace(0, window - 1, frames, dtype=torch.float64)
    indices = (start + offsets).floor().long()
    if start < 0 or (short == "error" and int(indices[-1]) >= scan_frames):
        raise InputError(
            f"a window of {window} frames must lie within the scan of {scan_frames}, but it starts "
            f"at {start:g}; choose another start or short='repeat'."
        )
    return indices.clamp(max=scan_frames - 1)


def standardize_matrix(
    series: Float[Tensor, "*batch roi time"],
) -> Float[Tensor, "*batch roi time"]:
    """Standardize by one mean and deviation (n - 1) per scan, not per region: downstream."""
    deviation, mean = torch.std_mean(series, dim=(-2, -1), keepdim=True)
    return (series - mean) / deviation


def robust_scale(
    series: Float[Tensor, "*batch roi time"], scan_means: Float[Tensor, "scan roi"]
) -> Float[Tensor, "*batch roi time"]:
    """Scale regions by median and interquartile range of a cohort's scan means: pretraining.

    The paper scales across participants; the code takes scan *means*, so baselines stay in.
    """
    low, median, high = (scan_means.quantile(q, dim=0)[:, None] for q in (0.25, 0.5, 0.75))
    if not (high > low).all():
        raise InputError("scan means must vary in every region, but do not; give more scans.")
    return (series - median) / (high - low)


class BrainJepaFeatures(nn.Module):
    """Features of a window: the mean of the encoder's tokens."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch dim"]:
        """Average all tokens."""
        tokens: Tensor = self.encoder(series)
        return tokens.mean(1)


def normalise_features(features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Normalise features, as `fc_norm` of the released code does when untrained."""
    return F.layer_norm(features, features.shape[-1:], eps=1e-6)


def make_linear_probe(dim: int, outputs: int) -> nn.Sequential:
    """Make the linear probe of normalised features: batch norm without affine, linear."""
    linear = nn.Linear(dim, outputs)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(dim, affine=False, eps=1e-6), linear)


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling, which trains the linear probe.

    Matrices: g <- g + wd p, then g <- g trust |p| / |g| (factor 1 where a norm is 0).
    All: mu <- momentum mu + g, p <- p - lr mu.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        if closure is not None:
            raise ConfigurationError("Lars takes no closure; compute gradients before the step.")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad
                if p.ndim > 1:
                    g = g + group["weight_decay"] * p
                    norms = p.norm(), g.norm()
                    factor = group["trust"] * norms[0] / norms[1]
                    g = g * factor.where((norms[0] > 0) & (norms[1] > 0), torch.ones_like(factor))
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                p.sub_(group["lr"] * state["mu"].mul_(group["momentum"]).add_(g))


_PARTS: Final = {  # released: ours
    "encoder": "context_encoder",
    "predictor": "predictor",
    "target_encoder": "target_encoder",
}
_ENCODER_NAMES: Final = {  # ours: released
    "patch.": "patch_embed.proj.",
    "position.linear.": "pos_embed_proj.predictor_pos_embed_proj.",  # the encoder's all the same
    "position.time": "pos_embed_proj.emb_h",
}
_PREDICTOR_NAMES: Final = {
    "enter.": "predictor_embed.",
    "position.linear.": "predictor_2dpe_proj.predictor_pos_embed_proj.",
    "position.time": "predictor_2dpe_proj.emb_h",
    "blocks.": "predictor_blocks.",
    "norm.": "predictor_norm.",
    "leave.": "predictor_proj.",
}
_BLOCK_NAMES: Final = {
    ".attention.qkv.": ".attn.qkv.",
    ".attention.out.": ".attn.proj.",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.2.": ".mlp.fc2.",
}


CARD: Final = Card(
    title="Brain-JEPA",
    paper="Dong, Li et al., NeurIPS 2024, arXiv:2409.19407",
    licence="none: neither code nor weights carry one; ask the authors before you publish them",
    atlas="50 regions of Tian S3, then 400 of Schaefer in 17-network order",
    repetition_time=2.214,
    frames=160,
    scaling="one mean and one standard deviation over the whole matrix of a scan",
    asks=("config", "gradients"),
)


def load(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> BrainJepaFeatures:
    """Take the target encoder of a released checkpoint; its gradients must come with it."""
    if coordinates is not None:
        raise ConfigurationError("Brain-JEPA knows no coordinates; it asks for gradients.")
    if gradients is None:
        raise ConfigurationError(
            f"{where} carries no gradients of its regions; give them by the keyword gradients, "
            "shape (roi, 30), in the order of the regions."
        )
    parts = _parts(found, where)
    model = BrainJepa(_sizes(parts, gradients, config, where), gradients=gradients)
    for part, ours in _PARTS.items():
        _fill(model.get_submodule(ours), parts[part], f"{part!r} of {where}")
    return BrainJepaFeatures(model.target_encoder.requires_grad_(True)).eval()


def _parts(found: Mapping[str, Any], where: str) -> Mapping[str, Mapping[str, Tensor]]:
    """Check that a checkpoint has the three networks."""
    missing = [part for part in _PARTS if not isinstance(found.get(part), Mapping)]
    if missing:
        raise InputError(
            f"{where} must hold {', '.join(_PARTS)}, but has no {', '.join(missing)}; give a "
            "checkpoint of Brain-JEPA."
        )
    return found


def _sizes(
    parts: Mapping[str, Mapping[str, Tensor]],
    gradients: Tensor,
    config: Mapping[str, Any] | None,
    where: str,
) -> BrainJepaConfig:
    """Read the sizes from the shapes; only the number of heads is not in them."""
    encoder, predictor = parts["encoder"], parts["predictor"]
    wanted = {"patch_embed.proj.weight": 4, "pos_embed_proj.emb_h": 2}
    for name, axes in wanted.items():
        value = encoder.get("module." + name)
        if not isinstance(value, Tensor) or value.ndim != axes:
            raise InputError(
                f"'encoder' of {where} must hold 'module.{name}' with {axes} axes; give a "
                "checkpoint of Brain-JEPA."
            )
    enter = predictor.get("module.predictor_embed.weight")
    if not isinstance(enter, Tensor) or enter.ndim != 2:
        raise InputError(
            f"'predictor' of {where} must hold 'module.predictor_embed.weight'; give a checkpoint "
            "of Brain-JEPA."
        )
    dim, _, _, patch = encoder["module.patch_embed.proj.weight"].shape
    tokens = len(encoder["module.pos_embed_proj.emb_h"])
    rois, columns = gradients.shape
    if tokens % rois:
        raise InputError(
            f"{where} holds {tokens} tokens, which {rois} regions cannot share; give the gradients "
            "of the regions that it was trained on."
        )
    heads = (config or {}).get("num_heads", dim // 64 if dim % 64 == 0 else None)
    if not isinstance(heads, int) or heads < 1:
        raise ConfigurationError(
            f"the number of attention heads of {where} cannot be told from its shapes (width "
            f"{dim}); give config={{'num_heads': …}}."
        )
    return BrainJepaConfig(
        rois=rois,
        frames=tokens // rois * patch,
        patch=patch,
        gradients=columns,
        dim=dim,
        depth=_depth(encoder, "module.blocks."),
        heads=heads,
        predictor_dim=len(enter),
        predictor_depth=_depth(predictor, "module.predictor_blocks."),
    )


def _depth(found: Mapping[str, Tensor], prefix: str) -> int:
    """Count the blocks."""
    return len({name.removeprefix(prefix).split(".")[0] for name in found if prefix in name})


def _released_name(ours: str, names: Mapping[str, str]) -> str:
    """Translate the name of one of our tensors."""
    if ours.startswith("blocks."):
        for mine, theirs in _BLOCK_NAMES.items():
            ours = ours.replace(mine, theirs)
    for mine, theirs in names.items():
        if ours.startswith(mine):
            return "module." + theirs + ours.removeprefix(mine)
    return "module." + ours


def _fill(network: nn.Module, found: Mapping[str, Any], where: str) -> None:
    """Check names, shapes and values of released tensors, and copy them."""
    names = _ENCODER_NAMES if isinstance(network, Encoder) else _PREDICTOR_NAMES
    wanted = {_released_name(k, names): v for k, v in network.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    position = network.get_submodule("position")
    code = position.get_buffer("time").repeat(len(position.get_buffer("gradients")), 1)
    clock = _released_name("position.time", names)
    shapes[clock] = tuple(code.shape)
    if isinstance(network, Encoder):  # released as a convolution over (roi, time)
        dim, patch = network.patch.weight.shape
        shapes[_released_name("patch.weight", names)] = (dim, 1, 1, patch)
    check_weights(found, shapes, where=where, family="Brain-JEPA")
    for name, value in wanted.items():
        value.copy_(found[name].view_as(value))
    # The moving average changes the target encoder's copy by rounding only.
    if not torch.allclose(found[clock].float(), code, rtol=0, atol=1e-4):
        raise InputError(
            f"{where} must have sines and cosines of the patch in {clock!r}, but has another code "
            "of time; give weights trained with the published positions."
        )
