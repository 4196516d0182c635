"""Splits as a table, and as plain lists with a hash that can be read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.evaluation.split_checks import check_splits
from semantoks.evaluation.split_parts import PARTS, Part, Split, subjects_of, text_of
from semantoks.files import replacing


class NamedSplit(NamedTuple):
    """A split whose parts are names."""

    name: str
    repeat: int
    fold: str
    parts: Mapping[Part, tuple[str, ...]]


def splits_table(splits: Sequence[Split], scans: Sequence[str]) -> pd.DataFrame:
    """Write splits down as a table."""
    names = np.asarray(scans, dtype=object)
    parts = [
        pd.DataFrame(
            {
                "split": split.name,
                "repeat": split.repeat,
                "fold": split.fold,
                "scan": names[rows],
                "part": part,
            }
        )
        for split in splits
        for part, rows in _rows_of_parts(split).items()
        if len(rows)
    ]
    return pd.concat(parts, ignore_index=True)


def splits_record(table: pd.DataFrame, scans: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return the table of splits as plain lists with a hash, for JSON."""
    folds: list[dict[str, Any]] = []
    for key, rows in table.groupby(["split", "repeat", "fold"], sort=False):
        name, repeat, fold = map(str, key)
        members: dict[str, list[str]] = {
            part: sorted(rows.loc[rows["part"] == part, "scan"].astype(str)) for part in PARTS
        }
        kept = {part: names for part, names in members.items() if names or part != "validation"}
        folds.append({"split": name, "repeat": int(repeat), "fold": fold, **kept})
    record: dict[str, Any] = {"sha256": _digest(folds), "folds": folds}
    if scans is not None:
        record |= {"n_scans": len(scans), "scans_sha256": _digest(_identities(scans))}
    return record


def write_splits(splits: Sequence[Split], scans: pd.DataFrame, path: str | Path) -> str:
    """Write splits down with a hash; `read_splits` reads them.

    Parameters
    ----------
    splits : sequence of Split
        The splits.
    scans : DataFrame
        The rows that the splits count, with the columns scan and subject.
    path : str or path
        File (.json) to write; one that stands there is replaced.

    Returns
    -------
    str
        The hash.

    Raises
    ------
    InputError
        If the file is not called .json, or a scan or a subject has no name.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"splits are written to a .json file, not to {path}.")
    record = splits_record(splits_table(splits, list(scans["scan"])), scans)
    with replacing(path) as beside:
        beside.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return str(record["sha256"])


def read_splits(path: str | Path, scans: pd.DataFrame) -> list[Split]:
    """Read splits that were written down, and check that nothing was changed since.

    Parameters
    ----------
    path : str or path
        File that `write_splits`, or a comparison, wrote.
    scans : DataFrame
        The scans that the splits were made for, in any order, with the columns scan and subject.

    Returns
    -------
    list of Split
        The splits, checked, in rows of `scans`.

    Raises
    ------
    InputError
        If the file cannot be read, was changed by hand, or was made for other scans.
    """
    path = Path(path)
    record = read_record(path)
    found = named_splits(record, path)
    _check_scans(record, found, scans, path)
    splits = [located(split, text_of(scans, "scan")) for split in found]
    check_splits(splits, scans)
    return splits


def read_record(path: Path) -> dict[str, Any]:
    """Read a record of splits and check its hash."""
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("folds"), list):
        raise InputError(
            f"{path} holds no splits: a JSON object with sha256 and folds is expected."
        )
    if "sha256" not in record:
        raise InputError(
            f"{path} has no hash (sha256), so that nobody can tell whether it was changed. Use the "
            "file as it was written."
        )
    if record["sha256"] != _digest(record["folds"]):
        raise InputError(
            f"{path} was changed after it was written: its folds do not fit its hash (sha256 "
            f"{str(record['sha256'])[:12]}...). Restore the file, or make the splits again; lists "
            "of your own are read without a hash (see PredefinedSplits)."
        )
    return record


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"the file of splits {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"the file of splits {path} cannot be read: {error}.") from error


def named_splits(record: Mapping[str, Any], path: Path) -> list[NamedSplit]:
    """Take the splits out of a record."""
    found = []
    for number, fold in enumerate(record["folds"]):
        try:
            parts: dict[Part, tuple[str, ...]] = {
                part: tuple(map(str, fold[part] if part != "validation" else fold.get(part, ())))
                for part in PARTS
            }
            found.append(
                NamedSplit(str(fold["split"]), int(fold["repeat"]), str(fold["fold"]), parts)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"fold {number} in {path} is not a split: {error!r}. It has split, repeat, fold "
                "and lists of scans, train and test."
            ) from error
    if not found:
        raise InputError(f"{path} holds no folds.")
    return found


def located(split: NamedSplit, names: NDArray[Any]) -> Split:
    """Turn names into the rows that bear them."""
    rows = {part: np.flatnonzero(np.isin(names, list(split.parts[part]))) for part in PARTS}
    return Split(
        split.name, split.repeat, split.fold, rows["train"], rows["test"], rows["validation"]
    )


def _check_scans(
    record: Mapping[str, Any], found: Sequence[NamedSplit], scans: pd.DataFrame, path: Path
) -> None:
    """Refuse a record that was made for other scans."""
    known = set(text_of(scans, "scan"))
    named = {name for split in found for names in split.parts.values() for name in names}
    unknown = sorted(named - known)
    advice = "Read it with the table that the splits were made for, or make new ones."
    if unknown:
        raise InputError(
            f"{path} was made for other scans: {len(unknown)} scan(s) in it are not in the table, "
            f"the first is {unknown[0]!r}. {advice}"
        )
    expected = record.get("scans_sha256")
    if expected is not None and expected != _digest(_identities(scans)):
        # Scans that no fold names may be new, or were left out because of a target.
        raise InputError(
            f"{path} was made for other scans: {record.get('n_scans')} scans were in the table "
            f"then, {len(scans)} are now, or a scan is of another subject now. {advice}"
        )


def _rows_of_parts(split: Split) -> dict[Part, NDArray[np.intp]]:
    """Return the rows of each part."""
    return {"train": split.train, "validation": split.validation, "test": split.test}


def _identities(scans: pd.DataFrame) -> list[list[str]]:
    """Return scan and subject of every row, in an order that does not depend on the table's."""
    pairs = zip(text_of(scans, "scan").tolist(), subjects_of(scans).tolist(), strict=True)
    return sorted([scan, subject] for scan, subject in pairs)


def _digest(content: Any) -> str:
    """Hash the canonical JSON of something."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
