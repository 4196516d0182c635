"""No person is in both parts, and what cannot be learned from is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from semantoks.errors import InputError
from semantoks.evaluation.split_files import splits_record, splits_table
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import check_split, leave_one_site_out, subject_folds


def cohort(n: int = 60, sessions: int = 2) -> tuple[pd.DataFrame, np.ndarray]:
    subject = np.arange(n).repeat(sessions)
    table = pd.DataFrame(
        {
            "scan": [f"scan{i:03d}" for i in range(len(subject))],
            "subject": [f"{s:03d}" for s in subject],
            "site": np.array(["Oslo", "Bonn", "Rome"])[subject % 3],
        }
    )
    return table, (subject % 10 < 3).astype(int)


def test_folds_keep_subjects_together_and_classes_mixed():
    scans, truth = cohort()
    splits = subject_folds(scans, truth, kind="classification", n_folds=5, repeats=3)
    assert len(splits) == 15
    subjects = scans["subject"].to_numpy()
    for split in splits:
        assert not set(subjects[split.train]) & set(subjects[split.test])
        assert len(split.train) + len(split.test) == len(scans)
        assert truth[split.test].mean() == pytest.approx(0.3, abs=0.1)
    for repeat in range(3):
        tested = np.concatenate([s.test for s in splits if s.repeat == repeat])
        assert sorted(tested) == list(range(len(scans)))


def test_folds_differ_between_repeats_and_follow_the_seed():
    scans, truth = cohort()
    first, again, other = (
        subject_folds(scans, truth, kind="classification", repeats=2, seed=seed)
        for seed in (0, 0, 7)
    )
    assert all((a.test == b.test).all() for a, b in zip(first, again, strict=True))
    assert {tuple(s.test) for s in first} != {tuple(s.test) for s in other}
    assert not {tuple(s.test) for s in first[:5]} & {tuple(s.test) for s in first[5:]}


def test_folds_of_neighbouring_seeds_have_nothing_in_common():
    scans, truth = cohort()
    folds = [
        {tuple(s.test) for s in subject_folds(scans, truth, kind="classification", seed=seed)}
        for seed in (0, 1)
    ]
    assert len(folds[0]) == 25
    assert not folds[0] & folds[1]
    with pytest.raises(InputError, match="must not be negative; -1 came"):
        subject_folds(scans, truth, kind="classification", seed=-1)


def test_regression_folds_mix_values():
    scans, _ = cohort(100, 1)
    age = np.linspace(10, 80, 100)
    splits = subject_folds(scans, age, kind="regression", n_folds=5, repeats=1)
    assert all(abs(age[s.test].mean() - 45) < 5 for s in splits)


def test_regression_of_very_few_subjects_still_has_folds():
    scans, _ = cohort(6, 1)
    splits = subject_folds(scans, np.arange(6.0), kind="regression", n_folds=3, repeats=1)
    assert [len(s.test) for s in splits] == [2, 2, 2]


def test_class_with_fewer_subjects_than_folds_is_refused_by_name():
    scans, _ = cohort(20, 2)
    labels = np.array(["common"] * 34 + ["rare"] * 6)
    with pytest.raises(InputError, match=r"fewer subjects than the 5 folds: 'rare' \(3\)"):
        subject_folds(scans, labels, kind="classification")


def test_fewer_subjects_than_folds_are_refused():
    scans, truth = cohort(3, 4)
    with pytest.raises(InputError, match="there are 3"):
        subject_folds(scans, truth.astype(float), kind="regression")


@pytest.mark.parametrize(("n_folds", "repeats"), [(1, 1), (5, 0)])
def test_impossible_numbers_of_folds_are_refused(n_folds, repeats):
    scans, truth = cohort()
    with pytest.raises(InputError, match="not possible"):
        subject_folds(scans, truth, kind="classification", n_folds=n_folds, repeats=repeats)


def test_scans_without_subject_are_refused():
    scans, truth = cohort()
    scans.loc[4, "subject"] = ""
    with pytest.raises(InputError, match="no subject, the first is in row 4"):
        subject_folds(scans, truth, kind="classification")


def test_sites_are_left_out_one_at_a_time():
    scans, truth = cohort()
    splits = leave_one_site_out(scans, truth, kind="classification")
    assert {s.fold for s in splits} == {"Oslo", "Bonn", "Rome"}
    for split in splits:
        assert set(scans["site"].iloc[split.test]) == {split.fold}
        assert split.fold not in set(scans["site"].iloc[split.train])


def test_travelling_subjects_are_not_learned_from_when_their_site_is_tested():
    scans, truth = cohort()
    scans.loc[0, "site"] = "Rome"  # the other scan of this subject is of Oslo
    for split in leave_one_site_out(scans, truth, kind="classification"):
        if split.fold in ("Rome", "Oslo"):
            assert not {0, 1} & set(split.train)


def test_site_problems_are_explained():
    scans, truth = cohort()
    with pytest.raises(InputError, match=r"no column 'sites'.*Did you mean 'site'"):
        leave_one_site_out(scans, truth, kind="classification", site_column="sites")
    with pytest.raises(InputError, match="only 'Oslo'"):
        leave_one_site_out(scans.assign(site="Oslo"), truth, kind="classification")
    with pytest.raises(InputError, match="holds nothing"):
        leave_one_site_out(scans.assign(site=""), truth, kind="classification")
    scans.loc[3, "site"] = None
    with pytest.raises(InputError, match="1 of 120 scans have no site"):
        leave_one_site_out(scans, truth, kind="classification")


def test_site_as_target_cannot_be_left_out():
    scans, _ = cohort()
    code = pd.factorize(scans["site"])[0]
    with pytest.raises(InputError, match="the target is the site itself"):
        leave_one_site_out(scans, code, kind="classification")


def test_one_class_in_a_training_part_is_refused():
    scans, _ = cohort(30, 1)
    truth = np.where(scans["site"] == "Rome", np.arange(30) % 2, 0)
    with pytest.raises(InputError, match=r"fold Rome: all scans to learn from are of one class"):
        leave_one_site_out(scans, truth, kind="classification")


SUBJECTS = np.array(["a", "a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 2], [1, 3], "leaks: 1 subject.* first is 'a'"),
        ([2, 3], [3, 4], "leaks: a scan occurs more than once"),
        ([2, 2], [3, 4], "leaks: a scan occurs more than once"),
        ([2, 3], [], "0 to test"),
        ([], [2], "0 scans to learn from"),
        ([2, 3], [9], "row 9, but there are 5"),
        ([3, 4], [2], "one class"),
    ],
)
def test_bad_splits_are_refused(train, test, message):
    split = Split("mine", 0, "0", np.array(train, dtype=int), np.array(test, dtype=int))
    with pytest.raises(InputError, match=message):
        check_split(split, SUBJECTS, np.array([0, 0, 1, 1, 1]))


def test_record_of_splits_has_a_hash_that_changes_with_any_scan():
    scans, truth = cohort(20, 1)
    names = list(scans["scan"])
    splits = subject_folds(scans, truth, kind="classification", n_folds=2, repeats=2)
    record = splits_record(splits_table(splits, names))
    assert json.loads(json.dumps(record)) == record
    assert [f["repeat"] for f in record["folds"]] == [0, 0, 1, 1]
    assert sorted(record["folds"][0]["train"] + record["folds"][0]["test"]) == names
    assert record["sha256"] == splits_record(splits_table(splits, names))["sha256"]
    names[0], names[1] = names[1], names[0]
    moved = splits_record(splits_table(splits, names))
    fewer = splits_record(splits_table(splits[:3], list(scans["scan"])))
    assert len({record["sha256"], moved["sha256"], fewer["sha256"]}) == 3
