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
    """Draw subjects; if they are divided once only, draw folds and then subjects in them.

    Parameters
    ----------
    splits : sequence of Split
        The splits that are scored.
    subjects : ndarray of shape (scan,)
        Who each scan is of, or, where relatives are alike, of which family.
    n_draws, seed : int
        How many draws, and their seed.

    Returns
    -------
    ndarray of shape (draw, scan)
        How often each scan was drawn; 0 for scans that are tested in no split, where subjects are
        divided once.
    """
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
    """Count how often the subjects are divided.

    Parameters
    ----------
    splits : sequence of Split
        Splits.

    Returns
    -------
    int
        Number of different repeats.
    """
    return len({split.repeat for split in splits})
