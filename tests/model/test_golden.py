"""The released architecture, number by number (METHOD.md; released weights' format)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.model.released import released_encoder, released_head
from semantoks.objective.distillation import Distillation
from semantoks.training.config import ObjectiveConfig, OptimizationConfig
from semantoks.training.optimization import make_optimizer, optimizer_step, schedule


class Golden(NamedTuple):
    numbers: Any
    model: Distillation

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.numbers[name])

    def views(self) -> Tensor:
        return torch.stack([self["view1"], self["view2"]], dim=1)

    def masks(self) -> Tensor:
        return torch.stack([self["mask1"], self["mask2"]], dim=1)


@pytest.fixture
def golden(shared: Path) -> Golden:
    checkpoint = torch.load(shared / "golden" / "checkpoint.pth", weights_only=True)
    state = checkpoint["model_state_dict"]
    atlas = Atlas.load("schaefer400-tian3-buckner7")
    model = Distillation(
        SemantoksEncoder(atlas, dim=128, depth=2), Head(128, hidden_dim=256, output_dim=64)
    )
    for name in ("student", "teacher"):
        branch = getattr(model, name)
        released = released_encoder(state, branch.encoder, branch=name, atlas="schaefer400")
        assert len(released.dead) == 200
        branch.encoder.load_state_dict(released.weights)
        branch.head.load_state_dict(released_head(state, branch.head, branch=name))
    return Golden(np.load(shared / "golden" / "golden.npz"), model.eval())


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def number(value: Tensor | None) -> float:
    return 0.0 if value is None else float(value.detach())


def all_tokens(encoder: SemantoksEncoder, view: Tensor, mask: Tensor | None = None) -> Tensor:
    summary, tokens = encoder(view, mask)
    return torch.cat([summary[:, None], tokens.flatten(1, 2)], dim=1)


def features(encoder: SemantoksEncoder, view: Tensor, mask: Tensor | None = None) -> Tensor:
    summary, tokens = encoder(view, mask)
    return torch.cat([tokens.flatten(1, 2).mean(1), summary], dim=1)


@torch.no_grad()
def test_tokens_and_projections(golden: Golden) -> None:
    teacher, student = golden.model.teacher.encoder, golden.model.student.encoder
    view, mask = golden["view1"], golden["mask1"]
    assert difference(teacher.tokenizer(view), golden["teacher_semantic_tokens"]) <= 1e-5
    for name, encoder in (("teacher", teacher), ("student", student)):
        assert difference(all_tokens(encoder, view), golden[f"{name}_tokens"]) <= 1e-5
        masked = all_tokens(encoder, view, mask)
        assert difference(masked, golden[f"{name}_tokens_masked"]) <= 1e-5
    projected = golden.model.teacher.head(all_tokens(teacher, view))
    assert difference(projected, golden["teacher_projection"]) <= 1e-5


@torch.no_grad()
def test_features_with_and_without_networks(golden: Golden) -> None:
    teacher, view = golden.model.teacher.encoder, golden["view1"]
    assert difference(features(teacher, view), golden["teacher_cls_avg"]) <= 1e-5
    for network in (0, 8):
        mask = torch.ones(6, 9, 5, dtype=torch.bool)
        mask[:, network] = False
        expected = golden[f"teacher_cls_avg_only_network_{network}"]
        assert difference(features(teacher, view, mask), expected) <= 1e-5


@pytest.mark.parametrize("kind", ["masked", "unmasked"])
def test_losses_and_gradient(golden: Golden, kind: str) -> None:
    masks = golden.masks() if kind == "masked" else None
    terms = golden.model(golden.views(), masks, curriculum=1.0)
    terms.total.backward()
    gradients = [p.grad for p in golden.model.student.parameters() if p.grad is not None]
    found = {
        "cls_loss": -number(terms.compression) - number(terms.expansion),
        "network_loss": 0.5 * number(terms.summary),
        "mask_loss": 0.5 * number(terms.token),
        "total_loss": number(terms.total),
    }
    for name, value in found.items():
        assert value == pytest.approx(float(golden.numbers[f"loss_{kind}_{name}"]), rel=1e-5)
    norm = float(torch.nn.utils.get_total_norm(gradients))
    assert norm == pytest.approx(float(golden.numbers[f"gradnorm_{kind}"]), rel=1e-4)


def test_six_steps(golden: Golden) -> None:
    # Peak 1e-3 at batch 6, warm-up over 3 of 60 steps, curriculum over 6.
    optimization = OptimizationConfig(learning_rate=1e-3 * 256 / 6, warmup_epochs=3)
    objective = ObjectiveConfig(summary_share=0.1)
    optimizer = make_optimizer(golden.model.student, optimization)
    views = torch.stack([golden["trajectory_view1"], golden["trajectory_view2"]], dim=2).float()
    masks = torch.stack([golden["trajectory_mask1"], golden["trajectory_mask2"]], dim=2)
    for step, expected in enumerate(golden.numbers["trajectory"]):
        now = schedule(
            step,
            steps=60,
            steps_an_epoch=1,
            batch_size=6,
            optimization=optimization,
            objective=objective,
        )
        masked = bool(golden.numbers["trajectory_masked"][step])
        terms = golden.model(
            views[step], masks[step] if masked else None, curriculum=now.curriculum
        )
        terms.total.backward()
        norm = optimizer_step(optimizer, now, clip=1.0)
        golden.model.update_teacher(now.momentum)
        found = [
            -number(terms.compression) - number(terms.expansion),
            0.5 * now.curriculum * number(terms.summary),
            0.5 * number(terms.token),
            number(terms.total),
            norm,
            now.learning_rate,
            now.weight_decay,
            0.5 * now.curriculum,
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    with torch.no_grad():
        after = features(golden.model.teacher.encoder, golden["view1"])
    assert difference(after, golden["teacher_cls_avg_after"]) <= 5e-5
