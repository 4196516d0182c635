"""Preparation by several processes: the same store, whatever happens to them on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import h5py
import numpy as np
import pytest

from semantoks.data import preparation
from semantoks.data.atlas import Atlas
from semantoks.data.preparation import PreparationReport, prepare
from semantoks.data.readers import Found
from semantoks.data.recording import ScanFile
from semantoks.data.store import Store, partial_folder
from semantoks.data.workers import Lost, work
from semantoks.errors import ConfigurationError, InputError

ATLAS = Atlas.from_networks({"Vis": 10, "Default": 10}, name="tiny20")
PARTS = ("series.npy", "index.npy", "valid.npy", "scans.parquet", "quality.parquet", "refused.csv")


@dataclass(frozen=True)
class Load:
    """Simulate a scan, and note that it was read; possibly kill the process that reads it."""

    name: str
    seed: int
    log: Path
    kills: int = 0
    n_samples: int = 130

    def __call__(self) -> np.ndarray:
        n_read = self.log.read_text().split().count(self.name) if self.log.exists() else 0
        with self.log.open("a") as stream:
            stream.write(f"{self.name}\n")
        if n_read < self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.random.default_rng(self.seed).standard_normal((20, self.n_samples))


@pytest.fixture(autouse=True, scope="module")
def _travelling() -> Iterator[None]:
    """Let what this file defines travel to processes that cannot import it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file with the name of a scan a line, for each time that it was read."""
    return tmp_path / "read.log"


def cohort(log: Path, n: int = 8, **other: dict[str, int]) -> list[ScanFile]:
    """Return scans of which the sixth is too short and the eighth a copy of the first."""
    settings: dict[str, dict[str, int]] = {f"s{i}": {"seed": i} for i in range(n)}
    if n >= 8:
        settings["s5"]["n_samples"] = 50
        settings["s7"]["seed"] = 0
    source = log.with_name("source")
    if not source.exists():
        source.touch()
    for name, changed in other.items():
        settings[name] |= changed
    return [
        ScanFile(name, Load(name, log=log, **setting), str(source), subject=name, t_r=2.0)  # type: ignore[arg-type]
        for name, setting in settings.items()
    ]


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> list[ScanFile]:
    """A list; what is put there is what every source holds."""
    scans: list[ScanFile] = []
    monkeypatch.setattr(preparation, "find_scans", lambda *_, **__: Found(scans, None))
    return scans


def run(out: Path, workers: int | None, **options: object) -> PreparationReport:
    """Prepare what was found."""
    return prepare(out.parent, out, atlas=ATLAS, workers=workers, **options)  # type: ignore[arg-type]


def same(first: Path, second: Path) -> bool:
    """Compare two stores byte by byte."""
    return all((first / part).read_bytes() == (second / part).read_bytes() for part in PARTS)


def test_two_processes_write_the_store_of_one(
    tmp_path: Path, log: Path, find: list[ScanFile]
) -> None:
    find += cohort(log)
    seen: list[int] = []
    one = run(tmp_path / "one", 1)
    two = run(tmp_path / "two", 2, progress=lambda done, _: seen.append(done))
    assert same(tmp_path / "one", tmp_path / "two")
    assert Store.open(one.path).fingerprint == Store.open(two.path).fingerprint
    assert one.refused == two.refused
    assert [(x.scan, x.category) for x in two.refused] == [("s5", "short"), ("s7", "identical")]
    assert seen == list(range(9))


def test_quality_has_a_row_for_every_scan(tmp_path: Path, log: Path, find: list[ScanFile]) -> None:
    find += cohort(log)
    find.append(ScanFile("z", lambda: np.zeros(1), str(tmp_path), site="Rome", motion=0.1))
    run(tmp_path / "store", 1, policy="keep-going")
    rows = Store.open(tmp_path / "store").quality.set_index("scan")
    assert rows.index.tolist() == [*(f"s{i}" for i in range(8)), "z"]
    assert rows["category"].tolist() == ["", "", "", "", "", "short", "", "identical", "no t_r"]
    assert "never guessed" in rows.loc["z", "reason"]
    assert rows["n_volumes"].tolist() == [130] * 5 + [50, 130, 130, 0]
    assert rows.loc["z", ["site", "motion"]].tolist() == ["Rome", 0.1]
    assert rows["coverage"].fillna(-1).tolist() == [1.0] * 8 + [-1]


def test_an_archive_travels_to_other_processes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "cohort.h5", "w") as file:
        series = np.random.default_rng(0).standard_normal((5, 20, 130))
        file["timeseries/tiny20"] = series
        file["long_subject_id"] = np.array([f"sub-{i}".encode() for i in range(5)])
    for name, workers in (("one", 1), ("two", 2)):
        prepare(tmp_path / "cohort.h5", tmp_path / name, atlas=ATLAS, t_r=2.0, workers=workers)
    assert same(tmp_path / "one", tmp_path / "two")


def test_a_killed_process_is_survived(tmp_path: Path, log: Path, find: list[ScanFile]) -> None:
    find += cohort(log, s2={"kills": 1})
    run(tmp_path / "two", 2)
    assert log.read_text().split().count("s2") == 2
    find[:] = cohort(log)
    run(tmp_path / "one", 1)
    assert same(tmp_path / "one", tmp_path / "two")


def test_a_scan_that_kills_twice_is_refused_by_name(
    tmp_path: Path, log: Path, find: list[ScanFile]
) -> None:
    find += cohort(log, 1, s0={"kills": 9})
    with pytest.raises(
        InputError, match=r"scan 's0' of .*ended twice \(SIGKILL\).*no other.*--keep-going"
    ):
        run(tmp_path / "store", 2)
    assert not (tmp_path / "store").exists()
    assert not partial_folder(tmp_path / "store").exists()
    log.unlink()
    find[:] = cohort(log, 3, s0={"kills": 9})
    report = run(tmp_path / "store", 2, policy="keep-going")
    assert [(x.scan, x.category) for x in report.refused] == [("s0", "unreadable")]
    assert log.read_text().split().count("s0") == 2
    rows = Store.open(tmp_path / "store").quality.set_index("scan")
    assert "ended twice" in rows.loc["s0", "reason"]


class Interruption:
    """Press Ctrl-C before a given scan."""

    def __init__(self, before: int) -> None:
        self.before = before

    def __call__(self, done: int, total: int) -> None:
        if done == self.before:
            raise KeyboardInterrupt


def test_what_is_done_is_not_read_again(tmp_path: Path, log: Path, find: list[ScanFile]) -> None:
    find += cohort(log)
    run(tmp_path / "whole", 1)
    log.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "store", 2, progress=Interruption(before=6))
    before = log.read_text().split()
    log.unlink()
    seen: list[int] = []
    report = run(tmp_path / "store", 1, progress=lambda done, _: seen.append(done))
    # Five are written, and one is known to be too short.
    assert (report.n_resumed, report.n_written, seen) == (5, 6, [6, 7, 8])
    assert set(before) >= {f"s{i}" for i in range(6)}
    assert log.read_text().split() == ["s6", "s7"]
    assert same(tmp_path / "whole", tmp_path / "store")


SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
def press(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
atlas = Atlas.from_networks({"Vis": 10, "Default": 10}, name="tiny20")
# No `if __name__ == "__main__"`: scripts and notebooks need none.
prepare(sys.argv[1], sys.argv[2], atlas=atlas, t_r=2.0, workers=2, progress=press)
"""


