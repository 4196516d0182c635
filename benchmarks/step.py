"""A pretraining step and embedding, plain beside fast, alternating, in one process.

With --compile, blocks (or all: tokenizers too) through torch.compile, which needs a C++ compiler
and takes minutes before the first steps.

Example:
    python benchmarks/step.py --size paper --steps 5 --json step.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import plain
from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Block, Head
from semantoks.model.tokenizer import NetworkTokenizer
from semantoks.objective.distillation import Distillation
from semantoks.training.config import MasksConfig, OptimizationConfig
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step
from semantoks.training.precision import autocast, kept_memory
from semantoks.training.views import draw_masks

CPU = torch.device("cpu")
SIZES = {"paper": (768, 8, 32), "small": (192, 4, 64), "mini": (64, 2, 8)}
WINDOWS = 64
COMPILED = " compiled"
Compiled = Literal["nothing", "blocks", "all"]
Work = Callable[[], object]
Tasks = Mapping[str, tuple[int, Mapping[str, Work]]]


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
    """The tasks of one size; all paths begin with the same weights."""

    def __init__(self, size: str, *, compiled: Compiled = "nothing") -> None:
        dim, depth, self.batch = SIZES[size]
        torch.manual_seed(0)
        atlas = Atlas.load("schaefer400-tian3-buckner7")
        self.model = Distillation(SemantoksEncoder(atlas, dim=dim, depth=depth), Head(dim))
        self.views = torch.randn(self.batch, 2, len(atlas), 100)
        generator = torch.Generator().manual_seed(1)
        self.masks = draw_masks(self.batch, 9, 5, MasksConfig(), generator)
        self.plain_optimizer = plain.make_optimizer(self.model)
        self.models = {"": self.model}
        if compiled != "nothing":
            self.models[COMPILED] = compile_parts(self.model, compiled)
        self.optimizers = {
            name: make_optimizer(model.student, OptimizationConfig())
            for name, model in self.models.items()
        }
        self.now = Schedule(1e-4, 0.05, 0.99, 0.0)

    def plain_step(self, masks: Tensor | None) -> None:
        """Step as one would write it down."""
        plain.step(self.model, self.plain_optimizer, self.views, masks)

    def step(self, masks: Tensor | None, precision: str, how: str = "") -> None:
        """Step as the package does."""
        model = self.models[how]
        with autocast(precision, CPU):
            total = model(self.views, masks).total
        total.backward()
        optimizer_step(self.optimizers[how], self.now, clip=1.0)
        model.update_teacher(0.99)

    @torch.no_grad()  # as fast as inference_mode, and its products can be counted
    def plain_embed(self) -> None:
        """Encode windows as one would write it down."""
        windows = self.views.flatten(0, 1)[:WINDOWS]
        plain.encode(self.model.teacher.encoder, windows)

    @torch.no_grad()  # as fast as inference_mode, and its products can be counted
    def embed(self, precision: str, how: str = "") -> None:
        """Encode windows as the package does."""
        with autocast(precision, CPU):
            self.models[how].teacher.encoder(self.views.flatten(0, 1)[:WINDOWS])

    def tasks(self) -> Tasks:
        """Name the tasks: samples a call, and the paths."""
        ways = [(name, how) for how in self.models for name in ("float32", "bf16")]
        tasks: dict[str, tuple[int, Mapping[str, Work]]] = {}
        for name, masks in (("masked step", self.masks), ("unmasked step", None)):
            works: dict[str, Work] = {"plain": functools.partial(self.plain_step, masks)}
            for precision, how in ways:
                works[precision + how] = functools.partial(self.step, masks, precision, how)
            tasks[name] = (self.batch, works)
        works = {"plain": self.plain_embed}
        for precision, how in ways:
            works[precision + how] = functools.partial(self.embed, precision, how)
        return tasks | {"embedding": (min(WINDOWS, 2 * self.batch), works)}


def compile_parts(model: Distillation, what: Compiled) -> Distillation:
    """Copy a model and compile its blocks, or also the tokenizers of its networks."""
    kinds = (Block,) if what == "blocks" else (Block, NetworkTokenizer)
    # A network has a number of ROIs of its own, and student and teacher differ in gradients.
    torch._dynamo.config.recompile_limit = 64
    compiled = copy.deepcopy(model)
    for module in compiled.modules():
        if isinstance(module, kinds):
            module.compile()
    return compiled


def alternate(
    works: Mapping[str, Work], repeats: int, *, kept: bool = True
) -> dict[str, list[float]]:
    """Time works in turn; all but the plain one run as a run does, in memory that is kept."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            with kept_memory(CPU) if kept and name != "plain" else contextlib.nullcontext():
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
    if path.endswith(COMPILED):  # the compiler's memory would be what is measured
        return float("nan")
    words = [sys.executable, __file__, "--size", size, "--only", f"{task}/{path}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure_tasks(
    tasks: Tasks,
    repeats: int,
    peak: Callable[[str, str], float] | None,
    *,
    kept: bool = True,
) -> list[Timed]:
    """Measure tasks; shares are left at 0."""
    found = []
    for task, (samples, works) in tasks.items():
        own = {path: work for path, work in works.items() if not path.endswith(COMPILED)}
        products = {path: count_gflop(work) for path, work in own.items()}  # a first time
        for path in (path for path in works if path not in own):
            began = time.perf_counter()
            works[path]()
            seconds = time.perf_counter() - began
            print(f"{task} {path}: first call {seconds:.0f} s", file=sys.stderr, flush=True)
            products[path] = products[path.removesuffix(COMPILED)]
        taken = alternate(works, repeats, kept=kept)
        for path, seconds_of in taken.items():
            median = statistics.median(seconds_of)
            pairs = zip(taken["plain"], seconds_of, strict=True)
            ratio = statistics.median(slow / fast for slow, fast in pairs)
            memory = peak(task, path) if peak else float("nan")
            found.append(
                Timed(task, path, samples / median, ratio, median, products[path], 0.0, memory)
            )
            print(f"{task} {path}: {median:.2f} s", file=sys.stderr, flush=True)
    return found


