"""BrainLM, both models, against the numbers of its released code."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers import brainlm
from semantoks.peers.brainlm import Picture, Regions, Stack
from semantoks.peers.weights import read_weights

Variant = Literal["vitmae", "roi"]


@functools.cache
def _golden(shared: Path, variant: Variant) -> dict[str, Any]:
    with np.load(shared / "peers" / "brainlm" / f"golden_{variant}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def _found(shared: Path, variant: Variant) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = shared / "peers" / "brainlm" / variant
    return dict(read_weights(folder / "pytorch_model.bin")), json.loads(
        (folder / "config.json").read_text()
    )


def _load(shared: Path, variant: Variant) -> Picture | Regions:
    found, config = _found(shared, variant)
    coordinates = _tensor(_golden(shared, variant)["xyz"]) if variant == "roi" else None
    return brainlm.load(found, where="file", config=config, coordinates=coordinates)


def _tensor(array: Any) -> Tensor:
    tensor = torch.from_numpy(np.asarray(array))
    return tensor.float() if tensor.is_floating_point() else tensor


def _close(value: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    expected = torch.as_tensor(np.asarray(wanted)).double()
    found = torch.as_tensor(value).detach().double()
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


@pytest.mark.parametrize("variant", get_args(Variant))
def test_encoder_decoder_and_loss(shared: Path, variant: Variant) -> None:
    golden, model = _golden(shared, variant), _load(shared, variant)
    x = _tensor(golden["x"])
    ratio = json.loads(str(golden["config"]))["mask_ratio"]
    kept = brainlm.keep_lowest(_tensor(golden["noise"]), ratio)
    _close(model.encode(x, kept), golden["latent"])
    made = model.reconstruct(x, kept)
    _close(made.guess.reshape(golden["logits"].shape), golden["logits"])
    loss = made.loss(x)
    _close(loss, golden["loss"])
    if variant == "roi":
        _close(made.loss(x, kind="absolute"), golden["loss_mae"])
        masked = made.hidden.unflatten(-1, (10, 20))[..., 0]
        assert masked.equal(_tensor(golden["mask"]).bool())
    else:
        _close(made.loss(x, target="standardized"), golden["loss_norm_pix"])
        assert made.hidden.sum((1, 2)).tolist() == golden["mask_pixel_sum"].tolist()
        assert model.patch_size == 16
        _close(model.embed(x).mean(1), golden["patch_embedding_mean"])
    torch.autograd.backward(loss)
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    _close(torch.stack(norms).norm(), golden["gradnorm"])


def test_the_stages_of_regions(shared: Path) -> None:
    golden, model = _golden(shared, "roi"), _load(shared, "roi")
    assert isinstance(model, Regions)
    _close(model.embed(_tensor(golden["x"])), golden["token_embedding"])
    _close(model.position, golden["position"])
    model.coordinates.mul_(20)  # coordinates of the size of those in mm
    x = _tensor(golden["x"])
    loss = model.reconstruct(x, brainlm.keep_lowest(_tensor(golden["noise"]), 0.2)).loss(x)
    _close(loss, golden["loss_xyz_20"], 1e-4)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_loaded_features(shared: Path, variant: Variant) -> None:
    golden, model = _golden(shared, variant), _load(shared, variant)
    assert not model.training
    x = _tensor(golden["x"])
    _close(model(x), golden["features_cls"])
    _close(model.encode(x)[:, 1:].mean(1), golden["features_mean_patch"])
    if variant == "roi":
        other = model.encode(x, brainlm.keep_lowest(_tensor(golden["noise"]), 0.0))
        _close(other[:, 0], golden["features_cls_other_order"])


@pytest.mark.parametrize(
    ("kind", "share"), [("predict_last", 0.1), ("predict_last", 0.2), ("predict_last_pixel", 0.1)]
)
def test_forecasts(shared: Path, kind: brainlm.ForecastKind, share: float) -> None:
    golden, model = _golden(shared, "vitmae"), _load(shared, "vitmae")
    assert isinstance(model, Picture)
    x = _tensor(golden["x"])
    made = model.forecast(x, kind, share)
    columns = made.hidden[0].any(0)
    assert columns.equal(_tensor(golden[f"{kind}_{share}_mask_columns"]).bool())
    _close(made.loss(x), golden[f"{kind}_{share}_loss"])


@pytest.mark.parametrize("variant", get_args(Variant))
def test_trajectory(shared: Path, variant: Variant) -> None:
    golden, model = _golden(shared, variant), _load(shared, variant)
    x = _tensor(golden["x"])
    ratio = json.loads(str(golden["config"]))["mask_ratio"]
    groups = brainlm.decay_groups(model)
    undecayed = {id(p) for p in groups[1]["params"]}
    names = {name for name, p in brainlm.named_weights(model) if id(p) in undecayed}
    dead = {"decoder.decoder_pred.bias"} if variant == "roi" else set()
    assert names == {str(name) for name in golden["no_decay_names"]} - dead
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    for step, row in enumerate(golden["trajectory"]):
        rate = brainlm.learning_rate(step, steps=20, warmup=2)
        assert rate == pytest.approx(row[2], rel=1e-6)
        series = torch.roll(x, 11 * step, -1)
        kept = brainlm.keep_lowest(_tensor(golden["trajectory_noise"][step]), ratio)
        loss = model.reconstruct(series, kept).loss(series)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        _close(loss, row[0], 1e-4)
        _close(norm, row[1], 1e-4)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    _close(model(x), golden["features_cls_after"], 1e-4)


def test_rows_of_the_picture(shared: Path) -> None:
    golden = _golden(shared, "vitmae")
    order = brainlm.row_order(_tensor(golden["a424_xyz"]))
    assert order.tolist() == golden["a424_order"].tolist()


@pytest.mark.parametrize(
    ("patch", "size", "encoder", "parameters"),
    [
        (16, 432, Stack(768, 12, 12, 3072), 111_655_680),
        (14, 434, Stack(1280, 32, 16, 5120), 656_613_964),
    ],
)
def test_published_sizes(patch: int, size: int, encoder: Stack, parameters: int) -> None:
    with torch.device("meta"):
        model = Picture(encoder=encoder, patch=patch, size=size)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_pilot_of_regions_has_its_size() -> None:
    model = Regions(coordinates=torch.zeros(424, 3))
    dead = 197_376
    assert sum(p.numel() for p in model.parameters()) == 5_047_724 - dead


def test_masks_and_scaling() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = brainlm.draw_kept(300, 40, 0.75, generator)
    assert kept.shape == (300, 10)
    shares = torch.bincount(kept.flatten(), minlength=40) / 300
    assert (shares - 0.25).abs().max() < 0.1
    scaled = brainlm.robust_scale(torch.randn(2, 3, 500, generator=generator) * 7 + 3)
    quartiles = scaled.quantile(torch.tensor([0.25, 0.75]), dim=-1)
    torch.testing.assert_close(quartiles[1] - quartiles[0], torch.ones(2, 3))
    assert brainlm.robust_scale(torch.ones(1, 1, 9)).abs().max() == 0


def test_wrong_series_are_refused(shared: Path) -> None:
    for variant in get_args(Variant):
        with pytest.raises(InputError, match="200 frames"):
            _load(shared, variant)(torch.zeros(1, 17, 200))


def _rename(found: dict[str, Any]) -> None:
    found["vit.layernorm.wieght"] = found.pop("vit.layernorm.weight")


def _drop(found: dict[str, Any]) -> None:
    del found["decoder.decoder_norm.bias"]


def _add(found: dict[str, Any]) -> None:
    found["spare"] = torch.zeros(2)


def _resize(found: dict[str, Any]) -> None:
    found["vit.layernorm.bias"] = torch.zeros(3)


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_rename, "Did you mean 'vit.layernorm.weight'"),
        (_drop, "1 missing, such as 'decoder.decoder_norm.bias'"),
        (_add, "1 unknown, such as 'spare'"),
        (_resize, r"of shape \(3,\)"),
    ],
)
def test_wrong_weights_are_refused(
    shared: Path, variant: Variant, damage: Callable[[dict[str, Any]], None], words: str
) -> None:
    found, config = _found(shared, variant)
    damage(found)
    coordinates = torch.zeros(30, 3) if variant == "roi" else None
    with pytest.raises(InputError, match=words):
        brainlm.load(found, where="file", config=config, coordinates=coordinates)


def test_what_is_not_in_the_file_is_asked_for(shared: Path) -> None:
    found, config = _found(shared, "roi")
    with pytest.raises(ConfigurationError, match="keyword config"):
        brainlm.load(found, where="file")
    with pytest.raises(ConfigurationError, match="keyword coordinates"):
        brainlm.load(found, where="file", config=config)
    with pytest.raises(ConfigurationError, match="landmarks"):
        brainlm.load(
            found,
            where="file",
            config=config | {"num_landmarks": 32},
            coordinates=torch.zeros(30, 3),
        )
    found, config = _found(shared, "vitmae")
    with pytest.raises(ConfigurationError, match="hidden_size"):
        brainlm.load(found, where="file", config={})
    with pytest.raises(ConfigurationError, match="row_order"):
        brainlm.load(found, where="file", config=config, coordinates=torch.zeros(424, 3))
