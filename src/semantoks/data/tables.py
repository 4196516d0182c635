"""Tables of scans: reading, matching rows to scans, and completing recordings with them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from semantoks.data.recording import Policy, Refusal, ScanFile, name_scans
from semantoks.data.store_writer import COLUMNS
from semantoks.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd


Role = Literal["scan", "subject", "session", "t_r", "site", "motion"]

RECOGNISED: Final[Mapping[Role, tuple[str, ...]]] = {
    "scan": ("file_id", "scan_id", "scan"),
    "subject": ("participant_id", "sub_id", "subject", "subject_id", "bids_id"),
    "session": ("session", "ses", "session_id"),
    "t_r": ("tr", "t_r", "repetitiontime", "repetition_time"),
    "site": ("site", "site_id", "scan_site"),
    "motion": ("mean_fd", "func_mean_fd", "motion"),
}
"""Names of columns, in lower case, that are taken for each role; earlier ones come first."""

LONGEST_T_R: Final = 20.0
"""A larger repetition time, in seconds, is surely in milliseconds."""


@dataclass(frozen=True, eq=False)
class ScanTable:
    """A row a scan or a subject."""

    path: Path
    rows: pd.DataFrame
    columns: Mapping[Role, str]
    named: frozenset[Role] = frozenset()
    id_column: str | None = None

    @property
    def phenotypes(self) -> tuple[str, ...]:
        """Columns that have no role."""
        taken = {*self.columns.values(), self.id_column}
        return tuple(name for name in self.rows.columns if name not in taken)


def read_scan_table(
    path: str | Path,
    *,
    id_column: str | None = None,
    t_r_column: str | None = None,
    site_column: str | None = None,
    motion_column: str | None = None,
    subject_column: str | None = None,
    session_column: str | None = None,
) -> ScanTable:
    """Read a table of scans or subjects.

    Parameters
    ----------
    path : str or path
        A .csv or .tsv file with a header.
    id_column : str or None
        Column of identities, of scans or of subjects; recognised by its name if None.
    t_r_column, site_column, motion_column, subject_column, session_column : str or None
        Columns of the repetition time in s, the site, the mean framewise displacement in mm, the
        subject and the session; recognised by their names if None. Where one is named, its
        values replace those that come with the recordings.

    Returns
    -------
    ScanTable
        The table, not yet joined.

    Raises
    ------
    InputError
        If the file cannot be read, a named column is absent, or no column holds identities.
    """
    path = Path(path)
    header = _read(path, nrows=0).columns
    explicit: dict[Role, str | None] = {
        "subject": subject_column,
        "session": session_column,
        "t_r": t_r_column,
        "site": site_column,
        "motion": motion_column,
    }
    for name in (id_column, *explicit.values()):
        if name is not None and name not in header:
            raise InputError(
                f"table {path} has no column {name!r}; it has {', '.join(header)}."
                + nearest(name, header)
            )
    columns = _assign(path, list(header), explicit, id_column)
    if id_column is None and not {"scan", "subject"} & set(columns):
        known = ", ".join((*RECOGNISED["scan"], *RECOGNISED["subject"]))
        raise InputError(
            f"table {path} has no column of identities: one of {known} was expected, but it has "
            f"{', '.join(header)}. Name the column that holds the ids of scans or subjects "
            "(id_column, --id-column)."
        )
    text = {name for name in (*columns.values(), id_column) if name is not None}
    numbers = {columns[role] for role in ("t_r", "motion") if role in columns}
    rows = read_cells(path, text=text - numbers, numbers=numbers).dropna(how="all")
    named = frozenset(role for role, name in explicit.items() if name is not None)
    return ScanTable(path, rows, columns, named, id_column)


def check_t_r(value: object, where: str) -> float:
    """Check a repetition time.

    Examples
    --------
    >>> check_t_r("0.735", "the table")
    0.735
    """
    try:
        seconds = float(str(value).strip())
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and 0 < seconds <= LONGEST_T_R:
        return seconds
    if seconds > LONGEST_T_R and math.isfinite(seconds):
        advice = f"That is surely in milliseconds; give {seconds / 1000:g}."
    else:
        advice = "Correct it there."
    raise InputError(
        f"{where} is {str(value)!r}, but a repetition time is a positive number of seconds, such "
        f"as 2.0. {advice}"
    )


def same_t_r(first: float, second: float) -> bool:
    """Say whether two repetition times are the same but for rounding."""
    return math.isclose(first, second, rel_tol=1e-3)


def read_cells(
    path: Path,
    *,
    text: Collection[str] = (),
    numbers: Collection[str] = (),
    missing: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a table, and tell words from values that are missing.

    An empty cell and ``n/a``, as BIDS writes it, are missing in every column. Words such as NA,
    NaN or null are missing in columns in which everything else is a number, or true or false; in
    a column of text they are words as any other: a group or a site may be called NA.
    """
    import pandas as pd

    kept = dict.fromkeys((*text, *numbers), str)
    rows = _read(path, dtype=kept, keep_default_na=False, na_values=["", "n/a", *missing])
    guessed = _read(path, dtype=kept, na_values=list(missing))
    for name, column in guessed.items():
        kind = pd.api.types.infer_dtype(column, skipna=True)
        # A column of nothing but NA is no column of numbers.
        counted = kind in {"integer", "floating", "boolean"} and column.notna().any()
        if name in numbers or counted:
            rows[name] = column
    return rows


