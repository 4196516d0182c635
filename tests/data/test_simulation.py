"""The simulated cohort: what is planted can be found, what is not cannot."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing, preprocess
from semantoks.data.simulation import simulate_cohort, simulated_atlas, write_cohort
from semantoks.errors import InputError

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def cohort() -> list[Recording]:
    return simulate_cohort(n_subjects=120)


@pytest.fixture(scope="module")
def ready(cohort: list[Recording]) -> Array:
    """Preprocessed series, shape (scan, roi, time)."""
    series = [preprocess(scan.series, scan.t_r, Preprocessing()).series for scan in cohort]
    return np.stack(series).astype(np.float64)


@pytest.fixture(scope="module")
def connectivity(ready: Array) -> Array:
    """Fisher-z correlations, shape (scan, edge)."""
    upper = np.triu_indices(ready.shape[1], 1)
    return np.arctanh(np.stack([np.corrcoef(series)[upper] for series in ready]))


@pytest.fixture(scope="module")
def tokens(ready: Array) -> Array:
    """What an untrained encoder sees: a random convolution a network, averaged over patches."""
    random = np.random.default_rng(0)
    features = []
    for network in range(5):
        rois = ready[:, 8 * network : 8 * network + 8]
        taps = np.lib.stride_tricks.sliding_window_view(rois, 16, axis=2)
        kernels = random.standard_normal((24, 8, 16)) / np.sqrt(8 * 16)
        hidden = np.einsum("srtk,drk->sdt", taps, kernels, optimize=True)
        features.append((hidden / (1 + np.exp(-1.702 * hidden))).mean(axis=2))
    return np.concatenate(features, axis=1)


def column(cohort: list[Recording], name: str) -> NDArray[np.str_]:
    return np.array([scan.phenotypes[name] for scan in cohort])


def balanced_accuracy(features: Array, target: NDArray[np.str_]) -> float:
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 5)))
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
    scores = cross_val_score(model, features, target, cv=folds, scoring="balanced_accuracy")
    return float(scores.mean())


def test_diagnosis_is_in_connectivity(cohort: list[Recording], connectivity: Array) -> None:
    assert 0.72 < balanced_accuracy(connectivity, column(cohort, "diagnosis")) < 0.95


def test_diagnosis_is_within_networks(cohort: list[Recording], tokens: Array) -> None:
    assert 0.72 < balanced_accuracy(tokens, column(cohort, "diagnosis")) < 0.95


def test_handedness_is_nowhere(cohort: list[Recording], connectivity: Array, tokens: Array) -> None:
    for features in (connectivity, tokens):
        assert 0.35 < balanced_accuracy(features, column(cohort, "handedness")) < 0.62


def test_site_is_decodable(cohort: list[Recording], tokens: Array) -> None:
    site = np.array([scan.site for scan in cohort])
    assert balanced_accuracy(tokens, site) > 0.42  # chance is a third


def test_only_the_last_network_of_patients_is_slower(cohort: list[Recording], ready: Array) -> None:
    patient = column(cohort, "diagnosis") == "patient"
    # Correlation with the next sample but one: high where a signal is slow.
    slowness = (ready[:, :, :-2] * ready[:, :, 2:]).mean(axis=2)
    slowness = slowness.reshape(len(cohort), 5, 8).mean(axis=2)
    difference = slowness[patient].mean(axis=0) - slowness[~patient].mean(axis=0)
    effect = difference / slowness.std(axis=0)
    assert effect[4] > 0.8
    assert np.abs(effect[:3]).max() < 0.5


def test_age_is_in_the_coupling_of_the_first_two_networks(
    cohort: list[Recording], ready: Array
) -> None:
    age = np.array([scan.phenotypes["age"] for scan in cohort])
    averages = ready.reshape(len(cohort), 5, 8, -1).mean(axis=2)
    coupling = np.array([np.corrcoef(scan)[0, 1] for scan in averages])
    assert np.corrcoef(coupling, age)[0, 1] > 0.3
    assert age.min() >= 18
    assert age.max() <= 70


def test_motion_raises_connectivity_and_knows_no_diagnosis(
    cohort: list[Recording], connectivity: Array
) -> None:
    motion = np.log([scan.motion for scan in cohort])
    assert np.corrcoef(motion, connectivity.mean(axis=1))[0, 1] > 0.2
    assert abs(np.corrcoef(motion, column(cohort, "diagnosis") == "patient")[0, 1]) < 0.2


def test_nothing_is_tied_to_the_diagnosis_by_chance(cohort: list[Recording]) -> None:
    diagnosis = column(cohort, "diagnosis")
    site = np.array([scan.site for scan in cohort])
    assert set(Counter(zip(diagnosis, site, strict=True)).values()) == {20}


def test_recordings_are_like_those_of_a_scanner(cohort: list[Recording]) -> None:
    first = cohort[0]
    assert first.atlas == simulated_atlas()
    assert (first.series.shape, first.series.dtype) == ((40, 220), np.float32)
    assert 900 < first.series.mean() < 1100
    assert (first.scan, first.subject, first.session) == ("sub-001", "sub-001", "")
    assert len({scan.scan for scan in cohort}) == 120
    assert {scan.site for scan in cohort} == {"site-1", "site-2", "site-3"}


def test_same_seed_same_cohort() -> None:
    one, same, other = (simulate_cohort(3, n_samples=50, seed=seed) for seed in (5, 5, 6))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a.series, b.series)
        assert a.phenotypes == b.phenotypes
        assert np.abs(a.series - c.series).max() > 1


def test_sessions_are_of_the_same_person() -> None:
    scans = simulate_cohort(2, sessions=3, n_samples=60)
    assert [scan.scan for scan in scans[:3]] == [f"sub-001_ses-{i}" for i in (1, 2, 3)]
    assert {scan.subject for scan in scans[:3]} == {"sub-001"}
    assert [scan.session for scan in scans[:3]] == ["ses-1", "ses-2", "ses-3"]
    assert scans[0].phenotypes == scans[1].phenotypes
    assert scans[0].motion != scans[1].motion
    assert np.abs(scans[0].series - scans[1].series).max() > 1


def test_any_atlas_and_repetition_time() -> None:
    atlas = Atlas.load("cc200")
    scan = simulate_cohort(1, atlas=atlas, n_samples=90, t_r=0.8, sites=1)[0]
    assert scan.series.shape == (200, 90)
    assert (scan.t_r, scan.atlas) == (0.8, atlas)
    assert np.isfinite(scan.series).all()
    assert scan.series.std(axis=1).min() > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_subjects": 0}, "n_subjects is 0"),
        ({"sessions": 0}, "sessions is 0"),
        ({"sites": 0}, "sites is 0"),
        ({"n_samples": 1}, "1 samples"),
        ({"t_r": 0.0}, "repetition time of 0"),
        ({"atlas": Atlas.from_networks({"all": 4})}, "one network only"),
    ],
)
def test_impossible_cohorts(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_cohort(**arguments)  # type: ignore[arg-type]


def test_written_cohort_is_what_users_have(tmp_path: Path) -> None:
    scans = simulate_cohort(2, sessions=2, n_samples=60)
    write_cohort(scans, tmp_path / "cohort", atlas_file=tmp_path / "atlas.tsv")
    names = sorted(path.name for path in (tmp_path / "cohort").iterdir())
    assert names == ["participants.tsv", *(f"{scan.scan}.npy" for scan in scans)]
    np.testing.assert_array_equal(
        np.load(tmp_path / "cohort" / "sub-002_ses-1.npy"), scans[2].series
    )
    with (tmp_path / "cohort" / "participants.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["scan_id"] for row in rows] == [scan.scan for scan in scans]
    assert rows[3]["participant_id"] == "sub-002"
    assert (rows[3]["session"], float(rows[3]["t_r"])) == ("ses-2", 2.0)
    assert float(rows[3]["mean_fd"]) == pytest.approx(scans[3].motion, abs=1e-4)
    assert rows[3]["diagnosis"] == scans[3].phenotypes["diagnosis"]
    assert Atlas.load(tmp_path / "atlas.tsv") == scans[0].atlas


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recordings"):
        write_cohort([], tmp_path)


def test_atlas_among_the_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="be taken for one"):
        write_cohort(simulate_cohort(1), tmp_path, atlas_file=tmp_path / "atlas.tsv")
    assert list(tmp_path.iterdir()) == []
