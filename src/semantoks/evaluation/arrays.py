"""Series that come as arrays: checked, preprocessed and placed into the atlas of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.network_coverage import mask_sparse_networks
from semantoks.data.placement import roi_positions
from semantoks.data.preprocessing import Preprocessing, QualityError, preprocess
from semantoks.data.recording import Recording
from semantoks.errors import InputError
from semantoks.evaluation.readout import Scans

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

        def read(
            which: NDArray[np.int64], starts: NDArray[np.int64], length: int
        ) -> NDArray[np.float32]:
            pairs = zip(which.tolist(), starts.tolist(), strict=True)
            return np.stack([placed[i][:, first : first + length] for i, first in pairs])

        lengths = np.array([series.shape[1] for series in placed], dtype=np.int64)
        return Scans(lengths, valid, read, lambda i: scans[i].name)

    def _check_one(self, name: str, scan: Any) -> ArrayScan:
        """Refuse an array that is no series of the right atlas, or has no repetition time."""
        own = scan.atlas if isinstance(scan, Recording) else None
        atlas = self.atlas or own or self.onto
        if own not in (None, atlas) or (self.atlas is None and atlas != self.onto):
            raise InputError(
                f"{name} (scan {scan.scan!r}) is of {own!r}, expected {self.atlas or self.onto!r}. "
                "Give the recordings' atlas (atlas=) if it is a part of the model's."
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
