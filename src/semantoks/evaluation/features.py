"""The encoder as a scikit-learn transformer: from recordings to a table of features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from semantoks.data.atlas import Atlas
from semantoks.data.labels import match_labels, refuse_unknown, roi_positions
from semantoks.data.quality import mask_sparse_networks
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing, QualityError, preprocess
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import PREPARE_AGAIN, check_preprocessing
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    array_scans,
    check_whole,
    default_features,
    encode_scans,
    feature_names,
    samples_needed,
    scans_of,
    window_length,
    window_starts,
)
from semantoks.model.checkpoint import load_model
from semantoks.model.encoder import SemantoksEncoder

_ADVICE: Final = {
    "short": " Leave it out, or read shorter windows (window, in whole patches).",
    "coverage": " Leave it out, or lower min_coverage.",
}


class ArrayScan(NamedTuple):
    """An array that was looked at, with what is known of it."""

    name: str
    series: Float[NDArray[np.floating[Any]], "roi time"]
    t_r: float
    atlas: Atlas


def _place_columns(
    name: str, table: pd.DataFrame, atlas: Atlas
) -> Float[NDArray[np.float64], "roi time"]:
    """Match the columns of a table (a row a volume) to the ROIs by label; missing ones are NaN."""
    labels = [str(column) for column in table.columns]
    match = match_labels(labels, atlas, where=name)
    refuse_unknown(match, labels, atlas, where=name)
    try:
        return match.place(table.to_numpy(dtype=np.float64).T)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} does not hold numbers: {error}.") from error


@dataclass(frozen=True)
class ArrayRules:
    """What arrays must be, and what is done to them."""

    onto: Atlas
    atlas: Atlas | None
    t_r: float | None
    preprocessing: Preprocessing

    def check(self, scans: Any) -> list[ArrayScan]:
        """Refuse what is not a list of series of the right atlas."""
        if isinstance(scans, np.ndarray) and scans.dtype != object and scans.ndim != 3:
            raise InputError(
                "expected a list of arrays (roi, time) or one array (scan, roi, time), but got an "
                f"array of shape {scans.shape}. Put the series of a single scan into a list: [x]. "
                "Reshape your data if it holds several."
            )
        if not isinstance(scans, list | tuple | np.ndarray):
            raise InputError(
                "expected a Store, a list of arrays (roi, time) or one array (scan, roi, time), "
                f"but got {type(scans).__name__}."
            )
        if len(scans) == 0:
            raise InputError("there is no scan (0 sample(s)); at least one is needed.")
        return [self._check_one(f"array {i} of {len(scans)}", x) for i, x in enumerate(scans)]

    def prepare(self, scans: Sequence[ArrayScan]) -> Scans:
        """Preprocess arrays and place them into the model's atlas."""
        valid = np.zeros((len(scans), len(self.onto)), dtype=bool)
        placed = list[NDArray[np.float32]]()
        for i, scan in enumerate(scans):
            try:
                ready = preprocess(scan.series, scan.t_r, self.preprocessing)
                least = self.preprocessing.min_network_coverage
                ready = mask_sparse_networks(ready, scan.atlas, least)
            except QualityError as error:
                advice = _ADVICE.get(error.category, " Leave it out.")
                raise QualityError(f"{scan.name}: {error}{advice}", error.category) from error
            except InputError as error:
                raise InputError(f"{scan.name}: {error}") from error
            same = scan.atlas == self.onto
            positions = slice(None) if same else roi_positions(scan.atlas, self.onto)
            series = np.zeros((len(self.onto), ready.n_samples), dtype=np.float32)
            series[positions] = ready.series
            valid[i, positions] = ready.valid
            placed.append(series)

        return array_scans(placed, valid, lambda i: scans[i].name)

    def _check_one(self, name: str, scan: Any) -> ArrayScan:
        """Refuse an array that is no series of the right atlas, or has no repetition time."""
        own = scan.atlas if isinstance(scan, Recording) else None
        atlas = self.atlas or own or self.onto
        if own not in (None, atlas) or (self.atlas is None and atlas != self.onto):
            raise InputError(
                f"{name} (scan {scan.scan!r}) is of {own!r}, expected {self.atlas or self.onto!r}. "
                "Give the recordings' atlas (atlas=) if it is a part of the model's."
            )
        if isinstance(scan, pd.DataFrame):
            return ArrayScan(
                name, _place_columns(name, scan, atlas), self._t_r_of(name, scan), atlas
            )
        values = scan.series if isinstance(scan, Recording) else scan
        try:
            series = np.asarray(values)
            series = series.astype(np.float64) if series.dtype == object else series
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} does not hold numbers: {error}.") from error
        if series.dtype.kind not in "fiub":
            raise InputError(f"{name} does not hold real numbers, but {series.dtype}.")
        if series.ndim != 2 or len(series) != len(atlas):
            turned = series.ndim == 2 and series.shape[1] == len(atlas)
            raise InputError(
                f"{name} has shape {series.shape}, but (roi, time) with the {len(atlas)} ROIs of "
                f"atlas {atlas.name!r} was expected."
                + (" Transpose it." if turned else " Give the atlas that it was extracted with.")
            )
        if own is None and series.shape[0] == series.shape[1]:
            raise InputError(
                f"{name} has shape {series.shape}, and atlas {atlas.name!r} has {len(atlas)} ROIs: "
                "either axis may be time. Give it as Recording(series, t_r, atlas), whose rows are "
                "the ROIs."
            )
        return ArrayScan(name, series, self._t_r_of(name, scan), atlas)

    def _t_r_of(self, name: str, scan: Any) -> float:
        """Return the repetition time of an array; it is never guessed."""
        own = scan.t_r if isinstance(scan, Recording) else None
        if own is not None and self.t_r is not None and not np.isclose(own, self.t_r, rtol=1e-3):
            raise InputError(
                f"{name} (scan {scan.scan!r}) has repetition time {own:g} s, but t_r={self.t_r:g} "
                "was given. Leave t_r out: recordings bring their own."
            )
        known = self.t_r if own is None else own
        if known is None:
            raise InputError(
                f"t_r is missing: {name} does not say its repetition time. Give it in seconds, "
                f"SemantoksFeatures(..., t_r=...); give t_r={self.preprocessing.target_t_r} if the "
                "series are at the model's repetition time."
            )
        return float(known)


