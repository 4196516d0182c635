"""Methods that hold the person are reliable, connectivity is beside, and all is written down."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from semantoks.benchmark.baselines import connectivity_halves, fisher_z
from semantoks.benchmark.retest import (
    HALVES,
    Reliability,
    measure_reliability,
    reliability_table,
    write_reliability,
)
from semantoks.cli.application import run
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import Embeddings, write_embeddings
from semantoks.evaluation.reliability import identify, intraclass_correlation, repeated_recordings
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder


@pytest.fixture(scope="module")
def person(store) -> Embeddings:
    """Return features that are mostly the person's."""
    random = np.random.default_rng(0)
    people, code = np.unique(store.scans["subject"], return_inverse=True)
    values = random.standard_normal((len(people), 12))[code]
    values = values + 0.3 * random.standard_normal(values.shape)
    frame = pd.DataFrame(values, columns=[f"mean_{i:04d}" for i in range(12)])
    frame.insert(0, "scan", store.scans["scan"].to_numpy())
    return Embeddings(frame, {"store": {"fingerprint": store.fingerprint}})


@pytest.fixture(scope="module")
def encoder(store) -> SemantoksEncoder:
    return SemantoksEncoder(store.atlas, dim=64, depth=0, window=20, patch=10)


@pytest.fixture(scope="module")
def found(store, person, encoder) -> Reliability:
    return measure_reliability(store, {"person": person}, models={"model": encoder}, n_draws=100)


def value(found: Reliability, method: str, measure: str, between: str = "sessions 0, 1") -> float:
    rows = found.table.query("method == @method and measure == @measure and between == @between")
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def test_people_are_found_by_features_that_are_theirs(store, person, found):
    assert value(found, "person", "identification") > 0.9
    assert value(found, "person", "median_icc_agreement") > 0.8
    pairs = repeated_recordings(person.features, store.scans)
    assert value(found, "person", "identification") == identify(*pairs.features).rate
    assert value(found, "person", "median_icc_consistency") == pytest.approx(
        np.median(intraclass_correlation(pairs.features, "consistency"))
    )
    # series are drawn anew for every session: connectivity holds the diagnosis only
    assert value(found, "connectivity", "identification") < 0.4
    row = found.table.query("method == 'person' and measure == 'identification'").iloc[0]
    assert row["low"] <= row["value"] <= row["high"]
    assert row["difference_low"] > 0
    assert (row["n_subjects"], row["chance"]) == (20, pytest.approx(1 / 20))


def test_halves_are_compared_and_connectivity_is_beside(store, found):
    halves = found.table[found.table["between"] == HALVES]
    assert set(halves["method"]) == {"connectivity", "model"}
    assert set(halves["n_recordings"]) == {len(store)}
    assert set(halves["n_subjects"]) == {60}
    first, second = connectivity_halves(store)
    lower = np.tril_indices(8, -1)
    valid = store.valid[3]
    np.testing.assert_allclose(first[3], fisher_z(store.series(3)[:, :40], valid)[lower], rtol=1e-6)
    np.testing.assert_allclose(
        second[3], fisher_z(store.series(3)[:, 40:], valid)[lower], rtol=1e-6
    )
    expected = identify(first, second).rate
    assert value(found, "connectivity", "identification", HALVES) == expected


def test_every_feature_has_its_intraclass_correlation(found):
    edges = found.features.query("method == 'connectivity' and between == 'sessions 0, 1'")
    assert len(edges) == 28
    assert edges["feature"].iloc[0].count(" - ") == 1
    assert set(found.features["method"]) == {"connectivity", "person", "model"}
    assert len(found.features.query("method == 'model'")) == 128


def test_a_store_without_retest_says_so_and_has_halves(store, found, monkeypatch):
    monkeypatch.setitem(store.__dict__, "scans", store.scans.assign(session=""))
    alone = measure_reliability(store, {}, n_draws=20)
    assert set(alone.table["between"]) == {HALVES}
    assert "No retest: the table of scans names 0 session(s)" in alone.settings["notes"][0]
    with pytest.raises(InputError, match="were asked for"):
        measure_reliability(store, {}, sessions=("1", "2"))


def test_halves_that_hold_no_window_are_refused_before_anything_is_computed(
    store, person, encoder, monkeypatch
):
    def too_late(*_):
        raise AssertionError("computed before it was checked")

    monkeypatch.setattr("semantoks.benchmark.retest.connectivity_features", too_late)
    with pytest.raises(InputError, match="were asked for"):
        measure_reliability(store, {}, sessions=("1", "2"))
    message = r"half of 80 scan.*window of 60 samples, .*with 80 in all.*--window 40.* 120 samples"
    with pytest.raises(InputError, match=message):
        measure_reliability(store, {"person": person}, models={"m": encoder}, window=60)
    wide = SemantoksEncoder(store.atlas, dim=64, depth=0, window=100, patch=50)
    with pytest.raises(InputError, match=r"Leave them out: prepare a store of scans with .* 200"):
        measure_reliability(store, {}, models={"m": wide})


def test_the_name_of_the_baseline_is_refused(store, person):
    with pytest.raises(ConfigurationError, match="'connectivity' is the baseline"):
        measure_reliability(store, {"connectivity": person})


def test_command_writes_tables_and_prints_them(store, person, encoder, tmp_path, capsys, found):
    write_embeddings(person, tmp_path / "person.parquet")
    save_encoder(encoder, tmp_path / "model")
    command = ["reliability", "--data", str(store.path), "--out", str(tmp_path / "out")]
    command += [
        "--embeddings",
        str(tmp_path / "person.parquet"),
        "--model",
        str(tmp_path / "model"),
    ]
    assert run([*command, "--draws", "100"]) == 0
    assert "identified" in capsys.readouterr().out
    written = pd.read_csv(tmp_path / "out" / "reliability.csv")
    pd.testing.assert_frame_equal(written, found.table, check_dtype=False)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["store"]["fingerprint"] == store.fingerprint
    assert run(command) == 1
    assert "exists" in capsys.readouterr().err
    with pytest.raises(InputError, match="exists already"):
        write_reliability(found, tmp_path / "out")


def test_terminal_table_fits_80_columns(found):
    stream = io.StringIO()
    Console(file=stream, width=80).print(reliability_table(found))
    assert "…" not in stream.getvalue()
    assert "ICC(2,1)" in stream.getvalue()
