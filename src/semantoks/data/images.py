"""Label images, and ROI averages of volumes."""

from __future__ import annotations

import gzip
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.affines import apply_affine
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.recording import ReaderOptions
from semantoks.errors import InputError

# The integers of such volumes mean nothing by themselves: the published volume of Tian's subcortex
# joined with Schaefer's cortex numbers the subcortex first, others number it last. So the centre of
# every label is compared with where the atlas has it before any of them is used.

DAMAGED: Final = (OSError, EOFError, ValueError, zlib.error, ImageFileError)
"""What reading a file that is cut off or no image raises."""

_SPACE: Final = re.compile(r"MNI\w*?(?:Asym|Sym|Lin)(?=[^A-Za-z0-9]|$)|FSLMNI152|T1w|fsLR")
_NAMED: Final = re.compile(r"(?:space|tpl)-([A-Za-z0-9]+)")
_SAME_SPACE: Final = {"FSLMNI152": "MNI152NLin6Asym", "MNI152NLin6": "MNI152NLin6Asym"}
_FAR: Final = 15.0
"""A ROI whose centre is further from that of the atlas, in mm, is another one."""
_MOST_FAR: Final = 0.02
"""Share of ROIs that may be, since centres of ROIs in two halves depend on how they are cut."""


class LabelGrid(NamedTuple):
    """An atlas on the grid of a recording."""

    labels: NDArray[np.int32]
    expected: NDArray[np.float64]


def explain_damage(path: Path, error: BaseException) -> str:
    """Say that an image cannot be read."""
    return (
        f"{path} cannot be read: {error or type(error).__name__}. It is damaged, cut off, or a "
        "link to a file that was not downloaded; copy it again."
    )


def check_stream(path: Path) -> None:
    """Read a compressed file to its end, where its checksum stands: readers stop before it."""
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path, "rb") as stream:
            while stream.read(1 << 20):
                pass
    except DAMAGED as error:
        raise InputError(explain_damage(path, error)) from error


def space_in_name(name: str) -> str:
    """Read the space of an image out of its name.

    Examples
    --------
    >>> space_in_name("tpl-MNI152NLin2009cAsym_res-02_atlas-Schaefer2018_dseg.nii.gz")
    'MNI152NLin2009cAsym'
    >>> space_in_name("Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.nii.gz")
    'MNI152NLin6Asym'
    """
    named = _NAMED.search(name)
    loose = _SPACE.search(name)
    space = named[1] if named else loose[0] if loose else ""
    return _SAME_SPACE.get(space, space)


def atlas_space(options: ReaderOptions) -> str:
    """Return the space that the atlas image is to be used in."""
    space = options.atlas_space or space_in_name(_image_of(options).name)
    if not space:
        raise InputError(
            f"{options.atlas_image} does not say in its name which space it is in. Spaces that are "
            "called MNI differ by several mm: name its own (atlas_space, --atlas-space), such as "
            "MNI152NLin6Asym (FSL, the atlases of nilearn) or MNI152NLin2009cAsym (the default of "
            "fMRIPrep)."
        )
    return _SAME_SPACE.get(space, space)


def check_label_image(options: ReaderOptions, atlas: Atlas) -> None:
    """Check that the labels of the atlas image are the ROIs of the atlas."""
    path = _image_of(options)
    if not atlas.values:
        raise InputError(
            f"atlas {atlas.name!r} does not say which integer of {path} stands for which ROI. Add "
            "a column 'value' to its table."
        )
    image, values = _read_labels(path, _stamp(path))
    there = set(np.unique(values).tolist()) - {0}
    missing = [
        label for label, value in zip(atlas.labels, atlas.values, strict=True) if value not in there
    ]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the {len(atlas)} ROIs of atlas {atlas.name!r} "
            f"({', '.join(missing[:3])}): it has {len(there)} labels, and none with the values of "
            "these. Give the volume of this atlas (atlas_image, --atlas-image), or the atlas of "
            "this volume (--atlas)."
        )
    _check_places(path, image, values, atlas)


def paint_rois(
    path: Path, atlas: Atlas, values: Float[NDArray[np.floating[Any]], "roi"]
) -> nib.Nifti1Image:
    """Write a value into every voxel of the ROI that it belongs to; 0 elsewhere."""
    check_label_image(ReaderOptions(atlas_image=path), atlas)
    image, labels = _read_labels(path, _stamp(path))
    order = np.argsort(atlas.values)
    numbers = np.asarray(atlas.values)[order]
    place = np.searchsorted(numbers, labels).clip(max=len(numbers) - 1)
    painted = np.where(numbers[place] == labels, np.asarray(values, np.float32)[order][place], 0)
    return nib.Nifti1Image(painted.astype(np.float32), image.affine)


