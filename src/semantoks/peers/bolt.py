"""BolT: fused windows of samples, each with a summary token, whose fringe grows along the layers.

H. A. Bedel et al., "BolT: Fused window transformers for fMRI time series analysis", Medical Image
Analysis 2023, arXiv:2205.11578. Written from a description of the method and of the released code;
no weights were released. A token is one sample of all regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.peers.weights import Card, check_weights

Right = Literal["masked", "visible"]
"""Samples after the scan: masked as those before it, or visible by a slip of the released code."""

CARD: Final = Card(
    title="BolT",
    paper="Bedel et al., Medical Image Analysis 2023, arXiv:2205.11578",
    licence="code GPL-3.0 (this implementation is independent of it); no weights were released",
    atlas="any; published on Schaefer 400 in 7-network order",
    repetition_time=None,
    frames=None,
    scaling="every region z-scored over the whole scan",
)


def receptive_size(layer: int, *, window: int, fringe: float) -> int:
    """Compute how many samples a window of a layer sees: W + ⌈W · 2 i f · 3/5⌉.

    Examples
    --------
    >>> [receptive_size(layer, window=20, fringe=2) for layer in range(4)]
    [20, 68, 116, 164]
    """
    return window + math.ceil(window * 2 * layer * fringe * (1 - 2 / 5))


class WindowAttention(nn.Module):
    """Attention of the base samples of a window, and its summary, to those around them."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, window: int, receptive: int, dropout: float
    ) -> None:
        super().__init__()
        if (receptive - window) % 2:
            raise ConfigurationError(
                f"a window of {window} samples cannot stand amid {receptive}; choose another "
                "fringe, so that the difference is even."
            )
        inner = heads * head_dim
        self.heads, self.window, self.receptive, self.dropout = heads, window, receptive, dropout
        self.q, self.kv = nn.Linear(dim, inner), nn.Linear(dim, 2 * inner)
        self.proj = nn.Linear(inner, dim)
        shapes = {
            "table": (window + receptive - 1, heads),
            "up": (1, heads, 1, receptive),
            "down": (1, heads, window, 1),
            "self_bias": (1, heads, 1, 1),
        }
        for name, shape in shapes.items():
            drawn = nn.init.trunc_normal_(torch.empty(shape), std=0.02)
            self.register_parameter(name, nn.Parameter(drawn))
        self.table: Tensor
        self.up: Tensor
        self.down: Tensor
        self.self_bias: Tensor

    def bias(self) -> Float[Tensor, "head query key"]:
        """Put the four pieces of position together: summary first, then samples."""
        base = torch.arange(self.window)[:, None]
        samples = self.table[base - torch.arange(self.receptive) + self.receptive - 1]
        upper = torch.cat([self.self_bias[0], self.up[0]], dim=-1)
        lower = torch.cat([self.down[0], samples.permute(2, 0, 1)], dim=-1)
        return torch.cat([upper, lower], dim=-2)

    def forward(
        self,
        tokens: Float[Tensor, "batch padded dim"],
        summaries: Float[Tensor, "batch window dim"],
        hidden: Tensor,
        shift: int,
    ) -> Float[Tensor, "batch window query dim"]:
        """Mix; tokens are padded by the fringe on both sides, `hidden` is (window, receptive)."""
        fringe = (self.receptive - self.window) // 2
        base = tokens[:, fringe : tokens.shape[1] - fringe]
        query = self._windows(self.q(base), self.q(summaries), self.window, shift)
        ours, theirs = self.kv(tokens).chunk(2, -1), self.kv(summaries).chunk(2, -1)
        key, value = (
            self._windows(x, c, self.receptive, shift) for x, c in zip(ours, theirs, strict=True)
        )
        never = F.pad(hidden, (1, 0))[:, None, None]  # a summary is always seen
        mask = self.bias().masked_fill(never, -math.inf)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        out: Tensor = self.proj(mixed.transpose(2, 3).flatten(3))
        return out

    def _windows(
        self, tokens: Tensor, summaries: Tensor, size: int, shift: int
    ) -> Float[Tensor, "batch window head token head_dim"]:
        """Cut windows and put their summaries before them."""
        cut = tokens.unfold(1, size, shift).transpose(2, 3)
        joined = torch.cat([summaries[:, :, None], cut], dim=2)
        return joined.view(*joined.shape[:3], self.heads, -1).transpose(2, 3)