_SCANS_AT_ONCE: Final = 32
"""How many arrays are preprocessed and held in memory together."""
_READ_ANYWAY: Final = "To read them as they are: ignore_preprocessing=True."


class _Plan(NamedTuple):
    """Parameters as they were in `fit`, resolved: changing one later changes nothing."""

    encoder: SemantoksEncoder
    rules: ArrayRules
    features: FeatureKind
    windows: int
    window: int
    batch_size: int
    preprocessing: Preprocessing | None
    min_coverage: float | None
    ignore_preprocessing: bool


class SemantoksFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features of recordings, for scikit-learn.

    Nothing is learned from the recordings: `fit` loads the model and checks the input, so that
    features of one scan never depend on another.

    Parameters
    ----------
    model : str, path or SemantoksEncoder
        What `load_encoder` reads, or an encoder, used where its weights are. Copies (`clone`, a
        grid search) of an encoder cost memory; those of a folder's name do not.
    windows : int
        Windows a scan, evenly spaced.
    features : str, optional
        What is read out, as in `embed`: "mean+cls", mean token and CLS, is the reference, and
        "components" the default of models that have them.
    t_r : float, optional
        Repetition time of the arrays in seconds. It is never guessed: arrays need it, even if they
        are at the model's already; a `Recording` and a store bring their own.
    atlas : Atlas, optional
        Atlas of the arrays, or of the store, if it holds only a part of the model's ROIs: they are
        placed by label, and networks without any are masked. By default the model's.
    window : int, optional
        Samples in a window, a multiple of the model's patch; the model's window by default.
    preprocessing : Preprocessing, optional
        What is done to arrays, and was done to a store; by default what the model says, or, if it
        says nothing, the reference's (2 s, 0.01 to 0.1 Hz). For arrays that were filtered before:
        ``Preprocessing(high_pass=None, low_pass=None, filtered_before=(0.008, 0.08))``. It must
        fit what the model was trained on, as in `embed`.
    min_coverage : float, optional
        Smallest share of an array's ROIs that must carry signal; by default as in the
        preprocessing. Lower it for scans that lack networks. A store was checked when prepared.
    batch_size : int
        Windows that are encoded at once.
    ignore_preprocessing : bool
        Whether series that were prepared otherwise than the model expects are read as they are,
        instead of being refused.

    Attributes
    ----------
    encoder_ : SemantoksEncoder
        The model.
    preprocessing_ : Preprocessing
        What is done to arrays.
    features_, windows_, window_ : str, int, int
        What is read out, windows a scan and samples in a window, as they were in `fit`.
    n_features_in_ : int
        ROIs that are expected.

    See Also
    --------
    semantoks.evaluation.embedding.embed : The same for a store, with who the scans are.

    Examples
    --------
    >>> import semantoks as sk
    >>> people = sk.simulate_cohort(4, t_r=1.0, n_samples=300)
    >>> encoder = SemantoksEncoder(people[0].atlas, dim=64, depth=1)
    >>> arrays = [person.series for person in people]
    >>> SemantoksFeatures(encoder, windows=4, t_r=1.0).fit_transform(arrays).shape
    (4, 128)
    """

    def __init__(
        self,
        model: str | Path | SemantoksEncoder,
        windows: int = 8,
        features: FeatureKind | None = None,
        *,
        t_r: float | None = None,
        atlas: Atlas | None = None,
        window: int | None = None,
        preprocessing: Preprocessing | None = None,
        min_coverage: float | None = None,
        batch_size: int = 64,
        ignore_preprocessing: bool = False,
    ) -> None:
        self.model = model
        self.windows = windows
        self.features = features
        self.t_r = t_r
        self.atlas = atlas
        self.window = window
        self.preprocessing = preprocessing
        self.min_coverage = min_coverage
        self.batch_size = batch_size
        self.ignore_preprocessing = ignore_preprocessing

    def fit(
        self,
        X: Store | Sequence[ArrayLike | Recording] | NDArray[Any],
        y: Any = None,
    ) -> SemantoksFeatures:
        """Load the model and check parameters and input.

        Parameters
        ----------
        X : Store, list of arrays or recordings, or array of shape (scan, roi, time)
            The scans; each array has shape (roi, time), ROIs in the order of the atlas.
        y : object
            Ignored.

        Returns
        -------
        SemantoksFeatures
            Itself.

        Raises
        ------
        InputError
            If the model cannot be loaded, a parameter is impossible, or a scan does not fit; the
            scan is named by its position.
        """
        plan = self._resolve()
        names = feature_names(plan.encoder, plan.features)
        _check(plan, X)
        # Only now, so that a refusal leaves the estimator as it was.
        self._plan, self._feature_names = plan, names
        self.encoder_, self.preprocessing_ = plan.encoder, plan.rules.preprocessing
        self.features_, self.windows_, self.window_ = plan.features, plan.windows, plan.window
        self.n_features_in_ = len(plan.rules.atlas or plan.encoder.atlas)
        return self

    def transform(
        self,
        X: Store | Sequence[ArrayLike | Recording] | NDArray[Any],
    ) -> NDArray[np.float32]:
        """Describe scans.

        Parameters
        ----------
        X : Store, list of arrays or recordings, or array of shape (scan, roi, time)
            The scans; each array has shape (roi, time), ROIs in the order of the atlas.

        Returns
        -------
        ndarray of float32, shape (scan, feature)
            One row a scan, columns as `get_feature_names_out` names them.

        Raises
        ------
        InputError
            If a scan does not fit, is too short or is broken; it is named by its position.
        """
        check_is_fitted(self)
        plan, scans = self._plan, _check(self._plan, X)
        if isinstance(scans, Scans):
            return _encode(plan, scans)
        parts = range(0, len(scans), _SCANS_AT_ONCE)
        prepared = (plan.rules.prepare(scans[i : i + _SCANS_AT_ONCE]) for i in parts)
        return np.concatenate([_encode(plan, part) for part in prepared])

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Name the columns.

        Parameters
        ----------
        input_features : object
            Ignored.

        Returns
        -------
        ndarray of str, shape (feature,)
            mean_0000, ..., cls_0000, ..., or other names that `feature_names` tells.
        """
        check_is_fitted(self)
        return np.array(self._feature_names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True  # at the end of a scan, or throughout a ROI
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _resolve(self) -> _Plan:
        """Load the model and check the parameters."""
        encoder = _load(self.model)
        if self.atlas is not None:
            _check_type("atlas", self.atlas, Atlas)
            roi_positions(self.atlas, encoder.atlas)
        windows, window = check_whole("windows", self.windows), window_length(encoder, self.window)
        window_starts(window, window, windows)
        features = self.features or default_features(encoder)
        settings = self._settings(encoder, samples_needed(encoder, features, window))
        return _Plan(
            encoder=encoder,
            rules=ArrayRules(encoder.atlas, self.atlas, _check_t_r(self.t_r), settings),
            features=features,
            windows=windows,
            window=window,
            batch_size=check_whole("batch_size", self.batch_size),
            preprocessing=self.preprocessing,
            min_coverage=self.min_coverage,
            ignore_preprocessing=self.ignore_preprocessing,
        )

    def _settings(self, encoder: SemantoksEncoder, needed: int) -> Preprocessing:
        """Decide what is done to arrays; they need to be no longer than what is read."""
        if self.preprocessing is not None:
            _check_type("preprocessing", self.preprocessing, Preprocessing)
        chosen = self.preprocessing or Preprocessing.from_dict(encoder.preprocessing)
        coverage: object = chosen.min_coverage if self.min_coverage is None else self.min_coverage
        if isinstance(coverage, bool) or not isinstance(coverage, Real):
            raise InputError(f"min_coverage is {coverage!r}; it is a share between 0 and 1.")
        return dataclasses.replace(chosen, min_samples=needed, min_coverage=float(coverage))


def _load(model: object) -> SemantoksEncoder:
    """Return the model; it knows how series must be prepared for it."""
    if isinstance(model, SemantoksEncoder):
        return model
    if not isinstance(model, str | Path):
        raise InputError(
            f"model must be a folder or a SemantoksEncoder, but is of type {type(model).__name__}."
        )
    return load_model(model).encoder


def _check_type(name: str, value: object, kind: type) -> None:
    """Refuse a parameter of another type."""
    if not isinstance(value, kind):
        raise InputError(
            f"{name} is {value!r} of type {type(value).__name__}; {kind.__name__} was expected."
        )


def _check_t_r(t_r: object) -> float | None:
    """Refuse what is no repetition time."""
    if t_r is None:
        return None
    if isinstance(t_r, bool) or not isinstance(t_r, Real) or not 0 < float(t_r) < math.inf:
        raise InputError(
            f"t_r is {t_r!r}; it must be one positive number of seconds for all arrays. Where "
            "scans differ, give each as a Recording, which brings its own."
        )
    return float(t_r)


def _check(plan: _Plan, given: Any) -> Scans | list[ArrayScan]:
    """Refuse what is not what the model expects."""
    if isinstance(given, Store):
        return _check_store(plan, given)
    encoder = plan.encoder
    if plan.preprocessing is None and encoder.preprocessing.get("filtered_before"):
        low, high = plan.rules.preprocessing.band
        raise InputError(
            f"the model was trained on series that had been filtered before ({low} to {high} Hz), "
            "so that it does not say what arrays need. Say it: preprocessing=Preprocessing("
            f"high_pass={low}, low_pass={high}) for raw arrays, preprocessing=Preprocessing("
            f"high_pass=None, low_pass=None, filtered_before=({low}, {high})) for filtered ones."
        )
    if not plan.ignore_preprocessing:
        advice = (
            "Leave preprocessing= out for raw arrays; if they were filtered before, say how: "
            f"Preprocessing(high_pass=None, low_pass=None, filtered_before=(low, high)). "
            f"{_READ_ANYWAY}"
        )
        found = plan.rules.preprocessing
        check_preprocessing("what preprocessing= makes", found, encoder.preprocessing, advice)
    return plan.rules.check(given)


def _check_store(plan: _Plan, store: Store) -> Scans:
    """Refuse a store that is not what the model expects, and what only arrays need."""
    for name, value in (("t_r", plan.rules.t_r), ("min_coverage", plan.min_coverage)):
        if value is not None:
            raise InputError(
                f"{name}={value:g} was given with a store, which was prepared with its own "
                f"({name} is for arrays). Leave {name} out."
            )
    expected = [plan.encoder.preprocessing]
    if plan.preprocessing is not None:
        expected.append(plan.preprocessing.to_dict())
    for settings in expected if not plan.ignore_preprocessing else ():
        advice = f"{PREPARE_AGAIN} {_READ_ANYWAY}"
        check_preprocessing(f"store {store.path}", store.preprocessing, settings, advice)
    atlas = plan.rules.atlas
    if atlas is not None and store.atlas != atlas:
        raise InputError(
            f"the store has {store.atlas!r}, but atlas={atlas!r} was given. Give the store's own "
            "atlas, or none if it is the model's."
        )
    return scans_of(store, plan.encoder, "refuse" if atlas is None else "mask")


def _encode(plan: _Plan, scans: Scans) -> NDArray[np.float32]:
    """Read out of the encoder."""
    return encode_scans(
        plan.encoder,
        scans,
        features=plan.features,
        windows=plan.windows,
        window=plan.window,
        batch_size=plan.batch_size,
    )
