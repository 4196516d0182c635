"""The fast step against the plain one that the benchmark keeps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head, LongConvolution, mean_gelu
from semantoks.objective.distillation import Distillation
from semantoks.training.config import MasksConfig
from semantoks.training.precision import autocast, choose_precision
from semantoks.training.views import draw_masks

ATLAS = Atlas.from_networks({"Vis": 5, "Cont": 3, "Default": 7})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "plain.py"
    spec = importlib.util.spec_from_file_location("plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model() -> Distillation:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(ATLAS, dim=64, depth=2, head_dim=16)
    model = Distillation(encoder, Head(64, hidden_dim=64, output_dim=16))
    with torch.no_grad():  # a teacher that is not the student
        for p in model.teacher.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model


def views() -> Tensor:
    return torch.randn(8, 2, 15, 100, generator=torch.Generator().manual_seed(1))


def masks(kind: str) -> Tensor | None:
    if kind == "none":
        return None
    config = MasksConfig(kind=kind)  # type: ignore[arg-type]
    return draw_masks(8, 3, 5, config, torch.Generator().manual_seed(2))


def gradients(model: Distillation, total: Tensor) -> Tensor:
    model.zero_grad()
    total.backward()
    found = [p.grad for p in model.student.parameters()]
    named = zip(model.student.parameters(), found, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in named])


@pytest.mark.parametrize("kind", ["none", "slice", "network", "temporal", "random"])
def test_loss_and_gradient(model: Distillation, plain: ModuleType, kind: str) -> None:
    fast, slow = model(views(), masks(kind)).total, plain.loss(model, views(), masks(kind))
    assert float(fast.detach()) == pytest.approx(float(slow.detach()), abs=1e-5)
    expected = gradients(model, slow)
    difference = (gradients(model, fast) - expected).norm() / expected.norm()
    assert float(difference) <= 1e-5


@pytest.mark.parametrize("kind", ["none", "slice", "random"])
@pytest.mark.parametrize("span", ["patch", "window"])
def test_loss_and_gradient_with_time_courses(
    plain: ModuleType, kind: str, span: Literal["patch", "window"]
) -> None:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(
        ATLAS, dim=32, depth=1, head_dim=16, time_courses=4, time_course_span=span
    )
    model = Distillation(encoder, Head(32, hidden_dim=32, output_dim=16))
    some, hidden = views()[:3], masks(kind)
    hidden = None if hidden is None else hidden[:3]
    fast, slow = model(some, hidden).total, plain.loss(model, some, hidden)
    assert float(fast.detach()) == pytest.approx(float(slow.detach()), abs=1e-5)
    expected = gradients(model, slow)
    difference = (gradients(model, fast) - expected).norm() / expected.norm()
    assert float(difference) <= 1e-5


@torch.no_grad()
def test_features(model: Distillation, plain: ModuleType) -> None:
    encoder, series = model.teacher.encoder, views().flatten(0, 1)
    for mask in (None, masks("random")):
        hidden = None if mask is None else mask.flatten(0, 1)
        expected = plain.encode(encoder, series, hidden)
        torch.testing.assert_close(encoder(series, hidden), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_hidden_cells_are_not_tokenized(model: Distillation) -> None:
    tokenizer, series = model.student.encoder.tokenizer, views()[:, 0]
    hidden = masks("random")[:, 0]
    hidden[:, 1] = True  # a network that no window shows
    found, everything = tokenizer(series, hidden), tokenizer(series)
    torch.testing.assert_close(found[~hidden], everything[~hidden], rtol=0, atol=1e-6)
    assert not found[hidden].any()


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_chosen_tokens_are_those_of_a_call(depth: int) -> None:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=depth, head_dim=16)
    series, places = views()[:, 0], torch.tensor([0, 14, 15, 100, 119])
    expected, found = encoder(series), encoder.choose(series, None, places)
    torch.testing.assert_close(found.summary, expected.summary, rtol=0, atol=1e-6)
    tokens = expected.tokens.flatten(0, 2)[places]
    torch.testing.assert_close(found.tokens, tokens, rtol=0, atol=1e-6)


@pytest.mark.parametrize("time", [5, 20, 31])
def test_toeplitz_convolves(time: int) -> None:
    torch.manual_seed(0)
    long, x = LongConvolution(4, 3), torch.randn(2, 4, time)
    found = torch.einsum("ckts,bcs->bckt", long.toeplitz(time), x).flatten(1, 2)
    torch.testing.assert_close(found, long(x), rtol=0, atol=1e-5)


def test_mean_gelu_and_its_gradient() -> None:
    x = torch.randn(6, 4, 20, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(mean_gelu(x), torch.nn.functional.gelu(x).mean(-1))
    assert torch.autograd.gradcheck(mean_gelu, x)


@pytest.mark.parametrize("kind", ["none", "slice"])
def test_bf16_is_close(model: Distillation, kind: str) -> None:
    series = views().flatten(0, 1)
    with torch.no_grad():
        exact = model.teacher.encoder(series)
        with autocast("bf16", CPU):
            rough = model.teacher.encoder(series)
    for a, b in zip(exact, rough, strict=True):
        assert float(torch.cosine_similarity(a, b.float(), dim=-1).min()) >= 0.999
    expected = model(views(), masks(kind)).total
    with autocast("bf16", CPU):
        total = model(views(), masks(kind)).total
    assert total.dtype == torch.float32
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-2)
    assert torch.isfinite(gradients(model, total)).all()


def test_precision_is_chosen_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "semantoks.training.precision._gain_of_bf16"
    for gain, expected in ((1.1, "float32"), (1.5, "bf16")):
        monkeypatch.setattr(module, lambda dim, gain=gain: gain)
        assert choose_precision("auto", CPU, dim=768) == expected
        assert choose_precision("auto", CPU, dim=64) == "float32"
        assert choose_precision("fp16", CPU, dim=768) == "fp16"
