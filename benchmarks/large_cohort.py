"""Prepare a cohort of the size of UK Biobank: kill it half way, resume, and look at the memory.

Nothing is read from the disk: every scan is simulated when it is loaded, from its number. Run it
with ``python benchmarks/large_cohort.py --out FOLDER`` (the store of all 39,139 scans takes 7.2 GB,
and with ``--cluster`` twice that), or with ``--scans 500`` for a quick look. It works where there
is a /proc, that is, on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from semantoks.data import preparation
from semantoks.data.atlas import Atlas
from semantoks.data.readers import Found
from semantoks.data.recording import ScanFile
from semantoks.data.signal import preprocess
from semantoks.data.store import Store
from semantoks.data.workers import available_cores

UK_BIOBANK = 39_139
ATLAS = "schaefer400-tian3-buckner7"
T_R = 2.0


def simulate(number: int, n_rois: int) -> np.ndarray:
    """Simulate a scan, shape (roi, time); one in 200 is too short, one in 500 half flat."""
    random = np.random.default_rng(number)
    n_samples = 60 if number % 200 == 7 else int(random.integers(180, 221))
    networks = random.standard_normal((20, n_samples), dtype=np.float32).cumsum(axis=1)
    loadings = random.standard_normal((n_rois, 20), dtype=np.float32)
    series = loadings @ networks + 5 * random.standard_normal((n_rois, n_samples), np.float32)
    if number % 500 == 11:
        series[: n_rois // 2] = 1.0
    return 1000 + series


def cohort(n: int, source: Path, atlas: Atlas) -> list[ScanFile]:
    """List the scans, two a person."""
    return [
        ScanFile(
            scan=f"sub-{i // 2:06d}_ses-{i % 2 + 1}",
            load=partial(simulate, i, len(atlas)),
            source=str(source),
            subject=f"sub-{i // 2:06d}",
            session=f"ses-{i % 2 + 1}",
            site=f"site-{i % 4}",
            t_r=T_R,
            motion=0.1 + (i % 97) / 500,
            phenotypes={"age": 45 + i % 37, "sex": "FM"[i % 2], "field_31": i % 11},
        )
        for i in range(n)
    ]


def prepare(n: int, out: Path, *, workers: int | None, scheduler: str | None, note: Path) -> None:
    """Prepare the cohort in this process, and write down how far it is."""
    atlas = Atlas.load(ATLAS)
    # An interrupted run is started over if the files were changed: this one never is.
    source = out.parent / "simulated"
    if not source.exists():
        source.touch()
    found = Found(cohort(n, source, atlas), None)
    began, first = time.monotonic(), -1

    def progress(done: int, total: int) -> None:
        nonlocal first
        first = done if first < 0 else first
        if done % 20 == 0 or done == total:
            told = {"done": done, "first": first, "seconds": time.monotonic() - began}
            note.write_text(json.dumps(told))

    # No reader lists scans that are on no disk.
    with mock.patch.object(preparation, "find_scans", return_value=found):
        report = preparation.prepare(
            source,
            out,
            atlas=atlas,
            trust_order=True,  # the simulated brains have no distances
            workers=workers,
            scheduler=scheduler,
            progress=progress,
        )
    for notice in report.notices:
        print(notice, flush=True)


class Watch:
    """Look at the memory of a process and of all that it started, until it ends."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peaks: dict[int, float] = {}
        self.largest_sum = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while Path(f"/proc/{self.pid}/status").exists():
            now = {pid: _megabytes(pid) for pid in [self.pid, *_descendants(self.pid)]}
            self.largest_sum = max(self.largest_sum, sum(used for used, _ in now.values()))
            self.peaks |= {pid: peak for pid, (_, peak) in now.items() if peak}
            time.sleep(0.2)

    def report(self) -> str:
        """Say how much it was."""
        workers = [peak for pid, peak in self.peaks.items() if pid != self.pid]
        largest = f"{max(workers):.0f}" if workers else "none"
        return (
            f"peak resident memory: main {self.peaks.get(self.pid, 0):.0f} MB, largest other "
            f"process {largest} MB, all at once {self.largest_sum:.0f} MB"
        )


