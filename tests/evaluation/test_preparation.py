"""A column is the target or it is not, whatever it is called."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.evaluation.probe import is_target


@pytest.fixture
def age() -> np.ndarray:
    return np.random.default_rng(0).uniform(6, 60, 200)


def test_other_units_and_rounded_values_are_the_target(age):
    assert is_target(pd.Series(np.floor(age)), age)
    assert is_target(pd.Series(-12 * age), age)
    assert is_target(pd.Series(np.where(age < 8, np.nan, age)), age)


def test_other_numbers_with_many_values_are_not_the_target(age):
    # all values differ in both, so that each belongs to one of the other
    assert not is_target(pd.Series(np.random.default_rng(1).permutation(age)), age)
    assert not is_target(pd.Series(age + 10 * np.random.default_rng(1).standard_normal(200)), age)


def test_classes_are_compared_one_to_one():
    truth = np.tile([0, 1, 2], 20)
    assert is_target(pd.Series(np.array(["c", "a", "b"])[truth]), truth)
    assert is_target(pd.Series(np.where(np.arange(60) < 6, None, truth)), truth)
    assert not is_target(pd.Series(truth > 0), truth)  # coarser
    assert not is_target(pd.Series(np.arange(60) % 6), truth)  # finer: as a site with one class
    assert not is_target(pd.Series([f"scan{i}" for i in range(60)]), np.arange(60))
    assert not is_target(pd.Series(np.zeros(60)), truth)


def test_sites_of_which_two_were_merged_are_the_same_sites():
    scanner = np.random.default_rng(0).integers(0, 20, 1000)
    assert is_target(pd.Series(np.maximum(scanner, 1)), scanner)
    assert not is_target(pd.Series(scanner // 4), scanner)


def test_a_number_is_not_a_target_with_two_classes_though_it_tells_them_apart(age):
    assert not is_target(pd.Series(age), (age > 30).astype(int))
