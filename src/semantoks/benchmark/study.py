"""A study: models, targets, splits and probes -> one tidy table, cell by cell."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import semantoks
from semantoks.benchmark.study_blocks import check_blocks, classes_of_one_site
from semantoks.benchmark.study_cells import (
    Say,
    cells_of,
    compute,
    impossible,
    read_cell,
    read_permutations,
)
from semantoks.benchmark.study_cohort import Cohort
from semantoks.benchmark.study_methods import Question
from semantoks.benchmark.study_people import people_seen, unseen_scans, with_seen
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_preparation import cannot_prepare, preparation_of
from semantoks.benchmark.study_scores import corrected, fold_table, summary_table
from semantoks.benchmark.tasks import kept_scans, read_task
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.split_table import write_splits
from semantoks.evaluation.splits import subjects_of
from semantoks.files import replacing

Questions = dict[tuple[str, str], Question]
"""By target and name of the splits."""


@dataclass(frozen=True)
class Study:
    """What a study found.

    Parameters
    ----------
    folder : Path
        scores.csv, folds.csv, predictions in cells/, splits/ and plan.json.
    scores : DataFrame
        One row a target, split, method and metric: value with a 95 % interval, the difference to
        connectivity with its interval, the corrected resampled t-test of that difference, and its p
        after Holm's correction for the methods of the target and split (p_corrected), and for all
        targets, splits and methods of the study (p_corrected_all). n_seen counts the people who
        take part and whom the model was pretrained on; it is missing where the model does not say.
    folds : DataFrame
        One tidy row a fold: method, target, split, repeat, fold, metric, value, n.
    skipped : tuple of str
        What was not done, and why.
    notices : tuple of str
        What is to be known when the scores are read.
    """

    folder: Path
    scores: pd.DataFrame
    folds: pd.DataFrame
    skipped: tuple[str, ...]
    notices: tuple[str, ...] = ()


def run_study(plan: StudyPlan, out: Path, *, workers: int = 1, say: Say = lambda _: None) -> Study:
    """Carry a study out; cells that are there already are taken as they are.

    Parameters
    ----------
    plan : StudyPlan
        What is compared.
    out : Path
        Folder of the study. It may hold an earlier part of it.
    workers : int
        Processes that compute cells.
    say : callable
        Told what is done.

    Returns
    -------
    Study
        Tables, which are written into the folder too.

    Raises
    ------
    InputError
        If something cannot be read, a target cannot be used, a split leaks, or people shall be
        left out whom a model has seen and it does not say who they are.
    ConfigurationError
        If an option is impossible.
    """
    store = Store.open(plan.store)
    kept = kept_scans(store, plan.leave_out)
    check_people(store, list(store.scans["scan"][kept].astype(str)))
    seen = people_seen(plan, store)
    kept &= unseen_scans(plan, seen, store)
    for folder in (out / "cells", out / "splits"):
        folder.mkdir(parents=True, exist_ok=True)
    questions, skipped = _ask(plan, store, out, kept)
    cells = list(cells_of(plan, store, questions))
    reasons = {cell: impossible(cell, questions[cell.target, cell.split]) for cell in cells}
    skipped += [
        f"{cell.target}, {cell.split}, {cell.method.name}: {reason}"
        for cell, reason in reasons.items()
        if reason
    ]
    cells = [cell for cell in cells if not reasons[cell]]
    compute(cells, questions, Cohort(store, plan), out, workers, say)
    scores, folds = [], []
    for (target, split), question in questions.items():
        own = [cell for cell in cells if (cell.target, cell.split) == (target, split)]
        answers = {cell.method.name: read_cell(out, cell, question) for cell in own}
        table = summary_table(answers, question, split, draws=plan.draws, seed=plan.seed)
        if plan.permutations:
            p = {cell.method.name: read_permutations(out, cell, plan) for cell in own}
            table = _with_permutations(table, p)
        scores.append(table)
        folds.append(fold_table(answers, question, split))
    study = Study(
        out,
        with_seen(
            corrected(pd.concat(scores, ignore_index=True)),
            seen,
            np.unique(subjects_of(store.scans)[kept]),
        ),
        pd.concat(folds, ignore_index=True),
        tuple(skipped),
        tuple(
            text
            for (_, split), question in questions.items()
            for text in classes_of_one_site(question, split)
        ),
    )
    _write(study, plan)
    return study


def _ask(
    plan: StudyPlan, store: Store, out: Path, kept: NDArray[np.bool_]
) -> tuple[Questions, list[str]]:
    """Make tasks and splits, and write the splits down with their hashes."""
    questions: Questions = {}
    skipped: list[str] = []
    for target in plan.targets:
        task = read_task(store.scans[kept], target.column, target.kind)
        # Rows of the kept scans -> rows of the store.
        task = replace(task, rows=np.flatnonzero(kept)[task.rows])
        scans = store.scans.iloc[task.rows].reset_index(drop=True)
        prepare = preparation_of(plan, task, scans)
        for split in plan.splits:
            where = f"{target.column}, {split.label}"
            if split.kind == "site" and target.column == split.site_column:
                skipped.append(f"{where}: a site that is left out cannot be recognised")
                continue
            splitter, labels = split.splitter(plan.seed), task.name(task.truth)
            made = tuple(splitter.splits(scans, labels, kind=task.kind))
            reason = cannot_prepare(prepare, scans, made)
            if reason:
                skipped.append(f"{where}: prepare: {plan.prepare} is not possible. {reason}")
                continue
            question = Question(task, scans, made, splitter, prepare)
            check_blocks(plan, question)
            path = out / "splits" / f"{target.column}-{split.label}.json"
            path.unlink(missing_ok=True)
            write_splits(made, scans, path)
            questions[target.column, split.label] = question
    if not questions:
        raise InputError(f"nothing is left to do: {'; '.join(skipped)}.")
    return questions, skipped


def _with_permutations(table: pd.DataFrame, p: dict[str, float]) -> pd.DataFrame:
    """Put p of permuted labels beside the deciding metric, which comes first."""
    first = table["metric"] == table["metric"].iloc[0]
    return table.assign(p_permutation=table["method"].map(p).where(first))


def _write(study: Study, plan: StudyPlan) -> None:
    """Write the tables and the plan."""
    for name, table in {"scores.csv": study.scores, "folds.csv": study.folds}.items():
        with replacing(study.folder / name) as beside:
            table.to_csv(beside, index=False)
    about: dict[str, Any] = {
        "plan": plan.model_dump(mode="json"),
        "skipped": list(study.skipped),
        "notices": list(study.notices),
        "semantoks": semantoks.__version__,
    }
    with replacing(study.folder / "plan.json") as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
