"""A longer proof: on labels that mean nothing, intervals hold chance as often as they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.evaluation.metrics import bootstrap_weights
from semantoks.evaluation.probe import cross_validated_predictions, score_predictions
from semantoks.evaluation.splits import subject_folds

N = 160


@pytest.mark.slow
@pytest.mark.parametrize("n_features", [40, 800])
def test_intervals_hold_chance(n_features: int) -> None:
    rng = np.random.default_rng(0)
    people = np.array([f"{i}" for i in range(N)])
    scans = pd.DataFrame({"scan": people, "subject": people, "site": "A"})
    held = []
    for labelling in range(60):
        # Correlated features, as those of real scans are.
        features = rng.standard_normal((N, 20)) @ rng.standard_normal((20, n_features))
        features += rng.standard_normal((N, n_features))
        truth = rng.integers(0, 2, N)
        splits = subject_folds(scans, truth, kind="classification", seed=labelling)
        folds = cross_validated_predictions(
            features, truth, splits, kind="classification", subjects=people
        )
        weights = bootstrap_weights(people, 400, labelling)
        score = score_predictions(folds, truth, weights, kind="classification")
        low, high = score["balanced_accuracy"].low, score["balanced_accuracy"].high
        held.append(low <= 0.5 <= high)
    assert np.mean(held) >= 0.92
