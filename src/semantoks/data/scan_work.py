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
    """A scan that is to be read, without what other processes need not know of it.

    Parameters
    ----------
    scan, source : str
        Its identity, and the file that it comes from.
    load : callable
        Reads the series, shape (roi, time).
    t_r : float
        Repetition time in seconds.
    """

    scan: str
    source: str
    load: Callable[[], NDArray[np.floating[Any]]]
    t_r: float

    @classmethod
    def of(cls, scan: ScanFile) -> ScanJob:
        """Take what is needed of a scan.

        Parameters
        ----------
        scan : ScanFile
            A scan of which all is known.

        Returns
        -------
        ScanJob
            The job.

        Raises
        ------
        InputError
            If it has no repetition time.
        """
        if scan.t_r is None:
            raise InputError(f"scan {scan.scan!r} has no repetition time.")
        return cls(scan.scan, scan.source, scan.load, scan.t_r)


class Good(NamedTuple):
    """A scan that is ready for a store.

    Parameters
    ----------
    samples : ndarray of float16, shape (time, roi)
        Z-scored series as a store keeps them.
    valid : ndarray of bool, shape (roi,)
        ROIs that carry signal.
    raw_digest : str
        Condensed series as they were read, by which copies are found.
    """

    samples: NDArray[np.float16]
    valid: NDArray[np.bool_]
    raw_digest: str


@dataclass(frozen=True)
class ScanOutcome:
    """What became of a scan.

    Parameters
    ----------
    result : Good or Refusal
        The scan, or why it cannot be used.
    quality : ScanQuality
        How good it is.
    """

    result: Good | Refusal
    quality: ScanQuality


def work_on(job: ScanJob, *, atlas: Atlas, preprocessing: Preprocessing) -> ScanOutcome:
    """Read, preprocess and measure a scan.

    Parameters
    ----------
    job : ScanJob
        The scan.
    atlas : Atlas
        Atlas that its series were extracted with.
    preprocessing : Preprocessing
        What is done to it.

    Returns
    -------
    ScanOutcome
        The scan or a refusal, and its quality.
    """
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
