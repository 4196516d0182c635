"""The HDF5 file of the original code: ``timeseries/<atlas>`` of (scan, roi, time).

Several atlases are joined in order. Beside them stand ``long_subject_id`` (bytes, a name a scan),
``ts_len`` (optional, number of volumes) and labels, a value a scan, at the root or in ``labels/``.
Scans shorter than the longest are padded with NaN at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.recording import ScanFile, parse_entities
from semantoks.errors import InputError, nearest

_SERIES: Final = "timeseries"
_IDENTITY: Final = "long_subject_id"
_LENGTH: Final = "ts_len"
_CACHE_BYTES: Final = 256 * 2**20
"""Files written as in the original notebook have chunks of many scans: keep a row of chunks."""


def matches(source: Path) -> bool:
    """Say whether a path is an HDF5 file."""
    return source.is_file() and (source.suffix in {".h5", ".hdf5"} or h5py.is_hdf5(source))


def find(source: Path, atlas: Atlas) -> list[ScanFile]:
    """Find the scans of a file."""
    try:
        return _list_scans(_Archive(source), source, atlas)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{source} is damaged: its structure cannot be read ({error}). Copy or download it "
            "again."
        ) from error


def _list_scans(archive: _Archive, source: Path, atlas: Atlas) -> list[ScanFile]:
    """List the rows of an open archive."""
    file = archive.open()
    parts = _find_parts(file, source, atlas)
    n_scans = _check_shapes(file, source, atlas, parts)
    names = _read_names(file, source, n_scans)
    lengths = _read_lengths(file, source, n_scans, int(file[parts[0]].shape[2]))
    labels = _read_labels(file, n_scans)
    repeated = {name for name, count in Counter(names).items() if count > 1}
    seen: Counter[str] = Counter()
    scans = []
    for i, name in enumerate(names):
        seen[name] += 1
        scan = f"{name}_scan-{seen[name]}" if name in repeated else name
        entities = parse_entities(name)
        scans.append(
            ScanFile(
                scan=scan,
                load=partial(archive.read, i, parts, lengths[i], scan),
                source=f"{source}, row {i}",
                subject=entities.subject or (name if name in repeated else ""),
                session=entities.session,
                phenotypes={label: values[i] for label, values in labels.items()},
            )
        )
    return scans


class _Archive:
    """An HDF5 file that is opened when it is first needed and stays open while it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the file once, and not for every scan.
        return (_archive_of, (self.path,))

    def open(self) -> h5py.File:
        """Return the open file."""
        if self._file is None:
            try:
                self._file = h5py.File(self.path, "r", rdcc_nbytes=_CACHE_BYTES)
            except BlockingIOError as error:
                raise InputError(
                    f"{self.path} is locked: another program has it open for writing. Close it "
                    "there; on a network disk without locks, set the environment variable "
                    "HDF5_USE_FILE_LOCKING=FALSE."
                ) from error
            except PermissionError as error:
                raise InputError(
                    f"{self.path} may not be read by this user ({error.strerror}). Ask its owner "
                    "for the permission to read it."
                ) from error
            except OSError as error:
                raise InputError(
                    f"{self.path} cannot be opened as an HDF5 file: {error}. The file is damaged "
                    "or was cut off while it was copied; copy or download it again."
                ) from error
        return self._file

    def read(self, row: int, parts: tuple[str, ...], length: int, scan: str) -> NDArray[np.float32]:
        """Read one scan, shape (roi, time)."""
        file = self.open()
        try:
            series = [file[part][row, :, :length] for part in parts]
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"scan {scan!r} cannot be read from row {row} of {', '.join(parts)} in "
                f"{self.path}: {error}. The file is damaged; copy or download it again."
            ) from error
        return np.concatenate(series).astype(np.float32)


@lru_cache(maxsize=4)
def _archive_of(path: Path) -> _Archive:
    """Return the archive of a file; always the same one in a process."""
    return _Archive(path)


