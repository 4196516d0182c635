"""Splitters: shares, strata, families, and that scikit-learn takes them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, check_cv, cross_val_predict, cross_val_score

from semantoks.errors import InputError
from semantoks.evaluation.splits import Split, families_of
from semantoks.evaluation.splitters import (
    LeaveOneSiteOut,
    RandomSubjectSplits,
    SiteStratifiedFolds,
    SubjectFolds,
    check_split,
    check_splits,
)

SPLITTERS = [
    SubjectFolds(n_folds=4, repeats=2),
    SubjectFolds(n_folds=4, repeats=2, validation=0.2),
    RandomSubjectSplits(repeats=3),
    LeaveOneSiteOut(),
    LeaveOneSiteOut(validation=0.25),
    SiteStratifiedFolds(n_folds=4, repeats=2, validation=0.2),
]


def cohort(n: int = 120, sessions: int = 2) -> tuple[pd.DataFrame, np.ndarray]:
    subject = np.arange(n).repeat(sessions)
    table = pd.DataFrame(
        {
            "scan": [f"scan{i:03d}" for i in range(len(subject))],
            "subject": [f"{s:03d}" for s in subject],
            "site": np.array(["Oslo", "Bonn", "Rome"])[subject // 2 % 3],
            "family": [f"f{s // 2:03d}" if s < 60 else "" for s in subject],
        }
    )
    return table, (subject // 2 % 10 < 3).astype(int)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)
def test_no_subject_is_in_two_parts_and_parts_are_whole(splitter):
    scans, truth = cohort()
    subjects = scans["subject"].to_numpy()
    splits = splitter.splits(scans, truth)
    assert len(splits) == splitter.get_n_splits(scans)
    for split in splits:
        parts = [split.train, split.validation, split.test]
        assert sorted(np.concatenate(parts)) == list(range(len(scans)))
        people = [set(subjects[rows]) for rows in parts]
        assert sum(map(len, people)) == len(set(subjects))
        assert bool(len(split.validation)) == bool(splitter.validation)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)
def test_families_stay_together_only_where_they_are_named(splitter):
    scans, truth = cohort()
    kin = families_of(scans, "family")
    together = type(splitter)(**{**vars(splitter), "family_column": "family"})
    for split in together.splits(scans, truth):
        check_split(split, scans["subject"], truth, kin)
    if not isinstance(splitter, LeaveOneSiteOut):  # families of the cohort are of one site
        with pytest.raises(InputError, match=r"families are in both .*, the first is that of sub"):
            check_splits(splitter.splits(scans, truth), scans, truth, family_column="family")


def test_random_parts_have_the_shares_and_the_classes_asked_for():
    scans, truth = cohort(200, 1)
    for split in RandomSubjectSplits(repeats=4, validation=0.1, test=0.25).splits(scans, truth):
        assert (len(split.train), len(split.validation), len(split.test)) == (130, 20, 50)
        for rows in (split.train, split.validation, split.test):
            assert truth[rows].mean() == pytest.approx(truth.mean(), abs=0.02)


def test_random_parts_mix_values_and_need_no_target():
    scans, _ = cohort(200, 1)
    age = np.linspace(10, 80, 200)
    for split in RandomSubjectSplits(repeats=3).splits(scans, age):
        assert all(abs(age[r].mean() - 45) < 3 for r in (split.train, split.validation, split.test))
    assert len(RandomSubjectSplits(repeats=3).splits(scans)[0].test) == 40


def test_random_parts_follow_the_seed():
    scans, truth = cohort()
    one, again, other = (
        {tuple(s.test) for s in RandomSubjectSplits(repeats=4, seed=s).splits(scans, truth)}
        for s in (0, 0, 1)
    )
    assert one == again
    assert len(one) == 4
    assert not one & other


def test_folds_test_everyone_once_and_share_no_seed_between_parts():
    scans, truth = cohort()
    plain = SubjectFolds(n_folds=4, repeats=2).splits(scans, truth)
    carved = SubjectFolds(n_folds=4, repeats=2, validation=0.2).splits(scans, truth)
    for a, b in zip(plain, carved, strict=True):
        assert (a.test == b.test).all()
        assert sorted([*b.train, *b.validation]) == list(a.train)
        assert len(b.validation) / len(a.train) == pytest.approx(0.2, abs=0.01)


def test_site_stratified_folds_hold_every_site_and_its_classes_alike():
    # The class follows the site, so that plain folds by class leave sites to chance.
    random = np.random.default_rng(0)
    site = np.repeat(["A", "B", "C", "D"], [80, 40, 20, 12])
    scans = pd.DataFrame({"subject": np.arange(152).astype(str), "site": site})
    share = {"A": 0.8, "B": 0.5, "C": 0.2, "D": 0.5}
    truth = np.array([random.random() < share[s] for s in site]).astype(int)
    for split in SiteStratifiedFolds(n_folds=4, repeats=3).splits(scans, truth):
        for name in share:
            at = site == name
            tested = at[split.test].sum()
            assert abs(tested - at.sum() / 4) <= 1
            positive = truth[split.test][at[split.test]].sum()
            assert abs(positive - truth[at].sum() / 4) <= 1


def test_site_stratified_folds_of_a_value_mix_values_within_sites():
    scans, _ = cohort(120, 1)
    age = np.random.default_rng(0).uniform(20, 70, 120)
    for split in SiteStratifiedFolds(n_folds=3, repeats=2).splits(scans, age):
        assert abs(age[split.test].mean() - age.mean()) < 3
        assert scans["site"].iloc[split.test].value_counts().between(12, 15).all()


def test_site_with_fewer_people_than_folds_is_refused_by_name():
    scans, truth = cohort(30, 1)
    scans.loc[0:1, "site"] = "Tiny"
    with pytest.raises(InputError, match=r"1 site\(s\) have fewer people .* 'Tiny' \(2\)"):
        SiteStratifiedFolds().splits(scans, truth)


def test_sites_of_few_people_of_each_class_are_mixed_alike():
    site = np.array([f"site{i:02d}" for i in range(12)]).repeat(8)
    scans = pd.DataFrame({"subject": np.arange(96).astype(str), "site": site}).loc[
        np.arange(96).repeat(2)  # two sessions each: eight scans of a class, but four people
    ]
    scans = scans.reset_index(drop=True)
    truth = (np.arange(96) % 2).repeat(2)
    made = SiteStratifiedFolds(n_folds=5, repeats=2).splits(scans, truth)
    assert len(made) == 10
    for split in made:
        tested = scans.iloc[split.test].drop_duplicates("subject")
        assert tested["site"].value_counts().between(1, 2).all()
        assert tested["site"].nunique() == 12
        assert abs(truth[split.test].mean() - 0.5) < 0.1
    again = SiteStratifiedFolds(n_folds=5, repeats=2).splits(scans, truth)
    assert all((a.test == b.test).all() for a, b in zip(made, again, strict=True))
    assert {*made[0].test} != {*made[5].test}


def test_sites_smaller_than_the_folds_count_as_one():
    site = np.array(["Oslo"] * 20 + ["Bonn"] * 20 + ["Rome"] * 3 + ["Lima"] * 4)
    scans = pd.DataFrame({"subject": np.arange(47).astype(str), "site": site})
    for split in SiteStratifiedFolds(n_folds=5, repeats=3).splits(scans, np.arange(47) % 2):
        counts = scans["site"].iloc[split.test].value_counts()
        assert counts["Oslo"] == counts["Bonn"] == 4
        assert counts.reindex(["Rome", "Lima"]).sum() in (1, 2)
    six = pd.DataFrame({"subject": list("abcdef"), "site": ["Oslo", "Rome"] * 3})
    made = SiteStratifiedFolds(n_folds=2, repeats=1).splits(six, [0, 0, 0, 1, 1, 1])
    assert [len(split.test) for split in made] == [3, 3]


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        (RandomSubjectSplits(test=0.0), "share for test is 0.0"),
        (RandomSubjectSplits(validation=1.2), "share for validation is 1.2"),
        (RandomSubjectSplits(test=0.6, validation=0.4), "something to learn from"),
        (RandomSubjectSplits(repeats=0), "0 repeats"),
        (RandomSubjectSplits(test=0.01), "too few people for a share of 0.0083"),
        (SubjectFolds(validation=float("nan")), "share for validation is nan"),
        (SubjectFolds(n_folds=50), r"fewer subjects than the 50 folds: '1' \(36\)"),
        (SubjectFolds(family_column="kin"), "no column 'kin'"),
        (RandomSubjectSplits(family_column="nobody"), "names no family"),
        (SiteStratifiedFolds(n_folds=1), "not possible"),
    ],
    ids=repr,
)
def test_impossible_splits_are_refused(splitter, message):
    scans, truth = cohort()
    with pytest.raises(InputError, match=message):
        splitter.splits(scans.assign(nobody=""), truth)


def test_who_is_named_in_two_families_joins_them():
    table = pd.DataFrame(
        {"subject": ["a", "a", "b", "c", "d"], "family": ["x", "y", "x", "y", None]}
    )
    assert families_of(table, "family").tolist() == ["a", "a", "a", "a", "d"]
    assert families_of(table).tolist() == ["a", "a", "b", "c", "d"]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)
def test_scikit_learn_takes_a_splitter(splitter):
    scans, truth = cohort()
    x = np.random.default_rng(0).standard_normal((len(scans), 4))
    x[:, 0] += 4 * truth
    model = LogisticRegression()
    scores = cross_val_score(model, x, truth, groups=scans, cv=splitter)
    assert len(scores) == splitter.get_n_splits(x, truth, scans)
    assert scores.mean() > 0.9
    assert check_cv(splitter) is splitter
    rows = list(splitter.split(x, truth, scans))
    made = splitter.splits(scans, truth)
    for (train, test), split in zip(rows, made, strict=True):
        assert sorted([*split.train, *split.validation]) == list(train)
        assert list(test) == list(split.test)


def test_scikit_learn_predicts_and_searches_with_subjects_as_groups():
    scans, truth = cohort()
    x = np.random.default_rng(0).standard_normal((len(scans), 3)) + truth[:, None]
    folds = SubjectFolds(n_folds=3, repeats=1)
    subjects = scans["subject"]
    predicted = cross_val_predict(LogisticRegression(), x, truth, groups=subjects, cv=folds)
    assert (predicted == truth).mean() > 0.7
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=folds)
    assert search.fit(x, truth, groups=subjects).n_splits_ == 3


def test_groups_arrive_where_scikit_learn_routes_metadata():
    scans, truth = cohort()
    x = np.random.default_rng(0).standard_normal((len(scans), 3))
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            LogisticRegression(), x, truth, params={"groups": scans}, cv=SubjectFolds(3, 1)
        )
    assert len(scores) == 3


def test_scikit_learn_without_subjects_is_refused():
    x, truth = np.zeros((20, 2)), np.arange(20) % 2
    with pytest.raises(InputError, match="the subject of each scan, as groups"):
        next(SubjectFolds().split(x, truth))
    with pytest.raises(InputError, match="no column 'site'"):
        next(LeaveOneSiteOut().split(x, truth, np.arange(20)))
    with pytest.raises(InputError, match="known from the table"):
        LeaveOneSiteOut().get_n_splits(x)


def test_what_chooses_gets_no_test_part():
    scans, truth = cohort()
    split = RandomSubjectSplits(repeats=1).splits(scans, truth)[0]
    choice = split.for_choice()
    held = {name: getattr(choice, name) for name in vars(choice)}
    assert set(held) == {"name", "repeat", "fold", "train", "validation"}
    reachable = np.concatenate([held["train"], held["validation"]])
    assert not set(reachable) & set(split.test)
    with pytest.raises(InputError, match="no validation part"):
        Split("mine", 0, "0", np.array([0]), np.array([1])).for_choice()


def test_leaks_into_the_validation_part_are_refused():
    people = np.array(["a", "a", "b", "c", "d"])
    leak = Split("mine", 0, "0", np.array([0, 2]), np.array([4]), validation=np.array([1]))
    with pytest.raises(InputError, match="both the training and the validation part"):
        check_split(leak, people)
    leak = Split("mine", 0, "0", np.array([2, 3]), np.array([1]), validation=np.array([0]))
    with pytest.raises(InputError, match="both the validation and the test part"):
        check_split(leak, people)
    twins = Split("mine", 0, "0", np.array([2]), np.array([3]))
    with pytest.raises(InputError, match=r"1 families .* Keep relatives, and so twins"):
        check_split(twins, people, families=np.array(["a", "a", "b", "b", "d"]))


def test_lists_of_the_wrong_length_or_none_are_refused():
    scans, truth = cohort()
    with pytest.raises(InputError, match="no splits to check"):
        check_splits([], scans)
    with pytest.raises(InputError, match="3 true values came for a table of 240"):
        SubjectFolds().splits(scans, truth[:3])
