"""What a run will need, told before it: counts that can be checked, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError
from semantoks.training.config import Configuration, configure, tiny
from semantoks.training.forecast import forecast
from semantoks.training.pretraining import pretrain

ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(folder, ATLAS, Preprocessing(), request={}) as writer:
        for i in range(16):
            series = rng.standard_normal((len(ATLAS), 130)).astype(np.float32)
            recording = Recording(series, 2.0, ATLAS, scan=f"scan-{i}", subject=f"{i}")
            writer.add(recording, np.ones(len(ATLAS), dtype=bool))
        return writer.finish()


def recipe(**changes: object) -> Configuration:
    small = {"model.dim": 32, "optimization.batch_size": 8, "optimization.epochs": 10}
    return configure(tiny(), {**small, "device": "cpu"} | changes)


def test_a_plan_that_can_be_checked(store: Store, tmp_path: Path) -> None:
    needs = forecast(store, tmp_path / "run", recipe())
    assert list(tmp_path.iterdir()) == []  # nothing is written
    run = pretrain(store, tmp_path / "run", recipe())
    assert needs.steps == run.steps == 20
    described = json.loads((run.folder / "run.json").read_text())
    assert needs.parameters == described["parameters"]
    assert needs.bytes_gradients == 4 * needs.parameters
    assert needs.bytes_weights >= 2 * needs.bytes_gradients
    assert needs.bytes_optimizer == pytest.approx(2 * needs.bytes_gradients, rel=0.01)
    (newest, *_) = (run.folder / "checkpoints").glob("*.pt")
    written = (
        newest.stat().st_size * 3 + (run.folder / "model" / "model.safetensors").stat().st_size
    )
    assert needs.bytes_disk == pytest.approx(written, rel=0.3)
    # A step's time is mostly overhead here, and other tests run beside: within a factor.
    assert run.seconds / 4 < needs.seconds < 4 * run.seconds


def test_flops_follow_the_width(store: Store, tmp_path: Path) -> None:
    narrow, wide = (
        forecast(store, tmp_path / "run", recipe(**{"model.dim": dim}), patience=0.0)
        for dim in (32, 64)
    )
    assert 2 < wide.flops_student / narrow.flops_student < 4.2
    # Backward costs twice a forward, but for the inputs, of which no gradient is asked.
    assert 2.3 < wide.flops_student / wide.flops_teacher < 3.05
    assert narrow.steps_measured == 2


def test_command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "--data", str(store.path), "--out", str(tmp_path / "run")]
    words += ["--recipe", "tiny", "--set", "device=cpu", "--dry-run"]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert "nothing was written" in printed
    assert "time of the run" in printed
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["processes"] == 1
    assert run([*words, "--resume"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_would_refuse(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no steps to measure"):
        forecast(store, tmp_path / "run", recipe(**{"optimization.epochs": 0}))
    with pytest.raises(InputError, match="exists"):
        forecast(store, tmp_path, recipe())
