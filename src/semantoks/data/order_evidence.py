"""What the connectivity of a brain says about the order of its ROIs, and orders that files have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.labels import seventeen_network_names
from semantoks.data.preprocessing import cut_nan_tail, find_bad_rois

Matrix = NDArray[np.float64]

_MIRROR: Final = 12.0
"""How far in mm the mirror image of a ROI may be from its partner on the other side."""
_MIDLINE: Final = 8.0
"""ROIs nearer to the midline, in mm, have no partner: they are partly on both sides."""
_NETWORK_WEIGHT: Final = 1.5
_HOMOTOPIC_WEIGHT: Final = 3.0
"""How much stronger than by distance alone, in deviations of log distance, ROIs of a network and
partners in the two hemispheres are expected to be connected."""
_BELOW_CORTEX: Final = ("Subcortical", "Cerebellar")


class Evidence(NamedTuple):
    """How well connectivity fits the places of the ROIs in one order."""

    distance: float
    homotopic: float
    network: float
    score: float


@dataclass(frozen=True)
class Geometry:
    """Where the ROIs of an atlas are, a value a pair of ROIs (upper triangle)."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    nearness: Float[NDArray[np.float64], "pair"]
    homotopic: NDArray[np.bool_]
    across: NDArray[np.bool_]
    same: NDArray[np.bool_]

    @classmethod
    def of(cls, atlas: Atlas) -> Geometry:
        """Take the places of the ROIs of an atlas."""
        known = np.flatnonzero(np.isfinite(atlas.coordinates).all(axis=1))
        places = atlas.coordinates[known]
        upper = np.triu_indices(len(known), 1)
        distance = np.linalg.norm(places[upper[0]] - places[upper[1]], axis=1)
        nearness = -np.log(np.maximum(distance, 1.0))
        sides = np.sign(places[:, 0])
        networks = np.unique(np.array(atlas.networks), return_inverse=True)[1][known]
        return cls(
            rows=known[upper[0]],
            columns=known[upper[1]],
            nearness=nearness / (nearness.std() or 1.0),
            homotopic=_partners(places)[upper],
            across=np.asarray(sides[upper[0]] * sides[upper[1]] < 0),
            same=np.asarray(networks[upper[0]] == networks[upper[1]]),
        )


