"""Writes scans as they become ready, in their order, and collects those that cannot be used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from semantoks.data.quality import ScanQuality
from semantoks.data.recording import Recording, ScanFile
from semantoks.data.refusals import TOLD, Policy, Refusal, stops
from semantoks.data.scan_work import Good, ScanJob, ScanOutcome, work_on
from semantoks.data.store_writer import StoreWriter
from semantoks.data.work import PATIENCE, Lost, work


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
