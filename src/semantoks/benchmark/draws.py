"""Draws of people for the intervals of scores, as the splits ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from semantoks.evaluation.bootstrap import bootstrap_weights
from semantoks.evaluation.splits import Split


def draw_weights(
    splits: Sequence[Split], subjects: Shaped[NDArray[Any], "scan"], n_draws: int, seed: int
) -> Float[NDArray[np.float64], "draw scan"]:
    """Draw subjects; if they are divided once only, draw folds and then subjects in them."""
    if n_repeats(splits) > 1:
        return bootstrap_weights(subjects, n_draws, seed)
    folds = np.full(len(subjects), -1)
    for number, split in enumerate(splits):
        folds[split.test] = number
    tested = np.flatnonzero(folds >= 0)
    weights = np.zeros((n_draws, len(subjects)))
    weights[:, tested] = bootstrap_weights(subjects[tested], n_draws, seed, folds[tested])
    return weights


def n_repeats(splits: Sequence[Split]) -> int:
    """Count how often the subjects are divided."""
    return len({split.repeat for split in splits})
