"""One row of features a scan, with who it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import semantoks
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.readout import (
    FeatureKind,
    SmallerAtlas,
    default_features,
    encode_scans,
    feature_names,
    scans_of,
    window_length,
)
from semantoks.evaluation.shared_encoding import Reading, Sharing, encode_together, weights_digest
from semantoks.files import replacing
from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.precision import Precision, choose_precision

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

    def __repr__(self) -> str:
        read = self.provenance.get("features", "unknown")
        return f"Embeddings({len(self.frame)} scans, {len(self.feature_names)} features: {read})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.frame.to_html(max_rows=6, max_cols=10)}"

    @property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        return [str(name) for name in self.frame.columns if name not in IDENTITY]

    @property
    def features(self) -> NDArray[np.float64]:
        """Features, shape (scan, feature)."""
        return self.frame[self.feature_names].to_numpy(dtype=np.float64)


_SEAL: Final = "sha256"
"""Key of the sidecar that holds the checksum of both files."""


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
            if path.suffix == ".csv":
                frame.to_csv(beside, index=False)
            else:
                table = pa.Table.from_pandas(frame, preserve_index=False)
                metadata = {**(table.schema.metadata or {}), _METADATA_KEY: text.encode()}
                pq.write_table(table.replace_schema_metadata(metadata), beside)
            content = json.loads(text)
            sealed = content | {_SEAL: _seal_of(beside, content)}
            beside_sidecar.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")
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
        beside = _read_sidecar(path)
        frame, text = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
        provenance = json.loads(text) if text else beside
    except InputError:
        raise
    except Exception as error:  # pyarrow raises whatever a damaged file makes it
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
    return frame, ""


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Read the provenance beside a file, and compare both with their SHA-256."""
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        return {}
    content: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
    # Files of older versions have no seal; a damaged name of its key must not switch it off.
    sealed = any(isinstance(value, str) and len(value) == 64 for value in content.values())
    if sealed and content.pop(_SEAL, None) != _seal_of(path, content):
        raise InputError(
            f"{path} or {sidecar.name} beside it is damaged or was changed: they are not what was "
            "written. Make it again with `semantoks embed`; if you changed the table on purpose, "
            f"remove {sidecar.name}."
        )
    return content


def _seal_of(path: Path, provenance: Mapping[str, Any]) -> str:
    """Compute one SHA-256 of a file of embeddings and its provenance."""
    state = hashlib.sha256(path.read_bytes())
    state.update(json.dumps(provenance, sort_keys=True).encode())
    return state.hexdigest()


def _sidecar(path: Path) -> Path:
    """Where the provenance of a file of embeddings is."""
    return path.with_name(path.name + ".json")


def _suffix(path: Path) -> None:
    """Refuse other files than Parquet and CSV."""
    if path.suffix not in {".parquet", ".csv"}:
        raise InputError(f"embeddings are .parquet or .csv files; {path.name} is neither.")


PreprocessingCheck = Literal["check", "ignore"]
"""Whether series that were prepared otherwise than the model expects are refused."""

BAND_TOLERANCE: Final = 1.5
"""By what factor an edge may differ if the band of either side was not made by this package.

Programs filter to 0.008 or 0.009 Hz where we say 0.01, and to 0.08 Hz where we say 0.1; their
filters have other slopes besides, so that a nearer match would promise too much."""

PREPARE_AGAIN: Final = (
    "Prepare the recordings again: raw ones with the model's settings, and series that were "
    "filtered before with what is known of that (--filtered-before LOW HIGH)."
)


