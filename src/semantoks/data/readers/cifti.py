"""CIFTI series: of parcels (``.ptseries.nii``), or dense (``.dtseries.nii``) with labels.

Three ways to name them are known::

    100307/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii
    sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii           fMRIPrep, confounds beside it
    sub-01_task-rest_space-fsLR_den-91k_desc-denoised_bold.dtseries.nii                     XCP-D

Others are read as they are; the name is the scan.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

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
from semantoks.data.denoising import clean_series, find_confounds, list_confounds
from semantoks.data.grayordinates import open_cifti, read_dense, read_parcels, t_r_of_cifti
from semantoks.data.readers.fmriprep import Known, describe_confounds
from semantoks.data.readers.xcpd import list_beside, look_beside, put_back
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.errors import InputError

Producer = Literal["hcp", "fmriprep", "clean", "unknown"]

_DENSE: Final = ".dtseries.nii"
_PARCELS: Final = ".ptseries.nii"
_HCP: Final = re.compile(
    r"(?P<run>[A-Za-z0-9]+fMRI_.+?)_Atlas(?P<how>(?:_[A-Za-z0-9]+)*)(?:\.[dp]tseries\.nii)"
)

_JOINED: Final[Mapping[Producer, re.Pattern[str]]] = {
    "hcp": re.compile(r"(?<=fMRI_REST)\d+_[A-Z]{2}$"),
    "clean": re.compile(r"_(?:run|dir)-[^_]+"),
}
"""What tells runs apart; the name without it is that of all runs together."""


class _Series(NamedTuple):
    """A file of series, and whose it is."""

    name: BidsName
    producer: Producer
    scan: str
    subject: str
    cleaning: str


def matches(source: Path) -> bool:
    """Say whether a path is, or holds, CIFTI series."""
    return bool(list_files(source, (_DENSE, _PARCELS)))


def find(source: Path, atlas: Atlas, options: ReaderOptions | None = None) -> list[ScanFile]:
    """Find the series of parcels or, if there is an atlas image, the dense series."""
    options = options or ReaderOptions()
    ending = _ending(source, options)
    found = [_recognise(path) for path in list_files(source, (ending,))]
    wanted = {
        name.path
        for name in keep_wanted(
            [series.name for series in found], options, source, _asked_entities(found)
        )
    }
    found = _without_joined_runs(found)
    found = _one_a_recording([x for x in found if x.name.path in wanted], source)
    return [_describe(series, atlas, options) for series in found]


def _ending(source: Path, options: ReaderOptions) -> str:
    """Choose between dense series and parcels by whether there is an atlas image."""
    image = options.atlas_image
    if image is None:
        if list_files(source, (_PARCELS,)):
            return _PARCELS
        raise InputError(
            f"{source}: dense series (.dtseries.nii) need a file of labels that says which "
            "vertices and voxels are which ROI: give the .dlabel.nii of the atlas (atlas_image, "
            "--atlas-image). Series of parcels (.ptseries.nii) need none."
        )
    if not image.name.endswith(".dlabel.nii"):
        raise InputError(
            f"atlas image {image} is no .dlabel.nii, but {source} holds CIFTI series. Give the "
            ".dlabel.nii of the atlas; for the volumes of fMRIPrep, say --format fmriprep."
        )
    if not list_files(source, (_DENSE,)):
        raise InputError(
            f"{source} holds no dense series (.dtseries.nii) that {image} could be laid upon. "
            "Series of parcels (.ptseries.nii) are read without an atlas image."
        )
    return _DENSE


def _asked_entities(found: Sequence[_Series]) -> tuple[str, ...]:
    """Return the entities that files can be chosen by; runs of HCP are named otherwise."""
    return () if any(series.producer == "hcp" for series in found) else ("task", "run", "space")


def _recognise(path: Path) -> _Series:
    """Say by its name who wrote a file, and of whom."""
    name = parse_bids_name(path)
    hcp = _HCP.fullmatch(path.name)
    if hcp:
        inside = [part.name for part in path.parents]
        place = inside.index("MNINonLinear") if "MNINonLinear" in inside else -1
        subject = inside[place + 1] if 0 <= place < len(inside) - 1 else ""
        scan = f"{subject}_{hcp['run']}" if subject else hcp["run"]
        return _Series(name, "hcp", scan, subject, hcp["how"])
    stem = path.name.removesuffix(name.extension)
    if not name.subject:
        return _Series(name, "unknown", stem, "", "")
    denoised = name.suffix == "timeseries" or name.get("desc") in {"denoised", "denoisedSmoothed"}
    producer: Producer = "clean" if denoised else "fmriprep" if name.suffix == "bold" else "unknown"
    return _Series(name, producer, name.recording, name.subject, name.get("desc"))


def _without_joined_runs(found: Sequence[_Series]) -> list[_Series]:
    """Leave out what HCP and XCP-D made of runs put one behind the other: time jumps in it."""
    joined = {
        (series.producer, series.subject, _JOINED[series.producer].sub("", series.scan))
        for series in found
        if series.producer in _JOINED and _JOINED[series.producer].search(series.scan)
    }
    return [x for x in found if (x.producer, x.subject, x.scan) not in joined]


def _one_a_recording(found: Sequence[_Series], source: Path) -> list[_Series]:
    """Take one file a recording: of HCP's the most processed, of others the only one."""
    by_scan: dict[tuple[Path | None, str], list[_Series]] = {}
    for series in found:
        # Without a subject, equal names in two folders are of two people and not of one run.
        folder = None if series.subject else series.name.path.parent
        by_scan.setdefault((folder, series.scan), []).append(series)
    chosen = []
    for (_, scan), several in by_scan.items():
        if all(series.producer == "hcp" for series in several):
            several = [max(several, key=_how_processed)]
        if len(several) > 1:
            raise InputError(
                f"{source}: recording {scan!r} has {len(several)} files: "
                f"{', '.join(series.name.path.name for series in several[:5])}. Give the folder "
                "of one of them, or a single file. Series of parcels that XCP-D wrote for several "
                "atlases are joined by --format xcpd."
            )
        chosen += several
    return chosen


