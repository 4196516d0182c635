"""Sums over the voxels or vertices of every ROI."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


def sum_rois(
    values: Float[NDArray[np.floating[Any]], "element time"],
    members: NDArray[np.integer[Any]],
    n_rois: int,
) -> NDArray[np.float64]:
    """Sum the series of the elements of every ROI.

    Examples
    --------
    >>> sum_rois(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 1, 2]), 3)
    array([[0., 0.],
           [4., 6.],
           [5., 6.]])
    """
    from scipy.sparse import csr_array

    n = len(members)
    weights = csr_array((np.ones(n), (members, np.arange(n))), shape=(n_rois, n))
    return np.asarray(weights @ values, dtype=np.float64)
