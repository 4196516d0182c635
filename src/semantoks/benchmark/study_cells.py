"""The cells of a study: each one method's predictions of one question, kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

import semantoks
from semantoks.benchmark.study_blocks import blocks_of
from semantoks.benchmark.study_cohort import Cohort
from semantoks.benchmark.study_methods import (
    Method,
    Question,
    methods_of,
    permute,
    predict,
)
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.benchmark.study_preparation import PREPARED, WITHOUT_FEATURES
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.probe import FoldPrediction
from semantoks.evaluation.shared_encoding import weights_digest
from semantoks.files import replacing
from semantoks.model.checkpoint import load_model

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
    within : str
        Digest of what permuted labels stay within; empty if they move anywhere.
    """

    target: str
    split: str
    method: Method
    key: str
    within: str = ""


def cells_of(
    plan: StudyPlan, store: Store, questions: Mapping[tuple[str, str], Question]
) -> Iterator[Cell]:
    """Name every cell by a digest of all that it depends on.

    Parameters
    ----------
    plan : StudyPlan
        The plan.
    store : Store
        The cohort.
    questions : mapping of (str, str) to Question
        By target and name of the splits.

    Yields
    ------
    Cell
        One a question and method, in the order of the questions.
    """
    weights = {name: _digest_of_weights(model.model) for name, model in plan.models.items()}
    methods = methods_of(plan)
    for (target, split), question in questions.items():
        parts = [
            [part.tolist() for part in (s.train, s.validation, s.test)] for s in question.splits
        ]
        blocks = blocks_of(plan, question.scans)
        named = "" if blocks is None else json.dumps(blocks.tolist())
        within = hashlib.sha256(named.encode()).hexdigest()[:8] if named else ""
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
            if question.splitter.family_column is not None:
                about["families"] = question.units.tolist()
            if question.prepare is not None and method.how in PREPARED:
                about["prepare"] = repr(question.prepare)
            text = json.dumps(about, sort_keys=True, default=str)
            key = hashlib.sha256(text.encode()).hexdigest()[:24]
            yield Cell(target, split, method, key, within)


def _settings(plan: StudyPlan, how: str) -> Any:
    """Return the settings that a way to predict depends on."""
    if how in ("linear", "attention"):
        return [plan.probe.model_dump(), plan.seed]
    if how in ("finetune", "mlp"):
        weighted = plan.probe.class_weight != "none"
        # Named only where it decides something, so that cells without patience keep their key.
        unset = {"patience"} if how == "mlp" or plan.finetuning.patience is None else set()
        tuned = plan.finetuning.model_dump(exclude=unset)
        return [tuned, plan.seed, *[plan.probe.class_weight] * weighted]
    return list(plan.confounds) if how == "confounds" else None


def _digest_of_weights(model: str) -> str:
    """Return the arguments and a digest of the weights of a model."""
    encoder = load_model(model).encoder
    return f"{json.dumps(encoder.arguments, sort_keys=True, default=str)} {weights_digest(encoder)}"


def impossible(cell: Cell, question: Question) -> str:
    """Say why a cell cannot be computed.

    Parameters
    ----------
    cell : Cell
        The cell.
    question : Question
        Its question.

    Returns
    -------
    str
        The reason; empty if it can.
    """
    if question.prepare is not None and cell.method.how not in PREPARED | WITHOUT_FEATURES:
        return f"features are prepared for {', '.join(sorted(PREPARED))} only"
    if cell.method.how == "logistic" and question.task.kind == "regression":
        return "logistic regression predicts classes"
    needs = cell.method.how in ("linear", "attention", "finetune", "mlp")
    if needs and not all(len(split.validation) for split in question.splits):
        return "it needs validation parts; give the splits a share for validation"
    return ""


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
        blocks = blocks_of(cohort.plan, question.scans)
        found = permute(cell.method, question, cohort, blocks)
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
    within = f"-within-{cell.within}" if cell.within else ""
    return out / "cells" / f"{cell.key}-{plan.permutations}-permutations-{plan.seed}{within}.json"
