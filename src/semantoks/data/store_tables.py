"""The parts of a store that are written when all its scans are: tables, index and description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from semantoks.data.atlas import Atlas
from semantoks.data.network_coverage import write_coverage
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.store_journal import Journal
from semantoks.data.store_layout import COVERAGE, FORMAT, FORMAT_VERSION, QUALITY, Files
from semantoks.data.store_table import Refused, index_of, table_of, write_refused

_QUALITY_COLUMNS: Final = (
    *("scan", "subject", "session", "site", "category", "reason", "motion"),
    *("share_scrubbed", "t_r"),
)
"""Columns that the table of quality begins with; what was measured follows."""


def write_tables(
    folder: Path,
    journal: Journal,
    atlas: Atlas,
    preprocessing: Preprocessing,
    *,
    n_scans: int,
    refused: Iterable[Refused],
    quality: Iterable[Mapping[str, Any]],
) -> list[Path]:
    """Write everything beside the series and the description."""
    files = Files.of(folder)
    np.save(files.valid, journal.valid(n_scans, len(atlas)))
    np.save(files.positions, index_of(journal.rows()))
    table_of(journal.rows()).to_parquet(files.scans, index=False)
    write_refused(files.refused, refused)
    rows = [*journal.quality(), *map(dict, quality)]
    if not rows:
        return []
    rows.sort(key=lambda row: str(row["scan"]))
    table_of(rows, first=_QUALITY_COLUMNS).to_parquet(folder / QUALITY, index=False)
    write_coverage(folder / COVERAGE, rows, atlas, preprocessing.min_network_coverage)
    return [folder / QUALITY, folder / COVERAGE]


def describe_store(
    journal: Journal,
    atlas: Atlas,
    preprocessing: Preprocessing,
    *,
    request: Mapping[str, Any],
    n_samples: int,
    n_unnamed_subjects: int,
) -> dict[str, Any]:
    """Say what a store is."""
    content = journal.identities()
    identity = [atlas.fingerprint, preprocessing.to_dict(), content]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "semantoks": metadata.version("semantoks"),
        "fingerprint": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        "counts": {
            "scans": len(content),
            "subjects": len({subject for _, subject, _ in content}),
            "unnamed_subjects": n_unnamed_subjects,
            "samples": n_samples,
            "rois": len(atlas),
        },
        "preprocessing": preprocessing.to_dict(),
        "request": dict(request),
        "atlas": atlas.to_dict(),
    }
