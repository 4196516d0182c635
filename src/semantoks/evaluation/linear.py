"""Linear models: ridge and logistic regression with the penalty chosen by leaving out subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import (
    ScanEstimator,
    check_arrays,
    check_known,
    check_new,
    encode_labels,
)
from semantoks.evaluation.splits import Kind, Split

# With s the roots of the weights, Z = s (X - weighted mean) and Z Zᵀ = V Λ Vᵀ, the fitted values of
# s y for penalty λ are H s y, H = V Λ/(Λ + λ) Vᵀ + u uᵀ, u = s/|s| being the unpenalised intercept.
# The residuals of the scans g of a subject, had the subject not been there, are
# (I - H_gg)⁻¹ (s y - H s y)_g: exact, and no fit is repeated.
#
# scikit-learn's RidgeCV leaves out scans, not subjects, so that a second session would help to
# choose; with explicit folds it repeats every fit, and it gives ties to the weaker penalty. Where
# every subject has one scan both agree (tests).

Matrix = NDArray[np.float64]

PENALTIES: Final = np.logspace(-2, 8, 31)
"""Penalties to choose from, weakest first."""

_COLUMNS_AT_ONCE = 4096


def scaling_of(names: Iterable[str]) -> Scaling:
    """Say how features of these names are scaled.

    Examples
    --------
    >>> scaling_of(["components_0000"]), scaling_of(["mean_0000", "components_0000"])
    ('center', 'standardize')
    """
    return "center" if all(name.startswith("components_") for name in names) else "standardize"


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge regression."""

    coefficients: Float[Matrix, "feature output"]
    intercept: Float[Matrix, "output"]
    penalty: float
    errors: Float[Matrix, "penalty"]

    def predict(self, features: Float[Matrix, "scan feature"]) -> Float[Matrix, "scan output"]:
        """Predict the outputs of new scans."""
        return features @ self.coefficients + self.intercept


def fit_ridge(
    features: Float[Matrix, "scan feature"],
    outputs: Float[Matrix, "scan output"],
    *,
    subjects: Shaped[NDArray[Any], "scan"],
    weights: Float[Matrix, "scan"] | None = None,
    penalties: Float[Matrix, "penalty"] = PENALTIES,
) -> RidgeFit:
    """Fit a ridge regression with the penalty that predicts left-out subjects best.

    Equal errors go to the stronger penalty. One penalty serves all outputs.

    Examples
    --------
    >>> x = np.arange(6.0)[:, None]
    >>> fit = fit_ridge(x, 2 * x + 1, subjects=np.arange(6))
    >>> bool(abs(fit.predict(np.array([[10.0]]))[0, 0] - 21) < 0.1)
    True
    """
    if len(np.unique(subjects)) < 2:
        raise InputError("a penalty cannot be chosen on the scans of one subject.")
    weights = np.ones(len(features)) if weights is None else weights
    root, share = np.sqrt(weights), weights / weights.sum()
    feature_mean, output_mean = share @ features, share @ outputs
    scaled = root[:, None] * (features - feature_mean)
    target = root[:, None] * (outputs - output_mean)
    vectors, values = _spectrum(scaled)

    penalties = np.sort(penalties)
    errors = _left_out_errors(vectors, values, target, root, penalties, subjects)
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    within = vectors.T @ target
    # the residual direction outside of the spectrum does not reach the coefficients
    coefficients = scaled.T @ (vectors @ (within / (values + penalties[best])[:, None]))
    return RidgeFit(
        coefficients, output_mean - feature_mean @ coefficients, float(penalties[best]), errors
    )


