"""Features are the same whoever encodes, and what is done is not done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.cli.application import run
from semantoks.data.store import Store
from semantoks.data.workers import Lost, WorkInterruptedError
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation import shared_encoding
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.shared_encoding import ModelPlace, Sharing
from semantoks.model.checkpoint import load_encoder, save_encoder
from semantoks.model.encoder import SemantoksEncoder


@pytest.fixture(scope="module")
def model(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    torch.manual_seed(0)
    encoder = SemantoksEncoder(store.atlas, dim=16, depth=1, head_dim=8, window=20, patch=5)
    encoder.preprocessing = store.preprocessing.to_dict()
    folder = tmp_path_factory.mktemp("model") / "model"
    save_encoder(encoder, folder)
    return folder


def rows(store: Store, model: Path, sharing: Sharing | None = None, **options: Any) -> np.ndarray:
    """Encode two scans at a time."""
    return embed(
        store, load_encoder(model), windows=2, batch_size=4, sharing=sharing, **options
    ).features


def test_two_processes_encode_as_one(store: Store, model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    sharing = Sharing(ModelPlace(str(model)), workers=2, keep=tmp_path / "deep" / "kept")
    shared = rows(store, model, sharing, progress=lambda *x: seen.append(x))
    np.testing.assert_allclose(shared, rows(store, model), rtol=0, atol=1e-6)
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert list((tmp_path / "deep").iterdir()) == []


class Interruption:
    """Press Ctrl-C before a given scan."""

    def __init__(self, before: int) -> None:
        self.before = before

    def __call__(self, done: int, total: int) -> None:
        if done == self.before:
            raise KeyboardInterrupt


def test_interrupted_encoding_goes_on(store: Store, model: Path, tmp_path: Path) -> None:
    sharing = Sharing(ModelPlace(str(model)), keep=tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        rows(store, model, sharing, progress=Interruption(4))
    seen: list[int] = []
    shared = rows(store, model, sharing, progress=lambda done, _: seen.append(done))
    assert seen == [4, 5]
    np.testing.assert_allclose(shared, rows(store, model), rtol=0, atol=1e-6)
    # What was kept of other features is not taken.
    with pytest.raises(KeyboardInterrupt):
        rows(store, model, sharing, progress=Interruption(4))
    seen.clear()
    rows(store, model, sharing, features="cls", progress=lambda done, _: seen.append(done))
    assert seen == [0, 2, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_a_lost_part_is_named_and_the_rest_kept(
    store: Store, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing = Sharing(ModelPlace(str(model)), keep=tmp_path / "kept")
    honest = shared_encoding.work

    def lose(*arguments: Any, **options: Any) -> Any:
        for number, result in enumerate(honest(*arguments, **options)):
            yield Lost("killed.") if number == 1 else result

    with monkeypatch.context() as patch:
        patch.setattr(shared_encoding, "work", lose)
        with pytest.raises(WorkInterruptedError, match=r"scans '002' to '003' of .*killed\. Use"):
            rows(store, model, sharing)
    assert (tmp_path / "kept" / "0.npy").is_file()
    with pytest.raises(InputError, match="shorter than the window"):
        rows(store, model, sharing, window=25)


def test_other_files_are_noticed(store: Store, model: Path) -> None:
    reading = shared_encoding.Reading("cls", 2, None, "refuse", 4, "float32")
    with pytest.raises(InputError, match="sees another store at"):
        shared_encoding._encode(
            shared_encoding._Chunk(0, 2), store=str(store.path), fingerprint="0" * 16,
            model=ModelPlace(str(model)), reading=reading, device="cpu", weights="0" * 64,
        )  # fmt: skip
    with pytest.raises(InputError, match="finds other weights in"):
        shared_encoding._encode(
            shared_encoding._Chunk(0, 2), store=str(store.path), fingerprint=store.fingerprint,
            model=ModelPlace(str(model)), reading=reading, device="cpu", weights="0" * 64,
        )  # fmt: skip
    with pytest.raises(ConfigurationError, match="at least 1"):
        Sharing(ModelPlace(str(model)), workers=0)


def test_a_process_that_lives_on_notices_new_weights_in_an_old_folder(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = SemantoksEncoder(store.atlas, dim=16, depth=1, head_dim=8, window=20, patch=5)
        encoder.preprocessing = store.preprocessing.to_dict()
        shutil.rmtree(folder, ignore_errors=True)
        save_encoder(encoder, folder)
        found.append(rows(store, folder, Sharing(ModelPlace(str(folder)))))
        np.testing.assert_allclose(found[-1], rows(store, folder), rtol=0, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_command_line(store: Store, model: Path, tmp_path: Path) -> None:
    words = ["embed", "--data", store.path, "--model", model, "--untrained", "--windows", 2]
    for name, others in (("one", []), ("two", ["--workers", 2])):
        assert run([str(x) for x in (*words, *others, "--out", tmp_path / f"{name}.parquet")]) == 0
    one, two = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-6)
    told = [json.loads((tmp_path / f"{name}.parquet.json").read_text()) for name in ("one", "two")]
    assert told[0] == told[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}.parquet{end}" for name in ("one", "two") for end in ("", ".json")
    ]


def test_a_cluster_encodes_as_one_process(store: Store, model: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:

        def kill(done: int, total: int) -> None:
            if done == 2:
                with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
                    os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)

        sharing = Sharing(ModelPlace(str(model)), scheduler=cluster.scheduler_address)
        shared = rows(store, model, sharing, progress=kill)
    np.testing.assert_allclose(shared, rows(store, model), rtol=0, atol=1e-6)
