"""The order of ROIs, checked by connectivity: right ones pass, wrong ones are named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.labels import seventeen_network_names
from semantoks.data.preparation import prepare
from semantoks.data.recording import ScanFile
from semantoks.data.roi_order import (
    N_SCANS,
    Geometry,
    candidate_orders,
    check_order,
    connectivity,
    weigh,
)
from semantoks.data.signal import Preprocessing
from semantoks.data.simulation import simulate_cohort
from semantoks.data.store import Store
from semantoks.errors import InputError

WHOLE = Atlas.load("schaefer400-tian3-buckner7")
CORTEX = Atlas.load("schaefer400")
CC200 = Atlas.load("cc200")
UNFILTERED = Preprocessing(high_pass=None, low_pass=None, detrend=False)


@cache
def mixing(atlas: Atlas) -> NDArray[np.float64]:
    """Return loadings that make series as connected as those of brains."""
    geometry = Geometry.of(atlas)
    covariance = np.eye(len(atlas))
    places = atlas.coordinates[geometry.rows] - atlas.coordinates[geometry.columns]
    nearby = np.exp(-np.linalg.norm(places, axis=1) / 30)
    strength = 0.6 * nearby + 0.3 * geometry.homotopic + 0.1 * geometry.same
    covariance[geometry.rows, geometry.columns] = strength
    covariance[geometry.columns, geometry.rows] = strength
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.01))


def brain(atlas: Atlas, seed: int, n_volumes: int = 200) -> NDArray[np.float64]:
    """Return series of a brain, (roi, time)."""
    noise = np.random.default_rng(seed).standard_normal((len(atlas), n_volumes))
    return mixing(atlas) @ gaussian_filter1d(noise, 1.0, axis=1)


def scan(name: str, series: NDArray[np.float64]) -> ScanFile:
    return ScanFile(scan=name, load=lambda: series, source=f"{name}.npy")


def cohort(atlas: Atlas, order: NDArray[np.intp] | None = None, n: int = 2) -> list[ScanFile]:
    """Return scans whose rows are the ROIs of `order`."""
    order = np.arange(len(atlas)) if order is None else order
    return [scan(f"s{i}", brain(atlas, i)[order]) for i in range(n)]


@pytest.mark.parametrize("atlas", [WHOLE, CORTEX, CC200])
@pytest.mark.parametrize("n", [1, 3])
def test_right_order_passes(atlas: Atlas, n: int) -> None:
    check = check_order(cohort(atlas, n=n), atlas)
    assert (check.status, check.notice, len(check.scans)) == ("right", "", n)
    assert check.evidence is not None
    assert check.evidence.score > 0.02 + max(x.score for x in check.orders.values())


@pytest.mark.parametrize("name", candidate_orders(WHOLE))
def test_every_known_wrong_order_is_named(name: str) -> None:
    if name == "the cerebellum before the subcortex" or "hemispheres swapped" in name:
        pytest.skip("told apart on real data below: a synthetic brain is too symmetric")
    with pytest.raises(InputError) as caught:
        check_order(cohort(WHOLE, candidate_orders(WHOLE)[name]), WHOLE)
    assert f"it seems, {name}. Read so" in str(caught.value)
    assert "--trust-order" in str(caught.value)


def test_tian_comes_first_in_the_combined_files() -> None:
    atlas = Atlas.load("schaefer400-tian3")
    order = np.array([*range(400, 450), *range(400)])
    with pytest.raises(InputError, match="it seems, the subcortex first"):
        check_order(cohort(atlas, order, n=1), atlas)


def test_a_random_order_fits_nothing() -> None:
    order = np.random.default_rng(1).permutation(200)
    with pytest.raises(InputError, match=r"nothing to do with the places.*another atlas"):
        check_order(cohort(CC200, order), CC200)


def test_a_single_scan_in_another_order_is_found() -> None:
    scans = [*cohort(CC200, n=4), scan("odd", brain(CC200, 9)[::-1])]
    with pytest.raises(InputError, match=r"scan 'odd' of odd.npy \(other scans are right\).*rever"):
        check_order(scans, CC200)


def test_a_square_scan_may_lie_on_its_side() -> None:
    # Volumes that follow each other are alike, so that there is structure either way.
    series = gaussian_filter1d(brain(CC200, 3), 2.0, axis=1)
    assert series.shape == (200, 200)
    assert check_order([scan("a", series)], CC200).status == "right"
    with pytest.raises(InputError, match="it seems, transposed"):
        check_order([scan("a", series.T)], CC200)


def test_missing_and_flat_rois_do_not_disturb() -> None:
    series = brain(WHOLE, 0)
    series[400:] = np.nan
    series[:20] = 3.0
    series[:, -10:] = np.nan
    assert check_order([scan("a", series)], WHOLE).status == "right"


def test_only_a_few_scans_are_read() -> None:
    read: list[str] = []

    def load(i: int) -> NDArray[np.float64]:
        read.append(f"s{i}")
        if i == 0:
            raise InputError("cannot be read; somebody else will say so.")
        return brain(CC200, i % 3)

    scans = [ScanFile(f"s{i}", lambda i=i: load(i), "") for i in range(100)]  # type: ignore[misc]
    check = check_order(scans, CC200)
    assert len(read) == N_SCANS
    assert (read[0], read[-1]) == ("s0", "s99")
    assert check.scans == tuple(read[1:])


@pytest.mark.parametrize(
    ("series", "atlas", "why"),
    [
        (np.ones((3, 99)), Atlas.from_networks({"a": 2, "b": 1}), "coordinates .* for 0 ROIs"),
        (np.random.default_rng(0).standard_normal((200, 150)), CC200, "two halves"),
        (np.random.default_rng(0).standard_normal((200, 20)), CC200, "no scan has 30 ROIs"),
        (np.full((200, 99), np.nan), CC200, "no scan has 30 ROIs"),
    ],
)
def test_too_little_evidence_is_said(series: NDArray[np.float64], atlas: Atlas, why: str) -> None:
    check = check_order([scan("a", series)], atlas)
    assert check.status == "not checked"
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(check.notice)


def test_simulated_cohorts_do_not_trip() -> None:
    recordings = simulate_cohort(4, seed=0)
    scans = [scan(str(i), recording.series) for i, recording in enumerate(recordings)]
    assert check_order(scans, recordings[0].atlas).status == "not checked"


def test_trust_reads_nothing() -> None:
    def load() -> NDArray[np.float64]:
        raise AssertionError("must not be read")

    check = check_order([ScanFile("a", load, "")], CC200, trust=True)
    assert check.status == "not checked"
    assert "as you asked" in check.notice


def test_evidence_on_a_known_matrix() -> None:
    geometry = Geometry.of(CC200)
    z = np.full((200, 200), np.nan)
    z[geometry.rows, geometry.columns] = geometry.nearness
    evidence = weigh(z, geometry)
    assert evidence.distance == pytest.approx(1.0)
    z[geometry.rows, geometry.columns] = 0.0 + geometry.homotopic
    share = geometry.homotopic.mean()
    expected = 1 / np.sqrt(share * (1 - share))
    assert weigh(z, geometry).homotopic == pytest.approx(expected)


def test_connectivity_is_that_of_residuals() -> None:
    series = brain(CC200, 0)
    standard = series - series.mean(axis=1, keepdims=True)
    slope = np.polyfit(np.arange(200), standard.T, 1)
    standard -= np.outer(slope[0], np.arange(200)) + slope[1][:, None]
    standard /= standard.std(axis=1, keepdims=True)
    course = standard.mean(axis=0)
    residual = standard - np.outer(standard @ course / (course @ course), course)
    z = connectivity(series * 5 + 1000)
    expected = np.arctanh(np.corrcoef(residual)[0, 1:])
    np.testing.assert_allclose(z[0, 1:], expected, atol=1e-6)


# Real brains


@pytest.fixture(scope="module")
def stages(shared: Path) -> list[NDArray[np.float32]]:
    """Return the cortex of a few scans of STAGES, (roi, time)."""
    with h5py.File(shared / "data" / "stages" / "stages_schaefer400_7n_order_tr2.h5") as file:
        return [file["timeseries_z"][i, :400].astype(np.float32) for i in range(0, 92, 16)]


@pytest.mark.parametrize("n", [1, 6])
def test_stages_is_in_order(stages: list[NDArray[np.float32]], n: int) -> None:
    check = check_order([scan(str(i), x) for i, x in enumerate(stages[:n])], CORTEX)
    assert check.status == "right"


@pytest.mark.parametrize("name", candidate_orders(CORTEX))
@pytest.mark.parametrize("one", [True, False])
def test_stages_in_wrong_orders(stages: list[NDArray[np.float32]], name: str, one: bool) -> None:
    order = candidate_orders(CORTEX)[name]
    scans = [scan(str(i), x[order]) for i, x in enumerate(stages[:1] if one else stages[:3])]
    with pytest.raises(InputError) as caught:
        check_order(scans, CORTEX)
    assert f"it seems, {name}. Read so" in str(caught.value)


@pytest.mark.parametrize("scheme", ["7Networks", "17Networks"])
def test_stages_as_tables_with_labels(
    stages: list[NDArray[np.float32]], tmp_path: Path, scheme: str
) -> None:
    names = seventeen_network_names()
    labels, order = [f"7Networks_{x}" for x in CORTEX.labels], np.arange(400)
    if scheme == "17Networks":
        labels = [f"17Networks_{x}" for x in names.values()]
        order = np.array([CORTEX.labels.index(x) for x in names])
    source = tmp_path / "source"
    source.mkdir()
    for i, series in enumerate(stages[:2]):
        table = pd.DataFrame(series[order].T, columns=labels)
        table.to_csv(source / f"sub-{i}.tsv", sep="\t", index=False)
    report = prepare(source, tmp_path / "out", atlas=CORTEX, t_r=2.0, preprocessing=UNFILTERED)
    assert report.order is not None
    assert report.order.status == "right"
    stored = Store.open(report.path).series(0)
    assert stored.shape == stages[0].shape
    for roi in range(0, 400, 40):
        assert np.corrcoef(stored[roi], stages[0][roi])[0, 1] > 0.99


def test_stages_without_labels_in_the_wrong_order(
    stages: list[NDArray[np.float32]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = np.array([CORTEX.labels.index(x) for x in seventeen_network_names()])
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for i, series in enumerate(stages[:2]):
        np.savetxt(source / f"sub-{i}.csv", series[order].T, delimiter=",")
    command = ["prepare", str(source), "--atlas", "schaefer400", "--t-r", "2"]
    assert run([*command, "--out", str(out)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "it seems, in the order of the 17-network atlas" in told
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert run([*command, "--trust-order", "--out", str(out)]) == 0
    assert "was not checked, as you asked" in " ".join(capsys.readouterr().out.split())


def _reversed(order: NDArray[np.intp]) -> NDArray[np.intp]:
    return order[::-1]


def _random(order: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.random.default_rng(0).permutation(order)


def test_every_recording_group_of_abide(shared: Path) -> None:
    file = shared / "data" / "abide" / "abide1_cc200_nofilt_noglobal.h5"
    changes: list[tuple[Callable[[NDArray[np.intp]], NDArray[np.intp]], str]] = [
        (_reversed, "it seems, reversed"),
        (_random, "nothing to do with"),
    ]
    with h5py.File(file) as archive:
        groups = archive["meta/scan_site"].asstr()[:]
        ends = archive["offsets"][:]
        for number, group in enumerate(np.unique(groups)):
            i = int(np.flatnonzero(groups == group)[3])
            series = archive["timeseries"][ends[i] : ends[i + 1]].astype(np.float64).T
            assert check_order([scan(group, series)], CC200).status == "right"
            for change, message in changes if number % 8 == 0 else ():
                with pytest.raises(InputError, match=message):
                    check_order([scan(group, series[change(np.arange(200))])], CC200)
