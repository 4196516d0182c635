"""The cells of a study: each one method's predictions of one question, kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from semantoks.benchmark.study_cohort import Cohort
from semantoks.benchmark.study_keys import Cell
from semantoks.benchmark.study_methods import Question, permute, predict
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_preparation import PREPARED
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.probe import FoldPrediction
from semantoks.files import replacing

Say = Callable[[str], None]


def compute(
    cells: Sequence[Cell],
    questions: Mapping[tuple[str, str], Question],
    cohort: Cohort,
    out: Path,
    workers: int,
    say: Say,
) -> None:
    """Compute the cells that are not there, and write each as soon as it is.

    Parameters
    ----------
    cells : sequence of Cell
        The cells of the study.
    questions : mapping of (str, str) to Question
        By target and name of the splits.
    cohort : Cohort
        The scans.
    out : Path
        Folder of the study.
    workers : int
        Processes.
    say : callable
        Told what is done.
    """
    plan = cohort.plan
    missing = [cell for cell in cells if not _is_there(out, cell, plan)]
    say(f"{len(cells)} cells, {len(cells) - len(missing)} of them are there already")
    if workers == 1:
        for number, cell in enumerate(missing):
            say(f"[{number + 1}/{len(missing)}] {cell.target}, {cell.split}: {cell.method.name}")
            _one(cell, questions[cell.target, cell.split], cohort, out)
        return
    done = 0
    jobs = (
        joblib.delayed(_group)(group, _asked(group, questions), cohort.store, plan, out)
        for group in _grouped(missing)
    )
    for finished in joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        done += len(finished)
        for cell in finished:
            say(f"[{done}/{len(missing)}] {cell.target}, {cell.split}: {cell.method.name}")


def _grouped(cells: list[Cell]) -> list[list[Cell]]:
    """Put cells that need the same features together, so that one process computes them once."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        method = cell.method
        groups.setdefault((method.model, method.features, method.how), []).append(cell)
    return list(groups.values())


def _asked(
    cells: list[Cell], questions: Mapping[tuple[str, str], Question]
) -> dict[tuple[str, str], Question]:
    """Return the questions of some cells."""
    return {key: questions[key] for key in {(cell.target, cell.split) for cell in cells}}


def _group(
    cells: list[Cell],
    questions: Mapping[tuple[str, str], Question],
    store: Store,
    plan: StudyPlan,
    out: Path,
) -> list[Cell]:
    """Compute the cells of a method in a process of its own, by one thread."""
    import torch

    torch.set_num_threads(1)
    cohort = Cohort(store, plan)
    for cell in cells:
        _one(cell, questions[cell.target, cell.split], cohort, out)
    return cells


def _one(cell: Cell, question: Question, cohort: Cohort, out: Path) -> None:
    """Compute what is missing of a cell and write it."""
    path = _path(out, cell)
    if not path.exists():
        folds = predict(cell.method, question, cohort)
        content: dict[str, Any] = {}
        for number, fold in enumerate(folds):
            content[f"prediction{number}"] = fold.prediction
            content[f"score{number}"] = fold.score
            content[f"test{number}"] = fold.split.test
        with replacing(path) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, **content)
    if not _is_there(out, cell, cohort.plan):
        found = permute(cell.method, question, cohort)
        text = json.dumps({"p": found.p, "value": found.value, "null": found.null.tolist()})
        with replacing(_permuted(out, cell, cohort.plan)) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def read_cell(out: Path, cell: Cell, question: Question) -> tuple[FoldPrediction, ...]:
    """Read a cell; methods that were given fewer splits predicted the first of them.

    Parameters
    ----------
    out : Path
        Folder of the study.
    cell : Cell
        The cell.
    question : Question
        Its question.

    Returns
    -------
    tuple of FoldPrediction
        One a split.

    Raises
    ------
    InputError
        If it is of other splits.
    """
    path = _path(out, cell)
    with np.load(path) as content:
        n = sum(name.startswith("test") for name in content.files)
        folds = []
        for number, split in enumerate(question.splits[:n]):
            if not np.array_equal(content[f"test{number}"], split.test):
                raise InputError(f"{path} does not fit the splits; remove it and run again.")
            folds.append(
                FoldPrediction(split, content[f"prediction{number}"], content[f"score{number}"])
            )
    return tuple(folds)


def read_permutations(out: Path, cell: Cell, plan: StudyPlan) -> float:
    """Read the p of a cell by permuted labels.

    Parameters
    ----------
    out : Path
        Folder of the study.
    cell : Cell
        The cell.
    plan : StudyPlan
        The plan, which says how many permutations.

    Returns
    -------
    float
        p; NaN for methods whose labels are not permuted.
    """
    if cell.method.how not in PREPARED:
        return float("nan")
    return float(json.loads(_permuted(out, cell, plan).read_text(encoding="utf-8"))["p"])


def _is_there(out: Path, cell: Cell, plan: StudyPlan) -> bool:
    """Say whether a cell is there, with its permutations if the plan has some."""
    if not _path(out, cell).exists():
        return False
    wanted = plan.permutations and cell.method.how in PREPARED
    return not wanted or _permuted(out, cell, plan).exists()


def _path(out: Path, cell: Cell) -> Path:
    """Return the file of a cell."""
    return out / "cells" / f"{cell.key}.npz"


def _permuted(out: Path, cell: Cell, plan: StudyPlan) -> Path:
    """Return the file of the permutations of a cell."""
    divided = f"-{cell.divided}" if cell.divided else ""
    return out / "cells" / f"{cell.key}-{plan.permutations}-permutations-{plan.seed}{divided}.json"
