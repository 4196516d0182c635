"""Permuted labels stay within sites where a plan says so; classes of one site are told of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from semantoks.benchmark.cells import blocks_of, check_blocks, classes_of_one_site
from semantoks.benchmark.methods import Question
from semantoks.benchmark.plan import SplitPlan, read_plan
from semantoks.benchmark.study import run_study
from semantoks.benchmark.tasks import read_task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError


@pytest.fixture
def plan(store: Store, tmp_path: Path) -> Any:
    def make(**changes: object) -> Any:
        content: dict[str, object] = {
            "store": str(store.path),
            "targets": ["diagnosis"],
            "splits": [{"kind": "folds", "repeats": 1, "folds": 3}],
            "draws": 10,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return read_plan(path)

    return make


def ask(scans: pd.DataFrame, target: str, kind: str = "site") -> Question:
    task, splitter = read_task(scans, target), SplitPlan(kind=kind, validation=0).splitter(0)
    splits = splitter.splits(scans, task.name(task.truth), kind=task.kind)
    return Question(task, scans, tuple(splits), splitter)


def test_a_plan_can_keep_labels_within_sites(store, tmp_path, plan, monkeypatch):
    from semantoks.benchmark import methods

    blocks, out = [], tmp_path / "out"
    real = methods.permutation_test

    def seen(*words: Any, **named: Any) -> Any:
        blocks.append(named["blocks"])
        return real(*words, **named)

    monkeypatch.setattr(methods, "permutation_test", seen)
    run_study(plan(permutations=3), out)
    free = {path.name for path in out.rglob("*permutations*")}
    scores = run_study(plan(permutations=3, permute_within="site"), out).scores
    assert blocks[0] is None
    assert blocks[1].tolist() == store.scans["site"].tolist()
    both = {path.name for path in out.rglob("*permutations*")}
    assert free < both  # neither takes the place of the other
    (within,) = both - free
    assert within.startswith(next(iter(free)).removesuffix(".json") + "-")
    written = json.loads((out / "cells" / within).read_text())["p"]
    found = scores.set_index(["method", "metric"])["p_permutation"]
    assert found["connectivity", "balanced_accuracy"] == written


def test_blocks_that_cannot_be_are_refused_before_anything_is_computed(store, tmp_path, plan):
    with pytest.raises(ConfigurationError, match="there are no permutations"):
        plan(permute_within="site")
    with pytest.raises(InputError, match="Did you mean 'site'"):
        run_study(plan(permutations=3, permute_within="sites"), tmp_path / "out")
    with pytest.raises(InputError, match=r"20 subject\(s\) have scans in several blocks"):
        check_blocks(
            plan(permutations=3, permute_within="session"), ask(store.scans, "diagnosis", "folds")
        )
    gap = store.scans.assign(ward=np.where(np.arange(len(store)) == 4, "", "x"))
    with pytest.raises(InputError, match=r"permute_within: 1 scan\(s\) have no 'ward'"):
        blocks_of(plan(permutations=3, permute_within="ward"), gap)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_class_of_one_site_is_named(store: Store) -> None:
    scans = store.scans.copy()
    rome = scans["site"] == "Rome"
    scans["grade"] = np.where(scans["diagnosis"] == "patient", "high", "low")
    scans.loc[rome & (scans["diagnosis"] == "patient"), "grade"] = "severe"
    (said,) = classes_of_one_site(ask(scans, "grade"), "site")
    n = int((scans["grade"] == "severe").sum())
    assert said.startswith(f"grade, site: class 'severe' exists only at site 'Rome' ({n} scan(s)).")
    assert not list(classes_of_one_site(ask(scans, "diagnosis"), "site"))
    assert not list(classes_of_one_site(ask(scans, "grade", "folds"), "folds"))


def test_notices_are_written_down(store, tmp_path, plan, monkeypatch):
    made = plan(splits=[{"kind": "site", "validation": 0}])
    real = read_task

    def renamed(scans: pd.DataFrame, target: str, kind: Any = "auto") -> Any:
        task = real(scans, target, kind)
        new = task.truth.copy()
        new[(scans["site"].iloc[task.rows] == "Rome").to_numpy() & (new == 1)] = 2
        return dataclasses.replace(task, truth=new, classes=(*task.classes, "severe"))

    monkeypatch.setattr("semantoks.benchmark.study.read_task", renamed)
    found = run_study(made, tmp_path / "out")
    (notice,) = found.notices
    assert "class 'severe' exists only at site 'Rome'" in notice
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["notices"] == [notice]
