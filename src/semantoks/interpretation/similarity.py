"""How alike the tokens of two networks are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.model.encoder import SemantoksEncoder, network_mask

_BATCH = 16


@dataclass(frozen=True)
class TokenSimilarity:
    """Mean cosine between the tokens of every two networks."""

    matrix: Float[NDArray[np.float64], "network network"]
    networks: tuple[str, ...]
    n_scans: int

    @property
    def between(self) -> float:
        """Mean cosine over all pairs of different networks; NaN if there is no such pair."""
        pairs = self.matrix[~np.eye(len(self.networks), dtype=bool)]
        known = pairs[np.isfinite(pairs)]
        return float(known.mean()) if len(known) else float("nan")


def token_similarity(
    store: Store, encoder: SemantoksEncoder, n_scans: int = 64, seed: int = 0
) -> TokenSimilarity:
    """Compare the tokens of every two networks on one random window of some scans."""
    if store.atlas != encoder.atlas:
        raise InputError(
            f"the store {store.path} is of {store.atlas!r}, but the model is of {encoder.atlas!r}. "
            "Give the store of the atlas that the model was trained with."
        )
    long_enough = np.flatnonzero(store.lengths >= encoder.window)
    if len(long_enough) == 0:
        raise InputError(
            f"no scan of the store {store.path} has the {encoder.window} samples that a window of "
            "the model needs. Give the store that the model was trained on."
        )
    random = np.random.default_rng(seed)
    scans = np.sort(random.choice(long_enough, min(n_scans, len(long_enough)), replace=False))
    starts = random.integers(0, store.lengths[scans] - encoder.window + 1)
    names = encoder.token_atlas.network_names
    n = len(names)
    sums, counts = np.zeros((n, n)), np.zeros((n, n))
    for first in range(0, len(scans), _BATCH):
        part = slice(first, first + _BATCH)
        tokens = _tokens(store, encoder, scans[part], starts[part])
        valid = encoder.network_valid(store.valid[scans[part]])
        both = valid[:, :, None] & valid[:, None, :]
        sums += np.where(both, _cosines(tokens), 0).sum(axis=0)
        counts += both.sum(axis=0)
    matrix = np.divide(sums, counts, out=np.full((n, n), np.nan), where=counts > 0)
    return TokenSimilarity(matrix, names, len(scans))


def _tokens(
    store: Store, encoder: SemantoksEncoder, scans: NDArray[np.intp], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the tokens (batch, network, patch, dim) of windows."""
    device = next(encoder.parameters()).device
    windows = torch.from_numpy(store.windows(scans, starts, encoder.window)).to(device)
    mask = network_mask(encoder.network_valid(store.valid[scans]), encoder.window // encoder.patch)
    with torch.inference_mode():
        tokens = encoder(windows, None if mask is None else mask.to(device)).tokens
    found: NDArray[np.float64] = tokens.double().cpu().numpy()
    return found


def _cosines(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean cosine of the tokens of two networks, (batch, network, network)."""
    patches = tokens.shape[2]
    lengths = np.linalg.norm(tokens, axis=-1, keepdims=True)
    unit = tokens / np.maximum(lengths, np.finfo(np.float64).tiny)
    total = unit.sum(axis=2)
    products = total @ total.transpose(0, 2, 1)
    cosines: NDArray[np.float64] = products / patches**2
    # A token says nothing about its likeness to itself: these pairs leave the diagonal.
    own = np.arange(tokens.shape[1])
    if patches > 1:
        cosines[:, own, own] = (products[:, own, own] - patches) / (patches * (patches - 1))
    else:
        cosines[:, own, own] = 1.0
    return cosines
