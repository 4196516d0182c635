"""What is left out of a store, and what stops its preparation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from semantoks.data.recording import ScanFile
from semantoks.errors import InputError

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
