"""What is reached from age, sex, site and motion alone, without the signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray

from semantoks.evaluation.confounds import ConfoundDesign
from semantoks.evaluation.probe import Classifier, FoldPrediction, predictions_of_folds
from semantoks.evaluation.splits import Kind, Split


def confound_predictions(
    scans: pd.DataFrame,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    columns: Sequence[str],
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    classifier: Classifier = "ridge",
) -> tuple[FoldPrediction, ...]:
    """Predict the test part of every split from confounds.

    Numbers are standardised, texts become a column a value, missing numbers the mean and missing
    texts the most frequent value, all of the training part. A value that the training part does
    not have, such as a site that is left out, has zero in all columns.

    Examples
    --------
    >>> import numpy as np
    >>> scans = pd.DataFrame({"motion": [0.1, 0.9, 0.1, 0.8, 0.1, None]})
    >>> split = Split("mine", 0, "0", train=np.arange(4), test=np.array([4, 5]))
    >>> (fold,) = confound_predictions(
    ...     scans, np.array([1.0, 9, 1, 8, 1, 5]), [split],
    ...     columns=["motion"], kind="regression", subjects=np.arange(6),
    ... )
    >>> fold.prediction.round(1)
    array([1. , 4.8])
    """

    def describe(split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        design = ConfoundDesign(tuple(columns), unseen="zero").fit(scans.iloc[split.train])
        train, test = design.transform(scans.iloc[split.train]), scans.iloc[split.test]
        return train, design.transform(test)

    return predictions_of_folds(
        describe, truth, splits, kind=kind, subjects=subjects, classifier=classifier
    )
