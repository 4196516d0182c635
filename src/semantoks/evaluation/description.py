"""The kinds of read-out: what is kept of a window, and what it says of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from semantoks.errors import ConfigurationError, nearest
from semantoks.evaluation.scan_statistics import (
    Matrix,
    correlation,
    fisher_z_of,
    log_of,
    n_directions,
    second_order,
    token_statistics,
)
from semantoks.model.encoder import Encoding, SemantoksEncoder

FeatureKind = str
"""Parts of a description, joined by "+": "mean+cls" (the reference), "networks+second-order"."""


class Seen(NamedTuple):
    """Windows, and what the encoder says of them."""

    series: Float[Tensor, "batch roi time"]
    mask: Bool[Tensor, "batch network patch"] | None
    encoding: Encoding


@dataclass(frozen=True)
class Part:
    """A kind of read-out."""

    names: Callable[[SemantoksEncoder], list[str]]
    look: Callable[[SemantoksEncoder, Seen], Tensor]
    describe: Callable[[Matrix], Matrix] | None = None
    encodes: bool = True


def feature_parts(features: FeatureKind) -> tuple[str, ...]:
    """Take a description apart.

    Examples
    --------
    >>> feature_parts("networks+second-order")
    ('networks', 'second-order')
    """
    parts = tuple(str(features).split("+"))
    for part in parts:
        if part not in PARTS:
            raise ConfigurationError(
                f"there are no features {part!r}; there are {', '.join(PARTS)}, and any of them "
                "joined by '+', such as mean+cls." + nearest(part, PARTS)
            )
    if len(set(parts)) < len(parts):
        raise ConfigurationError(f"features {features!r} name a part twice; name it once.")
    return parts


def feature_names(encoder: SemantoksEncoder, features: FeatureKind = "mean+cls") -> list[str]:
    """Name the numbers of a description, after the places on the network axis of the tokens.

    Examples
    --------
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=0)
    >>> feature_names(encoder, "networks")[64]
    'Default_0000'
    >>> feature_names(encoder, "second-order")[0]
    'second_order_Vis_01~Vis_00'
    """
    return [name for part in feature_parts(features) for name in PARTS[part].names(encoder)]


def read_out(
    encoding: Encoding, features: FeatureKind = "mean+cls"
) -> Float[Tensor, "batch feature"]:
    """Reduce what the encoder says of windows to one row of numbers a window.

    The mean is over all tokens; those of masked networks count, as in the released code.

    Examples
    --------
    >>> encoding = Encoding(torch.zeros(3, 8), torch.zeros(3, 7, 5, 8))
    >>> read_out(encoding).shape, read_out(encoding, "networks").shape
    (torch.Size([3, 16]), torch.Size([3, 56]))
    """
    parts = feature_parts(features)
    for part in parts:
        if part not in _OF_TOKENS:
            raise ConfigurationError(
                f"{part} is no description of a window alone; use encode_scans or embed."
            )
    return torch.cat([_OF_TOKENS[part](encoding) for part in parts], 1)


def _pairs(prefix: str, rows: list[str]) -> list[str]:
    """Name the lower triangle, row by row."""
    lower = sorted((b, a) for a, b in combinations(range(len(rows)), 2))
    return [f"{prefix}_{rows[b]}~{rows[a]}" for b, a in lower]


def _numbered(names: tuple[str, ...], encoder: SemantoksEncoder) -> list[str]:
    """Name dim numbers for every name."""
    return [f"{name}_{i:04d}" for name in names for i in range(encoder.dim)]


def _name_networks(encoder: SemantoksEncoder) -> list[str]:
    """Name the mean tokens of networks."""
    return _numbered(encoder.token_atlas.network_names, encoder)


def _name_statistics(encoder: SemantoksEncoder) -> list[str]:
    """Name means and deviations of networks."""
    networks = encoder.token_atlas.network_names
    return _numbered(tuple(f"{n}_{what}" for n in networks for what in ("mean", "sd")), encoder)


def _name_second_order(encoder: SemantoksEncoder) -> list[str]:
    """Name pairs of projected tokens."""
    networks = encoder.token_atlas.network_names
    count = n_directions(len(networks), encoder.dim)
    return _pairs("second_order", [f"{n}_{i:02d}" for n in networks for i in range(count)])


def _name_courses(encoder: SemantoksEncoder) -> list[str]:
    """Name time courses."""
    if encoder.synchrony is None:
        raise ConfigurationError(
            "features 'synchrony' and 'log-synchrony' are those of learned time courses, but this "
            "model has none; pretrain one with --set model.time_courses=8."
        )
    known = zip(encoder.token_atlas.network_names, encoder.synchrony.counts, strict=True)
    return [f"{network}_{i:02d}" for network, count in known for i in range(count)]


def _name_logarithms(encoder: SemantoksEncoder) -> list[str]:
    """Name a lower triangle with its diagonal, row by row."""
    rows = _name_courses(encoder)
    return [f"log_synchrony_{a}~{b}" for i, a in enumerate(rows) for b in rows[: i + 1]]


def _courses(encoder: SemantoksEncoder, seen: Seen) -> NDArray[np.float32]:
    """Mix time courses (batch, course, time); those of networks that are not there are 0."""
    if encoder.synchrony is None:
        raise ConfigurationError("this model has no time courses.")
    courses = encoder.synchrony.courses(seen.series)
    if seen.mask is not None:
        there = ~seen.mask.all(dim=2)
        courses = courses * there.index_select(1, encoder.synchrony.owner)[..., None]
    return np.asarray(courses.cpu().numpy())


def _course_z(encoder: SemantoksEncoder, seen: Seen) -> Tensor:
    """Take Fisher z of the correlations of time courses over every window."""
    return torch.from_numpy(fisher_z_of(correlation(_courses(encoder, seen))))


def _course_moments(encoder: SemantoksEncoder, seen: Seen) -> Tensor:
    """Take covariances of time courses over every window, about the mean of the scan: 0."""
    courses = _courses(encoder, seen)
    return torch.from_numpy(courses @ courses.swapaxes(1, 2) / courses.shape[2])


def _tokens(_: SemantoksEncoder, seen: Seen) -> Tensor:
    """Keep all tokens."""
    return seen.encoding.tokens


_OF_TOKENS: Final[dict[str, Callable[[Encoding], Tensor]]] = {
    "mean": lambda encoding: encoding.tokens.mean((1, 2)),
    "cls": lambda encoding: encoding.summary,
    "networks": lambda encoding: encoding.tokens.mean(2).flatten(1),
}

WINDOW_PARTS: Final = tuple(_OF_TOKENS)
"""Kinds of read-out that a window alone has."""
PARTS: Final[dict[str, Part]] = {
    "mean": Part(lambda e: _numbered(("mean",), e), lambda _, x: _OF_TOKENS["mean"](x.encoding)),
    "cls": Part(lambda e: _numbered(("cls",), e), lambda _, x: _OF_TOKENS["cls"](x.encoding)),
    "networks": Part(_name_networks, lambda _, x: _OF_TOKENS["networks"](x.encoding)),
    "network-statistics": Part(_name_statistics, _tokens, token_statistics),
    "second-order": Part(_name_second_order, _tokens, second_order),
    "synchrony": Part(lambda e: _pairs("synchrony", _name_courses(e)), _course_z, encodes=False),
    "log-synchrony": Part(_name_logarithms, _course_moments, log_of, encodes=False),
}
"""All kinds of read-out by name."""
