"""Many features on two axes, for the eye."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from semantoks.errors import InputError

FEW = 30
"""Scans below which neighbourhoods say nothing, so that principal components are drawn."""


@dataclass(frozen=True)
class Projection:
    """Where each scan stands on a map."""

    points: Float[NDArray[np.float64], "scan 2"]
    method: str


def project(features: Float[NDArray[np.float64], "scan feature"], *, seed: int = 0) -> Projection:
    """Lay scans out on two axes so that neighbours stay neighbours.

    Features are standardized and reduced to at most 50 principal components; from 30 scans on,
    t-SNE then starts at the first two of them.

    Examples
    --------
    >>> import numpy as np
    >>> project(np.random.default_rng(0).normal(size=(12, 5))).method
    'PCA'
    """
    n = len(features)
    if n < 3:
        raise InputError(f"a map needs the features of at least 3 scans, but there are {n}.")
    if not np.isfinite(features).all():
        raise InputError(
            "the features hold NaN or infinite values, so no map of them can be drawn. "
            "Make the embeddings anew with `semantoks embed`."
        )
    scaled = StandardScaler().fit_transform(features)
    if not scaled.any():  # all scans have the same features: one point
        return Projection(np.zeros((n, 2)), "PCA")
    n_components = min(50, *scaled.shape)
    components = PCA(n_components, svd_solver="full").fit_transform(scaled)
    if n < FEW or n_components < 2:
        points = np.zeros((n, 2))
        points[:, : min(2, n_components)] = components[:, :2]
        return Projection(points, "PCA")
    tsne = TSNE(
        init="pca",
        perplexity=min(30.0, n / 4),
        random_state=seed,
        max_iter=750,
        method="barnes_hut",
    )
    return Projection(tsne.fit_transform(components).astype(np.float64), "t-SNE")
