"""Volumes averaged in the ROIs of a label image, and how much of each ROI was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from semantoks.data.label_image import DAMAGED, LabelGrid, explain_damage
from semantoks.errors import InputError

_VOXELS_AT_ONCE: Final = 30_000_000
"""Voxels times volumes that are held at once: 120 MB as float32."""


def mask_on_grid(path: Path, image: Any) -> NDArray[np.bool_]:
    """Read a brain mask on the grid of a recording.

    Parameters
    ----------
    path : Path
        The mask.
    image : nibabel image
        The recording.

    Returns
    -------
    ndarray of bool, shape (x, y, z)
        Voxels in the brain.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    from nilearn.image import resample_img

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

    Voxels that are zero or NaN in all volumes lie outside of what was measured, whatever the mask
    says.

    Parameters
    ----------
    image : nibabel image
        The recording, shape (x, y, z, time).
    grid : LabelGrid
        The ROIs on its grid.
    mask : ndarray of bool, shape (x, y, z)
        The brain.
    min_coverage : float
        A ROI of which a smaller share was measured is NaN throughout.

    Returns
    -------
    ndarray of float64, shape (roi, time)
        Means over the voxels that were measured.
    """
    from nilearn.maskers import NiftiLabelsMasker

    n_rois = len(grid.expected)
    inside = np.where(mask, grid.labels, 0)
    measured = np.zeros(inside.shape, dtype=bool)
    series = np.full((n_rois, image.shape[3]), np.nan)
    if not inside.any():
        return series
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(inside, image.affine),
        resampling_target=None,
        standardize=None,
        reports=False,
    ).fit()
    step = max(1, _VOXELS_AT_ONCE // inside.size)
    for start in range(0, image.shape[3], step):
        part = _read_volumes(image, slice(start, start + step))
        measured |= (part != 0).any(axis=3)
        means = masker.transform(nib.Nifti1Image(part, image.affine))
        rois = [int(value) - 1 for key, value in masker.region_ids_.items() if key != "background"]
        series[rois, start : start + step] = means.T
    n_inside = np.bincount(inside.ravel(), minlength=n_rois + 1)[1:]
    n_measured = np.bincount(inside[measured], minlength=n_rois + 1)[1:]
    series *= (n_inside / np.maximum(n_measured, 1))[:, None]
    covered = n_measured / np.maximum(grid.expected, 1)
    series[(covered < min_coverage) | (n_measured == 0)] = np.nan
    return series


def _read_volumes(image: Any, when: slice) -> NDArray[np.float32]:
    """Read some volumes; what is not finite is 0."""
    try:
        part = np.array(image.dataobj[..., when], dtype=np.float32)
    except DAMAGED as error:
        raise InputError(explain_damage(Path(image.get_filename()), error)) from error
    return np.nan_to_num(part, copy=False, posinf=0.0, neginf=0.0)
