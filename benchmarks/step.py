"""A pretraining step and embedding, plain beside fast, alternating, in one process.

Example:
    python benchmarks/step.py --size paper --steps 5 --json step.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import plain
from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.objective.distillation import Distillation
from semantoks.training.config import MasksConfig, OptimizationConfig
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step
from semantoks.training.precision import autocast, kept_memory
from semantoks.training.views import draw_masks

CPU = torch.device("cpu")
SIZES = {"paper": (768, 8, 32), "small": (192, 4, 64)}
WINDOWS = 64
Work = Callable[[], object]


class Timed(NamedTuple):
    """What one path did in one task."""

    task: str
    path: str
    a_second: float
    ratio: float
    seconds: float
    gflop: float
    share: float
    peak_gb: float


class Bench:
    """The tasks of one size; both paths work on the same weights."""

    def __init__(self, size: str) -> None:
        dim, depth, self.batch = SIZES[size]
        torch.manual_seed(0)
        atlas = Atlas.load("schaefer400-tian3-buckner7")
        self.model = Distillation(SemantoksEncoder(atlas, dim=dim, depth=depth), Head(dim))
        self.views = torch.randn(self.batch, 2, len(atlas), 100)
        generator = torch.Generator().manual_seed(1)
        self.masks = draw_masks(self.batch, 9, 5, MasksConfig(), generator)
        self.plain_optimizer = plain.make_optimizer(self.model)
        self.optimizer = make_optimizer(self.model.student, OptimizationConfig())
        self.now = Schedule(1e-4, 0.05, 0.99, 0.0)

    def plain_step(self, masks: Tensor | None) -> None:
        """Step as one would write it down."""
        plain.step(self.model, self.plain_optimizer, self.views, masks)

    def step(self, masks: Tensor | None, precision: str) -> None:
        """Step as the package does."""
        with autocast(precision, CPU):
            total = self.model(self.views, masks).total
        total.backward()
        optimizer_step(self.optimizer, self.now, clip=1.0)
        self.model.update_teacher(0.99)

    @torch.no_grad()  # as fast as inference_mode, and its products can be counted
    def plain_embed(self) -> None:
        """Encode windows as one would write it down."""
        windows = self.views.flatten(0, 1)[:WINDOWS]
        plain.encode(self.model.teacher.encoder, windows)

    @torch.no_grad()  # as fast as inference_mode, and its products can be counted
    def embed(self, precision: str) -> None:
        """Encode windows as the package does."""
        with autocast(precision, CPU):
            self.model.teacher.encoder(self.views.flatten(0, 1)[:WINDOWS])

    def tasks(self) -> dict[str, tuple[int, dict[str, Work]]]:
        """Name the tasks: samples a call, and the paths."""
        steps = {
            name: (
                self.batch,
                {
                    "plain": lambda m=masks: self.plain_step(m),
                    "float32": lambda m=masks: self.step(m, "float32"),
                    "bf16": lambda m=masks: self.step(m, "bf16"),
                },
            )
            for name, masks in (("masked step", self.masks), ("unmasked step", None))
        }
        embedding: dict[str, Work] = {
            "plain": self.plain_embed,
            "float32": lambda: self.embed("float32"),
            "bf16": lambda: self.embed("bf16"),
        }
        return {**steps, "embedding": (WINDOWS, embedding)}


def alternate(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Time works in turn; all but the plain one run as a run does, in memory that is kept."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            with contextlib.nullcontext() if name == "plain" else kept_memory(CPU):
                if name != "plain":
                    work()  # not timed: a run has its memory from the step before
                began = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - began)
    return seconds


def matrix_rates(repeats: int) -> dict[str, float]:
    """Measure products of (2944, 768) and (768, 3072) in GFLOP/s: the best of some."""
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2944, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
        out = torch.empty(2944, 3072, dtype=dtype)
        taken = alternate({name: lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, 3 * repeats)
        rates[name] = 2e-9 * 2944 * 768 * 3072 / min(taken[name])
    return rates


def count_gflop(work: Work) -> float:
    """Count the products of a work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e9


