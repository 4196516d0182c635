"""Finds the row of every scan in a table, and completes the scan by it."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from semantoks.data.recording import ScanFile
from semantoks.data.scan_table import (
    Role,
    ScanTable,
    check_t_r,
    clean_id,
    is_missing,
    loose_id,
    same_t_r,
)
from semantoks.errors import InputError


class Match(NamedTuple):
    """Scans after a join."""

    joined: list[ScanFile]
    unmatched: list[ScanFile]


class _Key(NamedTuple):
    """The column by which a table is joined, and whose identities it holds."""

    column: str
    of: Literal["scan", "subject"]


def join(scans: Sequence[ScanFile], table: ScanTable) -> list[ScanFile]:
    """Complete every scan by its row of a table."""
    match = match_rows(scans, table)
    if match.unmatched:
        raise InputError(explain_unmatched(match.unmatched, table))
    return match.joined


def match_rows(scans: Sequence[ScanFile], table: ScanTable) -> Match:
    """Complete scans by their rows of a table, and tell which have none.

    Rows are found by the identity of the scan if the table holds any of them, otherwise by the
    subject and, if the table has one, the session. Identities are compared as text; a "sub-" in
    front and leading zeros may differ where that leaves one candidate. What a recording says of
    itself stays, except in columns that the user named; subject and repetition time must not
    contradict each other. Columns without a role become phenotypes.
    """
    key = _choose_key(scans, table)
    if key is None:
        return Match([], list(scans))
    session = table.columns.get("session") if key.of == "subject" else None
    identities = _identities(table, key, session)
    wanted = [scan.scan if key.of == "scan" else scan.subject or scan.scan for scan in scans]
    found = _resolve(wanted, set(identities))
    rows = [{str(k): v for k, v in row.items()} for row in table.rows.to_dict(orient="records")]
    joined, unmatched = [], []
    contradictions: list[str] = []
    for scan, name in zip(scans, wanted, strict=True):
        candidates = identities.get(found.get(name, ""), {})
        row = _pick_row(scan, candidates, table, session)
        if row is None:
            unmatched.append(scan)
        else:
            contradictions += _contradictions(scan, rows[row], table, key)
            joined.append(_complete(scan, rows[row], table))
    if contradictions:
        told = "; ".join(contradictions[:3]) + ("; ..." if len(contradictions) > 3 else "")
        raise InputError(
            f"table {table.path} contradicts the recordings in {len(contradictions)} place(s): "
            f"{told}. Correct the one that is wrong; if it is the recordings, name the column of "
            "the table, and it wins (subject_column, --subject-column; t_r_column, --t-r-column)."
        )
    return Match(joined, unmatched)


def explain_unmatched(scans: Sequence[ScanFile], table: ScanTable) -> str:
    """Say which scans have no row, with the nearest identity of the table for each."""
    columns = [table.id_column, table.columns.get("scan"), table.columns.get("subject")]
    present = [name for name in columns if name is not None]
    known = sorted({str(x) for name in present for x in table.rows[name].dropna()})
    asks_session = "session" in table.columns
    told = []
    for scan in scans[:5]:
        near = [*difflib.get_close_matches(scan.scan, known, n=1)]
        near += difflib.get_close_matches(scan.subject, known, n=1) if scan.subject else []
        session = f" of session {scan.session!r}" if asks_session and scan.session else ""
        hint = f" (nearest in the table: {near[0]!r})" if near else ""
        told.append(f"{scan.scan!r}{session}{hint}")
    more = ", ..." if len(scans) > 5 else ""
    example = f", which holds ids such as {known[0]!r}" if known else ""
    return (
        f"{len(scans)} scan(s) have no row in table {table.path}: {', '.join(told)}{more}. Their "
        f"ids were looked up in {' and '.join(map(repr, present))}{example}. Add the rows, name "
        "another column of ids (id_column, --id-column), or leave these scans out "
        "(policy 'keep-going', --keep-going)."
    )


def _choose_key(scans: Sequence[ScanFile], table: ScanTable) -> _Key | None:
    """Return the first column of identities in which any scan is found."""
    candidates: list[_Key] = []
    if table.id_column is not None:
        candidates += [_Key(table.id_column, "scan"), _Key(table.id_column, "subject")]
    else:
        of: Literal["scan", "subject"]
        for of in ("scan", "subject"):
            if of in table.columns:
                candidates.append(_Key(table.columns[of], of))
        if "subject" in table.columns:
            # A table of participants may list what the readers call scans.
            candidates.append(_Key(table.columns["subject"], "scan"))
    for key in candidates:
        known = {clean_id(x) for x in table.rows[key.column].dropna()}
        wanted = [scan.scan if key.of == "scan" else scan.subject for scan in scans]
        if _resolve([name for name in wanted if name], known):
            return key
    return None


def _identities(table: ScanTable, key: _Key, session: str | None) -> dict[str, dict[str, int]]:
    """Return the row of every identity and session; an identity without sessions has session ""."""
    found: dict[str, dict[str, int]] = {}
    repeated: list[str] = []
    sessions = table.rows[session] if session else [""] * len(table.rows)
    for row, (name, when) in enumerate(zip(table.rows[key.column], sessions, strict=True)):
        if not isinstance(name, str) or not name.strip():
            raise InputError(
                f"table {table.path}, line {table.rows.index[row] + 2} has no id in column "
                f"{key.column!r}. Give every row the id of its {key.of}, or remove the row."
            )
        entry = loose_id(when, "ses-") if isinstance(when, str) else ""
        rows = found.setdefault(clean_id(name), {})
        if entry in rows:
            repeated.append(clean_id(name) + (f" (session {entry})" if entry else ""))
        rows[entry] = row
    if repeated:
        unique = list(dict.fromkeys(repeated))
        raise InputError(
            f"table {table.path} has more than one row for {len(unique)} id(s) in column "
            f"{key.column!r}: {', '.join(unique[:5])}{', ...' if len(unique) > 5 else ''}. Keep a "
            f"row a {key.of}; for several sessions a subject, add a column 'session' or the ids "
            "of the scans ('scan_id')."
        )
    return found


def _resolve(wanted: Sequence[str], known: set[str]) -> dict[str, str]:
    """Return the identity of the table for each that is wanted, where there is exactly one."""
    loose: dict[str, set[str]] = {}
    for name in known:
        loose.setdefault(loose_id(name, "sub-"), set()).add(name)
    asked: dict[str, set[str]] = {}
    for name in wanted:
        asked.setdefault(loose_id(name, "sub-"), set()).add(name)
    found: dict[str, str] = {}
    for name in wanted:
        candidates = loose.get(loose_id(name, "sub-"), set())
        if name in known:
            found[name] = name
        elif len(candidates) == 1 and len(asked[loose_id(name, "sub-")]) == 1:
            found[name] = next(iter(candidates))
    return found


def _pick_row(
    scan: ScanFile, candidates: Mapping[str, int], table: ScanTable, session: str | None
) -> int | None:
    """Return which row of an identity is that of the scan's session."""
    if not candidates:
        return None
    row = candidates.get(loose_id(scan.session, "ses-") if session else "")
    if row is None and "" in candidates:
        row = candidates[""]
    if row is None and not scan.session:
        if len(candidates) > 1:
            raise InputError(
                f"scan {scan.scan!r} does not say its session, but table {table.path} has rows for "
                f"the sessions {', '.join(sorted(candidates))} of its subject. Put ses-<session> "
                "into the names of the files, or add the ids of the scans ('scan_id') to the table."
            )
        row = next(iter(candidates.values()))
    return row


