"""What cannot be probed is refused before anything is pretrained, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semantoks.benchmark.comparison import compare
from semantoks.benchmark.plan import StudyPlan, TargetPlan
from semantoks.benchmark.study import run_study
from semantoks.benchmark.variants import ablate, scale
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError
from semantoks.evaluation import overlap
from semantoks.evaluation.overlap import people_to_train_on
from semantoks.evaluation.same_series import SameSeries
from semantoks.evaluation.split_files import write_splits
from semantoks.evaluation.splits import Split
from semantoks.training.config import tiny

Pretrains = Callable[..., object]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One recording of 24 stands under the names of two people."""
    atlas = Atlas.from_networks({"Vis": 4, "Cont": 4}, name="tiny")
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("twice") / "store"
    with StoreWriter(path, atlas, Preprocessing(min_samples=50), {}) as writer:
        drawn = random.standard_normal((23, 8, 80)).astype(np.float32)
        for person, series in enumerate([*drawn, drawn[0]]):
            recording = Recording(
                series,
                t_r=2.0,
                atlas=atlas,
                scan=f"{person:02d}",
                subject=f"{person:02d}",
                phenotypes={"diagnosis": "ab"[person % 2]},
            )
            writer.add(recording, np.ones(8, dtype=bool))
        return writer.finish(())


@pytest.mark.parametrize("pretrains", [ablate, scale])
def test_targets_and_folds_are_looked_at_before_pretraining(
    store: Store, tmp_path: Path, pretrains: Pretrains
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"no target 'diagnois'.*Did you mean 'diagnosis'"):
        pretrains(store, out, tiny(), ["diagnosis", "diagnois"])
    with pytest.raises(InputError, match="fewer subjects than the 5 folds: 'yes'"):
        pretrains(store, out, tiny(), ["rare"])
    assert not out.exists()


@pytest.mark.parametrize("pretrains", [ablate, scale])
def test_a_person_under_two_ids_is_found_before_pretraining(
    twice: Store, tmp_path: Path, pretrains: Pretrains
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="'00' of subject '00' and '23' of subject '23'"):
        pretrains(twice, out, tiny(), ["diagnosis"], n_folds=2)
    assert not out.exists()


def test_the_other_name_of_a_tested_person_is_not_pretrained_on(
    twice: Store, tmp_path: Path
) -> None:
    scans = twice.scans[twice.scans["scan"] != "23"].reset_index(drop=True)
    for tested in (["00", "01"], ["01", "02"]):
        test = scans["scan"].isin(tested).to_numpy()
        split = Split("mine", 0, "0", np.flatnonzero(~test), np.flatnonzero(test))
        write_splits([split], scans, tmp_path / "splits.json")
        people = {*people_to_train_on(twice, tmp_path / "splits.json").scans["subject"]}
        assert len(people) == 24 - len(tested) - ("00" in tested)
        assert ("23" in people) == ("00" not in tested)


def test_names_that_a_third_one_joins_are_left_out(
    twice: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are paired with the first of them only, and pairs come in the order of the store."""
    pairs = [("03", "04"), ("02", "04"), ("01", "02")]
    found = [SameSeries(names, names, 1.0, 0) for names in pairs]
    monkeypatch.setattr(overlap, "same_series", lambda store: found)
    test = (twice.scans["scan"] == "01").to_numpy()
    split = Split("mine", 0, "0", np.flatnonzero(~test), np.flatnonzero(test))
    write_splits([split], twice.scans, tmp_path / "splits.json")
    people = people_to_train_on(twice, tmp_path / "splits.json").scans["subject"]
    assert {*twice.scans["subject"]} - {*people} == {"01", "02", "03", "04"}


def test_a_person_under_two_ids_is_neither_compared_nor_studied(
    twice: Store, tmp_path: Path
) -> None:
    plan = StudyPlan(store=twice.path, targets=(TargetPlan(column="diagnosis"),), draws=10)
    with pytest.raises(InputError, match="'00' of subject '00' and '23' of subject '23'"):
        run_study(plan, tmp_path / "out")
    with pytest.raises(InputError, match="same recording"):
        compare(twice, {}, "diagnosis", n_draws=10)
    alone = plan.model_copy(update={"leave_out": ("23",)})
    assert run_study(alone, tmp_path / "out").scores["n_subjects"].max() == 23
