"""SwiFT and NeuroSTORM against the numbers of their released code."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.errors import InputError
from semantoks.peers import neurostorm
from semantoks.peers.neurostorm import Sizes, VolumeAutoencoder, VolumeEncoder
from semantoks.peers.weights import read_weights

Kind = Literal["window", "random", "atlas"]


@functools.cache
def _golden(shared: Path, name: str) -> dict[str, Any]:
    with np.load(shared / "peers" / "neurostorm" / f"{name}.npz") as arrays:
        return {key.removeprefix("main."): arrays[key] for key in arrays.files}


def _found(shared: Path, name: str) -> dict[str, Any]:
    return dict(read_weights(shared / "peers" / "neurostorm" / f"{name}.pth"))


def _tensor(array: Any) -> Tensor:
    tensor = torch.from_numpy(np.asarray(array))
    return tensor.float() if tensor.is_floating_point() else tensor


def _close(value: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    expected = torch.as_tensor(np.asarray(wanted)).double()
    found = torch.as_tensor(value).detach().double()
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


def _first(x: Tensor) -> Tensor:
    """Put channels first."""
    return x.movedim(-1, 1)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return _golden(shared, "golden")


@pytest.fixture(scope="module")
def storm(shared: Path, golden: dict[str, Any]) -> VolumeEncoder:
    config = json.loads(str(golden["config"]))
    return neurostorm.load(_found(shared, "checkpoint"), where="file", config=config)


@pytest.fixture(scope="module")
def autoencoder(shared: Path, storm: VolumeEncoder) -> VolumeAutoencoder:
    model = VolumeAutoencoder(storm.sizes)
    state = _found(shared, "checkpoint")["state_dict"]
    names = {name: name.removeprefix("encoder.") for name in model.state_dict()}
    model.load_state_dict({ours: state[f"model.{name}"] for ours, name in names.items()})
    return model.double()  # as the golden numbers; its norms amplify the rounding of float32


def _check_stages(model: VolumeEncoder, x: Tensor, golden: dict[str, Any], prefix: str) -> None:
    tokens = model.patch_embed.fc(model.patches(x))
    _close(_first(tokens), golden[prefix + "patch_embed"])
    for i, (position, stage) in enumerate(zip(model.pos_embeds, model.layers, strict=True)):
        inside = position(tokens)
        for j, block in enumerate(stage.blocks):
            inside = block(inside)
            if f"{prefix}stage{i}.block{j}" in golden:
                _close(inside[:1], golden[f"{prefix}stage{i}.block{j}"])
        tokens = stage(position(tokens))
        _close(_first(tokens), golden[f"{prefix}stage{i}"])
    _close(_first(tokens), golden[prefix + "output"])


@torch.no_grad()
def test_every_stage_of_neurostorm(golden: dict[str, Any], storm: VolumeEncoder) -> None:
    assert not storm.training
    x = _tensor(golden["input"])
    _check_stages(storm, x, golden, "encoder.")
    _close(storm(x), golden["pooled"])
    tokens = storm.patch_embed.fc(storm.patches(x[..., :6]))
    _close(_first(storm.stages(tokens)[-1]), golden["encoder_short.output"])
    mamba = storm.layers[1].blocks[0].mamba
    _close(mamba(_tensor(golden["mamba.input"])), golden["mamba.output"])


@torch.no_grad()
def test_prompts(golden: dict[str, Any], storm: VolumeEncoder) -> None:
    model = VolumeEncoder("scan", storm.sizes, prompts=5)
    names = {k: golden[f"prompt.weights.{k}"] for k in model.state_dict() if k.endswith("prompt")}
    model.load_state_dict(storm.state_dict() | {k: _tensor(v) for k, v in names.items()})
    model.double()  # in float32, kernels of some CPUs round by more than the bound
    tokens = model.patch_embed.fc(model.patches(_tensor(golden["input"]).double()))
    _close(_first(model.stages(tokens)[-1]), golden["prompt.output"])


@torch.no_grad()
def test_redundancy(golden: dict[str, Any]) -> None:
    h = _tensor(golden["strd.input"])
    window = (4, 4, 4, 4)
    _close(neurostorm.redundancy(h, window), golden["strd.score_spat5_temp5"])
    alone = neurostorm.redundancy(h, window, space=3, time=1)  # no other frame: nothing to repeat
    assert alone.equal(_tensor(golden["strd.score_spat3_temp1"]))
    assert alone.abs().max() == 0


@pytest.mark.parametrize("kind", ["window", "random", "atlas"])
def test_autoencoder(golden: dict[str, Any], autoencoder: VolumeAutoencoder, kind: Kind) -> None:
    key = f"mae_{kind}."
    x, mask = _tensor(golden["input"]).double(), _tensor(golden[key + "mask"]) > 0
    tokens, _ = autoencoder.hide(autoencoder.encoder.patch_embed.fc(autoencoder.encoder.patches(x)),
                                 mask, kind)  # fmt: skip
    _close(_first(tokens)[:1], golden[key + "masked_tokens"])
    autoencoder.zero_grad()
    loss, guess = autoencoder(x, mask, kind)
    voxels = guess.unflatten(-1, (3, 3, 3)).permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(1, 2)
    voxels = voxels.flatten(2, 3).flatten(3, 4)[:, None]
    _close(voxels[:1], golden[key + "prediction"])
    _close(loss, golden[key + "loss"])
    torch.autograd.backward(loss)
    norms = [p.grad.norm() for p in autoencoder.parameters() if p.grad is not None]
    _close(torch.stack(norms).norm(), golden[key + "grad_norm"], 1e-4)


@pytest.mark.parametrize("name", ["golden", "swift_golden"])
def test_gradients_of_fine_tuning(shared: Path, storm: VolumeEncoder, name: str) -> None:
    golden = _golden(shared, name)
    config = json.loads(str(golden["config"]))
    model = storm
    if name == "swift_golden":
        model = neurostorm.load_swift(
            _found(shared, "swift_checkpoint"), where="file", config=config
        )
    head = nn.Linear(96, 1)
    key = "head.cls_v1_2.weights.head.head."
    head.load_state_dict({k: _tensor(golden[key + k]) for k in ("weight", "bias")})
    model.zero_grad()
    logits = head(model(_tensor(golden["input"])[:2]))
    _close(logits, golden["head.cls_v1_2.output"])
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], torch.tensor([0.0, 1.0]))
    _close(loss, golden["finetune.loss"])
    torch.autograd.backward(loss)
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    _close(torch.stack(norms).norm(), golden["finetune.grad_norm"], 1e-4)


@torch.no_grad()
def test_every_stage_of_swift(shared: Path) -> None:
    golden = _golden(shared, "swift_golden")
    config = json.loads(str(golden["config"]))
    model = neurostorm.load_swift(_found(shared, "swift_checkpoint"), where="file", config=config)
    x = _tensor(golden["input"])[:2]
    _check_stages(model, x, golden, "")
    _close(model(x), golden["pooled"])


@torch.no_grad()
def test_contrast(shared: Path) -> None:
    golden = _golden(shared, "swift_golden")
    config = json.loads(str(golden["config"]))
    model = neurostorm.load_swift(_found(shared, "swift_checkpoint"), where="file", config=config)
    head = neurostorm.ContrastiveHead(96, 16)
    weights = {k: _tensor(golden[f"contrastive.weights.{k}"]) for k in ("fc1.weight", "bn1.weight",
                                                                        "bn1.bias")}  # fmt: skip
    head.load_state_dict(weights, strict=False)
    z1, z2 = (head.train()(model(clips)) for clips in _tensor(golden["input"]).split(2))
    _close(z1, golden["contrastive.z1"], 1e-4)
    _close(z2, golden["contrastive.z2"], 1e-4)
    z1, z2 = _tensor(golden["contrastive.z1"]), _tensor(golden["contrastive.z2"])
    _close(neurostorm.nt_xent(z1, z2), golden["contrastive.instance_loss"])
    local = sum(
        neurostorm.nt_xent(torch.stack([a, b]), torch.stack([(a + b) / 2, b]))
        for a, b in zip(z1, z2, strict=True)
    )
    _close(local, golden["contrastive.local_loss_example"])


@torch.no_grad()
def test_old_names_are_understood(shared: Path, golden: dict[str, Any]) -> None:
    config = json.loads(str(golden["config"]))
    model = neurostorm.load(_found(shared, "old_naming_checkpoint"), where="file", config=config)
    _close(model(_tensor(golden["input"])), golden["pooled"])


@pytest.mark.parametrize("case", ["a", "b"])
def test_volumes(shared: Path, case: str) -> None:
    golden = _golden(shared, "preprocessing_golden")
    mask = _tensor(golden["b.mask"]) if case == "b" else None
    made = neurostorm.prepare_volume(
        _tensor(golden[f"{case}.input"]), [float(z) for z in golden[f"{case}.zooms"]], mask
    )
    wanted = _tensor(golden[f"{case}.z-norm.frames_int8"])
    assert made.frames.shape == wanted.shape
    off = (made.frames.int() - wanted.int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 1e-4  # ties
    assert made.scale == pytest.approx(float(golden[f"{case}.z-norm.scale"]), rel=1e-5)
    frames = neurostorm.clip(
        neurostorm.Volumes(wanted, float(golden[f"{case}.z-norm.scale"])), 0, 1
    )
    _close(frames[0, ..., 0], golden[f"{case}.padded_frame0"])


def test_volumes_without_foreground_are_refused() -> None:
    with pytest.raises(InputError, match="no foreground"):
        neurostorm.prepare_volume(torch.zeros(4, 4, 4, 3), [2, 2, 2, 0.8])


def test_published_sizes() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(VolumeEncoder("scan")) == 5_173_020
    assert count(VolumeEncoder("attention")) == 4_314_636
    assert count(VolumeAutoencoder()) == 7_712_964


def test_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = neurostorm.draw_mask(300, 16, 0.5, generator)
    assert (mask.sum(1) == 8).all()
    assert (mask.float().mean(0) - 0.5).abs().max() < 0.12
    labels = torch.arange(8).view(2, 2, 2)
    atlas = neurostorm.draw_atlas_mask(labels, 50, 3, 0.3, generator)
    assert (atlas.view(50, 8, 3).all(2) == atlas.view(50, 8, 3).any(2)).all()
    assert (atlas.view(50, 8, 3)[:, 0] == 0).all()
    assert (atlas.sum(1) == 2 * 3).all()


def test_wrong_volumes_are_refused() -> None:
    model = VolumeEncoder("scan", Sizes(size=8, patch=1, dim=4, depths=(1, 1), heads=(1, 1)))
    with pytest.raises(InputError, match="up to 20 frames"):
        model(torch.zeros(1, 1, 8, 8, 8, 21))


def _rename(state: dict[str, Any]) -> None:
    name = "model.layers.0.downsample.norm.weight"
    state[name.replace("weight", "wieght")] = state.pop(name)


def _drop(state: dict[str, Any]) -> None:
    del state["model.layers.0.downsample.norm.bias"]


def _add(state: dict[str, Any]) -> None:
    state["model.spare"] = torch.zeros(2)


def _resize(state: dict[str, Any]) -> None:
    state["model.layers.0.downsample.norm.bias"] = torch.zeros(3)


@pytest.mark.parametrize("name", ["checkpoint", "swift_checkpoint"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_rename, "Did you mean 'layers.0.downsample.norm.weight'"),
        (_drop, "1 missing, such as 'layers.0.downsample.norm.bias'"),
        (_add, "1 unknown, such as 'spare'"),
        (_resize, r"of shape \(3,\)"),
    ],
)
def test_wrong_weights_are_refused(
    shared: Path, name: str, damage: Callable[[dict[str, Any]], None], words: str
) -> None:
    found = _found(shared, name)
    state = found["state_dict"] = dict(found["state_dict"])
    damage(state)
    load = neurostorm.load if name == "checkpoint" else neurostorm.load_swift
    with pytest.raises(InputError, match=words):
        load(found, where="file")
