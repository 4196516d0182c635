"""Writes a store: scan by scan, resumable, and visible only when it is whole."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.quality import write_coverage
from semantoks.data.recording import Recording, Refusal
from semantoks.data.signal import Preprocessing
from semantoks.data.store import (
    COVERAGE,
    FORMAT,
    FORMAT_VERSION,
    QUALITY,
    Files,
    Store,
    checksum_of,
    file_digest_of,
    lock_file,
    partial_folder,
    read_description,
    series_header,
)
from semantoks.data.workers import WorkInterruptedError
from semantoks.errors import InputError
from semantoks.files import hold

if TYPE_CHECKING:
    import pandas as pd


COLUMNS: Final = (
    *("scan", "subject", "session", "site", "t_r", "length", "offset", "motion", "coverage"),
    "source",
)
"""Columns that the table of scans of every store begins with; phenotypes follow."""


class Refused(Protocol):
    """What a store keeps of a scan that was left out."""

    @property
    def scan(self) -> str:
        """Identity of the scan."""

    @property
    def source(self) -> str:
        """File that the scan comes from."""

    @property
    def category(self) -> str:
        """Which check failed."""

    @property
    def reason(self) -> str:
        """What is wrong, in a sentence."""


def check_fits(
    recording: Recording, valid: NDArray[np.bool_], atlas: Atlas, done: Collection[str]
) -> None:
    """Refuse a scan that does not fit a store."""
    scan = recording.scan
    if scan in done:
        raise InputError(f"scan {scan!r} is in the store already; identities must be unique.")
    if not recording.subject:
        raise InputError(
            f"scan {scan!r} has no subject. Say whose scan it is (in the table of scans, for "
            "instance): without it, scans of one person could be split between training and test."
        )
    if recording.atlas != atlas:
        raise InputError(
            f"scan {scan!r} has atlas {recording.atlas!r}, but the store has {atlas!r}."
        )
    if valid.shape != (len(atlas),) or valid.dtype != np.bool_:
        raise InputError(
            f"scan {scan!r} needs one boolean a ROI, ({len(atlas)},), that says which are valid; "
            f"got {valid.dtype} of shape {valid.shape}."
        )
    taken = sorted(set(COLUMNS) & set(recording.phenotypes))
    if taken:
        raise InputError(
            f"scan {scan!r} has phenotypes that are named like columns of the store: "
            f"{', '.join(taken)}. Rename them in the table of scans."
        )


def row_of(recording: Recording, offset: int, coverage: float) -> dict[str, Any]:
    """Say of a scan what the table keeps."""
    row: dict[str, Any] = {
        "scan": recording.scan,
        "subject": recording.subject,
        "session": recording.session,
        "site": recording.site,
        "t_r": float(recording.t_r),
        "length": recording.series.shape[1],
        "offset": offset,
        "motion": plain(recording.motion),
        "coverage": coverage,
        "source": recording.source,
    }
    return row | {str(name): plain(value) for name, value in recording.phenotypes.items()}


def plain(value: Any) -> str | int | float | bool | None:
    """Turn a value into one that JSON can hold.

    Examples
    --------
    >>> plain(np.float32(0.5)), plain(float("nan")), plain(Path("a"))
    (0.5, None, 'a')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    text = str(value)
    return None if text in {"<NA>", "NaT"} else text


def index_of(rows: Iterable[Mapping[str, Any]]) -> NDArray[np.int64]:
    """Collect where scans lie in the series, and whose they are."""
    codes: dict[str, int] = {}
    places = [
        (row["offset"], row["length"], codes.setdefault(row["subject"], len(codes))) for row in rows
    ]
    return np.array(places, dtype=np.int64)


def table_of(rows: Iterable[Mapping[str, Any]], first: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Make a table, of which no more than the cells is ever in memory."""
    import pandas as pd

    cells: dict[str, list[Any]] = {name: [] for name in first}
    n_rows = 0
    for row in rows:
        for name, value in row.items():
            column = cells.setdefault(name, [])
            column.extend([None] * (n_rows - len(column)))
            # What many scans have in common is kept once.
            column.append(sys.intern(value) if type(value) is str else value)
        n_rows += 1
    columns = {}
    for name, values in cells.items():
        values.extend([None] * (n_rows - len(values)))
        kinds = {"number" if type(v) in (int, float) else type(v) for v in values if v is not None}
        if not kinds:
            columns[name] = pd.Series([np.nan] * len(values))
        elif len(kinds) > 1:
            columns[name] = pd.Series([None if v is None else str(v) for v in values], dtype="str")
        else:
            columns[name] = pd.Series(values)
    return pd.DataFrame(columns)


def write_refused(file: Path, refused: Iterable[Refused]) -> None:
    """Write which scans were left out, and why."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scan", "source", "category", "reason"])
        writer.writerows([r.scan, r.source, r.category, r.reason] for r in refused)


JOURNAL_VERSION: Final = 2
"""Raised when lines change their meaning; what was begun with another version is started over."""


def line_of_scan(
    row: Mapping[str, Any],
    valid: NDArray[np.bool_],
    content: bytes,
    raw_digest: str,
    quality: Mapping[str, Any] | None,
) -> bytes:
    """Say of a scan that it is written."""
    entry = {
        "row": row,
        "valid": np.packbits(valid).tobytes().hex(),
        "digest": digest_of(content, valid),
        "raw": raw_digest,
        "quality": _plain_row(quality),
    }
    return line_of(entry)


def line_of_refusal(refusal: Refusal, quality: Mapping[str, Any] | None) -> bytes:
    """Say of a scan that it is left out."""
    return line_of({"refused": vars(refusal), "quality": _plain_row(quality)})


