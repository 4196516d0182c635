"""Targets are read as what they are, and refused with what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.benchmark.tasks import read_task
from semantoks.errors import ConfigurationError, InputError


def table(**columns: object) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.insert(0, "scan", [f"s{i}" for i in range(len(frame))])
    return frame


def test_many_numbers_are_a_regression_and_few_are_classes():
    assert read_task(table(age=np.arange(11.0)), "age").kind == "regression"
    few = read_task(table(age=[30.0, 20, 20, 100]), "age")
    assert (few.kind, few.classes) == ("classification", ("20", "30", "100"))
    np.testing.assert_array_equal(few.truth, [1, 0, 0, 2])


def test_explicit_kind_wins():
    assert read_task(table(age=[1.0, 2, 3]), "age", "regression").truth.tolist() == [1, 2, 3]
    assert read_task(table(age=["1.5", "2"]), "age", "regression").truth.tolist() == [1.5, 2]
    many = read_task(table(age=np.arange(11)), "age", "classification")
    assert len(many.classes) == 11


def test_text_with_many_values_is_a_classification():
    task = read_task(table(site=[f"site{i}" for i in range(12)]), "site")
    assert task.kind == "classification"
    assert task.name(task.truth).tolist() == [f"site{i}" for i in range(12)]


def test_truth_values_are_classes():
    task = read_task(table(medicated=[True, False, True]), "medicated")
    assert (task.kind, task.classes) == ("classification", ("False", "True"))


def test_missing_values_are_left_out_and_counted():
    task = read_task(table(group=["a", None, " ", "b", np.nan]), "group")
    assert task.rows.tolist() == [0, 3]
    assert task.n_missing == 3


def test_absent_target_names_the_nearest_and_the_available():
    with pytest.raises(InputError, match=r"'Diagnosis'.*mean 'diagnosis'.*are diagnosis, age\."):
        read_task(table(diagnosis=[1, 2], age=[1, 2]), "Diagnosis")
    with pytest.raises(InputError, match="no target 'scan'"):
        read_task(table(diagnosis=[1, 2]), "scan")


def test_blanks_around_a_class_do_not_make_another():
    with pytest.raises(InputError, match="same value, 'a', in all of the 3 scans"):
        read_task(table(group=["a", "a ", "a"]), "group")
    with pytest.raises(InputError, match="same value"):
        read_task(table(group=["1", 1, 1]), "group")
    assert read_task(table(group=["a", " a", "b"]), "group").truth.tolist() == [0, 0, 1]


def test_classes_that_six_digits_do_not_tell_apart_have_names_of_their_own():
    task = read_task(table(dose=[0.1234567, 0.1234568]), "dose")
    assert task.classes == ("0.1234567", "0.1234568")


def test_constant_and_empty_targets_are_refused():
    with pytest.raises(InputError, match=r"same value, 'x', in all of the 2 scans"):
        read_task(table(group=["x", "x", None]), "group")
    with pytest.raises(InputError, match="missing in all of the 3 scans"):
        read_task(table(group=[None, "", np.nan]), "group")


def test_regression_of_what_is_not_a_number_is_refused():
    with pytest.raises(InputError, match=r"is 'b' in 1 scan\(s\), which is not a finite number"):
        read_task(table(x=["1", "b"]), "x", "regression")
    with pytest.raises(InputError, match="not a finite number"):
        read_task(table(x=[1, np.inf]), "x", "regression")


def test_unknown_kind_is_refused():
    with pytest.raises(ConfigurationError, match="not 'ordinal'"):
        read_task(table(x=[1, 2]), "x", "ordinal")
