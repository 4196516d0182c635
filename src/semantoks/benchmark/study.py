"""A study: models, targets, splits and probes -> one tidy table, cell by cell."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import semantoks
from semantoks.benchmark.cells import (
    Cell,
    Say,
    cannot_prepare,
    cell_file,
    cells_of,
    check_blocks,
    classes_of_one_site,
    compute,
    impossible,
    preparation_of,
    read_cell,
    read_permutations,
    read_predictions,
    splits_file,
)
from semantoks.benchmark.methods import Cohort, Question
from semantoks.benchmark.plan import StudyPlan
from semantoks.benchmark.scores import corrected, difference_table, fold_table, summary_table
from semantoks.benchmark.tasks import Task, kept_scans, read_task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.evaluation.confounds import check_columns
from semantoks.evaluation.metrics import CONNECTIVITY
from semantoks.evaluation.overlap import contamination
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.split_files import read_splits, write_splits
from semantoks.evaluation.splits import Split, fewer_labels, subjects_of
from semantoks.files import replacing
from semantoks.model.checkpoint import load_model

Seen = Mapping[str, frozenset[str] | None]
"""Model -> people of the store that it was trained on; None where it does not say."""


def people_seen(plan: StudyPlan, store: Store) -> Seen:
    """Find the people that each model was trained on."""
    subjects = subjects_of(store.scans)
    seen: dict[str, frozenset[str] | None] = {}
    for name, model in plan.models.items():
        if model.weights == "fresh":
            seen[name] = frozenset()
            continue
        found = contamination(load_model(model.model).provenance, store.scans, store.fingerprint)
        known = found.knowledge != "unknown"
        seen[name] = frozenset(subjects[found.seen].tolist()) if known else None
    return seen


def unseen_scans(plan: StudyPlan, seen: Seen, store: Store) -> NDArray[np.bool_]:
    """Say which scans are of people that no model has seen; all unless the plan excludes them."""
    if not plan.exclude_seen:
        return np.ones(len(store), dtype=bool)
    everybody = set[str]()
    for name, people in seen.items():
        if people is None:
            raise InputError(
                f"model {name!r} ({plan.models[name].model}) does not say whom it was trained on "
                "(no hashes of subjects in its provenance), so that people it has seen cannot be "
                "left out. Pretrain it again with this version, or say exclude_seen: false."
            )
        everybody |= people
    kept = ~np.isin(subjects_of(store.scans), sorted(everybody))
    if not kept.any():
        raise InputError(
            f"every subject of {store.path}, or somebody else of the same identifier, was in the "
            "pretraining of a model of this study, so that exclude_seen leaves nobody. Probe "
            "another cohort, or, if they are known to be others, say exclude_seen: false."
        )
    return kept


def with_seen(scores: pd.DataFrame, seen: Seen, taking_part: NDArray[Any]) -> pd.DataFrame:
    """Say of how many of the people that take part the model of a method has seen scans."""
    present = {*taking_part.tolist()}

    def count(method: str) -> float:
        names = [name for name in seen if method.startswith((f"{name}, ", f"{name} "))]
        people = seen[max(names, key=len)] if names else frozenset[str]()
        return float("nan") if people is None else len(people & present)

    return scores.assign(n_seen=scores["method"].map(count))


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
        for name, split, number in plan.divisions():
            if (target.column, name) in asked:  # it was skipped otherwise
                made, pools = (
                    tuple(read_splits(splits_file(folder, target.column, one), scans))
                    for one in (name, split.label)
                )
                pools = () if number is None else pools
                yield name, Question(task, scans, made, split.splitter(plan.seed), pools=pools)


Questions = dict[tuple[str, str], Question]
"""By target and name of the splits."""


@dataclass(frozen=True)
class Study:
    """What a study found."""

    folder: Path
    scores: pd.DataFrame
    folds: pd.DataFrame
    skipped: tuple[str, ...]
    failed: tuple[str, ...] = ()
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
        If something cannot be read, a target cannot be used, a split leaks, people shall be left
        out whom a model has seen and it does not say who they are, or nothing could be computed
        that has connectivity beside it.
    ConfigurationError
        If an option is impossible.
    """
    store = Store.open(plan.store)
    check_columns(store.scans, plan.confounds)
    kept = kept_scans(store, plan.leave_out)
    check_people(store, list(store.scans["scan"][kept].astype(str)))
    seen = people_seen(plan, store)
    kept &= unseen_scans(plan, seen, store)
    for folder in (out / "cells", out / "splits"):
        folder.mkdir(parents=True, exist_ok=True)
    questions, skipped = _ask(plan, store, kept)
    cells = list(cells_of(plan, store, questions))
    hashes = _write_splits(questions, out, say)
    reasons = {cell: impossible(cell, questions[cell.target, cell.split]) for cell in cells}
    skipped += [_because(cell, reason) for cell, reason in reasons.items() if reason]
    cells = [cell for cell in cells if not reasons[cell]]
    refused = compute(cells, questions, Cohort(store, plan), out, workers, say)
    half = {cell for cell in refused if cell_file(out, cell.key).exists()}
    failed = [
        _because(cell, f"{'permuted labels ' * (cell in half)}failed. {reason}")
        for cell, reason in refused.items()
    ]
    cells = [cell for cell in cells if cell not in refused or cell in half]
    beside = {(cell.target, cell.split) for cell in cells if cell.method.name == CONNECTIVITY}
    if not beside:
        raise InputError(f"nothing can be scored beside connectivity: {' '.join(failed)}")
    failed += [
        f"{target}, {split}: failed. Nothing is scored where there is no connectivity beside it"
        for target, split in questions
        if (target, split) not in beside
    ]
    scored = {key: questions[key] for key in questions if key in beside}
    scores, folds = _score(scored, cells, out, plan)
    people = np.unique(subjects_of(store.scans)[kept])
    study = Study(
        out,
        with_seen(scores, seen, people),
        folds,
        (*skipped, *failed),
        tuple(failed),
        tuple(text for key in scored for text in classes_of_one_site(scored[key], key[1])),
    )
    _write(study, plan, hashes, cells)
    return study


