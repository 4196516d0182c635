"""--devices: several processes by one command, their exit codes, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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
from semantoks.errors import ConfigurationError, InputError
from semantoks.training import distributed as launching
from semantoks.training import folder as running
from semantoks.training.config import load_recipe
from semantoks.training.folder import graceful_stop, load_checkpoint, read_json

SETTINGS = (
    "model.dim=16",
    "model.head_dim=8",
    "model.depth=1",
    "optimization.epochs=4",
    "optimization.warmup_epochs=1",
    "optimization.batch_size=5",
    "logging.steps=1",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    atlas = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(folder, atlas, Preprocessing(), request={}) as writer:
        for i in range(10):
            series = rng.standard_normal((len(atlas), 130)).astype(np.float32)
            recording = Recording(series, 2.0, atlas, scan=f"scan-{i}", subject=f"{i}")
            writer.add(recording, np.ones(len(atlas), dtype=bool))
        return writer.finish()


def words(store: Store, out: Path, *more: str, settings: tuple[str, ...] = SETTINGS) -> list[str]:
    given = ["pretrain", "--data", str(store.path), "--out", str(out), "--recipe", "tiny"]
    return [*given, *(word for setting in settings for word in ("--set", setting)), *more]


def wait_for_steps(process: subprocess.Popen[bytes], folder: Path, steps: int) -> None:
    metrics = folder / "metrics.csv"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) <= steps:
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_two_devices_are_one(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    handler = signal.getsignal(signal.SIGTERM)
    assert run(words(store, two, "--device", "cpu", "--devices", "2")) == 0
    assert signal.getsignal(signal.SIGTERM) is handler
    said = capfd.readouterr()
    assert said.out.count("by 2 processes") == 1
    assert said.err.count("Traceback") == 0
    assert run(words(store, one, "--device", "cpu", "--quiet")) == 0
    ours, theirs = (load_checkpoint(folder).content["model"] for folder in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-5)
    assert read_json(two / "run.json")["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_stopped_saved_and_resumed(store: Store, tmp_path: Path, kind: signal.Signals) -> None:
    settings = (*SETTINGS, "optimization.epochs=3000", "device=cpu")
    out = tmp_path / "run"
    command = words(store, out, "--devices", "2", "--quiet", settings=settings)
    process = subprocess.Popen([sys.executable, "-m", "semantoks", *command])
    wait_for_steps(process, out, 4)
    process.send_signal(kind)
    process.send_signal(kind)  # at the same time: one request
    assert process.wait(timeout=60) == 130
    described = read_json(out / "run.json")
    assert described["status"] == "interrupted"
    assert load_checkpoint(out).content["step"] == described["step"] >= 4
    again = ["pretrain", "--data", str(store.path), "--out", str(out), "--resume", "--devices", "2"]
    process = subprocess.Popen([sys.executable, "-m", "semantoks", *again, "--quiet"])
    wait_for_steps(process, out, described["step"] + 2)
    process.send_signal(kind)
    assert process.wait(timeout=60) == 130
    assert read_json(out / "run.json")["step"] > described["step"]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all(store: Store, tmp_path: Path) -> None:
    settings = (*SETTINGS, "optimization.epochs=3000", "device=cpu")
    command = words(store, tmp_path / "run", "--devices", "2", "--quiet", settings=settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "semantoks", *command], stderr=subprocess.PIPE
    )
    wait_for_steps(process, tmp_path / "run", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.is_file():
        process.send_signal(signal.SIGINT)
        process.wait()
        pytest.skip("this system does not say what the children of a process are")
    second = int(children.read_text().split()[1])
    os.kill(second, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"process 1 of 2 was ended by SIGKILL" in errors.replace(b"\n", b" ")


def test_the_exit_code_of_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert launching.launch(["--version"], 2) == 0
    assert len(capfd.readouterr().out.split()) == 2
    assert launching.launch(["pretain"], 2) == 2


def test_verdicts() -> None:
    assert launching._verdict([0, 0], stopped=False) == 0
    assert launching._verdict([0, 0], stopped=True) == 0
    assert launching._verdict([130, 130], stopped=True) == 130
    assert launching._verdict([-2, None], stopped=True) == 130  # before the first step
    assert launching._verdict([None, 2], stopped=False) == 2
    assert launching._verdict([1, 130], stopped=True) == 1
    with pytest.raises(InputError, match="process 1 of 2 was ended by SIGKILL"):
        launching._verdict([1, -9], stopped=False)


def test_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launching.check_devices(2, "auto")
    launching.check_devices(8, "cpu")
    with pytest.raises(ConfigurationError, match="this machine has 2"):
        launching.check_devices(3, "cuda")
    with pytest.raises(ConfigurationError, match="cannot share device cuda:1"):
        launching.check_devices(2, "cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(words(store, tmp_path / "run", "--device", "cpu", "--devices", "2")) == 2
    monkeypatch.delenv("WORLD_SIZE")
    assert run(words(store, tmp_path / "run", "--devices", "0")) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
def test_a_command_that_is_stopped_says_how_to_go_on(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: signal.Signals
) -> None:
    out = tmp_path / "a run"

    def stop() -> None:
        while not (out / "metrics.csv").is_file() or (out / "metrics.csv").stat().st_size < 1000:
            time.sleep(0.01)
        os.kill(os.getpid(), kind)

    waiting = threading.Thread(target=stop, daemon=True)
    waiting.start()
    settings = (*SETTINGS, "optimization.epochs=3000", "device=cpu")
    assert run(words(store, out, settings=settings)) == 130
    waiting.join()
    described = read_json(out / "run.json")
    assert load_checkpoint(out).content["step"] == described["step"] > 0
    said = capsys.readouterr().out
    assert f"--out '{out}' --resume" in said  # as a shell reads it


def test_flags_are_settings(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    both = ["--device", "cpu", "--set", "device=cuda"]
    assert run(words(store, out, *both)) == 2
    assert "contradict" in capsys.readouterr().err
    assert run(words(store, out, "--precision", "float64")) == 2
    assert not out.exists()
    given = ["--precision", "bf16", "--device", "cpu", "--set", "precision=bf16", "--quiet"]
    assert run(words(store, out, *given)) == 0
    configuration = load_recipe(str(out / "config.yaml"))
    assert (configuration.precision, configuration.device) == ("bf16", "cpu")
    assert read_json(out / "run.json")["precision"] == "bf16"


def test_signals_at_the_same_time_are_one_request(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    now = 100.0
    monkeypatch.setattr(running.time, "monotonic", lambda: now)
    # A shell lets what it starts in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with graceful_stop() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        now += 0.5
        signal.raise_signal(signal.SIGUSR1)  # a cluster that tells parent and child
        assert stopped()
        now += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
