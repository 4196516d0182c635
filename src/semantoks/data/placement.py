"""Series of one atlas among the ROIs of another, by label."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError, nearest

_MAX_DISTANCE: Final = 5.0
"""How far apart in mm two tables may put the centre of the same ROI."""


def place_rois(
    series: Float[NDArray[np.floating[Any]], "roi time"], atlas: Atlas, onto: Atlas
) -> NDArray[np.float64]:
    """Place the ROIs of a recording into a larger atlas.

    Parameters
    ----------
    series : ndarray of shape (roi, time)
        Series, ROIs in the order of `atlas`.
    atlas : Atlas
        Atlas that the series were extracted with, such as "schaefer400".
    onto : Atlas
        Atlas that holds all of its ROIs and more, such as "schaefer400-tian3-buckner7".

    Returns
    -------
    ndarray of float64, shape (roi of `onto`, time)
        Series in the order of `onto`; ROIs that the recording lacks are NaN, which is how
        `preprocess` knows them as missing.

    Raises
    ------
    InputError
        If the series are not of `atlas`, `atlas` has a ROI that `onto` lacks, or its ROIs are
        others under the same labels.

    Examples
    --------
    >>> cortex = Atlas.from_networks({"Vis": 1, "Default": 1})
    >>> brain = Atlas.from_networks({"Default": 1, "Subcortex": 1, "Vis": 1})
    >>> place_rois(np.array([[1.0, 2.0], [3.0, 4.0]]), cortex, brain)
    array([[ 3.,  4.],
           [nan, nan],
           [ 1.,  2.]])
    """
    if series.ndim != 2 or len(series) != len(atlas):
        raise InputError(
            f"series of shape (roi, time) with the {len(atlas)} ROIs of atlas {atlas.name!r} were "
            f"expected, but came with shape {series.shape}."
        )
    placed = np.full((len(onto), series.shape[1]), np.nan)
    placed[roi_positions(atlas, onto)] = series
    return placed


def roi_positions(atlas: Atlas, onto: Atlas) -> NDArray[np.intp]:
    """Find the ROIs of an atlas in a larger one by their labels.

    Examples
    --------
    >>> whole = Atlas.load("schaefer400-tian3-buckner7")
    >>> roi_positions(Atlas.load("schaefer400"), whole)[:3]
    array([0, 1, 2])
    """
    position = {label: i for i, label in enumerate(onto.labels)}
    unknown = [label for label in atlas.labels if label not in position]
    if unknown:
        raise InputError(
            f"atlas {atlas.name!r} ({len(atlas)} ROIs) cannot be placed into {onto.name!r} "
            f"({len(onto)} ROIs): {len(unknown)} of its ROIs are not there, such as "
            f"{', '.join(map(repr, unknown[:3]))}.{nearest(unknown[0], onto.labels)} ROIs are "
            "matched by label: use the same labels, and leave out what the model does not know."
        )
    found = np.array([position[label] for label in atlas.labels], dtype=np.intp)
    _check_same_rois(atlas, onto, found)
    return found


def _check_same_rois(atlas: Atlas, onto: Atlas, found: NDArray[np.intp]) -> None:
    """Refuse equal labels of other ROIs: finer and coarser parcellations share many labels."""
    distance = np.linalg.norm(atlas.coordinates - onto.coordinates[found], axis=1)
    if np.isfinite(distance).all():
        if distance.max() > _MAX_DISTANCE:
            far = int(distance.argmax())
            raise InputError(
                f"ROI {atlas.labels[far]!r} of atlas {atlas.name!r} lies {distance[far]:.0f} mm "
                f"away from the one in {onto.name!r}: equal labels, other ROIs. Extract the series "
                "with the model's parcellation."
            )
        return
    for name, rois in zip(onto.network_names, onto.network_indices, strict=True):
        there = int(np.isin(rois, found).sum())
        if 0 < there < len(rois):
            raise InputError(
                f"atlas {atlas.name!r} has only {there} of the {len(rois)} ROIs of network "
                f"{name!r} of {onto.name!r}, and no coordinates that tell whether these are the "
                "same ROIs (a coarser parcellation has the same labels). Give coordinates in both "
                "tables, or all ROIs of the network with NaN for those that are missing."
            )
