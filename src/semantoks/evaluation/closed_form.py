"""The closed-form probe: ridge or logistic regression, its penalty chosen inside of training."""

from __future__ import annotations

from typing import get_args

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import ConfigurationError
from semantoks.evaluation.feature_checks import check_arrays, check_new
from semantoks.evaluation.linear import Classifier, Scaling, fit_linear
from semantoks.evaluation.scan_estimator import ScanEstimator
from semantoks.evaluation.splits import Kind
from semantoks.evaluation.target_coding import check_known, encode_labels

Matrix = NDArray[np.float64]


class ClosedFormProbe(ScanEstimator):
    """A linear model whose penalty is chosen by leaving out subjects, for scikit-learn.

    The same as `cross_validated_predictions` fits in every training part: ridge regression with
    one column of ±1 a class (closed form), or logistic regression (convex). Classes weigh equally.

    Parameters
    ----------
    kind : {"classification", "regression"}
        What is predicted.
    classifier : {"ridge", "logistic"}
        Linear model for classes; values are always predicted by ridge regression.
    scaling : {"standardize", "center"}
        Whether features are brought to unit variance, or only centred.

    Attributes
    ----------
    classes_ : ndarray
        Classes that can be predicted; only for classification.
    penalty_ : float
        The penalty that was chosen, the strongest of equally good ones.

    Examples
    --------
    >>> probe = ClosedFormProbe().fit([[0.0], [9], [1], [8], [0], [9]], ["m", "f"] * 3)
    >>> probe.predict([[1.0], [8]]).tolist()
    ['m', 'f']
    """

    def __init__(
        self,
        kind: Kind = "classification",
        *,
        classifier: Classifier = "ridge",
        scaling: Scaling = "standardize",
    ) -> None:
        self.kind = kind
        self.classifier = classifier
        self.scaling = scaling

    def fit(
        self,
        X: Shaped[ArrayLike, "scan feature"],
        y: Shaped[ArrayLike, "scan"],
        *,
        groups: Shaped[ArrayLike, "scan"] | None = None,
    ) -> ClosedFormProbe:
        """Choose the penalty and fit.

        Parameters
        ----------
        X : array_like of shape (scan, feature)
            Features of the scans to learn from.
        y : array_like of shape (scan,)
            Classes (of any type) or values.
        groups : array_like of shape (scan,), optional
            Who each scan is of; every scan is of another person by default.

        Returns
        -------
        ClosedFormProbe
            Itself.

        Raises
        ------
        InputError
            If lengths differ, features or targets are not finite, or all scans (of a class, for the
            logistic classifier) are of one subject.
        ConfigurationError
            If an option has an unknown value.
        """
        for name, value, known in (
            ("classifier", self.classifier, get_args(Classifier)),
            ("scaling", self.scaling, get_args(Scaling)),
        ):
            if value not in known:
                raise ConfigurationError(f"{name} must be {' or '.join(known)}, not {value!r}.")
        features = np.asarray(X)
        truth, _, classes = encode_labels(y, np.asarray(y)[:0], self.kind)
        subjects = np.arange(len(truth)) if groups is None else np.asarray(groups)
        check_arrays(features, truth, subjects)
        check_known(truth, self.kind, "fit")
        self._fitted = fit_linear(
            features,
            truth,
            subjects,
            n_classes=0 if classes is None else len(classes),
            classifier=self.classifier,
            scaling=self.scaling,
        )
        self.penalty_ = self._fitted.penalty
        if classes is not None:
            self.classes_ = classes
        return self

    def decision_function(
        self, X: Shaped[ArrayLike, "scan feature"]
    ) -> Float[Matrix, "scan class"]:
        """Return continuous scores.

        Parameters
        ----------
        X : array_like of shape (scan, feature)
            Features.

        Returns
        -------
        ndarray of shape (scan, class)
            Outputs of the ridge regression or probabilities; of shape (scan, 1) for regression, in
            the unit of the target.

        Raises
        ------
        InputError
            If features are not finite, or not as many as in `fit`.
        """
        check_is_fitted(self, "penalty_")
        features = np.asarray(X)
        check_new(features, self._fitted.scaler.n_features_in_)
        return self._fitted.scores(features)
