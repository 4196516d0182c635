"""A study: models, targets, splits and probes -> one tidy table, cell by cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd

import semantoks
from semantoks.benchmark.study_methods import Cohort, Method, Question, methods_of, predict
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_scores import fold_table, summary_table
from semantoks.benchmark.tasks import kept_scans, read_task
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.probe import FoldPrediction
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.split_table import write_splits
from semantoks.files import replacing
from semantoks.model.checkpoint import load_model
from semantoks.model.provenance import seen_subjects

Say = Callable[[str], None]


class Cell(NamedTuple):
    """One target, one way of splitting, one method.

    Parameters
    ----------
    target, split : str
        Of which question.
    method : Method
        How it is answered.
    key : str
        Digest of all that the answer depends on; the name of its file.
    """

    target: str
    split: str
    method: Method
    key: str


@dataclass(frozen=True)
class Study:
    """What a study found.

    Parameters
    ----------
    folder : Path
        scores.csv, folds.csv, predictions in cells/, splits/ and plan.json.
    scores : DataFrame
        One row a target, split, method and metric: value with a 95 % interval, the difference to
        connectivity with its interval, the corrected resampled t-test of that difference and its p
        after correction for all targets and splits of the method's column.
    folds : DataFrame
        One tidy row a fold: method, target, split, repeat, fold, metric, value, n.
    skipped : tuple of str
        What was not done, and why.
    """

    folder: Path
    scores: pd.DataFrame
    folds: pd.DataFrame
    skipped: tuple[str, ...]


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
        If something cannot be read, a target cannot be used, or a split leaks.
    ConfigurationError
        If an option is impossible.
    """
    store = Store.open(plan.store)
    kept = kept_scans(store, plan.leave_out)
    check_people(store, list(store.scans["scan"][kept].astype(str)))
    for folder in (out / "cells", out / "splits"):
        folder.mkdir(parents=True, exist_ok=True)
    seen = _seen(plan, store)
    questions, skipped = _ask(plan, store, out, kept & _unseen(plan, seen, store))
    cells = list(_cells(plan, store, questions))
    reasons = {cell: _impossible(cell, questions[cell.target, cell.split]) for cell in cells}
    skipped += [
        f"{cell.target}, {cell.split}, {cell.method.name}: {reason}"
        for cell, reason in reasons.items()
        if reason
    ]
    cells = [cell for cell in cells if not reasons[cell]]
    missing = [cell for cell in cells if not _path(out, cell).exists()]
    say(f"{len(cells)} cells, {len(cells) - len(missing)} of them are there already")
    _compute(missing, questions, Cohort(store, plan), out, workers, say)
    answers = {cell: _read(_path(out, cell), questions[cell.target, cell.split]) for cell in cells}
    scores, folds = [], []
    for (target, split), question in questions.items():
        found = {
            cell.method.name: answer
            for cell, answer in answers.items()
            if (cell.target, cell.split) == (target, split)
        }
        scores.append(summary_table(found, question, split, draws=plan.draws, seed=plan.seed))
        folds.append(fold_table(found, question, split))
    study = Study(
        out,
        _with_seen(pd.concat(scores, ignore_index=True), seen),
        pd.concat(folds, ignore_index=True),
        tuple(skipped),
    )
    _write(study, plan)
    return study


def _seen(plan: StudyPlan, store: Store) -> dict[str, set[str]]:
    """Find the people that each model was trained on."""
    people = store.scans["subject"].astype(str).unique()
    return {
        name: set()
        if model.weights == "fresh"
        else set(seen_subjects(load_model(model.model).provenance, people))
        for name, model in plan.models.items()
    }


def _unseen(plan: StudyPlan, seen: Mapping[str, set[str]], store: Store) -> np.ndarray[Any, Any]:
    """Say which scans are of people that take part."""
    subjects = store.scans["subject"].astype(str)
    if not plan.exclude_seen:
        return np.ones(len(subjects), dtype=bool)
    everybody: set[str] = set().union(*seen.values())
    kept = ~subjects.isin(everybody).to_numpy()
    if not kept.any():
        raise InputError(
            f"every subject of {store.path} was in the pretraining of a model of this study, so "
            "that exclude_seen leaves nobody. Probe another cohort, or say exclude_seen: false."
        )
    return np.asarray(kept)


def _ask(
    plan: StudyPlan, store: Store, out: Path, kept: np.ndarray[Any, Any]
) -> tuple[dict[tuple[str, str], Question], list[str]]:
    """Make tasks and splits, and write the splits down with their hashes."""
    questions, skipped = {}, []
    for target in plan.targets:
        task = read_task(store.scans[kept], target.column, target.kind)
        # Rows of the kept scans -> rows of the store.
        task = replace(task, rows=np.flatnonzero(kept)[task.rows])
        scans = store.scans.iloc[task.rows].reset_index(drop=True)
        for split in plan.splits:
            if split.kind == "site" and target.column == split.site_column:
                skipped.append(
                    f"{target.column}, {split.label}: a site that is left out cannot be recognised"
                )
                continue
            labels = task.name(task.truth)
            made = split.splitter(plan.seed).splits(scans, labels, kind=task.kind)
            path = out / "splits" / f"{target.column}-{split.label}.json"
            path.unlink(missing_ok=True)
            write_splits(made, scans, path)
            questions[target.column, split.label] = Question(task, scans, tuple(made))
    if not questions:
        raise InputError(f"nothing is left to do: {'; '.join(skipped)}.")
    return questions, skipped


