"""One scan: its series, and who, where and how it was measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError


@dataclass(frozen=True)
class ScanFile:
    """A scan that a reader has found but not read yet."""

    scan: str
    load: Callable[..., NDArray[np.floating[Any]]]
    source: str
    subject: str = ""
    session: str = ""
    site: str = ""
    t_r: float | None = None
    motion: float = float("nan")
    phenotypes: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    load_takes_t_r: bool = False


def collect_notices(scans: Sequence[ScanFile]) -> tuple[str, ...]:
    """Return what there is to say of scans, everything once.

    Examples
    --------
    >>> scans = [ScanFile(name, list, name, notices=("Short.",)) for name in "ab"]
    >>> collect_notices(scans), collect_notices([*scans, ScanFile("c", list, "c")])
    (('Short.',), ('Short. (2 of 3 scans)',))
    """
    counts = Counter(notice for scan in scans for notice in scan.notices)
    return tuple(
        notice if count == len(scans) else f"{notice} ({count} of {len(scans)} scans)"
        for notice, count in counts.items()
    )


class Entities(NamedTuple):
    """Who was measured when, as a name says it."""

    subject: str
    session: str


def parse_entities(name: str) -> Entities:
    """Read subject and session out of a name that is written as in BIDS.

    Examples
    --------
    >>> parse_entities("sub-01_ses-2_task-rest")
    Entities(subject='sub-01', session='ses-2')
    >>> parse_entities("anna_2")
    Entities(subject='', session='')
    """
    found = {match[1]: match[0] for match in re.finditer(r"(sub|ses)-[^_/\\]+", name)}
    return Entities(found.get("sub", ""), found.get("ses", ""))


@dataclass(frozen=True)
class Recording:
    """One scan's series and identity.

    Parameters
    ----------
    series : ndarray of shape (roi, time)
        BOLD series in any unit, ROIs in the order of `atlas`.
    t_r : float
        Repetition time in seconds.
    atlas : Atlas
        What the rows of `series` are.
    scan : str
        Identity of the scan, unique in its cohort.
    subject : str
        Identity of the person; the same for all of that person's scans.
    session, site : str
        When and where, an empty string if unknown.
    motion : float
        Mean framewise displacement in mm, NaN if unknown.
    phenotypes : mapping
        Everything else that is known of the scan, by name.
    source : str
        File that the series comes from, for messages.

    Raises
    ------
    InputError
        If the shape does not fit the atlas or the repetition time is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from semantoks.data.atlas import Atlas
    >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 3})
    >>> Recording(np.zeros((5, 120)), t_r=2.0, atlas=atlas, scan="a", subject="1").duration
    240.0
    """

    series: Float[NDArray[np.floating[Any]], "roi time"]
    t_r: float
    atlas: Atlas
    scan: str
    subject: str
    session: str = ""
    site: str = ""
    motion: float = float("nan")
    phenotypes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if self.series.ndim != 2 or self.series.shape[0] != len(self.atlas):
            raise InputError(
                f"scan {self.scan!r} has a series of shape {self.series.shape}, but atlas "
                f"{self.atlas.name!r} expects (roi, time) with {len(self.atlas)} ROIs. "
                "Give the atlas that the series was extracted with, or transpose the series."
            )
        if not self.t_r > 0:
            raise InputError(
                f"scan {self.scan!r} has repetition time {self.t_r}; it must be positive, in s."
            )

    @property
    def duration(self) -> float:
        """Length of the scan in seconds."""
        return float(self.series.shape[1] * self.t_r)
