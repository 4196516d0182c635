"""Schedules are functions of the optimizer step."""

from __future__ import annotations

import pytest
import torch

from semantoks.training.config import ObjectiveConfig, OptimizationConfig
from semantoks.training.monitoring import effective_rank, token_cosine
from semantoks.training.optimization import Schedule, make_optimizer, optimizer_step, schedule


def at(step: int, **changes: float) -> Schedule:
    return schedule(
        step,
        steps=1000,
        steps_an_epoch=10,
        batch_size=512,
        optimization=OptimizationConfig(**changes),  # type: ignore[arg-type]
        objective=ObjectiveConfig(),
    )


def test_learning_rate() -> None:
    assert at(0).learning_rate == 0
    assert at(15).learning_rate == pytest.approx(7e-4 * 2 / 2)
    assert at(30).learning_rate == pytest.approx(1.4e-3)  # 7e-4 * 512 / 256, after 3 epochs
    assert at(515).learning_rate == pytest.approx(7e-4)
    assert at(1000).learning_rate == pytest.approx(0, abs=1e-12)


def test_decay_momentum_and_curriculum() -> None:
    assert at(0)[1:5] == pytest.approx((0.05, 0.99, 1.0, 0.04))
    assert [at(step).frozen for step in (0, 9, 10)] == [True, True, False]
    assert at(500).weight_decay == pytest.approx(0.175)
    assert at(500).momentum == pytest.approx(0.995)
    assert at(25).curriculum == pytest.approx(0.5)  # 5 % of 1000 steps
    assert [at(step).curriculum for step in (50, 51, 999)] == [0, 0, 0]
    assert at(1000).momentum == 1.0
    assert at(1000).weight_decay == pytest.approx(0.3)


def test_the_network_summary_term_may_stay() -> None:
    kept = schedule(
        999,
        steps=1000,
        steps_an_epoch=10,
        batch_size=512,
        optimization=OptimizationConfig(),
        objective=ObjectiveConfig(summary_schedule="constant"),
    )
    assert kept.curriculum == 1.0


def test_no_warmup_no_division_by_zero() -> None:
    assert at(0, warmup_epochs=0).learning_rate == pytest.approx(1.4e-3)


def test_gradient_is_clipped_and_cleared() -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = make_optimizer(layer, OptimizationConfig())
    (layer(torch.ones(1, 3)) * 1000).sum().backward()
    norm = optimizer_step(optimizer, Schedule(0.1, 0.2, 0.99, 0), clip=1.0)
    assert norm > 1000
    assert all(p.grad is None for p in layer.parameters())
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.2)
    assert len(group["params"]) == 2  # decay on weights and biases, as released


def test_effective_rank_of_known_clouds() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(50, 1, generator=generator) @ torch.randn(1, 8, generator=generator)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(50, 8)) == 0
    assert effective_rank(torch.randn(5000, 8, generator=generator)) == pytest.approx(8, rel=0.01)


def test_token_cosine_of_known_lattices() -> None:
    same = torch.ones(2, 3, 2, 8)
    torch.testing.assert_close(token_cosine(same), torch.ones(2))
    orthogonal = torch.eye(6).view(1, 3, 2, 6)
    torch.testing.assert_close(token_cosine(orthogonal), torch.zeros(1))
