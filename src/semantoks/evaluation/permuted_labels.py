"""Labels that are given to other people, as chance would give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from semantoks.errors import InputError

Rows = NDArray[np.intp]

_MANY: Final = {"subject": "subject(s)", "family": "families"}


def permute_labels(
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    random: np.random.Generator,
    blocks: Shaped[NDArray[Any], "scan"] | None = None,
    families: Shaped[NDArray[Any], "scan"] | None = None,
) -> Shaped[NDArray[Any], "scan"]:
    """Give the labels of every subject, or of every family, to another one.

    Where a subject has the same label in all scans, any two subjects of a block may change places.
    Where labels differ between the scans of a subject, the labels move as they are, among subjects
    with as many scans.

    With families, whole families change places. Where all members of a family have one label, any
    two families may; otherwise families with as many people, and it is drawn who of them takes
    whose label. Where labels differ between the scans of a person, families change places whose
    people have as many scans.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> permute_labels(np.array([1, 1, 2, 3]), np.array(list("aabc")), random)
    array([3, 3, 1, 2])
    """
    block = (
        np.zeros(len(truth), dtype=np.int64)
        if blocks is None
        else np.unique(blocks, return_inverse=True)[1]
    )
    units = subjects if families is None else families
    what = "subject" if np.array_equal(units, subjects) else "family"
    if not len(truth) == len(subjects) == len(units) == len(block):
        raise InputError(
            f"{len(truth)} labels came with {len(subjects)} subjects, {len(units)} families and "
            f"{len(block)} blocks."
        )
    names, code = np.unique(units, return_inverse=True)
    scans = [np.flatnonzero(code == i) for i in range(len(names))]
    split_up = [str(n) for n, rows in zip(names, scans, strict=True) if len({*block[rows]}) > 1]
    if split_up:
        raise InputError(
            f"{len(split_up)} {_MANY[what]} have scans in several blocks, the first is "
            f"{split_up[0]!r}: their labels cannot move within one. Permute without blocks."
        )
    places = _interchangeable(truth, subjects, scans)
    groups = [(block[rows[0]], shape) for rows, (shape, _) in zip(scans, places, strict=True)]
    permuted, moved = truth.copy(), False
    for group in sorted(set(groups)):
        members = [place for (_, place), of in zip(places, groups, strict=True) if of == group]
        order = random.permutation(len(members))
        moved |= len({tuple(tuple(truth[rows]) for rows in place) for place in members}) > 1
        for place, source in zip(members, order, strict=True):
            for rows, taken in zip(place, _in_any_order(members[source], random), strict=True):
                permuted[rows] = truth[taken] if len(rows) == len(taken) else truth[taken[0]]
    if not moved:
        raise InputError(
            f"no label can move: every {what} is alone in its block, or alone with its number of "
            "scans, or has the label of all others there. Permute without blocks, or within others."
        )
    return permuted


def _in_any_order(places: list[Rows], random: np.random.Generator) -> list[Rows]:
    """Draw who of a family comes first, among those with as many scans."""
    if len(places) == 1:
        return places
    return sorted((places[i] for i in random.permutation(len(places))), key=len)


def _interchangeable(
    truth: NDArray[Any], subjects: NDArray[Any], units: Sequence[Rows]
) -> list[tuple[tuple[int, ...], list[Rows]]]:
    """Say of each unit what others must share to take its labels, and where these stand.

    Units of the same shape have as many places, each of scans that have one label (as soon as all
    units' places do) or as many scans.
    """

    def have_one_label(places: Sequence[Rows]) -> bool:
        return all(len(np.unique(truth[rows])) == 1 for rows in places)

    if have_one_label(units):
        return [((0,), [rows]) for rows in units]
    people = [
        sorted(
            (rows[subjects[rows] == name] for name in dict.fromkeys(subjects[rows].tolist())),
            key=len,
        )
        for rows in units
    ]
    if have_one_label([rows for places in people for rows in places]):
        return [((len(places),), places) for places in people]
    return [(tuple(map(len, places)), places) for places in people]
