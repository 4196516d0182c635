"""The scans of a study, and what is computed of them once."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.benchmark.baselines.connectivity import connectivity_features
from semantoks.benchmark.baselines.tangent import Covariances, covariances
from semantoks.benchmark.baselines.temporal_statistics import temporal_features
from semantoks.benchmark.study_plan import ModelPlan, StudyPlan
from semantoks.data.store import Store
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.fresh import fresh_weights
from semantoks.evaluation.window_features import (
    WindowFeatures,
    WindowTokens,
    window_features,
    window_tokens,
)
from semantoks.model.checkpoint import SavedModel, load_model
from semantoks.model.encoder import SemantoksEncoder


class Cohort:
    """A store and what has been computed of it, each thing once."""

    def __init__(self, store: Store, plan: StudyPlan) -> None:
        self.store, self.plan = store, plan
        self._edges: dict[str, NDArray[np.float32]] = {}
        self._features: dict[tuple[ModelPlan, str], NDArray[np.float64]] = {}
        self._windows: dict[tuple[ModelPlan, str], WindowFeatures] = {}
        self._tokens: tuple[ModelPlan, WindowTokens] | None = None

    @cached_property
    def temporal(self) -> NDArray[np.float32]:
        """Temporal statistics of the ROIs, shape (scan, feature)."""
        return temporal_features(self.store)

    @cached_property
    def covariances(self) -> Covariances:
        """Covariances of the ROIs, from which the tangent space of each split is made."""
        return covariances(self.store)

    def edges(
        self, kind: Literal["correlation", "partial"]
    ) -> Float[NDArray[np.float32], "scan edge"]:
        """Compute connectivity."""
        if kind not in self._edges:
            self._edges[kind] = connectivity_features(self.store, kind=kind)
        return self._edges[kind]

    def features(
        self, model: ModelPlan, features: str
    ) -> Float[NDArray[np.float64], "scan feature"]:
        """Read features out of a model, a row a scan."""
        key = (model, features)
        if key not in self._features:
            encoder = load_weights(model)
            made = embed(self.store, encoder, features=features, windows=model.windows)
            self._features[key] = made.features
        return self._features[key]

    def windows(self, model: ModelPlan, features: str) -> WindowFeatures:
        """Read features out of a model, a row a window."""
        key = (model, features)
        if key not in self._windows:
            self._windows[key] = window_features(
                self.store, load_weights(model), features=features, windows=model.windows
            )
        return self._windows[key]

    def tokens(self, model: ModelPlan) -> WindowTokens:
        """Read all tokens of a model; those of the model asked for last are kept."""
        if self._tokens is None or self._tokens[0] != model:
            self._tokens = None  # gigabytes: not two at once
            made = window_tokens(self.store, load_weights(model), windows=model.windows)
            self._tokens = (model, made)
        return self._tokens[1]


def load_weights(model: ModelPlan) -> SemantoksEncoder:
    """Load a model, or its architecture with fresh weights."""
    saved: SavedModel = load_model(model.model)
    if model.weights == "fresh":
        return fresh_weights(saved.encoder, model.seed)
    return saved.encoder
