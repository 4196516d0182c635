"""What a pretrained model says of itself when it travels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.model.checkpoint import load_model, seen_subjects
from semantoks.training.config import configure, tiny
from semantoks.training.pretraining import pretrain

ATLAS = Atlas.from_networks({"Vis": 3, "Default": 4})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "a-telling-path", ATLAS, Preprocessing(), {}) as writer:
        for i in range(4):
            series = rng.standard_normal((len(ATLAS), 60), dtype=np.float32)
            recording = Recording(series, 2.0, ATLAS, f"scan-{i}", f"person-{i // 2}")
            writer.add(recording, np.ones(len(ATLAS), dtype=np.bool_))
        return writer.finish()


def test_a_pretrained_model_says_where_it_comes_from(store: Store, tmp_path: Path) -> None:
    sizes = {"model.dim": 16, "model.head_dim": 8, "model.depth": 1, "model.window": 40}
    lengths = {"optimization.epochs": 1, "optimization.warmup_epochs": 0, "seed": 3}
    run = pretrain(store, tmp_path / "run", configure(tiny(), sizes | lengths))
    provenance = load_model(run.folder).provenance
    assert provenance["store"]["fingerprint"] == store.fingerprint
    assert provenance["store"]["n_subjects"] == 2
    assert provenance["recipe"]["optimization"]["epochs"] == 1
    assert provenance["seed"] == 3
    assert provenance["versions"]["torch"]
    assert seen_subjects(provenance, ["person-1", "person-2"]) == ["person-1"]
    model = run.folder / "model"
    card = (model / "README.md").read_text()
    assert "2, hashed in config.json" in card
    for text in (card, (model / "config.json").read_text()):
        assert "person-1" not in text
        assert "a-telling-path" not in text  # paths of a machine stay there
    assert "path" in json.loads((run.folder / "run.json").read_text())["store"]


@pytest.mark.parametrize(
    "settings",
    [
        {"model.tokenization": "linear"},
        {"model.pooling": "attention"},
        {"model.branches": [{"kind": "dense", "kernel_size": 5}]},
    ],
)
def test_alternatives_are_pretrained_and_read_again(
    store: Store, tmp_path: Path, settings: dict[str, object]
) -> None:
    sizes = {"model.dim": 16, "model.head_dim": 8, "model.depth": 1, "model.window": 40}
    lengths = {"optimization.epochs": 1, "optimization.warmup_epochs": 0}
    run = pretrain(store, tmp_path / "run", configure(tiny(), sizes | lengths | settings))
    (name, value) = next(iter(settings.items()))
    arguments = load_model(run.folder).encoder.arguments
    if name != "model.branches":
        assert arguments[name.removeprefix("model.")] == value
    else:
        assert [branch["kernel_size"] for branch in arguments["branches"]] == [5]
