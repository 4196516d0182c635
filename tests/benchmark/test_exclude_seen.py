"""People that a model was pretrained on can be left out of what it is tested on."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from semantoks.cli.application import run
from semantoks.evaluation.embedding import write_embeddings
from semantoks.model.checkpoint import hash_subjects, save_encoder
from semantoks.model.encoder import SemantoksEncoder


@pytest.fixture
def command(store, noise, tmp_path) -> list[str]:
    write_embeddings(noise, tmp_path / "noise.parquet")
    words = ["probe", "--data", str(store.path), "--target", "diagnosis", "--repeats", "1"]
    words += ["--embeddings", str(tmp_path / "noise.parquet"), "--out", str(tmp_path / "out")]
    return [*words, "--exclude-seen", str(tmp_path / "model")]


def save(store, tmp_path, provenance: dict) -> None:
    encoder = SemantoksEncoder(store.atlas, dim=64, depth=0, window=20, patch=10)
    save_encoder(encoder, tmp_path / "model", provenance=provenance)


def test_seen_people_take_no_part_in_training_or_test(store, tmp_path, command, capsys):
    seen = [f"{i:03d}" for i in range(0, 60, 3)]
    save(store, tmp_path, {"subjects": hash_subjects(seen, salt="other")})
    assert run(command) == 0
    assert "40 scans of subjects that the models were trained on" in capsys.readouterr().out
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert not {*predictions["subject"]} & {*seen}
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    used = {scan for fold in splits["folds"] for scan in fold["train"] + fold["test"]}
    assert not {scan[:3] for scan in used} & {*seen}
    assert len(json.loads((tmp_path / "out" / "settings.json").read_text())["leave_out"]) == 40


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({}, "does not say whom it was trained on"),
        ({"store": {"fingerprint": None}}, "was trained on this very store"),
    ],
)
def test_nobody_left_and_nothing_known_are_refused(
    store, tmp_path, command, capsys, provenance, message
):
    if provenance:
        provenance = {"store": {"fingerprint": store.fingerprint}}
    save(store, tmp_path, provenance)
    assert run(command) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert str(tmp_path / "model") in error
    assert not (tmp_path / "out").exists()