def rotate(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
) -> Float[Matrix, "scan kept"]:
    """Replace many features by as few as there are scans, without changing any distance.

    A ridge or logistic regression on centred (not scaled) features depends on nothing but the
    inner products of the scans. These numbers have the same inner products (around the mean), so
    that predictions stay the same while 19,900 edges become as many columns as there are scans.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((5, 100))
    >>> rotated = rotate(x)
    >>> rotated.shape[1] <= 5
    True
    >>> bool(np.isclose(np.linalg.norm(x[0] - x[3]), np.linalg.norm(rotated[0] - rotated[3])))
    True
    """
    n, width = features.shape
    if width <= n:
        return np.asarray(features - features.mean(axis=0), dtype=np.float64)
    gram = np.zeros((n, n))
    for start in range(0, width, _COLUMNS_AT_ONCE):
        block = np.asarray(features[:, start : start + _COLUMNS_AT_ONCE], dtype=np.float64)
        block = block - block.mean(axis=0)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(values[-1], 0.0) * n * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def _spectrum(scaled: Matrix) -> tuple[Matrix, Matrix]:
    """Return V (scan, k) and Λ (k,) of Z Zᵀ, by way of whichever side of Z is shorter."""
    n, width = scaled.shape
    wide = width > n
    values, vectors = np.linalg.eigh(scaled @ scaled.T if wide else scaled.T @ scaled)
    kept = values > max(values[-1], 0.0) * max(n, width) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    return (vectors if wide else scaled @ (vectors / np.sqrt(values))), values


def _left_out_errors(
    vectors: Matrix,
    values: Matrix,
    target: Matrix,
    root: Matrix,
    penalties: Matrix,
    subjects: NDArray[Any],
) -> Matrix:
    """Weighted mean squared error of every subject left out, for each penalty."""
    shrink = values / (values + penalties[:, None])
    within = vectors.T @ target
    direction = root / np.linalg.norm(root)
    residuals = target - np.stack([vectors @ (s[:, None] * within) for s in shrink])
    own = vectors**2 @ shrink.T + direction[:, None] ** 2
    left_out = residuals / (1.0 - own.T)[:, :, None]
    for scans in _scans_of_repeated(subjects):
        v, u = vectors[scans], direction[scans]
        hat = np.einsum("ik,pk,jk->pij", v, shrink, v, optimize=True) + np.outer(u, u)
        left_out[:, scans] = np.linalg.solve(np.eye(len(scans)) - hat, residuals[:, scans])
    return np.asarray((left_out**2).sum(axis=(1, 2)) / (root**2).sum())


