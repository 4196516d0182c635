"""Derivatives of fMRIPrep: volumes in a standard space, averaged in the ROIs of an atlas image.

For ``sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz`` these are read::

    ..._space-MNI152NLin6Asym_res-2_desc-preproc_bold.json      RepetitionTime
    ..._space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz      which voxels are brain
    sub-01_task-rest_desc-confounds_timeseries.tsv (.json)      motion and what to regress out

fMRIPrep denoises nothing, so confounds are regressed out here unless told otherwise.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.bids import (
    BidsName,
    agree_on_t_r,
    keep_wanted,
    list_files,
    list_sidecars,
    parse_bids_name,
    read_t_r,
)
from semantoks.data.denoising import (
    MOTION_COLUMNS,
    clean_series,
    find_confounds,
    list_confounds,
    measure_motion,
    read_confounds,
)
from semantoks.data.images import (
    DAMAGED,
    atlas_space,
    average_rois,
    check_label_image,
    check_stream,
    explain_damage,
    labels_on_grid,
    mask_on_grid,
    space_in_name,
)
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.errors import InputError

IMAGES: Final = ("_bold.nii.gz", "_bold.nii")
_AROMA: Final = re.compile(
    r"_desc-(?:[A-Za-z]*AROMA[A-Za-z]*|(?:non|orth)?aggrDenoised)_bold\.nii(?:\.gz)?$"
)
"""Cleaned by ICA-AROMA: by fMRIPrep up to 23.0, or by fMRIPost-AROMA."""
_UNREAD: Final = (
    (
        _AROMA,
        "was cleaned by ICA-AROMA and is not read: images of fMRIPrep that were are smoothed by 6 "
        "mm, so that ROIs share signal with their neighbours, and have drifts, white matter and "
        "CSF left in them. Expected was *_space-*_desc-preproc_bold.nii.gz of the same run with "
        "its brain mask and confounds table: give the folder of fMRIPrep that holds them; "
        "--denoise says what is regressed out. If you want what ICA-AROMA left, average it in the "
        "ROIs yourself (nilearn's NiftiLabelsMasker), and give the series as a folder of .tsv "
        "files with the labels as header.",
    ),
    (
        re.compile(r"_desc-denoised(?:Smoothed)?_bold\.nii(?:\.gz)?$"),
        "is an image that XCP-D denoised, and such are not read. Expected were the series that "
        "XCP-D takes out of it, *_timeseries.tsv in the same folder: copy them there, or run XCP-D "
        "with --atlases 4S456Parcels Tian.",
    ),
    (
        re.compile(r"^(?!.*_space-).*_desc-preproc_bold\.nii(?:\.gz)?$"),
        "is in the space of the scanner (there is no space- in its name), where no atlas lies. "
        "Expected was *_space-*_desc-preproc_bold.nii.gz: run fMRIPrep with --output-spaces "
        "MNI152NLin6Asym:res-2, or name the space of the atlas image there.",
    ),
)
"""Images that are like those that are read, and why they are not."""


def cleaned_by_aroma(path: Path) -> bool:
    """Say by its name whether ICA-AROMA has cleaned an image.

    Examples
    --------
    >>> cleaned_by_aroma(Path("sub-1_task-rest_space-X_desc-smoothAROMAnonaggr_bold.nii.gz"))
    True
    """
    return _AROMA.search(path.name) is not None


def explain_unread(source: Path) -> str:
    """Say of images that are like those of fMRIPrep why they are not read."""
    paths = list_files(source, IMAGES)
    for pattern, reason in _UNREAD:
        for path in paths:
            if pattern.search(path.name):
                return f"{path} {reason}"
    return ""


_PREPROCESSED: Final = re.compile(r"_desc-preproc(_part-mag)?_bold\.nii(\.gz)?$")
"""fMRIPrep 20.2.3 wrote the entity part behind desc."""
_TIME_UNITS: Final = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


class Known(NamedTuple):
    """What is known of a scan before its series are read."""

    motion: float
    phenotypes: dict[str, Any]


def matches(source: Path) -> bool:
    """Say whether a path is, or holds, preprocessed volumes of fMRIPrep."""
    return any(
        "_space-" in path.name and _PREPROCESSED.search(path.name)
        for path in list_files(source, IMAGES)
    )


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """Find the recordings in the space of the atlas image."""
    options = options or ReaderOptions()
    options = dataclasses.replace(
        options, denoise="simple" if options.denoise == "auto" else options.denoise
    )
    images = list_files(source, IMAGES)
    names = [parse_bids_name(path) for path in images if _PREPROCESSED.search(path.name)]
    names = [name for name in names if name.get("space")]
    names = keep_wanted(names, options, source, ("task", "run", "space", "res"))
    names = _in_space(names, options, source)
    check_label_image(options, atlas)
    found = [_describe(name, atlas, options) for name in names]
    cleaned = {parse_bids_name(path).recording for path in images if cleaned_by_aroma(path)}
    told = (
        "Images that ICA-AROMA has cleaned lie beside those of desc-preproc and are not read: "
        "those of fMRIPrep are smoothed, so that ROIs share signal with their neighbours. Read is "
        f"desc-preproc, denoised by {options.denoise!r}.",
    )
    return [
        dataclasses.replace(scan, notices=scan.notices + told) if scan.scan in cleaned else scan
        for scan in found
    ]


def _in_space(names: Sequence[BidsName], options: ReaderOptions, source: Path) -> list[BidsName]:
    """Take a volume a recording, in the space of the atlas image."""
    space = atlas_space(options)
    fitting = [name for name in names if name.get("space") == space]
    others = sorted({name.get("space") for name in names} - {space})
    found = {name.recording for name in fitting}
    lacking = sorted({name.recording for name in names} - found)
    if lacking:
        raise InputError(
            f"{source}: {len(lacking)} recording(s) such as {lacking[0]!r} are in the space "
            f"{', '.join(others)}, but the atlas image {options.atlas_image} is in {space}. These "
            "spaces differ by several mm, as much as small ROIs measure. Give the atlas image of "
            f"the space {others[0]} (TemplateFlow has many atlases in both), or run fMRIPrep with "
            f"--output-spaces {space}. If you accept the shift, say so by atlas_space "
            f"(--atlas-space {others[0]})."
        )
    by_recording: dict[str, list[BidsName]] = {}
    for name in fitting:
        by_recording.setdefault(name.recording, []).append(name)
    for recording, several in by_recording.items():
        if len(several) > 1:
            raise InputError(
                f"{source}: recording {recording!r} is there {len(several)} times: "
                f"{', '.join(name.path.name for name in several)}. Choose one of them by its "
                "resolution (res, --res), or give the folder of one data set."
            )
    return fitting


def _describe(name: BidsName, atlas: Atlas, options: ReaderOptions) -> ScanFile:
    """Say of one recording who, when, how fast, and how much the head moved."""
    known = describe_confounds(name, options)
    t_r = _t_r_at_first_sight(name)
    return ScanFile(
        scan=name.recording,
        load=partial(_load, name.path, atlas, options),
        source=str(name.path),
        subject=name.subject,
        session=name.session,
        t_r=t_r,
        motion=known.motion,
        phenotypes=known.phenotypes,
        notices=_tell_shift(name, options),
        beside=(*_existing(_mask_place(name)), *list_confounds(name), *list_sidecars(name)),
        load_takes_t_r=True,
    )


def _tell_shift(name: BidsName, options: ReaderOptions) -> tuple[str, ...]:
    """Say that an atlas image is used in a space that it was not made for."""
    own = space_in_name(options.atlas_image.name) if options.atlas_image else ""
    if not own or own == name.get("space"):
        return ()
    return (
        f"The atlas image is in the space {own}, the recordings are in {name.get('space')}, and "
        "you accepted it: ROIs are shifted by up to several mm.",
    )


def describe_confounds(name: BidsName, options: ReaderOptions) -> Known:
    """Read motion out of the confounds table of an image."""
    denoising: str = options.denoise
    if options.denoise != "none" and options.global_signal == "removed":
        denoising += "+global signal"
    nothing = Known(
        float("nan"), {"denoising": denoising, "share_scrubbed": float("nan"), "n_non_steady": 0}
    )
    try:
        path = find_confounds(name)
        if path is None:
            return nothing
        motion = measure_motion(read_confounds(path, MOTION_COLUMNS), path, options)
    except InputError:
        return nothing
    return Known(
        motion.mean_displacement,
        {
            "denoising": denoising,
            "share_scrubbed": motion.share_scrubbed,
            "n_non_steady": motion.n_non_steady,
        },
    )


def _t_r_at_first_sight(name: BidsName) -> float | None:
    """Return the repetition time; NaN if that fails, which is complained of when it is loaded."""
    try:
        t_r = read_t_r(name)
        return (
            agree_on_t_r(t_r, _t_r_of_header(nib.load(name.path)), name.path)
            if t_r is None
            else t_r
        )
    except (InputError, *DAMAGED):
        return math.nan


def _t_r_of_header(image: Any) -> float | None:
    """Return the repetition time in seconds that the header of a volume gives, if it does."""
    zooms = image.header.get_zooms()
    unit = image.header.get_xyzt_units()[1]
    if len(zooms) < 4 or not zooms[3] > 0 or (unit not in _TIME_UNITS and zooms[3] == 1):
        # Tools that do not know the time leave 0, or 1 of no unit.
        return None
    return float(zooms[3]) * _TIME_UNITS.get(unit, 1.0)


def _load(
    path: Path, atlas: Atlas, options: ReaderOptions, t_r: float | None = None
) -> NDArray[np.float64]:
    """Average one recording in ROIs and clean it, shape (roi, time)."""
    name = parse_bids_name(path)
    check_stream(path)
    try:
        # Kept open, a compressed file is read once from begin to end, and not once a part.
        image = nib.load(path, keep_file_open=True)
    except DAMAGED as error:
        raise InputError(explain_damage(path, error)) from error
    if len(image.shape) != 4:
        raise InputError(
            f"{path} has shape {image.shape}; (x, y, z, time) was expected. Export it again."
        )
    t_r = agree_on_t_r(read_t_r(name), _t_r_of_header(image), path, t_r)
    if t_r is None and options.denoise != "none":
        raise InputError(
            f"{path} does not say its repetition time, which denoising needs: confounds are "
            "regressed out within a band. Give it (t_r, --t-r), or add RepetitionTime to its JSON "
            "file."
        )
    grid = labels_on_grid(options, atlas, image)
    mask = mask_on_grid(_mask_of(name), image)
    series = average_rois(image, grid, mask, options.min_roi_coverage)
    # Without denoising, nothing is filtered here.
    return clean_series(series, find_confounds(name), t_r or 1.0, options, image=path)


def _existing(path: Path) -> tuple[Path, ...]:
    """Return a file if it is there."""
    return (path,) if path.exists() else ()


def _mask_place(name: BidsName) -> Path:
    """Return where the brain mask of a volume would be."""
    mask = _PREPROCESSED.sub(r"_desc-brain\1_mask.nii\2", name.path.name)
    return name.path.with_name(mask)


def _mask_of(name: BidsName) -> Path:
    """Return the brain mask of a volume."""
    mask = _mask_place(name)
    if not mask.exists():
        raise InputError(
            f"{mask} is not there, but without the brain mask nobody knows which ROIs were "
            f"measured in {name.path.name}. Copy it from the derivatives of fMRIPrep."
        )
    return mask