class Layer(nn.Module):
    """Window attention, fused over windows, then a network of two layers; both pre-norm."""

    def __init__(self, dim: int, mlp_ratio: float, dropout: float, **sizes: int) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.attn_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, dropout=dropout, **sizes)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        summaries: Float[Tensor, "batch window dim"],
        shift: int,
        right: Right,
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch window dim"]]:
        """Update samples and summaries."""
        window, receptive = self.attention.window, self.attention.receptive
        fringe, length = (receptive - window) // 2, x.shape[1]
        starts = shift * torch.arange(summaries.shape[1], device=x.device)[:, None]
        seen = starts - fringe + torch.arange(receptive, device=x.device)
        hidden = seen < 0
        if right == "masked":
            hidden = hidden | (seen >= length)
        padded = self.attn_norm(F.pad(x, (0, 0, fringe, fringe)))
        change = self.drop(self.attention(padded, self.attn_norm(summaries), hidden, shift))
        at = (starts + torch.arange(window, device=x.device)).flatten()
        total = torch.zeros_like(x).index_add(1, at, change[:, :, 1:].flatten(1, 2))
        x = x + total / torch.bincount(at, minlength=length)[:, None]
        summaries = summaries + change[:, :, 0]
        return x + self.mlp(self.mlp_norm(x)), summaries + self.mlp(self.mlp_norm(summaries))


class Output(NamedTuple):
    """What a model says of scans."""

    logits: Float[Tensor, "batch class"]
    summaries: Float[Tensor, "batch window dim"]  # after the last norm


