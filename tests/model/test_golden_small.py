"""Small golden numbers that live in the repository: fidelity without the shared folder.

Source of golden_small.json: the plain reference below, METHOD.md written out in NumPy and float64,
one window at a time. It was checked against the released architecture's numbers
(`test_reference_is_the_released_architecture`), so what is held here is the released architecture,
computed for weights and windows that come from a formula. Run this file as a script to write the
numbers again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf

from semantoks.data.atlas import Atlas
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.importing import read_checkpoint
from semantoks.model.layers import Head
from semantoks.objective.distillation import Branch, Distillation

Array = NDArray[np.float64]
Weights = dict[str, Array]
FILE = Path(__file__).with_name("golden_small.json")
ATLAS = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 9})
PATCH = 20


# METHOD.md, written out


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def layer_norm(x: Array, w: Weights, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Array, w: Weights, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def token(patch: Array, w: Weights, name: str) -> Array:
    """Read one patch (roi, time) of one network."""
    time = patch.shape[1]
    around = np.pad(patch, ((0, 0), (1, 1)))
    kernel = w[f"{name}.branches.0.weight"]
    dense = sum(kernel[:, :, k] @ around[:, k : k + time] for k in range(3))
    dense = dense + w[f"{name}.branches.0.bias"][:, None]
    long, pieces = f"{name}.branches.1.long", []
    for s, (scale, stretch) in enumerate(((4, 1), (2, 1), (1, 2))):
        pieces.append(scale * np.repeat(w[f"{long}.pieces.{s}"], stretch, axis=-1))
    kernels = np.concatenate(pieces, axis=-1) / w[f"{long}.norm"]
    channels = []
    for roi in range(len(patch)):  # ROI outer, kernel inner
        for j in range(len(kernels)):
            whole = np.convolve(patch[roi], kernels[j, roi])  # true convolution, zeros around
            channels.append(whole[8 : 8 + time] + w[f"{long}.gain"][j, roi] * patch[roi])
    structured = linear(np.stack(channels).T, w, f"{name}.branches.1.project").T
    mean = gelu(np.concatenate([dense, structured])).mean(-1)
    return layer_norm(mean, w, f"{name}.norm")


def attend(x: Array, w: Weights, name: str, head_dim: int) -> Array:
    q, k, v = np.split(x @ w[f"{name}.qkv.weight"].T, 3, axis=-1)
    mixed = []
    for first in range(0, x.shape[1], head_dim):
        part = slice(first, first + head_dim)
        score = q[:, part] @ k[:, part].T / np.sqrt(head_dim)
        score = np.exp(score - score.max(-1, keepdims=True))
        mixed.append(score / score.sum(-1, keepdims=True) @ v[:, part])
    return linear(np.concatenate(mixed, -1), w, f"{name}.out")


def encode(
    window: Array, mask: NDArray[np.bool_] | None, w: Weights, atlas: Atlas, head_dim: int
) -> tuple[Array, Array]:
    """Return summary (dim) and tokens (network, patch, dim) of one window (roi, time)."""
    dim, patches = len(w["cls_token"]), window.shape[1] // PATCH
    frequencies = 10000.0 ** (-np.arange(dim // 2) / (dim // 2))
    rows = [w["cls_token"]]
    for n, rois in enumerate(atlas.network_indices):
        for p in range(patches):
            here = token(window[rois, p * PATCH : (p + 1) * PATCH], w, f"tokenizer.networks.{n}")
            if mask is not None and mask[n, p]:
                here = w["mask_token"]
            angle = p * frequencies
            place = np.concatenate([np.sin(angle), np.cos(angle)])
            rows.append(here + w["network_position"][n] + place)
    x = np.stack(rows)
    for b in range(sum(name.endswith("attention.qkv.weight") for name in w)):
        at = f"blocks.{b}"
        attended = attend(layer_norm(x, w, f"{at}.norm1"), w, f"{at}.attention", head_dim)
        x = x + w[f"{at}.scale1.gain"] * attended
        hidden = gelu(linear(layer_norm(x, w, f"{at}.norm2"), w, f"{at}.mlp.0"))
        x = x + w[f"{at}.scale2.gain"] * linear(hidden, w, f"{at}.mlp.2")
    x = layer_norm(x, w, "norm")
    return x[0], x[1:].reshape(len(atlas.network_names), patches, dim)


def project(x: Array, w: Weights) -> Array:
    y = linear(gelu(linear(x, w, "mlp.0")), w, "mlp.2")
    return y / np.linalg.norm(y, axis=-1, keepdims=True)


def objective(s: list[Array], t: list[Array]) -> float:
    """Return minus compression minus expansion of unit vectors (rows, dim) of two views."""
    rows, dim = s[0].shape
    agreement = ((t[0] * s[1]).sum(-1).mean() + (t[1] * s[0]).sum(-1).mean()) / 2
    spread = 0.0
    for i in range(2):
        z = (s[i] + t[i]) / 2
        rate = np.linalg.slogdet(np.eye(dim) + dim / (rows * 0.05) * z.T @ z)[1] / 2
        spread += (dim + rows) / (dim * rows) * rate / 2
    return float(-agreement - spread)


# The small model


def wave(shape: tuple[int, ...], number: int) -> Array:
    """Make numbers between -1 and 1 that need no random generator."""
    count = int(np.prod(shape))
    return np.sin(1.0 + 2.3 * number + 0.37 * np.arange(count) ** 1.5).reshape(shape)


def fill(module: torch.nn.Module, start: int) -> Weights:
    """Give all weights values by formula; return them in float64."""
    weights = {}
    for i, (name, value) in enumerate(module.state_dict().items()):
        x = 0.4 * wave(tuple(value.shape), start + i)
        if name.endswith("long.norm"):
            x = 2 + x
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gain")):
            x = 0.8 + x
        weights[name] = x
    module.load_state_dict({name: torch.from_numpy(x).float() for name, x in weights.items()})
    return weights


def small() -> tuple[Distillation, dict[str, tuple[Weights, Weights]]]:
    """Make student and teacher, and their weights."""
    encoder = SemantoksEncoder(ATLAS, dim=16, depth=2, head_dim=8, window=40, mlp_ratio=2)
    model = Distillation(encoder, Head(16, hidden_dim=8, output_dim=6))
    weights = {}
    for number, name in enumerate(("student", "teacher")):
        branch: Branch = getattr(model, name)
        weights[name] = (fill(branch.encoder, 100 * number), fill(branch.head, 100 * number + 70))
    return model.eval(), weights


def windows() -> Array:
    """Make two windows of each of four scans: (scan, view, roi, time)."""
    return 1.5 * wave((4, 2, len(ATLAS), 40), 5)


def masks() -> NDArray[np.bool_]:
    """Mask one network or one patch of every window: (scan, view, network, patch)."""
    mask = np.zeros((4, 2, 3, 2), dtype=np.bool_)
    for scan in range(4):
        mask[scan, 0, scan % 3] = True
        mask[scan, 1, :, scan % 2] = True
    return mask


def compute() -> dict[str, Any]:
    """Compute all numbers by the plain reference."""
    _, weights = small()
    found: dict[str, list[list[tuple[Array, Array]]]] = {}
    for name, masked in (("student", masks()), ("teacher", None)):
        encoder, _ = weights[name]
        found[name] = [
            [
                encode(windows()[i, v], None if masked is None else masked[i, v], encoder, ATLAS, 8)
                for i in range(4)
            ]
            for v in range(2)
        ]
    heads = {name: weights[name][1] for name in weights}
    summaries = {
        name: [project(np.stack([x[0] for x in view]), heads[name]) for view in views]
        for name, views in found.items()
    }
    networks = {
        name: [project(np.concatenate([x[1].mean(1) for x in view]), heads[name]) for view in views]
        for name, views in found.items()
    }
    cosines = []
    for v in range(2):
        for i in range(4):
            s, t = (project(found[name][v][i][1], heads[name]) for name in ("student", "teacher"))
            cosines.append((s * t).sum(-1)[masks()[i, v]].mean())
    first = found["teacher"][0]
    tokens = np.stack([x[1] for x in first])
    terms = {
        "cls": objective(summaries["student"], summaries["teacher"]),
        "token": -float(np.mean(cosines)),
        "summary": objective(networks["student"], networks["teacher"]),
    }
    return {
        "teacher_tokens": tokens,
        "teacher_features": [np.concatenate([x[1].mean((0, 1)), x[0]]) for x in first],
        "student_masked_summaries": [x[0] for x in found["student"][0]],
        "teacher_projections": summaries["teacher"][0],
        **terms,
        "total": terms["cls"] + 0.5 * terms["token"] + 0.5 * terms["summary"],
    }


# The tests


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return {k: np.array(v) for k, v in json.loads(FILE.read_text()).items()}


def test_reference_gives_the_stored_numbers(golden: dict[str, Array]) -> None:
    found = compute()
    assert found.keys() == golden.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, golden[name], rtol=0, atol=2e-8)


@torch.no_grad()
def test_model_gives_the_stored_numbers(golden: dict[str, Array]) -> None:
    model, _ = small()
    views, mask = torch.from_numpy(windows()).float(), torch.from_numpy(masks())
    summary, tokens = model.teacher.encoder(views[:, 0])
    np.testing.assert_allclose(tokens, golden["teacher_tokens"], rtol=0, atol=1e-5)
    features = torch.cat([tokens.mean((1, 2)), summary], dim=1)
    np.testing.assert_allclose(features, golden["teacher_features"], rtol=0, atol=1e-5)
    masked = model.student.encoder(views[:, 0], mask[:, 0]).summary
    np.testing.assert_allclose(masked, golden["student_masked_summaries"], rtol=0, atol=1e-5)
    projected = model.teacher.head(summary)
    np.testing.assert_allclose(projected, golden["teacher_projections"], rtol=0, atol=1e-5)
    terms = model(views, mask, curriculum=1.0)
    found = {
        "cls": -terms.compression - terms.expansion,
        "token": terms.token,
        "summary": terms.summary,
        "total": terms.total,
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(float(golden[name]), rel=1e-5)


def test_the_numbers_tell_things_apart(golden: dict[str, Array]) -> None:
    tokens = golden["teacher_tokens"]
    assert tokens.shape == (4, 3, 2, 16)
    for axis in range(3):
        assert np.abs(np.diff(tokens, axis=axis)).mean() > 0.02
    assert FILE.stat().st_size < 100_000


def test_reference_is_the_released_architecture(shared: Path) -> None:
    numbers = np.load(shared / "golden" / "golden.npz")
    imported = read_checkpoint(shared / "golden" / "checkpoint.pth")
    weights = {k: v.double().numpy() for k, v in imported.encoder.state_dict().items()}
    head = {k: v.double().numpy() for k, v in imported.head.state_dict().items()}
    window, mask = numbers["view1"][0].astype(float), numbers["mask1"][0]
    for key, seen in (("teacher_tokens", None), ("teacher_tokens_masked", mask)):
        summary, tokens = encode(window, seen, weights, imported.encoder.atlas, 64)
        rows = np.concatenate([summary[None], tokens.reshape(45, 128)])
        np.testing.assert_allclose(rows, numbers[key][0], rtol=0, atol=1e-5)
    projected = project(numbers["teacher_tokens"][0].astype(float), head)
    np.testing.assert_allclose(projected, numbers["teacher_projection"][0], rtol=0, atol=1e-5)


if __name__ == "__main__":
    rounded = {k: np.round(np.asarray(v), 9).tolist() for k, v in compute().items()}
    FILE.write_text(json.dumps(rounded, indent=None) + "\n")