def peak_gb(size: str, task: str, path: str) -> float:
    """Do a work twice in a process of its own and ask for its largest resident memory."""
    words = [sys.executable, __file__, "--size", size, "--only", f"{task}/{path}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure(size: str, repeats: int, *, memory: bool) -> tuple[list[Timed], dict[str, float]]:
    """Measure all tasks; a share is of the float32 rate, taken before and after."""
    bench = Bench(size)
    before = matrix_rates(repeats)
    found = []
    for task, (samples, works) in bench.tasks().items():
        products = {path: count_gflop(work) for path, work in works.items()}  # a first time
        seconds = alternate(works, repeats)
        medians = {path: statistics.median(taken) for path, taken in seconds.items()}
        for path, median in medians.items():
            pairs = zip(seconds["plain"], seconds[path], strict=True)
            ratio = statistics.median(slow / fast for slow, fast in pairs)
            peak = peak_gb(size, task, path) if memory else float("nan")
            found.append(
                Timed(task, path, samples / median, ratio, median, products[path], 0.0, peak)
            )
            print(f"{task} {path}: {median:.2f} s", file=sys.stderr, flush=True)
    rates = {name: max(rate, before[name]) for name, rate in matrix_rates(repeats).items()}
    shared = [t._replace(share=t.gflop / t.seconds / rates["float32"]) for t in found]
    return shared + mean_steps(shared), rates


def mean_steps(found: list[Timed]) -> list[Timed]:
    """Average masked and unmasked steps, as a run does them half and half."""
    by = {(t.task, t.path): t for t in found}
    rows: list[Timed] = []
    for path in ("plain", "float32", "bf16"):
        a, b = by["masked step", path], by["unmasked step", path]
        seconds = (a.seconds + b.seconds) / 2
        gflop = (a.gflop + b.gflop) / 2
        rate = a.gflop / a.seconds / a.share
        whole = (by["masked step", "plain"].seconds + by["unmasked step", "plain"].seconds) / 2
        samples = a.a_second * a.seconds / seconds
        peak = max(a.peak_gb, b.peak_gb)
        share = gflop / seconds / rate
        row = Timed("step, mean", path, samples, whole / seconds, seconds, gflop, share, peak)
        rows.append(row)
    return rows


def processor() -> str:
    """Name the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def only(size: str, name: str) -> None:
    """Do one work twice and print the peak of memory in GB."""
    task, _, path = name.partition("/")
    work = Bench(size).tasks()[task][1][path]
    with contextlib.nullcontext() if path == "plain" else kept_memory(CPU):
        work()
        work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=5, help="times that each path is measured")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        only(options.size, options.only)
        return
    found, rates = measure(options.size, options.steps, memory=not options.no_memory)
    dim, depth, batch = SIZES[options.size]
    machine = f"{os.cpu_count()} cores of {processor()}, {torch.get_num_threads()} threads"
    print(f"{options.size}: width {dim}, depth {depth}, 457 ROIs, batch {batch}; {machine}")
    print(f"matrix products: {', '.join(f'{k} {v:.0f} GFLOP/s' for k, v in rates.items())}\n")
    print(f"{'task':<15}{'path':<9}{'a second':>9}{'ratio':>7}{'GFLOP':>8}{'share':>7}{'GB':>6}")
    for t in found:
        print(
            f"{t.task:<15}{t.path:<9}{t.a_second:>9.2f}{t.ratio:>6.2f}x{t.gflop:>8.0f}"
            f"{t.share:>7.0%}{t.peak_gb:>6.1f}"
        )
    if options.json:
        content = {
            "size": options.size,
            "machine": machine,
            "torch": torch.__version__,
            "gflop_per_second": rates,
            "rows": [t._asdict() for t in found],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
