"""The encoder as a scikit-learn transformer: from recordings to a table of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from semantoks.data.atlas import Atlas
from semantoks.data.placement import roi_positions
from semantoks.data.preprocessing import Preprocessing, QualityError, preprocess
from semantoks.data.recording import Recording
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import check_preprocessing
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    encode_scans,
    feature_names,
    scans_of,
    window_length,
    window_starts,
)
from semantoks.model.checkpoint import SavedModel, load_model
from semantoks.model.encoder import SemantoksEncoder

Series = NDArray[np.floating[Any]]

_SCANS_AT_ONCE: Final = 32
"""How many arrays are preprocessed and held in memory together."""


class _Scan(NamedTuple):
    """An array that was looked at, with what is known of it."""

    name: str
    series: Series
    t_r: float
    atlas: Atlas


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
    features : {"mean+cls", "mean", "cls", "networks"}
        What is read out: mean token and CLS (the reference), either alone, or the mean token of
        every network.
    t_r : float, optional
        Repetition time of the arrays in seconds; by default they are at the model's already. A
        `Recording` brings its own.
    atlas : Atlas, optional
        Atlas of the arrays, or of the store, if it holds only a part of the model's ROIs: they are
        placed by label, and networks without any are masked. By default the model's.
    window : int, optional
        Samples in a window, a multiple of the model's patch; the model's window by default.
    preprocessing : Preprocessing, optional
        What is done to arrays; by default what the model's folder says. If that says nothing, or
        the model is an encoder, the reference's (2 s, 0.01 to 0.1 Hz), and `t_r` must be given.
        Arrays that were filtered before need
        ``Preprocessing(high_pass=None, low_pass=None, detrend=False)``.
    min_coverage : float, optional
        Smallest share of an array's ROIs that must carry signal; by default as in the
        preprocessing. Lower it for scans that lack networks.
    batch_size : int
        Windows that are encoded at once.

    Attributes
    ----------
    encoder_ : SemantoksEncoder
        The model.
    preprocessing_ : Preprocessing
        What is done to arrays.
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
        features: FeatureKind = "mean+cls",
        *,
        t_r: float | None = None,
        atlas: Atlas | None = None,
        window: int | None = None,
        preprocessing: Preprocessing | None = None,
        min_coverage: float | None = None,
        batch_size: int = 64,
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

    def fit(
        self,
        X: Store | Sequence[ArrayLike | Recording] | NDArray[Any],  # noqa: N803
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
        saved = self._load()
        encoder = saved.encoder
        length = window_length(encoder, self.window)
        window_starts(length, length, self.windows)
        names = feature_names(encoder, self.features)
        if self.atlas is not None:
            roi_positions(self.atlas, encoder.atlas)
        self.saved_, self.encoder_ = saved, encoder
        self.preprocessing_ = self._resolve(saved, length)
        self._feature_names = names
        if isinstance(X, Store):
            self._check_store(X)
        else:
            self._check_arrays(X)
        self.n_features_in_ = len(self.atlas if self.atlas is not None else encoder.atlas)
        return self

    def transform(
        self,
        X: Store | Sequence[ArrayLike | Recording] | NDArray[Any],  # noqa: N803
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
        if isinstance(X, Store):
            return self._encode(self._check_store(X))
        scans = self._check_arrays(X)
        parts = range(0, len(scans), _SCANS_AT_ONCE)
        rows = [self._encode(self._prepare(scans[i : i + _SCANS_AT_ONCE])) for i in parts]
        return np.concatenate(rows)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Name the columns.

        Parameters
        ----------
        input_features : object
            Ignored.

        Returns
        -------
        ndarray of str, shape (feature,)
            mean_0000, ..., cls_0000, ..., or <network>_0000, ...
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

    def _load(self) -> SavedModel:
        """Return the model, and what its folder says of it."""
        if isinstance(self.model, SemantoksEncoder):
            return SavedModel(self.model, self.model.preprocessing, self.model.provenance)
        if not isinstance(self.model, str | Path):
            raise InputError(
                "model must be a folder or a SemantoksEncoder, but is of type "
                f"{type(self.model).__name__}."
            )
        return load_model(self.model)

    def _resolve(self, saved: SavedModel, window: int) -> Preprocessing:
        """Decide what is done to arrays; they need to be no longer than a window."""
        chosen = self.preprocessing
        if chosen is None:
            chosen = Preprocessing.from_dict(saved.preprocessing)
        coverage = chosen.min_coverage if self.min_coverage is None else self.min_coverage
        return dataclasses.replace(chosen, min_samples=window, min_coverage=coverage)

    def _check_store(self, store: Store) -> Scans:
        """Refuse a store that is not what the model expects."""
        expected = self.saved_.preprocessing
        if self.preprocessing is not None:
            expected = self.preprocessing.to_dict()
        check_preprocessing(store, expected)
        if self.atlas is not None and store.atlas != self.atlas:
            raise InputError(
                f"the store has {store.atlas!r}, but atlas={self.atlas!r} was given. Give the "
                "store's own atlas, or none if it is the model's."
            )
        return scans_of(store, self.encoder_, "refuse" if self.atlas is None else "mask")

    def _check_arrays(self, scans: Any) -> list[_Scan]:
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
        return [self._check_array(f"array {i} of {len(scans)}", x) for i, x in enumerate(scans)]

    def _check_array(self, name: str, scan: Any) -> _Scan:
        """Refuse an array that is no series of the right atlas, or has no repetition time."""
        own = scan.atlas if isinstance(scan, Recording) else None
        atlas = self.atlas or own or self.encoder_.atlas
        if own not in (None, atlas) or (self.atlas is None and atlas != self.encoder_.atlas):
            expected = self.atlas or self.encoder_.atlas
            raise InputError(
                f"{name} (scan {scan.scan!r}) is of {own!r}, expected {expected!r}. Give the "
                "recordings' atlas (atlas=) if it is a part of the model's."
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
        return _Scan(name, series, self._t_r_of(name, scan), atlas)

    def _t_r_of(self, name: str, scan: Any) -> float:
        """Return the repetition time of an array; it is never guessed."""
        own = scan.t_r if isinstance(scan, Recording) else None
        if own is not None and self.t_r is not None and not np.isclose(own, self.t_r, rtol=1e-3):
            raise InputError(
                f"{name} (scan {scan.scan!r}) has repetition time {own:g} s, but t_r={self.t_r:g} "
                "was given. Leave t_r out: recordings bring their own."
            )
        known = self.t_r if own is None else own
        if known is None and self.preprocessing is None and not self.saved_.preprocessing:
            raise InputError(
                f"t_r is missing: neither {name} nor the model says its repetition time. Give it "
                "in seconds: SemantoksFeatures(..., t_r=...)."
            )
        return self.preprocessing_.target_t_r if known is None else float(known)

    def _prepare(self, scans: Sequence[_Scan]) -> Scans:
        """Preprocess arrays and place them into the model's atlas."""
        onto = self.encoder_.atlas
        valid = np.zeros((len(scans), len(onto)), dtype=bool)
        placed = list[NDArray[np.float32]]()
        for i, scan in enumerate(scans):
            try:
                ready = preprocess(scan.series, scan.t_r, self.preprocessing_)
            except QualityError as error:
                raise QualityError(
                    f"{scan.name}: {error}{_advice(error)}", error.category
                ) from error
            except InputError as error:
                raise InputError(f"{scan.name}: {error}") from error
            positions = slice(None) if scan.atlas == onto else roi_positions(scan.atlas, onto)
            series = np.zeros((len(onto), ready.n_samples), dtype=np.float32)
            series[positions] = ready.series
            valid[i, positions] = ready.valid
            placed.append(series)

        def read(
            which: NDArray[np.int64], starts: NDArray[np.int64], length: int
        ) -> NDArray[np.float32]:
            pairs = zip(which.tolist(), starts.tolist(), strict=True)
            return np.stack([placed[i][:, first : first + length] for i, first in pairs])

        lengths = np.array([series.shape[1] for series in placed], dtype=np.int64)
        return Scans(lengths, valid, read, lambda i: scans[i].name)

    def _encode(self, scans: Scans) -> NDArray[np.float32]:
        """Read out of the encoder."""
        return encode_scans(
            self.encoder_,
            scans,
            features=self.features,
            windows=self.windows,
            window=self.window,
            batch_size=self.batch_size,
        )


def _advice(error: QualityError) -> str:
    """Say what can be done about a scan that is not good enough."""
    return {
        "short": " Leave it out, or read shorter windows (window, in whole patches).",
        "coverage": " Leave it out, or lower min_coverage.",
    }.get(error.category, " Leave it out.")