def _ask(plan: StudyPlan, store: Store, kept: NDArray[np.bool_]) -> tuple[Questions, list[str]]:
    """Make tasks and splits; say what cannot be asked."""
    questions: Questions = {}
    skipped: list[str] = []
    for target in plan.targets:
        task = read_task(store.scans[kept], target.column, target.kind)
        # Rows of the kept scans -> rows of the store.
        task = replace(task, rows=np.flatnonzero(kept)[task.rows])
        scans = store.scans.iloc[task.rows].reset_index(drop=True)
        prepare = preparation_of(plan, task, scans)
        for name, split, number in plan.divisions():
            where = f"{target.column}, {name}"
            if split.kind == "site" and target.column == split.site_column:
                skipped.append(f"{where}: a site that is left out cannot be recognised")
                continue
            splitter, labels = split.splitter(plan.seed), task.name(task.truth)
            pools = tuple(splitter.splits(scans, labels, kind=task.kind))
            try:
                made = _with_labels(pools, number, task, scans, plan.seed)
            except InputError as error:
                skipped.append(f"{where}: {error}")
                continue
            reason = cannot_prepare(prepare, scans, made)
            if reason:
                skipped.append(f"{where}: prepare: {plan.prepare} is not possible. {reason}")
                continue
            question = Question(
                task, scans, made, splitter, prepare, () if number is None else pools
            )
            check_blocks(plan, question)
            questions[target.column, name] = question
    if not questions:
        raise InputError(f"nothing is left to do: {'; '.join(skipped)}.")
    return questions, skipped


def _with_labels(
    pools: tuple[Split, ...], number: int | None, task: Task, scans: pd.DataFrame, seed: int
) -> tuple[Split, ...]:
    """Learn from the labels of so many people; of all if there is no number."""
    if number is None:
        return pools
    subjects = subjects_of(scans)
    return tuple(
        fewer_labels(split, number, task.truth, subjects, kind=task.kind, seed=seed)
        for split in pools
    )


def _because(cell: Cell, reason: str) -> str:
    """Say why a cell is not there."""
    return f"{cell.target}, {cell.split}, {cell.method.name}: {reason}"


def _write_splits(questions: Questions, out: Path, say: Say) -> dict[str, str]:
    """Write the splits down, and return the hash of each file; say which are of other plans."""
    hashes: dict[str, str] = {}
    for (target, split), question in questions.items():
        path = splits_file(out, target, split)
        if path.name in hashes:
            raise ConfigurationError(
                f"two questions would write their splits to {path}: the last is {target!r}, "
                f"{split!r}. Give these splits another name."
            )
        hashes[path.name] = write_splits(question.splits, question.scans, path)
    others = sorted({path.name for path in (out / "splits").glob("*.json")} - {*hashes})
    if others:
        say(
            f"{len(others)} file(s) in {out / 'splits'} are of an earlier plan and not of this "
            f"one: {', '.join(others)}. plan.json lists those that are."
        )
    return hashes


def _score(
    questions: Questions, cells: Sequence[Cell], out: Path, plan: StudyPlan
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score what was predicted: a row a method, and a row a fold."""
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
    return corrected(pd.concat(scores, ignore_index=True)), pd.concat(folds, ignore_index=True)


def _with_permutations(table: pd.DataFrame, p: dict[str, float]) -> pd.DataFrame:
    """Put p of permuted labels beside the deciding metric, which comes first."""
    first = table["metric"] == table["metric"].iloc[0]
    return table.assign(p_permutation=table["method"].map(p).where(first))


def _write(study: Study, plan: StudyPlan, splits: Mapping[str, str], cells: Sequence[Cell]) -> None:
    """Write the tables and the plan."""
    for name, table in {"scores.csv": study.scores, "folds.csv": study.folds}.items():
        with replacing(study.folder / name) as beside:
            table.to_csv(beside, index=False)
    about: dict[str, Any] = {
        "plan": plan.model_dump(mode="json"),
        "skipped": list(study.skipped),
        "failed": list(study.failed),
        "notices": list(study.notices),
        "splits": dict(splits),
        "cells": [[cell.target, cell.split, cell.method.name, cell.key] for cell in cells],
        "semantoks": semantoks.__version__,
    }
    with replacing(study.folder / "plan.json") as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
