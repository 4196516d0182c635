"""Random windows a second: the store beside HDF5 files, on this machine, in one process.

Example:
    python benchmarks/windows.py --scans 500 --json windows.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.recording import Recording
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter

Windows = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def simulate(number: int, n_rois: int, n_samples: int) -> NDArray[np.float32]:
    """Draw the series of a scan, shape (roi, time)."""
    random = np.random.default_rng(number)
    return random.standard_normal((n_rois, n_samples), dtype=np.float32)


def write_store(folder: Path, atlas: Atlas, n_scans: int, n_samples: int) -> Store:
    """Write the scans as a store."""
    with StoreWriter(folder / "store", atlas, Preprocessing(), {}) as writer:
        for number in range(n_scans):
            name = f"scan-{number}"
            series = simulate(number, len(atlas), n_samples)
            writer.add(
                Recording(series, 2.0, atlas, name, name), np.ones(len(atlas), dtype=np.bool_)
            )
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--samples", type=int, default=490, help="samples of a scan")
    parser.add_argument("--length", type=int, default=100, help="samples of a window")
    parser.add_argument("--batch", type=int, default=128, help="windows a call")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--atlas", default="schaefer400-tian3-buckner7")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    atlas = Atlas.load(options.atlas)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = write_store(folder, atlas, options.scans, options.samples)
        began = time.perf_counter()
        Store.open(store.path)
        opening = time.perf_counter() - began

        def read_store(scans: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float32]:
            return store.windows(scans, starts, options.length)

        layouts: dict[str, tuple[int, ...] | bool] = {
            "HDF5, gzip, a chunk a scan": (1, len(atlas), options.samples),
            "HDF5, gzip, chunks as h5py guesses them": True,
        }
        result["store"] = measure(read_store, store, options.length, options.batch, options.seconds)
        for number, (name, chunks) in enumerate(layouts.items()):
            data = write_hdf5(folder / f"{number}.h5", store, chunks)
            # Few windows a call: one call of the slowest layout takes seconds otherwise.
            read = windows_of(data, options.length)
            result[name] = measure(read, store, options.length, 8, options.seconds)
    print(f"{options.scans} scans of {len(atlas)} ROIs x {options.samples} samples, windows of")
    print(f"{options.length} samples as float32, one process, {platform.processor() or 'CPU'}")
    print(f"\n{'layout':<42}{'windows/s':>12}{'store is':>12}")
    for name, rate in result.items():
        print(f"{name:<42}{rate:>12,.0f}{result['store'] / rate:>11,.1f}x")
    print(f"\nopening the store: {1000 * opening:.1f} ms")
    if options.json:
        content = {"windows_per_second": result, "opening_seconds": opening}
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(json.dumps(content | {"settings": settings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
