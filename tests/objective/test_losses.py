"""The terms of the loss against their formulas, and their behaviour at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.objective.distillation import Distillation
from semantoks.objective.losses import coding_rate, compression, expansion, token_agreement

ATLAS = Atlas.from_networks({"Vis": 5, "Cont": 3, "Default": 7})


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_compression_pairs_different_views() -> None:
    s, t = (unit(6, 8, seed=1), unit(6, 8, seed=2)), (unit(6, 8, seed=3), unit(6, 8, seed=4))
    expected = 0.0
    for i in range(2):
        for j in range(2):
            if i != j:
                expected += 0.5 * np.mean([float(t[i][b] @ s[j][b]) for b in range(6)])
    assert float(compression(s, t)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("rows", "dim"), [(5, 12), (40, 12)])
def test_expansion_formula(rows: int, dim: int) -> None:
    s = (unit(rows, dim, seed=1), unit(rows, dim, seed=2))
    t = (unit(rows, dim, seed=3), unit(rows, dim, seed=4))
    expected = 0.0
    for i in range(2):
        z = ((s[i] + t[i]) / 2).double().numpy()
        _, logdet = np.linalg.slogdet(np.eye(dim) + dim / (rows * 0.05) * z.T @ z)
        expected += 0.5 * (dim + rows) / (dim * rows) * 0.5 * logdet
    assert float(expansion(s, t)) == pytest.approx(expected, rel=1e-5)


def test_coding_rate_falls_in_collapse() -> None:
    spread, collapsed = unit(64, 16), unit(1, 16).expand(64, 16)
    assert coding_rate(spread) > 3 * coding_rate(collapsed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coding_rate_is_float32_in_mixed_precision(dtype: torch.dtype) -> None:
    z = unit(64, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rate = coding_rate(z.to(dtype))
    assert rate.dtype == torch.float32
    assert float(rate) == pytest.approx(float(coding_rate(z)), rel=1e-2)


def test_token_agreement_weighs_windows_equally() -> None:
    student, teacher = unit(2, 3, 4, 8, seed=1), unit(2, 3, 4, 8, seed=2)
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0, 0, 0] = True
    mask[1] = True
    cosine = (student * teacher).sum(-1)
    expected = (cosine[0, 0, 0] + cosine[1].mean()) / 2
    window = mask.nonzero()[:, 0]
    found = token_agreement(student[mask], teacher[mask], window, 2)
    torch.testing.assert_close(found, expected)
    found = token_agreement(student[mask], teacher[mask], window, 4)  # two windows without any
    torch.testing.assert_close(found, expected / 2)


@pytest.fixture
def model() -> Distillation:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=2, head_dim=16)
    return Distillation(encoder, Head(32, hidden_dim=32, output_dim=16))


def masks() -> Tensor:
    masks = torch.zeros(6, 2, 3, 2, dtype=torch.bool)
    masks[:, 0, 1] = True
    masks[:, 1, :, 0] = True
    return masks


def test_every_parameter_learns_and_the_teacher_does_not(model: Distillation) -> None:
    model(torch.randn(6, 2, 15, 40), masks(), curriculum=0.5).total.backward()
    idle = [n for n, p in model.student.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_total_is_the_weighted_sum(model: Distillation) -> None:
    views = torch.randn(6, 2, 15, 40)
    terms = model(views, masks(), curriculum=0.25)
    assert terms.token is not None
    assert terms.summary is not None
    expected = -terms.compression - terms.expansion + 0.5 * terms.token + 0.5 * 0.25 * terms.summary
    torch.testing.assert_close(terms.total, expected)
    plain = model(views, None, curriculum=0.0)
    assert plain.token is None
    assert plain.summary is None
    torch.testing.assert_close(plain.total, -plain.compression - plain.expansion)


def test_the_cls_term_can_be_left_out() -> None:
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=1, head_dim=16, window=40)
    model = Distillation(encoder, Head(32, hidden_dim=32, output_dim=16), cls_weight=0.0)
    terms = model(torch.randn(6, 2, 15, 40), masks())
    assert terms.token is not None
    torch.testing.assert_close(terms.total, 0.5 * terms.token)
    assert torch.isfinite(terms.compression)


def test_absent_networks_reach_no_term(model: Distillation) -> None:
    absent = torch.zeros(6, 3, dtype=torch.bool)
    absent[2, 0] = True
    absent[4, 1] = True  # of this scan, the first view's only masked network
    views = torch.randn(6, 2, 15, 40)
    other = views.clone()
    other[2, :, :5] = torch.randn(2, 5, 40)
    other[4, :, 5:8] = torch.randn(2, 3, 40)
    terms = [model(v, masks(), curriculum=0.5, absent=absent) for v in (views, other)]
    for a, b in zip(*terms, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.isfinite(terms[0].total)
    nowhere = model(views, masks(), curriculum=0.5, absent=torch.zeros_like(absent))
    torch.testing.assert_close(nowhere.total, model(views, masks(), curriculum=0.5).total)


def test_teacher_sees_whole_windows(model: Distillation) -> None:
    seen = []
    model.teacher.encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[1]))
    model(torch.randn(6, 2, 15, 40), masks(), curriculum=1.0)
    assert seen == [None]


def test_teacher_moves_by_momentum(model: Distillation) -> None:
    with torch.no_grad():
        for p in model.student.parameters():
            p.add_(1.0)
    before = [p.clone() for p in model.teacher.parameters()]
    model.update_teacher(0.9)
    for old, new in zip(before, model.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1, rtol=0, atol=1e-5)
    model.update_teacher(1.0)
    assert all(math.isfinite(float(p.sum())) for p in model.teacher.parameters())