def _contradictions(
    scan: ScanFile, row: Mapping[str, Any], table: ScanTable, key: _Key
) -> list[str]:
    """Say in which columns that the user did not name a row contradicts the recording."""
    text = {role: clean_id(row[name]) for role, name in table.columns.items()}
    told = []
    subject = text.get("subject", "")
    # Where the column of subjects is the one that the rows are found by, it agrees, or holds scans.
    asked = key.of == "scan" and key.column != table.columns.get("subject")
    differs = loose_id(subject, "sub-") != loose_id(scan.subject, "sub-")
    if asked and subject and scan.subject and differs and "subject" not in table.named:
        told.append(
            f"scan {scan.scan!r} is of subject {scan.subject!r} by its name or file, but of "
            f"{subject!r} by column {table.columns['subject']!r}"
        )
    if text.get("t_r") and scan.t_r is not None and "t_r" not in table.named:
        column = f"column {table.columns['t_r']!r}"
        t_r = check_t_r(text["t_r"], f"{column} of table {table.path} for scan {scan.scan!r}")
        # What could not be read is NaN, and complained of when the scan is loaded.
        if not (math.isnan(scan.t_r) or same_t_r(t_r, scan.t_r)):
            told.append(
                f"scan {scan.scan!r} of {scan.source} has a repetition time of {scan.t_r:g} s by "
                f"what lies with it, but of {t_r:g} s by {column}"
            )
    return told


def _complete(scan: ScanFile, row: Mapping[str, Any], table: ScanTable) -> ScanFile:
    """Fill in what the row knows and the recording does not."""
    text = {role: clean_id(row[name]) for role, name in table.columns.items()}
    changes: dict[str, Any] = {}
    role: Role
    for role in ("subject", "session", "site"):
        if text.get(role) and (role in table.named or not getattr(scan, role)):
            changes[role] = text[role]
    t_r = text.get("t_r")
    if t_r and (scan.t_r is None or "t_r" in table.named):
        where = f"column {table.columns['t_r']!r} of table {table.path} for scan {scan.scan!r}"
        changes["t_r"] = check_t_r(t_r, where)
    motion = text.get("motion")
    if motion and (math.isnan(scan.motion) or "motion" in table.named):
        changes["motion"] = _check_motion(motion, scan, table)
    known = {name: value for name, value in scan.phenotypes.items() if not is_missing(value)}
    fresh = {name: row[name] for name in table.phenotypes}
    return dataclasses.replace(scan, phenotypes={**scan.phenotypes, **fresh, **known}, **changes)


def _check_motion(value: str, scan: ScanFile, table: ScanTable) -> float:
    """Read a mean framewise displacement."""
    try:
        motion = float(value)
    except ValueError:
        motion = math.inf
    if 0 <= motion < math.inf:
        return motion
    raise InputError(
        f"column {table.columns['motion']!r} of table {table.path} is {value!r} for scan "
        f"{scan.scan!r}, but the mean framewise displacement is a number of mm, or empty where it "
        "is unknown. Correct it, or name another column (motion_column, --motion-column)."
    )
