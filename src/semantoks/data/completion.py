"""Adds to scans what tables and arguments say of them, and finds what is still missing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from semantoks.data.recording import ScanFile
from semantoks.data.refusals import Policy, Refusal, name_scans
from semantoks.data.scan_matching import explain_unmatched, match_rows
from semantoks.data.scan_table import ScanTable, check_t_r, same_t_r
from semantoks.data.store_table import COLUMNS
from semantoks.errors import InputError


class Completed(NamedTuple):
    """Scans of which all is known that a store needs."""

    scans: list[ScanFile]
    nameless: frozenset[str]
    refused: list[Refusal]


def complete(
    scans: Sequence[ScanFile],
    *,
    own_table: ScanTable | None,
    table: ScanTable | None,
    t_r: float | None,
    policy: Policy,
) -> Completed:
    """Add what tables and arguments say."""
    refused: list[Refusal] = []
    if own_table is not None and table is None:
        scans, refused = _join(scans, own_table, policy)
    elif own_table is not None:
        joined, unmatched = match_rows(scans, own_table)
        scans = sorted([*joined, *unmatched], key=lambda scan: scan.scan)
    if table is not None:
        scans, refused = _join(scans, table, policy)
    known = table or own_table
    if t_r is not None:
        _check_contradiction(scans, check_t_r(t_r, "the repetition time given as t_r"))
        scans = [dataclasses.replace(scan, t_r=t_r) for scan in scans]
    lacking = [scan for scan in scans if scan.t_r is None]
    if lacking and policy != "keep-going":
        raise InputError(_explain_lacking(lacking, len(scans), known))
    for scan in lacking:
        reason = _explain_lacking([scan], 1, known)
        refused.append(Refusal(scan.scan, scan.source, reason, "no t_r"))
    timed = [_rename_phenotypes(_tell_t_r(scan)) for scan in scans if scan.t_r is not None]
    nameless = [scan for scan in timed if not scan.subject]
    if nameless and policy == "strict":
        raise InputError(
            f"{explain_nameless(len(nameless))} They are {name_scans(nameless)}, and the policy is "
            "strict."
        )
    named = [dataclasses.replace(scan, subject=scan.subject or scan.scan) for scan in timed]
    return Completed(named, frozenset(scan.scan for scan in nameless), refused)


def explain_nameless(n_scans: int) -> str:
    """Say what becomes of scans of which nothing says whose they are."""
    return (
        f"{n_scans} scan(s) name no subject; each counts as a person of its own. If some are of "
        "the same person, give a table with their participant_id (--table)."
    )


def _join(
    scans: Sequence[ScanFile], table: ScanTable, policy: Policy
) -> tuple[list[ScanFile], list[Refusal]]:
    """Complete scans by a table in which each must have a row."""
    joined, unmatched = match_rows(scans, table)
    if unmatched and policy != "keep-going":
        raise InputError(explain_unmatched(unmatched, table))
    reasons = [explain_unmatched([scan], table) for scan in unmatched]
    refused = [
        Refusal(scan.scan, scan.source, reason, "no table row")
        for scan, reason in zip(unmatched, reasons, strict=True)
    ]
    return joined, refused


def _check_contradiction(scans: Sequence[ScanFile], t_r: float) -> None:
    """Refuse a repetition time for all that differs from what is known of some."""
    known = [(scan, scan.t_r) for scan in scans if scan.t_r is not None]
    # What could not be read is NaN, and complained of when the scan is loaded.
    other = [scan for scan, own in known if not (math.isnan(own) or same_t_r(own, t_r))]
    if other:
        raise InputError(
            f"the repetition time given for all scans (t_r, --t-r) is {t_r:g} s, but files or "
            f"table say otherwise for {len(other)} of {len(scans)}: {name_scans(other)} has "
            f"{other[0].t_r:g} s. Leave out the one that is wrong."
        )


def _explain_lacking(lacking: Sequence[ScanFile], n_scans: int, table: ScanTable | None) -> str:
    """Say which scans have no repetition time, and where it may come from."""
    if table is None:
        where = "no table was given"
    elif "t_r" in table.columns:
        where = f"column {table.columns['t_r']!r} of table {table.path} is empty for them"
    else:
        where = f"table {table.path} has no column such as tr, t_r or RepetitionTime"
    return (
        f"{len(lacking)} of {n_scans} scan(s) have no repetition time: {name_scans(lacking)}. The "
        f"files do not say it, and {where}. It is never guessed: give it in seconds for all scans "
        "(t_r, --t-r), or in a column of the table (t_r_column, --t-r-column)."
    )


def _tell_t_r(scan: ScanFile) -> ScanFile:
    """Let a scan that is filtered while it is read know its repetition time."""
    if not scan.load_takes_t_r:
        return scan
    told = partial(scan.load, t_r=scan.t_r)
    return dataclasses.replace(scan, load=told, load_takes_t_r=False)


def _rename_phenotypes(scan: ScanFile) -> ScanFile:
    """Give a phenotype that is named like a column of the store another name."""
    phenotypes = {
        f"{name}_in_table" if name in COLUMNS else name: value
        for name, value in scan.phenotypes.items()
    }
    return dataclasses.replace(scan, phenotypes=phenotypes)