def _check_places(path: Path, image: Any, values: NDArray[np.int32], atlas: Atlas) -> None:
    """Refuse a volume whose labels lie elsewhere than the ROIs of the same value."""
    from scipy import ndimage

    if not np.isfinite(atlas.coordinates).all():
        return
    centres = ndimage.center_of_mass(np.ones_like(values), values, list(atlas.values))
    places = apply_affine(image.affine, np.array(centres))
    distance = np.linalg.norm(places - atlas.coordinates, axis=1)
    if (distance > _FAR).mean() > _MOST_FAR:
        worst = int(distance.argmax())
        told = [f"({x:.0f}, {y:.0f}, {z:.0f})" for x, y, z in (places[worst], _place(atlas, worst))]
        raise InputError(
            f"{path} numbers its labels otherwise than atlas {atlas.name!r}: "
            f"{int((distance > _FAR).sum())} of {len(atlas)} ROIs lie more than {_FAR:.0f} mm from "
            f"where the atlas has them. Label {atlas.values[worst]} is at {told[0]} mm, but "
            f"{atlas.labels[worst]} is at {told[1]} mm. Give the volume that belongs to the atlas, "
            "or a table of the atlas (--atlas FILE) whose column 'value' has the numbers of this "
            "volume."
        )


def _place(atlas: Atlas, roi: int) -> NDArray[np.float64]:
    """Return the centre of a ROI in mm."""
    place: NDArray[np.float64] = atlas.coordinates[roi]
    return place


def _image_of(options: ReaderOptions) -> Path:
    """Return the path of the atlas image, or say that one is needed."""
    if options.atlas_image is None:
        raise InputError(
            "volumes need an image that says where the ROIs of the atlas are: give the label "
            "volume of the atlas in the space of the recordings (atlas_image, --atlas-image), such "
            "as a *_dseg.nii.gz of TemplateFlow. If series were extracted already, name their "
            "format instead (format, --format)."
        )
    return options.atlas_image


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and age of a file, which tell whether it is still the one that was read."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(
            f"atlas image {path} cannot be read: {error.strerror}. Give the label volume of the "
            "atlas (atlas_image, --atlas-image)."
        ) from error
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _read_labels(path: Path, _stamp: tuple[int, int]) -> tuple[Any, NDArray[np.int32]]:
    """Read the atlas image and its labels."""
    check_stream(path)
    try:
        image = nib.load(path)
        values = np.asarray(image.dataobj)
    except DAMAGED as error:
        raise InputError(f"atlas image {explain_damage(path, error)}") from error
    values = values.squeeze()
    whole = np.round(values)
    if values.ndim != 3 or not np.isfinite(values).all() or not (whole == values).all():
        raise InputError(
            f"atlas image {path} of shape {image.shape} is no volume of labels: whole numbers in "
            "three dimensions were expected (for dense CIFTI series, a .dlabel.nii). Probability "
            "maps cannot be used."
        )
    return image, whole.astype(np.int32)


@lru_cache(maxsize=4)
def _labels_on_grid(
    path: Path,
    stamp: tuple[int, int],
    atlas: Atlas,
    shape: tuple[int, int, int],
    affine: bytes,
) -> LabelGrid:
    """Bring the ROIs of an atlas to a grid; the nearest label counts."""
    from nilearn.image import resample_img

    image, values = _read_labels(path, stamp)
    target = np.frombuffer(affine).reshape(4, 4)
    number = np.zeros(max(values.max(), *atlas.values) + 1, dtype=np.int32)
    number[list(atlas.values)] = np.arange(1, len(atlas) + 1)
    own = np.where(values > 0, number[values.clip(0)], 0).astype(np.int32)
    volume = abs(np.linalg.det(image.affine[:3, :3])) / abs(np.linalg.det(target[:3, :3]))
    expected = np.bincount(own.ravel(), minlength=len(atlas) + 1)[1:] * volume
    if own.shape == shape and np.allclose(image.affine, target, atol=1e-4):
        return LabelGrid(own, expected)
    moved = resample_img(
        nib.Nifti1Image(own, image.affine),
        target_affine=target,
        target_shape=shape,
        interpolation="nearest",
        copy_header=True,
        force_resample=True,
    )
    return LabelGrid(np.asarray(moved.dataobj).astype(np.int32), expected)


