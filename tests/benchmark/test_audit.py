"""A score that is that of the site is found out, and people who were seen are named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from semantoks.benchmark.audit import Audit, audit, audit_table
from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import Embeddings, write_embeddings
from semantoks.model.checkpoint import hash_subjects, save_encoder
from semantoks.model.encoder import SemantoksEncoder

SITES = ("Bonn", "Oslo", "Rome")
QUICK = {"n_folds": 3, "n_draws": 100}


@pytest.fixture(scope="module")
def sited(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return people whose diagnosis goes with the site; their series are noise."""
    atlas = Atlas.from_networks({"Vis": 3, "Cont": 2}, name="tiny")
    random = np.random.default_rng(0)
    twin = random.standard_normal((5, 40))
    path: Path = tmp_path_factory.mktemp("audit") / "store"
    with StoreWriter(path, atlas, Preprocessing(min_samples=20), {}) as writer:
        for person in range(120):
            site = person % 3
            phenotypes = {
                "diagnosis": "patient" if random.random() < (0.15, 0.5, 0.85)[site] else "control",
                "coin": "heads" if random.random() < 0.5 else "tails",
                "age": float(random.uniform(8, 40)),
                "group": "rare" if person in (1, 2) else "ab"[person % 2],
            }
            recording = Recording(
                (twin if person in (5, 7) else random.standard_normal((5, 40))).astype(np.float32),
                t_r=(2.0, 2.0, 3.0)[site],
                atlas=atlas,
                scan=f"{person:03d}",
                subject=f"{person:03d}",
                site=SITES[site] if person else "Lone",
                motion=float(random.uniform(0, 0.5)),
                phenotypes=phenotypes,
            )
            writer.add(recording, np.ones(5, dtype=bool))
        return writer.finish(())


def embeddings_of(store: Store, values: np.ndarray) -> Embeddings:
    frame = pd.DataFrame(values, columns=[f"mean_{i:04d}" for i in range(values.shape[1])])
    frame.insert(0, "scan", store.scans["scan"].to_numpy())
    return Embeddings(frame, {"store": {"fingerprint": store.fingerprint}})


@pytest.fixture(scope="module")
def site_only(sited) -> Embeddings:
    """Return features that hold the site and nothing else."""
    random = np.random.default_rng(1)
    code = pd.factorize(sited.scans["t_r"].astype(str) + sited.scans["site"])[0]
    return embeddings_of(sited, 2 * np.eye(4)[code] + 0.5 * random.standard_normal((120, 4)))


@pytest.fixture(scope="module")
def honest(sited) -> Embeddings:
    """Return features that hold the diagnosis and nothing else."""
    random = np.random.default_rng(2)
    patient = (sited.scans["diagnosis"] == "patient").to_numpy()[:, None]
    return embeddings_of(sited, 1.5 * patient + random.standard_normal((120, 4)))


@pytest.fixture(scope="module")
def found(sited, site_only, honest) -> Audit:
    seen = hash_subjects([f"{i:03d}" for i in range(0, 120, 4)], salt="other")
    return audit(
        sited,
        {"site only": site_only, "honest": honest},
        target="diagnosis",
        provenances={"model": {"subjects": seen}, "old": {}},
        **QUICK,
    )


def score(found: Audit, method: str, quantity: str, preparation: str = "none", split="subject"):
    rows = found.table.query(
        "method == @method and quantity == @quantity and preparation == @preparation "
        "and split == @split and metric in ('balanced_accuracy', 'r2')"
    )
    assert len(rows) == 1
    return rows.iloc[0]


def above_chance(row: pd.Series) -> bool:
    return bool(row["low"] > row["chance"])


def test_a_score_that_is_the_sites_is_caught(found):
    assert above_chance(score(found, "site only", "diagnosis"))
    assert not above_chance(score(found, "site only", "diagnosis", "regression"))
    assert not above_chance(score(found, "site only", "diagnosis", "combat"))
    assert not above_chance(score(found, "site only", "diagnosis", split="site"))
    assert score(found, "site only", "site")["value"] > 0.95
    assert score(found, "site only", "t_r")["value"] > 0.95
    text = "\n".join(found.warnings)
    assert "The site explains diagnosis: Cramér's V 0." in text
    assert "site only tells diagnosis" in text
    assert "but not after confounds regressed out" in text
    assert "but not after ComBat" in text
    assert "but not at sites that were not learned from" in text
    assert "site only tells the site: balanced accuracy" in text


def test_a_score_that_is_the_diagnosis_stays(found):
    for where in ({}, {"preparation": "regression"}, {"preparation": "combat"}, {"split": "site"}):
        assert above_chance(score(found, "honest", "diagnosis", **where))
    assert not any("honest tells diagnosis" in line for line in found.warnings)
    assert not above_chance(score(found, "honest", "motion"))


def test_connectivity_and_confounds_are_beside(found):
    assert above_chance(score(found, "site alone", "diagnosis"))
    assert score(found, "site alone", "diagnosis")["chance"] == 0.5
    assert above_chance(score(found, "confounds alone", "diagnosis"))
    assert not above_chance(score(found, "connectivity", "diagnosis"))
    assert set(found.table["quantity"]) == {"site", "motion", "t_r", "diagnosis"}
    assert set(found.table["metric"]) >= {"auc", "f1", "mae", "pearson_r"}


def test_a_target_that_is_no_sites_business_is_not_warned_of(sited):
    coin = audit(sited, {}, target="coin", **QUICK)
    assert not any("explains coin" in line for line in coin.warnings)
    assert coin.settings["site_and_target"]["p"] > 0.01
    age = audit(sited, {}, target="age", **QUICK)
    assert age.settings["site_and_target"]["measure"] == "η²"
    assert score(age, "confounds alone", "age")["chance"] == 0


