"""Series from which volumes were cut out, put back at their true times."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator


def fill_censored(
    series: Float[NDArray[np.floating[Any]], "roi kept_volume"], kept: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Put volumes that were cut out back by interpolation in time.

    Without them, time would jump: every later volume would come too early, and fluctuations would
    look faster than they are. The interpolation is monotone between neighbours (PCHIP), so that it
    does not overshoot in long gaps as cubic splines do. Volumes before the first and after the
    last that was kept are not made up.

    Examples
    --------
    >>> kept = np.array([False, True, True, False, True])
    >>> fill_censored(np.array([[1.0, 2.0, 4.0]]), kept)
    array([[1., 2., 3., 4.]])
    """
    times = np.flatnonzero(kept)
    values = np.asarray(series, dtype=np.float64)
    if times.size < 2 or times[-1] - times[0] + 1 == times.size:
        return values
    whole = np.full((len(values), times[-1] - times[0] + 1), np.nan)
    there = np.isfinite(values).all(axis=1)
    if there.any():
        curve = PchipInterpolator(times, values[there], axis=1)
        whole[there] = curve(np.arange(times[0], times[-1] + 1))
    # ROIs with single gaps keep them, and are judged by them later on.
    rest = np.ix_(np.flatnonzero(~there), times - times[0])
    whole[rest] = values[~there]
    return whole
