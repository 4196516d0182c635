"""Everything that is said to be fast, beside a plain path: a table and a JSON file.

In one process and alternating: a pretraining step and embedding at the paper's size and at a small
one, drawing windows from a store, and a linear probe. "Share" is what was computed of what the
machine computes in float32 matrix products; peaks of memory are those of a process that does
nothing else.

Examples
--------
    python benchmarks/all.py --json benchmark.json
    python benchmarks/all.py --quick
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
import torch

import plain
import step
import windows
from semantoks.data.atlas import Atlas
from semantoks.data.store import Store
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.splitters import subject_folds

WINDOW, DRAWN, CALLS = 100, 128, 10


class Size(NamedTuple):
    """How much of everything."""

    steps: tuple[str, ...]
    scans: int
    probe: tuple[int, int, int]


FULL = Size(("paper", "small"), 500, (1000, 1536, 5))
QUICK = Size(("mini",), 20, (100, 50, 1))


def window_tasks(folder: Path, size: Size) -> step.Tasks:
    """Draw windows: one by one with NumPy's conversion, as the package does, and unconverted."""
    if not (folder / "store").exists():
        windows.write_store(folder, Atlas.load("schaefer400-tian3-buckner7"), size.scans, 490)
    store, random = Store.open(folder / "store"), np.random.default_rng(0)

    def repeated(read: Callable[..., object]) -> None:
        for _ in range(CALLS):
            scans = random.integers(len(store), size=DRAWN)
            read(scans, random.integers(0, store.lengths[scans] - WINDOW + 1), WINDOW)

    works = {
        "plain": functools.partial(plain.windows, store),
        "float32": store.windows,
        "float16": store.stored_windows,
    }
    tasks = {path: functools.partial(repeated, read) for path, read in works.items()}
    return {"drawing windows": (CALLS * DRAWN, tasks)}


def probe_tasks(size: Size) -> step.Tasks:
    """Predict a value from features in repeated folds; further probes are further paths."""
    scans, features, repeats = size.probe
    random = np.random.default_rng(0)
    x = random.standard_normal((scans, features))
    truth = x[:, :20].sum(axis=1) + 3 * random.standard_normal(scans)
    subjects = np.array([f"subject-{i}" for i in range(scans)])
    table = pd.DataFrame({"subject": subjects})
    splits = subject_folds(table, truth, kind="regression", repeats=repeats)

    def ours() -> list[np.ndarray]:
        folds = cross_validated_predictions(x, truth, splits, kind="regression", subjects=subjects)
        return [fold.prediction for fold in folds]

    works: dict[str, step.Work] = {
        "plain": functools.partial(plain.ridge_predictions, x, truth, splits),
        "ridge": ours,
    }
    for theirs, found in zip(works["plain"](), ours(), strict=True):  # type: ignore[call-overload]
        np.testing.assert_allclose(found, theirs, rtol=1e-6, atol=1e-6)
    return {"probe, splits": (len(splits), works)}


def parts(folder: Path, size: Size) -> dict[str, Callable[[], step.Tasks]]:
    """Name what is measured beside steps."""
    return {
        "windows": functools.partial(window_tasks, folder, size),
        "probe": functools.partial(probe_tasks, size),
    }


def peak_gb(part: str, folder: Path, quick: bool, task: str, path: str) -> float:
    """Do a work twice in a process of its own and ask for its largest resident memory."""
    words = [sys.executable, __file__, "--folder", str(folder), "--only", f"{part}/{task}/{path}"]
    done = subprocess.run(words + ["--quick"] * quick, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def only(options: argparse.Namespace, size: Size) -> None:
    """Do one work twice and print the peak of memory in GB."""
    part, task, path = options.only.split("/")
    work = parts(options.folder, size)[part]()[task][1][path]
    work()
    work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def measure(options: argparse.Namespace, size: Size) -> Iterator[tuple[str, list[step.Timed]]]:
    """Measure part by part: its name and rows."""
    memory = not (options.no_memory or options.quick)
    for name in size.steps:
        found, rates = step.measure(name, options.repeats, memory=memory, compiled=options.compile)
        said = ", ".join(f"{kind} {rate:.0f} GFLOP/s" for kind, rate in rates.items())
        dim, depth, batch = step.SIZES[name]
        yield f"{name}: width {dim}, depth {depth}, batch {batch}; products: {said}", found
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, tasks in parts(folder, size).items():
            peak = functools.partial(peak_gb, name, folder, options.quick) if memory else None
            yield name, step.measure_tasks(tasks(), options.repeats, peak, kept=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="times that each path is measured")
    parser.add_argument("--quick", action="store_true", help="a minute, only to see that it works")
    parser.add_argument("--compile", choices=get_args(step.Compiled), default="nothing")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    if options.only:
        only(options, size)
        return
    print(f"{step.machine()}; torch {torch.__version__}")
    rows = []
    for name, found in measure(options, size):
        print(f"\n{name}")
        step.print_table(found)
        rows += [{"part": name, **row} for row in step.rows_for_json(found)]
    if options.json:
        content = {"machine": step.machine(), "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
