"""A cohort on disk: one memory-mapped series and one table, opened in milliseconds."""

from __future__ import annotations

import hashlib
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.signal import Preprocessing
from semantoks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


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
    except (OSError, ValueError, RecursionError) as error:
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
    sealed = {"checksum", "sha256"} & set(description)  # older stores have neither
    if sealed and description.pop("checksum", None) != checksum_of(description):
        raise InputError(
            f"{files.description} is damaged: it is not what was written. Restore the file, or "
            "prepare the store again."
        )
    return description


def checksum_of(description: Mapping[str, Any]) -> str:
    """Compute the checksum of the description of a store."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest_of(file: Path) -> str:
    """Compute the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_digest(file: Path, digests: Mapping[str, str]) -> None:
    """Compare a file with its SHA-256 in store.json; older stores have none."""
    if file.name in digests and file.is_file() and file_digest_of(file) != digests[file.name]:
        raise InputError(
            f"{file} is damaged: its SHA-256 is not the one in store.json. Copy the store again, "
            "or prepare it again."
        )


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
    except (OSError, ValueError, SyntaxError, TokenError) as error:
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


_BLOCK: Final = 16
"""Windows that are converted at once: one or two megabytes."""


@dataclass(frozen=True, eq=False, repr=False)
class Store:
    """A cohort on disk, ready to be read by scan or by random window.

    Open one with `Store.open`; `semantoks.data.store_writer.StoreWriter` writes it.

    Parameters
    ----------
    path : Path
        Folder of the store.
    atlas : Atlas
        What the ROIs are.
    preprocessing : Preprocessing
        What was done to every scan.
    fingerprint : str
        Sixteen hexadecimal digits that change with atlas, preprocessing, scans, subjects or values.
    format_version : int
        Version of the layout.
    offsets, lengths : ndarray of int64, shape (scan,)
        First sample and number of samples of every scan.
    subject_codes : ndarray of int64, shape (scan,)
        A number for the subject of every scan, counted from 0 in order of appearance.
    valid : ndarray of bool, shape (scan, roi)
        ROIs that carry signal.
    samples : ndarray of float16, shape (sum of samples, roi)
        All scans after one another, mapped from the disk.
    n_unnamed_subjects : int
        Number of scans of which nothing said whose they are. Each counts as a person of its own,
        so that splits by subject may put scans of one person on both sides.
    digests : mapping of str to str
        SHA-256 of every file by its name; empty for stores of older versions.
    """

    path: Path
    atlas: Atlas
    preprocessing: Preprocessing
    fingerprint: str
    format_version: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    subject_codes: NDArray[np.int64]
    valid: NDArray[np.bool_]
    samples: NDArray[np.float16]
    n_unnamed_subjects: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store; nothing but its description and index is read.

        Parameters
        ----------
        path : str or path
            Folder that ``semantoks prepare`` wrote.

        Returns
        -------
        Store
            The cohort.

        Raises
        ------
        InputError
            If there is no store, a part of it is missing or cut short, it was changed, or a newer
            version of the package wrote it.
        """
        folder = Path(path)
        files = Files.of(folder)
        description = read_description(folder)
        try:
            atlas = Atlas.from_dict(description["atlas"])
            preprocessing = Preprocessing.from_dict(description["preprocessing"])
            fingerprint = str(description["fingerprint"])
            counts = description["counts"]
            n_scans, n_samples = int(counts["scans"]), int(counts["samples"])
            n_unnamed = int(counts.get("unnamed_subjects", 0))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"{files.description} does not describe a store: {reason}. Restore the file, or "
                "prepare the store again."
            ) from error
        digests = description.get("sha256", {})
        for file in (files.positions, files.valid):
            check_digest(file, digests)
        index = map_array(files.positions, (n_scans, 3), np.int64)
        offsets, lengths, subject_codes = (np.array(column) for column in index.T)
        if not np.array_equal(offsets, np.cumsum(lengths) - lengths) or lengths.sum() != n_samples:
            raise InputError(f"{files.positions} does not fit the store. Prepare the store again.")
        return cls(
            path=folder,
            atlas=atlas,
            preprocessing=preprocessing,
            fingerprint=fingerprint,
            format_version=FORMAT_VERSION,
            offsets=offsets,
            lengths=lengths,
            subject_codes=subject_codes,
            valid=map_array(files.valid, (n_scans, len(atlas)), np.bool_),
            samples=map_array(files.series, (n_samples, len(atlas)), np.float16),
            n_unnamed_subjects=n_unnamed,
            digests=digests,
        )

    def verify(self) -> Self:
        """Compare every file of the store with its SHA-256.

        Returns
        -------
        Store
            The store itself.

        Raises
        ------
        InputError
            If a file is not what was written; stores of older versions have no checksums.
        """
        for name in self.digests:
            check_digest(self.path / name, self.digests)
        return self

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return (
            f"Store({str(self.path)!r}, {len(self)} scans of {self.n_subjects} subjects, "
            f"{self.atlas.name}, t_r {self.t_r:g} s, fingerprint {self.fingerprint})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.scans.to_html(max_rows=10)}"

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the file itself instead of receiving a copy of it.
        return (Store.open, (self.path,))

    @property
    def t_r(self) -> float:
        """Repetition time of every series, in seconds."""
        return self.preprocessing.target_t_r

    @property
    def n_subjects(self) -> int:
        """Number of people."""
        return len(np.unique(self.subject_codes))

    @cached_property
    def network_valid(self) -> NDArray[np.bool_]:
        """Networks of which at least one ROI carries signal, shape (scan, network)."""
        networks = [self.valid[:, rois].any(axis=1) for rois in self.atlas.network_indices]
        return np.stack(networks, axis=1)

    @cached_property
    def scans(self) -> pd.DataFrame:
        """The table of scans, one row each, in the order of the store.

        Columns scan, subject, session, site, t_r (as measured, s), length and offset (samples),
        motion (mm), coverage (share of ROIs), source, then the phenotypes.

        Raises
        ------
        InputError
            If the table is missing or is not that of this store.
        """
        import pandas as pd

        file = Files.of(self.path).scans
        check_digest(file, self.digests)
        try:
            table = pd.read_parquet(file)
        except Exception as error:  # pyarrow raises whatever a damaged file makes it
            raise InputError(
                f"the table of scans {file} cannot be read ({error}). Restore the file, or prepare "
                "the store again."
            ) from error
        if not np.array_equal(table.get("offset", pd.Series(dtype=float)), self.offsets):
            raise InputError(
                f"the table of scans {file} does not fit the series beside it: it has {len(table)} "
                f"row(s), the store {len(self)} scan(s). Prepare the store again."
            )
        codes = pd.factorize(table["subject"])[0]
        if not np.array_equal(codes, pd.factorize(self.subject_codes)[0]):
            raise InputError(
                f"the table of scans {file} and {Files.of(self.path).positions} do not agree about "
                "which scans are of one subject. Prepare the store again."
            )
        return table

    @cached_property
    def refused(self) -> pd.DataFrame:
        """The scans that were left out: scan, source, category and reason.

        Raises
        ------
        InputError
            If the list is missing or cannot be read.
        """
        import pandas as pd

        file = Files.of(self.path).refused
        check_digest(file, self.digests)
        try:
            return pd.read_csv(file, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"the list of refused scans {file} cannot be read ({error}). Restore the file, or "
                "prepare the store again."
            ) from error

    @cached_property
    def quality(self) -> pd.DataFrame:
        """How good every scan is that was found, one row each, sorted by scan.

        Columns scan, subject, session, site, category and reason (empty if the scan is kept),
        motion (mm), share_scrubbed, t_r (s), those of `semantoks.data.quality.ScanQuality`, and
        source.

        Raises
        ------
        InputError
            If the table cannot be read, or the store was not written by ``semantoks prepare`` of
            a version that measures quality.
        """
        import pandas as pd

        file = self.path / QUALITY
        check_digest(file, self.digests)
        try:
            return pd.read_parquet(file)
        except FileNotFoundError as error:
            raise InputError(
                f"the store {self.path} has no {QUALITY}: the quality of its scans was not "
                "measured when it was written. Prepare it again."
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"the table of quality {file} cannot be read ({error}). Restore the file, or "
                "prepare the store again."
            ) from error

    def series(self, scan: int) -> NDArray[np.float32]:
        """Read the whole series of a scan.

        Parameters
        ----------
        scan : int
            Position of the scan in the store, counted from 0.

        Returns
        -------
        ndarray of float32, shape (roi, time)
            Z-scored series; ROIs that carry no signal are 0.

        Raises
        ------
        InputError
            If there is no such scan.
        """
        if not 0 <= scan < len(self):
            raise InputError(f"there is no scan {scan}; the store has scans 0 to {len(self) - 1}.")
        start, length = self.offsets[scan], self.lengths[scan]
        return np.ascontiguousarray(self.samples[start : start + length].T, dtype=np.float32)

    def windows(
        self, scans: NDArray[np.integer[Any]], starts: NDArray[np.integer[Any]], length: int = 100
    ) -> NDArray[np.float32]:
        """Read one window of each of several scans.

        Parameters
        ----------
        scans : ndarray of int, shape (n,)
            Positions of scans in the store; a scan may occur several times.
        starts : ndarray of int, shape (n,)
            First sample of each window, counted from the beginning of its scan.
        length : int
            Number of samples of a window.

        Returns
        -------
        ndarray of float32, shape (n, roi, length)
            The windows; in memory, time comes before ROIs.

        Raises
        ------
        InputError
            If a window does not lie within its scan.
        """
        scans, starts = np.asarray(scans), np.asarray(starts)
        import torch  # converts by the processor's own instructions; NumPy does not

        self._check_windows(scans, starts, length)
        windows = np.empty((len(scans), length, len(self.atlas)), dtype=np.float32)
        # By blocks: what was just copied is converted before it leaves the processor's cache.
        halves = np.empty((min(_BLOCK, len(scans)), *windows.shape[1:]), dtype=np.float16)
        for first in range(0, len(scans), _BLOCK):
            block = torch.from_numpy(windows[first : first + _BLOCK])
            self._copy(scans[first : first + _BLOCK], starts[first : first + _BLOCK], halves)
            block.copy_(torch.from_numpy(halves[: len(block)]))
        return windows.transpose(0, 2, 1)

    def stored_windows(
        self,
        scans: NDArray[np.integer[Any]],
        starts: NDArray[np.integer[Any]],
        length: int = 100,
        *,
        out: NDArray[np.float16] | None = None,
    ) -> NDArray[np.float16]:
        """Read windows as they are stored, to be sent elsewhere or converted there.

        Parameters
        ----------
        scans : ndarray of int, shape (n,)
            Positions of scans in the store; a scan may occur several times.
        starts : ndarray of int, shape (n,)
            First sample of each window, counted from the beginning of its scan.
        length : int
            Number of samples of a window.
        out : ndarray of float16, shape (n, length, roi), optional
            Where to write them.

        Returns
        -------
        ndarray of float16, shape (n, length, roi)
            The windows; time comes before ROIs.

        Raises
        ------
        InputError
            If a window does not lie within its scan, or `out` has another shape or type.
        """
        scans, starts = np.asarray(scans), np.asarray(starts)
        self._check_windows(scans, starts, length)
        shape = (len(scans), length, len(self.atlas))
        if out is None:
            out = np.empty(shape, dtype=np.float16)
        elif out.shape != shape or out.dtype != np.float16:
            raise InputError(
                f"windows of shape {shape} in float16 cannot be written to an array of shape "
                f"{out.shape} in {out.dtype}."
            )
        self._copy(scans, starts, out)
        return out

    def _copy(
        self,
        scans: NDArray[np.integer[Any]],
        starts: NDArray[np.integer[Any]],
        out: NDArray[np.float16],
    ) -> None:
        """Copy windows that were checked, one after the other."""
        # A plain array of the same memory: slicing np.memmap objects costs more than copying.
        samples, length = np.asarray(self.samples), out.shape[1]
        for place, first in enumerate((self.offsets[scans] + starts).tolist()):
            out[place] = samples[first : first + length]

    def _check_windows(
        self, scans: NDArray[np.integer[Any]], starts: NDArray[np.integer[Any]], length: int
    ) -> None:
        """Refuse windows that do not lie within their scans."""
        if scans.ndim != 1 or scans.shape != starts.shape:
            raise InputError(
                f"windows need one start a scan; scans have shape {scans.shape}, starts "
                f"{starts.shape}."
            )
        if length < 1:
            raise InputError(f"a window has at least 1 sample, not {length}.")
        if scans.size and not (scans.min() >= 0 and scans.max() < len(self)):
            raise InputError(
                f"scans {scans.min()} to {scans.max()} were asked for; the store has scans 0 to "
                f"{len(self) - 1}."
            )
        outside = np.flatnonzero((starts < 0) | (starts + length > self.lengths[scans]))
        if outside.size:
            i = outside[0]
            raise InputError(
                f"a window of {length} samples from sample {starts[i]} does not lie within scan "
                f"{scans[i]}, which has {self.lengths[scans[i]]} samples."
            )
