"""Images that lie where those of fMRIPrep do, are not read, and why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from semantoks.data.bids import list_files

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
