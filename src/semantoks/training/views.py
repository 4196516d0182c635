"""Windows, augmentation and masks, drawn for a whole batch at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from semantoks.errors import ConfigurationError
from semantoks.objective.sharing import Share
from semantoks.training.config import MasksConfig, ViewsConfig

VIEWS = 2


def draw_scans(
    subject_codes: Int[np.ndarray, "scan"], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw the order of an epoch: one scan a subject, subjects shuffled.

    Examples
    --------
    >>> order = draw_scans(np.array([0, 0, 1, 2]), np.random.default_rng(0))
    >>> len(order), {2, 3} <= set(order.tolist())
    (3, True)
    """
    shuffled = rng.permutation(len(subject_codes))
    _, first = np.unique(subject_codes[shuffled], return_index=True)
    return rng.permutation(shuffled[first])


def draw_starts(
    lengths: Int[np.ndarray, "batch"], window: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw where the two windows of every scan begin, independent and uniform."""
    both = np.repeat(lengths, VIEWS)
    return rng.integers(0, both - window + 1).reshape(-1, VIEWS)


def augment(
    views: Float[Tensor, "batch view roi time"],
    config: ViewsConfig,
    generator: torch.Generator,
    share: Share | None = None,
) -> Float[Tensor, "batch view roi time"]:
    """Drop ROIs, drop a stretch of time, change the gain and add noise, each window on its own."""
    device = views.device
    batch, _, rois, time = views.shape
    start, stop, total = share or Share(0, batch, batch)
    rows, mine = VIEWS * total, slice(VIEWS * start, VIEWS * stop)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)[mine]

    x = views.flatten(0, 1)
    if config.roi_dropout > 0:
        count = (uniform(rows, 1) * config.roi_dropout * rois).long().clamp(min=1)
        x = x * (_rank(uniform(rows, rois)) >= count)[..., None]
    if config.time_dropout > 0:
        length = (uniform(rows, 1) * config.time_dropout * time).long().clamp(min=1)
        x = x * ~_stretch(uniform(rows, 1), length, time)[:, None]
    if config.gain > 0:
        x = x * (1 + config.gain * (2 * uniform(rows, 1, 1) - 1))
    if config.noise > 0:
        noise = torch.randn(rows, rois, time, generator=generator, device=device)[mine]
        x = x + config.noise * noise
    return x.view(views.shape)


def draw_masks(
    batch: int, networks: int, patches: int, config: MasksConfig, generator: torch.Generator
) -> Bool[Tensor, "batch view network patch"]:
    """Draw what the student does not see of every window."""
    rows = batch * VIEWS
    device = generator.device
    kind = "slice" if config.kind == "random" else config.kind
    if kind == "slice" and 1 in (networks, patches):  # a slice of the only one would hide all
        kind = "temporal" if networks == 1 else "network"
    if kind == "network":
        masks = _network_slices(rows, networks, patches, config, generator)
    elif kind == "temporal":
        masks = _temporal_slices(rows, networks, patches, config, generator)
    else:
        of_networks = torch.rand(rows, 1, 1, generator=generator, device=device) < 0.5
        masks = torch.where(
            of_networks,
            _network_slices(rows, networks, patches, config, generator),
            _temporal_slices(rows, networks, patches, config, generator),
        )
    if config.kind == "random":
        masks = _scatter(masks, generator)
    return masks.view(batch, VIEWS, networks, patches)


def check_masks(networks: int, patches: int, config: MasksConfig) -> None:
    """Refuse masks that would hide everything."""
    along = {"network": networks, "temporal": patches}.get(config.kind, networks * patches)
    if config.probability > 0 and along < 2:
        raise ConfigurationError(
            f"masks.kind = {config.kind} would hide every token of {networks} network(s) and "
            f"{patches} patch(es) a window; choose another kind, or set masks.probability=0."
        )


def _network_slices(
    rows: int, networks: int, patches: int, config: MasksConfig, generator: torch.Generator
) -> Bool[Tensor, "rows networks patches"]:
    """Hide k networks at all times, k uniform on [max(1, ⌊low N⌋), min(N, ⌊high N⌋))."""
    low = max(1, int(config.low * networks))
    high = max(min(networks, int(config.high * networks)), low + 1)  # few networks: k = low
    device = generator.device
    count = torch.randint(low, high, (rows, 1), generator=generator, device=device)
    rank = _rank(torch.rand(rows, networks, generator=generator, device=device))
    return (rank < count)[..., None].expand(rows, networks, patches)


def _temporal_slices(
    rows: int, networks: int, patches: int, config: MasksConfig, generator: torch.Generator
) -> Bool[Tensor, "rows networks patches"]:
    """Hide ⌈r P⌉ - 1 consecutive patches of all networks, r uniform on (low, high)."""
    device = generator.device
    share = torch.rand(rows, 1, generator=generator, device=device)
    share = config.low + (config.high - config.low) * share
    length = (torch.ceil(share * patches).long() - 1).clamp(min=1)
    place = torch.rand(rows, 1, generator=generator, device=device)
    return _stretch(place, length, patches)[:, None].expand(rows, networks, patches)


def _scatter(
    masks: Bool[Tensor, "rows networks patches"], generator: torch.Generator
) -> Bool[Tensor, "rows networks patches"]:
    """Hide as many tokens of every row, anywhere."""
    hidden = masks.flatten(1)
    values = torch.rand(hidden.shape, generator=generator, device=generator.device)
    return (_rank(values) < hidden.sum(1, keepdim=True)).view_as(masks)


def _rank(values: Tensor) -> Tensor:
    """Rank along the last axis: a random permutation of 0 … n - 1 where values are random."""
    return values.argsort(dim=-1).argsort(dim=-1)


def _stretch(place: Tensor, length: Tensor, size: int) -> Tensor:
    """Mark `length` consecutive cells of `size`, the start uniform for a uniform `place`."""
    start = (place * (size - length + 1)).long()
    cells = torch.arange(size, device=place.device)
    return (cells >= start) & (cells < start + length)
