"""Where windows come from changes no number: the device, the store, or the store read ahead."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.model.checkpoint import load_encoder
from semantoks.training import batches
from semantoks.training.batches import Resident, Streamed, choose_residence, read_ahead
from semantoks.training.config import Configuration, configure, same_run, tiny, to_yaml
from semantoks.training.folder import Progress
from semantoks.training.learner import Learner
from semantoks.training.pretraining import pretrain

ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})
CPU = torch.device("cpu")
WAYS = (("device", 2), ("stream", 0), ("stream", 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path_factory.mktemp("x") / "store", ATLAS, Preprocessing(), {}) as writer:
        for i in range(14):
            series = rng.standard_normal((len(ATLAS), 120 + 7 * i)).astype(np.float32)
            recording = Recording(series, 2.0, ATLAS, scan=f"scan-{i}", subject=f"{i % 12}")
            writer.add(recording, np.ones(len(ATLAS), dtype=bool))
        return writer.finish()


def recipe(residence: str, ahead: int, **changes: object) -> Configuration:
    small = {
        "model.dim": 16,
        "model.head_dim": 8,
        "model.depth": 1,
        "optimization.epochs": 4,
        "optimization.warmup_epochs": 1,
        "optimization.batch_size": 4,
        "logging.checkpoint_epochs": 1,
        "device": "cpu",
        "views.residence": residence,
        "views.ahead": ahead,
    }
    return configure(tiny(), small | changes)


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("semantoks-windows")]


def assert_same(a: Path, b: Path) -> None:
    ours, theirs = (load_encoder(run).state_dict() for run in (a, b))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_windows_are_the_stores(store: Store) -> None:
    rng = np.random.default_rng(1)
    scans = rng.integers(len(store), size=40)
    starts = rng.integers(store.lengths[scans] - 99)
    expected = store.windows(scans, starts, 100)
    for source in (Resident(store, CPU, 100), Streamed(store, CPU, 100)):
        found = source.read(scans, starts)
        assert (found.dtype, found.shape) == (torch.float16, (40, 100, 9))
        np.testing.assert_array_equal(found.float().transpose(1, 2).numpy(), expected)


def test_a_cohort_goes_to_the_device_in_blocks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_BLOCK", 1000)
    found = Resident(store, CPU, 100).samples
    np.testing.assert_array_equal(found.numpy(), store.samples)


def test_batches_are_bitwise_the_same(store: Store) -> None:
    drawn = []
    for residence, ahead in WAYS:
        learner = Learner(store, recipe(residence, ahead))
        assert learner.batches.residence == residence
        drawn.append(list(learner.batches.after(1)))
    assert len(drawn[0]) == 11
    for ours, *others in zip(*drawn, strict=True):
        for theirs in others:
            assert torch.equal(ours.views, theirs.views)
            assert ours.views.stride() == theirs.views.stride()
            assert (ours.masks is None) == (theirs.masks is None)
            assert ours.masks is None or torch.equal(ours.masks, theirs.masks)
    assert readers() == []


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_how_many_steps_are_masked(store: Store, probability: float) -> None:
    changes = {"masks.probability": probability, "optimization.epochs": 100}
    batches = Learner(store, recipe("device", 0, **changes)).batches
    masked = [batch.masks is not None for batch in batches.after(0)]
    assert len(masked) == 300
    assert np.mean(masked) == pytest.approx(probability, abs=0.08)  # 2.8 standard errors at .5
    if 0 < probability < 1:  # drawn a step, not in turn
        assert len(set(itertools.pairwise(masked))) == 4


def test_runs_are_bitwise_the_same(store: Store, tmp_path: Path) -> None:
    for i, (residence, ahead) in enumerate(WAYS):
        pretrain(store, tmp_path / str(i), recipe(residence, ahead))
        assert_same(tmp_path / "0", tmp_path / str(i))
        described = json.loads((tmp_path / str(i) / "run.json").read_text())
        assert described["residence"] == residence


def test_stopped_here_and_resumed_there(store: Store, tmp_path: Path) -> None:
    def stop(row: Progress) -> None:
        if row.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    pretrain(store, tmp_path / "whole", recipe("stream", 0))
    part = pretrain(store, tmp_path / "part", recipe("stream", 3), progress=stop)
    assert (part.status, part.step) == ("interrupted", 5)
    assert readers() == []  # those that read ahead are gone
    pretrain(store, tmp_path / "part", recipe("device", 0), resume=True)
    assert_same(tmp_path / "whole", tmp_path / "part")
    with pytest.raises(ConfigurationError, match="another configuration"):
        pretrain(store, tmp_path / "part", recipe("device", 0, seed=3), resume=True)


def test_an_error_of_a_reader_stops_the_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Store.stored_windows, []

    def torn(self: Store, *args: object, **kwargs: object) -> object:
        seen.append(threading.current_thread() is threading.main_thread())
        if len(seen) == 4:
            raise OSError(5, "Input/output error")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "stored_windows", torn)
    done: list[int] = []
    with pytest.raises(OSError, match="Input/output"):
        pretrain(
            store, tmp_path / "run", recipe("stream", 1), progress=lambda row: done.append(row.step)
        )
    assert done == [1, 2, 3]  # what came before is used
    assert not any(seen)
    assert readers() == []


def test_no_more_than_asked_for_is_read_ahead() -> None:
    begun: list[int] = []
    for number, result in read_ahead(itertools.count(), lambda n: begun.append(n), ahead=3):
        assert result is None
        time.sleep(0.005)
        assert number + 1 <= len(begun) <= number + 4
        if number == 10:
            break


def test_results_come_in_order() -> None:
    def work(number: int) -> int:
        time.sleep(0.004 if number % 2 == 0 else 0)
        return -number

    for ahead in (0, 1, 5, 50):
        assert list(read_ahead(range(20), work, ahead)) == [(n, -n) for n in range(20)]
    assert list(read_ahead([], work, 2)) == []


def test_jobs_that_are_not_begun_are_dropped() -> None:
    begun: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        return number

    iteration = read_ahead(range(100), slow, ahead=40)
    next(iteration)
    iteration.close()
    assert len(begun) < 12
    assert readers() == []


def test_auto(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_residence("auto", store, CPU) == "stream"
    assert choose_residence("device", store, CPU) == "device"
    monkeypatch.setattr(batches, "_free_memory", lambda device: 3.1 * store.samples.nbytes)
    assert choose_residence("auto", store, CPU) == "device"
    assert choose_residence("stream", store, CPU) == "stream"
    monkeypatch.setattr(batches, "_free_memory", lambda device: 2.9 * store.samples.nbytes)
    assert choose_residence("auto", store, CPU) == "stream"


def test_no_room_on_the_device(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore.")

    monkeypatch.setattr(batches.torch, "empty", full)
    with pytest.raises(InputError, match=r"out of memory.*views.residence=stream"):
        Resident(store, CPU, 100)


def test_which_configurations_go_on_with_a_run() -> None:
    written = to_yaml(recipe("stream", 2))
    assert same_run(written, recipe("device", 0))
    assert not same_run(written, recipe("device", 0, seed=2))
    older = "\n".join(x for x in written.splitlines() if "residence" not in x and "ahead" not in x)
    assert older != written
    assert same_run(older, recipe("auto", 2))  # of a version without these keys
    assert not same_run("model: [", recipe("auto", 2))
    assert not same_run("unknown: 1", recipe("auto", 2))


def anonymous() -> int:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in x)
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells RssAnon")
def test_streaming_takes_no_memory_of_the_cohorts_size(store: Store, tmp_path: Path) -> None:
    length, scans = 10_000, 400  # 72 MB, of which the file holds nothing
    samples = np.memmap(
        tmp_path / "series", dtype=np.float16, mode="w+", shape=(scans * length, len(ATLAS))
    )
    large = replace(
        store,
        offsets=np.arange(scans) * length,
        lengths=np.full(scans, length),
        samples=np.memmap(tmp_path / "series", dtype=np.float16, mode="r", shape=samples.shape),
    )
    source = Streamed(large, CPU, 1000)
    jobs = [(np.full(8, scan), np.arange(8) * 1000) for scan in range(scans)]
    most, before = 0, anonymous()
    for _, windows in read_ahead(jobs, lambda job: source.read(*job), ahead=2):
        assert windows.shape == (8, 1000, 9)
        most = max(most, anonymous() - before)
    assert most < 15e6
