"""Embeddings as files: features of scans, who they are and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.files import replacing

IDENTITY: Final = ("scan", "subject", "session", "site")
"""Columns of an embedding that say who it is; all others are features."""

_METADATA_KEY = b"semantoks"
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "None"]


@dataclass(frozen=True)
class Embeddings:
    """Features of scans, with who they are and where they come from.

    Parameters
    ----------
    frame : DataFrame
        One row a scan: the column scan, possibly subject, session and site, and one numeric column
        a feature.
    provenance : mapping
        What `embedding_provenance` said of their making; empty if unknown.

    Raises
    ------
    InputError
        If there is no column scan, no feature, or a feature that is not numeric.

    Examples
    --------
    >>> frame = pd.DataFrame({"scan": ["a", "b"], "mean_0000": [0.5, 1.5]})
    >>> Embeddings(frame).features
    array([[0.5],
           [1.5]])
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = list(map(str, self.frame.columns))
        if "scan" not in columns:
            raise InputError(
                f"embeddings need a column scan that names the scan of each row; there are "
                f"{len(columns)} columns, the first are {', '.join(columns[:5])}."
            )
        if not self.feature_names:
            raise InputError("embeddings without a single column of features cannot be used.")
        textual = [
            name
            for name in self.feature_names
            if not pd.api.types.is_numeric_dtype(self.frame[name])
        ]
        if textual:
            raise InputError(
                f"column(s) {', '.join(textual[:5])} of the embeddings are not numeric. Every "
                f"column but {', '.join(IDENTITY)} is a feature: drop those that are none."
            )

    @property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        return [str(name) for name in self.frame.columns if name not in IDENTITY]

    @property
    def features(self) -> NDArray[np.float64]:
        """Features, shape (scan, feature)."""
        return self.frame[self.feature_names].to_numpy(dtype=np.float64)


def write_embeddings(embeddings: Embeddings, path: str | Path) -> None:
    """Write embeddings to a Parquet or CSV file, with their provenance beside it.

    Parameters
    ----------
    embeddings : Embeddings
        What `embed` returned.
    path : str or path
        New file, .parquet or .csv; the provenance goes to the same name with .json appended (and
        into the metadata of a Parquet file).

    Raises
    ------
    InputError
        If the suffix is another one, the file exists, or it cannot be written; nothing
        half-written stays behind.
    """
    path = Path(path)
    _suffix(path)
    if path.exists():
        raise InputError(f"{path} exists already. Name another file, or remove it first.")
    frame, text = embeddings.frame, json.dumps(dict(embeddings.provenance), indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, replacing(_sidecar(path)) as beside_sidecar:
            beside_sidecar.write_text(text + "\n", encoding="utf-8")
            if path.suffix == ".csv":
                frame.to_csv(beside, index=False)
            else:
                table = pa.Table.from_pandas(frame, preserve_index=False)
                metadata = {**(table.schema.metadata or {}), _METADATA_KEY: text.encode()}
                pq.write_table(table.replace_schema_metadata(metadata), beside)
    except OSError as error:
        raise InputError(f"embeddings could not be written to {path}: {error}.") from error


def read_embeddings(path: str | Path) -> Embeddings:
    """Read embeddings from a Parquet or CSV file.

    Parameters
    ----------
    path : str or path
        A file that `write_embeddings` wrote, or any table with a column scan and one numeric
        column a feature (its provenance is then unknown).

    Returns
    -------
    Embeddings
        Features, identities and provenance.

    Raises
    ------
    InputError
        If the file is missing or cannot be read as embeddings.
    """
    path = Path(path)
    _suffix(path)
    if not path.is_file():
        raise InputError(f"there is no file of embeddings {path}.")
    try:
        frame, text = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
        provenance = json.loads(text) if text else {}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path} (or its provenance) cannot be read as embeddings: {error}. Make it again "
            "with `semantoks embed`."
        ) from error
    return Embeddings(frame, provenance)


def _read_parquet(path: Path) -> tuple[pd.DataFrame, str]:
    """Read a table and the provenance in its metadata."""
    table = pq.read_table(path)
    text = (table.schema.metadata or {}).get(_METADATA_KEY, b"").decode()
    return table.to_pandas(), text


def _read_csv(path: Path) -> tuple[pd.DataFrame, str]:
    """Read a table whose identities stay text, and the provenance beside it."""
    header = pd.read_csv(path, nrows=0).columns
    identity = {name: str for name in IDENTITY if name in header}
    # A subject may be called "NA" or "null": in these columns nothing but empty text is missing.
    missing = {name: [] if name in identity else _MISSING for name in header}
    frame = pd.read_csv(path, dtype=identity, keep_default_na=False, na_values=missing)
    sidecar = _sidecar(path)
    return frame, sidecar.read_text(encoding="utf-8") if sidecar.is_file() else ""


def _sidecar(path: Path) -> Path:
    """Where the provenance of a file of embeddings is."""
    return path.with_name(path.name + ".json")


def _suffix(path: Path) -> None:
    """Refuse other files than Parquet and CSV."""
    if path.suffix not in {".parquet", ".csv"}:
        raise InputError(f"embeddings are .parquet or .csv files; {path.name} is neither.")
