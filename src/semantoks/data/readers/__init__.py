"""Where recordings come from: a module a format, the only code that knows how files are laid out.

Each module has ``matches(source)``, which says whether a file or folder is of its format, and
``find(source, atlas)``, which lists the scans without reading their series.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, NamedTuple

from semantoks.data.atlas import Atlas
from semantoks.data.readers import arrays, original_hdf5, pcp
from semantoks.data.recording import ScanFile
from semantoks.errors import ConfigurationError, InputError, nearest

FormatName = Literal["auto", "pcp", "arrays", "original-hdf5"]


class _Format(NamedTuple):
    """A format: its name, how it is recognised, and how its scans are found."""

    name: str
    matches: Callable[[Path], bool]
    find: Callable[[Path, Atlas], list[ScanFile]]
    looks_like: str


_FORMATS: Final = (
    _Format("original-hdf5", original_hdf5.matches, original_hdf5.find, "a .h5 file"),
    _Format("pcp", pcp.matches, pcp.find, "a folder of *_rois_<atlas>.1D files"),
    _Format("arrays", arrays.matches, arrays.find, "a folder of .npy, .csv or .tsv files"),
)
"""In the order in which they are tried: a folder of .1D files also holds a .csv of phenotypes."""


def find_scans(source: Path, atlas: Atlas, *, format: FormatName = "auto") -> list[ScanFile]:
    """List the scans of a file or folder; their series are read later, one by one.

    Parameters
    ----------
    source : Path
        What holds the recordings.
    atlas : Atlas
        Atlas that the series were extracted with.
    format : {"auto", "pcp", "arrays", "original-hdf5"}
        How `source` is laid out; "auto" recognises it.

    Returns
    -------
    list of ScanFile
        The scans, sorted by their identity.

    Raises
    ------
    InputError
        If there is nothing that can be read, or two scans have the same identity.
    ConfigurationError
        If there is no such format.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} does not exist; give the file or folder with the recordings.")
    scans = sorted(_choose(source, format).find(source, atlas), key=lambda scan: scan.scan)
    if not scans:
        raise InputError(f"{source} holds no scans.")
    for first, second in pairwise(scans):
        if first.scan == second.scan:
            raise InputError(
                f"scan {first.scan!r} occurs twice: {first.source} and {second.source}. The name "
                "of a file is the identity of its scan; rename or remove one of them."
            )
    return scans


def _choose(source: Path, name: str) -> _Format:
    """Return the format that is named, or the first that fits."""
    names = ["auto", *(known.name for known in _FORMATS)]
    if name not in names:
        raise ConfigurationError(
            f"there is no format {name!r}; there are {', '.join(names)}.{nearest(name, names)}"
        )
    candidates = [known for known in _FORMATS if name in ("auto", known.name)]
    for known in candidates:
        if known.matches(source):
            return known
    expected = "; ".join(f"{known.looks_like} ({known.name})" for known in candidates)
    raise InputError(
        f"{source} {_describe(source)}. Expected was {expected}. Give the file or folder that "
        "holds the recordings."
    )


def _describe(source: Path) -> str:
    """Say what a path is, for a message."""
    if source.is_file():
        return f"is a {source.suffix or 'nameless'} file"
    held = sorted(path.name for path in source.iterdir())
    if not held:
        return "is an empty folder"
    return f"holds no recordings ({', '.join(held[:5])}{', ...' if len(held) > 5 else ''})"
