"""People are found again when they can be, and intraclass correlations are those of an ANOVA."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.readout import encode_scans, scans_of
from semantoks.evaluation.reliability import (
    half_features,
    half_of,
    identify,
    intraclass_correlation,
    repeated_recordings,
)
from semantoks.model.encoder import SemantoksEncoder


def anova(x: np.ndarray) -> tuple[float, float]:
    """Compute ICC(2,1) and ICC(3,1) of one feature, (session, subject), effect by effect."""
    k, n = x.shape
    grand, subject, session = x.mean(), x.mean(axis=0), x.mean(axis=1)
    ms = k * ((subject - grand) ** 2).sum() / (n - 1)
    mt = n * ((session - grand) ** 2).sum() / (k - 1)
    residual = x - subject[None] - session[:, None] + grand
    me = (residual**2).sum() / ((n - 1) * (k - 1))
    return (
        (ms - me) / (ms + (k - 1) * me + k * (mt - me) / n),
        (ms - me) / (ms + (k - 1) * me),
    )


@pytest.mark.parametrize("k", [2, 3])
def test_intraclass_correlations_are_those_of_an_analysis_of_variance(k):
    random = np.random.default_rng(0)
    features = 50 + random.standard_normal((1, 20, 7)) * np.arange(7)
    features = features + random.standard_normal((k, 20, 7)) + 0.5 * np.arange(k)[:, None, None]
    expected = np.array([anova(features[..., v]) for v in range(7)])
    np.testing.assert_allclose(intraclass_correlation(features), expected[:, 0])
    np.testing.assert_allclose(intraclass_correlation(features, "consistency"), expected[:, 1])


def test_published_example_of_shrout_and_fleiss():
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    )
    features = ratings.T[..., None].astype(float)
    assert intraclass_correlation(features)[0] == pytest.approx(0.29, abs=0.005)
    assert intraclass_correlation(features, "consistency")[0] == pytest.approx(0.71, abs=0.005)


def test_weights_count_subjects_as_if_they_were_repeated():
    random = np.random.default_rng(0)
    features = random.standard_normal((2, 9, 4)) + random.standard_normal((1, 9, 4))
    weights = random.integers(0, 4, (5, 9))
    for kind in ("agreement", "consistency"):
        found = intraclass_correlation(features, kind, weights)
        for w, one in zip(weights, found, strict=True):
            repeated = np.repeat(features, w, axis=1)
            np.testing.assert_allclose(one, intraclass_correlation(repeated, kind))


def test_constant_features_have_no_intraclass_correlation():
    features = np.full((2, 5, 2), 0.1)
    features[..., 1] = np.random.default_rng(0).standard_normal((2, 5))
    found = intraclass_correlation(features)
    assert np.isnan(found[0])
    assert np.isfinite(found[1])
    with pytest.raises(InputError, match=r"came \(1, 5, 2\)"):
        intraclass_correlation(features[:1])
    with pytest.raises(ConfigurationError, match="not 'icc'"):
        intraclass_correlation(features, "icc")


def test_people_are_identified_by_what_is_theirs():
    random = np.random.default_rng(0)
    person, everybody = random.standard_normal((40, 60)), 30 * random.standard_normal(60)
    first, second = (person + everybody + random.standard_normal((40, 60)) for _ in range(2))
    found = identify(first, second)
    assert found.rate > 0.9
    assert found.chance == 1 / 40
    assert found.own.mean() > 0.35
    assert abs(found.others.mean()) < 0.1
    expected = np.corrcoef(first - first.mean(0), second - second.mean(0))[:40, 40:]
    np.testing.assert_allclose(found.own, np.diag(expected))
    np.testing.assert_array_equal(found.hits[0], expected.argmax(1) == np.arange(40))
    np.testing.assert_array_equal(found.hits[1], expected.argmax(0) == np.arange(40))
    raw = np.corrcoef(first, second)[:40, 40:]
    plain = identify(first, second, centering="none")
    np.testing.assert_array_equal(plain.hits[0], raw.argmax(1) == np.arange(40))
    assert plain.others.mean() > 0.9


def test_strangers_are_identified_at_chance():
    random = np.random.default_rng(0)
    rates = [
        identify(*(random.standard_normal((20, 10)) for _ in range(2))).rate for _ in range(200)
    ]
    assert np.mean(rates) == pytest.approx(1 / 20, abs=0.012)
    same = np.ones((8, 5))
    assert identify(same, same).rate == pytest.approx(1 / 8)  # no credit for standing first


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "subject": ["b", "a", "c", "a", "b", "a"],
            "session": ["1", "1", "1", "2", "2", "2"],
        }
    )


def test_repeated_recordings_are_matched_by_subject_and_averaged():
    found = repeated_recordings(np.arange(6.0)[:, None], table())
    assert found.subjects.tolist() == ["a", "b"]
    assert found.sessions == ("1", "2")
    assert found.features[..., 0].tolist() == [[1, 0], [4, 4]]
    turned = repeated_recordings(np.arange(6.0)[:, None], table(), ("2", "1"))
    np.testing.assert_array_equal(turned.features, found.features[::-1])


def test_sessions_that_cannot_be_compared_are_refused():
    x = np.zeros((6, 1))
    with pytest.raises(InputError, match=r"1 session\(s\): '1'.*came again"):
        repeated_recordings(x, table().assign(session="1"))
    with pytest.raises(InputError, match=r"6 session\(s\).*Name two"):
        repeated_recordings(x, table().assign(session=list("abcdef")))
    with pytest.raises(InputError, match=r"'1' and '3' were asked for; .* has '1', '2'"):
        repeated_recordings(x, table(), ("1", "3"))
    with pytest.raises(InputError, match=r"1 subject\(s\) have scans in both"):
        repeated_recordings(x, table().assign(subject=list("badaee")))
    with pytest.raises(InputError, match=r"came \(3, 4\) and \(4, 4\)"):
        identify(np.zeros((3, 4)), np.zeros((4, 4)))


def test_connectivity_finds_people_of_stages_again(shared):
    """Of 37 people who came again after three months, 31 are found: 84 %."""
    with h5py.File(next((shared / "data" / "stages").glob("*.h5"))) as content:
        series, people, session = (
            content[name][:] for name in ("timeseries_z", "subject", "session")
        )
    scans = pd.DataFrame({"subject": people.astype(str), "session": session.astype(str)})
    lower = np.tril_indices(400, -1)
    edges = []
    for scan in series[:, :400].astype(np.float64):
        alive = scan.std(axis=1) > 0
        scan[~alive] = 0
        scan[alive] = (scan[alive] - scan[alive].mean(1, keepdims=True)) / scan[alive].std(1)[
            :, None
        ]
        correlation = np.clip(scan @ scan.T / scan.shape[1], -0.999999, 0.999999)
        edges.append(np.arctanh(correlation[lower]))
    pairs = repeated_recordings(np.array(edges), scans)
    assert pairs.features.shape[:2] == (2, 37)
    found = identify(*pairs.features, centering="none")
    assert found.hits[0].sum() == 31


def test_halves_are_those_of_the_scan(store):
    encoder = SemantoksEncoder(
        Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4}, name="tiny"),
        dim=64,
        depth=1,
        window=10,
        patch=5,
    )
    first, second = half_features(store, encoder, windows=1, features="networks")
    whole = scans_of(store, encoder)
    both = encode_scans(encoder, whole, windows=2, features="networks", window=10)
    np.testing.assert_allclose((first + second)[:2] / 2, both[:2], rtol=1e-5, atol=1e-6)
    last = half_of(whole, 1)
    assert last.lengths.tolist() == [10, 10, 11, 15, 22]
    found = last.read(np.array([3]), np.array([5]), 10)
    np.testing.assert_array_equal(found[0], store.series(3)[:, 21:31])
    with pytest.raises(InputError, match=r"half of 3 scan\(s\) .*the first is '000'"):
        half_features(store, encoder, window=15)
