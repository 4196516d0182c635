"""Writes a store: scan by scan, resumable, and visible only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.recording import Recording
from semantoks.data.refusals import Refusal
from semantoks.data.store import Store
from semantoks.data.store_journal import (
    JOURNAL_VERSION,
    Journal,
    digest_of,
    line_of,
    line_of_refusal,
    line_of_scan,
    valid_of,
)
from semantoks.data.store_layout import (
    FORMAT_VERSION,
    Files,
    lock_file,
    partial_folder,
    series_header,
)
from semantoks.data.store_lock import hold
from semantoks.data.store_table import Refused, check_fits, row_of
from semantoks.data.store_tables import describe_store, write_tables
from semantoks.data.work import WorkInterruptedError
from semantoks.errors import InputError


class StoreWriter:
    """Write a store scan by scan.

    Use it in a ``with`` block and end the block with `finish`. The store grows in a hidden folder
    beside `path` and gets its name when it is whole. An error removes that folder. An interruption
    (Ctrl-C, kill) leaves it, and the next writer with the same arguments goes on from there; with
    other arguments it starts over. Only one writer at a time may be at work on a place.

    Parameters
    ----------
    path : str or path
        Folder to make; must not exist.
    atlas : Atlas
        What the ROIs are.
    preprocessing : Preprocessing
        What was done to every scan.
    request : mapping
        Everything else that the content depends on, as plain values for JSON; an unfinished store
        is continued only if it was begun with an equal request.

    Attributes
    ----------
    done : set of str
        Scans that are written already.
    refused : list of Refusal
        Scans that were left out already.
    raw_digests : dict of str to str
        Scan that is written by its digest before preprocessing, where `add` was told it.
    continued : bool
        Whether an unfinished store was found and is continued.
    started_over : bool
        Whether an unfinished store was dropped because it was begun with other arguments.

    Raises
    ------
    InputError
        If `path` exists, another writer is at work there, or nothing can be written there.

    Examples
    --------
    >>> import tempfile
    >>> from semantoks.data.simulation import simulate_cohort
    >>> recordings = simulate_cohort(n_subjects=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atlas = recordings[0].atlas
    ...     with StoreWriter(Path(folder) / "store", atlas, Preprocessing(), {}) as writer:
    ...         for recording in recordings:
    ...             writer.add(recording, valid=np.ones(len(atlas), dtype=bool))
    ...         store = writer.finish()
    ...     len(store), store.series(0).shape
    (3, (40, 220))
    """

    def __init__(
        self,
        path: str | Path,
        atlas: Atlas,
        preprocessing: Preprocessing,
        request: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.atlas = atlas
        self.preprocessing = preprocessing
        self.done: set[str] = set()
        self.refused: list[Refusal] = []
        self.raw_digests: dict[str, str] = {}
        self.continued = False
        self.started_over = False
        self._header = {
            "format_version": FORMAT_VERSION,
            "journal_version": JOURNAL_VERSION,
            "atlas": atlas.fingerprint,
            "preprocessing": preprocessing.to_dict(),
            "request": json.loads(json.dumps(dict(request))),
        }
        self._partial = partial_folder(self.path)
        self._files = Files.of(self._partial)
        self._said = Journal(self._partial / "journal.jsonl")
        self._n_samples = 0
        self._open_files = contextlib.ExitStack()
        self._lock = contextlib.ExitStack()
        self._refuse_existing()

    def __enter__(self) -> Self:
        with _explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Nothing of what lies there may be touched before the lock is held.
            self._lock.enter_context(hold(lock_file(self.path)))
        try:
            self._refuse_existing()
            with _explained(self.path):
                self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing flushes, and fails once more where writing failed.
        with contextlib.suppress(OSError):
            self._open_files.close()
        stopped = error is not None and not isinstance(error, Exception)
        if not stopped and not isinstance(error, WorkInterruptedError):
            shutil.rmtree(self._partial, ignore_errors=True)
        self._lock.close()

    def add(
        self,
        recording: Recording,
        valid: NDArray[np.bool_],
        *,
        raw_digest: str = "",
        quality: Mapping[str, Any] | None = None,
    ) -> None:
        """Append a scan.

        Parameters
        ----------
        recording : Recording
            Who, where and how, with the *preprocessed* series. Its repetition time is the one that
            the scan was measured with; it is kept in the table.
        valid : ndarray of bool, shape (roi,)
            ROIs that carry signal.
        raw_digest : str
            Condensed series before preprocessing, to find copies of it after an interruption.
        quality : mapping, optional
            What the table of quality says of the scan: plain values by column.

        Raises
        ------
        InputError
            If the scan is there already, has no subject, another atlas or values that are not
            finite, or if the disk is full.
        """
        check_fits(recording, valid, self.atlas, self.done)
        with np.errstate(over="ignore"):
            samples = np.ascontiguousarray(recording.series.T, dtype=np.float16)
        if not np.isfinite(samples).all():
            raise InputError(
                f"scan {recording.scan!r} has values that are NaN, infinite or beyond 65,504. "
                "Standardize the series before it is written."
            )
        content = samples.tobytes()
        row = row_of(recording, self._n_samples, float(np.mean(valid)))
        with _explained(self.path):
            _write(self._series, content)
            _write(self._journal, line_of_scan(row, valid, content, raw_digest, quality))
        self._remember(row, raw_digest)

    def refuse(self, refusal: Refusal, quality: Mapping[str, Any] | None = None) -> None:
        """Note that a scan is left out, so that it need not be read again after an interruption.

        Parameters
        ----------
        refusal : Refusal
            The scan, and why.
        quality : mapping, optional
            What the table of quality says of the scan: plain values by column.

        Raises
        ------
        InputError
            If the disk is full.
        """
        with _explained(self.path):
            _write(self._journal, line_of_refusal(refusal, quality))
        self.refused.append(refusal)

    def finish(
        self,
        refused: Iterable[Refused] = (),
        *,
        n_unnamed_subjects: int = 0,
        quality: Iterable[Mapping[str, Any]] = (),
    ) -> Store:
        """Complete the store and give it its name.

        Parameters
        ----------
        refused : iterable of refusals
            Scans that were left out, with the attributes scan, source, category and reason.
        n_unnamed_subjects : int
            Number of scans whose subject is not known and got the name of the scan.
        quality : iterable of mapping
            Rows of the table of quality beside those that `add` and `refuse` were told.

        Returns
        -------
        Store
            The store, opened.

        Raises
        ------
        InputError
            If no scan was added, the disk is full, or what was written does not read as a store.
        """
        if not self.done:
            raise InputError(f"no scan was added; {self.path} is not written.")
        with _explained(self.path):
            self._series.seek(0)
            _write(self._series, series_header(self._n_samples, len(self.atlas)))
            self._open_files.close()
            tables = write_tables(
                self._partial,
                self._said,
                self.atlas,
                self.preprocessing,
                n_scans=len(self.done),
                refused=refused,
                quality=quality,
            )
            description = describe_store(
                self._said,
                self.atlas,
                self.preprocessing,
                request=self._header["request"],
                n_samples=self._n_samples,
                n_unnamed_subjects=n_unnamed_subjects,
            )
            text = json.dumps(description, indent=1, allow_nan=False)
            self._files.description.write_text(text + "\n", encoding="utf-8")
            for file in (*self._files, *tables):
                _synchronize(file)
            # Sizes, index and table are those of the description, or this raises.
            _ = Store.open(self._partial).scans
            # Until here, an interrupted writer can go on.
            self._said.file.unlink()
            self._partial.rename(self.path)
        return Store.open(self.path)

    def _refuse_existing(self) -> None:
        """Stop if the store is there already."""
        if self.path.exists():
            raise InputError(
                f"{self.path} exists already. Give another place, or remove it if it is not needed."
            )

    def _begin(self) -> None:
        """Open the files, after what an interrupted writer has left, or anew."""
        size = 0
        if self._said.file.is_file():
            size = self._recover()
        self.continued = bool(size)
        if not size:
            self.started_over = self._partial.exists()
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir()
            header = series_header(0, len(self.atlas))
            self._files.series.write_bytes(header)
            self._said.file.write_bytes(line_of(self._header))
            size = self._said.file.stat().st_size
        self._series: IO[bytes] = self._open_files.enter_context(self._files.series.open("r+b"))
        self._journal: IO[bytes] = self._open_files.enter_context(self._said.file.open("r+b"))
        for stream, end in ((self._series, self._series_size()), (self._journal, size)):
            stream.truncate(end)
            stream.seek(end)

    def _recover(self) -> int:
        """Read the journal; return how much of it holds, in bytes, 0 if nothing does."""
        lines = self._said.lines()
        first, size = next(lines, ({}, 0))
        if first != self._header or not self._files.series.is_file():
            return 0
        with self._files.series.open("rb") as series:
            series.seek(self._series_size())
            for entry, length in lines:
                # What a crash has cut short, or the disk has not kept, is written again.
                if "row" not in entry:
                    self.refused.append(Refusal(**entry["refused"]))
                elif self._holds(entry, series):
                    self._remember(entry["row"], entry["raw"])
                else:
                    break
                size += length
        return size

    def _holds(self, entry: dict[str, Any], series: IO[bytes]) -> bool:
        """Compare the next samples of the file with what the journal says of them."""
        n_rois = len(self.atlas)
        samples = series.read(2 * n_rois * int(entry["row"]["length"]))
        return bool(digest_of(samples, valid_of(entry, n_rois)) == entry["digest"])

    def _remember(self, row: Mapping[str, Any], raw_digest: str) -> None:
        """Count a scan as written."""
        self.done.add(row["scan"])
        if raw_digest:
            self.raw_digests[raw_digest] = row["scan"]
        self._n_samples += row["length"]

    def _series_size(self) -> int:
        """Size of the series so far, in bytes."""
        n_rois = len(self.atlas)
        return len(series_header(self._n_samples, n_rois)) + 2 * n_rois * self._n_samples


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that tells users what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        cause = "the disk is full" if full else f"{error.strerror or error}"
        remedy = "Free some space" if full else "Check the place and its permissions"
        raise InputError(
            f"the store {path} cannot be written: {cause}. {remedy}, or write to another place; "
            "nothing was left behind."
        ) from error


def _write(stream: IO[bytes], content: bytes) -> None:
    """Write and hand over to the operating system, so that a killed process loses nothing."""
    stream.write(content)
    stream.flush()


def _synchronize(file: Path) -> None:
    """Wait until a file is on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
