"""BNT against the numbers of its released code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers import bnt
from semantoks.peers.bnt import BrainNetworkTransformer
from semantoks.peers.weights import read_weights


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    with np.load(shared / "peers" / "bnt" / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture
def found(shared: Path) -> dict[str, Any]:
    return dict(read_weights(shared / "peers" / "bnt" / "checkpoint.pth"))


def _close(value: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    expected = torch.as_tensor(np.asarray(wanted)).double()
    found = torch.as_tensor(value).detach().double()
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


def _without_dropout(model: BrainNetworkTransformer) -> BrainNetworkTransformer:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return model.train()


def test_every_stage(golden: dict[str, Any], found: dict[str, Any]) -> None:
    model = bnt.load(found, where="checkpoint")
    assert not model.training
    x = torch.from_numpy(golden["fc"])
    tokens = x
    for number, layer in enumerate(model.layers):
        tokens = layer(tokens)
        _close(tokens, golden[f"layer{number}_tokens"])
    encoded = model.readout.encoder(tokens.flatten(1))
    _close(encoded, golden["layer1_encoded_flat"])
    _close(model.readout.assign(encoded.unflatten(1, (24, 24))), golden["layer1_assignment"])
    pooled = model.readout(tokens)
    _close(pooled, golden["layer1_pooled"])
    _close(model.reduce(pooled), golden["reduced"])
    _close(model(x), golden["logits"])
    with torch.no_grad():  # PyTorch takes a fused way here
        _close(model(x), golden["logits"])


def test_connectivity(golden: dict[str, Any]) -> None:
    series = torch.from_numpy(golden["timeseries"])
    _close(bnt.connectivity(series, "fisher_shrunk"), golden["fc"])
    _close(bnt.connectivity(series, "pearson"), golden["corr_pearson"])
    series[0, 3] = 7.0
    assert bnt.connectivity(series, "fisher_shrunk")[0, 3].abs().max() == 0


def test_losses(golden: dict[str, Any], found: dict[str, Any]) -> None:
    model = _without_dropout(bnt.load(found, where="checkpoint"))
    x, onehot = torch.from_numpy(golden["fc"]), torch.from_numpy(golden["onehot"]).float()
    mixed = bnt.mixup(x, onehot, float(golden["mix_lambda"]), torch.from_numpy(golden["mix_perm"]))
    _close(mixed[0], golden["mix_fc"])
    for (inputs, targets), name in (((x, onehot), "plain"), (mixed, "mixup")):
        model.zero_grad()
        loss = bnt.loss(model(inputs), targets)
        _close(loss, golden[f"loss_{name}"])
        torch.autograd.backward(loss)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        _close(torch.stack(norms).norm(), golden[f"gradnorm_{name}"])


@pytest.mark.parametrize(
    ("name", "high", "low", "decay"), [("released", 1e-4, 1e-5, 1e-4), ("strong", 1e-3, 1e-4, 3e-2)]
)
def test_trajectory(
    golden: dict[str, Any], found: dict[str, Any], name: str, high: float, low: float, decay: float
) -> None:
    model = _without_dropout(bnt.load(found, where="checkpoint"))
    x, onehot = torch.from_numpy(golden["fc"]), torch.from_numpy(golden["onehot"]).float()
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=decay)
    for number, row in enumerate(golden[f"traj_{name}"]):
        rate = bnt.learning_rate(number + 1, 8, high=high, low=low)
        assert rate == pytest.approx(row[2], rel=1e-6)
        optimizer.param_groups[0]["lr"] = rate
        order = torch.from_numpy(golden["traj_perms"][number])
        inputs, targets = bnt.mixup(x, onehot, float(golden["traj_lambdas"][number]), order)
        loss = bnt.loss(model(inputs), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        _close(loss, row[0], 1e-4)
        _close(torch.stack(norms).norm(), row[1], 1e-4)
        optimizer.step()
    _close(model.eval()(x), golden[f"traj_{name}_logits_after"], 1e-4)


def test_centres(golden: dict[str, Any]) -> None:
    drawn = torch.from_numpy(golden["centers_raw"])
    _close(bnt.orthogonal_centres(drawn, "drawn"), golden["centers_orthogonalised"])
    unit = bnt.orthogonal_centres(drawn, "unit")
    torch.testing.assert_close(unit @ unit.T, torch.eye(10), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rois", "all_of_them", "trained"),
    [(200, 3_980_890, 3_960_890), (360, 11_197_210, 11_161_210), (400, 13_585_290, 13_545_290)],
)
def test_published_sizes(rois: int, all_of_them: int, trained: int) -> None:
    model = BrainNetworkTransformer(rois=rois)
    assert sum(p.numel() for p in model.parameters()) == trained
    assert trained + model.readout.centres.numel() == all_of_them


def test_identity_makes_any_atlas_fit() -> None:
    with pytest.raises(ConfigurationError, match="set identity to 3"):
        BrainNetworkTransformer(rois=57, clusters=10)
    model = BrainNetworkTransformer(rois=57, clusters=10, identity=3, classes=3)
    assert model(torch.randn(2, 57, 57)).shape == (2, 3)
    with pytest.raises(InputError, match="57, 57"):
        model(torch.randn(2, 56, 57))
    with pytest.raises(ConfigurationError, match="orthogonal"):
        BrainNetworkTransformer(rois=20, clusters=21)


def _rename(found: dict[str, Any]) -> None:
    found["fc.2.wieght"] = found.pop("fc.2.weight")


def _drop(found: dict[str, Any]) -> None:
    del found["dim_reduction.0.bias"]


def _add(found: dict[str, Any]) -> None:
    found["spare"] = torch.zeros(2)


def _resize(found: dict[str, Any]) -> None:
    found["fc.2.bias"] = torch.zeros(3)


def _other(found: dict[str, Any]) -> None:
    found.clear()
    found["clsToken"] = torch.zeros(1, 1, 24)


def _twin(found: dict[str, Any]) -> None:
    found["attention_list.1.dec.encoder.0.bias"] = torch.zeros(32)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_rename, "Did you mean 'fc.2.weight'"),
        (_drop, "1 missing, such as 'dim_reduction.0.bias'"),
        (_add, "1 unknown, such as 'spare'"),
        (_resize, r"of shape \(3,\)"),
        (_other, "does not hold the weights of BNT"),
        (_twin, "differs from"),
    ],
)
def test_wrong_weights_are_refused(
    found: dict[str, Any], damage: Callable[[dict[str, Any]], None], words: str
) -> None:
    damage(found)
    with pytest.raises(InputError, match=words):
        bnt.load(found, where="file")


def test_what_it_does_not_know_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="neither gradients"):
        bnt.load(found, where="file", gradients=Tensor())
