"""Brain-JEPA against the numbers of its released code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers import brainjepa
from semantoks.peers.brainjepa import BASE, LARGE, SMALL, BrainJepa, BrainJepaConfig, Masks
from semantoks.peers.weights import read_weights


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    with np.load(shared / "peers" / "brainjepa" / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture
def found(shared: Path) -> dict[str, Any]:
    return dict(read_weights(shared / "peers" / "brainjepa" / "checkpoint.pth.tar"))


@pytest.fixture
def model(golden: dict[str, Any], found: dict[str, Any]) -> BrainJepa:
    """All three networks of the golden checkpoint, as they were before the first step."""
    gradients = torch.from_numpy(golden["gradients"])
    config = json.loads(str(golden["config"]))
    sizes = brainjepa._sizes(found, gradients, config, "checkpoint")
    model = BrainJepa(sizes, gradients=gradients)
    for part, ours in brainjepa._PARTS.items():
        brainjepa._fill(model.get_submodule(ours), found[part], part)
    return model


def _close(value: Tensor, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    expected = torch.as_tensor(np.asarray(wanted))
    difference = float((value.detach() - expected).abs().max() / expected.abs().max())
    assert difference <= tolerance


def test_tokens_and_prediction(golden: dict[str, Any], model: BrainJepa) -> None:
    x = torch.from_numpy(golden["x"])[:, 0]
    masks = Masks(*(torch.from_numpy(golden[f"{k}_index"]) for k in ("context", "target")))
    _close(model.target_encoder.embed(x), golden["teacher_patch_tokens"])
    _close(model.target_encoder.position(), golden["teacher_position"])
    _close(model.predictor.position(), golden["predictor_position"])
    _close(model.target_encoder(x), golden["teacher_tokens"])
    _close(model.context_encoder(x), golden["student_tokens"])
    _close(model.context_encoder(x, masks.context), golden["context_tokens"])
    prediction = model(x, masks)
    _close(prediction.targets, golden["targets"])
    _close(prediction.predicted, golden["prediction"])
    loss = brainjepa.jepa_loss(prediction)
    _close(loss, golden["loss"])
    torch.autograd.backward(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    _close(torch.stack([g.norm() for g in gradients]).norm(), golden["gradnorm"])


def test_loaded_features(golden: dict[str, Any], found: dict[str, Any]) -> None:
    model = brainjepa.load(
        found,
        where="checkpoint",
        config=json.loads(str(golden["config"])),
        gradients=torch.from_numpy(golden["gradients"]),
    )
    features = model(torch.from_numpy(golden["x"])[:, 0])
    assert not model.training
    _close(features, golden["features"])
    _close(brainjepa.normalise_features(features), golden["features_fcnorm"])


def test_trajectory(golden: dict[str, Any], model: BrainJepa) -> None:
    x = torch.from_numpy(golden["x"])[:, 0]
    optimizer = brainjepa.make_optimizer(model)
    for step, row in enumerate(golden["trajectory"]):
        now = brainjepa.schedule(
            step + 1,
            steps=20,
            warmup=2,
            learning_rate=(2e-4, 1e-3, 1e-6),
            momentum=(0.9, 1.0),
        )
        assert now.learning_rate == pytest.approx(row[2], rel=1e-6)
        assert now.weight_decay == pytest.approx(row[3], rel=1e-6)
        assert now.momentum == pytest.approx(row[4], rel=1e-6)
        brainjepa.set_schedule(optimizer, now)
        series = torch.roll(x, 7 * step, -1) * (1 - 0.1 * step)
        names = ("context", "target")
        chosen = (torch.from_numpy(golden[f"trajectory_{n}_index_{step}"]) for n in names)
        loss = brainjepa.jepa_loss(model(series, Masks(*chosen)))
        torch.autograd.backward(loss)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        _close(loss, row[0], 1e-4)
        _close(torch.stack(norms).norm(), row[1], 1e-4)
        optimizer.step()
        optimizer.zero_grad()
        model.update_target(now.momentum)
    _close(model.target_encoder(x).mean(1), golden["features_after"], 1e-4)
    _close(model.context_encoder(x).mean(1), golden["student_features_after"], 1e-4)


def test_linear_probe(golden: dict[str, Any]) -> None:
    features = torch.from_numpy(golden["features_fcnorm"])
    labels = torch.from_numpy(golden["probe_labels"]).long()
    weight = {k.removeprefix("probe_"): v for k, v in golden.items() if k.startswith("probe_")}
    begin = next(k for k in weight if "weight" in k and "after" not in k)
    probe = brainjepa.make_linear_probe(features.shape[1], weight[begin].shape[0])
    linear = probe[1]
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight[begin]))
        linear.bias.copy_(torch.from_numpy(weight[begin.replace("weight", "bias")]))
    optimizer = brainjepa.Lars(probe.parameters(), lr=0.1)
    key = next(k for k in weight if "loss" in k)
    for wanted in weight[key]:
        loss = F.cross_entropy(probe(features), labels)
        _close(loss, wanted, 1e-4)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    after = next(k for k in weight if "weight" in k and "after" in k)
    _close(linear.weight, weight[after], 1e-4)
    _close(probe.eval()(features), weight[next(k for k in weight if "logits" in k)], 1e-4)


def test_frames_and_scaling(golden: dict[str, Any]) -> None:
    for start, wanted in zip(golden["sampling_start"], golden["sampling_index"], strict=True):
        assert brainjepa.frame_indices(490, float(start)).tolist() == wanted.tolist()
    raw = torch.from_numpy(golden["raw_490"]).float()
    window = brainjepa.standardize_matrix(raw)[..., golden["sampling_index"][1]]
    _close(window, golden["raw_490_normalised_window"])


def test_a_window_beyond_the_scan_is_refused() -> None:
    with pytest.raises(InputError, match="within the scan of 100"):
        brainjepa.frame_indices(100, 0.0)
    assert brainjepa.frame_indices(100, 0.0, short="repeat")[-1] == 99


@pytest.mark.parametrize(
    ("sizes", "encoder", "predictor"),
    [
        (SMALL, 21_306_816, 10_949_568),
        (BASE, 85_080_960, 11_244_864),
        (LARGE, 302_344_704, 11_441_728),
    ],
)
def test_published_sizes(sizes: BrainJepaConfig, encoder: int, predictor: int) -> None:
    gradients = torch.zeros(450, 30)
    with torch.device("meta"):
        made = brainjepa.Encoder(
            gradients=gradients,
            dim=sizes.dim,
            depth=sizes.depth,
            heads=sizes.heads,
        )
        asked = brainjepa.Predictor(gradients=gradients, encoder_dim=sizes.dim, heads=sizes.heads)
    assert sum(p.numel() for p in made.parameters()) == encoder
    assert sum(p.numel() for p in asked.parameters()) == predictor


def test_masks_follow_the_published_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, columns, repeated = [], torch.zeros(10), 0
    for _ in range(60):
        masks = brainjepa.draw_masks(16, generator=generator)
        lengths.append([masks.context.shape[1], masks.targets.shape[1]])
        columns += torch.bincount(masks.context.flatten() % 10, minlength=10) / 16
        for context, targets in zip(masks.context, masks.targets, strict=True):
            assert not set(context.tolist()) & set(targets.tolist())
            repeated += len(targets) - len(targets.unique())
    context, targets = np.mean(lengths, axis=0)
    # Standard errors of 1,000 batches are 4 and 9, so of 60 about 16 and 37.
    assert abs(context - 821) < 64
    assert abs(targets - 864) < 150
    shares = np.array([48, 60, 59, 136, 136, 136, 136, 61, 50, 0])
    np.testing.assert_allclose(columns / 60, shares, atol=18)
    assert columns[9] == 0
    assert 0 < repeated / (60 * 16 * targets) < 0.006


def test_masks_may_reach_the_last_patch() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [brainjepa.draw_masks(4, generator=generator, cut="random", start="all")]
    drawn += [brainjepa.draw_masks(4, generator=generator, start="all") for _ in range(20)]
    assert any(bool((masks.context % 10 == 9).any()) for masks in drawn)
    again = brainjepa.draw_masks(4, generator=torch.Generator().manual_seed(5))
    same = brainjepa.draw_masks(4, generator=torch.Generator().manual_seed(5))
    assert again.context.equal(same.context)
    assert again.targets.equal(same.targets)


def test_collapse_shows() -> None:
    one = torch.ones(2, 30, 8)
    spread = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(0))
    assert brainjepa.collapse(one).cosine == pytest.approx(1)
    assert brainjepa.collapse(one).effective_rank == pytest.approx(1, abs=0.1)
    assert brainjepa.collapse(spread).effective_rank > 7


def _rename(found: dict[str, Any]) -> None:
    encoder = found["encoder"] = dict(found["encoder"])
    encoder["module.norm.wieght"] = encoder.pop("module.norm.weight")


def _drop(found: dict[str, Any]) -> None:
    found["target_encoder"] = dict(found["target_encoder"])
    del found["target_encoder"]["module.norm.bias"]


def _add(found: dict[str, Any]) -> None:
    found["predictor"] = dict(found["predictor"]) | {"module.spare": torch.zeros(2)}


def _resize(found: dict[str, Any]) -> None:
    found["target_encoder"] = dict(found["target_encoder"])
    found["target_encoder"]["module.norm.bias"] = torch.zeros(3)


def _poison(found: dict[str, Any]) -> None:
    found["target_encoder"] = dict(found["target_encoder"])
    broken = found["target_encoder"]["module.norm.bias"].clone()
    found["target_encoder"]["module.norm.bias"] = broken.fill_(float("nan"))


def _other(found: dict[str, Any]) -> None:
    del found["encoder"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_rename, "Did you mean 'module.norm.weight'"),
        (_drop, "1 missing, such as 'module.norm.bias'"),
        (_add, "1 unknown, such as 'module.spare'"),
        (_resize, r"of shape \(3,\)"),
        (_poison, "not finite"),
        (_other, "has no encoder"),
    ],
)
def test_wrong_weights_are_refused(
    golden: dict[str, Any],
    found: dict[str, Any],
    damage: Callable[[dict[str, Any]], None],
    words: str,
) -> None:
    damage(found)
    config, gradients = json.loads(str(golden["config"])), torch.from_numpy(golden["gradients"])
    with pytest.raises(InputError, match=words):
        brainjepa.load(found, where="file", config=config, gradients=gradients)


def test_what_is_not_in_the_file_is_asked_for(
    golden: dict[str, Any], found: dict[str, Any]
) -> None:
    gradients = torch.from_numpy(golden["gradients"])
    with pytest.raises(ConfigurationError, match="keyword gradients"):
        brainjepa.load(found, where="file")
    config = json.loads(str(golden["config"]))
    with pytest.raises(InputError, match="regions cannot share"):
        brainjepa.load(found, where="file", config=config, gradients=torch.ones(23, 30))
    with pytest.raises(ConfigurationError, match="no coordinates"):
        brainjepa.load(found, where="file", gradients=gradients, coordinates=gradients)
