"""What is reached without looking at a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from semantoks.evaluation.probe import FoldPrediction
from semantoks.evaluation.splits import Kind, Split


def dummy_predictions(
    truth: Shaped[NDArray[Any], "scan"], splits: Sequence[Split], *, kind: Kind
) -> tuple[FoldPrediction, ...]:
    """Predict the mean value of the training part, or always the first class, with equal scores.

    Which class is most frequent in a training part depends on the test part that was taken out of
    it, so that predicting it scores below chance. One class for all folds is exactly at chance.

    Examples
    --------
    >>> split = Split("mine", 0, "0", train=np.array([0, 1]), test=np.array([2]))
    >>> dummy_predictions(np.array([1.0, 2.0, 9.0]), [split], kind="regression")[0].prediction
    array([1.5])
    """
    if kind == "regression":
        return tuple(
            FoldPrediction(
                split,
                np.full(len(split.test), truth[split.train].mean()),
                np.empty((len(split.test), 0)),
            )
            for split in splits
        )
    n_classes = int(truth.max()) + 1
    return tuple(
        FoldPrediction(
            split,
            np.zeros(len(split.test), dtype=np.int64),
            np.full((len(split.test), n_classes), 1 / n_classes),
        )
        for split in splits
    )
