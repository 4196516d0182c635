"""What is done with one scan, by whichever process: read, check, preprocess, measure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.network_coverage import mask_sparse_networks
from semantoks.data.preprocessing import Preprocessed, Preprocessing, QualityError, preprocess
from semantoks.data.quality import ScanQuality, measure
from semantoks.data.recording import ScanFile
from semantoks.data.refusals import Refusal
from semantoks.errors import InputError


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
    try:
        series, ready = None, None
        result: Good | Refusal
        try:
            series = job.load()
            ready = preprocess(series, job.t_r, preprocessing)
            least = preprocessing.min_network_coverage
            result = _pack(series, mask_sparse_networks(ready, atlas, least))
        except (InputError, MemoryError) as error:
            result = _refuse(job, error, was_read=series is not None)
        return ScanOutcome(result, measure(series, ready, t_r=job.t_r, atlas=atlas))
    except Exception as error:
        error.add_note(f"This came up in scan {job.scan!r} of {job.source}.")
        raise


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
    if not was_read:
        return Refusal(job.scan, job.source, str(error), "unreadable")
    reason = f"scan {job.scan!r} of {job.source}: {error}"
    return Refusal(job.scan, job.source, reason, "preprocessing")