def test_a_killed_preparation_goes_on(tmp_path: Path) -> None:
    source, out = tmp_path / "scans", tmp_path / "store"
    source.mkdir()
    for i in range(6):
        np.save(source / f"s{i}.npy", np.random.default_rng(i).standard_normal((20, 130)))
    words = [sys.executable, "-c", SCRIPT, str(source), str(out)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    report = prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert (report.n_resumed, report.n_written) == (3, 6)
    prepare(source, tmp_path / "whole", atlas=ATLAS, t_r=2.0)
    assert same(out, tmp_path / "whole")


def test_unexpected_errors_name_the_scan(tmp_path: Path, log: Path, find: list[ScanFile]) -> None:
    find += cohort(log, s3={"seed": -1}, s4={"seed": -1})
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"scan 's3' of .*ValueError: .*non-negative"):
            run(tmp_path / "store", workers)


def peak_memory(scans: list[ScanFile], out: Path, workers: int) -> int:
    """Return the largest memory in bytes that this process takes to prepare scans."""
    tracemalloc.start()
    try:
        run(out, workers)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_cohort(
    tmp_path: Path, log: Path, find: list[ScanFile], workers: int
) -> None:
    wide = {"n_samples": 3000}
    peaks = []
    find += cohort(log)
    run(tmp_path / "imports", workers)
    for n in (10, 40):
        find[:] = cohort(log, n, **{f"s{i}": wide for i in range(n) if i != 5})
        peaks.append(peak_memory(find, tmp_path / str(n), workers))
    # 30 more scans would be there if they were kept; how many are on the way at the same time is a
    # matter of chance, within a bound.
    stored = 20 * 3000 * 2  # bytes of a scan
    assert peaks[1] - peaks[0] < 15 * stored


def test_who_works_is_checked(tmp_path: Path, log: Path, find: list[ScanFile]) -> None:
    find += cohort(log)
    for workers in (0, -1, 1.5, True):
        with pytest.raises(ConfigurationError, match=r"workers is .*at least 1"):
            run(tmp_path / "store", workers)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="both asked for; choose one"):
        run(tmp_path / "store", 2, scheduler="tcp://127.0.0.1:1")
    assert not (tmp_path / "store").exists()


def test_jobs_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            taken.append(job)
            yield job

    # A lambda of a test travels, too.
    results = work(lambda job: job * job, jobs(), workers=2)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(taken) < 20
    results.close()


def test_all_cores_are_asked_only_when_it_takes_long() -> None:
    here = os.getpid()
    assert set(work(lambda _: os.getpid(), range(5), workers=None, patience=9.0)) == {here}
    elsewhere = list(work(lambda _: os.getpid(), range(5), workers=None, patience=0.0))
    assert not any(isinstance(x, Lost) for x in elsewhere)
    assert here not in elsewhere or len(set(elsewhere)) == 1
