"""Plans are refused when they are read: keys that nothing reads, and names that mean nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from semantoks.benchmark.plan import SplitPlan, StudyPlan, TargetPlan, read_plan
from semantoks.benchmark.study import run_study
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder

ROOT = Path(__file__).resolve().parents[2]


def read(folder: Path, **changes: Any) -> StudyPlan:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"store": "store", "targets": ["diagnosis"], **changes}))
    return read_plan(path)


def model(**keys: Any) -> dict[str, Any]:
    return {"models": {"m": {"model": "run", **keys}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"targets": ["age", {"column": "age", "kind": "regression"}]},
            "the target 'age' is named twice. Name it once",
        ),
        (
            {"splits": [{"kind": "site", "repeats": 7}]},
            "splits.0: nothing reads repeats in splits of kind site; it belongs to random, folds "
            "and site-stratified.",
        ),
        ({"splits": [{"kind": "site", "folds": 3}]}, "nothing reads folds in splits of kind site"),
        ({"splits": [{"kind": "site", "test": 0.3}]}, "it belongs to random."),
        ({"splits": [{"kind": "folds", "test": 0.3}]}, "nothing reads test in"),
        ({"splits": [{"folds": 3}]}, "nothing reads folds in splits of kind random"),
        ({"splits": [{"site_column": "x"}]}, "nothing reads site_column in splits of kind random"),
        ({"splits": [{"path": "x.json"}]}, "it belongs to predefined"),
        (
            {"splits": [{"kind": "predefined", "path": "x.json", "validation": 0.1}]},
            "nothing reads validation in splits of kind predefined",
        ),
        (
            model(features=["networks"], probes=["finetune", "attention"]),
            "models.m: nothing reads features where the probes are finetune and attention",
        ),
        (model(features=["networks"], probes=["finetune"]), "the probes are finetune: these read"),
        (model(seed=3), "models.m: nothing reads seed where weights are trained"),
        (
            model(features=["meen"]),
            "models.m.features: there are no features 'meen'; there are mean, cls, networks, "
            "network-statistics, second-order, synchrony, log-synchrony, components, and any of "
            "them joined by "
            "'+', such as mean+cls. Did you mean 'mean'?",
        ),
        (model(features=["cls+cls"]), "name a part twice"),
        (
            model(features=["cls+second-order"], probes=["ridge", "linear"]),
            "the probe linear learns from single windows, but second-order describes whole scans",
        ),
        ({"splits": [{"name": "a/b"}]}, "splits.0.name: 'a/b' is no name for splits"),
        ({"splits": [{"name": "../x"}]}, "is no name for splits"),
        ({"splits": [{"kind": "site"}, {"name": "site"}]}, "two splits have the same name, 'site'"),
    ],
)
def test_what_is_wrong_is_said_when_the_plan_is_read(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as refused:
        read(tmp_path, **changes)
    assert "Value error" not in str(refused.value)
    assert "at least 1 item" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": [{"name": "Köln 2.0_a+b-c"}]},
        {"splits": [{"kind": "site-stratified", "folds": 3, "repeats": 2, "site_column": "x"}]},
        {"splits": [{"kind": "predefined", "path": "x.json", "absent": "drop"}]},
        {"splits": [{"kind": "site", "validation": 0, "site_column": "x", "family_column": "y"}]},
        model(features=["networks"], probes=["finetune", "ridge"]),
        model(weights="fresh", seed=3),
        model(features=["networks+mean"], probes=["linear"]),
    ],
)
def test_keys_that_something_reads_are_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    read(tmp_path, **changes)


def test_plans_made_in_python_are_as_strict() -> None:
    target = TargetPlan(column="age")
    with pytest.raises(ValidationError, match="named twice"):
        StudyPlan(store=Path("store"), targets=(target, target))
    with pytest.raises(ValidationError, match="nothing reads folds"):
        SplitPlan(kind="site", folds=3)


def test_the_plans_that_we_publish_are_read(tmp_path: Path) -> None:
    published = sorted((ROOT / "benchmarks" / "plans").glob("*.yaml"))
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (tmp_path / "docs.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    assert published
    for path in [*published, tmp_path / "docs.yaml"]:
        plan = read_plan(path)
        assert plan.models or set(plan.baselines) > {"connectivity", "dummy"}


def test_features_that_a_model_has_not_are_refused_before_anything_is_computed(
    store: Store, tmp_path: Path
) -> None:
    encoder = SemantoksEncoder(store.atlas, dim=64, depth=0, window=20, patch=10)
    save_encoder(encoder, tmp_path / "run", provenance={})
    plan = read(tmp_path, store=str(store.path), **model(features=["cls", "synchrony"]))
    with pytest.raises(ConfigurationError, match=r"model 'm' .*this model has none"):
        run_study(plan, tmp_path / "out")
    assert not list((tmp_path / "out" / "cells").iterdir())


@pytest.mark.parametrize(
    "page", sorted((ROOT / "benchmarks/plans").glob("*.yaml")), ids=lambda page: page.stem
)
def test_a_plan_that_was_written_down_is_read_again(page: Path) -> None:
    plan = read_plan(page)
    assert StudyPlan.model_validate(plan.model_dump(mode="json")) == plan
