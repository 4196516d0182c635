"""A model that has never seen who tests it."""

from __future__ import annotations

from pathlib import Path

import pytest

from semantoks.cli.application import run
from semantoks.data.preparation import prepare
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.overlap import people_to_train_on
from semantoks.evaluation.split_files import write_splits
from semantoks.evaluation.splitters import RandomSubjectSplits
from semantoks.model.checkpoint import load_model, seen_subjects


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("people")
    recordings = simulate_cohort(20, sessions=2, n_samples=120, seed=0)
    write_cohort(recordings, folder / "raw")
    prepare(folder / "raw", folder / "store", atlas=recordings[0].atlas)
    return Store.open(folder / "store")


@pytest.fixture(scope="module")
def splits(store: Store) -> Path:
    made = RandomSubjectSplits(repeats=2).splits(store.scans)
    path = store.path.parent / "splits.json"
    write_splits(made, store.scans, path)
    return path


def test_nobody_who_tests_is_pretrained_on(store: Store, splits: Path, tmp_path: Path) -> None:
    part = people_to_train_on(store, splits, repeat=1)
    test = RandomSubjectSplits(repeats=2).splits(store.scans)[1].test
    tested = {*store.scans["subject"].iloc[test]}
    assert {*part.scans["subject"]} == {*store.scans["subject"]} - tested
    words = ["pretrain", "--data", str(store.path), "--recipe", "tiny", "--split", str(splits)]
    words += ["--repeat", "1", "--set", "optimization.epochs=1", "--quiet"]
    words += ["--set", "optimization.warmup_epochs=0", "--set", "optimization.batch_size=4"]
    assert run([*words, "--out", str(tmp_path / "run")]) == 0
    provenance = load_model(tmp_path / "run").provenance
    assert {*seen_subjects(provenance, store.scans["subject"])} == {*part.scans["subject"]}


def test_what_is_not_one_split_is_refused(store: Store, splits: Path) -> None:
    with pytest.raises(InputError, match=r"holds 0 splits with repeat 7.*it has 2: repeat 0 fold"):
        people_to_train_on(store, splits, repeat=7)
    with pytest.raises(InputError, match="does not exist"):
        people_to_train_on(store, splits.with_name("none.json"))


def test_options_that_exclude_each_other(store: Store, splits: Path, tmp_path: Path) -> None:
    words = ["pretrain", "--data", str(store.path), "--out", str(tmp_path / "run")]
    (tmp_path / "list.txt").write_text(f"{store.scans['subject'][0]}\n")
    both = ["--subjects", str(tmp_path / "list.txt"), "--split", str(splits)]
    assert run([*words, *both]) == 2
    assert run([*words, "--repeat", "1"]) == 2
    assert not (tmp_path / "run").exists()
