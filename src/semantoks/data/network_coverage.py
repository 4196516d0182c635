"""How much of every network a scan has: which networks are left out, and the table that says so."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessed, QualityError
from semantoks.data.quality import read_bad_networks


def mask_sparse_networks(
    ready: Preprocessed, atlas: Atlas, min_network_coverage: float
) -> Preprocessed:
    """Take out of a scan, as a whole, the networks of which too few ROIs carry signal.

    Examples
    --------
    >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 4})
    >>> missing = np.array([False, False, True, True, True, False])
    >>> ready = Preprocessed(np.ones((6, 3), np.float32), 2.0, np.zeros(6, bool), missing)
    >>> mask_sparse_networks(ready, atlas, 0.5).valid.tolist()
    [True, True, False, False, False, False]
    """
    sparse = np.zeros(len(atlas), dtype=bool)
    for rois in atlas.network_indices:
        sparse[rois] = ready.valid[rois].mean() < min_network_coverage
    if not (sparse & ready.valid).any():
        return ready
    if not (ready.valid & ~sparse).any():
        raise QualityError(
            f"no network has {min_network_coverage:.0%} of its ROIs with signal.", "coverage"
        )
    series = np.where(sparse[:, None], np.float32(0), ready.series)
    return dataclasses.replace(ready, series=series, missing=ready.missing | (sparse & ~ready.flat))


def write_coverage(
    file: Path, rows: Iterable[Mapping[str, Any]], atlas: Atlas, min_network_coverage: float
) -> None:
    """Write which share of every network carries signal, a line a scan."""
    sizes = dict(zip(atlas.network_names, atlas.network_sizes, strict=True))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scan", "category", "masked", *sizes])
        for row in rows:
            shares: dict[str, float] = {}
            if row.get("n_volumes"):
                bad = read_bad_networks(str(row.get("bad_networks") or ""))
                shares = {name: 1 - bad.get(name, 0) / size for name, size in sizes.items()}
            masked = [
                name for name, share in shares.items() if share < (min_network_coverage or 1e-9)
            ]
            cells = [f"{shares[name]:.4g}" if shares else "" for name in sizes]
            writer.writerow([row["scan"], row.get("category") or "", ";".join(masked), *cells])
