"""Twins count as one: in draws, in permutations, and where a penalty is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from semantoks.benchmark.cells import cells_of
from semantoks.benchmark.methods import Cohort, Method, Question, permute, predict
from semantoks.benchmark.plan import SplitPlan, StudyPlan
from semantoks.benchmark.scores import summary_table
from semantoks.benchmark.tasks import Task, read_task
from semantoks.data.store import Store
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.splits import Split

KIN = "kin"


def twins(n: int = 100) -> tuple[pd.DataFrame, Task, list[Split]]:
    """Return n pairs of twins of like diagnosis, tested once in five folds of families."""
    family = np.repeat(np.arange(n), 2)
    scans = pd.DataFrame({"subject": [f"s{i:03d}" for i in range(2 * n)]})
    scans = scans.assign(scan=scans["subject"], kin=family.astype(str), diagnosis=family // 5 % 2)
    parts = [np.flatnonzero(family % 5 == i) for i in range(5)]
    splits = [
        Split("folds", repeat, str(i), np.setdiff1d(np.arange(2 * n), part), part)
        for repeat in range(2)
        for i, part in enumerate(parts)
    ]
    return scans, read_task(scans, "diagnosis"), splits


def question(family_column: str | None) -> Question:
    scans, task, splits = twins()
    splitter = SplitPlan(kind="folds", family_column=family_column).splitter(0)
    return Question(task, scans, tuple(splits), splitter)


def test_twins_who_are_alike_count_once_in_intervals():
    """Pairs are predicted alike: 200 people know as much as 100, and intervals are √2 wider."""
    widths = []
    for column in (None, KIN):
        asked = question(column)
        truth = asked.task.truth
        right = np.repeat(np.random.default_rng(0).random(100) < 0.7, 2)
        said = np.where(right, truth, 1 - truth)
        folds = [FoldPrediction(s, said[s.test], np.eye(2)[said[s.test]]) for s in asked.splits]
        answers = {"connectivity": folds, "dummy": folds}
        table = summary_table(answers, asked, "folds", draws=2000, seed=0)
        row = table[table["metric"] == "balanced_accuracy"].iloc[0]
        widths.append(row["high"] - row["low"])
        assert row["n_subjects"] == 200
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(2), rel=0.06)


@pytest.fixture
def asked(store: Store) -> Any:
    """Ask for the diagnosis in a store whose people are named in pairs of families."""

    def ask(column: str | None) -> Question:
        scans = store.scans.assign(kin=(store.scans["subject"].astype(int) // 4).astype(str))
        task = read_task(scans, "diagnosis")
        plan = SplitPlan(kind="folds", folds=3, repeats=1, validation=0, family_column=column)
        made = SplitPlan(kind="folds", folds=3, repeats=1, validation=0, family_column=KIN)
        splits = made.splitter(0).splits(scans, task.name(task.truth), kind=task.kind)
        return Question(task, scans, tuple(splits), plan.splitter(0))

    return ask


def test_families_are_left_out_and_moved_together(store, asked, monkeypatch):
    plan = StudyPlan(store=store.path, targets=("diagnosis",), permutations=1)
    cohort, method = Cohort(store, plan), Method("connectivity", "baseline", "connectivity")
    seen: list[dict[str, Any]] = []
    where = "semantoks.benchmark.methods."
    for name in ("cross_validated_predictions", "permutation_test"):
        monkeypatch.setattr(where + name, lambda *_, **how: seen.append(how))
    for column in (None, KIN):
        predict(method, asked(column), cohort)
        permute(method, asked(column), cohort)
    subjects = store.scans["subject"].tolist()
    heads = [f"{int(s) // 4 * 4:03d}" for s in subjects]  # of each family the first subject
    assert seen[0]["subjects"].tolist() == subjects
    assert seen[2]["subjects"].tolist() == heads
    assert seen[1]["families"].tolist() == subjects
    assert seen[3]["families"].tolist() == heads


def test_cells_have_another_key_only_where_there_are_families(store: Store, asked: Any) -> None:
    def keys(column: str | None) -> list[str]:
        plan = StudyPlan(store=store.path, targets=("diagnosis",))
        return [cell.key for cell in cells_of(plan, store, {("diagnosis", "folds"): asked(column)})]

    assert not {*keys(None)} & {*keys(KIN)}
