"""BrainMass: connectivity rows as tokens, aligned between parts of a scan and guessed when hidden.

Y. Yang et al., "BrainMass: Advancing brain network analysis for diagnosis with large-scale
self-supervised learning", IEEE TMI 2024, arXiv:2403.01433. Written from a description of the method
and of the released code; it reads the released weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers.connectivity import correlation
from semantoks.peers.weights import Card, check_weights

CARD: Final = Card(
    title="BrainMass",
    paper="Yang et al., IEEE TMI 2024, arXiv:2403.01433",
    licence="none: neither code nor weights carry one; ask the authors before you publish them",
    atlas="100 regions of Schaefer in 7-network order",
    repetition_time=None,
    frames=None,
    scaling="Ledoit-Wolf shrunk correlation of the whole scan, no Fisher z, diagonal 1",
    asks=("config",),
)
_FEATURES: Final = 8
CONTRAST_WEIGHT: Final = 0.1
ERROR_WEIGHT: Final = 2.0


class Network(nn.Module):
    """Transformer layers over rows of connectivity, 8 numbers a region, and a projector."""

    def __init__(
        self,
        *,
        rois: int = 100,
        heads: int = 10,
        layers: int = 16,
        hidden: int = 2048,
        output: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if rois % heads:
            raise ConfigurationError(
                f"{heads} attention heads must divide the number of regions, {rois}; choose a "
                "divisor, or leave regions out."
            )
        self.rois, self.output = rois, output
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(rois, heads, hidden, dropout, batch_first=True)
            for _ in range(layers)
        )
        self.reduce = nn.Sequential(nn.Linear(rois, _FEATURES), nn.LeakyReLU())
        self.project = _two_layers(_FEATURES * rois, 2 * _FEATURES * rois, output)

    def mix(self, tokens: Float[Tensor, "batch token roi"]) -> Float[Tensor, "batch token roi"]:
        """Run tokens through all layers."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens

    def forward(self, x: Float[Tensor, "batch roi roi"]) -> Float[Tensor, "batch feature"]:
        """Compute the features of connectivity, 8 a region."""
        if x.shape[1:] != (self.rois, self.rois):
            raise InputError(
                f"connectivity must have shape (batch, {self.rois}, {self.rois}), but has "
                f"{tuple(x.shape)}; give that of the model's regions."
            )
        features: Tensor = self.reduce(self.mix(x)).flatten(1)
        return features

    def embed(self, x: Float[Tensor, "batch roi roi"]) -> Float[Tensor, "batch output"]:
        """Project features to where views are compared."""
        projected: Tensor = self.project(self(x))
        return projected


def _two_layers(dim: int, hidden: int, output: int) -> nn.Sequential:
    """Make two layers with batch norm between them."""
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, output)
    )


class Masks(NamedTuple):
    """Regions of every scan that are hidden from the first view."""

    contrast: Int[Tensor, "batch contrast"]  # to be told from one another
    error: Int[Tensor, "batch error"]  # to be guessed


