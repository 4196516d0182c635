"""Volumes averaged in the ROIs of a label image, and how much of each ROI was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from semantoks.data.label_image import DAMAGED, LabelGrid, explain_damage
from semantoks.data.roi_sums import sum_rois
from semantoks.errors import InputError

_VOXELS_AT_ONCE: Final = 10_000_000
"""Voxels times volumes that are held at once: 80 MB while they are scaled."""


def mask_on_grid(path: Path, image: Any) -> NDArray[np.bool_]:
    """Read a brain mask on the grid of a recording."""
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
    series[(covered < min_coverage) | (counts == 0)] = np.nan
    return series


def _read_volumes(image: Any, when: slice) -> NDArray[np.float32]:
    """Read some volumes."""
    try:
        return np.asarray(image.dataobj[..., when], dtype=np.float32)
    except DAMAGED as error:
        raise InputError(explain_damage(Path(image.get_filename()), error)) from error
