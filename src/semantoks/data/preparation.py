"""From files to a store: find the scans, complete them, preprocess them, write what is good."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessed, Preprocessing, QualityError, preprocess
from semantoks.data.readers import FormatName, find_scans
from semantoks.data.recording import Recording, ScanFile
from semantoks.data.scan_matching import explain_unmatched, match_rows
from semantoks.data.scan_table import ScanTable, check_t_r
from semantoks.data.store_table import COLUMNS
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError, nearest

Policy = Literal["default", "strict", "keep-going"]
Series = NDArray[np.floating[Any]]

QUALITY: Final = ("short", "coverage", "nan", "flat", "identical")
"""Categories for which a scan is left out and the others are kept."""


@dataclass(frozen=True)
class Refusal:
    """A scan that was left out.

    Parameters
    ----------
    scan : str
        Identity of the scan.
    source : str
        File that it comes from.
    reason : str
        What is wrong, in a sentence.
    category : str
        "short", "coverage", "nan", "flat" or "identical" for the data; "unreadable",
        "no table row", "no t_r" or "preprocessing" for what only the policy "keep-going" leaves
        out.
    """

    scan: str
    source: str
    reason: str
    category: str


@dataclass(frozen=True)
class PreparationReport:
    """What became of the scans.

    Parameters
    ----------
    path : Path
        The store.
    n_found, n_written : int
        Number of scans that were there, and that are in the store.
    refused : tuple of Refusal
        The others, by name.
    seconds : float
        Time that it took.
    n_resumed : int
        How many of the written scans an interrupted run had written already.
    started_over : bool
        Whether an interrupted run was dropped because its arguments or files were others.
    """

    path: Path
    n_found: int
    n_written: int
    refused: tuple[Refusal, ...]
    seconds: float
    n_resumed: int = 0
    started_over: bool = False


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    atlas: Atlas,
    format: FormatName = "auto",
    table: ScanTable | None = None,
    t_r: float | None = None,
    preprocessing: Preprocessing | None = None,
    policy: Policy = "default",
    progress: Callable[[int, int], None] | None = None,
) -> PreparationReport:
    """Read recordings, preprocess them, and write them as a store.

    Parameters
    ----------
    source : str or path
        File or folder with the recordings.
    out : str or path
        Folder of the store; must not exist. If an equal call was interrupted, it goes on.
    atlas : Atlas
        Atlas that the series were extracted with.
    format : {"auto", "pcp", "arrays", "original-hdf5"}
        How `source` is laid out; "auto" recognises it.
    table : ScanTable or None
        Repetition times, sites, motion and phenotypes by scan or subject.
    t_r : float or None
        Repetition time in seconds of the scans for which neither files nor table say it.
    preprocessing : Preprocessing or None
        What is done to every scan; the defaults if None.
    policy : {"default", "strict", "keep-going"}
        "default": scans whose data are not good enough are left out, anything else stops.
        "strict": those stop as well, once all are known. "keep-going": scans that cannot be read,
        or that have no row in the table or no repetition time, are left out as well.
    progress : callable or None
        Called with the number of scans that are done and that there are.

    Returns
    -------
    PreparationReport
        Counts, and the scans that were left out; they are in the store's refused.csv as well.

    Raises
    ------
    InputError
        If something stops the preparation, or no scan is left; nothing stays behind.
    ConfigurationError
        If format or policy is unknown.

    Examples
    --------
    >>> import tempfile
    >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 2})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     noise = np.random.default_rng(0).standard_normal((4, 150))
    ...     np.save(Path(folder) / "anna.npy", noise)
    ...     np.save(Path(folder) / "otto.npy", noise[:, :50])
    ...     report = prepare(folder, Path(folder) / "store", atlas=atlas, t_r=2.0)
    >>> report.n_written, [(x.scan, x.category) for x in report.refused]
    (1, [('otto', 'short')])
    """
    began = time.monotonic()
    if policy not in get_args(Policy):
        known = get_args(Policy)
        raise ConfigurationError(
            f"there is no policy {policy!r}; there are {', '.join(known)}.{nearest(policy, known)}"
        )
    source, out = Path(source), Path(out)
    preprocessing = preprocessing or Preprocessing()
    found = find_scans(source, atlas, format=format)
    if table is not None:
        # The table may lie in the folder of the scans.
        found = [scan for scan in found if Path(scan.source) != table.path]
    scans, refused = _complete(found, table, t_r, policy)
    request = _describe_request(source, format, scans)
    with StoreWriter(out, atlas, preprocessing, request) as writer:
        n_resumed = len(writer.done)
        refused += list(_write(scans, writer, policy, progress))
        _check_refused(refused, policy, n_found=len(found), n_written=len(writer.done))
        writer.finish(refused)
    return PreparationReport(
        path=out,
        n_found=len(found),
        n_written=len(writer.done),
        refused=tuple(sorted(refused, key=lambda refusal: refusal.scan)),
        seconds=time.monotonic() - began,
        n_resumed=n_resumed,
        started_over=writer.started_over,
    )


def _complete(
    found: Sequence[ScanFile], table: ScanTable | None, t_r: float | None, policy: Policy
) -> tuple[list[ScanFile], list[Refusal]]:
    """Add what the table and the arguments say; every scan that stays has a repetition time."""
    scans, refused = list(found), list[Refusal]()
    if table is not None:
        match = match_rows(scans, table)
        scans = match.joined
        if match.unmatched and policy != "keep-going":
            raise InputError(explain_unmatched(match.unmatched, table))
        for scan in match.unmatched:
            reason = explain_unmatched([scan], table)
            refused.append(Refusal(scan.scan, scan.source, reason, "no table row"))
    if t_r is not None:
        _check_contradiction(scans, check_t_r(t_r, "the repetition time given as t_r"))
        scans = [dataclasses.replace(scan, t_r=t_r) for scan in scans]
    lacking = [scan for scan in scans if scan.t_r is None]
    if lacking and policy != "keep-going":
        raise InputError(_explain_lacking(lacking, len(scans), table))
    for scan in lacking:
        reason = _explain_lacking([scan], 1, table)
        refused.append(Refusal(scan.scan, scan.source, reason, "no t_r"))
    return [_name_freely(scan) for scan in scans if scan.t_r is not None], refused


def _check_contradiction(scans: Sequence[ScanFile], t_r: float) -> None:
    """Refuse a repetition time for all that differs from what is known of some."""
    other = [scan for scan in scans if scan.t_r is not None and abs(scan.t_r - t_r) > 1e-3 * t_r]
    if other:
        raise InputError(
            f"the repetition time given for all scans (t_r, --t-r) is {t_r:g} s, but files or "
            f"table say otherwise for {len(other)} of {len(scans)}: {_names(other)} has "
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
        f"{len(lacking)} of {n_scans} scan(s) have no repetition time: {_names(lacking)}. The "
        f"files do not say it, and {where}. It is never guessed: give it in seconds for all scans "
        "(t_r, --t-r), or in a column of the table (t_r_column, --t-r-column)."
    )


def _name_freely(scan: ScanFile) -> ScanFile:
    """Give a phenotype that is named like a column of the store another name."""
    phenotypes = {
        f"{name}_in_table" if name in COLUMNS else name: value
        for name, value in scan.phenotypes.items()
    }
    return dataclasses.replace(scan, phenotypes=phenotypes, subject=scan.subject or scan.scan)


def _describe_request(source: Path, format: str, scans: Sequence[ScanFile]) -> dict[str, Any]:
    """Condense all that the store depends on, including size and age of the files."""
    condensed = hashlib.sha256()
    for scan in scans:
        file = source if source.is_file() else Path(scan.source)
        status = file.stat()
        who = (scan.scan, scan.subject, scan.session, scan.site, scan.source)
        known = (scan.t_r, scan.motion, dict(scan.phenotypes))
        entry = [who, known, status.st_size, status.st_mtime_ns]
        condensed.update(json.dumps(entry, default=str, sort_keys=True).encode())
    return {
        "source": str(source.resolve()),
        "format": format,
        "n_scans": len(scans),
        "scans": condensed.hexdigest(),
    }


def _write(
    scans: Sequence[ScanFile],
    writer: StoreWriter,
    policy: Policy,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Refusal]:
    """Write the scans that are good enough, and yield the others."""
    first_with: dict[str, str] = {}
    for done, scan in enumerate(scans):
        if progress is not None:
            progress(done, len(scans))
        refusal = _write_one(scan, writer, policy, first_with)
        if refusal is not None:
            yield refusal
    if progress is not None:
        progress(len(scans), len(scans))


def _write_one(
    scan: ScanFile, writer: StoreWriter, policy: Policy, first_with: dict[str, str]
) -> Refusal | None:
    """Write one scan, or say why not; remember its series by their digest."""
    try:
        series = scan.load()
    except InputError as error:
        return _refuse_or_stop(scan, str(error), "unreadable", policy)
    digest = hashlib.sha256(np.ascontiguousarray(series, dtype=np.float32).tobytes()).hexdigest()
    if scan.scan in writer.done:
        # Read again after an interruption, so that later copies of it are still found.
        first_with.setdefault(digest, scan.scan)
        return None
    try:
        ready = preprocess(series, _t_r_of(scan), writer.preprocessing)
    except QualityError as error:
        return Refusal(scan.scan, scan.source, str(error), error.category)
    except InputError as error:
        reason = f"scan {scan.scan!r} of {scan.source}: {error}"
        return _refuse_or_stop(scan, reason, "preprocessing", policy)
    if digest in first_with:
        reason = f"identical to the series of scan {first_with[digest]!r}, which is kept."
        return Refusal(scan.scan, scan.source, reason, "identical")
    first_with[digest] = scan.scan
    writer.add(_record(scan, ready, writer.atlas), ready.valid)
    return None


def _refuse_or_stop(scan: ScanFile, reason: str, category: str, policy: Policy) -> Refusal:
    """Return a refusal if the policy is to keep going, otherwise stop."""
    if policy != "keep-going":
        raise InputError(f"{reason} (To leave such scans out: policy 'keep-going', --keep-going.)")
    return Refusal(scan.scan, scan.source, reason, category)


def _t_r_of(scan: ScanFile) -> float:
    """Return the repetition time, which every scan has by now."""
    if scan.t_r is None:
        raise InputError(f"scan {scan.scan!r} has no repetition time.")
    return scan.t_r


def _record(scan: ScanFile, ready: Preprocessed, atlas: Atlas) -> Recording:
    """Join a preprocessed series with what is known of its scan."""
    return Recording(
        series=ready.series,
        t_r=_t_r_of(scan),
        atlas=atlas,
        scan=scan.scan,
        subject=scan.subject,
        session=scan.session,
        site=scan.site,
        motion=scan.motion,
        phenotypes=scan.phenotypes,
        source=scan.source,
    )


def _check_refused(
    refused: Sequence[Refusal], policy: Policy, *, n_found: int, n_written: int
) -> None:
    """Stop if nothing is left, or if anything was refused and the policy is strict."""
    if not refused or (n_written and policy != "strict"):
        return
    counts = Counter(refusal.category for refusal in refused)
    told = ", ".join(f"{number} {category}" for category, number in counts.most_common())
    shown = refused[:20] if policy == "strict" else refused[:5]
    listed = "; ".join(f"{refusal.scan!r}: {refusal.reason.rstrip('.')}" for refusal in shown)
    more = f"; and {len(refused) - len(shown)} more" if len(refused) > len(shown) else ""
    if not n_written:
        raise InputError(
            f"none of the {n_found} scan(s) can be used ({told}): {listed}{more}. Check atlas, "
            "repetition time and preprocessing."
        )
    raise InputError(
        f"{len(refused)} of {n_found} scan(s) are refused ({told}), and the policy is strict: "
        f"{listed}{more}. Remove these scans, change the thresholds of the preprocessing, or use "
        "the default policy, which leaves them out."
    )


def _names(scans: Sequence[ScanFile]) -> str:
    """Return the first few scans for a message."""
    return ", ".join(repr(scan.scan) for scan in scans[:5]) + (", ..." if len(scans) > 5 else "")
