"""A cohort on disk: one memory-mapped series and one table, opened in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.store_layout import FORMAT_VERSION, QUALITY, Files, map_array, read_description
from semantoks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


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
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return (
            f"Store({str(self.path)!r}, {len(self)} scans of {self.n_subjects} subjects, "
            f"{self.atlas.name}, t_r {self.t_r:g} s, fingerprint {self.fingerprint})"
        )

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
        try:
            table = pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise InputError(
                f"the table of scans {file} cannot be read ({error}). Restore the file, or prepare "
                "the store again."
            ) from error
        if not np.array_equal(table.get("offset", pd.Series(dtype=float)), self.offsets):
            raise InputError(
                f"the table of scans {file} does not fit the series beside it: it has {len(table)} "
                f"row(s), the store {len(self)} scan(s). Prepare the store again."
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
        self._check_windows(scans, starts, length)
        # A plain array of the same memory: slicing np.memmap objects costs more than copying.
        bits = np.asarray(self.samples).view(np.int16)
        windows = np.empty((len(scans), length, len(self.atlas)), dtype=np.float32)
        for window, first in zip(windows, (self.offsets[scans] + starts).tolist(), strict=True):
            _widen(bits[first : first + length], out=window)
        return windows.transpose(0, 2, 1)

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


def _widen(bits: NDArray[np.int16], out: NDArray[np.float32]) -> None:
    """Turn the bits of finite float16 numbers into float32, three times as fast as astype.

    Moved by 13 bits, sign, exponent and mantissa stand where float32 has them, with an exponent
    that is too small by the difference of the two biases, 127 - 15.
    """
    wide = bits.astype(np.int32)
    wide <<= 13
    # The sign was spread over the exponent: keep it in bit 31 only.
    wide &= np.int32(0x8FFFE000 - 2**32)
    np.multiply(wide.view(np.float32), np.float32(2.0**112), out=out)