class Losses(NamedTuple):
    """The terms of one step and their weighted total."""

    total: Float[Tensor, ""]
    alignment: Float[Tensor, ""]
    contrast: Float[Tensor, ""]
    error: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class BrainMass(nn.Module):
    """Online network, its moving average as target, and what the one is asked."""

    def __init__(self, network: Network, *, hidden: int = 2048) -> None:
        super().__init__()
        rois, output = network.rois, network.output
        self.online = network
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.predictor = _two_layers(output, 2 * output, output)
        self.contrast_head = _head(rois, hidden)
        self.error_head = _head(rois, hidden)
        for name in ("hidden", "summary", "distance"):
            drawn = nn.init.xavier_normal_(torch.empty(1, 1, rois))
            self.register_parameter(name, nn.Parameter(drawn))
        self.hidden: Tensor
        self.summary: Tensor
        self.distance: Tensor
        self.position: Tensor
        self.register_buffer("position", positions(rois + 2, rois), persistent=False)

    def forward(
        self,
        first: Float[Tensor, "batch roi roi"],
        second: Float[Tensor, "batch roi roi"],
        masks: Masks,
    ) -> Losses:
        """Compute total = alignment + .1 contrast + 2 error."""
        ours = [self.predictor(self.online.embed(view)) for view in (first, second)]
        with torch.no_grad():
            theirs = [self.target.embed(view) for view in (second, first)]
        cosines = [F.cosine_similarity(p, t) for p, t in zip(ours, theirs, strict=True)]
        alignment = torch.stack([2 - 2 * c for c in cosines]).sum(0).mean()

        guesses, rows = self._guess(first, masks.contrast, self.contrast_head)
        logits = rows @ guesses.transpose(1, 2)
        of_guesses = logits.log_softmax(-1)
        contrast = -of_guesses.diagonal(dim1=1, dim2=2).mean()
        places = torch.arange(logits.shape[-1], device=logits.device)
        accuracy = (of_guesses.argmax(1) == places).float().mean()

        guesses, rows = self._guess(first, masks.error, self.error_head)
        error = F.mse_loss(guesses, rows)
        total = alignment + CONTRAST_WEIGHT * contrast + ERROR_WEIGHT * error
        return Losses(total, alignment, contrast, error, accuracy)

    def masked(
        self, x: Float[Tensor, "batch roi roi"], regions: Int[Tensor, "batch hidden"]
    ) -> Float[Tensor, "batch token roi"]:
        """Hide rows, put two learned tokens in front, and add positions."""
        at = regions[..., None].expand(-1, -1, x.shape[-1])
        x = x.scatter(1, at, self.hidden.expand(len(x), at.shape[1], -1))
        front = torch.cat([self.summary, self.distance], dim=1).expand(len(x), -1, -1)
        return torch.cat([front, x], dim=1) + self.position

    def _guess(
        self,
        x: Float[Tensor, "batch roi roi"],
        regions: Int[Tensor, "batch hidden"],
        head: nn.Module,
    ) -> tuple[Float[Tensor, "batch hidden roi"], Float[Tensor, "batch hidden roi"]]:
        """Guess hidden rows from the tokens that stand for them."""
        at = regions[..., None].expand(-1, -1, x.shape[-1])
        tokens = self.online.mix(self.masked(x, regions))
        return head(tokens[:, 2:].gather(1, at)), x.gather(1, at)

    def trained(self, heads: Literal["trained", "frozen"] = "trained") -> Iterator[nn.Parameter]:
        """Choose what the optimizer moves; the released code leaves heads and tokens frozen."""
        for name, parameter in self.named_parameters():
            of_networks = name.startswith(("online.", "predictor."))
            if parameter.requires_grad and (of_networks or heads == "trained"):
                yield parameter

    @torch.no_grad()
    def update_target(self, momentum: float = 0.996) -> None:
        """Move the target's weights; batch norms keep statistics of their own."""
        targets, online = self.target.parameters(), self.online.parameters()
        for target, moved in zip(targets, online, strict=True):
            target.mul_(momentum).add_(moved, alpha=1 - momentum)


def _head(rois: int, hidden: int) -> nn.Sequential:
    """Make a head that guesses a row."""
    return nn.Sequential(nn.Linear(rois, hidden), nn.LeakyReLU(), nn.Linear(hidden, rois))


