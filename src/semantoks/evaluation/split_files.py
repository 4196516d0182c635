"""Split files: writing, reading, and splits that others have defined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError, nearest
from semantoks.evaluation.splits import PARTS, Part, Split, subjects_of, text_of
from semantoks.evaluation.splitters import Cohort, Splitter, check_splits
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


_NAME: Final = "predefined"


@dataclass(frozen=True)
class PredefinedSplits(Splitter):
    """Splits from a file or a folder.

    Read are:

    - a .json file of `write_splits` or of a comparison, whose hash is checked;
    - a .json file with the lists of subjects ``{"train": [...], "validation": [...], "test":
      [...]}``, or a list of several such objects, each a fold;
    - a .csv file with the columns subject (or scan) and part, and, for several splits, repeat and
      fold;
    - a folder with ``train.txt``, ``validation.txt`` and ``test.txt``, a subject a line.

    A list that is missing is an error, and never means all subjects: who does not want a
    validation part writes an empty list (in a .csv file, no row). Subjects of the table that are in
    no list are left out.

    Parameters
    ----------
    path : str or path
        The file or folder.
    absent : {"refuse", "drop"}
        Whether names that the table does not hold are refused, or dropped: as for a target that is
        not known of everybody.
    family_column : str, optional
        Column of the table that names the family; checked.
    seed : int
        Not used.
    """

    path: str | Path
    absent: Literal["refuse", "drop"] = "refuse"

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits.

        Parameters
        ----------
        X, y, groups : object
            Not needed.

        Returns
        -------
        int
            Number of splits in the file.
        """
        return len(_read(Path(self.path))[0])

    def _make(self, cohort: Cohort) -> list[Split]:
        """Read, and find everybody in the table."""
        path = Path(self.path)
        if self.absent not in ("refuse", "drop"):
            raise InputError(f"absent is 'refuse' or 'drop', not {self.absent!r}.")
        found, by = _read(path)
        names = subjects_of(cohort.scans) if by == "subject" else text_of(cohort.scans, "scan")
        if self.absent == "refuse":
            for split in found:
                _refuse_unknown(split, names, by, path)
        return [located(split, names) for split in found]


def _read(path: Path) -> tuple[list[NamedSplit], str]:
    """Return the splits of a file or folder, and whether they name subjects or scans."""
    if path.is_dir():
        return [_split({part: _lines(path, part) for part in PARTS}, 0, path)], "subject"
    if path.suffix == ".csv":
        return _read_table(path)
    if path.suffix != ".json":
        raise InputError(
            f"{path} is neither a .json nor a .csv file, nor a folder with train.txt, "
            "validation.txt and test.txt."
        )
    content = read_json(path)
    if isinstance(content, dict) and "folds" in content:
        return named_splits(read_record(path), path), "scan"
    objects = content if isinstance(content, list) else [content]
    if not objects:
        raise InputError(f"{path} holds no splits.")
    return [_split(lists, fold, path) for fold, lists in enumerate(objects)], "subject"


def _split(lists: Any, fold: int, path: Path) -> NamedSplit:
    """Make a split of lists, all of which must be there."""
    if not isinstance(lists, Mapping):
        raise InputError(
            f"{path} must hold an object with the lists train, validation and test; fold {fold} "
            f"is {type(lists).__name__}."
        )
    extra = [str(key) for key in lists if key not in PARTS]
    if extra:
        raise InputError(
            f"{path} has a list {extra[0]!r} in fold {fold}; the lists are {', '.join(PARTS)}."
            + nearest(extra[0], PARTS)
        )
    parts: dict[Part, tuple[str, ...]] = {}
    for part in PARTS:
        if part not in lists or not isinstance(lists[part], list):
            hint = " (write [] if choices need no part of their own)" if part != "train" else ""
            raise InputError(
                f"{path} has no list {part!r} in fold {fold}{hint}. A list that is missing never "
                "means all subjects."
            )
        parts[part] = tuple(str(name).strip() for name in lists[part])
    _refuse_repeated(parts, fold, path)
    return NamedSplit(_NAME, 0, str(fold), parts)


def _read_table(path: Path) -> tuple[list[NamedSplit], str]:
    """Read a table with a row a name."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"the file of splits {path} cannot be read: {error}.") from error
    by = next((name for name in ("scan", "subject") if name in table.columns), None)
    if by is None or "part" not in table.columns:
        raise InputError(
            f"{path} needs the columns subject (or scan) and part; it has "
            f"{', '.join(map(str, table.columns))}."
        )
    wrong = table.loc[~table["part"].isin(PARTS), "part"]
    if len(wrong):
        raise InputError(
            f"{path}, line {wrong.index[0] + 2}: the part is {wrong.iloc[0]!r}; it is one of "
            f"{', '.join(PARTS)}."
        )
    table = table.assign(
        **{key: table.get(key, pd.Series("0", table.index)) for key in ("repeat", "fold")}
    )
    found = []
    for key, rows in table.groupby(["repeat", "fold"], sort=False):
        repeat, fold = map(str, key)
        parts: dict[Part, tuple[str, ...]] = {
            part: tuple(rows.loc[rows["part"] == part, by].str.strip()) for part in PARTS
        }
        if not repeat.isdigit():
            raise InputError(f"{path}: the repeat is {repeat!r}; it is a number from 0.")
        missing = [part for part in ("train", "test") if not parts[part]]
        if missing:
            raise InputError(
                f"{path} has no row with part {missing[0]!r} for repeat {repeat}, fold {fold}. A "
                "list that is missing never means all subjects."
            )
        _refuse_repeated(parts, fold, path)
        found.append(NamedSplit(_NAME, int(repeat), fold, parts))
    if not found:
        raise InputError(f"{path} holds no splits.")
    return found, by


def _lines(folder: Path, part: str) -> list[str]:
    """Read a list with a name a line."""
    file = folder / f"{part}.txt"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = "" if part == "train" else " (an empty file, if nobody is to be in it)"
        raise InputError(
            f"the list {file} is missing{hint}. A list that is missing never means all subjects."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"the list {file} cannot be read: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _refuse_repeated(parts: Mapping[Part, Sequence[str]], fold: object, path: Path) -> None:
    """Refuse a name that stands in two lists, or twice in one."""
    names = [name for part in PARTS for name in parts[part]]
    distinct, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{path} leaks: {int((counts > 1).sum())} name(s) stand more than once in the lists of "
            f"fold {fold}, the first is {str(distinct[counts > 1][0])!r}."
        )
    if "" in distinct:
        raise InputError(f"{path} has an empty name in the lists of fold {fold}.")


def _refuse_unknown(split: NamedSplit, names: NDArray[Any], by: str, path: Path) -> None:
    """Refuse names that the table does not hold."""
    known = set(names.tolist())
    for part, members in split.parts.items():
        unknown = [name for name in members if name not in known]
        if unknown:
            listed = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"{path} names {len(unknown)} {by}(s) in {part!r} that the table of scans does "
                f"not hold: {listed}.{nearest(unknown[0], known)} Correct the list, or ask for "
                "absent='drop' if the table is a part of the cohort."
            )