def labels_on_grid(options: ReaderOptions, atlas: Atlas, image: Any) -> LabelGrid:
    """Bring the ROIs of an atlas to the grid of a recording."""
    affine = np.ascontiguousarray(image.affine, dtype=np.float64).tobytes()
    path = _image_of(options)
    return _labels_on_grid(path, _stamp(path), atlas, tuple(image.shape[:3]), affine)


def sum_rois(
    values: Float[NDArray[np.floating[Any]], "element time"],
    members: NDArray[np.integer[Any]],
    n_rois: int,
) -> NDArray[np.float64]:
    """Sum the series of the elements of every ROI.

    Examples
    --------
    >>> sum_rois(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 1, 2]), 3)
    array([[0., 0.],
           [4., 6.],
           [5., 6.]])
    """
    from scipy.sparse import csr_array

    n = len(members)
    weights = csr_array((np.ones(n), (members, np.arange(n))), shape=(n_rois, n))
    return np.asarray(weights @ values, dtype=np.float64)


_VOXELS_AT_ONCE: Final = 10_000_000
"""Voxels times volumes that are held at once: 80 MB while they are scaled."""


def mask_on_grid(path: Path, image: Any) -> NDArray[np.bool_]:
    """Read a brain mask on the grid of a recording."""
    from nilearn.image import resample_img

    check_stream(path)
    try:
        mask = nib.load(path)
        inside = np.asarray(mask.dataobj).squeeze() > 0
    except DAMAGED as error:
        raise InputError(explain_damage(path, error)) from error
    if inside.shape == image.shape[:3] and np.allclose(mask.affine, image.affine):
        return inside
    moved = resample_img(
        nib.Nifti1Image(inside.astype(np.int8), mask.affine),
        target_affine=image.affine,
        target_shape=image.shape[:3],
        interpolation="nearest",
        copy_header=True,
        force_resample=True,
    )
    return np.asarray(moved.dataobj) > 0


def average_rois(
    image: Any, grid: LabelGrid, mask: NDArray[np.bool_], min_coverage: float
) -> NDArray[np.float64]:
    """Average a recording within every ROI, some volumes at a time.

    The means are those of nilearn's NiftiLabelsMasker, which takes three times as long and the
    memory of the whole recording several times. Voxels that are zero or NaN in all volumes lie
    outside of what was measured, whatever the mask says.
    """
    n_rois = len(grid.expected)
    inside = mask & (grid.labels > 0)
    members = grid.labels[inside] - 1
    measured = np.zeros(members.size, dtype=bool)
    sums = np.zeros((n_rois, image.shape[3]))
    step = max(1, _VOXELS_AT_ONCE // inside.size)
    for start in range(0, image.shape[3], step):
        part = _read_volumes(image, slice(start, start + step))[inside]
        np.nan_to_num(part, copy=False, posinf=0.0, neginf=0.0)
        measured |= part.any(axis=1)
        sums[:, start : start + step] = sum_rois(part, members, n_rois)
    counts = np.bincount(members[measured], minlength=n_rois)
    series = sums / np.maximum(counts, 1)[:, None]
    covered = counts / np.maximum(grid.expected, 1)
    unseen = (covered < min_coverage) | (counts == 0)
    if unseen.all():
        raise InputError(_explain_no_overlap(image, grid, mask))
    series[unseen] = np.nan
    return series


def _explain_no_overlap(image: Any, grid: LabelGrid, mask: NDArray[np.bool_]) -> str:
    """Explain why no ROI of the atlas lies within what was measured."""
    codes = [int(image.header[f"{kind}_code"]) for kind in ("sform", "qform")]
    place = "outside of its field of view" if not grid.labels.any() else "outside of its brain mask"
    if not mask.any():
        place = "nowhere, since its brain mask is empty"
    orientation = (
        "The header has no orientation (sform_code and qform_code are 0), so that nobody knows "
        "where its voxels lie: write it again from an image that has one."
        if not any(codes)
        else "Check that both are in the space that their names say, and look at them together in "
        "a viewer."
    )
    return (
        f"{image.get_filename()} and the atlas image hardly overlap: all ROIs lie, for the most "
        f"part, {place}, or where it holds nothing but zeros. "
        f"{orientation}"
    )


def _read_volumes(image: Any, when: slice) -> NDArray[np.float32]:
    """Read some volumes."""
    try:
        return np.asarray(image.dataobj[..., when], dtype=np.float32)
    except DAMAGED as error:
        raise InputError(explain_damage(Path(image.get_filename()), error)) from error