def positions(count: int, dim: int) -> Float[Tensor, "count dim"]:
    """Make the fixed table: angle p / 10000^(2⌊j/2⌋/dim), sine for even j, cosine for odd."""
    column = torch.arange(dim, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None]
    angles = angles / 10000 ** (2 * (column // 2) / dim)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos()).float()


def infonce(
    predicted: Float[Tensor, "batch output"], targets: Float[Tensor, "batch output"]
) -> Float[Tensor, ""]:
    """Compute the other alignment of the released code: .14 · cross-entropy of cosines / .07."""
    cosines = F.normalize(predicted) @ F.normalize(targets).T
    places = torch.arange(len(cosines), device=cosines.device)
    return 0.14 * F.cross_entropy(cosines / 0.07, places)


def draw_masks(
    batch: int,
    *,
    rois: int = 100,
    contrast: int = 10,
    error: int = 5,
    generator: torch.Generator,
) -> Masks:
    """Draw which regions are hidden, for every scan by itself."""
    if max(contrast, error) > rois:
        raise ConfigurationError(f"{max(contrast, error)} of {rois} regions cannot be hidden.")

    def draw(count: int) -> Tensor:
        return torch.rand(batch, rois, generator=generator).argsort(1)[:, :count]

    return Masks(draw(contrast), draw(error))


def draw_kept(
    time: int, generator: torch.Generator, *, dropped: float = 0.2
) -> Int[Tensor, "kept"]:
    """Draw which samples of a scan a view keeps: all but ⌊.2 time⌋ anywhere, in their order."""
    order = torch.randperm(time, generator=generator)
    return order[int(dropped * time) :].sort().values


def connectivity(series: Float[Tensor, "batch roi time"]) -> Float[Tensor, "batch roi roi"]:
    """Compute what the model reads."""
    return correlation(series, shrunk=True).float()


def learning_rate(epoch: int, *, peak: float = 3e-4, warmup: int = 10) -> float:
    """Look up the learning rate of an epoch, the first of which is 0."""
    return peak * min((epoch + 1) / warmup, 1.0)


_PARTS: Final = {"online": "online_network", "target": "target_network"}
_NAMES: Final = {  # ours: released
    "layers.": "attention_list.",
    "reduce.": "dim_reduction.",
    "project.": "g.net.",
    "predictor.": "predictor.net.",
    "contrast_head.": "cpred.",
    "error_head.": "gpred.",
    "hidden": "mask_embed",
    "summary": "cls_token",
    "distance": "dist_token",
}


def load(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> Network:
    """Take the online network of a released checkpoint; `config` gives the heads where not 10."""
    return load_all(
        found, where=where, config=config, gradients=gradients, coordinates=coordinates
    ).online


def load_all(
    found: Mapping[str, Any],
    *,
    where: str,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> BrainMass:
    """Take all of a released checkpoint, in evaluation mode."""
    if gradients is not None or coordinates is not None:
        raise ConfigurationError(
            "BrainMass knows neither gradients nor coordinates; leave them out."
        )
    parts = ("model", "online_network_state_dict", "target_network_state_dict")
    missing = [part for part in parts if not isinstance(found.get(part), Mapping)]
    if missing:
        raise InputError(
            f"{where} must hold {', '.join(parts)}, but has no {', '.join(missing)}; give a "
            "checkpoint of BrainMass."
        )
    whole: Mapping[str, Any] = found["model"]
    layer = "online_network.attention_list.0.linear1.weight"
    wanted = ("mask_embed", layer, "online_network.g.net.3.weight", "cpred.0.weight")
    lacking = [name for name in wanted if not isinstance(whole.get(name), Tensor)]
    if lacking:
        raise InputError(
            f"'model' of {where} has no {', '.join(lacking)}; give a checkpoint of BrainMass."
        )
    rois = whole["mask_embed"].shape[-1]
    network = Network(
        rois=rois,
        heads=int((config or {}).get("heads", 10)),
        layers=len({name.split(".")[2] for name in whole if ".attention_list." in name
                    and name.startswith("online")}),
        hidden=len(whole[layer]),
        output=len(whole["online_network.g.net.3.weight"]),
    )  # fmt: skip
    model = BrainMass(network, hidden=len(whole["cpred.0.weight"]))
    state = model.state_dict()
    names = {ours: _released(ours) for ours in state}
    shapes = {theirs: tuple(state[ours].shape) for ours, theirs in names.items()}
    unused = {"norm.weight": (rois,), "norm.bias": (rois,)}
    checked = check_weights(whole, shapes | unused, where=f"'model' of {where}", family="BrainMass")
    for part in _PARTS.values():
        own = {k.removeprefix(f"{part}."): v for k, v in shapes.items() if k.startswith(part)}
        check_weights(
            found[f"{part}_state_dict"],
            own,
            where=f"'{part}_state_dict' of {where}",
            family="BrainMass",
        )
    model.load_state_dict({ours: checked[theirs] for ours, theirs in names.items()})
    return model.eval()


def _released(name: str) -> str:
    """Translate the name of one of our tensors."""
    first, _, rest = name.partition(".")
    if first in _PARTS:
        return f"{_PARTS[first]}.{_released(rest)}"
    for ours, theirs in _NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
