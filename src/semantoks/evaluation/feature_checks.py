"""Which features can be learned and predicted from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from semantoks.errors import InputError


def check_arrays(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
    truth: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
) -> None:
    """Refuse arrays of different lengths, and features that are not finite."""
    if features.ndim != 2 or not len(features) == len(truth) == len(subjects):
        raise InputError(
            f"features must have shape (scan, feature) with a true value and a subject a scan; "
            f"came features {features.shape}, {len(truth)} true values, {len(subjects)} subjects."
        )
    _refuse_broken(features, lambda row: f" (subject {str(subjects[row])!r})")


def check_new(features: Float[NDArray[np.floating[Any]], "scan feature"], width: int) -> None:
    """Refuse features to predict from that are not those that were learned from."""
    if features.ndim != 2 or features.shape[1] != width:
        raise InputError(
            f"features of shape {features.shape} came; the probe has learned from {width} features "
            "and needs shape (scan, feature)."
        )
    _refuse_broken(features, lambda _: "")


def _refuse_broken(features: NDArray[np.floating[Any]], whose: Callable[[int], str]) -> None:
    """Refuse features that are not finite."""
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} scan(s) are not finite, the first is in row "
            f"{broken[0]}{whose(int(broken[0]))}. Leave the scan out, or embed it again."
        )
