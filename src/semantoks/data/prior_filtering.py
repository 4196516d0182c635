"""Filters that series went through before they came here: said, so that it is not done twice.

A notice is words of the reader for the user; whether series are filtered here is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semantoks.data.reader_options import ReaderOptions


@dataclass(frozen=True)
class PriorFilter:
    """A filter that series went through before they came here."""

    said: str
    band: tuple[float | None, float | None]
    certain: bool


def tell_filter(prior: PriorFilter, options: ReaderOptions) -> tuple[str, ...]:
    """Say that series were filtered before, unless the user has said so.

    Examples
    --------
    >>> prior = PriorFilter("XCP-D band-passed these series", (0.01, 0.08), certain=True)
    >>> print(*tell_filter(prior, ReaderOptions(band=(0.01, 0.08))))
    XCP-D band-passed these series to 0.01 to 0.08 Hz, and they are filtered again here (0.01 to \
0.08 Hz), which damps the edges of the band twice. Say so, and they are not filtered twice: \
--filtered-before 0.01 0.08.
    >>> tell_filter(prior, ReaderOptions(band=(0.01, 0.08), filtered="before"))
    ()
    """
    was = f"{prior.said} to {_name(prior.band)}"
    say = f"--filtered-before {' '.join(map(_edge, prior.band))}"
    if options.filtered == "before":
        if options.band == prior.band or not prior.certain:
            return ()
        return (
            f"{was}, but --filtered-before says {_name(options.band)}. Models go by what you say; "
            f"if the files are right, say {say}.",
        )
    if options.band == (None, None):
        return (
            f"{was}, and no band-pass is applied here. Say so, and models know the band: {say}.",
        )
    so = "Say so" if prior.certain else "If that is so, say it"
    return (
        f"{was}, and they are filtered again here ({_name(options.band)}), which damps the edges "
        f"of the band twice. {so}, and they are not filtered twice: {say}.",
    )


def _name(band: Sequence[float | None]) -> str:
    """Name a band."""
    low, high = band
    if low is None or high is None:
        return f"below {high} Hz" if low is None else f"above {low} Hz"
    return f"{low} to {high} Hz"


def _edge(edge: float | None) -> str:
    """Write an edge as the command line takes it."""
    return "none" if edge is None else f"{edge:g}"