def _partners(places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which ROIs are mirror images of each other, shape (roi, roi)."""
    mirrored = places * [-1.0, 1.0, 1.0]
    apart = np.linalg.norm(mirrored[:, None] - places[None], axis=-1)
    nearest = apart.argmin(axis=1)
    each = np.arange(len(places))
    lateral = np.abs(places[:, 0]) > _MIDLINE
    found = (apart[each, nearest] < _MIRROR) & lateral & lateral[nearest]
    found &= places[:, 0] * places[nearest, 0] < 0
    partners = np.zeros(apart.shape, dtype=bool)
    partners[each[found], nearest[found]] = True
    return np.asarray(partners | partners.T)


def connectivity(series: Float[NDArray[np.floating[Any]], "roi time"]) -> Float[Matrix, "roi roi"]:
    """Compute Fisher z between ROIs, trend and global signal taken out."""
    values = cut_nan_tail(series).astype(np.float64)
    with np.errstate(invalid="ignore"):
        bad = find_bad_rois(values)
    good = ~(bad.flat | bad.missing) & np.isfinite(values).all(axis=1)
    z = np.full((len(values), len(values)), np.nan)
    if values.shape[1] < 4 or good.sum() < 3:
        return z
    kept = values[good]
    trend = np.linspace(-1.0, 1.0, kept.shape[1])
    for nuisance in (np.ones_like(trend), trend, None):
        kept = kept / np.maximum(kept.std(axis=1, keepdims=True), np.finfo(float).tiny)
        course = kept.mean(axis=0) if nuisance is None else nuisance
        kept = kept - np.outer(kept @ course / max(course @ course, 1e-30), course)
    z[np.ix_(good, good)] = np.arctanh(np.clip(np.corrcoef(kept), -0.99, 0.99))
    np.fill_diagonal(z, np.nan)
    return z


def weigh(z: Float[Matrix, "roi roi"], geometry: Geometry) -> Evidence:
    """Say how well connectivity fits the places of the ROIs."""
    pairs = z[geometry.rows, geometry.columns]
    there = np.isfinite(pairs)
    pairs = pairs[there]
    nearness, same = geometry.nearness[there], geometry.same[there]
    homotopic, across = geometry.homotopic[there], geometry.across[there]
    deviation = float(pairs.std()) if pairs.size else 0.0
    if pairs.size < 100 or not deviation > 0:
        return Evidence(*[float("nan")] * 4)
    expected = nearness + _NETWORK_WEIGHT * same + _HOMOTOPIC_WEIGHT * homotopic
    return Evidence(
        float(np.corrcoef(pairs, nearness)[0, 1]),
        _contrast(pairs, homotopic, across & ~homotopic) / deviation,
        _contrast(pairs, same & ~homotopic, ~same & ~homotopic) / deviation,
        float(np.corrcoef(pairs, expected)[0, 1]),
    )


def _contrast(
    pairs: NDArray[np.float64], one: NDArray[np.bool_], other: NDArray[np.bool_]
) -> float:
    """Return the difference of two means, NaN if one has too few pairs."""
    if min(one.sum(), other.sum()) < 10:
        return float("nan")
    return float(pairs[one].mean() - pairs[other].mean())


def candidate_orders(atlas: Atlas) -> Mapping[str, NDArray[np.intp]]:
    """Return the orders in which files of an atlas come although they should not.

    Examples
    --------
    >>> atlas = Atlas.from_networks({"Vis": 2, "Subcortical": 1})
    >>> {name: order.tolist() for name, order in candidate_orders(atlas).items()}
    {'the subcortex first': [2, 0, 1], 'reversed': [2, 1, 0], ...}
    """
    each = np.arange(len(atlas))
    sides, networks = np.array(atlas.hemispheres), np.array(atlas.networks)
    low, lower = (networks == name for name in _BELOW_CORTEX)
    top = ~(low | lower)
    left, right = top & (sides == "L"), top & (sides == "R")
    middle, rest = top & (sides == ""), ~top
    blocks: dict[str, tuple[NDArray[np.bool_], ...]] = {
        "the hemispheres swapped": (right, left, middle, rest),
        "the left hemisphere first": (left, right, middle, rest),
        "the subcortex first": (low, top, lower),
        "the cerebellum first": (lower, top, low),
        "the subcortex and the cerebellum first": (low, lower, top),
        "the cerebellum and the subcortex first": (lower, low, top),
        "the cerebellum before the subcortex": (top, lower, low),
    }
    found = {name: np.concatenate([each[x] for x in parts]) for name, parts in blocks.items()}
    if left.sum() == right.sum():
        pairs = np.stack([each[left], each[right]], axis=1).ravel()
        found["left and right in turn"] = np.concatenate([pairs, each[middle], each[rest]])
    position = {label: i for i, label in enumerate(atlas.labels)}
    names = seventeen_network_names()
    if set(names) <= set(position):
        seventeen = np.array([position[label] for label in names], dtype=np.intp)
        others = np.setdiff1d(each, seventeen)
        found["in the order of the 17-network atlas"] = np.concatenate([seventeen, others])
        found["in the 17-network order after the subcortex"] = np.concatenate([others, seventeen])
    found["reversed"] = each[::-1]
    found["in the alphabetical order of the labels"] = np.array(
        sorted(each, key=lambda i: atlas.labels[i]), dtype=np.intp
    )
    found["shifted by a row (the first ROI left out)"] = np.roll(each, -1)
    found["shifted by a row (one too many in front, such as the background)"] = np.roll(each, 1)
    different: dict[str, NDArray[np.intp]] = {}
    for name, order in found.items():
        known = [each, *different.values()]
        if not any(np.array_equal(order, other) for other in known):
            different[name] = order
    return different
