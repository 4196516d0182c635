"""What a plan may ask for beside scores: nobody seen before, harmonised features, permutations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from semantoks.benchmark import methods
from semantoks.benchmark.baselines import connectivity_features
from semantoks.benchmark.cells import _settings, cells_of
from semantoks.benchmark.methods import Cohort, Method, Question, methods_of
from semantoks.benchmark.plan import (
    FineTuningPlan,
    ModelPlan,
    ProbePlan,
    SplitPlan,
    StudyPlan,
    TargetPlan,
    read_plan,
)
from semantoks.benchmark.scores import corrected
from semantoks.benchmark.study import Study, run_study
from semantoks.benchmark.tasks import draw_weights, read_task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
from semantoks.evaluation.metrics import balanced_accuracy
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.significance import correct_p_values
from semantoks.evaluation.split_files import read_splits
from semantoks.evaluation.splits import Split, subjects_of
from semantoks.model.checkpoint import hash_subjects, save_encoder
from semantoks.model.encoder import SemantoksEncoder


@pytest.fixture
def plan(store: Store, tmp_path: Path) -> Any:
    def make(**changes: object) -> StudyPlan:
        content = {
            "store": str(store.path),
            "targets": ["diagnosis"],
            "splits": [{"kind": "random", "repeats": 2}],
            "draws": 20,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return read_plan(path)

    return make


def save_model(store: Store, folder: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    encoder = SemantoksEncoder(store.atlas, dim=64, depth=0, window=20, patch=10)
    save_encoder(encoder, folder, provenance=provenance)
    return {"model": str(folder), "windows": 1}


def ask(store: Store, plan: StudyPlan) -> Question:
    task = read_task(store.scans, "diagnosis")
    splitter = plan.splits[0].splitter(0)
    splits = splitter.splits(store.scans, task.name(task.truth), kind=task.kind)
    return Question(task, store.scans, tuple(splits), splitter)


def test_what_is_planted_is_found_and_what_is_not_is_at_chance(store, plan, tmp_path):
    splits = [{"kind": "folds", "repeats": 3, "validation": 0}]
    made = plan(targets=["diagnosis", "coin"], splits=splits, baselines=["temporal"], draws=200)
    rows = run_study(made, tmp_path / "out").scores
    found = rows[rows["metric"] == "balanced_accuracy"].set_index(["target", "method"])
    planted, unplanted = found.loc["diagnosis"], found.loc["coin"]
    assert planted.loc["connectivity", "low"] > 0.6  # the diagnosis is in the coupling
    for method in ("dummy", "temporal"):  # and in nothing of single ROIs
        row = planted.loc[method]
        assert row["difference_high"] < 0
        assert row["p_corrected_all"] < 0.01
        assert row["low"] <= 0.5 <= row["high"]
    assert (unplanted["low"] <= 0.5).all()
    assert (unplanted["high"] >= 0.5).all()
    assert (unplanted["p_corrected_all"].dropna() > 0.05).all()


def test_families_of_a_plan_stay_together(store, plan):
    scans = store.scans.assign(kin=store.scans["subject"].str[:2])  # ten people a family
    split = plan(splits=[{"kind": "folds", "folds": 3, "family_column": "kin"}]).splits[0]
    for made in split.splitter(0).splits(scans):
        parts = [{*scans["kin"].iloc[p]} for p in (made.train, made.validation, made.test)]
        assert all(parts)
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_a_model_that_names_nobody_is_no_model_that_saw_nobody(store, tmp_path, plan):
    nameless = {"m": save_model(store, tmp_path / "model", {})}
    with pytest.raises(InputError, match=r"'m'.*does not say whom it was trained on"):
        run_study(plan(models=nameless, exclude_seen=True), tmp_path / "out")
    scores = run_study(plan(models=nameless), tmp_path / "out").scores
    n_seen = scores.groupby("method")["n_seen"].first()
    assert np.isnan(n_seen["m, ridge"])
    assert n_seen["connectivity"] == 0


def test_people_seen_are_counted_among_those_who_take_part(store, tmp_path, plan):
    seen = hash_subjects([f"{i:03d}" for i in range(10)], salt="other")
    models = {"m": save_model(store, tmp_path / "model", {"subjects": seen})}
    counted = run_study(plan(models=models), tmp_path / "out").scores
    assert counted.set_index("method").loc["m, ridge", "n_seen"].tolist() == [10] * 4
    excluded = run_study(plan(models=models, exclude_seen=True), tmp_path / "out").scores
    assert excluded["n_seen"].max() == 0
    assert excluded["n_subjects"].max() == 50


def test_class_weights_belong_to_the_cells_of_networks(store, plan):
    def keys(**changes: object) -> dict[str, str]:
        made = plan(baselines=["mlp"], **changes)
        cells = cells_of(made, store, {("diagnosis", "random"): ask(store, made)})
        return {cell.method.name: cell.key for cell in cells}

    plain, weighted = keys(), keys(probe={"class_weight": "balanced"})
    assert plain["mlp"] != weighted["mlp"]
    assert plain["connectivity"] == weighted["connectivity"]


@pytest.mark.parametrize("patience", [None, 4])
def test_fine_tuning_is_as_the_plan_and_its_model_say(store, plan, monkeypatch, patience):
    asked = []
    monkeypatch.setattr(methods, "load_weights", lambda model: None)
    monkeypatch.setattr(
        methods,
        "finetune_predictions",
        lambda *_, settings, **__: asked.append((settings.windows, settings.patience)) or (),
    )
    made = plan(finetuning={"patience": patience} if patience else {})
    method = Method("m", "probe", "finetune", ModelPlan(model="m", windows=3))
    methods.predict(method, ask(store, made), Cohort(store, made))
    assert asked == [(3, patience)]


def test_patience_is_in_the_key_of_fine_tuning_alone_and_only_where_it_is_set(
    store, tmp_path, plan
):
    models = {"m": save_model(store, tmp_path / "model", {}) | {"probes": ["finetune", "linear"]}}

    def keys(**finetuning: object) -> dict[str, str]:
        made = plan(models=models, baselines=["mlp"], finetuning=finetuning)
        cells = cells_of(made, store, {("diagnosis", "random"): ask(store, made)})
        return {cell.method.name: cell.key for cell in cells}

    plain, same, patient = keys(), keys(patience=None), keys(patience=5)
    assert plain == same
    assert {name for name in plain if plain[name] != patient[name]} == {"m, finetune"}
    # What went into keys before there was patience: cells of earlier studies are still found.
    before = {"epochs": 50, "learning_rate": 1e-4, "batch_size": 16, "splits": None}
    assert _settings(plan(), "finetune") == [{**before, "precision": "auto"}, 0]
    assert _settings(plan(finetuning={"patience": 5}), "mlp") == _settings(plan(), "mlp")


@pytest.mark.parametrize("wrong", [0, -1, "long", 1.5])
def test_impossible_patience_is_refused(plan, wrong):
    with pytest.raises(ConfigurationError, match=r"finetuning\.patience: "):
        plan(finetuning={"patience": wrong})
    with pytest.raises(ConfigurationError, match=r"finetuning\.patient\. Did you mean 'patience'"):
        plan(finetuning={"patient": 3})


def test_every_key_of_a_plan_is_documented():
    page = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
    text = page.read_text(encoding="utf-8")
    sections = {"": StudyPlan, "targets.": TargetPlan, "splits.": SplitPlan, "models.*.": ModelPlan}
    sections |= {"probe.": ProbePlan, "finetuning.": FineTuningPlan}
    keys = [f"{name}{key}" for name, section in sections.items() for key in section.model_fields]
    assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.parametrize("prepare", ["combat", "regress-confounds"])
def test_features_are_prepared_in_training_parts(store, tmp_path, plan, prepare):
    made = plan(prepare=prepare, confounds=["site"], baselines=["temporal", "tangent"])
    found = run_study(made, tmp_path / "out")
    assert [text.split(":")[0] for text in found.skipped] == ["diagnosis, random, tangent"]
    task = read_task(store.scans, "diagnosis")
    splits = read_splits(tmp_path / "out" / "splits" / "diagnosis-random.json", store.scans)
    folds = cross_validated_predictions(
        connectivity_features(store),
        task.truth,
        splits,
        kind=task.kind,
        subjects=subjects_of(store.scans),
        scaling="center",
        prepare=ComBat() if prepare == "combat" else ConfoundRegression(["site"]),
        scans=store.scans,
    )
    expected = [float(balanced_accuracy(task.truth[f.split.test], f.prediction)) for f in folds]
    assert values_of(found, "connectivity") == pytest.approx(expected)
    assert read_plan(tmp_path / "plan.yaml").prepare == prepare


def values_of(study: Study, method: str) -> list[float]:
    rows = study.folds[study.folds["metric"] == "balanced_accuracy"]
    return rows[rows["method"] == method]["value"].tolist()


def test_prepared_and_plain_cells_are_not_confused(store, tmp_path, plan):
    said: list[str] = []
    run_study(plan(), tmp_path / "out")
    run_study(plan(prepare="combat"), tmp_path / "out", say=said.append)
    # connectivity is computed anew, the dummy has no features
    assert said[0] == "2 cells, 1 of them are there already"


def test_sites_that_were_not_learned_from_cannot_be_prepared(store, tmp_path, plan):
    splits = [{"kind": "random", "repeats": 1}, {"kind": "site"}]
    found = run_study(plan(prepare="combat", splits=splits), tmp_path / "out")
    assert {*found.scores["split"]} == {"random"}
    assert any("ComBat knows nothing of their effect" in text for text in found.skipped)


def test_two_methods_cannot_have_the_same_name(plan):
    models = {"a": {"model": "x", "features": ["cls", "mean"]}, "a mean": {"model": "y"}}
    with pytest.raises(ConfigurationError, match="both be called 'a mean, ridge'"):
        methods_of(plan(models=models))
    twice = methods_of(plan(models={"a": {"model": "x", "probes": ["ridge", "ridge"]}}))
    assert [method.name for method in twice] == ["a, ridge", "dummy", "connectivity"]


def test_permuted_labels_on_request(store, tmp_path, plan):
    out, said = tmp_path / "out", list[str]()
    splits = [{"kind": "folds", "repeats": 1, "folds": 3}]
    assert "p_permutation" not in run_study(plan(splits=splits), out).scores
    asked = plan(splits=splits, permutations=19)
    scores = run_study(asked, out, say=said.append).scores
    assert said[0] == "2 cells, 1 of them are there already"  # the dummy has nothing to permute
    p = scores.set_index(["method", "metric"])["p_permutation"]
    assert p["connectivity", "balanced_accuracy"] == 1 / 20  # the diagnosis is planted
    assert p.drop(("connectivity", "balanced_accuracy")).isna().all()
    assert run_study(asked, out, workers=1, say=said.append).scores.equals(scores)
    assert said[-1] == "2 cells, 2 of them are there already"
    (written,) = (out / "cells").glob("*-19-permutations-0.json")
    assert len(json.loads(written.read_text())["null"]) == 19


def test_every_look_at_a_study_is_corrected_for():
    scores = pd.DataFrame(
        {
            "kind": ["classification"] * 3 + ["regression"] * 2,
            "metric": ["balanced_accuracy", "balanced_accuracy", "auc", "r2", "mae"],
            "p": [0.01, np.nan, 0.5, 0.03, 0.04],
        }
    )
    found = corrected(scores)["p_corrected_all"]
    deciding = correct_p_values([0.01, 0.03], "holm")
    second = correct_p_values([0.5, 0.04], "holm")
    assert found.tolist() == pytest.approx(
        [deciding[0], np.nan, second[0], deciding[1], second[1]], nan_ok=True
    )


def test_people_who_are_not_tested_do_not_count_in_draws():
    subjects = np.arange(10).astype(str)
    splits = [Split("site", 0, str(k), np.arange(6, 10), np.arange(3) + 3 * k) for k in range(2)]
    weights = draw_weights(splits, subjects, 50, seed=0)
    assert not weights[:, 6:].any()
    assert {*weights.sum(axis=1)} == {6.0}  # as many as are tested, in every draw


def test_lists_may_hold_people_without_the_target(store, tmp_path, plan):
    people = np.unique(subjects_of(store.scans))  # every tenth has no age
    lists = {"train": people[:40], "validation": [], "test": people[40:]}
    (tmp_path / "lists.json").write_text(json.dumps({k: list(v) for k, v in lists.items()}))
    split = {"kind": "predefined", "path": "lists.json"}
    with pytest.raises(InputError, match="absent='drop'"):
        run_study(plan(targets=["age"], splits=[split]), tmp_path / "out")
    dropping = plan(targets=["age"], splits=[{**split, "absent": "drop"}])
    assert run_study(dropping, tmp_path / "out").scores["n_missing"].max() == 8
