"""ComBat gives the published numbers, and nothing is learned outside of the training part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import leave_one_site_out

SITES = np.array(["a"] * 5 + ["b"] * 6 + ["c"] * 7)


@pytest.fixture
def scans() -> pd.DataFrame:
    age = 20.0 + (7 * np.arange(18)) % 13
    return pd.DataFrame({"site": SITES, "age": age, "sex": ["m", "f", "f"] * 6})


@pytest.fixture
def features() -> np.ndarray:
    i, j = np.arange(18)[:, None], np.arange(5)[None, :]
    x = np.sin(1.7 * i + 0.9 * j * j + 0.3 * i * j) * (1 + 0.2 * j)
    shift, scale = {"a": 0.0, "b": 1.5, "c": -2.0}, {"a": 1.0, "b": 2.0, "c": 0.5}
    x = x * np.array([scale[s] for s in SITES])[:, None]
    return x + np.array([shift[s] for s in SITES])[:, None] + 0.05 * i * (j - 1)


# What neuroCombat 0.2.12 (Fortin et al. 2018; MIT) returns of these features: scans 0, 7 and 17.
PUBLISHED = [
    [-0.366563, 0.791141, -0.676519, 1.960177, 1.777364],
    [-1.213719, 0.924915, 1.329822, 2.20313, 0.555207],
    [-1.904271, -0.654123, -0.792672, 2.900912, 2.957995],
]
PUBLISHED_PRESERVING_AGE_AND_SEX = [
    [-0.40951, 0.770311, -0.410755, 2.011124, 2.188441],
    [-1.225555, 0.823097, 1.591738, 2.269098, 0.211958],
    [-1.61921, -0.486959, -0.541282, 2.452445, 2.466238],
]


@pytest.mark.parametrize(
    ("preserve", "published"),
    [((), PUBLISHED), (("age", "sex"), PUBLISHED_PRESERVING_AGE_AND_SEX)],
)
def test_combat_gives_the_numbers_of_neurocombat(features, scans, preserve, published):
    found = ComBat(preserve=preserve).fit_transform(features, scans=scans)
    np.testing.assert_allclose(found[[0, 7, 17]], published, atol=1e-5)


def slow_combat(x: np.ndarray, sites: np.ndarray, age: np.ndarray) -> np.ndarray:
    """Compute the formulas of Johnson, Li and Rabinovic 2007, a feature and a site at a time."""
    names = sorted(set(sites))
    design = np.column_stack([*[(sites == s).astype(float) for s in names], age])
    share = np.array([(sites == s).mean() for s in names])
    z, sigma, level = np.empty_like(x), np.empty(x.shape[1]), np.empty_like(x)
    for v in range(x.shape[1]):
        effects = np.linalg.solve(design.T @ design, design.T @ x[:, v])
        sigma[v] = np.sqrt(np.mean((x[:, v] - design @ effects) ** 2))
        level[:, v] = share @ effects[:-1] + age * effects[-1]
        z[:, v] = (x[:, v] - level[:, v]) / sigma[v]
    out = np.empty_like(x)
    for s in names:
        own = z[sites == s]
        n = len(own)
        gamma, delta2 = own.mean(0), own.var(0, ddof=1)
        bar, tau2, m, s2 = gamma.mean(), gamma.var(ddof=1), delta2.mean(), delta2.var(ddof=1)
        lam, theta = (m**2 + 2 * s2) / s2, (m**3 + m * s2) / s2
        for v in range(x.shape[1]):
            g, d = gamma[v], delta2[v]
            for _ in range(500):
                g = (n * tau2 * gamma[v] + d * bar) / (n * tau2 + d)
                d = (theta + 0.5 * ((own[:, v] - g) ** 2).sum()) / (n / 2 + lam - 1)
            out[sites == s, v] = (own[:, v] - g) / np.sqrt(d) * sigma[v]
    return out + level


def test_combat_is_what_the_published_formulas_give_one_by_one(features, scans):
    found = ComBat(preserve=["age"], tolerance=1e-13).fit_transform(features, scans=scans)
    expected = slow_combat(features, SITES, scans["age"].to_numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_combat_applies_to_new_scans_what_it_learned(features, scans):
    rows = np.r_[0:4, 5:10, 11:17]
    fitted = ComBat(preserve=["age"]).fit(features[rows], scans=scans.iloc[rows])
    everything = fitted.transform(features, scans=scans)
    alone = fitted.transform(features[[17]], scans=scans.iloc[[17]])
    np.testing.assert_allclose(alone, everything[[17]])
    changed = features.copy()
    changed[17] += 100
    again = ComBat(preserve=["age"]).fit(changed[rows], scans=scans.iloc[rows])
    np.testing.assert_array_equal(again.transform(features, scans=scans), everything)


def test_combat_keeps_the_effect_of_what_it_preserves():
    random = np.random.default_rng(0)
    scans = pd.DataFrame({"site": np.repeat(["a", "b"], 100)})
    scans["age"] = random.uniform(20, 40, 200) + 15 * (scans["site"] == "b")
    features = scans[["age"]].to_numpy() * np.linspace(0.5, 1, 6) + random.standard_normal((200, 6))
    kept = ComBat(preserve=["age"]).fit_transform(features, scans=scans)
    lost = ComBat().fit_transform(features, scans=scans)
    slopes = [LinearRegression().fit(scans[["age"]], x).coef_.ravel() for x in (kept, lost)]
    np.testing.assert_allclose(slopes[0], np.linspace(0.5, 1, 6), rtol=0.05)
    assert (slopes[1] < 0.6 * np.linspace(0.5, 1, 6)).all()


def test_combat_leaves_features_alone_that_do_not_vary(features, scans):
    wider = np.hstack([features, np.full((18, 1), 3.0), (SITES == "a")[:, None] * 2.0])
    found = ComBat().fit_transform(wider, scans=scans)
    np.testing.assert_array_equal(found[:, 5:], wider[:, 5:])
    np.testing.assert_allclose(found[[0, 7, 17], :5], PUBLISHED, atol=1e-5)


def test_unseen_and_single_sites_are_refused_with_the_reason(features, scans):
    fitted = ComBat().fit(features[:11], scans=scans.iloc[:11])
    with pytest.raises(InputError, match=r"not in the training part, such as 'c'.*by subject"):
        fitted.transform(features, scans=scans)
    with pytest.raises(InputError, match=r"single scan.*'b'.*a variance cannot be told"):
        ComBat().fit(features[:6], scans=scans.iloc[:6])
    with pytest.raises(InputError, match=r"1 of 18 scans have no site"):
        ComBat().fit(features, scans=scans.assign(site=np.r_[[""], SITES[1:]]))
    with pytest.raises(InputError, match=r"no column 'sites'.*Did you mean 'site'"):
        ComBat("sites").fit(features, scans=scans)
    twice = scans.iloc[[0, 0]].assign(site="d")
    with pytest.raises(InputError, match="same features"):
        ComBat().fit(np.r_[features, features[[0, 0]]], scans=pd.concat([scans, twice]))


def test_covariates_that_are_the_site_are_refused(features, scans):
    scans["t_r"] = scans["site"].map({"a": 2.0, "b": 2.0, "c": 3.0})
    with pytest.raises(InputError, match=r"t_r\) cannot be told from the sites"):
        ComBat(preserve=["t_r"]).fit(features, scans=scans)
    with pytest.raises(InputError, match="1 vary within sites"):
        ComBat().fit(features[:, :1], scans=scans)


def test_confound_regression_is_a_linear_regression_of_the_training_part(features, scans):
    train, test = np.arange(0, 18, 2), np.arange(1, 18, 2)
    scans["motion"] = np.random.default_rng(0).uniform(size=18)
    scans.loc[2, "motion"] = np.nan
    fitted = ConfoundRegression(["motion", "site"]).fit(features[train], scans=scans.iloc[train])
    dummies = pd.get_dummies(scans["site"]).astype(float)
    filled = scans["motion"].fillna(scans["motion"].iloc[train].mean())
    confounds = np.column_stack([filled, dummies])
    model = LinearRegression().fit(confounds[train], features[train])
    expected = features - model.predict(confounds) + features[train].mean(axis=0)
    np.testing.assert_allclose(
        fitted.transform(features[test], scans=scans.iloc[test]), expected[test]
    )


def test_confound_regression_refuses_what_it_does_not_know(features, scans):
    fitted = ConfoundRegression(["site"]).fit(features[:11], scans=scans.iloc[:11])
    with pytest.raises(InputError, match=r"'site' were not in the training part.*'c'"):
        fitted.transform(features, scans=scans)
    names = scans.assign(name=[f"n{i}" for i in range(18)])
    with pytest.raises(InputError, match="too few"):
        ConfoundRegression(["name"]).fit(features, scans=names)


@pytest.fixture
def cohort() -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return features that hold the site and nothing else, and a diagnosis that goes with it."""
    random = np.random.default_rng(1)
    site = np.repeat(["a", "b"], 60)
    truth = (random.random(120) < np.where(site == "a", 0.2, 0.8)).astype(int)
    features = random.standard_normal((120, 10)) + 3 * (site == "b")[:, None]
    return features, truth, pd.DataFrame({"site": site, "diagnosis": truth})


