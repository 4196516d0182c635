"""What the probes and fine-tuning have in common as estimators of scikit-learn."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from semantoks.evaluation.splits import Kind


class ScanEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator that scores scans, and predicts the class of the largest score, or the value."""

    kind: Kind
    classes_: NDArray[Any]

    @abstractmethod
    def decision_function(self, X: Any) -> Float[NDArray[np.float64], "scan class"]:
        """Return scores of shape (scan, class), or values of shape (scan, 1)."""

    def predict(self, X: Any) -> Shaped[NDArray[Any], "scan"]:
        """Predict scans."""
        scores = self.decision_function(X)
        if self.kind == "regression":
            return scores[:, 0]
        return np.asarray(self.classes_[scores.argmax(axis=1)])