def test_small_sites_are_left_out_and_said(found):
    assert found.settings["n_scans"] == 119
    assert any("1 scan(s) without a site or of sites" in note for note in found.settings["notes"])


def test_people_who_were_seen_are_named(sited, found):
    seen = found.scans.query("model == 'model' and seen == 'true'")
    assert list(seen["subject"]) == [f"{i:03d}" for i in range(0, 120, 4)]
    assert set(found.scans.query("model == 'old'")["seen"]) == {"unknown"}
    assert found.settings["contamination"]["model"]["n_seen"] == 30
    said = "on people of the same identifiers as those of 30 of 120 scans"
    assert said in found.warnings[1]
    assert "Identifiers alone are compared" in found.warnings[1]
    assert "not known whom model old was trained on" in found.warnings[2]
    same = audit(
        sited,
        {},
        target="coin",
        provenances={"m": {"store": {"fingerprint": sited.fingerprint}}},
        **QUICK,
    )
    assert "trained on the people of 120 of 120 scans" in "".join(same.warnings)
    assert same.settings["contamination"]["m"] == {
        "known": "all scans",
        "n_seen": 120,
        "n_scans": 120,
    }


def test_a_recording_under_two_ids_is_named(found):
    assert found.settings["same_recordings"] == [["005", "007"]]
    assert "1 pair(s) of scans" in found.warnings[0]
    assert "005 and 007" in found.warnings[0]


def test_nothing_to_audit_is_said(store, monkeypatch):
    plain = store.scans.assign(site="", length=80)
    monkeypatch.setitem(store.__dict__, "scans", plain)
    with pytest.raises(InputError, match="nothing to audit"):
        audit(store, {})
    alone = audit(store, {}, target="diagnosis", **QUICK)
    assert set(alone.table["preparation"]) == {"none"}
    assert "No sites" in alone.settings["notes"][0]


def test_names_of_baselines_are_refused(sited, honest):
    with pytest.raises(ConfigurationError, match="'site alone' is the name of a baseline"):
        audit(sited, {"site alone": honest})


def test_command_writes_and_prints(sited, honest, tmp_path, capsys):
    write_embeddings(honest, tmp_path / "honest.parquet")
    encoder = SemantoksEncoder(sited.atlas, dim=64, depth=0, window=20, patch=10)
    provenance = {"subjects": hash_subjects(["001"], salt="other")}
    save_encoder(encoder, tmp_path / "model", provenance=provenance)
    command = ["audit", "--data", str(sited.path), "--out", str(tmp_path / "out"), "--folds", "3"]
    command += ["--embeddings", str(tmp_path / "honest.parquet")]
    command += ["--model", str(tmp_path / "model"), "--target", "diagnosis"]
    assert run(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "was trained on people of the same identifiers as those of 1 of 120 scans" in printed
    table = pd.read_csv(tmp_path / "out" / "audit.csv")
    assert {"honest", "connectivity", "site alone", "confounds alone"} == set(table["method"])
    scans = pd.read_csv(tmp_path / "out" / "scans.csv", dtype=str)
    assert scans.loc[scans["seen"] == "true", "subject"].tolist() == ["001"]
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["site_and_target"]["measure"] == "Cramér's V"
    assert content["warnings"]
    assert run(command) == 1


def test_scans_that_are_left_out_take_no_part(sited, honest, tmp_path, capsys):
    write_embeddings(honest, tmp_path / "honest.parquet")
    command = ["audit", "--data", str(sited.path), "--folds", "3", "--draws", "50"]
    command += ["--embeddings", str(tmp_path / "honest.parquet"), "--leave-out", "005"]
    assert run([*command, "--leave-out", "0x7", "--out", str(tmp_path / "out")]) == 1
    assert "'0x7' is to be left out" in " ".join(capsys.readouterr().err.split())
    assert run([*command, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (content["n_scans"], content["leave_out"], content["n_draws"]) == (118, ["005"], 50)
    assert content["same_recordings"] == []
    seen = audit(
        sited,
        {},
        target="coin",
        provenances={"m": {"store": {"fingerprint": sited.fingerprint}}},
        leave_out=["005", "007"],
        **QUICK,
    )
    assert seen.settings["contamination"]["m"]["n_scans"] == 118
    assert not {*seen.scans["scan"]} & {"005", "007"}


def test_every_score_has_an_interval_that_is_printed(found):
    defined = found.table[found.table["value"].notna()]
    assert defined[["low", "high"]].notna().all(axis=None)
    inside = defined["value"].between(defined["low"], defined["high"])
    assert inside.mean() > 0.95  # a percentile interval of few draws may miss
    stream = io.StringIO()
    Console(file=stream, width=80).print(audit_table(found))
    for preparation in ("none", "regression", "combat"):
        row = score(found, "honest", "diagnosis", preparation)
        shown = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        assert shown in stream.getvalue()


def test_terminal_table_fits_80_columns(found):
    stream = io.StringIO()
    Console(file=stream, width=80).print(audit_table(found))
    text = stream.getvalue()
    assert "…" not in text
    assert "diagnosis, one site left out" in text
    assert "chance 0.500" in text


def test_rare_classes_of_a_target_are_left_out_and_said(sited):
    found = audit(sited, {}, target="group", **QUICK)
    assert found.settings["notes"].count("group: 1 value(s) of fewer than 3 subjects are left out.")
    rows = found.table[found.table["quantity"] == "group"]
    assert {*rows["n_classes"]} == {2}
    assert "confounds alone" in {*rows["method"]}
    assert len([note for note in found.settings["notes"] if note.startswith("group: 1")]) == 1