@pytest.mark.parametrize("prepare", [ComBat(), ConfoundRegression(["site"])])
def test_site_signal_is_gone_when_fitted_inside_every_training_part(cohort, prepare):
    features, truth, scans = cohort
    folds = np.random.default_rng(0).permutation(120) % 4
    splits = [
        Split("mine", 0, str(k), np.flatnonzero(folds != k), np.flatnonzero(folds == k))
        for k in range(4)
    ]
    right = {}
    for name, given in (("before", None), ("after", prepare)):
        found = cross_validated_predictions(
            features,
            truth,
            splits,
            kind="classification",
            subjects=np.arange(120),
            prepare=given,
            scans=scans,
        )
        right[name] = np.mean(np.concatenate([f.prediction == truth[f.split.test] for f in found]))
    assert right["before"] > 0.7
    assert right["after"] < 0.6
    assert not hasattr(prepare, "design_")  # the one that was given is not touched


def test_harmonisation_that_would_leak_is_refused(cohort):
    features, truth, scans = cohort
    splits = leave_one_site_out(scans.assign(subject=range(120)), truth, kind="classification")
    how = {"kind": "classification", "subjects": np.arange(120), "scans": scans}
    fitted = ComBat().fit(features, scans=scans)
    with pytest.raises(InputError, match="ComBat was fitted before"):
        cross_validated_predictions(features, truth, splits, prepare=fitted, **how)
    with pytest.raises(InputError, match="'diagnosis', which is the target itself"):
        cross_validated_predictions(
            features, truth, splits, prepare=ComBat(preserve=["diagnosis"]), **how
        )
    with pytest.raises(InputError, match="not in the training part, such as 'a'"):
        cross_validated_predictions(features, truth, splits, prepare=clone(fitted), **how)
    with pytest.raises(InputError, match="one with 119 rows came"):
        cross_validated_predictions(
            features, truth, splits, prepare=ComBat(), **{**how, "scans": scans.iloc[1:]}
        )