def _find_parts(file: h5py.File, source: Path, atlas: Atlas) -> tuple[str, ...]:
    """Return the paths of the datasets that make up the atlas, in order."""
    group = file.get(_SERIES)
    if not isinstance(group, h5py.Group):
        held = ", ".join(sorted(file)) or "nothing"
        came = "a dataset, not a group" if _SERIES in file else f"missing; the file holds {held}"
        raise InputError(
            f"{source}: the group {_SERIES!r} with a dataset of (scan, roi, time) an atlas was "
            f"expected, but it is {came}. Write the series as {_SERIES}/{atlas.name}."
        )
    available = [name for name, item in group.items() if isinstance(item, h5py.Dataset)]
    by_name = [atlas.name] if atlas.name in available else atlas.name.split("-")
    if set(by_name) <= set(available):
        return tuple(f"{_SERIES}/{name}" for name in by_name)
    ordered = group.id.get_create_plist().get_link_creation_order() != 0
    sizes = {name: group[name].shape[1] for name in available if group[name].ndim == 3}
    if sum(sizes.values()) == len(atlas) and (len(sizes) == 1 or ordered):
        return tuple(f"{_SERIES}/{name}" for name in sizes)
    held = ", ".join(f"{_SERIES}/{name} ({size} ROIs)" for name, size in sizes.items())
    absent = next((name for name in by_name if name not in available), atlas.name)
    raise InputError(
        f"{source}: dataset {_SERIES}/{absent} of atlas {atlas.name!r} ({len(atlas)} ROIs) is "
        f"missing; the file holds {held or 'no series'}. Name the atlas that the file was made "
        "with; an atlas table of your own must be named after the datasets in their order, such "
        f"as first-second.tsv.{nearest(absent, available)}"
    )


def _check_shapes(file: h5py.File, source: Path, atlas: Atlas, parts: tuple[str, ...]) -> int:
    """Check that the parts fit each other and the atlas; return the number of scans."""
    shapes = {part: tuple(file[part].shape) for part in parts}
    told = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
    if any(len(shape) != 3 for shape in shapes.values()):
        raise InputError(
            f"{source}: series of shape (scan, roi, time) were expected, but there are {told}. "
            "Write the file again."
        )
    if len({(shape[0], shape[2]) for shape in shapes.values()}) != 1:
        raise InputError(
            f"{source}: all atlases need the same number of scans and volumes, as in (scan, roi, "
            f"time), but there are {told}. Write the file again."
        )
    textual = [part for part in parts if file[part].dtype.kind not in "iuf"]
    if textual:
        raise InputError(
            f"{source}: {textual[0]} holds values of type {file[textual[0]].dtype}; real numbers "
            "were expected. Write the series again as float32."
        )
    n_rois = sum(shape[1] for shape in shapes.values())
    if n_rois != len(atlas):
        raise InputError(
            f"{source}: {told} (scan, roi, time) add up to {n_rois} ROIs, but atlas "
            f"{atlas.name!r} has {len(atlas)}. Give the atlas that the series were extracted with."
        )
    return int(shapes[parts[0]][0])


def _read_names(file: h5py.File, source: Path, n_scans: int) -> list[str]:
    """Return a name a scan."""
    item = file.get(_IDENTITY)
    if not isinstance(item, h5py.Dataset) or item.shape != (n_scans,):
        came = f"has shape {item.shape}" if isinstance(item, h5py.Dataset) else "is missing"
        raise InputError(
            f"{source}: dataset {_IDENTITY!r} with a name for each of the {n_scans} scans was "
            f"expected, but it {came}. Add it, so that scans of one person stay together."
        )
    names = [str(name) for name in _plain(item)]
    unnamed = [i for i, name in enumerate(names) if not name.strip()]
    if unnamed:
        raise InputError(
            f"{source}: {len(unnamed)} row(s) of {_IDENTITY!r} are empty, the first is row "
            f"{unnamed[0]}. Give every scan a name."
        )
    return names


def _read_lengths(file: h5py.File, source: Path, n_scans: int, longest: int) -> list[int]:
    """Return the number of volumes a scan; the whole padded length if the file does not say."""
    item = file.get(_LENGTH)
    if item is None:
        return [longest] * n_scans
    lengths = np.asarray(item)
    fits = lengths.shape == (n_scans,) and lengths.dtype.kind in "iuf"
    wrong = lengths[~((lengths >= 1) & (lengths <= longest))] if fits else lengths
    if not fits or wrong.size:
        came = f"{wrong[0]} occurs" if fits else f"it has shape {lengths.shape}, {lengths.dtype}"
        raise InputError(
            f"{source}: dataset {_LENGTH!r} must give each of the {n_scans} scans a length between "
            f"1 and {longest} volumes, but {came}. Correct or remove it."
        )
    return [int(length) for length in lengths]


def _read_labels(file: h5py.File, n_scans: int) -> Mapping[str, list[Any]]:
    """Return the labels that have a value a scan."""
    items = dict(file.items())
    group = items.get("labels")
    if isinstance(group, h5py.Group):
        items |= dict(group.items())
    return {
        name: _plain(item)
        for name, item in items.items()
        if isinstance(item, h5py.Dataset)
        and item.shape == (n_scans,)
        and name not in {_IDENTITY, _LENGTH}
    }


def _plain(dataset: h5py.Dataset) -> list[Any]:
    """Return a one-dimensional dataset as plain values, bytes as text."""
    values = np.asarray(dataset).tolist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
