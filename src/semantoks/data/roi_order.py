"""Checks, before anything is computed, that series come in the order of the atlas.

Connectivity of real brains falls with the distance of ROIs, and is high between partners in the
two hemispheres and within networks. In a wrong order it does not fit the places of the ROIs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.order_evidence import (
    Evidence,
    Geometry,
    Matrix,
    candidate_orders,
    connectivity,
    weigh,
)
from semantoks.data.preprocessing import cut_nan_tail
from semantoks.data.recording import ScanFile
from semantoks.errors import InputError

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
        try:
            series = cut_nan_tail(scan.load())
        except InputError:
            continue
        if series.shape[1] < _MIN_SAMPLES:
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
