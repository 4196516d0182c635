"""Recordings, scan files before they are read, options of reading, and refused scans."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError, InputError, nearest


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
        Identity of the scan, unique in its cohort; whatever writes it down needs one.
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
    scan: str = ""
    subject: str = ""
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

    def __repr__(self) -> str:
        who = f"{self.scan!r} of {self.subject!r}, " if self.scan else ""
        rois, samples = self.series.shape
        return (
            f"Recording({who}{rois} ROIs, {samples} samples at {self.t_r:g} s, {self.atlas.name})"
        )

    @property
    def duration(self) -> float:
        """Length of the scan in seconds."""
        return float(self.series.shape[1] * self.t_r)


Denoise = Literal["auto", "none", "motion", "simple", "scrubbing", "compcor"]
"""Which confounds are regressed out: see `ReaderOptions`."""
GlobalSignal = Literal["kept", "removed"]
NonSteady = Literal["dropped", "kept"]
Filtered = Literal["here", "before"]


@dataclass(frozen=True)
class ReaderOptions:
    """What readers of images have to be told; readers of extracted series need none of it.

    Examples
    --------
    >>> ReaderOptions(task="task-rest").task
    'rest'
    """

    atlas_image: Path | None = None
    atlas_space: str | None = None
    denoise: Denoise = "auto"
    global_signal: GlobalSignal = "kept"
    n_compcor: int = 5
    fd_threshold: float = 0.5
    std_dvars_threshold: float = 1.5
    max_scrubbed: float = 0.5
    non_steady: NonSteady = "dropped"
    min_roi_coverage: float = 0.5
    band: tuple[float | None, float | None] = (None, None)
    filtered: Filtered = "here"
    task: str | None = None
    run: str | None = None
    space: str | None = None
    res: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("denoise", get_args(Denoise)),
            ("global_signal", get_args(GlobalSignal)),
            ("non_steady", get_args(NonSteady)),
            ("filtered", get_args(Filtered)),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ConfigurationError(
                    f"{name} is {value!r}; it is one of {', '.join(known)}."
                    + nearest(str(value), known)
                )
        for name in ("fd_threshold", "std_dvars_threshold", "n_compcor"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("max_scrubbed", "min_roi_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it is a share between 0 and 1."
                )
        for name in ("task", "run", "space", "res"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, value.removeprefix(f"{name}-"))

    def to_dict(self) -> dict[str, Any]:
        """Return what was changed from the defaults, as plain values for JSON.

        Examples
        --------
        >>> ReaderOptions(denoise="none").to_dict()
        {'denoise': 'none'}
        """
        plain = ReaderOptions()
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value != getattr(plain, name)
        }


def is_text(name: str) -> bool:
    """Tell whether a name from the file system is UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def readable(name: str) -> str:
    """Return a name with backslash escapes for the bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


Policy = Literal["default", "strict", "keep-going"]
"""Whether to leave out what is not good enough, nothing, or all that cannot be used."""

QUALITY: Final = ("short", "coverage", "nan", "flat", "identical")
"""Categories for which a scan is left out and the others are kept."""

TOLD: Final = 10
"""How many scans a message explains. If that many fail from the first on, so will the others."""


@dataclass(frozen=True)
class Refusal:
    """A scan that was left out."""

    scan: str
    source: str
    reason: str
    category: str


def stops(refusal: Refusal, policy: Policy) -> bool:
    """Say whether a refusal stops the preparation although other scans may be good."""
    return policy != "keep-going" and refusal.category not in QUALITY


def check_refused(
    refused: Sequence[Refusal], policy: Policy, *, n_found: int, n_written: int
) -> None:
    """Stop if nothing is left, or if anything was refused that may not be left out."""
    stopping = [refusal for refusal in refused if stops(refusal, policy)]
    if len(stopping) == 1:
        (refusal,) = stopping
        raise InputError(
            f"{refusal.reason} (To leave such scans out: policy 'keep-going', --keep-going.)"
        )
    if stopping:
        every = n_written == 0 and len(stopping) == TOLD < n_found
        seen = f"each of the first {TOLD}" if every else f"{len(stopping)}"
        raise InputError(
            f"{seen} of {n_found} scan(s) cannot be used: {_list(stopping, TOLD)}. Mend all of "
            "them, or leave them out (policy 'keep-going', --keep-going). Nothing was written."
        )
    if not refused or (n_written and policy != "strict"):
        return
    counts = Counter(refusal.category for refusal in refused)
    told = ", ".join(f"{number} {category}" for category, number in counts.most_common())
    if not n_written:
        raise InputError(
            f"none of the {n_found} scan(s) can be used ({told}): {_list(refused, 5)}. Check "
            "atlas, repetition time and preprocessing."
        )
    raise InputError(
        f"{len(refused)} of {n_found} scan(s) are refused ({told}), and the policy is strict: "
        f"{_list(refused, 20)}. Remove these scans, change the thresholds of the preprocessing, "
        "or use the default policy, which leaves them out."
    )


def _list(refused: Sequence[Refusal], most: int) -> str:
    """Return scans with their reasons for a message."""
    listed = "; ".join(f"{x.scan!r}: {x.reason.rstrip('.')}" for x in refused[:most])
    return listed + (f"; and {len(refused) - most} more" if len(refused) > most else "")


def name_scans(scans: Sequence[ScanFile]) -> str:
    """Return the first few scans for a message."""
    return ", ".join(repr(scan.scan) for scan in scans[:5]) + (", ..." if len(scans) > 5 else "")