def _scans_of_repeated(subjects: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the scans of every subject that has more than one."""
    _, code, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(code, kind="stable")
    scans = np.split(order, np.cumsum(counts)[:-1])
    return [s for s in scans if len(s) > 1]


Classifier = Literal["ridge", "logistic"]
Scaling = Literal["standardize", "center"]
"""What is done to features. Components keep their spread: it says how reliable they are."""

_LOGISTIC_PENALTIES: Final = np.logspace(5, -1, 7)
_INNER_FOLDS = 5


@dataclass(frozen=True)
class FoldPrediction:
    """What was predicted of the test part of a split."""

    split: Split
    prediction: Shaped[NDArray[Any], "test"]
    score: Float[Matrix, "test class"]
    penalty: float = float("nan")
    chosen: Mapping[str, float] = field(default_factory=dict)


def learning_from_both(split: Split) -> Split:
    """Join training and validation part, for models that choose inside of what they learn from.

    Examples
    --------
    >>> split = Split("mine", 0, "0", np.array([0, 3]), np.array([1]), validation=np.array([2]))
    >>> learning_from_both(split).train
    array([0, 2, 3])
    """
    if not len(split.validation):
        return split
    both = np.sort(np.concatenate([split.train, split.validation]))
    return replace(split, train=both, validation=split.validation[:0])


def predict_fold(
    split: Split,
    train: Shaped[NDArray[Any], "train feature"],
    test: Shaped[NDArray[Any], "test feature"],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    kind: Kind,
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
) -> FoldPrediction:
    """Predict the test part of one split from its training part."""
    fitted = fit_linear(
        train,
        truth[split.train],
        subjects[split.train],
        n_classes=0 if kind == "regression" else int(truth.max()) + 1,
        classifier=classifier,
        scaling=scaling,
        where=str(split),
    )
    return fitted.predict(split, test)


class FittedLinear(NamedTuple):
    """A linear model and the scaling of what it reads."""

    scaler: StandardScaler
    model: RidgeFit | LogisticRegression
    penalty: float
    n_classes: int

    def scores(self, features: Shaped[NDArray[Any], "scan feature"]) -> Float[Matrix, "scan class"]:
        """Return continuous scores of the classes, or values."""
        scaled = _scaled(self.scaler, features)
        if isinstance(self.model, LogisticRegression):
            return _probabilities(self.model, scaled, self.n_classes)
        return self.model.predict(scaled)

    def predict(self, split: Split, test: Shaped[NDArray[Any], "test feature"]) -> FoldPrediction:
        """Predict the test part of a split."""
        score = self.scores(test)
        if not self.n_classes:
            return FoldPrediction(split, score[:, 0], np.empty((len(test), 0)), self.penalty)
        return FoldPrediction(split, score.argmax(axis=1), score, self.penalty)


def fit_linear(
    features: Shaped[NDArray[Any], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    n_classes: int,
    classifier: Classifier = "ridge",
    scaling: Scaling = "standardize",
    where: str = "fit",
) -> FittedLinear:
    """Fit a linear model, its penalty chosen by leaving out subjects."""
    scaler = StandardScaler(with_std=scaling == "standardize").fit(features)
    scaled = _scaled(scaler, features)
    if n_classes and classifier == "logistic":
        penalty = _choose_penalty(scaled, truth, subjects, n_classes, where)
        model = _logistic().set_params(C=1 / penalty).fit(scaled, truth)
        return FittedLinear(scaler, model, penalty, n_classes)
    outputs, weights = truth.astype(np.float64)[:, None], None
    if n_classes:
        outputs = np.where(truth[:, None] == np.arange(n_classes), 1.0, -1.0)
        weights = compute_sample_weight("balanced", truth)
    fit = fit_ridge(scaled, outputs, subjects=subjects, weights=weights)
    return FittedLinear(scaler, fit, fit.penalty, n_classes)


def _scaled(scaler: StandardScaler, features: NDArray[Any]) -> Matrix:
    """Centre features, and scale them if the scaler does."""
    return np.asarray(scaler.transform(features), dtype=np.float64)


def _choose_penalty(
    train: Matrix, known: NDArray[Any], people: NDArray[Any], n_classes: int, where: str
) -> float:
    """Choose the penalty of a logistic regression on folds of subjects of the training part."""
    fewest = min(len(np.unique(people[known == c])) for c in np.unique(known))
    if fewest < 2:
        raise InputError(
            f"{where}: a class has a single subject to learn from, so that no penalty can be "
            "chosen for the logistic classifier. Use the ridge classifier, or leave the class out."
        )
    inner = StratifiedGroupKFold(min(_INNER_FOLDS, fewest), shuffle=True, random_state=0)
    losses = np.zeros(len(_LOGISTIC_PENALTIES))
    weights = compute_sample_weight("balanced", known)
    for fit_on, tried_on in inner.split(train, known, people):
        model = _logistic()
        for i, penalty in enumerate(_LOGISTIC_PENALTIES):
            model.set_params(C=1 / penalty).fit(train[fit_on], known[fit_on])
            chance = _probabilities(model, train[tried_on], n_classes)
            right = chance[np.arange(len(tried_on)), known[tried_on]]
            losses[i] -= weights[tried_on] @ np.log(np.clip(right, 1e-12, None))
    return float(_LOGISTIC_PENALTIES[int(np.argmin(losses))])


def _logistic() -> LogisticRegression:
    """Make a class-balanced logistic regression that starts where its last fit ended."""
    return LogisticRegression(class_weight="balanced", warm_start=True, max_iter=5000, tol=1e-3)


def _probabilities(model: LogisticRegression, features: Matrix, n_classes: int) -> Matrix:
    """Return probabilities of all classes, zero for those that were not learned from."""
    chance = np.zeros((len(features), n_classes))
    chance[:, model.classes_] = model.predict_proba(features)
    return chance


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
