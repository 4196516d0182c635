"""Any two methods of a study side by side, from the predictions that the study kept."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from semantoks.benchmark.study_cells import cell_file, read_predictions
from semantoks.benchmark.study_keys import splits_file
from semantoks.benchmark.study_methods import Question
from semantoks.benchmark.study_people import people_seen, unseen_scans
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_scores import difference_table
from semantoks.benchmark.tasks import kept_scans, read_task
from semantoks.data.store import Store
from semantoks.errors import InputError, nearest
from semantoks.evaluation.split_table import read_splits

Keys = dict[tuple[str, str], dict[str, str]]
"""Target and split -> method -> key of its cell."""


def study_differences(folder: str | Path, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Hold methods of a study against other ones of it, from the predictions that it kept."""
    folder = Path(folder)
    plan, kept = _read(folder)
    names = list(dict.fromkeys(name for keys in kept.values() for name in keys))
    for name in (name for pair in pairs for name in pair if name not in names):
        raise InputError(
            f"{folder} has no method {name!r}. Its methods are {'; '.join(names)}."
            f"{nearest(name, names)}"
        )
    found = []
    for split, question in _questions(plan, folder, kept.keys()):
        keys = kept[question.task.target, split]
        both = [pair for pair in pairs if {*pair} <= keys.keys()]
        answers = {
            name: read_predictions(cell_file(folder, keys[name]), question.splits, name)
            for name in dict.fromkeys(name for pair in both for name in pair)
        }
        if both:
            found.append(
                difference_table(answers, both, question, split, draws=plan.draws, seed=plan.seed)
            )
    if not found:
        raise InputError(f"no target of {folder} was predicted by both methods of a pair.")
    return pd.concat(found, ignore_index=True)


def _read(folder: Path) -> tuple[StudyPlan, Keys]:
    """Read the plan, and which cells are whose."""
    kept: Keys = {}
    try:
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        plan = StudyPlan.model_validate(content["plan"])
        for target, split, method, key in content["cells"]:
            kept.setdefault((target, split), {})[method] = key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no study that can be read: {' '.join(str(error).split())}. Name a folder "
            "that evaluate wrote; of an earlier version, run evaluate again: what is there stays."
        ) from error
    return plan, kept


def _questions(
    plan: StudyPlan, folder: Path, asked: Collection[tuple[str, str]]
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
