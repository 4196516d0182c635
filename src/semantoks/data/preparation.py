"""From files to a store: find the scans, complete them, preprocess them, write what is good."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.quality import ScanQuality, mask_sparse_networks, measure
from semantoks.data.readers import FormatName, find_scans
from semantoks.data.recording import (
    TOLD,
    Filtered,
    Policy,
    ReaderOptions,
    Recording,
    Refusal,
    ScanFile,
    check_refused,
    collect_notices,
    is_text,
    readable,
    stops,
)
from semantoks.data.roi_order import OrderCheck, check_order
from semantoks.data.signal import Preprocessed, Preprocessing, QualityError, preprocess
from semantoks.data.store_writer import StoreWriter, find_equal_store, read_refusals
from semantoks.data.tables import ScanTable, complete, explain_nameless, read_scan_table
from semantoks.data.workers import PATIENCE, Lost, check_workers, work
from semantoks.errors import ConfigurationError, InputError, nearest


class ScanJob(NamedTuple):
    """A scan that is to be read, without what other processes need not know of it."""

    scan: str
    source: str
    load: Callable[[], NDArray[np.floating[Any]]]
    t_r: float

    @classmethod
    def of(cls, scan: ScanFile) -> ScanJob:
        """Take what is needed of a scan."""
        if scan.t_r is None:
            raise InputError(f"scan {scan.scan!r} has no repetition time.")
        return cls(scan.scan, scan.source, scan.load, scan.t_r)


class Good(NamedTuple):
    """A scan that is ready for a store."""

    samples: NDArray[np.float16]
    valid: NDArray[np.bool_]
    raw_digest: str


@dataclass(frozen=True)
class ScanOutcome:
    """What became of a scan."""

    result: Good | Refusal
    quality: ScanQuality


def work_on(job: ScanJob, *, atlas: Atlas, preprocessing: Preprocessing) -> ScanOutcome:
    """Read, preprocess and measure a scan."""
    series, ready = None, None
    result: Good | Refusal
    try:
        series = job.load()
        ready = preprocess(series, job.t_r, preprocessing)
        least = preprocessing.min_network_coverage
        result = _pack(series, mask_sparse_networks(ready, atlas, least))
        return ScanOutcome(result, measure(series, ready, t_r=job.t_r, atlas=atlas))
    except Exception as error:  # whatever one file raises must not end the cohort
        result = _refuse(job, error, was_read=series is not None)
    readable = isinstance(result, Refusal) and result.category != "unreadable"
    known = (series, ready) if readable else (None, None)
    return ScanOutcome(result, measure(*known, t_r=job.t_r, atlas=atlas))


def _pack(series: NDArray[np.floating[Any]], ready: Preprocessed) -> Good:
    """Turn a scan into what a store keeps of it."""
    raw = np.ascontiguousarray(series, dtype=np.float32).tobytes()
    with np.errstate(over="ignore"):
        samples = np.ascontiguousarray(ready.series.T, dtype=np.float16)
    return Good(samples, ready.valid, hashlib.sha256(raw).hexdigest())


def _refuse(job: ScanJob, error: Exception, *, was_read: bool) -> Refusal:
    """Say why a scan cannot be used."""
    if isinstance(error, QualityError):
        return Refusal(job.scan, job.source, str(error), error.category)
    if isinstance(error, MemoryError):
        reason = f"scan {job.scan!r} of {job.source} needs more memory than there is. {error}"
        return Refusal(job.scan, job.source, reason.rstrip(), "unreadable")
    if not isinstance(error, InputError):
        what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        reason = (
            f"scan {job.scan!r} of {job.source} could not be {'used' if was_read else 'read'} "
            f"({what}). The file may be damaged: look at it with the software that wrote it."
        )
        return Refusal(job.scan, job.source, reason, "unreadable")
    if not was_read:
        return Refusal(job.scan, job.source, str(error), "unreadable")
    reason = f"scan {job.scan!r} of {job.source}: {error}"
    return Refusal(job.scan, job.source, reason, "preprocessing")


def write_scans(
    scans: Sequence[ScanFile],
    writer: StoreWriter,
    *,
    policy: Policy,
    workers: int | None,
    scheduler: str | None,
    progress: Callable[[int, int], None] | None,
) -> list[Refusal]:
    """Write the scans that are good enough, and return the others.

    What stops the preparation is collected first, so that all such scans can be named at once.
    Scans that an interrupted run has written or left out are not read again, except those that
    could not be read: a disk may have been away.
    """
    known = writer.done.union(refusal.scan for refusal in writer.refused)
    waiting = [scan for scan in scans if scan.scan not in known]
    refused = list(writer.refused)
    n_stopping = sum(stops(refusal, policy) for refusal in refused)
    outcomes = work(
        partial(work_on, atlas=writer.atlas, preprocessing=writer.preprocessing),
        map(ScanJob.of, waiting),
        workers=workers,
        scheduler=scheduler,
        # A scan may have been what has interrupted it: this process keeps out of its way.
        patience=0 if writer.continued else PATIENCE,
    )
    with contextlib.closing(outcomes):
        for n_done, scan in enumerate(waiting, start=len(scans) - len(waiting)):
            if progress is not None:
                progress(n_done, len(scans))
            refusal = _take(scan, next(outcomes), writer)
            if refusal is not None:
                refused.append(refusal)
                n_stopping += stops(refusal, policy)
                if n_stopping == n_done + 1 == TOLD:
                    return refused
    if progress is not None:
        progress(len(scans), len(scans))
    return refused


def _take(scan: ScanFile, outcome: ScanOutcome | Lost, writer: StoreWriter) -> Refusal | None:
    """Write a scan, or note why not."""
    if isinstance(outcome, Lost):
        reason = f"scan {scan.scan!r} of {scan.source}: {outcome.reason}"
        return Refusal(scan.scan, scan.source, reason, "unreadable")
    result, quality = outcome.result, _quality_row(scan, outcome.quality)
    if isinstance(result, Good):
        original = writer.raw_digests.get(result.raw_digest)
        if original is None:
            recording = _record(scan, result, writer)
            writer.add(recording, result.valid, raw_digest=result.raw_digest, quality=quality)
            return None
        reason = f"identical to the series of scan {original!r}, which is kept."
        result = Refusal(scan.scan, scan.source, reason, "identical")
    if result.category != "unreadable":
        writer.refuse(result, quality)
    return result


def _record(scan: ScanFile, good: Good, writer: StoreWriter) -> Recording:
    """Join a series with what is known of its scan."""
    return Recording(
        series=good.samples.T,
        t_r=ScanJob.of(scan).t_r,
        atlas=writer.atlas,
        scan=scan.scan,
        subject=scan.subject,
        session=scan.session,
        site=scan.site,
        motion=scan.motion,
        phenotypes=scan.phenotypes,
        source=scan.source,
    )


def _quality_row(scan: ScanFile, quality: ScanQuality) -> dict[str, Any]:
    """Join what was measured with what is known of a scan."""
    return {
        "subject": scan.subject,
        "session": scan.session,
        "site": scan.site,
        "motion": scan.motion,
        "share_scrubbed": _share_scrubbed(scan),
        **quality.to_dict(),
    }


def _share_scrubbed(scan: ScanFile) -> float:
    """Return the share of volumes that its reader or its source took out, NaN if unknown."""
    share = scan.phenotypes.get("share_scrubbed")
    return float(share) if isinstance(share, int | float) else float("nan")


def unmeasured(
    refused: Iterable[Refusal], found: Iterable[ScanFile], measured: Iterable[Refusal]
) -> Iterator[dict[str, Any]]:
    """Make rows of the table of quality for scans that were never read."""
    missing = {refusal.scan: refusal for refusal in refused}
    for refusal in measured:
        missing.pop(refusal.scan, None)
    for scan in found:
        if scan.scan in missing:
            nothing = ScanQuality() if scan.t_r is None else ScanQuality(t_r=scan.t_r)
            yield {**vars(missing[scan.scan]), **_quality_row(scan, nothing)}


@dataclass(frozen=True)
class PreparationReport:
    """What became of the scans.

    Parameters
    ----------
    path : Path
        The store.
    n_found, n_written : int
        Number of scans that were there, and that are in the store.
    refused : tuple of Refusal
        The others, by name.
    seconds : float
        Time that it took.
    n_resumed : int
        How many of the written scans an interrupted run had written already.
    started_over : bool
        Whether an interrupted run was dropped because its arguments or files were others.
    nameless : int
        How many of the written scans name no subject; each counts as a person of its own.
    order : OrderCheck or None
        What connectivity says of the order of the ROIs.
    told : tuple of str
        What the reader says of the files, a paragraph each.
    """

    path: Path
    n_found: int
    n_written: int
    refused: tuple[Refusal, ...]
    seconds: float
    n_resumed: int = 0
    started_over: bool = False
    nameless: int = 0
    order: OrderCheck | None = None
    told: tuple[str, ...] = ()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know although nothing went wrong, a paragraph each."""
        told = []
        if self.started_over:
            told.append(
                "An interrupted preparation with other arguments or files was started over."
            )
        if self.nameless:
            told.append(explain_nameless(self.nameless))
        if self.order is not None and self.order.notice:
            told.append(self.order.notice)
        return (*told, *self.told)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    atlas: Atlas,
    format: FormatName = "auto",
    table: ScanTable | None = None,
    t_r: float | None = None,
    preprocessing: Preprocessing | None = None,
    policy: Policy = "default",
    ignore: Sequence[str | Path] = (),
    reading: ReaderOptions | None = None,
    trust_order: bool = False,
    workers: int | None = 1,
    scheduler: str | None = None,
    existing: Literal["refuse", "reuse"] = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> PreparationReport:
    """Read recordings, preprocess them, and write them as a store.

    Parameters
    ----------
    source : str or path
        File or folder with the recordings.
    out : str or path
        Folder of the store; must not exist. If an equal call was interrupted, it goes on.
    atlas : Atlas
        Atlas that the series were extracted with.
    format : {"auto", "pcp", "arrays", "original-hdf5", "fmriprep", "cifti", ...}
        How `source` is laid out; "auto" recognises it.
    table : ScanTable or None
        Repetition times, sites, motion and phenotypes by scan or subject. A participants.tsv in a
        folder of arrays is read as well, and need not list all scans if there is a table.
    t_r : float or None
        Repetition time in seconds of the scans for which neither files nor table say it.
    preprocessing : Preprocessing or None
        What is done to every scan; the defaults if None.
    policy : {"default", "strict", "keep-going"}
        "default": scans whose data are not good enough are left out, anything else stops.
        "strict": those stop as well, once all are known, and scans that name no subject at once.
        "keep-going": scans that cannot be read, or that have no row in the table or no repetition
        time, are left out as well.
    ignore : sequence of str or path
        Files in `source` that are no scans, such as the table of the atlas. That of `table` is
        left out anyway.
    reading : ReaderOptions or None
        What readers of images have to be told; the defaults if None. Their band, and who
        applies it, are those of `preprocessing`.
    trust_order : bool
        Whether the rows are believed to be in the order of the atlas whatever their connectivity
        says; see `check_order`.
    workers : int or None
        Number of processes that read and preprocess, with one thread each. 1 is this process; None
        is one a core that may be used, started where the work takes longer than a second. The
        store does not depend on it. A process that is killed is replaced; a scan that ends its
        process twice is refused as "unreadable".
    scheduler : str or None
        Address of the scheduler of a Dask cluster, or its scheduler file, that does the work
        instead. Its workers need this package and must see the files under the same paths.
    existing : {"refuse", "reuse"}
        What becomes of a store that is there already: "reuse" takes one that an equal call has
        written, and stops at any other.
    progress : callable or None
        Called with the number of scans that are done and that there are.

    Returns
    -------
    PreparationReport
        Counts, and the scans that were left out; they are in the store's refused.csv as well.

    Raises
    ------
    InputError
        If something stops the preparation, such as ROIs in another order than the atlas', or no
        scan is left; nothing stays behind.
    ConfigurationError
        If format or policy is unknown.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 2})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     noise = np.random.default_rng(0).standard_normal((4, 150))
    ...     np.save(Path(folder) / "anna.npy", noise)
    ...     np.save(Path(folder) / "otto.npy", noise[:, :50])
    ...     report = prepare(folder, Path(folder) / "store", atlas=atlas, t_r=2.0)
    >>> report.n_written, [(x.scan, x.category) for x in report.refused]
    (1, [('otto', 'short')])
    """
    began = time.monotonic()
    _check_policy(policy)
    check_workers(workers, scheduler)
    # Workers of a cluster have working directories of their own.
    source, out = (Path(source) if scheduler is None else Path(source).absolute()), Path(out)
    preprocessing = preprocessing or Preprocessing()
    others = [*map(Path, ignore), *([table.path] if table is not None else [])]
    reading = _settle(reading or ReaderOptions(), preprocessing)
    if scheduler is not None and reading.atlas_image is not None:
        reading = dataclasses.replace(reading, atlas_image=reading.atlas_image.absolute())
    found, own, unread = find_scans(source, atlas, format=format, ignore=others, options=reading)
    found, misnamed = _set_apart_misnamed(found, policy)
    own_table = read_scan_table(own) if own is not None else None
    scans, nameless, refused, absent = complete(
        found, own_table=own_table, table=table, t_r=t_r, policy=policy
    )
    refused += misnamed
    order = check_order(scans, atlas, trust=trust_order)
    told = (*_explain_unread(unread), *[absent] * bool(absent), *collect_notices(scans))
    request = _describe_request(source, format, scans) | _describe_reading(reading)
    kept = find_equal_store(out, atlas, preprocessing, request) if existing == "reuse" else None
    n_found = len(found) + len(misnamed)
    report = partial(PreparationReport, out, n_found, order=order, told=told)
    if kept is not None:
        return report(
            n_written=len(kept),
            refused=read_refusals(kept),
            seconds=time.monotonic() - began,
            n_resumed=len(kept),
            nameless=kept.n_unnamed_subjects,
        )
    with StoreWriter(out, atlas, preprocessing, request) as writer:
        n_resumed = len(writer.done)
        refused += write_scans(
            scans,
            writer,
            policy=policy,
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
        check_refused(refused, policy, n_found=n_found, n_written=len(writer.done))
        refused.sort(key=lambda refusal: refusal.scan)
        store = writer.finish(
            refused,
            n_unnamed_subjects=len(nameless & writer.done),
            quality=unmeasured(refused, found, writer.refused),
        )
    return report(
        n_written=len(writer.done),
        refused=tuple(refused),
        seconds=time.monotonic() - began,
        n_resumed=n_resumed,
        started_over=writer.started_over,
        nameless=store.n_unnamed_subjects,
    )


def _set_apart_misnamed(
    found: Sequence[ScanFile], policy: Policy
) -> tuple[list[ScanFile], list[Refusal]]:
    """Refuse scans whose names are not UTF-8, before anything is read: no table can hold them."""
    good, refused = [], []
    for scan in found:
        if is_text(scan.source) and is_text(scan.scan):
            good.append(scan)
            continue
        name, source = readable(scan.scan), readable(scan.source)
        reason = (
            f"the name of {source} is not UTF-8 (from an old share, perhaps), and no table could "
            "hold it. Rename it, for example with convmv."
        )
        refused.append(Refusal(name, source, reason, "unreadable"))
    if refused and policy != "keep-going":
        raise InputError(
            f"{refused[0].reason} There are {len(refused)} such scan(s) of {len(found)}. To leave "
            "them out: policy 'keep-going', --keep-going. Nothing was written."
        )
    return good, refused


def _explain_unread(unread: Sequence[str]) -> tuple[str, ...]:
    """Name the folders and files that could not be read."""
    if not unread:
        return ()
    shown = "; ".join(readable(what) for what in unread[:TOLD])
    more = f"; and {len(unread) - TOLD} more" if len(unread) > TOLD else ""
    return (f"{len(unread)} place(s) in the source could not be read: {shown}{more}.",)


def _check_policy(policy: str) -> None:
    """Refuse a policy that does not exist."""
    known = get_args(Policy)
    if policy not in known:
        raise ConfigurationError(
            f"there is no policy {policy!r}; there are {', '.join(known)}.{nearest(policy, known)}"
        )


def _settle(reading: ReaderOptions, preprocessing: Preprocessing) -> ReaderOptions:
    """Tell readers which band-pass follows, or went before."""
    filtered: Filtered = "here" if preprocessing.filtered_before is None else "before"
    return dataclasses.replace(reading, band=preprocessing.band, filtered=filtered)


def _describe_reading(reading: ReaderOptions) -> dict[str, Any]:
    """Name the options of reading, and size and age of the atlas image."""
    described: dict[str, Any] = {"reading": reading.to_dict()}
    if reading.atlas_image is not None and reading.atlas_image.exists():
        status = reading.atlas_image.stat()
        described["atlas_image"] = [status.st_size, status.st_mtime_ns]
    return described


def _describe_request(source: Path, format: str, scans: Sequence[ScanFile]) -> dict[str, Any]:
    """Condense all that the store depends on, including size and age of the files."""
    condensed = hashlib.sha256()
    for scan in scans:
        file = source if source.is_file() else Path(scan.source)
        who = (scan.scan, scan.subject, scan.session, scan.site, str(Path(scan.source).absolute()))
        known = (scan.t_r, scan.motion, dict(scan.phenotypes))
        entry = [who, known, *_version(file), *map(_version, scan.beside)]
        condensed.update(json.dumps(entry, default=str, sort_keys=True).encode())
    return {
        "source": str(source.resolve()),
        "format": format,
        "n_scans": len(scans),
        "scans": condensed.hexdigest(),
    }


def _version(file: Path) -> tuple[str, int, int]:
    """Name a file, its size and its age."""
    # A link to content that was not downloaded is complained of where it is read.
    status = file.stat() if file.exists() else file.lstat()
    return file.name, status.st_size, status.st_mtime_ns
