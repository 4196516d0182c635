"""The cells of a study: each one method's predictions of one question, kept in a file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import joblib
import numpy as np

from semantoks.benchmark.study_blocks import blocks_of
from semantoks.benchmark.study_cohort import Cohort
from semantoks.benchmark.study_keys import Cell
from semantoks.benchmark.study_methods import Question, permute, predict
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_preparation import PREPARED
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.probe import FoldPrediction
from semantoks.evaluation.splits import Split
from semantoks.files import replacing

Say = Callable[[str], None]
Failed = Mapping[Cell, str]
"""Cells that could not be computed, and why."""
_PARTS: Final = ("prediction", "score")
"""What is kept of the test part of a split."""


def compute(
    cells: Sequence[Cell],
    questions: Mapping[tuple[str, str], Question],
    cohort: Cohort,
    out: Path,
    workers: int,
    say: Say,
) -> Failed:
    """Compute the cells that are not there, and write each as soon as it is.

    A cell whose method refuses what it is given does not stop the others.
    """
    plan = cohort.plan
    missing = [cell for cell in cells if not _is_there(out, cell, plan)]
    for cell in cells:  # what is damaged is better found now than after hours
        if cell_file(out, cell.key).exists():
            read_cell(out, cell, questions[cell.target, cell.split])
        if cell not in missing:
            read_permutations(out, cell, plan)
    failed: dict[Cell, str] = {}
    say(f"{len(cells)} cells, {len(cells) - len(missing)} of them are there already")
    if workers == 1:
        for number, cell in enumerate(missing):
            say(f"[{number + 1}/{len(missing)}] {cell.target}, {cell.split}: {cell.method.name}")
            failed[cell] = _one(cell, questions[cell.target, cell.split], cohort, out)
        return {cell: reason for cell, reason in failed.items() if reason}
    done = 0
    jobs = (
        joblib.delayed(_group)(group, _asked(group, questions), cohort.store, plan, out)
        for group in _grouped(missing)
    )
    for finished in joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        done += len(finished)
        failed |= finished
        for cell in finished:
            say(f"[{done}/{len(missing)}] {cell.target}, {cell.split}: {cell.method.name}")
    return {cell: failed[cell] for cell in missing if failed[cell]}


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
) -> dict[Cell, str]:
    """Compute the cells of a method in a process of its own, by one thread; say which failed."""
    import torch

    torch.set_num_threads(1)
    cohort = Cohort(store, plan)
    return {cell: _one(cell, questions[cell.target, cell.split], cohort, out) for cell in cells}


def _one(cell: Cell, question: Question, cohort: Cohort, out: Path) -> str:
    """Compute a cell; say why its method cannot, nothing if it can."""
    try:
        _write(cell, question, cohort, out)
    except InputError as error:
        return str(error)
    return ""


def _write(cell: Cell, question: Question, cohort: Cohort, out: Path) -> None:
    """Compute what is missing of a cell and write it."""
    path = cell_file(out, cell.key)
    if not path.exists():
        folds = predict(cell.method, question, cohort)
        content: dict[str, Any] = {}
        for number, fold in enumerate(folds):
            content[f"test{number}"] = fold.split.test
            for part in _PARTS:
                content[f"{part}{number}"] = getattr(fold, part)
        with replacing(path) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, **content)
    if not _is_there(out, cell, cohort.plan):
        blocks = blocks_of(cohort.plan, question.scans)
        found = permute(cell.method, question, cohort, blocks)
        text = json.dumps({"p": found.p, "value": found.value, "null": found.null.tolist()})
        with replacing(_permuted(out, cell, cohort.plan)) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def read_cell(out: Path, cell: Cell, question: Question) -> tuple[FoldPrediction, ...]:
    """Read a cell; methods that were given fewer splits predicted the first of them."""
    return read_predictions(cell_file(out, cell.key), question.splits, _what(cell))


def read_predictions(path: Path, splits: Sequence[Split], what: str) -> tuple[FoldPrediction, ...]:
    """Read the file of a cell."""
    try:
        with path.open("rb") as stream, np.load(stream) as opened:
            content = {name: opened[name] for name in opened.files}
        n = sum(name.startswith("test") for name in content)
        found = [[content[f"{part}{k}"] for part in ("test", *_PARTS)] for k in range(n)]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}, which held {what}, is gone. Run evaluate again: it computes what is missing."
        ) from error
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise _damaged(path, what) from error
    if not found:
        raise _damaged(path, what)
    folds = []
    for split, (test, prediction, score) in zip(splits, found, strict=False):
        if not np.array_equal(test, split.test):
            raise InputError(f"{path} does not fit the splits; remove it and run again.")
        folds.append(FoldPrediction(split, prediction, score))
    return tuple(folds)


def _what(cell: Cell) -> str:
    """Say what a cell holds."""
    return f"{cell.method.name} of {cell.target}, {cell.split}"


def _damaged(path: Path, what: str) -> InputError:
    """Say that a file of a cell cannot be read."""
    return InputError(
        f"{path}, which holds {what}, is damaged and cannot be read. Remove this file and run "
        "again: it is computed anew, and nothing else is."
    )


def read_permutations(out: Path, cell: Cell, plan: StudyPlan) -> float:
    """Read the p of a cell by permuted labels."""
    if not plan.permutations or cell.method.how not in PREPARED:
        return float("nan")
    path = _permuted(out, cell, plan)
    if not path.exists():
        return float("nan")
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["p"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, _what(cell)) from error


def _is_there(out: Path, cell: Cell, plan: StudyPlan) -> bool:
    """Say whether a cell is there, with its permutations if the plan has some."""
    if not cell_file(out, cell.key).exists():
        return False
    wanted = plan.permutations and cell.method.how in PREPARED
    return not wanted or _permuted(out, cell, plan).exists()


def cell_file(out: Path, key: str) -> Path:
    """Name the file of a cell."""
    return out / "cells" / f"{key}.npz"


def _permuted(out: Path, cell: Cell, plan: StudyPlan) -> Path:
    """Return the file of the permutations of a cell."""
    divided = f"-{cell.divided}" if cell.divided else ""
    return out / "cells" / f"{cell.key}-{plan.permutations}-permutations-{plan.seed}{divided}.json"
