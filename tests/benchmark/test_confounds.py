"""Confounds predict what they hold, are fitted in the training part, and never hold the target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from semantoks.benchmark.baselines import confound_predictions
from semantoks.errors import InputError
from semantoks.evaluation.confounds import confound_columns, find_confounds
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import leave_one_site_out


@pytest.fixture
def scans() -> pd.DataFrame:
    random = np.random.default_rng(0)
    site = np.repeat(["Bonn", "Oslo", "Rome"], 40)
    frame = pd.DataFrame({"subject": np.arange(120).astype(str), "site": site})
    frame["age"] = random.uniform(8, 40, 120) + 20 * (site == "Rome")
    frame["AGE_AT_SCAN"] = frame["age"].round(0)
    frame["sex"] = random.integers(1, 3, 120)
    frame["gender"] = np.where(frame["sex"] == 1, "male", "female")
    frame["motion"] = np.where(np.arange(120) % 17 == 0, np.nan, random.uniform(0, 1, 120))
    return frame


def test_columns_are_found_by_their_names(scans):
    assert find_confounds(scans) == {"age": "age", "sex": "sex", "site": "site", "motion": "motion"}
    assert find_confounds(scans.rename(columns={"age": "x", "site": "SITE_ID"})) == {
        "age": "AGE_AT_SCAN",
        "sex": "sex",
        "site": "SITE_ID",
        "motion": "motion",
    }


@pytest.mark.parametrize(
    ("target", "left_out"),
    [
        ("age", {"age": "is the target"}),
        ("AGE_AT_SCAN", {"age": "is the target 'AGE_AT_SCAN' under another name"}),
        ("gender", {"sex": "is the target 'gender' under another name"}),
        ("site", {"site": "is the target"}),
    ],
)
def test_the_target_is_never_among_its_predictors(scans, target, left_out):
    numeric = pd.api.types.is_numeric_dtype(scans[target])
    truth = scans[target] if numeric else pd.factorize(scans[target])[0]
    found = confound_columns(scans, target, truth)
    assert found.left_out == left_out
    assert set(found.used) == {"age", "sex", "site", "motion"} - set(left_out)


def test_columns_that_say_nothing_are_left_out_and_all_of_them_refused(scans):
    scans = scans.assign(site="", motion=np.nan)
    found = confound_columns(scans, "gender", np.arange(120) % 2, ["site", "motion", "age"])
    assert found.used == ("age",)
    assert set(found.left_out.values()) == {"has no two different values"}
    with pytest.raises(InputError, match=r"no confounds to predict 'x' from .site has no two"):
        confound_columns(scans, "x", np.arange(120) % 2, ["site"])
    with pytest.raises(InputError, match=r"no column 'ages'. Did you mean 'age'"):
        confound_columns(scans, "x", np.arange(120) % 2, ["ages"])


def splits_of(n: int) -> list[Split]:
    folds = np.random.default_rng(0).permutation(n) % 4
    return [
        Split("mine", 0, str(k), np.flatnonzero(folds != k), np.flatnonzero(folds == k))
        for k in range(4)
    ]


def test_values_are_filled_and_scaled_by_the_training_part_alone(scans):
    truth = 3 * scans["motion"].fillna(0.5).to_numpy() + 0.1 * scans["age"].to_numpy()
    how = {"columns": ("motion", "age", "site"), "kind": "regression", "subjects": scans["subject"]}
    how["subjects"] = scans["subject"].to_numpy()
    first = splits_of(120)[:1]
    (fold,) = confound_predictions(scans, truth, first, **how)
    train, test = first[0].train, first[0].test
    x = np.column_stack([scans["motion"], scans["age"], pd.get_dummies(scans["site"])]).astype(
        float
    )
    x[np.isnan(x)] = np.nanmean(x[train, 0])
    model = LinearRegression().fit(x[train], truth[train])
    np.testing.assert_allclose(fold.prediction, model.predict(x[test]), atol=0.05)
    changed = scans.copy()
    changed.loc[test[1:], ["motion", "age"]] = 99.0
    (again,) = confound_predictions(changed, truth, first, **how)
    assert again.prediction[0] == pytest.approx(fold.prediction[0])


def test_a_diagnosis_that_goes_with_the_site_is_found_and_another_is_not(scans):
    random = np.random.default_rng(3)
    share = scans["site"].map({"Bonn": 0.1, "Oslo": 0.5, "Rome": 0.9}).to_numpy()
    how = {"kind": "classification", "subjects": np.arange(120)}
    right = {}
    for name, chance in (("planted", share), ("coin", 0.5)):
        truth = (random.random(120) < chance).astype(int)
        columns = confound_columns(scans, name, truth).used
        folds = confound_predictions(scans, truth, splits_of(120), columns=columns, **how)
        right[name] = np.mean([np.mean(f.prediction == truth[f.split.test]) for f in folds])
    assert right["planted"] > 0.7
    assert right["coin"] < 0.62


def test_sites_that_are_left_out_are_zero_in_all_columns(scans):
    truth = (scans["age"] > 30).to_numpy().astype(int)
    splits = leave_one_site_out(scans, truth, kind="classification")
    how = {"kind": "classification", "subjects": scans["subject"].to_numpy()}
    for fold in confound_predictions(scans, truth, splits, columns=["site"], **how):
        assert np.ptp(fold.score, axis=0).max() < 1e-9
