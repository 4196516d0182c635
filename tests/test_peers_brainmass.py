"""BrainMass against the numbers of its released code."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError
from semantoks.peers import brainmass
from semantoks.peers.brainmass import BrainMass, Masks, Network
from semantoks.peers.weights import read_weights


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    with np.load(shared / "peers" / "brainmass" / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def config(golden: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = ast.literal_eval(str(golden["config"]))
    return config


@pytest.fixture
def found(shared: Path) -> dict[str, Any]:
    return dict(read_weights(shared / "peers" / "brainmass" / "checkpoint.pth"))


@pytest.fixture
def model(found: dict[str, Any], config: dict[str, Any]) -> BrainMass:
    model = brainmass.load_all(found, where="checkpoint", config=config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array))


def _close(value: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    expected = torch.as_tensor(np.asarray(wanted)).double()
    found = torch.as_tensor(value).detach().double()
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


def test_every_stage(golden: dict[str, Any], model: BrainMass) -> None:
    x = tokens = _tensor(golden["view1"])
    for number, layer in enumerate(model.online.layers):
        tokens = layer(tokens)
        _close(tokens, golden[f"layer{number}_tokens"])
    _close(model.online(x), golden["reduced"].reshape(6, -1))
    _close(model.online.embed(x), golden["embedding_eval"])
    _close(model.predictor(model.online.embed(x)), golden["predictor_eval"])
    _close(model.target.embed(_tensor(golden["view2"])), golden["target_embedding_eval"])
    _close(model.position, golden["pos_table"])
    masked = model.masked(x, _tensor(golden["mask_contrast"]).long())
    _close(masked, golden["contrast_input"])
    _close(model.online.mix(masked), golden["contrast_tokens"])
    aligned = [
        brainmass.infonce(model.predictor(model.online.embed(a)), model.target.embed(b))
        for a, b in ((x, _tensor(golden["view2"])), (_tensor(golden["view2"]), x))
    ]
    _close(aligned[0] + aligned[1], golden["align_infonce_eval"])


def test_loaded_features(
    golden: dict[str, Any], found: dict[str, Any], config: dict[str, Any]
) -> None:
    network = brainmass.load(found, where="checkpoint", config=config)
    assert not network.training
    _close(network(_tensor(golden["fc_full"])), golden["features_full"])
    _close(network(_tensor(golden["svm_fc"])), golden["svm_features"])


def test_the_published_way_downstream(golden: dict[str, Any]) -> None:
    features, labels = golden["svm_features"], golden["svm_labels"]
    n = int(golden["svm_n_train"])
    classifier = make_pipeline(StandardScaler(), SVC()).fit(features[:n], labels[:n])
    decisions = classifier.decision_function(features[n:])
    np.testing.assert_allclose(decisions, golden["svm_decision_test"], atol=1e-4)


def test_connectivity(golden: dict[str, Any]) -> None:
    series = _tensor(golden["timeseries"])
    _close(brainmass.connectivity(series), golden["fc_full"])
    for view in range(2):
        kept = [
            np.setdiff1d(np.arange(50), golden["dropped_samples"][scan, view]) for scan in range(6)
        ]
        cut = torch.stack([series[scan][:, kept[scan]] for scan in range(6)])
        _close(brainmass.connectivity(cut), golden[f"view{view + 1}"])


def _norms(model: BrainMass) -> tuple[float, float]:
    """Return the norms of the gradients of networks and of heads and tokens."""
    of_networks, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            inside = name.startswith(("online.", "predictor."))
            (of_networks if inside else others).append(parameter.grad.norm())
    return float(torch.stack(of_networks).norm()), float(torch.stack(others).norm())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses(golden: dict[str, Any], model: BrainMass, mode: str) -> None:
    model.train(mode == "train")
    masks = Masks(*(_tensor(golden[f"mask_{name}"]).long() for name in ("contrast", "mse")))
    losses = model(_tensor(golden["view1"]), _tensor(golden["view2"]), masks)
    _close(torch.stack(losses), golden[f"loss_{mode}"])
    torch.autograd.backward(losses.total)
    np.testing.assert_allclose(_norms(model), golden[f"gradnorm_{mode}"], rtol=1e-4)


@pytest.mark.parametrize("name", ["released", "strong"])
def test_trajectory(golden: dict[str, Any], model: BrainMass, name: str) -> None:
    model.train()
    with torch.no_grad():
        pairs = zip(model.target.parameters(), model.online.parameters(), strict=True)
        for target, online in pairs:
            target.copy_(online)
    strong = name == "strong"
    optimizer = torch.optim.AdamW(
        model.trained("frozen"),
        weight_decay=0.5 if strong else 5e-5,
        eps=1e-4 if strong else 1e-8,
    )
    first, second = _tensor(golden["view1"]), _tensor(golden["view2"])
    for step, row in enumerate(golden[f"traj_{name}"]):
        rate = 2e-3 if strong else brainmass.learning_rate(step)
        assert rate == pytest.approx(row[6], rel=1e-6)
        optimizer.param_groups[0]["lr"] = rate
        masks = Masks(
            *(_tensor(golden[f"traj_mask_{x}"][step]).long() for x in ("contrast", "mse"))
        )
        losses = model(first, second, masks)
        _close(torch.stack(losses[:4]), row[:4], 1e-4)
        model.zero_grad()
        torch.autograd.backward(losses.total)
        assert _norms(model)[0] == pytest.approx(row[4], rel=1e-4)
        nn.utils.clip_grad_value_(list(model.trained("frozen")), 0.02 if strong else 1.0)
        assert _norms(model)[0] == pytest.approx(row[5], rel=1e-4)
        optimizer.step()
        model.update_target(0.9 if strong else 0.996)
    model.eval()
    _close(model.online(first), golden[f"traj_{name}_features_after"], 1e-4)
    _close(model.target(first), golden[f"traj_{name}_target_features_after"], 1e-4)
    norm = model.online.project[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    _close(norm.running_var, golden[f"traj_{name}_bn_var_after"], 1e-4)


def test_published_sizes() -> None:
    network = Network()
    model = BrainMass(network)

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(network) == 10_165_800
    assert count(network.layers) == 7_240_768
    assert count(model.predictor) == 4_201_472
    assert count(model.contrast_head) == count(model.error_head) == 411_748
    unused = 200  # a norm of the released code that nothing reads
    assert count(model) == 25_357_068 - unused


def test_all_but_the_target_is_trained() -> None:
    model = BrainMass(Network(rois=10, heads=2, layers=1, hidden=8, output=6), hidden=4)
    everything = {id(p) for p in model.trained()}
    networks = {id(p) for p in model.trained("frozen")}
    assert networks < everything
    assert id(model.hidden) in everything - networks
    assert not everything & {id(p) for p in model.target.parameters()}


def test_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = brainmass.draw_masks(200, rois=20, contrast=5, error=3, generator=generator)
    assert masks.contrast.shape == (200, 5)
    assert all(len(row.unique()) == 5 for row in masks.contrast)
    shares = torch.bincount(masks.error.flatten(), minlength=20) / (200 * 3)
    assert (shares - 1 / 20).abs().max() < 0.03
    kept = brainmass.draw_kept(57, generator)
    assert len(kept.unique()) == 57 - 11
    assert kept.equal(kept.sort().values)
    with pytest.raises(ConfigurationError, match="cannot be hidden"):
        brainmass.draw_masks(1, rois=4, generator=generator)
    with pytest.raises(ConfigurationError, match="must divide"):
        Network(rois=457)


def _rename(found: dict[str, Any]) -> None:
    whole = found["model"] = dict(found["model"])
    whole["cpred.2.wieght"] = whole.pop("cpred.2.weight")


def _drop(found: dict[str, Any]) -> None:
    found["online_network_state_dict"] = dict(found["online_network_state_dict"])
    del found["online_network_state_dict"]["dim_reduction.0.bias"]


def _add(found: dict[str, Any]) -> None:
    found["model"] = dict(found["model"]) | {"spare": torch.zeros(2)}


def _resize(found: dict[str, Any]) -> None:
    found["model"] = dict(found["model"]) | {"cpred.2.bias": torch.zeros(3)}


def _other(found: dict[str, Any]) -> None:
    del found["online_network_state_dict"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_rename, "Did you mean 'cpred.2.weight'"),
        (_drop, "1 missing, such as 'dim_reduction.0.bias'"),
        (_add, "1 unknown, such as 'spare'"),
        (_resize, r"of shape \(3,\)"),
        (_other, "has no online_network_state_dict"),
    ],
)
def test_wrong_weights_are_refused(
    found: dict[str, Any],
    config: dict[str, Any],
    damage: Callable[[dict[str, Any]], None],
    words: str,
) -> None:
    damage(found)
    with pytest.raises(InputError, match=words):
        brainmass.load(found, where="file", config=config)