def measure(
    size: str, repeats: int, *, memory: bool, compiled: Compiled = "nothing"
) -> tuple[list[Timed], dict[str, float]]:
    """Measure all tasks; a share is of the float32 rate, taken before and after."""
    before = matrix_rates(repeats)
    tasks = Bench(size, compiled=compiled).tasks()
    peak = functools.partial(peak_gb, size) if memory else None
    found = measure_tasks(tasks, repeats, peak)
    rates = {name: max(rate, before[name]) for name, rate in matrix_rates(repeats).items()}
    shared = [t._replace(share=t.gflop / t.seconds / rates["float32"]) for t in found]
    return shared + mean_steps(shared), rates


def mean_steps(found: list[Timed]) -> list[Timed]:
    """Average masked and unmasked steps, as a run does them half and half."""
    by = {(t.task, t.path): t for t in found}
    rows: list[Timed] = []
    for path in dict.fromkeys(t.path for t in found):
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


def machine() -> str:
    """Say what was measured on."""
    return f"{os.cpu_count()} cores of {processor()}, {torch.get_num_threads()} threads"


def print_table(found: list[Timed]) -> None:
    """Print what was measured; a task without matrix products of PyTorch has no share."""
    heads = f"{'a second':>10}{'ratio':>8}{'GFLOP':>8}{'share':>7}{'GB':>6}"
    print(f"{'task':<24}{'path':<18}{heads}")
    for t in found:
        products = f"{t.gflop:>8.0f}{t.share:>7.0%}" if t.gflop else f"{'-':>8}{'-':>7}"
        peak = "-" if math.isnan(t.peak_gb) else f"{t.peak_gb:.1f}"
        print(f"{t.task:<24}{t.path:<18}{t.a_second:>10.4g}{t.ratio:>7.2f}x{products}{peak:>6}")


def rows_for_json(found: list[Timed]) -> list[dict[str, object]]:
    """Make rows for JSON, which has no word for NaN."""
    return [t._asdict() | {"peak_gb": None if math.isnan(t.peak_gb) else t.peak_gb} for t in found]


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
    parser.add_argument("--compile", choices=get_args(Compiled), default="nothing")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        only(options.size, options.only)
        return
    if options.compile != "nothing" and not (shutil.which("g++") or shutil.which("clang++")):
        parser.error("--compile needs a C++ compiler, g++ or clang++; none was found.")
    found, rates = measure(
        options.size, options.steps, memory=not options.no_memory, compiled=options.compile
    )
    dim, depth, batch = SIZES[options.size]
    print(f"{options.size}: width {dim}, depth {depth}, 457 ROIs, batch {batch}; {machine()}")
    print(f"matrix products: {', '.join(f'{k} {v:.0f} GFLOP/s' for k, v in rates.items())}\n")
    print_table(found)
    if options.json:
        content = {
            "size": options.size,
            "machine": machine(),
            "torch": torch.__version__,
            "gflop_per_second": rates,
            "rows": rows_for_json(found),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
