"""Splits that somebody else made: a file of this package, or lists of subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError, nearest
from semantoks.evaluation.split_parts import PARTS, Part, Split, subjects_of, text_of
from semantoks.evaluation.split_table import (
    NamedSplit,
    located,
    named_splits,
    read_json,
    read_record,
)
from semantoks.evaluation.splitters import Cohort, Splitter

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
