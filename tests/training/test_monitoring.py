"""Health: what warns of collapse and of a teacher that stands still."""

from __future__ import annotations

import pytest
import torch

from semantoks.training.monitoring import Health, identification, warn

WELL = Health(
    effective_rank=20.0,
    effective_rank_max=63.0,
    teacher_student_cosine=0.9,
    token_cosine=0.4,
    feature_deviation=0.5,
    identification=0.7,
    identification_chance=1 / 64,
)


def kinds(*looks: Health, share: float = 0.5) -> list[str]:
    return [warned.kind for warned in warn(looks, share)]


def moved(step: int) -> Health:
    return WELL._replace(effective_rank=20.0 + step)


def test_a_healthy_run_is_left_in_peace() -> None:
    assert kinds(moved(0), moved(1), moved(2)) == []


def test_an_untrained_model_is_not_judged() -> None:
    assert kinds(WELL._replace(effective_rank=1.0, token_cosine=0.99)) == []


def test_collapse() -> None:
    assert kinds(WELL, WELL._replace(effective_rank=6.2)) == ["rank"]
    assert kinds(WELL, WELL._replace(token_cosine=0.96)) == ["tokens"]
    assert kinds(WELL, WELL._replace(effective_rank=6.4, token_cosine=0.94)) == []


def test_a_teacher_that_stands_still() -> None:
    assert kinds(WELL, WELL) == []  # one pair of looks may be too near to each other
    (warned,) = warn([WELL, WELL, WELL], 0.5)
    assert "teacher_momentum" in warned.message
    same = WELL._replace(teacher_student_cosine=0.9999)
    (warned,) = warn([same, same, same], 0.5)
    assert "larger optimization.learning_rate" in warned.message
    assert kinds(WELL, WELL, WELL, share=0.95) == []  # it rests at the end
    assert kinds(moved(1), WELL, WELL) == []


def test_identification_of_noisy_twins() -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(200, 16, generator=generator) + 5  # all share a large mean
    near = people + 0.3 * torch.randn(200, 16, generator=generator)
    assert identification(people, near) > 0.95
    strangers = torch.randn(200, 16, generator=generator)
    assert identification(people, strangers) < 0.05
    assert identification(torch.ones(50, 4), torch.ones(50, 4)) == pytest.approx(1 / 50)
