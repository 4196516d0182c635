"""The counts of docs/fidelity.md."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "fidelity.md"
REFERENCE = Atlas.load("schaefer400-tian3-buckner7")
DIM = 768


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_reference() -> None:
    encoder = SemantoksEncoder(REFERENCE, DIM, depth=8)
    # The released encoder stores its tokenizers once for each of its three atlases and uses one
    # set; and it has a LayerNorm that nothing calls.
    dead = 2 * count(encoder.tokenizer) + 2 * DIM
    assert (count(encoder), dead) == (58_720_931, 4_029_766)
    assert round((count(encoder) + dead) / 1e6, 2) == 62.75
    assert round(dead / 1e6, 2) == 4.03
    head = count(Head(DIM))
    assert head == 918_656
    text = DOCUMENT.read_text(encoding="utf-8")
    for number in (count(encoder), dead, count(encoder) + dead, head):
        assert f"{number:,}" in text


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(REFERENCE, 32, depth=1, head_dim=16)
    mask = torch.zeros(1, 9, 5, dtype=torch.bool)
    mask[:, 3] = True
    summary, tokens = encoder(torch.randn(1, 457, 100), mask)
    (summary.square().sum() + tokens.pow(3).sum()).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # A masked network's tokenizer has no say in this window; everything else has.
    assert all(name.startswith("tokenizer.networks.3.") for name in without)
