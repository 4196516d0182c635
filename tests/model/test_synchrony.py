"""Time courses: nothing where there are none, no look behind a mask, gradients that arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError
from semantoks.model.checkpoint import load_encoder, save_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.model.synchrony import FLOOR, Synchrony
from semantoks.objective.distillation import Distillation
from semantoks.training.config import configure, paper
from semantoks.training.precision import autocast

# The ROIs of networks do not stand together.
ATLAS = Atlas.from_networks({"Vis": 5, "Cont": 3, "Default": 7}).with_networks(
    [["Vis", "Cont", "Default"][i % 3] if i < 9 else "Default" for i in range(15)], name="mixed"
)
Span = Literal["patch", "window"]
SPANS: tuple[Span, ...] = ("patch", "window")


def make(span: Span = "patch", *, time_courses: int = 4, depth: int = 2) -> SemantoksEncoder:
    torch.manual_seed(0)
    return SemantoksEncoder(
        ATLAS,
        dim=32,
        depth=depth,
        head_dim=16,
        time_courses=time_courses,
        time_course_span=span,
    )


def module_of(encoder: SemantoksEncoder) -> Synchrony:
    assert encoder.synchrony is not None
    return encoder.synchrony


def windows(n: int = 6) -> Tensor:
    return torch.randn(n, 15, 100, generator=torch.Generator().manual_seed(1))


def some_mask(n: int = 6) -> Tensor:
    mask = torch.rand(n, 3, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[0, 1] = True  # a network that is hidden throughout
    mask[1, :, :3] = True  # a stretch of time
    return mask


def test_off_by_default_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    plain = SemantoksEncoder(ATLAS, dim=32, depth=2, head_dim=16)
    assert plain.synchrony is None
    assert not any("synchrony" in name for name in plain.state_dict())
    withal = make().state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(withal[name], value, rtol=0, atol=0)


@torch.no_grad()
def test_synchrony_is_correlation_about_the_mean_of_the_scan() -> None:
    module = module_of(make())
    series = windows(2)
    rois = torch.as_tensor(ATLAS.network_indices[1])
    mean = series[:, rois].sum(1) / len(rois) ** 0.5
    torch.testing.assert_close(module.courses(series)[:, 3], mean, rtol=0, atol=1e-5)
    found = module.synchrony(series)
    assert found.shape == (2, 5, 10, 10)  # 3 + 3 + 4: no more courses than ROIs
    x, y = module.courses(series)[1, 2, 40:60], module.courses(series)[1, 8, 40:60]
    power = x.square().mean() + FLOOR, y.square().mean() + FLOOR
    expected = (x * y).mean() / (power[0] * power[1]).sqrt()
    torch.testing.assert_close(found[1, 2, 2, 8], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1, 2, 2, 2], power[0].log(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_networks_that_go_together_are_told_apart_from_those_that_do_not() -> None:
    module, series = module_of(make("window")), windows(2)
    vis, cont = (torch.as_tensor(ATLAS.network_indices[n]) for n in (0, 1))
    common = torch.randn(100)
    series[0][vis], series[0][cont] = common, common
    found = module.synchrony(series)[:, 0, 0, 3]
    assert float(found[0]) > 0.98
    assert abs(float(found[1])) < 0.4


@torch.no_grad()
@pytest.mark.parametrize("span", SPANS)
def test_nothing_tells_what_a_masked_network_does(span: Span) -> None:
    encoder, mask, series = make(span), some_mask(), windows()
    other = series.clone().unflatten(2, (5, 20))
    for n, rois in enumerate(ATLAS.network_indices):
        for roi in rois:
            other[:, roi][mask[:, n]] = 5 * torch.randn(int(mask[:, n].sum()), 20)
    changed = encoder(other.flatten(2), mask)
    for a, b in zip(encoder(series, mask), changed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    told = module_of(encoder)(series, mask)
    assert not told[mask].any()
    silent = module_of(make("patch")).synchrony(series, mask)[0, :, :3, 3:6]
    assert not silent.any()  # Vis with Cont, which is hidden


@torch.no_grad()
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("depth", [0, 2])
def test_chosen_tokens_are_those_of_a_call(span: Span, depth: int) -> None:
    encoder, mask, places = make(span, depth=depth), some_mask(), torch.tensor([0, 14, 15, 44, 89])
    expected, found = encoder(windows(), mask), encoder.choose(windows(), mask, places)
    torch.testing.assert_close(found.summary, expected.summary, rtol=0, atol=1e-6)
    tokens = expected.tokens.flatten(0, 2)[places]
    torch.testing.assert_close(found.tokens, tokens, rtol=0, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("span", SPANS)
def test_the_objective_teaches_time_courses(span: Span, masked: bool) -> None:
    model = Distillation(make(span), Head(32, hidden_dim=32, output_dim=16))
    views = windows(12).unflatten(0, (6, 2))
    mask = torch.stack([some_mask(), some_mask().flip(0)], dim=1) if masked else None
    model(views, mask).total.backward()
    module = module_of(model.student.encoder)
    for p in module.parameters():
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()
        assert float(p.grad.norm()) > 1e-6


@pytest.mark.parametrize("span", SPANS)
def test_flat_and_missing_networks_are_silent(span: Span) -> None:
    encoder, series = make(span), windows(2)
    series[:, torch.as_tensor(ATLAS.network_indices[1])] = 0
    missing = torch.zeros(2, 3, 5, dtype=torch.bool)
    missing[:, 1] = True
    for mask in (None, missing):
        alike = module_of(encoder).synchrony(series, mask)
        assert not alike[:, :, :3, 3:6].any()
        total = sum(x.square().sum() for x in encoder(series, mask))
        encoder.zero_grad()
        torch.autograd.backward(total)
        grads = [p.grad for p in module_of(encoder).parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in grads)
    # A network without signal is the same whether it is there as zeros or not at all.
    a, b = (module_of(encoder)(series, mask)[:, 0] for mask in (None, missing))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@torch.no_grad()
def test_half_precision_is_close() -> None:
    encoder, series = make(), windows()
    exact = encoder(series)
    with autocast("bf16", torch.device("cpu")):
        rough = encoder(series)
    for a, b in zip(exact, rough, strict=True):
        assert float(torch.cosine_similarity(a, b.float(), dim=-1).min()) >= 0.999


@torch.no_grad()
def test_windows_of_other_lengths() -> None:
    assert make("window")(windows()[..., :40]).tokens.shape == (6, 3, 2, 32)


@torch.no_grad()
def test_principal_start_is_that_of_numpy() -> None:
    module = module_of(make(time_courses=2))
    series = np.random.default_rng(0).standard_normal((15, 500))
    series += np.random.default_rng(1).standard_normal(500)
    correlation = np.corrcoef(series)
    module.start_principal(torch.from_numpy(correlation))
    for weight, rois in zip(module.weights, ATLAS.network_indices, strict=True):
        own = correlation[np.ix_(rois, rois)]
        expected = np.linalg.eigh(own)[1][:, ::-1][:, :2].T
        overlap = np.abs((weight.numpy() * expected).sum(1))
        np.testing.assert_allclose(overlap, 1, atol=1e-5)
        assert (weight.sum(1) >= 0).all()


def test_folder_keeps_time_courses(tmp_path: Path) -> None:
    encoder = make("window").eval()
    again = load_encoder(save_encoder(encoder, tmp_path / "model"))
    assert again.arguments == encoder.arguments
    assert (again.time_courses, again.time_course_span) == (4, "window")
    torch.testing.assert_close(again(windows()), encoder(windows()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.time_courses": -1}, "time_courses"),
        ({"model.time_course_span": "window"}, "no effect without time courses"),
        ({"model.time_course_start": "principal"}, "no effect without time courses"),
        (
            {
                "model.time_courses": 2,
                "model.spatial": "maximal",
                "model.tokenization": "linear",
            },
            "spatial = maximal",
        ),
        ({"model.time_courses": 2, "model.time_course_span": "scan"}, "time_course_span"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configure(paper(), changes)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="time_courses is -2; it must be a whole number"):
        make(time_courses=-2)