def _descendants(pid: int) -> list[int]:
    """List the processes that a process has started, and theirs."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(word) for word in text.split()]
    return [*children, *(found for child in children for found in _descendants(child))]


def _megabytes(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process now and at its peak, without mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return float(values.get("VmRSS", 0)) / 1024, float(values.get("VmHWM", 0)) / 1024


def run(
    options: argparse.Namespace,
    out: Path,
    *words: str,
    kill_at: int | None = None,
    done_before: int = 0,
) -> int:
    """Prepare in a process of its own, and kill it when it is so far; return how far it came."""
    note = out.with_suffix(".progress")
    note.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--scans", str(options.scans), "--out", str(out)]
    with subprocess.Popen([*command, "--inside", *words]) as process:
        watch = Watch(process.pid)
        while process.poll() is None:
            time.sleep(0.1)
            if kill_at is not None and _read(note).get("done", 0) >= kill_at:
                others = _descendants(process.pid)
                process.send_signal(signal.SIGKILL)
                process.wait()
                _await_end(others)
    told = _read(note)
    n_done = told["done"] - told["first"]
    state = "killed" if process.returncode else "finished"
    print(
        f"{state} at {told['done']} of {options.scans} scans: {n_done} in {told['seconds']:.0f} s, "
        f"{n_done / told['seconds']:.1f} a second; {watch.report()}",
        flush=True,
    )
    note.unlink()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(process.returncode)
    if told["first"] < done_before:
        raise SystemExit(f"it went on from {told['first']} scans, but {done_before} were done")
    return int(told["done"])


def _read(note: Path) -> dict[str, Any]:
    """Read how far a process is; it may be writing just now."""
    try:
        return dict(json.loads(note.read_text()))
    except (OSError, ValueError):
        return {}


def _await_end(pids: list[int]) -> None:
    """See that processes end by themselves when the one that started them is killed."""
    deadline = time.monotonic() + 60
    while any(_is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise SystemExit(f"{pids} outlive the process that started them")
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextmanager
def cluster_with_a_death(out: Path, at: int) -> Iterator[str]:
    """Offer a Dask cluster of two workers, one of which is killed when the work is so far."""
    from distributed import Client, LocalCluster

    ended = threading.Event()

    def kill(address: str) -> None:
        note = out.with_suffix(".progress")
        while _read(note).get("done", 0) < at:
            if ended.wait(0.1):
                return
        with Client(address, set_as_default=False) as client:
            victim = min(client.run(os.getpid).values())
        os.kill(victim, signal.SIGKILL)
        print(f"killed a worker of the cluster at {at} scans", flush=True)

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        address = str(cluster.scheduler_address)
        thread = threading.Thread(target=kill, args=(address,), daemon=True)
        thread.start()
        yield address
        ended.set()
        thread.join()


def check(out: Path, n: int) -> Store:
    """Compare some scans with what they should be, and say how large the store is."""
    store = Store.open(out)
    names = {name: i for i, name in enumerate(store.scans["scan"])}
    n_bad = len({i for i in range(n) if i % 200 == 7 or i % 500 == 11})
    if len(store) != n - n_bad or len(store.quality) != n or len(store.refused) != n_bad:
        raise SystemExit(f"{store} with {len(store.refused)} refused; expected {n_bad}")
    for number in np.linspace(0, n - 1, 20).astype(int).tolist():
        scan = f"sub-{number // 2:06d}_ses-{number % 2 + 1}"
        if scan in names:
            raw = simulate(number, len(store.atlas))
            expected = preprocess(raw, T_R, store.preprocessing).series.astype(np.float16)
            np.testing.assert_array_equal(store.series(names[scan]), expected.astype(np.float32))
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e9
    print(f"{store!r}; {size:.2f} GB, {n_bad} refused", flush=True)
    return store


def main() -> None:
    """Run the benchmark, or a part of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the stores")
    parser.add_argument("--scans", type=int, default=UK_BIOBANK)
    parser.add_argument("--workers", type=int, help="processes; one a core by default")
    parser.add_argument("--cluster", action="store_true", help="the same on a Dask cluster, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scheduler", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        note = options.out.with_suffix(".progress")
        prepare(
            options.scans,
            options.out,
            workers=options.workers if options.scheduler is None else None,
            scheduler=options.scheduler,
            note=note,
        )
        return
    options.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.out).free / 1e9
    needed = options.scans * 185e3 / 1e9 * (2 if options.cluster else 1)
    if needed > free:
        raise SystemExit(f"{options.out} has {free:.1f} GB left, but {needed:.1f} are needed")
    workers = options.workers or available_cores()
    print(f"{options.scans} scans, {workers} processes", flush=True)
    out = options.out / "cohort.store"
    words = ("--workers", str(workers))
    killed_at = run(options, out, *words, kill_at=options.scans // 2)
    run(options, out, *words, done_before=killed_at)
    store = check(out, options.scans)
    if options.cluster:
        there = options.out / "cluster.store"
        with cluster_with_a_death(there, options.scans // 2) as address:
            run(options, there, "--scheduler", address)
        equal = check(there, options.scans).fingerprint == store.fingerprint
        print(f"the cluster's store has {'the same' if equal else 'ANOTHER'} fingerprint")


if __name__ == "__main__":
    main()
