"""Cost of other models at their published sizes: parameters, arithmetic, and time of one input.

All are measured in one process, in float32, each beside our encoder on one window of 100 samples.
Run as ``python benchmarks/peers.py``; the table is Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.peers import bnt, bolt, brainjepa, brainlm, brainmass, neurostorm

Made = tuple[nn.Module, Tensor, str]


def _ours() -> Made:
    atlas = Atlas.load("schaefer400-tian3-buckner7")
    return SemantoksEncoder(atlas), torch.randn(1, len(atlas), 100), "100 samples"


def _bnt() -> Made:
    return bnt.BrainNetworkTransformer(), torch.randn(1, 200, 200), "a scan"


def _bolt() -> Made:
    return bolt.BolT(), torch.randn(1, 400, 200), "200 samples"


def _brainmass() -> Made:
    return brainmass.Network(), torch.randn(1, 100, 100), "a scan"


def _regions() -> Made:
    return brainlm.Regions(coordinates=torch.zeros(424, 3)), torch.randn(1, 424, 200), "147 s"


def _picture() -> Made:
    return brainlm.Picture(), torch.randn(1, 424, 200), "147 s"


def _brainjepa() -> Made:
    encoder = brainjepa.Encoder(gradients=torch.randn(450, 30))
    return encoder, torch.randn(1, 450, 160), "354 s"


def _swift() -> Made:
    return neurostorm.VolumeEncoder("attention"), torch.randn(1, 1, 96, 96, 96, 20), "16 s"


def _neurostorm() -> Made:
    return neurostorm.VolumeEncoder("scan"), torch.randn(1, 1, 96, 96, 96, 20), "16 s"


MODELS: dict[str, Callable[[], Made]] = {
    "Brain-Semantoks": _ours,
    "BNT, 200 regions": _bnt,
    "BolT, 400 regions": _bolt,
    "BrainMass": _brainmass,
    "BrainLM, pilot of regions": _regions,
    "BrainLM, 111M": _picture,
    "Brain-JEPA, base": _brainjepa,
    "SwiFT": _swift,
    "NeuroSTORM": _neurostorm,
}


@torch.no_grad()
def measure(model: nn.Module, x: Tensor, repeats: int) -> tuple[float, float]:
    """Return GFLOP (2 a product) and the median of the seconds of one input."""
    model.requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)  # its one operation would not be counted
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    torch.backends.mha.set_fastpath_enabled(True)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        model(x)
        seconds.append(time.perf_counter() - began)
    return counter.get_total_flops() / 1e9, statistics.median(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print("| model | one input | parameters, M | GFLOP | seconds | times ours |")
    print("|---|---|---|---|---|---|")
    ours = None
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model, x, what = make()
        gflop, seconds = measure(model.eval(), x, repeats)
        ours = ours or seconds
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(
            f"| {name} | {what} | {parameters:.2f} | {gflop:.2f} | {seconds:.4f} | "
            f"{seconds / ours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