def embed(
    store: Store | str | Path,
    encoder: SemantoksEncoder | str | Path,
    *,
    windows: int = 8,
    features: FeatureKind | None = None,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
    preprocessing: PreprocessingCheck = "check",
    batch_size: int = 64,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
    origin: Mapping[str, Any] | None = None,
    sharing: Sharing | None = None,
) -> Embeddings:
    """Describe every scan by what is read out of the encoder in its windows.

    A network of which a scan has no valid ROI is masked: its tokens are what the encoder expects
    there. ROIs that are missing within a network are 0.

    Parameters
    ----------
    store : Store, str or path
        The scans, or the folder of their store.
    encoder : SemantoksEncoder, str or path
        The model, or what `load_encoder` loads it from; used where its weights are, and left in the
        mode that it came in.
    windows : int
        Windows a scan, evenly spaced.
    features : str, optional
        What is read out: "mean+cls", mean token and CLS, is the reference. Any of "mean", "cls",
        "networks" (the mean token of every network), "network-statistics" (mean and deviation of
        every network), "second-order" (correlations between the tokens of networks), "synchrony"
        and "log-synchrony" (correlations between learned time courses), and "components" (of the
        logarithm of connectivity, of the whole scan), joined by "+". By default "components" where
        the model has them, and "mean+cls" otherwise.
    window : int, optional
        Samples in a window, a multiple of the model's patch; the model's window by default.
    smaller_atlas : {"refuse", "mask"}
        Whether a store whose ROIs are only a part of the model's is refused, or its ROIs are
        placed by label and networks that it lacks are masked.
    preprocessing : {"check", "ignore"}
        Whether a store that was prepared otherwise than the model expects is refused, or read as
        it is. Its provenance says so. Series that were filtered before (`filtered_before` of the
        store's preprocessing) are as expected if each edge of the band is within a factor of 1.5.
    batch_size : int
        Windows that are encoded at once.
    precision : {"auto", "float32", "bf16", "fp16"}
        Of matrix products; "auto" takes bf16 where it is faster. Features in half precision have a
        cosine of at least .999 with those in float32.
    progress : callable, optional
        Called with the number of windows that are done and the number of all.
    origin : mapping, optional
        What is to be said of the model's origin, beside its arguments and the hash of its weights.
    sharing : Sharing, optional
        Processes or a cluster that encode instead of this process, each with the model of a folder;
        it must be `encoder`. Then `progress` counts scans.

    Returns
    -------
    Embeddings
        Its frame has one row a scan, in the order of the store: scan, subject, session, site, then
        mean_0000, mean_0001, ... and cls_0000, cls_0001, ..., or other names that
        `feature_names` tells (float32).
        Its provenance names store, atlas and model.

    Raises
    ------
    InputError
        If the store has another atlas than the model or was prepared otherwise, a scan is shorter
        than a window, or features come out that are not finite.
    ConfigurationError
        If there are no such features, or an option is none.

    Examples
    --------
    >>> import semantoks as sk, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> people = sk.simulate_cohort(3)
    >>> sk.write_cohort(people, f"{folder}/recordings")
    >>> report = sk.prepare(f"{folder}/recordings", f"{folder}/store", atlas=people[0].atlas)
    >>> encoder = sk.SemantoksEncoder(people[0].atlas, dim=64, depth=1)
    >>> embed(sk.Store.open(report.path), encoder, features="networks").features.shape
    (3, 320)
    """
    if preprocessing not in get_args(PreprocessingCheck):
        raise ConfigurationError(f"preprocessing is 'check' or 'ignore', not {preprocessing!r}.")
    store = store if isinstance(store, Store) else Store.open(store)
    if not isinstance(encoder, SemantoksEncoder):
        encoder = load_encoder(encoder)
    if preprocessing == "check":
        check_preprocessing(
            f"store {store.path}",
            store.preprocessing,
            encoder.preprocessing,
            f"{PREPARE_AGAIN} To read them as they are: preprocessing='ignore', or "
            "--ignore-preprocessing.",
        )
    chosen = choose_precision(precision, encoder.cls_token.device, dim=encoder.dim)
    features = features or default_features(encoder)
    names = feature_names(encoder, features)
    provenance = embedding_provenance(
        store,
        encoder,
        windows=windows,
        features=features,
        window=window,
        preprocessing=preprocessing,
        precision=chosen,
    )
    if sharing is None:
        rows = encode_scans(
            encoder,
            scans_of(store, encoder, smaller_atlas),
            features=features,
            windows=windows,
            window=window,
            batch_size=batch_size,
            precision=chosen,
            progress=progress,
        )
    else:
        how = Reading(features, windows, window, smaller_atlas, batch_size, chosen)
        rows = encode_together(store, encoder, sharing, how, identity=provenance, progress=progress)
    return Embeddings(_frame(store, rows, names), provenance | dict(origin or {}))


