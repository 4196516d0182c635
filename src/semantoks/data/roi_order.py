"""Order of ROIs: evidence from the series, and comparison with the atlas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.labels import seventeen_network_names
from semantoks.data.recording import ScanFile
from semantoks.data.signal import cut_nan_tail, find_bad_rois
from semantoks.errors import InputError

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


# Connectivity of real brains falls with the distance of ROIs, and is high between partners in the
# two hemispheres and within networks. In a wrong order it does not fit the places of the ROIs.

OrderStatus = Literal["right", "weak", "not checked"]

N_SCANS: Final = 6
"""How many scans are looked at, evenly spread."""
_MIN_ROIS: Final = 30
"""Least number of ROIs with coordinates, and of ROIs that carry signal."""
_MIN_SAMPLES: Final = 40
_MARGIN: Final = 0.02
"""An order fits better if its score is higher by this. In single scans of STAGES (Schaefer-400) and
of the 24 recording groups of ABIDE (CC200), the right order was ahead of all others by .05 at
least, and a wrong one behind the right one by as much."""
_NO_FIT: Final = Evidence(distance=0.05, homotopic=0.5, network=0.2, score=0.05)
"""Below all of these the places of the ROIs say nothing; the least of 1,194 single scans in the
right order were .15, 1.2 and .26. ROIs in random order have .04, .3 and .1 at most."""
_SURE: Final = Evidence(distance=0.1, homotopic=1.0, network=0.25, score=0.15)
_STRUCTURE: Final = 0.15
"""Correlation between the connectivity of two halves of a scan from which on there is something
to be explained; brains had .38 at least, noise 0."""


@dataclass(frozen=True)
class OrderCheck:
    """What was found out about the order of the ROIs."""

    status: OrderStatus
    notice: str = ""
    scans: tuple[str, ...] = ()
    evidence: Evidence | None = None
    orders: Mapping[str, Evidence] = field(default_factory=dict)


class _Sample(NamedTuple):
    """A scan that was looked at: its connectivity, and whether there is any structure in it."""

    scan: ScanFile
    z: Matrix
    structure: float
    transposed: Matrix | None


def check_order(scans: Sequence[ScanFile], atlas: Atlas, *, trust: bool = False) -> OrderCheck:
    """Check by connectivity that the ROIs of a few scans come in the order of the atlas.

    Examples
    --------
    >>> check_order([], Atlas.from_networks({"Vis": 2, "Default": 2})).status
    'not checked'
    """
    if trust:
        return OrderCheck("not checked", "The order of the ROIs was not checked, as you asked.")
    n_known = int(np.isfinite(atlas.coordinates).all(axis=1).sum())
    if n_known < _MIN_ROIS:
        return _not_checked(
            f"atlas {atlas.name!r} has coordinates (x, y, z) for {n_known} ROIs, and at least "
            f"{_MIN_ROIS} are needed"
        )
    samples = list(_sample(scans))
    if not samples:
        return _not_checked(f"no scan has {_MIN_ROIS} ROIs and {_MIN_SAMPLES} volumes with signal")
    structure = float(np.median([sample.structure for sample in samples]))
    if not structure >= _STRUCTURE:
        return _not_checked(
            f"the connectivity of the two halves of a scan correlates by {structure:.2f}, and "
            f"below {_STRUCTURE} there is nothing that an order could explain"
        )
    return _judge(samples, atlas)


def _not_checked(reason: str) -> OrderCheck:
    """Say that nothing can be said, and why."""
    return OrderCheck(
        "not checked",
        f"The order of the ROIs could not be checked by connectivity: {reason}. Make sure that "
        "the rows are in the order of the atlas.",
    )


def _sample(scans: Sequence[ScanFile]) -> Iterator[_Sample]:
    """Read a few scans; those that cannot be read are complained of elsewhere."""
    chosen = np.unique(np.linspace(0, len(scans) - 1, min(N_SCANS, len(scans))).astype(int))
    for scan in [scans[i] for i in chosen]:
        series = None
        with contextlib.suppress(Exception):  # the preparation refuses this scan and says why
            series = cut_nan_tail(scan.load())
        if series is None or series.shape[1] < _MIN_SAMPLES:
            continue
        z = connectivity(series)
        if np.isfinite(z).any(axis=1).sum() < _MIN_ROIS:
            continue
        square = series.shape[0] == series.shape[1]
        yield _Sample(scan, z, _structure(series), connectivity(series.T) if square else None)


def _structure(series: NDArray[np.floating[Any]]) -> float:
    """Correlate the connectivity of the two halves of a scan."""
    middle = series.shape[1] // 2
    upper = np.triu_indices(len(series), 1)
    halves = [connectivity(half)[upper] for half in (series[:, :middle], series[:, middle:])]
    there = np.isfinite(halves[0]) & np.isfinite(halves[1])
    if there.sum() < 100:
        return 0.0
    return float(np.corrcoef(halves[0][there], halves[1][there])[0, 1])


def _judge(samples: Sequence[_Sample], atlas: Atlas) -> OrderCheck:
    """Weigh the orders for the mean of all scans, and for each scan."""
    geometry = Geometry.of(atlas)
    inverse = {name: np.argsort(order) for name, order in candidate_orders(atlas).items()}
    names = tuple(sample.scan.scan for sample in samples)
    mean = _mean([sample.z for sample in samples])
    given = weigh(mean, geometry)
    orders = {name: weigh(mean[np.ix_(o, o)], geometry) for name, o in inverse.items()}
    square = [sample.transposed for sample in samples if sample.transposed is not None]
    if len(square) == len(samples):
        orders["transposed (rows are volumes)"] = weigh(_mean(square), geometry)
    best = _better(given, orders)
    if best is not None:
        which = f"{len(samples)} scan(s) of {len(samples)} that were looked at ({_told(samples)})"
        raise InputError(_explain_other(which, atlas, given, best, orders[best]))
    for sample in samples:
        alone = weigh(sample.z, geometry)
        others = {
            name: weigh(sample.z[np.ix_(order, order)], geometry) for name, order in inverse.items()
        }
        best = _better(alone, others)
        if best is not None:
            which = f"scan {sample.scan.scan!r} of {sample.scan.source} (other scans are right)"
            raise InputError(_explain_other(which, atlas, alone, best, others[best]))
    if not _any_above(given, _NO_FIT):
        raise InputError(_explain_none(samples, atlas, given))
    if _any_above(given, _SURE):
        return OrderCheck("right", "", names, given, orders)
    notice = (
        f"The connectivity of {_told(samples)} fits the places of the ROIs of atlas {atlas.name!r} "
        f"poorly ({_numbers(given)}), though no other known order better. Make sure that the rows "
        "are in the order of the atlas."
    )
    return OrderCheck("weak", notice, names, given, orders)


def _mean(matrices: Sequence[Matrix]) -> Matrix:
    """Average connectivity over the scans that have a pair of ROIs."""
    stacked = np.stack(matrices)
    there = np.isfinite(stacked)
    count = there.sum(axis=0)
    total = np.where(there, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _better(given: Evidence, orders: Mapping[str, Evidence]) -> str | None:
    """Name the order that fits clearly better than that of the atlas, None if there is none."""
    scores = {name: evidence.score for name, evidence in orders.items()}
    name = max(scores, key=lambda key: np.nan_to_num(scores[key], nan=-1.0), default=None)
    if name is None or not scores[name] - given.score >= _MARGIN:
        return None
    # Something may fit a little better by chance, but a right order fits well.
    return name if _any_above(orders[name], _SURE) else None


def _any_above(evidence: Evidence, least: Evidence) -> bool:
    """Say whether anything speaks for an order."""
    return (
        evidence.distance >= least.distance
        or evidence.homotopic >= least.homotopic
        or evidence.network >= least.network
    )


def _numbers(evidence: Evidence) -> str:
    """Return the evidence in numbers, as far as the atlas allows it."""
    parts = {
        f"correlation with nearness {evidence.distance:.2f}": evidence.distance,
        f"partners in the two hemispheres {evidence.homotopic:+.1f} SD": evidence.homotopic,
        f"within networks {evidence.network:+.1f} SD": evidence.network,
        f"together {evidence.score:.2f}": evidence.score,
    }
    return ", ".join(text for text, value in parts.items() if np.isfinite(value))


def _explain_other(which: str, atlas: Atlas, given: Evidence, name: str, found: Evidence) -> str:
    """Say which order the files seem to have."""
    return (
        f"wrong order of ROIs: {which} do not come in the order of atlas {atlas.name!r}, but, it "
        f"seems, {name}. Read so, connectivity fits the places of the ROIs ({_numbers(found)}); in "
        f"the order of the atlas it fits worse ({_numbers(given)}). Put the ROIs into the order of "
        "the atlas, or save them with their labels as header, by which they are matched. If you "
        "know that the order is right: trust_order (--trust-order). Nothing was written."
    )


def _explain_none(samples: Sequence[_Sample], atlas: Atlas, given: Evidence) -> str:
    """Say that the files are in no known order."""
    return (
        f"wrong order of ROIs: the connectivity of {len(samples)} scan(s) ({_told(samples)}) has "
        f"nothing to do with the places of the ROIs of atlas {atlas.name!r} ({_numbers(given)}; "
        "brains in the right order have at least 0.14, +1.2 SD and +0.2 SD), nor with any other "
        "known order. These may be ROIs of another atlas of the same size, or in another order. "
        "Save the series with their labels as header, by which they are matched. If you know that "
        "the order is right: trust_order (--trust-order). Nothing was written."
    )


def _told(samples: Sequence[_Sample]) -> str:
    """Return the first few scans for a message."""
    some = ", ".join(repr(sample.scan.scan) for sample in samples[:3])
    return some + (", ..." if len(samples) > 3 else "")
