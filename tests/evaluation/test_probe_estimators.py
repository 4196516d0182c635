"""Closed-form and neighbour probes with fit and predict are those that predict splits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_predict

import semantoks
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.linear import ClosedFormProbe
from semantoks.evaluation.neighbours import NeighbourProbe, neighbour_predictions
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.splits import Split

N = 90
PEOPLE = np.arange(N) // 2
CODES = PEOPLE % 3
NAMES = np.array(["a", "b", "c"])
TRAIN, TEST = np.arange(60), np.arange(60, N)
SPLIT = Split("mine", 0, "0", TRAIN, TEST)
RANDOM = np.random.default_rng(0)
X = 5 + RANDOM.standard_normal((N, 8)) + 1.5 * np.eye(8)[CODES]
AGE = 50 + 5 * X[:, 0] + RANDOM.standard_normal(N)


def predicted(probe, truth, kind):
    """Predict the same by the function for splits."""
    if isinstance(probe, NeighbourProbe):
        return neighbour_predictions(X, truth, [SPLIT], kind=kind, subjects=PEOPLE)[0]
    return cross_validated_predictions(
        X,
        truth,
        [SPLIT],
        kind=kind,
        subjects=PEOPLE,
        classifier=probe.classifier,
        scaling=probe.scaling,
    )[0]


PROBES = [
    ClosedFormProbe(),
    ClosedFormProbe(scaling="center"),
    ClosedFormProbe(classifier="logistic"),
    NeighbourProbe(),
]


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_classes_are_those_of_the_splits(probe):
    fitted = clone(probe).fit(X[TRAIN], NAMES[CODES[TRAIN]], groups=PEOPLE[TRAIN])
    fold = predicted(probe, CODES, "classification")
    np.testing.assert_allclose(fitted.decision_function(X[TEST]), fold.score, rtol=1e-6)
    assert fitted.predict(X[TEST]).tolist() == NAMES[fold.prediction].tolist()
    assert (fitted.predict(X[TEST]) == NAMES[CODES[TEST]]).mean() > 0.5
    if isinstance(probe, NeighbourProbe):
        assert {"neighbours": fitted.neighbours_} == fold.chosen
    else:
        assert fitted.penalty_ == fold.penalty
    assert fitted.classes_.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("probe", [ClosedFormProbe("regression"), NeighbourProbe("regression")])
def test_values_are_those_of_the_splits(probe):
    fitted = clone(probe).fit(X[TRAIN], AGE[TRAIN], groups=PEOPLE[TRAIN])
    fold = predicted(probe, AGE, "regression")
    np.testing.assert_allclose(fitted.predict(X[TEST]), fold.prediction)


def test_groups_decide_what_is_left_out():
    twice, y = np.repeat(X[::2], 2, axis=0), CODES
    alone = NeighbourProbe(numbers=[1, 15]).fit(twice, y)
    together = NeighbourProbe(numbers=[1, 15]).fit(twice, y, groups=PEOPLE)
    # the nearest scan is the same one again, unless both are left out together
    assert (alone.neighbours_, together.neighbours_) == (1, 15)
    ridge = [ClosedFormProbe().fit(twice, y, **g).penalty_ for g in ({}, {"groups": PEOPLE})]
    assert ridge[0] < ridge[1]


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_they_are_estimators_of_scikit_learn(probe):
    assert type(probe)(**probe.get_params()).get_params() == probe.get_params()
    folds = GroupKFold(3, shuffle=True, random_state=0)
    found = cross_val_predict(probe, X, NAMES[CODES], groups=PEOPLE, cv=folds)
    assert (found == NAMES[CODES]).mean() > 0.5
    with pytest.raises(NotFittedError):
        clone(probe).predict(X)
    fitted = clone(probe).fit(X, CODES)
    with pytest.raises(InputError, match="has learned from 8 features"):
        fitted.predict(X[:, :3])
    with pytest.raises(InputError, match="not finite, the first is in row 2"):
        fitted.predict(np.where(np.arange(N)[:, None] == 2, np.nan, X))
    with pytest.raises(InputError, match="came features"):
        clone(probe).fit(X, CODES[1:])


def test_impossible_options_are_refused():
    with pytest.raises(ConfigurationError, match="ridge or logistic, not 'svm'"):
        ClosedFormProbe(classifier="svm").fit(X, CODES)
    with pytest.raises(ConfigurationError, match="kind is classification or regression"):
        ClosedFormProbe("ordinal").fit(X, CODES)
    with pytest.raises(ConfigurationError, match="numbers of neighbours must be at least 1"):
        NeighbourProbe(numbers=[0]).fit(X, CODES)


def test_all_probes_have_everyday_names():
    for name in ("LinearProbe", "ClosedFormProbe", "NeighbourProbe", "AttentionProbe"):
        assert getattr(semantoks, name).__name__ == name