def embedding_provenance(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    windows: int,
    features: FeatureKind = "mean+cls",
    window: int | None = None,
    preprocessing: PreprocessingCheck = "check",
    precision: Precision = "float32",
) -> dict[str, Any]:
    """Say what embeddings were made of."""
    return {
        "store": {
            "path": str(store.path),
            "fingerprint": store.fingerprint,
            "n_scans": len(store),
        },
        "atlas": {"name": store.atlas.name, "fingerprint": store.atlas.fingerprint},
        "model": {**encoder.arguments, "weights_sha256": weights_digest(encoder)},
        "trained_on": _trained_on(encoder),
        "windows": windows,
        "features": features,
        "window": window_length(encoder, window),
        "preprocessing": {
            "check": preprocessing,
            "of_store": store.preprocessing.to_dict(),
            "expected": dict(encoder.preprocessing),
            "differences": preprocessing_differences(store.preprocessing, encoder.preprocessing),
        },
        "precision": precision,
        "semantoks": semantoks.__version__,
    }


def _frame(store: Store, rows: NDArray[np.float32], names: list[str]) -> pd.DataFrame:
    """Join features with who they are."""
    identity = store.scans[list(IDENTITY)].reset_index(drop=True)
    return pd.concat([identity, pd.DataFrame(rows, columns=names)], axis=1)


def check_preprocessing(
    what: str, found: Preprocessing, expected: Mapping[str, Any], advice: str
) -> None:
    """Refuse series that are not what a model was trained on.

    See Also
    --------
    preprocessing_differences : What counts as different.
    """
    differing = preprocessing_differences(found, expected)
    if differing:
        raise InputError(
            f"{what} was prepared otherwise than the model expects: {'; '.join(differing)}. "
            f"{advice}"
        )


def preprocessing_differences(found: Preprocessing, expected: Mapping[str, Any]) -> list[str]:
    """Compare what was done to series with what a model was trained on.

    Repetition time, band and detrending must be the same. If the series, or those of the model,
    were filtered before they came to this package, every edge of the band may differ by a factor of
    1.5, and detrending says nothing if both bands have a lower edge, which takes the trend, too.

    Examples
    --------
    >>> before = Preprocessing(high_pass=None, low_pass=None, filtered_before=(0.008, 0.05))
    >>> preprocessing_differences(before, Preprocessing().to_dict())
    ['low_pass is 0.05 (filtered before), expected 0.1']
    """
    before = expected.get("filtered_before")
    elsewhere = found.filtered_before is not None or before is not None
    differing = []
    if expected.get("target_t_r", found.target_t_r) != found.target_t_r:
        differing.append(f"target_t_r is {found.target_t_r}, expected {expected['target_t_r']}")
    edges = dict(zip(("high_pass", "low_pass"), before, strict=True)) if before else expected
    for key, ours in zip(("high_pass", "low_pass"), found.band, strict=True):
        if key in edges and not _near(ours, edges[key], BAND_TOLERANCE if elsewhere else 1.0):
            how = " (filtered before)" if found.filtered_before else ""
            differing.append(f"{key} is {ours}{how}, expected {edges[key]}")
    no_trend = elsewhere and None not in (found.band[0], edges.get("high_pass"))
    if expected.get("detrend", found.detrend) != found.detrend and not no_trend:
        differing.append(f"detrend is {found.detrend}, expected {expected['detrend']}")
    return differing


def _near(a: float | None, b: float | None, factor: float) -> bool:
    """Compare two edges of a band; open sides are only like open ones."""
    if a is None or b is None:
        return a is b
    return max(a, b) <= min(a, b) * factor * (1 + 1e-9)


def _trained_on(encoder: SemantoksEncoder) -> str | None:
    """Return the fingerprint of the store that the encoder learned from, if it did."""
    if encoder.provenance.get("steps") == 0:
        return None
    fingerprint = encoder.provenance.get("store", {}).get("fingerprint")
    return None if fingerprint is None else str(fingerprint)
