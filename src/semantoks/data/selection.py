"""A part of a cohort: the same files, fewer scans."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

_TOLD = 5


@dataclass(frozen=True, eq=False, repr=False)
class Selection(Store):
    """Some scans of a store, read from its files; use `select_scans` or `select_subjects`."""

    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the file itself instead of receiving a copy of it.
        return (_open_selection, (self.path, self.rows))

    @cached_property
    def scans(self) -> pd.DataFrame:
        """The rows of the table of scans, in the order of the store."""
        return Store.open(self.path).scans.iloc[self.rows].reset_index(drop=True)


def select_scans(store: Store, rows: NDArray[np.int64]) -> Selection:
    """Take some scans of a store, without copying them."""
    asked = np.asarray(rows, dtype=np.int64)
    rows = np.unique(asked)
    if not len(rows):
        raise InputError(f"a part of store {store.path} needs at least one scan; none was chosen.")
    if len(rows) != len(asked):
        raise InputError(f"a scan of store {store.path} was chosen more than once.")
    if rows[0] < 0 or rows[-1] >= len(store):
        raise InputError(
            f"scans {rows[0]} to {rows[-1]} were chosen; {store.path} has scans 0 to "
            f"{len(store) - 1}."
        )
    codes, first = np.unique(store.subject_codes[rows], return_index=True)
    order = np.empty(int(codes.max()) + 1, dtype=np.int64)
    order[codes[np.argsort(first)]] = np.arange(len(codes))
    values = {entry.name: getattr(store, entry.name) for entry in fields(Store)}
    whole = store.rows[rows] if isinstance(store, Selection) else rows
    values |= {
        "fingerprint": selection_fingerprint(store.fingerprint, rows),
        "offsets": store.offsets[rows],
        "lengths": store.lengths[rows],
        "subject_codes": order[store.subject_codes[rows]],
        "valid": store.valid[rows],
        "n_unnamed_subjects": min(store.n_unnamed_subjects, len(rows)),
    }
    return Selection(**values, rows=whole)


def select_subjects(store: Store, subjects: Sequence[str]) -> Selection:
    """Take all scans of some people.

    Parameters
    ----------
    store : Store
        The whole cohort.
    subjects : sequence of str
        Who; every one must be in the store. None at all never means everybody.

    Returns
    -------
    Selection
        A store of their scans.

    Raises
    ------
    InputError
        If there are none, or somebody is unknown.
    """
    known = store.scans["subject"].astype(str)
    wanted = {str(subject) for subject in subjects}
    if not wanted:
        raise InputError(f"the list of subjects for {store.path} is empty; it must name some.")
    unknown = sorted(wanted - {*known})
    if unknown:
        more = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
        raise InputError(
            f"{len(unknown)} subject(s) are not in {store.path}: {', '.join(unknown[:_TOLD])}"
            f"{more}.{nearest(unknown[0], known.unique())} Correct the list."
        )
    return select_scans(store, np.flatnonzero(known.isin(wanted)))


def read_subjects(path: str | Path) -> list[str]:
    """Read a list of subjects: a text file with one a line, or a table with a column subject."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"the list of subjects {path} cannot be read: {reason}.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    if separator and lines:
        header = [cell.strip().strip('"') for cell in lines[0].split(separator)]
        place = next((i for i, c in enumerate(header) if c in {"subject", "participant_id"}), None)
        if place is None:
            raise InputError(
                f"{path} has no column subject or participant_id, but {', '.join(header[:8])}."
            )
        lines = [line.split(separator)[place].strip().strip('"') for line in lines[1:]]
    if not lines:
        raise InputError(f"the list of subjects {path} is empty; it must name some.")
    who, count = Counter(lines).most_common(1)[0]
    if count > 1 and not separator:  # a table may have a row a scan
        raise InputError(f"{path} names {who!r} more than once.")
    return list(dict.fromkeys(lines))


def selection_fingerprint(whole: str, rows: Int[NDArray[np.int64], "scan"]) -> str:
    """Return a fingerprint that changes with the whole store and with what was chosen of it."""
    chosen = np.asarray(rows, dtype=np.int64).tobytes()
    return hashlib.sha256(whole.encode() + chosen).hexdigest()[:16]


def _open_selection(path: Path, rows: NDArray[np.int64]) -> Selection:
    """Open a store again and take the same scans."""
    return select_scans(Store.open(path), rows)
