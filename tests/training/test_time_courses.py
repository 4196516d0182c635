"""Time courses in a run: their start, what training does to them, what the folder keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.cli.application import run as semantoks
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.config import Configuration, configure, tiny
from semantoks.training.plan import make_model, mean_correlation
from semantoks.training.pretraining import pretrain

ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(0)
    mixture = rng.standard_normal((9, 9))
    path = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(path, ATLAS, Preprocessing(), request={}) as writer:
        for i in range(8):
            series = mixture @ rng.standard_normal((9, 130))
            series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
            who = Recording(series.astype(np.float32), 2.0, ATLAS, scan=f"s{i}", subject=f"{i}")
            writer.add(who, np.ones(9, dtype=bool))
        return writer.finish()


def recipe(**changes: object) -> Configuration:
    small = {
        "model.dim": 16,
        "model.head_dim": 8,
        "model.depth": 1,
        "model.time_courses": 2,
        "model.time_course_start": "principal",
        "optimization.epochs": 2,
        "optimization.warmup_epochs": 1,
        "optimization.batch_size": 4,
    }
    return configure(tiny(), small | changes)


def test_mean_correlation_is_that_of_numpy(store: Store) -> None:
    each = [np.corrcoef(store.series(i)) for i in range(8)]
    np.testing.assert_allclose(mean_correlation(store).numpy(), np.mean(each, 0), atol=1e-3)
    some = mean_correlation(store, scans=2).numpy()
    np.testing.assert_allclose(some, np.mean([each[0], each[7]], 0), atol=1e-3)


def test_run_starts_at_principal_components_and_moves_on(store: Store, tmp_path: Path) -> None:
    first = make_model(store, recipe()).student.encoder.synchrony
    assert first is not None
    own = mean_correlation(store).numpy()[:3, :3]
    leading = np.linalg.eigh(own)[1][:, -1]
    assert abs(float(first.weights[0][0].detach().numpy() @ leading)) == pytest.approx(1, abs=1e-5)
    pretrain(store, tmp_path / "run", recipe())
    trained = load_encoder(tmp_path / "run").synchrony
    assert trained is not None
    pairs = zip(first.weights, trained.weights, strict=True)
    moved = [float((a - b).detach().abs().max()) for a, b in pairs]
    assert min(moved) > 1e-6
    assert max(moved) < 1
    pretrain(store, tmp_path / "untrained", recipe(**{"optimization.epochs": 0}))
    start = load_encoder(tmp_path / "untrained").synchrony
    assert start is not None
    for a, b in zip(first.weights, start.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_rest_of_a_run_is_that_of_one_without(store: Store) -> None:
    changes = {"model.time_courses": 0, "model.time_course_start": "random"}
    torch.manual_seed(0)
    plain = make_model(store, recipe(**changes)).student.encoder
    assert isinstance(plain, SemantoksEncoder)
    torch.manual_seed(0)
    withal = make_model(store, recipe()).student.encoder.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(withal[name], value, rtol=0, atol=0)


def test_command_reads_them_out(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(store, tmp_path / "run", recipe(**{"optimization.epochs": 0}))
    words = ["embed", "--data", store.path, "--model", tmp_path / "run", "--out"]
    done = semantoks([*map(str, words), str(tmp_path / "f.csv"), "--features", "cls+synchrony"])
    assert done == 0
    head = (tmp_path / "f.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.endswith("cls_0015,synchrony_Vis_01~Vis_00," + head.split("Vis_00,", 1)[1])
    refused = [*map(str, words), str(tmp_path / "g.csv"), "--features", "cls+synchroni"]
    assert semantoks(refused) == 2
    assert "Did you mean 'synchrony'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "g.csv").exists()
