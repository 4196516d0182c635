"""BolT against the numbers of its released code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers import bolt
from semantoks.peers.bolt import BolT
from semantoks.peers.weights import read_weights


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    with np.load(shared / "peers" / "bolt" / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture
def found(shared: Path) -> dict[str, Any]:
    return dict(read_weights(shared / "peers" / "bolt" / "checkpoint.pth"))


def _close(value: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    expected = torch.as_tensor(np.asarray(wanted)).double()
    found = torch.as_tensor(value).detach().double()
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


def _without_dropout(model: BolT) -> BolT:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, bolt.WindowAttention):
            module.dropout = 0.0
    return model.train()


def test_every_layer(golden: dict[str, Any], found: dict[str, Any]) -> None:
    model = bolt.load(found, where="checkpoint")
    assert not model.training
    assert [x.attention.receptive for x in model.layers] == golden["receptive_sizes"].tolist()
    x, summaries = model.begin(torch.from_numpy(golden["timeseries"]))
    for number, layer in enumerate(model.layers):
        x, summaries = layer(x, summaries, model.shift, model.right)
        _close(x, golden[f"block{number}_tokens"])
        _close(summaries, golden[f"block{number}_cls"])


@pytest.mark.parametrize("prefix", ["", "T21_", "T78_"])
def test_outputs(golden: dict[str, Any], found: dict[str, Any], prefix: str) -> None:
    model = bolt.load(found, where="checkpoint")
    series = torch.from_numpy(golden[prefix + "timeseries"])
    output = model.read(series)
    _close(model(series), golden[prefix + "logits"])
    _close(output.summaries, golden[prefix + "cls_out"])
    labels = torch.from_numpy(golden["labels"]).long()
    _close(torch.stack(bolt.loss(output, labels)), golden[prefix + "loss"])
    model.right = "masked"
    output = model.read(series)
    _close(output.logits, golden[prefix + "bothmasked_logits"])
    _close(output.summaries, golden[prefix + "bothmasked_cls_out"])


def test_scaling(golden: dict[str, Any]) -> None:
    found = bolt.standardize(torch.from_numpy(golden["timeseries_raw"]))
    _close(found, golden["timeseries"])
    assert found[0, 2].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "rates", "decay"),
    [("released", (2e-4, 4e-4, 2e-5), 0.0), ("strong", (1e-3, 2e-3, 1e-4), 1e-2)],
)
def test_trajectory(
    golden: dict[str, Any],
    found: dict[str, Any],
    name: str,
    rates: tuple[float, float, float],
    decay: float,
) -> None:
    model = _without_dropout(bolt.load(found, where="checkpoint"))
    series = torch.from_numpy(golden["timeseries"])
    labels = torch.from_numpy(golden["labels"]).long()
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=decay)
    for number, row in enumerate(golden[f"traj_{name}"]):
        now = bolt.schedule(number, 10, start=rates[0], peak=rates[1], end=rates[2])
        assert now.learning_rate == pytest.approx(row[2], rel=1e-6)
        assert now.beta1 == pytest.approx(row[3], rel=1e-6)
        group = optimizer.param_groups[0]
        group["lr"], group["betas"] = now.learning_rate, (now.beta1, 0.999)
        total = bolt.loss(model.read(series), labels)[0]
        optimizer.zero_grad()
        torch.autograd.backward(total)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        norm = torch.stack(norms).norm()
        _close(total, row[0], 1e-4)
        _close(norm, row[1], 1e-4)
        if number == 0:
            _close(norm, golden["gradnorm"])
        optimizer.step()
    _close(model.eval()(series), golden[f"traj_{name}_logits_after"], 1e-4)


@pytest.mark.parametrize(
    ("rois", "classes", "parameters"),
    [(400, 2, 5_942_898), (457, 2, 6_992_325), (200, 2, 2_671_898), (100, 2, 1_276_398),
     (400, 7, 5_944_903)],
)  # fmt: skip
def test_published_sizes(rois: int, classes: int, parameters: int) -> None:
    model = BolT(rois=rois, classes=classes)
    unused = 2 * rois  # an input norm of the released code that nothing reads
    assert sum(p.numel() for p in model.parameters()) == parameters - unused


def test_crops_reach_both_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {bolt.draw_crop(12, 10, generator) for _ in range(60)} == {0, 1, 2}
    assert bolt.draw_crop(10, 10, generator) == 0
    with pytest.raises(InputError, match="must fit"):
        bolt.draw_crop(9, 10, generator)


def test_wrong_series_are_refused() -> None:
    model = BolT(rois=5, layers=1, heads=1, head_dim=4, window=10)
    for shape in ((1, 5, 9), (1, 4, 30)):
        with pytest.raises(InputError, match="at least 10 samples"):
            model(torch.zeros(shape))
    with pytest.raises(ConfigurationError, match="even"):
        BolT(rois=5, layers=2, heads=1, head_dim=4, window=10, fringe=0.7)


def _rename(found: dict[str, Any]) -> None:
    found["classifierHead.bais"] = found.pop("classifierHead.bias")


def _drop(found: dict[str, Any]) -> None:
    del found["encoder_postNorm.bias"]


def _add(found: dict[str, Any]) -> None:
    found["spare"] = torch.zeros(2)


def _resize(found: dict[str, Any]) -> None:
    found["encoder_postNorm.bias"] = torch.zeros(3)


def _other(found: dict[str, Any]) -> None:
    found.clear()
    found["fc.4.weight"] = torch.zeros(2, 32)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_rename, "Did you mean 'classifierHead.bias'"),
        (_drop, "1 missing, such as 'encoder_postNorm.bias'"),
        (_add, "1 unknown, such as 'spare'"),
        (_resize, r"of shape \(3,\)"),
        (_other, "does not hold the weights of BolT"),
    ],
)
def test_wrong_weights_are_refused(
    found: dict[str, Any], damage: Callable[[dict[str, Any]], None], words: str
) -> None:
    damage(found)
    with pytest.raises(InputError, match=words):
        bolt.load(found, where="file")


def test_what_it_does_not_know_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="neither gradients"):
        bolt.load(found, where="file", coordinates=Tensor())


@pytest.mark.parametrize("shift", [0, -1, 7])
def test_windows_leave_no_samples_between_them(shift: int) -> None:
    with pytest.raises(ConfigurationError, match="shifted by 1 to 6"):
        BolT(rois=8, window=6, shift=shift, heads=2, head_dim=4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"shiftCoef": 0.4}, "Did you mean 'shiftCoeff'"),
        ({"shiftCoeff": 0}, "shift is 0"),
        ({"numHeads": 4}, "numHeads 4, but"),
        ({"pooling": "gmp"}, "pooling 'gmp', but"),
    ],
)
def test_configurations_that_weights_contradict(
    found: dict[str, Any], config: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        bolt.load(found, where="file", config=config)


def test_any_fringe_is_read_from_the_weights() -> None:
    made = BolT(rois=8, layers=3, window=6, heads=2, head_dim=4, fringe=2.5)
    state = {bolt.released_name(name): value for name, value in made.state_dict().items()}
    read = bolt.load(state, where="file")
    assert [layer.attention.receptive for layer in read.layers] == [6, 24, 42]
