"""A cell is computed again when anything that it reads has changed, and only then."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import yaml

import semantoks
from semantoks.benchmark.cells import cells_of, preparation_of
from semantoks.benchmark.methods import Question
from semantoks.benchmark.plan import Baseline, StudyPlan, read_plan
from semantoks.benchmark.study import run_study
from semantoks.benchmark.tasks import read_task
from semantoks.data.store import Store, checksum_of, file_digest_of
from semantoks.evaluation.shared_encoding import weights_digest
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Store:
    """Return a copy of the cohort whose table may be changed."""
    shutil.copytree(store.path, tmp_path / "store")
    return Store.open(tmp_path / "store")


def changed(store: Store, **columns: Any) -> Store:
    """Correct columns of the table of scans, as preparing again with another table does."""
    path = store.path / "scans.parquet"
    pd.read_parquet(path).assign(**columns).to_parquet(path, index=False)
    file = store.path / "store.json"
    description = json.loads(file.read_text())
    del description["checksum"]
    description["sha256"]["scans.parquet"] = file_digest_of(path)
    file.write_text(json.dumps(description | {"checksum": checksum_of(description)}))
    found = Store.open(store.path)
    assert found.fingerprint == store.fingerprint
    return found


def plan_of(store: Store, **changes: object) -> StudyPlan:
    path = store.path.parent / "plan.yaml"
    content = {
        "store": str(store.path),
        "targets": ["diagnosis"],
        "splits": [{"kind": "folds", "folds": 3, "repeats": 1}],
        "draws": 20,
    }
    path.write_text(yaml.safe_dump({**content, **changes}))
    return read_plan(path)


def ask(store: Store, plan: StudyPlan) -> Question:
    task = read_task(store.scans, "diagnosis")
    splitter = plan.splits[0].splitter(0)
    splits = splitter.splits(store.scans, task.name(task.truth), kind=task.kind)
    prepare = preparation_of(plan, task, store.scans)
    return Question(task, store.scans, tuple(splits), splitter, prepare)


def keys(store: Store, plan: StudyPlan) -> dict[str, str]:
    question = ask(store, plan)
    cells = cells_of(plan, store, {("diagnosis", "folds"): question})
    return {cell.method.name: cell.key for cell in cells}


def test_a_corrected_confound_is_read_again(copy: Store, tmp_path: Path) -> None:
    plan = plan_of(copy, baselines=["confounds"], confounds=["age"])
    run_study(plan, tmp_path / "out")
    patient = copy.scans["diagnosis"] == "patient"
    changed(copy, age=np.where(patient, 60.0, 30.0) + np.arange(len(copy)) % 7)
    said: list[str] = []
    found = run_study(plan, tmp_path / "out", say=said.append).scores
    assert said[0] == "3 cells, 2 of them are there already"
    anew = run_study(plan, tmp_path / "anew").scores
    pd.testing.assert_frame_equal(found, anew)


@pytest.mark.parametrize(
    ("prepare", "column", "reads"),
    [
        ("none", "age", {"confounds"}),
        ("none", "coin", set()),
        ("regress-confounds", "age", {"confounds", "connectivity", "temporal"}),
        ("combat", "site", {"confounds", "connectivity", "temporal"}),
        ("combat", "age", {"confounds"}),
    ],
)
def test_only_cells_that_read_a_column_depend_on_it(
    copy: Store, prepare: str, column: str, reads: set[str]
) -> None:
    every = list(get_args(Baseline))
    plan = plan_of(copy, prepare=prepare, baselines=every)
    before = keys(copy, plan)
    values = copy.scans[column].to_numpy(copy=True)
    values[0] = "Oslo" if column == "site" else 41.123456789
    after = keys(changed(copy, **{column: values}), plan)
    both = {"partial", "log-connectivity"} if "connectivity" in reads else set[str]()
    both |= {"site", "site-centred-components"} if column == "site" else set()
    assert {name for name in before if before[name] != after[name]} == reads | both


def test_numbers_count_to_the_last_digit(copy: Store) -> None:
    plan = plan_of(copy, baselines=["confounds"], confounds=["age"])
    ages = copy.scans["age"].to_numpy(copy=True)
    ages[20] = 41.123456781
    before = keys(changed(copy, age=ages), plan)
    ages[20] = 41.123456782
    assert keys(changed(copy, age=ages), plan)["confounds"] != before["confounds"]


def test_families_are_in_the_names_of_cells_and_permutations(copy: Store) -> None:
    split = {"kind": "folds", "folds": 3, "repeats": 1, "family_column": "kin"}
    plan = plan_of(copy, splits=[split], permutations=9)
    kin = copy.scans["subject"].astype(str)
    plain = changed(copy, kin=kin)
    question = ask(plain, plan)
    (first, _) = cells_of(plan, plain, {("diagnosis", "folds"): question})
    twins = plain.scans.assign(kin=kin.replace({"001": "000"}))
    other = replace(question, scans=twins)  # as if the splits happened to be the same
    (second, _) = cells_of(plan, plain, {("diagnosis", "folds"): other})
    assert first.key != second.key  # penalties are chosen with families left out
    assert first.divided != second.divided
    without = plan_of(copy)
    assert all(
        not cell.divided
        for cell in cells_of(without, copy, {("diagnosis", "folds"): ask(copy, without)})
    )


def test_cells_that_read_no_column_are_called_as_before(copy: Store, tmp_path: Path) -> None:
    """Weeks of fine-tuning are kept under these names; they are written out here once more."""
    encoder = SemantoksEncoder(copy.atlas, dim=64, depth=0, window=20, patch=10)
    save_encoder(encoder, tmp_path / "model", provenance={})
    probes = ["ridge", "linear", "attention", "neighbours", "finetune"]
    models = {"m": {"model": str(tmp_path / "model"), "windows": 1, "probes": probes}}
    plan = plan_of(copy, models=models, baselines=["temporal", "partial", "tangent", "mlp"])
    question = ask(copy, plan)
    for cell in cells_of(plan, copy, {("diagnosis", "folds"): question}):
        method = cell.method
        known = {
            "store": copy.fingerprint,
            "rows": question.task.rows.tolist(),
            "truth": [str(value) for value in question.task.truth],
            "kind": "classification",
            "splits": [
                [part.tolist() for part in (s.train, s.validation, s.test)] for s in question.splits
            ],
            "how": method.how,
            "features": "mean+cls" if method.how in ("ridge", "linear", "neighbours") else "",
            "model": None,
            "weights": None,
            "settings": None,
            "semantoks": semantoks.__version__,
        }
        if method.model is not None:
            arguments = json.dumps(encoder.arguments, sort_keys=True, default=str)
            known["weights"] = f"{arguments} {weights_digest(encoder)}"
            known["model"] = {"weights": "trained", "windows": 1, "seed": 0}
        if method.how in ("linear", "attention"):
            known["settings"] = [plan.probe.model_dump(), 0]
        if method.how in ("finetune", "mlp"):
            tuned = {"epochs": 50, "learning_rate": 1e-4, "batch_size": 16, "splits": None}
            known["settings"] = [{**tuned, "precision": "auto"}, 0]
        text = json.dumps(known, sort_keys=True, default=str)
        assert cell.key == hashlib.sha256(text.encode()).hexdigest()[:24], method.name