def line_of(entry: Mapping[str, Any]) -> bytes:
    """Write an entry as a line."""
    return json.dumps(entry).encode() + b"\n"


def valid_of(entry: Mapping[str, Any], n_rois: int) -> NDArray[np.bool_]:
    """Read which ROIs of a scan carry signal."""
    packed = np.frombuffer(bytes.fromhex(entry["valid"]), dtype=np.uint8)
    return np.unpackbits(packed, count=n_rois).astype(np.bool_)


def digest_of(samples: bytes, valid: NDArray[np.bool_]) -> str:
    """Condense the values of a scan."""
    return hashlib.sha256(samples + np.packbits(valid).tobytes()).hexdigest()


class Journal:
    """The lines of a store that is being written; they are read anew each time, and not kept."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Read all lines up to where the journal was cut short."""
        with self.file.open("rb") as stream:
            for line in stream:
                entry = _parse(line)
                if entry is None:
                    return
                yield entry, len(line)

    def written(self) -> Iterator[dict[str, Any]]:
        """Read what is said of the scans that are written."""
        return (entry for entry, _ in self.lines() if "row" in entry)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows of the table of scans."""
        return (entry["row"] for entry in self.written())

    def valid(self, n_scans: int, n_rois: int) -> NDArray[np.bool_]:
        """Read which ROIs carry signal."""
        valid = np.empty((n_scans, n_rois), dtype=np.bool_)
        for scan, entry in zip(valid, self.written(), strict=True):
            scan[:] = valid_of(entry, n_rois)
        return valid

    def identities(self) -> list[tuple[str, str, str]]:
        """Read what makes a store this one: scan, subject and digest of every scan."""
        return [
            (entry["row"]["scan"], entry["row"]["subject"], entry["digest"])
            for entry in self.written()
        ]

    def quality(self) -> Iterator[dict[str, Any]]:
        """Read the rows of the table of quality."""
        for entry, _ in self.lines():
            if entry.get("quality") is not None:
                about = entry.get("refused") or entry["row"] | {"category": "", "reason": ""}
                named = {name: about[name] for name in ("scan", "source", "category", "reason")}
                yield named | entry["quality"]


def _plain_row(quality: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Turn measures into what JSON can hold."""
    return None if quality is None else {name: plain(value) for name, value in quality.items()}


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read a line; None if it was cut short."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


_QUALITY_COLUMNS: Final = (
    *("scan", "subject", "session", "site", "category", "reason", "motion"),
    *("share_scrubbed", "t_r"),
)
"""Columns that the table of quality begins with; what was measured follows."""


def write_tables(
    folder: Path,
    journal: Journal,
    atlas: Atlas,
    preprocessing: Preprocessing,
    *,
    n_scans: int,
    refused: Iterable[Refused],
    quality: Iterable[Mapping[str, Any]],
) -> list[Path]:
    """Write everything beside the series and the description."""
    files = Files.of(folder)
    np.save(files.valid, journal.valid(n_scans, len(atlas)))
    np.save(files.positions, index_of(journal.rows()))
    table_of(journal.rows()).to_parquet(files.scans, index=False)
    write_refused(files.refused, refused)
    rows = [*journal.quality(), *map(dict, quality)]
    if not rows:
        return []
    rows.sort(key=lambda row: str(row["scan"]))
    table_of(rows, first=_QUALITY_COLUMNS).to_parquet(folder / QUALITY, index=False)
    write_coverage(folder / COVERAGE, rows, atlas, preprocessing.min_network_coverage)
    return [folder / QUALITY, folder / COVERAGE]


def describe_store(
    journal: Journal,
    atlas: Atlas,
    preprocessing: Preprocessing,
    *,
    request: Mapping[str, Any],
    n_samples: int,
    n_unnamed_subjects: int,
) -> dict[str, Any]:
    """Say what a store is."""
    content = journal.identities()
    identity = [atlas.fingerprint, preprocessing.to_dict(), content]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "semantoks": metadata.version("semantoks"),
        "fingerprint": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        "counts": {
            "scans": len(content),
            "subjects": len({subject for _, subject, _ in content}),
            "unnamed_subjects": n_unnamed_subjects,
            "samples": n_samples,
            "rois": len(atlas),
        },
        "preprocessing": preprocessing.to_dict(),
        "request": dict(request),
        "atlas": atlas.to_dict(),
    }


class OtherStoreError(InputError):
    """A store is there, but other files or arguments were given when it was written."""


def find_equal_store(
    path: Path, atlas: Atlas, preprocessing: Preprocessing, request: Mapping[str, Any]
) -> Store | None:
    """Open the store at a place if it is what is asked for."""
    if not path.exists():
        return None
    try:
        store, written = Store.open(path).verify(), read_description(path).get("request")
    except InputError as error:
        raise OtherStoreError(str(error)) from error
    asked = json.loads(json.dumps(dict(request)))
    if (store.atlas, store.preprocessing, written) != (atlas, preprocessing, asked):
        raise OtherStoreError(
            f"{path} was written from other files or with other arguments. Give another place, or "
            "remove it if it is not needed."
        )
    return store


def read_refusals(store: Store) -> tuple[Refusal, ...]:
    """Return the scans that were left out of a store."""
    table = store.refused[["scan", "source", "reason", "category"]]
    return tuple(Refusal(*map(str, row)) for row in table.itertuples(index=False))


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
            kept = [x for x in (*self._files, *tables) if x != self._files.description]
            description["sha256"] = {file.name: file_digest_of(file) for file in kept}
            description["checksum"] = checksum_of(description)
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
