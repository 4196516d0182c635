"""Scores by the number of labels: nested people, the same tests, components of everybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from semantoks.benchmark.baselines import component_predictions, connectivity_features
from semantoks.benchmark.plan import StudyPlan, read_plan
from semantoks.benchmark.study import run_study, study_differences
from semantoks.cli.application import run
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear import fit_linear
from semantoks.evaluation.splits import Split, fewer_labels
from semantoks.interpretation.study_page import write_study_page
from semantoks.model.components import fit_components, log_connectivity_features


@pytest.fixture(scope="module")
def plan(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(**changes: object) -> StudyPlan:
        content = {
            "store": str(store.path),
            "targets": ["diagnosis", "age"],
            "splits": [{"kind": "folds", "folds": 3, "repeats": 2, "validation": 0}],
            "baselines": ["components"],
            "labels": [20, 10, 200],
            "draws": 20,
        }
        path = tmp_path_factory.mktemp("labels") / "plan.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return read_plan(path)

    return make


@pytest.fixture(scope="module")
def study(plan: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_study(plan(), tmp_path_factory.mktemp("study") / "out")


def test_people_with_labels_are_nested_and_everybody_is_tested(study: Any, store: Store) -> None:
    parts: dict[str, list[dict[str, Any]]] = {}
    for name in ("folds", "folds 20 labels", "folds 10 labels"):
        content = json.loads((study.folder / "splits" / f"diagnosis-{name}.json").read_text())
        parts[name] = content["folds"]
    people = dict(zip(store.scans["scan"], store.scans["subject"], strict=True))
    for all_, twenty, ten in zip(*parts.values(), strict=True):
        assert all_["test"] == twenty["test"] == ten["test"]
        learned = [{people[x] for x in one["train"]} for one in (all_, twenty, ten)]
        assert learned[0] > learned[1] > learned[2]
        assert [len(one) for one in learned[1:]] == [20, 10]
    counts = study.scores.drop_duplicates(["target", "split"]).set_index(["target", "split"])
    assert counts.loc[("diagnosis", "folds 10 labels"), "n_learned"] == 10
    assert counts.loc[("diagnosis", "folds"), "n_learned"] == 40


def test_more_labels_than_people_are_skipped_with_the_reason(study: Any) -> None:
    skipped = [text for text in study.skipped if "200 labels" in text]
    assert len(skipped) == 2
    assert "40 people to learn from, fewer than labels: 200" in skipped[0]


def test_classes_keep_their_share_and_values_are_drawn() -> None:
    truth = np.r_[np.zeros(60, dtype=int), np.ones(30, dtype=int), 1]
    split = Split("mine", 0, "a", np.arange(80), np.array([90]), validation=np.arange(80, 90))
    known = {"truth": truth, "subjects": np.arange(91), "seed": 3}
    for number in (9, 30, 45):
        fewer = fewer_labels(split, number, kind="classification", **known)
        learned = np.concatenate([fewer.train, fewer.validation])
        assert abs(truth[learned].sum() - number / 3) <= 1
        assert len(learned) == number
    values = known | {"truth": np.linspace(0, 1, 91)}
    first, again = (fewer_labels(split, 30, kind="regression", **values) for _ in range(2))
    np.testing.assert_array_equal(first.train, again.train)
    other = fewer_labels(split, 30, kind="regression", **values | {"seed": 4})
    assert set(first.train) != set(other.train)
    with pytest.raises(InputError, match="90 people to learn from"):
        fewer_labels(split, 91, kind="regression", **values)


def test_components_are_learned_from_people_without_labels_too(store: Store) -> None:
    rows = log_connectivity_features(store)
    truth = (store.scans["diagnosis"] == "patient").to_numpy().astype(int)
    subjects = store.scans["subject"].to_numpy().astype(str)
    pool = Split("mine", 0, "0", np.arange(0, 60), np.arange(60, len(rows)))
    few = fewer_labels(pool, 12, truth, subjects, kind="classification", seed=0)
    known = {"kind": "classification", "subjects": subjects}
    (found,) = component_predictions(rows, truth, [few], pools=[pool], **known)
    components, own = fit_components(rows[:60])
    fitted = fit_linear(
        own[few.train], truth[few.train], subjects[few.train], n_classes=2, scaling="center"
    )
    wanted = fitted.scores(components.transform(rows[60:]))
    np.testing.assert_allclose(found.score, wanted, atol=1e-6)


def test_the_page_shows_a_curve_and_differences_can_be_asked(study: Any, tmp_path: Path) -> None:
    page = write_study_page(study.scores, tmp_path / "page.html", title="labels").read_text()
    assert "Scores by labels" in page
    assert page.count("<svg") + page.count("<img") == 3
    found = study_differences(study.folder, [("components", "connectivity")])
    assert set(found["split"]) == {"folds", "folds 10 labels", "folds 20 labels"}


def test_permuted_labels_are_of_everybody(plan: Any) -> None:
    with pytest.raises(ConfigurationError, match="permutations and labels exclude each other"):
        plan(permutations=9)
    with pytest.raises(ConfigurationError, match="greater than or equal to 4"):
        plan(labels=[3])


def test_from_the_command_line(plan: Any, store: Store, tmp_path: Path) -> None:
    made = {"store": str(store.path), "targets": ["diagnosis"], "labels": [12], "draws": 20}
    made["splits"] = [{"kind": "random", "repeats": 2}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(made))
    assert run(["evaluate", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(scores["split"]) == {"random", "random 12 labels"}


def test_sites_lose_their_mean_without_a_label(store: Store, tmp_path: Path) -> None:
    plan = {"store": str(store.path), "targets": ["diagnosis", "site"], "draws": 20}
    plan["splits"] = [{"kind": "random", "repeats": 2, "validation": 0}]
    plan["baselines"] = ["site-centred-components"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = run_study(read_plan(tmp_path / "plan.yaml"), tmp_path / "out")
    told = study.scores[study.scores["metric"] == "balanced_accuracy"]
    told = told.set_index(["target", "method"])["value"]
    assert told["diagnosis", "site-centred-components"] > 0.7
    assert ("site", "site-centred-components") not in told.index  # the target is the site
    assert any("tells no two sites, or they are the target" in text for text in study.skipped)


def test_numbers_of_components_are_an_option(store: Store, tmp_path: Path) -> None:
    plan = {"store": str(store.path), "targets": ["coin"], "draws": 20}
    plan["splits"] = [{"kind": "random", "repeats": 2, "validation": 0}]
    plan["baselines"] = ["components", "connectivity-components"]
    found = []
    for number in (1, 400):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | {"components": number}))
        study = run_study(read_plan(tmp_path / "plan.yaml"), tmp_path / "out")
        told = study.scores[study.scores["metric"] == "auc"].set_index("method")["value"]
        found.append(told)
    assert found[0]["components"] != found[1]["components"]
    assert found[0]["connectivity-components"] != found[1]["connectivity-components"]
    assert found[0]["connectivity"] == found[1]["connectivity"]
    rows = connectivity_features(store)
    truth = (store.scans["diagnosis"] == "patient").to_numpy().astype(int)
    subjects = store.scans["subject"].to_numpy().astype(str)
    split = Split("mine", 0, "0", np.arange(0, 60), np.arange(60, len(rows)))
    (fold,) = component_predictions(
        rows, truth, [split], kind="classification", subjects=subjects, most=1
    )
    assert len(np.unique(np.round(np.diff(fold.score, axis=1), 6))) > 2
