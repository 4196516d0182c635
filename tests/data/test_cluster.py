"""Preparation on a Dask cluster, one worker of which is killed while it works."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
from semantoks.data.signal import Preprocessing
from semantoks.data.store import partial_folder
from semantoks.data.store_writer import StoreWriter
from semantoks.data.workers import WorkInterruptedError, work
from semantoks.errors import InputError

distributed = pytest.importorskip("distributed", reason="Dask is not installed")

ATLAS = Atlas.from_networks({"Vis": 10, "Default": 10}, name="tiny20")
PARTS = ("series.npy", "index.npy", "valid.npy", "scans.parquet", "quality.parquet", "refused.csv")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two processes of this machine."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with scans, of which one is too short and one a copy."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(75):
        noise = np.random.default_rng(0 if i == 72 else i).standard_normal((20, 130))
        np.save(folder / f"s{i:02}.npy", noise[:, :50] if i == 70 else noise)
    return folder


def test_a_cluster_writes_the_store_of_one_process(
    tmp_path: Path, source: Path, cluster: Any
) -> None:
    prepare(source, tmp_path / "one", atlas=ATLAS, t_r=2.0)
    victims: list[int] = []

    def kill(done: int, total: int) -> None:
        if done == 5:
            with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
                victims.extend(client.run(os.getpid).values())
            os.kill(victims[0], signal.SIGKILL)

    report = prepare(
        source,
        tmp_path / "two",
        atlas=ATLAS,
        t_r=2.0,
        scheduler=cluster.scheduler_address,
        progress=kill,
    )
    assert (len(victims), report.n_written) == (2, 73)
    for part in PARTS:
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


def test_cancelled_work_can_be_taken_up(tmp_path: Path, cluster: Any) -> None:
    address = cluster.scheduler_address
    done = work(time.sleep, [0, 2, 2], scheduler=address)
    assert next(done) is None
    with distributed.Client(address, set_as_default=False) as client:
        keys = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
        client.cancel([distributed.Future(key, client) for key in keys], force=True)
    with pytest.raises(WorkInterruptedError, match=f"{address} is gone, or has canc") as caught:
        next(done)
    with (
        pytest.raises(WorkInterruptedError),
        StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}),
    ):
        raise caught.value
    assert partial_folder(tmp_path / "store").is_dir()


def test_errors_of_jobs_come_back_in_order(cluster: Any) -> None:
    done = work(lambda x: 1 // x, [2, 1, 0, 3, 0], scheduler=cluster.scheduler_address)
    assert [next(done), next(done)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(done)


def test_a_result_that_was_lost_with_its_worker_is_awaited_again(
    monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    wait, calls = distributed.wait, []

    def too_early(futures: list[Any], **options: Any) -> Any:
        calls.append(len(futures))
        # So it looks when a worker ends between its result and our look at it.
        return SimpleNamespace(done=set(futures)) if len(calls) == 1 else wait(futures, **options)

    monkeypatch.setattr(distributed, "wait", too_early)
    assert list(work(time.sleep, [0.3, 0.3], scheduler=cluster.scheduler_address)) == [None] * 2
    assert len(calls) > 1


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("semantoks.data.workers._CONNECT_SECONDS", 0.3)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(work(abs, [1], scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(InputError, match=r"there is no scheduler file .*here\.json"):
        list(work(abs, [1], scheduler=str(tmp_path / "here.json")))


def test_without_dask_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'semantoks\[cluster\]'"):
        list(work(abs, [1], scheduler="tcp://127.0.0.1:9"))
