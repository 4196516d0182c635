"""One method that cannot do, or one file that is damaged, and what becomes of the study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from semantoks.benchmark.comparison import scores_tables
from semantoks.benchmark.methods import predict
from semantoks.benchmark.plan import StudyPlan, read_plan
from semantoks.benchmark.study import run_study
from semantoks.cli.application import run
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.split_files import read_splits
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder

MakePlan = Callable[..., StudyPlan]


@pytest.fixture
def plan(store: Store, tmp_path: Path) -> MakePlan:
    encoder = SemantoksEncoder(store.atlas, dim=64, depth=0, window=20, patch=10)
    save_encoder(encoder, tmp_path / "model", provenance={})

    def make(**changes: object) -> StudyPlan:
        content = {
            "store": str(store.path),
            "targets": ["diagnosis"],
            "splits": [{"kind": "folds", "folds": 3, "repeats": 1}],
            "draws": 20,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return read_plan(path)

    return make


def rare(plan: MakePlan) -> StudyPlan:
    """Make a plan whose logistic regression meets one patient of a class in a training part."""
    probes = ["ridge", "logistic"]
    return plan(
        targets=["diagnosis", "rare"],
        models={"m": {"model": "model", "windows": 1, "probes": probes}},
        splits=[{"kind": "site", "validation": 0}],
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_others_are_scored_where_one_method_fails(
    plan: MakePlan, tmp_path: Path, workers: int
) -> None:
    out, said = tmp_path / "out", list[str]()
    study = run_study(rare(plan), out, workers=workers)
    (reason,) = study.failed
    assert reason.startswith("rare, site, m, logistic: failed. ")
    assert reason in study.skipped
    found = {*map(tuple, study.scores[["target", "method"]].drop_duplicates().to_numpy())}
    methods = ["m, ridge", "m, logistic", "connectivity", "dummy"]
    wanted = {(target, method) for target in ("diagnosis", "rare") for method in methods}
    assert wanted - found == {("rare", "m, logistic")}
    assert found <= wanted
    assert json.loads((out / "plan.json").read_text())["failed"] == [reason]
    assert len(list((out / "cells").glob("*"))) == 7  # a failure is no finished cell
    again = run_study(rare(plan), out, say=said.append)
    assert said[0] == "8 cells, 7 of them are there already"
    assert again.failed == study.failed


def test_a_failure_cannot_be_overlooked(
    plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare(plan)
    out = tmp_path / "out"
    words = ["evaluate", str(tmp_path / "plan.yaml"), "--out", str(out)]
    assert run(words) == 1
    printed = capsys.readouterr()
    assert "skipped rare, site, m, logistic: failed. " in printed.out
    assert "1 part(s) of the study failed and are not among its scores" in printed.err
    assert "m, logistic" in printed.err
    assert "rare, site, m, logistic: failed. " in (out / "report.html").read_text()
    assert run([*words, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert len(result["failed"]) == 1
    assert result["scores"]


def fails(monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    """Let methods refuse what they are given."""

    def refusing(method: Any, question: Any, cohort: Any) -> Any:
        if method.name in methods:
            raise InputError(f"{method.name} cannot do this.")
        return predict(method, question, cohort)

    monkeypatch.setattr("semantoks.benchmark.cells.predict", refusing)


def test_a_study_of_which_nothing_is_left_is_refused(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, "connectivity", "dummy")
    with pytest.raises(InputError, match=r"nothing can be scored.*connectivity cannot do this"):
        run_study(plan(), tmp_path / "out")
    assert not list((tmp_path / "out" / "cells").glob("*"))
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_nothing_is_scored_without_connectivity(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(plan(), tmp_path / "out")  # of the diagnosis it is there already
    fails(monkeypatch, "connectivity")
    study = run_study(plan(targets=["diagnosis", "coin"]), tmp_path / "out")
    assert {*study.scores["target"]} == {"diagnosis"}
    assert len(study.failed) == 2
    assert study.failed[1].startswith("coin, folds: failed. Nothing is scored")


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_cell_is_named(plan: MakePlan, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    first = run_study(plan(), out)
    cell = min((out / "cells").glob("*.npz"))
    whole = cell.read_bytes()
    cell.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"text"}[damage])
    with pytest.raises(InputError, match=rf"{cell.name}.* is damaged .*Remove this file"):
        run_study(plan(), out)
    cell.unlink()
    assert run_study(plan(), out).scores.equals(first.scores)


def test_damaged_permutations_are_named(plan: MakePlan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(plan(permutations=3), out)
    (written,) = (out / "cells").glob("*.json")
    written.write_text(written.read_text()[:20])
    with pytest.raises(InputError, match=rf"{written.name}.* is damaged"):
        run_study(plan(permutations=3), out)


def test_confounds_that_are_absent_are_found_before_anything_is_computed(
    plan: MakePlan, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no column 'agee'\. Did you mean 'age'"):
        run_study(plan(baselines=["confounds"], confounds=["agee"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_splits_of_an_earlier_plan_are_told_of(plan: MakePlan, tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    run_study(plan(targets=["diagnosis", "coin"]), out)
    run_study(plan(), out, say=said.append)
    assert "are of an earlier plan" in said[0]
    assert "coin-folds.json. plan.json lists" in said[0]
    assert {*json.loads((out / "plan.json").read_text())["splits"]} == {"diagnosis-folds.json"}


def test_targets_may_have_names_that_files_have_not(
    store: Store, plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = store.scans.rename(columns={"coin": "a/b c"})
    monkeypatch.setattr(Store, "scans", scans)
    run_study(plan(targets=["a/b c"]), tmp_path / "out")
    assert len(read_splits(tmp_path / "out" / "splits" / "a%2Fb c-folds.json", scans)) == 3


def test_the_table_says_who_was_tested(plan: MakePlan, tmp_path: Path) -> None:
    splits = [{"kind": "random", "repeats": 1}, {"kind": "folds", "folds": 3, "repeats": 1}]
    scores = run_study(plan(targets=["age"], splits=splits), tmp_path / "out").scores
    n = {*scores[scores["split"] == "random"]["n_tested"]}.pop()
    captions = [str(table.caption) for table in scores_tables(scores)]
    assert captions == [
        f"72 scans of 54 subjects, {n} tested; 8 more lack the target.",
        "72 scans of 54 subjects, all tested; 8 more lack the target.",
    ]
    assert n < 20
    assert "lack" not in str(scores_tables(scores.assign(n_missing=0))[0].caption)


def test_predictions_are_scored_where_only_their_permutations_fail(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*words: object) -> None:
        raise InputError("a permuted class is too rare.")

    monkeypatch.setattr("semantoks.benchmark.cells.permute", refusing)
    study = run_study(plan(permutations=3), tmp_path / "out")
    assert study.failed == (
        "diagnosis, folds, connectivity: permuted labels failed. a permuted class is too rare.",
    )
    rows = study.scores.set_index(["method", "metric"])
    assert rows.loc[("connectivity", "balanced_accuracy"), "value"] > 0
    assert rows["p_permutation"].isna().all()
