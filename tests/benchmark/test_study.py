"""A study: from a plan to one tidy table, resumable, parallel, honest about who was seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from semantoks.benchmark.plan import StudyPlan, read_plan
from semantoks.benchmark.study import run_study
from semantoks.cli.application import run
from semantoks.data.preparation import prepare
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.metrics import balanced_accuracy
from semantoks.evaluation.split_files import read_splits
from semantoks.training.config import configure, tiny
from semantoks.training.pretraining import pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    recordings = simulate_cohort(60, n_samples=150, seed=1)
    write_cohort(recordings, folder / "raw")
    prepare(folder / "raw", folder / "store", atlas=recordings[0].atlas)
    sizes = {"model.dim": 32, "model.depth": 1, "model.head_dim": 16}
    steps = {"optimization.epochs": 1, "optimization.warmup_epochs": 0}
    pretrain(Store.open(folder / "store"), folder / "run", configure(tiny(), {**sizes, **steps}))
    return folder


PLAN = {
    "store": "store",
    "targets": ["diagnosis"],
    "splits": [{"kind": "random", "repeats": 3}],
    "models": {
        "pretrained": {"model": "run", "features": ["mean+cls", "networks"]},
        "untrained": {"model": "run", "weights": "fresh"},
    },
    "baselines": ["confounds"],
    "draws": 100,
}


def plan_in(folder: Path, **changes: object) -> StudyPlan:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return read_plan(path)


def test_one_tidy_table_with_connectivity_beside(folder: Path, tmp_path: Path) -> None:
    study = run_study(plan_in(folder), tmp_path / "out")
    assert list(study.folds.columns) == [
        "method", "target", "split", "repeat", "fold", "metric", "value", "n",
    ]  # fmt: skip
    methods = ["pretrained mean+cls, ridge", "pretrained networks, ridge", "untrained, ridge"]
    methods += ["confounds", "connectivity", "dummy"]
    assert list(study.scores["method"].unique()) == methods
    scores = study.scores[study.scores["metric"] == "balanced_accuracy"].set_index("method")
    assert (scores["low"] <= scores["value"]).all()
    assert (scores["value"] <= scores["high"]).all()
    assert scores.loc["dummy", "value"] == 0.5
    assert np.isnan(scores.loc["connectivity", "difference"])
    assert (scores["p_corrected"].dropna() >= scores["p"].dropna()).all()
    row = scores.loc["untrained, ridge"]
    assert row["difference"] == pytest.approx(row["value"] - scores.loc["connectivity", "value"])
    # pretraining saw everybody, fresh weights nobody
    assert scores["n_seen"].tolist() == [60, 60, 0, 0, 0, 0]
    written = pd.read_csv(tmp_path / "out" / "folds.csv")
    assert len(written) == len(study.folds)


def test_folds_are_those_that_were_written_down(folder: Path, tmp_path: Path) -> None:
    study = run_study(plan_in(folder, models={}, baselines=[]), tmp_path / "out")
    scans = Store.open(folder / "store").scans
    splits = read_splits(tmp_path / "out" / "splits" / "diagnosis-random.json", scans)
    folds = study.folds[study.folds["method"] == "connectivity"]
    n = folds[folds["metric"] == "balanced_accuracy"]["n"].tolist()
    assert n == [len(split.test) for split in splits]
    assert all(len(split.validation) for split in splits)


def test_cells_are_taken_up_and_only_new_ones_computed(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = run_study(plan_in(folder, models={}), tmp_path / "out", say=said.append)
    assert said[0] == "3 cells, 0 of them are there already"
    said.clear()
    again = run_study(plan_in(folder, models={}), tmp_path / "out", say=said.append)
    assert said == ["3 cells, 3 of them are there already"]
    pd.testing.assert_frame_equal(first.scores, again.scores)
    said.clear()
    run_study(plan_in(folder), tmp_path / "out", say=said.append)
    assert said[0] == "6 cells, 3 of them are there already"
    said.clear()
    run_study(plan_in(folder, models={}, seed=1), tmp_path / "out", say=said.append)
    assert said[0] == "3 cells, 0 of them are there already"  # other splits: nothing is reused


def test_many_processes_find_the_same(folder: Path, tmp_path: Path) -> None:
    one = run_study(plan_in(folder), tmp_path / "one")
    two = run_study(plan_in(folder), tmp_path / "two", workers=2)
    pd.testing.assert_frame_equal(one.scores, two.scores, rtol=1e-6)


def test_an_unplanted_target_is_at_chance(folder: Path, tmp_path: Path) -> None:
    plan = plan_in(
        folder, targets=["handedness"], models={}, splits=[{"kind": "folds", "repeats": 2}]
    )
    scores = run_study(plan, tmp_path / "out").scores
    row = scores[(scores["metric"] == "balanced_accuracy")].set_index("method")
    assert row.loc["connectivity", "low"] < 0.5 < row.loc["connectivity", "high"]


def test_people_whom_a_model_saw_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exclude_seen leaves nobody"):
        run_study(plan_in(folder, exclude_seen=True), tmp_path / "out")
    scans = Store.open(folder / "store").scans["scan"]
    plan = plan_in(folder, models={}, baselines=[], leave_out=list(scans[:5]))
    assert run_study(plan, tmp_path / "out").scores["n_scans"].max() == 55
    with pytest.raises(InputError, match="'nobody' is to be left out"):
        run_study(plan_in(folder, leave_out=["nobody"]), tmp_path / "out")


def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path) -> None:
    models = {"m": {"model": "run", "probes": ["logistic", "linear"]}}
    plan = plan_in(
        folder,
        targets=["age", "site"],
        models=models,
        splits=[{"kind": "site", "validation": 0}],
    )
    study = run_study(plan, tmp_path / "out")
    assert any("age, site, m, logistic: logistic regression" in text for text in study.skipped)
    assert any("age, site, m, linear: it needs validation" in text for text in study.skipped)
    assert any(text.startswith("site, site: a site that is left out") for text in study.skipped)
    assert {*study.scores["target"]} == {"age"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target": ["x"]}, r"unknown key target\. Did you mean 'targets'"),
        ({"models": {"a": {"modle": "run"}}}, r"unknown key models\.a\.modle\. Did you mean"),
        ({"models": {"a": {"model": "run", "probes": ["ridgee"]}}}, r"models\.a\.probes\.0"),
        ({"targets": []}, "targets"),
        ({"splits": [{"kind": "random"}, {"kind": "random"}]}, "same name"),
    ],
)
def test_plans_are_strict(folder: Path, changes: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        plan_in(folder, **changes)


def test_the_command_writes_a_page(folder: Path, tmp_path: Path) -> None:
    plan_in(folder, models={}, baselines=[])
    out = tmp_path / "out"
    assert run(["evaluate", str(folder / "plan.yaml"), "--out", str(out), "--quiet"]) == 0
    assert "diagnosis" in (out / "report.html").read_text()
    assert run(["evaluate", str(folder / "none.yaml"), "--out", str(out), "--quiet"]) == 2


def test_a_fold_is_scored_as_the_metric_says(folder: Path, tmp_path: Path) -> None:
    study = run_study(plan_in(folder, models={}, baselines=[]), tmp_path / "out")
    cells = sorted((tmp_path / "out" / "cells").glob("*.npz"))
    truth = (Store.open(folder / "store").scans["diagnosis"] == "patient").to_numpy().astype(int)
    found = set()
    for cell in cells:
        with np.load(cell) as content:
            value = balanced_accuracy(truth[content["test0"]], content["prediction0"], None)
            found.add(round(float(value), 9))
    rows = study.folds[(study.folds["metric"] == "balanced_accuracy")]
    written = {round(v, 9) for v in rows[rows["repeat"] == 0]["value"]}
    assert written == found
