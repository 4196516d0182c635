"""Where recordings come from: a module a format, the only code that knows how files are laid out.

Each module has ``matches(source)``, which says whether a file or folder is of its format, and
``find(source, atlas)``, which lists the scans without reading their series; readers of images
take the options of reading as well. A format may have ``find_table(source)``: a table that
describes the scans and lies with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, NamedTuple

from semantoks.data import bids
from semantoks.data.atlas import Atlas
from semantoks.data.readers import (
    afni,
    arrays,
    cifti,
    conn,
    cpac,
    dpabi,
    fmriprep,
    original_hdf5,
    pcp,
    ukb,
    xcpd,
)
from semantoks.data.readers.fmriprep import explain_unread
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.data.store import is_store
from semantoks.errors import ConfigurationError, InputError, nearest

__all__ = ["FormatName", "Found", "ReaderOptions", "find_scans"]

FormatName = Literal[
    "auto",
    "pcp",
    "arrays",
    "original-hdf5",
    "fmriprep",
    "cifti",
    "xcpd",
    "ukb",
    "conn",
    "dpabi",
    "cpac",
    "afni",
]

Finder = Callable[[Path, Atlas, ReaderOptions], list[ScanFile]]


def _without_options(find: Callable[[Path, Atlas], list[ScanFile]]) -> Finder:
    """Let a reader that needs no options be called like the others."""
    return lambda source, atlas, options: find(source, atlas)


class _Format(NamedTuple):
    """A format: its name, how it is recognised, and how its scans are found."""

    name: str
    matches: Callable[[Path], bool]
    find: Finder
    looks_like: str
    find_table: Callable[[Path], Path | None] = lambda source: None


_FORMATS: Final = (
    _Format("conn", conn.matches, conn.find, "ROI_Subject*_Condition000.mat"),
    _Format("dpabi", dpabi.matches, dpabi.find, "ROISignals_*.mat"),
    _Format(
        "original-hdf5",
        original_hdf5.matches,
        _without_options(original_hdf5.find),
        "a .h5 file",
    ),
    _Format("ukb", ukb.matches, _without_options(ukb.find), "*_31018_*_*.zip"),
    _Format(
        "xcpd",
        xcpd.matches,
        xcpd.find,
        "*_stat-mean_timeseries.tsv of XCP-D",
        bids.find_participants,
    ),
    _Format(
        "fmriprep",
        fmriprep.matches,
        fmriprep.find,
        "*_space-*_desc-preproc_bold.nii.gz files",
        bids.find_participants,
    ),
    _Format(
        "cifti",
        cifti.matches,
        cifti.find,
        "*.ptseries.nii or *.dtseries.nii files",
        bids.find_participants,
    ),
    _Format("pcp", pcp.matches, pcp.find, "*_rois_<atlas>.1D files"),
    _Format(
        "cpac",
        cpac.matches,
        cpac.find,
        "sub-*_atlas-*_timeseries.1D",
        bids.find_participants,
    ),
    _Format("afni", afni.matches, afni.find, "tables of 3dROIstats (File, Sub-brick, Mean_N)"),
    _Format(
        "arrays",
        arrays.matches,
        _without_options(arrays.find),
        ".npy, .npz, .h5, .csv, .tsv, .txt, .1D or .parquet files",
        arrays.find_table,
    ),
)
"""In the order in which they are tried: folders of other formats hold .csv and .tsv files, too."""


class Found(NamedTuple):
    """What there is to read."""

    scans: list[ScanFile]
    table: Path | None
    unread: tuple[str, ...] = ()
    """Folders and files that could not be read, a phrase each."""


def find_scans(
    source: Path,
    atlas: Atlas,
    *,
    format: FormatName = "auto",
    ignore: Sequence[Path] = (),
    options: ReaderOptions | None = None,
) -> Found:
    """List the scans of a file or folder; their series are read later, one by one."""
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} does not exist; give the file or folder with the recordings.")
    if is_store(source):
        raise InputError(
            f"{source} is a store, which `prepare` has written already; recordings were expected. "
            "Give it as --data to the verbs that follow, or give the folder of the recordings."
        )
    unread: list[str] = []
    if source.is_dir():
        _ = sum(1 for _ in bids.walk(source, unread))
    ignored = {os.path.realpath(path) for path in ignore}
    options = options or ReaderOptions()
    chosen = _choose(source, format, options)
    scans = sorted(chosen.find(source, atlas, options), key=lambda scan: scan.scan)
    if ignored:
        scans = [scan for scan in scans if os.path.realpath(scan.source) not in ignored]
    if not scans:
        raise InputError(f"{source} holds no scans.")
    for first, second in pairwise(scans):
        if first.scan == second.scan:
            raise InputError(
                f"scan {first.scan!r} occurs twice: {first.source} and {second.source}. The name "
                "of a file is the identity of its scan; rename or remove one of them."
            )
    table = chosen.find_table(source)
    if table is not None and os.path.realpath(table) in ignored:
        table = None
    return Found(scans, table, tuple(unread))


def _choose(source: Path, name: str, options: ReaderOptions) -> _Format:
    """Return the format that is named, or the first that fits."""
    names = ["auto", *(known.name for known in _FORMATS)]
    if name not in names:
        raise ConfigurationError(
            f"there is no format {name!r}; there are {', '.join(names)}.{nearest(name, names)}"
        )
    candidates = [known for known in _FORMATS if name in ("auto", known.name)]
    if options.atlas_image is not None:
        # Folders of derivatives may hold several; the atlas image says which of them is meant.
        dense = options.atlas_image.name.endswith(".dlabel.nii")
        candidates.sort(key=lambda known: known.name != ("cifti" if dense else "fmriprep"))
    for known in candidates:
        if known.name == "arrays" and name == "auto":
            # Tables lie beside images, and are no recordings.
            _refuse_unread(source)
        if known.matches(source):
            return known
    if name == "fmriprep":
        _refuse_unread(source)
    expected = "; ".join(f"{known.looks_like} ({known.name})" for known in candidates)
    raise InputError(
        f"{source} {_describe(source)}. Expected was {expected}. Give the file or folder that "
        "holds the recordings."
    )


def _refuse_unread(source: Path) -> None:
    """Say why images are not read that look as if they were."""
    reason = explain_unread(source)
    if reason:
        raise InputError(f"{reason} Series that lie there as tables are read by --format arrays.")


def _describe(source: Path) -> str:
    """Say what a path is, for a message."""
    if source.is_file():
        return f"is a {source.suffix or 'nameless'} file"
    held = sorted(path.name for path in source.iterdir())
    if not held:
        return "is an empty folder"
    return f"holds no recordings ({', '.join(held[:5])}{', ...' if len(held) > 5 else ''})"
