"""CIFTI files: parcels by their names, and dense series averaged in the labels of a .dlabel.nii.

Vertices and voxels are matched by structure and number, never by where they stand in the file: a
file of labels may list structures in another order, or have the medial wall that series leave out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.images import DAMAGED, explain_damage, sum_rois
from semantoks.data.labels import match_labels
from semantoks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_VALUES_AT_ONCE: Final = 4_000_000
"""Numbers that are held at once: 32 MB as float64, and some copies."""
_BACKGROUND: Final = frozenset({"???", "", "Background", "background", "Unknown", "unknown"})
_SECONDS: Final = {"SECOND": 1.0}


class DenseLabels(NamedTuple):
    """Which grayordinates of a recording are in which ROI."""

    rois: NDArray[np.intp]
    expected: NDArray[np.intp]


def open_cifti(path: Path) -> Any:
    """Open a CIFTI-2 file without reading its series."""
    try:
        image = nib.load(path)
    except (*DAMAGED, KeyError, AttributeError) as error:
        raise InputError(explain_damage(path, error)) from error
    if not isinstance(image, nib.Cifti2Image):
        raise InputError(
            f"{path} is no CIFTI-2 file (it is a {type(image).__name__}). Files of CIFTI-1 are "
            "converted by `wb_command -file-convert -cifti-version-convert`."
        )
    return image


def t_r_of_cifti(image: Any, path: Path) -> float | None:
    """Return the repetition time of a CIFTI series."""
    axis = image.header.get_axis(0)
    if not isinstance(axis, nib.cifti2.SeriesAxis) or axis.unit not in _SECONDS:
        kind = getattr(axis, "unit", type(axis).__name__)
        raise InputError(
            f"{path}: rows in time, in seconds, were expected, but they are {kind}. It may be a "
            "map or a connectivity matrix; move it out of the folder."
        )
    return float(axis.step) * _SECONDS[axis.unit] if axis.step > 0 else None


def read_parcels(path: Path, atlas: Atlas) -> NDArray[np.float64]:
    """Read series of parcels by their names."""
    image = open_cifti(path)
    names = _parcels_in(image, path)
    match = match_labels(names, atlas, where=str(path))
    if match.n_found == 0:
        raise InputError(
            f"{path}: none of its {len(names)} parcels ({', '.join(names[:3])}, ...) is a ROI of "
            f"atlas {atlas.name!r}, which are named {', '.join(atlas.labels[:3])}, ... Give the "
            "atlas that the series were extracted with (--atlas)."
        )
    try:
        values = np.asarray(image.dataobj, dtype=np.float64).T
    except DAMAGED as error:
        raise InputError(explain_damage(path, error)) from error
    series = match.place(values)
    series[~np.nan_to_num(series).any(axis=1)] = np.nan
    return series


def list_parcels(path: Path) -> tuple[str, ...]:
    """Return the names of the parcels of a series, without reading it."""
    return _parcels_in(open_cifti(path), path)


def _parcels_in(image: Any, path: Path) -> tuple[str, ...]:
    """Return the names of the columns of an open file."""
    axis = image.header.get_axis(1)
    if not isinstance(axis, nib.cifti2.ParcelsAxis):
        raise InputError(
            f"{path}: columns that are parcels were expected, but they are of the kind "
            f"{type(axis).__name__}. Parcellate it by `wb_command -cifti-parcellate`, or name it "
            ".dtseries.nii and give a .dlabel.nii (--atlas-image)."
        )
    return tuple(str(name) for name in axis.name)


def read_dense(
    path: Path, atlas_image: Path, atlas: Atlas, min_coverage: float
) -> NDArray[np.float64]:
    """Average a dense series within ROIs, some grayordinates at a time."""
    image = open_cifti(path)
    axis = _dense_axis(image, path)
    rois, expected = match_grayordinates(axis, path, atlas_image, atlas)
    n_times, n_all = image.shape
    sums = np.zeros((len(atlas), n_times))
    counts = np.zeros(len(atlas))
    step = max(1, _VALUES_AT_ONCE // n_times)
    for start in range(0, n_all, step):
        here = rois[start : start + step]
        wanted = np.flatnonzero(here >= 0)
        if not wanted.size:
            continue
        try:
            # Columns lie together in the file: all times of one grayordinate, then the next.
            part = np.asarray(image.dataobj[:, start : start + step], dtype=np.float64)[:, wanted]
        except DAMAGED as error:
            raise InputError(explain_damage(path, error)) from error
        np.nan_to_num(part, copy=False, posinf=0.0, neginf=0.0)
        measured = part.any(axis=0)
        members = here[wanted][measured]
        sums += sum_rois(part[:, measured].T, members, len(atlas))
        counts += np.bincount(members, minlength=len(atlas))
    series = sums / np.maximum(counts, 1)[:, None]
    covered = counts / np.maximum(expected, 1)
    series[(covered < min_coverage) | (counts == 0)] = np.nan
    return series


def _dense_axis(image: Any, path: Path) -> Any:
    """Return the grayordinates of a dense file."""
    axis = image.header.get_axis(1)
    if not isinstance(axis, nib.cifti2.BrainModelAxis):
        raise InputError(
            f"{path}: columns that are vertices and voxels were expected, but they are of the kind "
            f"{type(axis).__name__}."
        )
    return axis


def match_grayordinates(axis: Any, path: Path, atlas_image: Path, atlas: Atlas) -> DenseLabels:
    """Find the ROI of every grayordinate of a recording."""
    image = open_cifti(atlas_image)
    labels_axis = image.header.get_axis(0)
    if not isinstance(labels_axis, nib.cifti2.LabelAxis) or len(labels_axis) != 1:
        n_maps = f"{len(labels_axis)} maps of kind {type(labels_axis).__name__}"
        raise InputError(
            f"{atlas_image}: one map of labels (.dlabel.nii) was expected, but there are {n_maps}. "
            "Take one out by `wb_command -cifti-merge OUT -cifti IN -column 1`."
        )
    own_axis = _dense_axis(image, atlas_image)
    _check_same_grid(axis, path, own_axis, atlas_image)
    keys = np.asarray(image.dataobj).ravel().astype(np.int64)
    own_rois = _rois_of_keys(keys, labels_axis.label[0], atlas, atlas_image)
    place = _index(own_axis).get_indexer(_index(axis))
    rois = np.where(place >= 0, own_rois[place], -1)
    expected = np.bincount(own_rois[own_rois >= 0], minlength=len(atlas))
    return DenseLabels(rois.astype(np.intp), expected.astype(np.intp))


def _index(axis: Any) -> pd.MultiIndex:
    """Return structure, vertex and voxel of every grayordinate; they are unique in a file."""
    import pandas as pd

    return pd.MultiIndex.from_arrays([axis.name, axis.vertex, *axis.voxel.T])


def _check_same_grid(axis: Any, path: Path, own_axis: Any, atlas_image: Path) -> None:
    """Refuse surfaces of another density, and voxels of another grid."""
    for structure, n_vertices in axis.nvertices.items():
        own = own_axis.nvertices.get(structure, n_vertices)
        if own != n_vertices:
            raise InputError(
                f"{path} has {n_vertices} vertices in {structure}, but {atlas_image} has {own}: "
                "these are surfaces of another density. Give the .dlabel.nii of this density "
                "(32k for the 91k grayordinates of HCP and fMRIPrep, 59k for 170k)."
            )
    if axis.volume_shape is None or own_axis.volume_shape is None:
        return
    if tuple(axis.volume_shape) != tuple(own_axis.volume_shape) or not np.allclose(
        axis.affine, own_axis.affine, atol=1e-3
    ):
        raise InputError(
            f"the voxels of {path} (grid {tuple(axis.volume_shape)}) are not on the grid of "
            f"{atlas_image} {tuple(own_axis.volume_shape)}, or are shifted against it. Give the "
            ".dlabel.nii that was made for these grayordinates."
        )


def _rois_of_keys(
    keys: NDArray[np.int64], table: dict[int, Any], atlas: Atlas, atlas_image: Path
) -> NDArray[np.intp]:
    """Return the position in the atlas of every grayordinate of the atlas image."""
    names = {int(key): str(entry[0]) for key, entry in table.items()}
    used = [key for key in np.unique(keys).tolist() if names.get(key, "") not in _BACKGROUND]
    match = match_labels([names[key] for key in used], atlas, where=str(atlas_image))
    if match.n_found == 0:
        raise InputError(
            f"{atlas_image}: none of its {len(used)} labels "
            f"({', '.join(names[key] for key in used[:3])}, ...) is a ROI of atlas "
            f"{atlas.name!r}, which are named {', '.join(atlas.labels[:3])}, ... Give the "
            ".dlabel.nii of this atlas, or the atlas of these labels (--atlas)."
        )
    rois = np.full(keys.size, -1, dtype=np.intp)
    for roi, position in enumerate(match.positions):
        if position >= 0:
            rois[keys == used[position]] = roi
    return rois
