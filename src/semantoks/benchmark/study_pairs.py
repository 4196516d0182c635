"""Any two methods of a study side by side, from the predictions that the study kept."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.benchmark.study_keys import splits_file
from semantoks.benchmark.study_methods import Question
from semantoks.benchmark.study_people import people_seen, unseen_scans
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_scores import difference_table, fold_table
from semantoks.benchmark.tasks import kept_scans, read_task
from semantoks.data.store import Store
from semantoks.errors import InputError, nearest
from semantoks.evaluation.probe import FoldPrediction
from semantoks.evaluation.split_table import read_splits

_FOLD = ["repeat", "fold", "metric"]


def study_differences(folder: str | Path, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Hold methods of a study against other ones of it, from the predictions that it kept.

    Parameters
    ----------
    folder : str or path
        Folder of a study that is done. Nothing in it is changed. The cohort must be where the plan
        says; models are not needed, unless people were left out whom they had seen.
    pairs : sequence of (str, str)
        Method, and the one that it is held against, by their names in the tables.

    Returns
    -------
    DataFrame
        What `difference_table` returns, of every target and way of splitting that has both.

    Raises
    ------
    InputError
        If there is no study, a method of a pair is not in it, no target was predicted by both, or
        predictions are gone.
    """
    folder = Path(folder)
    plan, table = _read(folder)
    names = list(dict.fromkeys(table["method"]))
    for name in (name for pair in pairs for name in pair if name not in names):
        raise InputError(
            f"{folder} has no method {name!r}. Its methods are {'; '.join(names)}."
            f"{nearest(name, names)}"
        )
    kept = _Kept(folder)
    found = []
    asked = {*zip(table["target"], table["split"], strict=True)}
    for split, question in _questions(plan, folder, asked):
        here = table[(table["target"] == question.task.target) & (table["split"] == split)]
        both = [pair for pair in pairs if {*pair} <= {*here["method"]}]
        answers = {
            name: kept.answer(here[here["method"] == name], question, split)
            for name in dict.fromkeys(name for pair in both for name in pair)
        }
        if both:
            found.append(
                difference_table(answers, both, question, split, draws=plan.draws, seed=plan.seed)
            )
    if not found:
        raise InputError(f"no target of {folder} was predicted by both methods of a pair.")
    return pd.concat(found, ignore_index=True)


class _Kept:
    """The predictions in the folder of a study, each found again by the scores of its folds.

    Their names are digests of models and settings; the scores need neither to be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cells = [_load(path) for path in sorted((folder / "cells").glob("*.npz"))]

    def answer(
        self, rows: pd.DataFrame, question: Question, split: str
    ) -> tuple[FoldPrediction, ...]:
        """Return the predictions whose scores are those of a method in folds.csv."""
        task, wanted = question.task, rows.set_index(_FOLD)["value"]
        n = len(rows) // rows["metric"].nunique()
        for cell in self._cells:
            tests = [cell.get(f"test{i}") for i in range(n)]
            same = all(
                np.array_equal(test, s.test)
                for test, s in zip(tests, question.splits, strict=False)
                if test is not None
            )
            if f"test{n}" in cell or any(test is None for test in tests) or not same:
                continue
            if cell["score0"].shape[1] != len(task.classes):
                continue
            folds = tuple(
                FoldPrediction(s, cell[f"prediction{i}"], cell[f"score{i}"])
                for i, s in enumerate(question.splits[:n])
            )
            scored = fold_table({"": folds}, question, split).set_index(_FOLD)["value"]
            if np.allclose(scored.reindex(wanted.index), wanted, rtol=1e-9, equal_nan=True):
                return folds
        raise InputError(
            f"{self._folder}/cells holds no predictions with the scores of "
            f"{rows['method'].iloc[0]!r} in folds.csv for {task.target} by {split}. Run evaluate "
            "again: it computes what is missing."
        )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """Read the file of a cell."""
    try:
        with path.open("rb") as stream, np.load(stream) as opened:
            return dict(opened)
    except (BadZipFile, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path} is damaged and cannot be read. Remove this file and run evaluate again: it is "
            "computed anew, and nothing else is."
        ) from error


def _read(folder: Path) -> tuple[StudyPlan, pd.DataFrame]:
    """Read the plan and the scores of the folds."""
    try:
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        plan = StudyPlan.model_validate(content["plan"])
        names = dict.fromkeys(("method", "target", "split", "fold"), str)
        table = pd.read_csv(
            folder / "folds.csv", dtype=names, keep_default_na=False, na_values={"value": [""]}
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} is no study that can be read: {' '.join(str(error).split())}. Name a folder "
            "that evaluate wrote."
        ) from error
    return plan, table


def _questions(
    plan: StudyPlan, folder: Path, asked: set[tuple[str, str]]
) -> Iterator[tuple[str, Question]]:
    """Ask again what the study asked, with the splits that it wrote down."""
    store = Store.open(plan.store)
    kept = kept_scans(store, plan.leave_out)
    kept &= unseen_scans(plan, people_seen(plan, store) if plan.exclude_seen else {}, store)
    for target in plan.targets:
        task = read_task(store.scans[kept], target.column, target.kind)
        task = replace(task, rows=np.flatnonzero(kept)[task.rows])
        scans = store.scans.iloc[task.rows].reset_index(drop=True)
        for split in plan.splits:
            if (target.column, split.label) in asked:  # it was skipped otherwise
                made = tuple(read_splits(splits_file(folder, target.column, split.label), scans))
                yield split.label, Question(task, scans, made, split.splitter(plan.seed))