@pytest.mark.parametrize("name", ["site", "SITE_ID", "scan_site", "scanner_id", "Centre"])
def test_numbers_of_sites_are_names_not_amounts(name):
    random = np.random.default_rng(0)
    code = np.repeat([1, 2, 3, 4], 20)
    features = np.array([0.0, 5.0, -3.0, 1.0])[code - 1, None] + 0.1 * random.normal(size=(80, 3))
    found = ConfoundRegression([name]).fit_transform(features, scans=pd.DataFrame({name: code}))
    texts = pd.DataFrame({"site": [f"site {c}" for c in code]})
    np.testing.assert_allclose(
        found, ConfoundRegression(["site"]).fit_transform(features, scans=texts)
    )
    means = np.stack([found[code == c].mean(axis=0) for c in (1, 2, 3, 4)])
    np.testing.assert_allclose(means, means[[0]].repeat(4, axis=0))


def test_other_columns_are_categories_if_it_is_said():
    code = np.repeat([1, 2, 3], 10)
    features = np.array([0.0, 9.0, 1.0])[code - 1, None] + np.arange(30)[:, None] % 10
    scans = pd.DataFrame({"batch": code})
    linear = ConfoundRegression(["batch"]).fit_transform(features, scans=scans)
    assert linear[code == 2].mean() - linear[code == 1].mean() > 5
    regression = ConfoundRegression(["batch"], categorical=["batch"])
    found = clone(regression).fit_transform(features, scans=scans)
    np.testing.assert_allclose(found[code == 2], found[code == 1])
    with pytest.raises(ConfigurationError, match=r"'bach', which is none .* mean 'batch'"):
        ConfoundRegression(["batch"], categorical=["bach"]).fit(features, scans=scans)
    with pytest.raises(ConfigurationError, match="a list of columns"):
        ConfoundRegression(["batch"], categorical="batch").fit(features, scans=scans)


@pytest.mark.parametrize("prepare", [ComBat(), ConfoundRegression(["site"])])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(features, scans, prepare, value):
    broken = features.copy()
    broken[[3, 8], 4] = value
    message = r"not finite in 2 of 18 scans.*1 of 5 column.*column 4 \(2 scan.*from row 3\)"
    with pytest.raises(InputError, match=message):
        clone(prepare).fit(broken, scans=scans)
    fitted = clone(prepare).fit(features, scans=scans)
    with pytest.raises(InputError, match=message):
        fitted.transform(broken, scans=scans)
