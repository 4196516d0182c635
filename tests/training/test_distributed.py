"""Two processes on half the batch each are one process on the whole."""

from __future__ import annotations

import csv
import json
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

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError
from semantoks.model.checkpoint import load_encoder
from semantoks.training.distributed import ALONE, Ranks, join
from semantoks.training.folder import load_checkpoint, read_json

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
    words = ["pretrain", "--data", str(store.path), "--out", str(out)]
    words += ["--recipe", "tiny"]
    return [*words, *(w for key, value in settings.items() for w in ("--set", f"{key}={value}"))]


# Forks of one process share its import of PyTorch, which is most of the seconds.
DRIVER = """
import json, os, pathlib, sys
import torch
import semantoks.training.pretraining
from semantoks.cli import run

children = []
for words, environment in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.environ.update(environment)
            torch.set_num_threads(1)
            code = run(words)
            # A thread that outlives the group aborts the process at its end, now and then.
            tasks = pathlib.Path("/proc/self/task").glob("*/comm")
            left = [name for name in (task.read_text() for task in tasks) if "gloo" in name]
            if left:
                print("threads are left:", left, file=sys.stderr)
                code = 1
        finally:
            sys.stdout.flush()
            os._exit(code)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def places(size: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for its processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"objective__kind": "ibot", "objective__prototypes": 12}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"objective__kind": "dinov2", "objective__prototypes": 12}, marks=pytest.mark.slow
        ),
        {
            "objective__kind": "dinov2",
            "objective__prototypes": 12,
            "objective__centring": "sinkhorn",
        },
    ],
    ids=["simdino", "ibot", "dinov2", "sinkhorn"],
)
def test_two_processes_are_one(store: Store, tmp_path: Path, changes: dict[str, object]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = command(store, one, **changes)
    jobs = [(command(store, two, **changes), place) for place in places(2)] + [(alone, {})]
    words = [sys.executable, "-c", DRIVER, json.dumps(jobs)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0]", done.stderr
    assert done.stdout.count("by 2 processes") == 1  # the second is silent
    assert_same_run(one, two)
    assert read_json(two / "run.json")["processes"] == 2
    assert load_encoder(two).dim == 16


@pytest.mark.slow
def test_torchrun_starts_it(store: Store, tmp_path: Path) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "semantoks"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *launcher, *command(store, tmp_path / "two")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert run([*command(store, tmp_path / "one"), "--quiet"]) == 0
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(store: Store, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "semantoks"]
    words += command(store, tmp_path / "run", optimization__epochs=3000)
    both = [subprocess.Popen(words, env={**os.environ, **place}) for place in places(2)]
    metrics = tmp_path / "run" / "metrics.csv"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 5:
        assert all(process.poll() is None for process in both)
        time.sleep(0.05)
    both[1].send_signal(signal.SIGUSR1)
    assert [process.wait(timeout=60) for process in both] == [130, 130]
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
