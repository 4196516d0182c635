"""Where the parts of a store lie, and the checks that they are whole."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from semantoks.errors import InputError

FORMAT: Final = "semantoks-store"
QUALITY: Final = "quality.parquet"
"""How good every scan is that was found, kept or not; stores of older versions lack it."""
COVERAGE: Final = "coverage.csv"
"""Which share of every network carries signal, a line a scan; made of the table of quality."""
FORMAT_VERSION: Final = 1
"""Raised by every change that older code cannot read."""


class Files(NamedTuple):
    """Where the parts of a store lie."""

    description: Path
    series: Path
    positions: Path
    valid: Path
    scans: Path
    refused: Path

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Name the parts of the store in a folder."""
        return cls(
            description=folder / "store.json",
            series=folder / "series.npy",
            positions=folder / "index.npy",
            valid=folder / "valid.npy",
            scans=folder / "scans.parquet",
            refused=folder / "refused.csv",
        )


def is_store(folder: Path) -> bool:
    """Say whether a folder is a store, or was one."""
    return Files.of(folder).description.is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """Read what a store says of itself."""
    files = Files.of(folder)
    if not files.description.is_file():
        partial = partial_folder(folder)
        if not folder.exists() and partial.is_dir():
            hint = f"{partial.name} beside it is unfinished: run the same prepare again."
        else:
            hint = "A store is the folder that `semantoks prepare` writes with --out."
        what = "has no store.json" if folder.is_dir() else "is not a folder"
        what = what if folder.exists() else "does not exist"
        raise InputError(f"{folder} is not a store: it {what}. {hint}")
    try:
        description = json.loads(files.description.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{files.description} cannot be read ({error}). Restore the file, or prepare the store "
            "again."
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f"{files.description} is not the description of a semantoks store.")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{folder} has store format version {version}, written by semantoks "
            f"{description.get('semantoks', '?')}; this version reads {FORMAT_VERSION}. Update "
            "semantoks, or prepare the store again."
        )
    return description


def map_array(file: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Map an array from the disk."""
    try:
        with file.open("rb") as stream:
            npy.read_magic(stream)
            found_shape, fortran, found_dtype = npy.read_array_header_1_0(stream)
            offset = stream.tell()
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise InputError(
            f"the store {file.parent} lacks {file.name}. Restore it, or prepare the store again."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}. Prepare the store again.") from error
    if found_shape != shape or found_dtype != np.dtype(dtype) or fortran:
        raise InputError(
            f"{file} holds {found_dtype} of shape {found_shape}, but store.json says "
            f"{np.dtype(dtype)} of shape {shape}. Prepare the store again."
        )
    expected = offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size != expected:
        raise InputError(
            f"{file} has {size:,} bytes, but {expected:,} are expected: it was cut short or "
            "changed, perhaps while it was copied. Copy it again, or prepare the store again."
        )
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)


def partial_folder(path: Path) -> Path:
    """Name the folder in which a store is written before it is finished."""
    return path.with_name(f".{path.name}.partial")


def lock_file(path: Path) -> Path:
    """Name the file that is locked while a store is written."""
    return path.with_name(f".{path.name}.lock")


def series_header(n_samples: int, n_rois: int) -> bytes:
    """Make the header of series.npy; numpy leaves room in it for any number of samples."""
    stream = io.BytesIO()
    description = {"descr": "<f2", "fortran_order": False, "shape": (n_samples, n_rois)}
    npy.write_array_header_1_0(stream, description)
    return stream.getvalue()
