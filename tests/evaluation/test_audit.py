"""Associations are scipy's, each person counts once, and what is not known is not guessed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from semantoks.data.selection import select_subjects
from semantoks.errors import InputError
from semantoks.evaluation.overlap import auditable, contamination, site_association, unseen
from semantoks.model.checkpoint import hash_subjects


@pytest.fixture
def sites() -> np.ndarray:
    return np.repeat(["a", "b", "c"], [10, 20, 30])


def test_classes_are_associated_by_cramers_v(sites):
    truth = np.random.default_rng(0).integers(0, 2, 60)
    found = site_association(truth, sites, np.arange(60), kind="classification")
    counts = pd.crosstab(truth, sites).to_numpy()
    test = stats.chi2_contingency(counts, correction=False)
    assert found.p == pytest.approx(test.pvalue)
    assert found.effect == pytest.approx(np.sqrt(test.statistic / 60))
    assert (found.measure, found.n_subjects) == ("Cramér's V", 60)


def test_numbers_are_associated_by_the_variance_between_sites(sites):
    truth = np.random.default_rng(0).standard_normal(60) + (sites == "c")
    found = site_association(truth, sites, np.arange(60), kind="regression")
    groups = [truth[sites == s] for s in "abc"]
    test = stats.f_oneway(*groups)
    assert found.p == pytest.approx(test.pvalue)
    # F = η² / (1 - η²) · (n - k) / (k - 1)
    assert found.effect / (1 - found.effect) * 57 / 2 == pytest.approx(test.statistic)


def test_a_person_counts_once(sites):
    truth = np.random.default_rng(0).integers(0, 2, 60)
    once = site_association(truth, sites, np.arange(60), kind="classification")
    order = np.random.default_rng(1).permutation(180)
    thrice = site_association(
        np.repeat(truth, 3)[order],
        np.repeat(sites, 3)[order],
        np.repeat(np.arange(60), 3)[order],
        kind="classification",
    )
    assert (thrice.p, thrice.n_subjects) == (pytest.approx(once.p), 60)
    with pytest.raises(InputError, match="two sites"):
        site_association(truth, np.full(60, "a"), np.arange(60), kind="classification")


def test_quantities_that_do_not_differ_are_not_audited():
    scans = pd.DataFrame({"site": ["x", " x "], "motion": [0.1, np.nan], "length": [80, 90]})
    assert auditable(scans) == ("length",)


def test_seen_people_are_found_by_their_hashes():
    scans = pd.DataFrame({"subject": ["a", "b", "a", "c"]})
    provenance = {"subjects": hash_subjects(["a", "z"], salt="s"), "store": {"fingerprint": "f1"}}
    found = contamination(provenance, scans, "f2")
    assert found.seen.tolist() == [True, False, True, False]
    assert found.knowledge == "by identifier"
    assert unseen(provenance, scans, "f2").tolist() == [False, True, False, True]


def test_the_store_of_the_training_was_seen_even_without_hashes():
    scans = pd.DataFrame({"subject": ["a", "b"]})
    found = contamination({"store": {"fingerprint": "f1"}}, scans, "f1")
    assert found.seen.all()
    assert found.knowledge == "all scans"
    with pytest.raises(InputError, match="trained on this very store"):
        unseen({"store": {"fingerprint": "f1"}}, scans, "f1")


def test_a_part_of_the_store_is_told_from_people_of_the_same_names(store):
    people = ["00", "02"]
    part = select_subjects(store, people)
    provenance = {
        "subjects": hash_subjects(people, salt=part.fingerprint),
        "store": {"fingerprint": part.fingerprint},
    }
    found = contamination(provenance, store.scans, store.fingerprint)
    assert found.knowledge == "part of the store"
    elsewhere = contamination(provenance, store.scans, "another cohort")
    assert elsewhere.knowledge == "by identifier"
    assert found.seen.tolist() == elsewhere.seen.tolist() == [True, True, False, False, True]


def test_people_of_the_same_names_are_not_said_to_be_the_same():
    scans = pd.DataFrame({"subject": ["sub-1", "sub-2"]})
    provenance = {
        "subjects": hash_subjects(["sub-1", "sub-2"], salt="s"),
        "store": {"fingerprint": "other"},
    }
    with pytest.raises(InputError, match=r"of the same identifiers.*do not exclude what this"):
        unseen(provenance, scans, "f")


def test_what_is_not_known_is_not_guessed():
    scans = pd.DataFrame({"subject": ["a", "b"]})
    assert contamination({}, scans, "f").knowledge == "unknown"
    with pytest.raises(InputError, match="does not say whom it was trained on"):
        unseen({}, scans, "f")