def _read(path: Path, **options: Any) -> pd.DataFrame:
    """Read a .csv or .tsv file."""
    import pandas as pd

    if path.suffix not in {".csv", ".tsv"}:
        raise InputError(
            f"{path} is no table that can be read: a .csv (commas) or .tsv (tabs) file was "
            "expected. Save it as one of these."
        )
    try:
        separator = "\t" if path.suffix == ".tsv" else ","
        # Types are found column by column: in parts, they could differ within a column.
        options = {"low_memory": False, "encoding": "utf-8-sig", **options}
        table = pd.read_csv(path, sep=separator, **options)
    except FileNotFoundError as error:
        raise InputError(f"table {path} does not exist. Check its name and folder.") from error
    except (ValueError, OSError) as error:
        raise InputError(
            f"table {path} cannot be read: {str(error).strip()}. A header and then a row a scan, "
            f"with {'tabs' if path.suffix == '.tsv' else 'commas'} between columns, was expected. "
            "Save it again as UTF-8 text."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first cells of rows that are too long for their names.
        raise InputError(
            f"table {path}: rows have more cells than the header has names "
            f"({', '.join(map(str, table.columns))}). Name every column, and put text that holds "
            "the separator in quotes."
        )
    renamed: pd.DataFrame = table.rename(columns=str)
    return renamed


def _assign(
    path: Path, header: list[str], explicit: Mapping[Role, str | None], id_column: str | None
) -> dict[Role, str]:
    """Find the column of every role, by what the user named or else by its name."""
    columns: dict[Role, str] = {}
    for role, names in RECOGNISED.items():
        given = explicit.get(role)
        if given is not None:
            columns[role] = given
            continue
        free = [name for name in header if name != id_column and name not in explicit.values()]
        candidates = [name for known in names for name in free if name.strip().lower() == known]
        if role == "t_r" and len(candidates) > 1:
            raise InputError(
                f"table {path} has several columns of repetition times: {', '.join(candidates)}. "
                "Name the one to use (t_r_column, --t-r-column)."
            )
        if candidates and not (role == "scan" and id_column is not None):
            columns[role] = candidates[0]
    return columns


def clean_id(value: object) -> str:
    """Return an identity as text.

    Examples
    --------
    >>> clean_id(" 50003.0")
    '50003'
    """
    if is_missing(value):
        return ""
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"\d+\.0", text) else text


def loose_id(name: str, prefix: str) -> str:
    """Return an identity without its prefix and leading zeros.

    Examples
    --------
    >>> loose_id("sub-0050003", "sub-")
    '50003'
    """
    text = clean_id(name).removeprefix(prefix)
    return text.lstrip("0") or text[:1]


