"""The plain path: what is computed, written down without any trick.

Depthwise convolutions a network, every token of every window, attention spelled out, one window
after the other, boolean gathers, AdamW and the teacher parameter by parameter. It works on the
modules of the package, so that fast and plain have the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from semantoks.data.store import Store
from semantoks.evaluation.linear import PENALTIES
from semantoks.evaluation.splits import Split
from semantoks.model.encoder import Encoding, SemantoksEncoder
from semantoks.model.layers import Block, patch_positions
from semantoks.model.synchrony import FLOOR
from semantoks.model.tokenizer import NetworkTokenizer
from semantoks.objective.distillation import Distillation
from semantoks.objective.losses import compression, expansion


def token(tokenizer: NetworkTokenizer, patches: Tensor) -> Tensor:
    """Read (batch, roi, time) of a network: (batch, dim)."""
    dense, mixed = tokenizer.branches
    first = F.conv1d(patches, dense.weight, dense.bias, padding="same")
    second = mixed.project(mixed.long(patches).transpose(1, 2)).transpose(1, 2)
    return tokenizer.norm(F.gelu(torch.cat([first, second], dim=1)).mean(-1))


def lattice(encoder: SemantoksEncoder, series: Tensor) -> Tensor:
    """Read windows, network by network: (batch, network, patch, dim)."""
    batch, _, time = series.shape
    count = time // encoder.patch
    read = []
    for tokenizer, rois in zip(
        encoder.tokenizer.networks, encoder.token_atlas.network_indices, strict=True
    ):
        own = series[:, torch.as_tensor(rois)]
        patches = own.unflatten(2, (count, encoder.patch)).transpose(1, 2).flatten(0, 1)
        read.append(token(tokenizer, patches).unflatten(0, (batch, count)))
    return torch.stack(read, dim=1)


def synchrony(encoder: SemantoksEncoder, series: Tensor, mask: Tensor | None) -> Tensor:
    """Compare time courses, pair by pair of networks: (batch, network, patch, dim)."""
    module = encoder.synchrony
    networks, (batch, _, time) = encoder.token_atlas.network_indices, series.shape
    patches = time // encoder.patch
    courses = [
        w @ series[:, torch.as_tensor(r)] for w, r in zip(module.weights, networks, strict=True)
    ]
    told = series.new_zeros(batch, len(networks), patches, encoder.dim)
    hidden = torch.zeros(told.shape[:3], dtype=torch.bool) if mask is None else mask
    for b in range(batch):
        for p in range(patches):
            for n, project in enumerate(module.projections):
                span = range(patches) if module.span == "window" else [p]
                block = [_pair(courses, hidden, span, encoder.patch, b, n, m) for m in
                         range(len(networks))]  # fmt: skip
                told[b, n, p] = project(torch.cat(block, dim=1).flatten())
    return told


def _pair(
    courses: list[Tensor], hidden: Tensor, span: Iterable[int], patch: int, b: int, n: int, m: int
) -> Tensor:
    """Compare the time courses of two networks over the patches that show them."""

    def moment(i: int, j: int) -> Tensor:
        total = courses[0].new_zeros(courses[i].shape[1], courses[j].shape[1])
        shown = [p for p in span if not (hidden[b, i, p] or hidden[b, j, p])]
        for p in shown:
            part = slice(p * patch, (p + 1) * patch)
            total = total + courses[i][b, :, part] @ courses[j][b, :, part].T
        return total / max(len(shown) * patch, 1)

    ours, theirs = (moment(i, i).diagonal() + FLOOR for i in (n, m))
    found = moment(n, m) / (ours[:, None] * theirs).sqrt()
    return found if n != m else found - found.diagonal().diag() + ours.log().diag()


def block(layer: Block, x: Tensor) -> Tensor:
    """Mix tokens, then dimensions."""
    batch, length, dim = x.shape
    heads = layer.attention.heads
    qkv = layer.attention.qkv(layer.norm1(x)).view(batch, length, 3, heads, dim // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    share = ((query @ key.transpose(-1, -2)) * (dim // heads) ** -0.5).softmax(-1)
    mixed = (share @ value).transpose(1, 2).reshape(batch, length, dim)
    x = x + layer.attention.out(mixed) * layer.scale1.gain
    return x + layer.mlp(layer.norm2(x)) * layer.scale2.gain


def encode(encoder: SemantoksEncoder, series: Tensor, mask: Tensor | None = None) -> Encoding:
    """Encode windows."""
    tokens = lattice(encoder, series)
    if encoder.synchrony is not None:
        tokens = tokens + synchrony(encoder, series, mask)
    if mask is not None:
        tokens = tokens.clone()
        tokens[mask] = encoder.mask_token.to(tokens.dtype)
    batch, networks, patches, dim = tokens.shape
    tokens = tokens + encoder.network_position[:, None] + patch_positions(patches, dim)
    x = torch.cat([encoder.cls_token.expand(batch, 1, dim), tokens.flatten(1, 2)], dim=1)
    for layer in encoder.blocks:
        x = block(layer, x)
    x = encoder.norm(x)
    return Encoding(x[:, 0], x[:, 1:].unflatten(1, (networks, patches)))


def loss(model: Distillation, views: Tensor, masks: Tensor | None) -> Tensor:
    """Return the total loss once the network-summary term is over."""
    student, teacher, agreements = [], [], []
    for i in range(2):
        mask = None if masks is None else masks[:, i]
        ours = encode(model.student.encoder, views[:, i], mask)
        with torch.no_grad():
            theirs = encode(model.teacher.encoder, views[:, i])
            teacher.append(model.teacher.head(theirs.summary))
        student.append(model.student.head(ours.summary))
        if mask is not None:
            with torch.no_grad():
                expected = model.teacher.head(theirs.tokens)
            found = model.student.head(ours.tokens)
            agreements += [
                (found[b][mask[b]] * expected[b][mask[b]]).sum(-1).mean() for b in range(len(mask))
            ]
    s, t = (student[0], student[1]), (teacher[0], teacher[1])
    total = -compression(s, t) - expansion(s, t, epsilon=model.epsilon)
    if agreements:
        total = total - model.token_weight * torch.stack(agreements).mean()
    return total


def make_optimizer(model: Distillation) -> torch.optim.AdamW:
    """Make AdamW that goes through parameters one by one."""
    return torch.optim.AdamW(model.student.parameters(), lr=1e-4, weight_decay=0.05, foreach=False)


def step(
    model: Distillation, optimizer: torch.optim.AdamW, views: Tensor, masks: Tensor | None
) -> float:
    """Do one optimizer step and move the teacher."""
    total = loss(model, views, masks)
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.student.parameters(), 1.0, foreach=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        pairs = zip(model.teacher.parameters(), model.student.parameters(), strict=True)
        for theirs, ours in pairs:
            theirs.mul_(0.99).add_(ours, alpha=0.01)
    return float(total.detach())


def windows(
    store: Store, scans: NDArray[np.int64], starts: NDArray[np.int64], length: int
) -> NDArray[np.float32]:
    """Cut windows one by one, (window, roi, time)."""
    cut = []
    for scan, start in zip(scans, starts, strict=True):
        first = store.offsets[scan] + start
        cut.append(store.samples[first : first + length].T.astype(np.float32))
    return np.stack(cut)


def ridge_predictions(
    features: NDArray[np.float64], truth: NDArray[np.float64], splits: Sequence[Split]
) -> list[NDArray[np.float64]]:
    """Predict the test part of every split by scikit-learn, a split after the other."""
    predicted = []
    for split in splits:
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES))
        model.fit(features[split.train], truth[split.train])
        predicted.append(model.predict(features[split.test]))
    return predicted
