"""Splits as a table, and as plain lists with a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from semantoks.evaluation.splits import Split


def splits_table(splits: Sequence[Split], scans: Sequence[str]) -> pd.DataFrame:
    """Write splits down as a table.

    Parameters
    ----------
    splits : sequence of Split
        The splits.
    scans : sequence of str
        Identity of the scan in each row that the splits count.

    Returns
    -------
    DataFrame
        Columns split, repeat, fold, scan and part ("train" or "test").
    """
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
        for part, rows in (("train", split.train), ("test", split.test))
    ]
    return pd.concat(parts, ignore_index=True)


def splits_record(table: pd.DataFrame) -> dict[str, Any]:
    """Return the table of splits as plain lists with a hash, for JSON.

    Parameters
    ----------
    table : DataFrame
        What `splits_table` returned.

    Returns
    -------
    dict
        "folds": a list of name, repeat, fold and the sorted scans of both parts; "sha256": hash of
        the canonical JSON of "folds".
    """
    folds = []
    for key, rows in table.groupby(["split", "repeat", "fold"], sort=False):
        name, repeat, fold = map(str, key)
        parts = {
            part: sorted(rows.loc[rows["part"] == part, "scan"].astype(str))
            for part in ("train", "test")
        }
        folds.append({"split": name, "repeat": int(repeat), "fold": fold, **parts})
    text = json.dumps(folds, sort_keys=True, separators=(",", ":"))
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "folds": folds}
