"""The linear probe of the paper: all rates, splits and targets at once beside a plain loop.

The loop trains every probe on its own with torch's BatchNorm1d, Linear and SGD, in memory, without
a data loader, on the same batches. Both run in turn, on as many threads; the ratios are those of
the fastest repeats, in wall time and in processor time, and of all repeats together: others that
work on the machine slow down what lives in its cache more than what waits for the interpreter. The
largest difference between their logits is printed beside them.

Example:
    python benchmarks/probe.py --features 384 --targets 1
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from semantoks.evaluation.linear_probe import RATES
from semantoks.evaluation.probe_training import (
    ProbeData,
    TrainedProbes,
    draw_batches,
    initial_weight,
    train_probes,
)

Features = NDArray[np.float32]
T = TypeVar("T")


def simulate(options: argparse.Namespace) -> tuple[Features, list[ProbeData]]:
    """Draw features and, for every split and target, what is learned from."""
    random = np.random.default_rng(0)
    features = random.standard_normal((8 * options.scans, options.features), dtype=np.float32)
    data = []
    for _ in range(options.splits):
        scans = np.sort(random.permutation(options.scans)[: int(0.6 * options.scans)])
        rows = (8 * scans[:, None] + np.arange(8)).ravel()
        for target in range(options.targets):
            chance = features[rows, target] + random.standard_normal(len(rows))
            data.append(ProbeData(rows, (chance > 0).astype(np.int64)))
    return features, data


def train_one(features: Features, data: ProbeData, rate: float, epochs: int) -> torch.nn.Module:
    """Train one probe."""
    width = features.shape[1]
    norm, linear = torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 2)
    with torch.no_grad():
        linear.weight.copy_(initial_weight(data, 2, width, seed=0))
        linear.bias.zero_()
    model = torch.nn.Sequential(norm, linear)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    loss_of = torch.nn.CrossEntropyLoss()
    x, y = torch.from_numpy(features), torch.from_numpy(data.truth)
    rows = torch.from_numpy(data.rows)
    for batch in draw_batches(data.rows, epochs=epochs, seed=0):
        items = torch.from_numpy(batch)
        optimizer.zero_grad()
        loss_of(model(x[rows[items]]), y[items]).backward()
        optimizer.step()
    return model.eval()


def loop(features: Features, data: list[ProbeData], epochs: int) -> list[list[torch.nn.Module]]:
    """Train all probes one after the other."""
    return [[train_one(features, d, rate, epochs) for rate in RATES] for d in data]


def together(features: Features, data: list[ProbeData], epochs: int) -> tuple[TrainedProbes, ...]:
    """Train all probes at once."""
    return train_probes(features, data, kind="classification", rates=RATES, epochs=epochs, seed=0)


def difference(
    features: Features, plain: list[list[torch.nn.Module]], ours: tuple[TrainedProbes, ...]
) -> float:
    """Return the largest difference between the logits of the two."""
    some = features[:200]
    largest = 0.0
    with torch.no_grad():
        for models, probes in zip(plain, ours, strict=True):
            wanted = np.stack([model(torch.from_numpy(some)).numpy() for model in models])
            largest = max(largest, float(np.abs(wanted - probes.outputs(some)).max()))
    return largest


def clock(call: Callable[[], T], name: str, seconds: dict[str, list[float]]) -> T:
    """Call, and note wall and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    seconds.setdefault(f"{name}, processor", []).append(time.process_time() - processor)
    seconds.setdefault(f"{name}, wall", []).append(time.perf_counter() - wall)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=1064, help="of 8 windows")
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--targets", type=int, default=1, help="that share their splits")
    parser.add_argument("--epochs", type=int, default=5, help="the protocol has 50")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    features, data = simulate(options)
    seconds: dict[str, list[float]] = {}
    together(features, data[:1], 1)
    for _ in range(options.repeats):
        plain = clock(lambda: loop(features, data, options.epochs), "loop", seconds)
        ours = clock(lambda: together(features, data, options.epochs), "together", seconds)
    print(
        f"{len(data) * len(RATES)} probes ({options.splits} splits, {options.targets} target(s), "
        f"{len(RATES)} rates) of {options.features} features, {options.epochs} epochs, "
        f"{options.threads} thread(s)"
    )
    ratios = {}
    for time_of in ("wall", "processor"):
        slow, fast = (min(seconds[f"{name}, {time_of}"]) for name in ("loop", "together"))
        every = sum(seconds[f"loop, {time_of}"]) / sum(seconds[f"together, {time_of}"])
        ratios[time_of] = slow / fast
        print(
            f"{time_of:>9}: one by one {slow:8.2f} s   together {fast:8.3f} s   "
            f"{slow / fast:6.1f} times as fast ({every:.1f} over all repeats)"
        )
    print(f"largest difference of a logit: {difference(features, plain, ours):.1e}")
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        content = {"seconds": seconds, "ratios": ratios, "settings": settings}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
