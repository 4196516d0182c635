"""Random windows a second: the store beside HDF5 files, on this machine, on one core.

Then the memory of writing and of reading a store of N scans and one of ten times as many, each in
a process of its own: the largest anonymous resident memory (that which is no file's) beyond what
was there at the start.

Example:
    python benchmarks/windows.py --scans 500 --json windows.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter

Windows = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def simulate(number: int, n_rois: int, n_samples: int) -> NDArray[np.float32]:
    """Draw the series of a scan, shape (roi, time)."""
    random = np.random.default_rng(number)
    return random.standard_normal((n_rois, n_samples), dtype=np.float32)


def write_store(
    folder: Path,
    atlas: Atlas,
    n_scans: int,
    n_samples: int,
    watch: Callable[[], None] = lambda: None,
) -> Store:
    """Write the scans as a store; `watch` is called after each."""
    with StoreWriter(folder / "store", atlas, Preprocessing(), {}) as writer:
        for number in range(n_scans):
            name = f"scan-{number}"
            series = simulate(number, len(atlas), n_samples)
            writer.add(
                Recording(series, 2.0, atlas, name, name), np.ones(len(atlas), dtype=np.bool_)
            )
            watch()
        return writer.finish()


def write_hdf5(file: Path, store: Store, chunks: tuple[int, ...] | bool) -> h5py.Dataset:
    """Write the scans as gzipped HDF5, (scan, roi, time), and open it again."""
    n_samples = int(store.lengths[0])
    with h5py.File(file, "w") as stream:
        shape = (len(store), len(store.atlas), n_samples)
        data = stream.create_dataset(
            "timeseries", shape, "f2", compression="gzip", compression_opts=4, chunks=chunks
        )
        # Many scans at once: chunks may reach over several.
        for first in range(0, len(store), 64):
            last = min(first + 64, len(store))
            data[first:last] = np.stack([store.series(i) for i in range(first, last)])
    return h5py.File(file)["timeseries"]


def windows_of(data: h5py.Dataset, length: int) -> Windows:
    """Make a function that reads windows of an HDF5 dataset one by one."""

    def read(scans: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        pairs = zip(scans.tolist(), starts.tolist(), strict=True)
        return np.stack([data[i, :, s : s + length] for i, s in pairs]).astype(np.float32)

    return read


def measure(read: Windows, store: Store, length: int, batch: int, seconds: float) -> float:
    """Count random windows a second, after a first batch that is not counted."""
    random = np.random.default_rng(0)

    def draw() -> None:
        scans = random.integers(len(store), size=batch)
        read(scans, random.integers(store.lengths[scans] - length + 1))

    draw()
    n_windows, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        draw()
        n_windows += batch
    return n_windows / passed


def anonymous() -> int:
    """Say how much of this process's resident memory is no file's, in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (x for x in lines if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def print_peak(options: argparse.Namespace) -> None:
    """Write a store, or read random windows of it; print the peak of memory in bytes."""
    atlas = Atlas.load(options.atlas)
    torch.ones(2).half().float()  # what torch sets up once is not the store's
    peaks, before = [0], anonymous()

    def watch() -> None:
        peaks.append(anonymous() - before)

    samples, folder = options.memory_samples, options.folder
    if options.peak_of == "writing":
        write_store(folder, atlas, options.memory_scans, samples, watch)
        watch()
    else:
        store, random = Store.open(folder / "store"), np.random.default_rng(0)
        for _ in range(100):
            scans = random.integers(len(store), size=options.batch)
            starts = random.integers(0, samples - options.length + 1, options.batch)
            windows = store.windows(scans, starts, options.length)
            watch()
            del windows
    print(max(peaks))


def memory(options: argparse.Namespace) -> dict[int, dict[str, int]]:
    """Measure the peaks of memory of a small store and of one ten times as large."""
    if not Path("/proc/self/status").is_file():
        return {}
    counts = (options.memory_scans, 10 * options.memory_scans)
    needed = counts[1] * options.memory_samples * len(Atlas.load(options.atlas)) * 2
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free
    if free < 1.5 * needed:
        sys.exit(f"{needed:,} bytes are needed, {free:,} are free; lower --memory-scans.")
    names = ("memory_samples", "length", "batch", "atlas")
    words = [w for n in names for w in (f"--{n.replace('_', '-')}", str(getattr(options, n)))]
    found: dict[int, dict[str, int]] = {}
    for count in counts:
        found[count] = {}
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for part in ("writing", "reading"):
                own = ["--memory-scans", str(count), "--folder", folder, "--peak-of", part]
                command = [sys.executable, __file__, *words, *own]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[count][part] = int(done.stdout)
    return found


def rates(options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Measure windows a second by layout, and the seconds that opening the store takes."""
    atlas = Atlas.load(options.atlas)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        store = write_store(folder, atlas, options.scans, options.samples)
        began = time.perf_counter()
        Store.open(store.path)
        opening = time.perf_counter() - began

        def float32(scans: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float32]:
            return store.windows(scans, starts, options.length)

        def float16(scans: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float16]:
            return store.stored_windows(scans, starts, options.length)

        layouts: dict[str, tuple[int, ...] | bool] = {
            "HDF5, gzip, a chunk a scan": (1, len(atlas), options.samples),
            "HDF5, gzip, chunks as h5py guesses them": True,
        }
        for name, own in (("store", float32), ("store, left in float16", float16)):
            result[name] = measure(own, store, options.length, options.batch, options.seconds)
        for number, (name, chunks) in enumerate({} if options.no_hdf5 else layouts.items()):
            data = write_hdf5(folder / f"{number}.h5", store, chunks)
            # Few windows a call: one call of the slowest layout takes seconds otherwise.
            read = windows_of(data, options.length)
            result[name] = measure(read, store, options.length, 8, options.seconds)
    return result, opening


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--samples", type=int, default=490, help="samples of a scan")
    parser.add_argument("--length", type=int, default=100, help="samples of a window")
    parser.add_argument("--batch", type=int, default=128, help="windows a call")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--no-hdf5", action="store_true", help="measure the store only")
    parser.add_argument("--memory-scans", type=int, default=300, help="N; 0 leaves memory out")
    parser.add_argument("--memory-samples", type=int, default=120, help="samples of these scans")
    parser.add_argument("--atlas", default="schaefer400-tian3-buckner7")
    parser.add_argument("--folder", type=Path, help="where stores are written for a while")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(1)  # a core is what is measured
    if options.peak_of:
        print_peak(options)
        return
    result, opening = rates(options)
    print(f"{options.scans} scans of {options.samples} samples, {options.atlas}, windows of")
    print(f"{options.length} samples as float32, one thread, {platform.processor() or 'CPU'}")
    print(f"\n{'layout':<42}{'windows/s':>12}{'store is':>12}")
    for name, rate in result.items():
        print(f"{name:<42}{rate:>12,.0f}{result['store'] / rate:>11,.1f}x")
    print(f"\nopening the store: {1000 * opening:.1f} ms")
    peaks = memory(options) if options.memory_scans else {}
    if peaks:
        print(f"\n{'anonymous memory, MB':<42}{'writing':>12}{'reading':>12}")
    for count, peak in peaks.items():
        row = "".join(f"{value / 1e6:>12,.1f}" for value in peak.values())
        print(f"{f'{count:,} scans of {options.memory_samples} samples':<42}{row}")
    if options.json:
        content = {"windows_per_second": result, "opening_seconds": opening, "peak_bytes": peaks}
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(
            json.dumps(content | {"settings": settings}, indent=1, default=str) + "\n"
        )


if __name__ == "__main__":
    main()