class BolT(nn.Module):
    """Layers of fused windows; the class is read from the mean of the summaries."""

    def __init__(
        self,
        *,
        rois: int = 400,
        classes: int = 2,
        layers: int = 4,
        heads: int = 36,
        head_dim: int = 20,
        window: int = 20,
        shift: int | None = None,
        fringe: float = 2.0,
        mlp_ratio: float = 1.0,
        dropout: float = 0.1,
        right: Right = "masked",
        receptive: Sequence[int] | None = None,  # of every layer; replaces layers and fringe
    ) -> None:
        super().__init__()
        self.rois, self.window, self.right = rois, window, right
        self.shift = int(window * 2 / 5) if shift is None else shift
        if not 1 <= self.shift <= window:
            raise ConfigurationError(
                f"windows of {window} samples must be shifted by 1 to {window}, but shift is "
                f"{self.shift}; samples between windows would never be read."
            )
        if receptive is None:
            receptive = [receptive_size(i, window=window, fringe=fringe) for i in range(layers)]
        self.summary = nn.Parameter(torch.randn(1, 1, rois))
        self.layers = nn.ModuleList(
            Layer(
                rois,
                mlp_ratio,
                dropout,
                heads=heads,
                head_dim=head_dim,
                window=window,
                receptive=samples,
            )
            for samples in receptive
        )
        self.norm = nn.LayerNorm(rois)
        self.head = nn.Linear(rois, classes)

    def forward(self, series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch class"]:
        """Classify z-scored series."""
        return self.read(series).logits

    def read(self, series: Float[Tensor, "batch roi time"]) -> Output:
        """Classify, and say what every window says; up to shift - 1 last samples are not read."""
        x, summaries = self.begin(series)
        for layer in self.layers:
            x, summaries = layer(x, summaries, self.shift, self.right)
        summaries = self.norm(summaries)
        return Output(self.head(summaries.mean(1)), summaries)

    def begin(
        self, series: Float[Tensor, "batch roi time"]
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch window dim"]]:
        """Cut what windows reach, and give every window the same summary."""
        rois, time = series.shape[1:]
        if rois != self.rois or time < self.window:
            raise InputError(
                f"series must have shape (batch, {self.rois}, at least {self.window} samples), but "
                f"have {tuple(series.shape)}; give the model's regions and longer scans."
            )
        windows = (time - self.window) // self.shift + 1
        x = series[:, :, : self.window + self.shift * (windows - 1)].transpose(1, 2)
        return x, self.summary.expand(len(x), windows, -1)


def standardize(series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch roi time"]:
    """Standardize every region over its whole scan; a region that never changes becomes 0."""
    x = series.double()
    deviation, mean = torch.std_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.where(deviation > 0, (x - mean) / deviation, 0.0).float()


def draw_crop(time: int, crop: int, generator: torch.Generator) -> int:
    """Draw where a crop begins: uniform on 0 … time - crop, both included."""
    if crop > time:
        raise InputError(f"a crop of {crop} samples must fit into the scan of {time}; shorten it.")
    return int(torch.randint(time - crop + 1, (), generator=generator))


def loss(
    output: Output, labels: Int[Tensor, "batch"], *, consistency: float = 1.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the total, the cross-entropy, and the variance of the summaries over windows."""
    entropy = F.cross_entropy(output.logits, labels)
    spread = (output.summaries - output.summaries.mean(1, keepdim=True)).square().mean()
    return entropy + consistency * spread, entropy, spread


class Schedule(NamedTuple):
    """Values for one step of Adam."""

    learning_rate: float
    beta1: float


def schedule(
    step: int,
    steps: int,
    *,
    start: float = 2e-4,
    peak: float = 4e-4,
    end: float = 2e-5,
) -> Schedule:
    """Look up one cycle: the rate up and down on half cosines, the first beta down and up."""
    turn = 0.3 * steps - 1
    if step <= turn:
        share = step / turn
        return Schedule(_between(start, peak, share), _between(0.95, 0.85, share))
    share = (step - turn) / (steps - 1 - turn)
    return Schedule(_between(peak, end, share), _between(0.85, 0.95, share))


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


_NAMES: Final = {  # ours: released
    "summary": "clsToken",
    "norm.": "encoder_postNorm.",
    "head.": "classifierHead.",
}
_ATTENTION: Final = {
    "attention.table": "attention.relative_position_bias_table",
    "attention.up": "attention.cls_bias_sequence_up",
    "attention.down": "attention.cls_bias_sequence_down",
    "attention.self_bias": "attention.cls_bias_self",
    "mlp.0.": "mlp.net.0.0.",
    "mlp.3.": "mlp.net.2.",
}
_COMPUTED: Final = ("inputNorm.", "mask_left", "mask_right", "relative_position_index")
"""Not used, or made anew."""


def load(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> BolT:
    """Take the weights of a released state, which has learned with visible samples on the right.

    `config` may give shiftCoeff (.4 by default), the only size that shapes do not tell; what else
    it says must agree with the shapes.
    """
    if gradients is not None or coordinates is not None:
        raise ConfigurationError("BolT knows neither gradients nor coordinates; leave them out.")
    attention = "blocks.0.transformer.attention."
    wanted = (
        "clsToken",
        f"{attention}cls_bias_sequence_down",
        f"{attention}q.weight",
        "classifierHead.weight",
        "blocks.0.transformer.mlp.net.0.0.weight",
    )
    values = [found.get(name) for name in wanted]
    lacking = [n for n, v in zip(wanted, values, strict=True) if not isinstance(v, Tensor)]
    if lacking:
        raise InputError(
            f"{where} does not hold the weights of BolT: it has no {', '.join(lacking)}. Check "
            "the family and the file."
        )
    token, down, query, head, mlp = (tuple(v.shape) for v in values if isinstance(v, Tensor))
    layers = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    rois, heads, window = token[-1], down[1], down[2]
    up = "blocks.{}.transformer.attention.cls_bias_sequence_up"
    ups = [found.get(up.format(layer)) for layer in range(layers)]
    sizes = {
        "nOfLayers": layers,
        "dim": rois,
        "numHeads": heads,
        "headDim": query[0] // heads,
        "windowSize": window,
    }
    if min(sizes.values()) < 1:
        raise InputError(f"{where} does not hold the weights of BolT: {sizes} must be positive.")
    _check_config(config or {}, sizes, where)
    model = BolT(
        rois=rois,
        classes=head[0],
        heads=heads,
        head_dim=sizes["headDim"],
        window=window,
        shift=int(window * float((config or {}).get("shiftCoeff", 2 / 5))),
        mlp_ratio=mlp[0] / rois,
        right="visible",
        receptive=[up.shape[-1] if isinstance(up, Tensor) else window for up in ups],
    )
    state = model.state_dict()
    names = {ours: released_name(ours) for ours in state}
    shapes = {theirs: tuple(state[ours].shape) for ours, theirs in names.items()}
    kept = {k: v for k, v in found.items() if not any(part in k for part in _COMPUTED)}
    checked = check_weights(kept, shapes, where=where, family="BolT")
    model.load_state_dict({ours: checked[theirs] for ours, theirs in names.items()})
    return model.eval()


_READ_ELSEWHERE: Final = {"fringeCoeff", "mlpRatio", "focalRule"}  # shapes tell
_TRAINING: Final = {"weightDecay", "lr", "minLr", "maxLr", "drop", "attnDrop", "lambdaCons"}


def _check_config(config: Mapping[str, Any], sizes: Mapping[str, int], where: str) -> None:
    """Refuse a configuration that the weights contradict, or that names what is not built."""
    built: dict[str, Any] = {**sizes, "pooling": "cls", "attentionBias": True}
    known = {*built, *_READ_ELSEWHERE, *_TRAINING, "shiftCoeff"}
    for name, value in config.items():
        if name not in known:
            raise ConfigurationError(
                f"the configuration of BolT has no {name!r}.{nearest(name, known)} Leave it out."
            )
        if name in built and value != built[name]:
            raise ConfigurationError(
                f"the configuration says {name} {value!r}, but {where} holds {built[name]!r}; give "
                "the configuration of this very file."
            )


def released_name(name: str) -> str:
    """Translate the name of one of our tensors."""
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        for ours, theirs in _ATTENTION.items():
            if rest.startswith(ours):
                rest = theirs + rest.removeprefix(ours)
        return f"blocks.{layer}.transformer.{rest}"
    for ours, theirs in _NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