def _cells(
    plan: StudyPlan, store: Store, questions: Mapping[tuple[str, str], Question]
) -> Iterator[Cell]:
    """Name every cell by a digest of all that it depends on."""
    weights = {name: _digest_of_weights(model.model) for name, model in plan.models.items()}
    methods = methods_of(plan)
    for (target, split), question in questions.items():
        parts = [
            [part.tolist() for part in (s.train, s.validation, s.test)] for s in question.splits
        ]
        for method in methods:
            model = method.model
            about = {
                "store": store.fingerprint,
                "rows": question.task.rows.tolist(),
                "truth": [str(value) for value in question.task.truth],
                "kind": question.task.kind,
                "splits": parts,
                "how": method.how,
                "features": method.features,
                "model": None
                if model is None
                else model.model_dump(exclude={"model", "probes", "features"}),
                "weights": next((weights[n] for n, m in plan.models.items() if m is model), None),
                "settings": _settings(plan, method.how),
                "semantoks": semantoks.__version__,
            }
            text = json.dumps(about, sort_keys=True, default=str)
            yield Cell(target, split, method, hashlib.sha256(text.encode()).hexdigest()[:24])


def _settings(plan: StudyPlan, how: str) -> Any:
    """Return the settings that a way to predict depends on."""
    if how in ("linear", "attention"):
        return [plan.probe.model_dump(), plan.seed]
    if how in ("finetune", "mlp"):
        return [plan.finetuning.model_dump(), plan.seed]
    return list(plan.confounds) if how == "confounds" else None


def _digest_of_weights(model: str) -> str:
    """Return a digest of the weights of a model."""
    encoder = load_model(model).encoder
    digest = hashlib.sha256(json.dumps(encoder.arguments, sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _impossible(cell: Cell, question: Question) -> str:
    """Say why a cell cannot be computed; nothing if it can."""
    if cell.method.how == "logistic" and question.task.kind == "regression":
        return "logistic regression predicts classes"
    needs = cell.method.how in ("linear", "attention", "finetune", "mlp")
    if needs and not all(len(split.validation) for split in question.splits):
        return "it needs validation parts; give the splits a share for validation"
    return ""


def _compute(
    cells: list[Cell],
    questions: Mapping[tuple[str, str], Question],
    cohort: Cohort,
    out: Path,
    workers: int,
    say: Say,
) -> None:
    """Compute cells and write each as soon as it is there."""
    if workers == 1:
        for number, cell in enumerate(cells):
            say(f"[{number + 1}/{len(cells)}] {cell.target}, {cell.split}: {cell.method.name}")
            _one(cell, questions[cell.target, cell.split], cohort, _path(out, cell))
        return
    done = 0
    jobs = (
        joblib.delayed(_group)(group, _asked(group, questions), cohort.store, cohort.plan, out)
        for group in _grouped(cells)
    )
    for finished in joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        done += len(finished)
        for cell in finished:
            say(f"[{done}/{len(cells)}] {cell.target}, {cell.split}: {cell.method.name}")


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
        _one(cell, questions[cell.target, cell.split], cohort, _path(out, cell))
    return cells


def _one(cell: Cell, question: Question, cohort: Cohort, path: Path) -> None:
    """Compute a cell and write it."""
    folds = predict(cell.method, question, cohort)
    content: dict[str, Any] = {}
    for number, fold in enumerate(folds):
        content[f"prediction{number}"] = fold.prediction
        content[f"score{number}"] = fold.score
        content[f"test{number}"] = fold.split.test
    with replacing(path) as beside, beside.open("wb") as stream:
        np.savez_compressed(stream, **content)


def _read(path: Path, question: Question) -> tuple[FoldPrediction, ...]:
    """Read a cell; methods that were given fewer splits predicted the first of them."""
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


def _path(out: Path, cell: Cell) -> Path:
    """Return the file of a cell."""
    return out / "cells" / f"{cell.key}.npz"


def _with_seen(scores: pd.DataFrame, seen: Mapping[str, set[str]]) -> pd.DataFrame:
    """Say of how many of the people the model of a method had seen scans."""

    def count(method: str) -> int:
        names = [name for name in seen if method.startswith((f"{name}, ", f"{name} "))]
        return len(seen[max(names, key=len)]) if names else 0

    counts = scores["method"].map(count)
    return scores.assign(n_seen=counts)


def _write(study: Study, plan: StudyPlan) -> None:
    """Write the tables and the plan."""
    for name, table in {"scores.csv": study.scores, "folds.csv": study.folds}.items():
        with replacing(study.folder / name) as beside:
            table.to_csv(beside, index=False)
    about = {
        "plan": plan.model_dump(mode="json"),
        "skipped": list(study.skipped),
        "semantoks": semantoks.__version__,
    }
    with replacing(study.folder / "plan.json") as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