def is_missing(value: object) -> bool:
    """Say whether a cell of a table is empty."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class Match(NamedTuple):
    """Scans after a join."""

    joined: list[ScanFile]
    unmatched: list[ScanFile]
    absent: list[str] = []  # noqa: RUF012 - of a tuple
    """Identities of the table that no scan has."""


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
    return Match(joined, unmatched, sorted(identities.keys() - set(found.values())))


def explain_absent(names: Sequence[str], table: ScanTable) -> str:
    """Say of whom a table speaks although there is no scan of them."""
    if not names:
        return ""
    told = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return (
        f"{len(names)} of those in table {table.path} have no scan here: {told}. If there should "
        "be scans of them, look for what is missing or called otherwise."
    )


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


class Completed(NamedTuple):
    """Scans of which all is known that a store needs."""

    scans: list[ScanFile]
    nameless: frozenset[str]
    refused: list[Refusal]
    told: str = ""
    """Of whom the table speaks without a scan."""


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
    told = ""
    silent = {scan.scan for scan in scans if scan.t_r is None}
    if own_table is not None and table is None:
        scans, refused, told = _join(scans, own_table, policy)
    elif own_table is not None:
        joined, unmatched, _ = match_rows(scans, own_table)
        scans = sorted([*joined, *unmatched], key=lambda scan: scan.scan)
    if table is not None:
        scans, refused, told = _join(scans, table, policy)
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
    given = t_r is not None or (known is not None and "t_r" in known.named)
    timed = [
        _rename_phenotypes(_tell_t_r(scan) if given or scan.scan in silent else scan)
        for scan in scans
        if scan.t_r is not None
    ]
    nameless = [scan for scan in timed if not scan.subject]
    if nameless and policy == "strict":
        raise InputError(
            f"{explain_nameless(len(nameless))} They are {name_scans(nameless)}, and the policy is "
            "strict."
        )
    named = [
        dataclasses.replace(scan, subject=plain_id(scan.subject) or scan.scan) for scan in timed
    ]
    named = _tell_alike(named)
    return Completed(named, frozenset(scan.scan for scan in nameless), refused, told)


def plain_id(text: str) -> str:
    """Write an identifier in one way: composed letters, without blanks or invisible characters.

    Examples
    --------
    >>> plain_id("Zoe\u0308\u200b ") == "Zo\u00eb"
    True
    """
    seen = "".join(x for x in text if unicodedata.category(x) not in ("Cf", "Cc"))
    return " ".join(unicodedata.normalize("NFC", seen).split())


def _tell_alike(scans: Sequence[ScanFile]) -> list[ScanFile]:
    """Note subjects whose identifiers differ in case or width only."""
    alike: dict[str, set[str]] = {}
    for scan in scans:
        key = unicodedata.normalize("NFKC", scan.subject).casefold()
        alike.setdefault(key, set()).add(scan.subject)
    several = [" and ".join(sorted(ids)) for ids in alike.values() if len(ids) > 1]
    if not several:
        return list(scans)
    shown = "; ".join(several[:5]) + ("; ..." if len(several) > 5 else "")
    notice = (
        f"{len(several)} group(s) of subject identifiers look alike but for case: {shown}. Each is "
        "a subject of its own here; if they are the same person, write them alike in the table."
    )
    first = dataclasses.replace(scans[0], notices=(*scans[0].notices, notice))
    return [first, *scans[1:]]


def explain_nameless(n_scans: int) -> str:
    """Say what becomes of scans of which nothing says whose they are."""
    return (
        f"{n_scans} scan(s) name no subject; each counts as a person of its own. If some are of "
        "the same person, give a table with their participant_id (--table)."
    )


def _join(
    scans: Sequence[ScanFile], table: ScanTable, policy: Policy
) -> tuple[list[ScanFile], list[Refusal], str]:
    """Complete scans by a table in which each must have a row, and say who has no scan."""
    joined, unmatched, absent = match_rows(scans, table)
    if unmatched and policy != "keep-going":
        raise InputError(explain_unmatched(unmatched, table))
    reasons = [explain_unmatched([scan], table) for scan in unmatched]
    refused = [
        Refusal(scan.scan, scan.source, reason, "no table row")
        for scan, reason in zip(unmatched, reasons, strict=True)
    ]
    return joined, refused, explain_absent(absent, table)


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
