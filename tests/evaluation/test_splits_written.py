"""Splits are written down with a hash; what was changed, is incomplete or unknown is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.errors import InputError
from semantoks.evaluation.split_files import (
    PredefinedSplits,
    read_splits,
    splits_record,
    splits_table,
    write_splits,
)
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import RandomSubjectSplits

N = 40


@pytest.fixture
def scans() -> pd.DataFrame:
    names = [f"s{i:02d}" for i in range(N)]
    return pd.DataFrame({"scan": [f"{n}_rest" for n in names], "subject": names})


@pytest.fixture
def made(scans: pd.DataFrame) -> list[Split]:
    return RandomSubjectSplits(repeats=2).splits(scans, np.arange(N) % 2)


def same(a: list[Split], b: list[Split]) -> bool:
    return len(a) == len(b) and all(
        (x.name, x.repeat, x.fold) == (y.name, y.repeat, y.fold)
        and all(
            np.array_equal(np.sort(getattr(x, p)), np.sort(getattr(y, p)))
            for p in ("train", "validation", "test")
        )
        for x, y in zip(a, b, strict=True)
    )


def test_what_is_written_is_read_back(tmp_path, scans, made):
    digest = write_splits(made, scans, tmp_path / "splits.json")
    assert same(read_splits(tmp_path / "splits.json", scans), made)
    assert json.loads((tmp_path / "splits.json").read_text())["sha256"] == digest
    assert same(PredefinedSplits(tmp_path / "splits.json").splits(scans), made)


def test_rows_follow_the_table_that_they_are_read_for(tmp_path, scans, made):
    write_splits(made, scans, tmp_path / "splits.json")
    shuffled = scans.sample(frac=1, random_state=0).reset_index(drop=True)
    read = read_splits(tmp_path / "splits.json", shuffled)
    for a, b in zip(made, read, strict=True):
        assert set(scans["scan"].iloc[a.test]) == set(shuffled["scan"].iloc[b.test])


def test_a_record_of_a_comparison_is_read_though_it_does_not_name_subjects(tmp_path, scans, made):
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(splits_record(splits_table(made, list(scans["scan"])))))
    assert same(read_splits(file, scans), made)


def test_a_scan_moved_by_hand_is_refused(tmp_path, scans, made):
    file = tmp_path / "splits.json"
    write_splits(made, scans, file)
    record = json.loads(file.read_text())
    moved = record["folds"][0]["test"].pop()
    record["folds"][0]["train"].append(moved)
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="was changed after it was written"):
        read_splits(file, scans)
    with pytest.raises(InputError, match="was changed after it was written"):
        PredefinedSplits(file).splits(scans)
    del record["sha256"]
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="has no hash"):
        read_splits(file, scans)


def test_splits_of_other_scans_are_refused(tmp_path, scans, made):
    file = tmp_path / "splits.json"
    write_splits(made, scans, file)
    with pytest.raises(InputError, match=r"other scans: 1 scan\(s\) in it .* 's00_rest'"):
        read_splits(file, scans.iloc[1:])
    more = pd.concat([scans, pd.DataFrame({"scan": ["new"], "subject": ["new"]})])
    with pytest.raises(InputError, match="40 scans were in the table then, 41 are now"):
        read_splits(file, more)
    swapped = scans.assign(subject=scans["subject"].to_numpy()[::-1])
    with pytest.raises(InputError, match="of another subject now"):
        read_splits(file, swapped)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1, 2]", "holds no splits"),
        ('{"folds": {}}', "holds no splits"),
    ],
)
def test_files_that_hold_no_splits_are_refused(tmp_path, scans, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_splits(tmp_path / "a.json", scans)


def test_a_file_that_is_missing_or_has_another_name_is_refused(tmp_path, scans, made):
    with pytest.raises(InputError, match="does not exist"):
        read_splits(tmp_path / "nothing.json", scans)
    with pytest.raises(InputError, match=r"written to a \.json file"):
        write_splits(made, scans, tmp_path / "splits.yaml")


LISTS = {"train": ["s00", "s01", "s02"], "validation": ["s03"], "test": ["s04", "s05"]}


def write_lists(folder: Path, lists: object, how: str) -> Path:
    """Write lists of subjects in one of the forms that are read."""
    if how == "json":
        (folder / "lists.json").write_text(json.dumps(lists))
        return folder / "lists.json"
    assert isinstance(lists, dict)
    if how == "csv":
        rows = [(name, part) for part, names in lists.items() for name in names]
        table = pd.DataFrame(rows, columns=["subject", "part"])
        table.to_csv(folder / "lists.csv", index=False)
        return folder / "lists.csv"
    for part, names in lists.items():
        (folder / f"{part}.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.mark.parametrize("how", ["json", "csv", "folder"])
def test_lists_of_subjects_are_read(tmp_path, scans, how):
    splitter = PredefinedSplits(write_lists(tmp_path, LISTS, how))
    (split,) = splitter.splits(scans)
    assert [list(r) for r in (split.train, split.validation, split.test)] == [
        [0, 1, 2],
        [3],
        [4, 5],
    ]
    assert splitter.get_n_splits() == 1


@pytest.mark.parametrize("how", ["json", "csv", "folder"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_list_is_refused_and_never_means_everybody(tmp_path, scans, how, part):
    lists = {name: people for name, people in LISTS.items() if name != part}
    splitter = PredefinedSplits(write_lists(tmp_path, lists, how))
    with pytest.raises(InputError, match="missing never means all subjects"):
        splitter.splits(scans)


@pytest.mark.parametrize("how", ["json", "folder"])
def test_no_validation_part_must_be_said(tmp_path, scans, how):
    lists = {name: people for name, people in LISTS.items() if name != "validation"}
    path = write_lists(tmp_path, lists, how)
    with pytest.raises(InputError, match="missing never means all subjects"):
        PredefinedSplits(path).splits(scans)
    path = write_lists(tmp_path, {**lists, "validation": []}, how)
    (split,) = PredefinedSplits(path).splits(scans)
    assert not len(split.validation)


@pytest.mark.parametrize("how", ["json", "csv", "folder"])
def test_unknown_subjects_are_named(tmp_path, scans, how):
    path = write_lists(tmp_path, {**LISTS, "test": ["s04", "s99", "s98"]}, how)
    with pytest.raises(InputError, match=r"names 2 subject\(s\) in 'test' .*'s99', 's98'"):
        PredefinedSplits(path).splits(scans)
    (split,) = PredefinedSplits(path, absent="drop").splits(scans)
    assert list(split.test) == [4]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({**LISTS, "test": ["s00", "s04"]}, "leaks: .*'s00'"),
        ({**LISTS, "test": []}, "0 to test"),
        ({**LISTS, "tests": ["s07"]}, "Did you mean 'test'"),
        ({**LISTS, "train": "s00"}, "no list 'train'"),
        ({**LISTS, "train": ["", "s00"]}, "empty name"),
        ([], "holds no splits"),
        ([3], "must hold an object"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, scans, lists, message):
    with pytest.raises(InputError, match=message):
        PredefinedSplits(write_lists(tmp_path, lists, "json")).splits(scans)


def test_several_folds_are_read_from_json_and_csv(tmp_path, scans):
    folds = [LISTS, {"train": ["s04", "s05"], "validation": [], "test": ["s00"]}]
    splits = PredefinedSplits(write_lists(tmp_path, folds, "json")).splits(scans)
    assert [s.fold for s in splits] == ["0", "1"]
    table = pd.DataFrame(
        {
            "scan": ["s00_rest", "s01_rest", "s00_rest", "s01_rest"],
            "part": ["train", "test", "test", "train"],
            "fold": ["a", "a", "b", "b"],
        }
    )
    table.to_csv(tmp_path / "scans.csv", index=False)
    splits = PredefinedSplits(tmp_path / "scans.csv").splits(scans)
    assert [(s.fold, list(s.train), list(s.test)) for s in splits] == [
        ("a", [0], [1]),
        ("b", [1], [0]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("who,part\na,train\n", "needs the columns subject"),
        ("subject,part\ns00,training\n", "line 2: the part is 'training'"),
        ("subject,part,repeat\ns00,train,x\ns01,test,x\n", "the repeat is 'x'"),
        ("subject,part\n", "holds no splits"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, scans, text, message):
    (tmp_path / "lists.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        PredefinedSplits(tmp_path / "lists.csv").splits(scans)


def test_predefined_lists_that_part_a_family_are_refused(tmp_path, scans):
    kin = scans.assign(family=["x" if i in (0, 4) else "" for i in range(N)])
    path = write_lists(tmp_path, LISTS, "json")
    with pytest.raises(InputError, match="families are in both the training and the test part"):
        PredefinedSplits(path, family_column="family").splits(kin)