def _how_processed(series: _Series) -> tuple[bool, bool, int]:
    """Rank the files of one HCP run: cleaned, aligned by all modalities, most steps."""
    return "_clean" in series.cleaning, "_MSMAll" in series.cleaning, len(series.cleaning)


def _describe(series: _Series, atlas: Atlas, options: ReaderOptions) -> ScanFile:
    """Say of one recording who, when, how fast, and how much the head moved."""
    denoise = options.denoise
    if denoise == "auto":
        denoise = "simple" if series.producer == "fmriprep" else "none"
    settled = dataclasses.replace(options, denoise=denoise)
    known = Known(float("nan"), {})
    notices: tuple[str, ...] = ()
    tables: Sequence[Path] = ()
    if series.producer == "fmriprep":
        known = describe_confounds(series.name, settled)
        tables = list_confounds(series.name)
    elif series.producer == "clean":
        beside = look_beside(series.name, options)
        known = Known(beside.motion, {"share_scrubbed": beside.share_censored})
        notices, tables = beside.notices, list_beside(series.name)
    t_r = _t_r_at_first_sight(series.name)
    return ScanFile(
        scan=series.scan,
        load=partial(_load, series, atlas, options, settled),
        source=str(series.name.path),
        subject=series.subject,
        session=series.name.session,
        t_r=t_r,
        motion=known.motion,
        phenotypes=known.phenotypes,
        notices=notices,
        beside=(*tables, *list_sidecars(series.name)),
        load_takes_t_r=True,
    )


def _t_r_at_first_sight(name: BidsName) -> float | None:
    """Return the repetition time; NaN if that fails, which is complained of when it is loaded."""
    try:
        t_r = t_r_of_cifti(open_cifti(name.path), name.path)
        return read_t_r(name) if t_r is None else t_r
    except InputError:
        return math.nan


def _load(
    series: _Series,
    atlas: Atlas,
    asked: ReaderOptions,
    options: ReaderOptions,
    t_r: float | None = None,
) -> NDArray[np.float64]:
    """Read one recording, shape (roi, time)."""
    path = series.name.path
    _check_denoising(series, asked)
    header = t_r_of_cifti(open_cifti(path), path)
    t_r = agree_on_t_r(read_t_r(series.name), header, path, t_r)
    if t_r is None and series.producer == "fmriprep" and options.denoise != "none":
        raise InputError(
            f"{path} does not say its repetition time, which denoising needs: confounds are "
            "regressed out within a band. Give it (t_r, --t-r)."
        )
    if options.atlas_image is None:
        values = read_parcels(path, atlas)
    else:
        values = read_dense(path, options.atlas_image, atlas, options.min_roi_coverage)
    if series.producer == "clean":
        return put_back(values, series.name, options)
    if series.producer != "fmriprep":
        return values
    return clean_series(values, find_confounds(series.name), t_r or 1.0, options, image=path)


def _check_denoising(series: _Series, asked: ReaderOptions) -> None:
    """Refuse to denoise what is clean, and to take for clean what is not."""
    path = series.name.path
    raw = series.producer == "hcp" and "_clean" not in series.cleaning
    if raw and asked.denoise == "auto":
        raise InputError(
            f"{path} was not denoised (its name lacks 'clean'), and there is no cleaned file of "
            "this run. Take the files of the ICA-FIX package (*_hp2000_clean.dtseries.nii, or "
            "*_hp0_clean), or read it as it is (denoise='none', --denoise none)."
        )
    if series.producer != "fmriprep" and asked.denoise not in ("auto", "none"):
        raise InputError(
            f"{path} is not of fMRIPrep and has no confounds table, so denoising by "
            f"{asked.denoise!r} cannot be done. Leave --denoise out; series of XCP-D and of HCP's "
            "ICA-FIX are clean already."
        )
