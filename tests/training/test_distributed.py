"""Two processes on half the batch each are one process on the whole."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.recording import Recording
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError
from semantoks.model.checkpoint import load_encoder
from semantoks.training.distributed import ALONE, Ranks, join
from semantoks.training.run import load_checkpoint, read_json

ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})
SETTINGS = {
    "model.dim": 16,
    "model.head_dim": 8,
    "model.depth": 1,
    "optimization.epochs": 6,
    "optimization.warmup_epochs": 1,
    "optimization.batch_size": 5,  # odd: the parts of two processes differ
    "objective.summary_share": 0.5,
    "logging.steps": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(folder, ATLAS, Preprocessing(), request={}) as writer:
        for i in range(10):
            series = rng.standard_normal((len(ATLAS), 130)).astype(np.float32)
            valid = np.ones(len(ATLAS), dtype=bool)
            valid[3:5] = i != 4  # one scan lacks a network: not every process sees it
            series[~valid] = 0
            writer.add(Recording(series, 2.0, ATLAS, scan=f"scan-{i}", subject=f"{i}"), valid)
        return writer.finish()


def command(store: Store, out: Path, **changes: object) -> list[str]:
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    words = ["-m", "semantoks", "pretrain", "--data", str(store.path), "--out", str(out)]
    words += ["--recipe", "tiny"]
    return [*words, *(w for key, value in settings.items() for w in ("--set", f"{key}={value}"))]


def start(words: list[str], size: int) -> list[subprocess.Popen[str]]:
    """Start processes as torchrun does, without its seconds."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen(
                [sys.executable, *words], env=environment, stdout=pipe, stderr=pipe, text=True
            )
        )
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [out for out, _ in said]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_same_run(one: Path, two: Path) -> None:
    ours, theirs = rows(one / "metrics.csv"), rows(two / "metrics.csv")
    assert len(ours) == len(theirs) == 12
    assert {row["masked"] for row in ours} == {"True", "False"}
    assert len([row for row in ours if row["summary"]]) == 6
    for a, b in zip(ours, theirs, strict=True):
        for name in set(a) - {"seconds", "masked"}:
            assert (a[name] == "") == (b[name] == "")
            assert float(a[name] or 0) == pytest.approx(float(b[name] or 0), abs=1e-5, rel=1e-5)
    states = [load_checkpoint(run).content["model"] for run in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-5)


def test_two_processes_are_one(store: Store, tmp_path: Path) -> None:
    both = start(command(store, tmp_path / "two"), 2)
    from semantoks.cli import run

    assert run([*command(store, tmp_path / "one")[2:], "--quiet"]) == 0
    first, second = finish(both)
    assert "by 2 processes" in first
    assert second == ""
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert read_json(tmp_path / "two" / "run.json")["processes"] == 2
    assert load_encoder(tmp_path / "two").dim == 16


@pytest.mark.slow
def test_torchrun_starts_it(store: Store, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *launcher, "--standalone", *command(store, tmp_path / "two")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    finish(start(command(store, tmp_path / "one"), 1))
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(store: Store, tmp_path: Path) -> None:
    words = command(store, tmp_path / "run", optimization__epochs=3000)
    both = start(words, 2)
    metrics = tmp_path / "run" / "metrics.csv"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 5:
        assert all(process.poll() is None for process in both)
        time.sleep(0.05)
    both[1].send_signal(signal.SIGUSR1)
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [130, 130]
    assert read_json(tmp_path / "run" / "run.json")["status"] == "interrupted"


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as ranks:
        assert ranks is ALONE
    assert ALONE.share(3) is None


@pytest.mark.parametrize(("total", "size"), [(5, 2), (512, 3), (4, 4)])
def test_shares_cover_the_batch(total: int, size: int) -> None:
    shares = [Ranks(rank, size).share(total) for rank in range(size)]
    seen = [i for share in shares if share for i in range(share.start, share.stop)]
    assert seen == list(range(total))


def test_more_processes_than_scans() -> None:
    with pytest.raises(InputError, match="5 processes cannot share a batch of 4"):
        Ranks(0, 5).share(4)
