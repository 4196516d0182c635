"""One row of features a scan, with who it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import semantoks
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding_file import (
    IDENTITY,
    Embeddings,
    read_embeddings,
    write_embeddings,
)
from semantoks.evaluation.readout import (
    FeatureKind,
    SmallerAtlas,
    encode_scans,
    feature_names,
    scans_of,
    window_length,
    window_starts,
)
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.precision import Precision, choose_precision

__all__ = [
    "Embeddings",
    "check_preprocessing",
    "embed",
    "embedding_provenance",
    "read_embeddings",
    "window_starts",
    "write_embeddings",
]


def embed(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    windows: int = 8,
    features: FeatureKind = "mean+cls",
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
    batch_size: int = 64,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Embeddings:
    """Describe every scan by what is read out of the encoder, averaged over its windows.

    A network of which a scan has no valid ROI is masked: its tokens are what the encoder expects
    there. ROIs that are missing within a network are 0.

    Parameters
    ----------
    store : Store
        The scans.
    encoder : SemantoksEncoder
        The model; used where its weights are, and left in the mode that it came in.
    windows : int
        Windows a scan, evenly spaced.
    features : {"mean+cls", "mean", "cls", "networks"}
        What is read out: mean token and CLS (the reference), either alone, or the mean token of
        every network.
    window : int, optional
        Samples in a window, a multiple of the model's patch; the model's window by default.
    smaller_atlas : {"refuse", "mask"}
        Whether a store whose ROIs are only a part of the model's is refused, or its ROIs are
        placed by label and networks that it lacks are masked.
    batch_size : int
        Windows that are encoded at once.
    precision : {"auto", "float32", "bf16", "fp16"}
        Of matrix products; "auto" takes bf16 where it is faster. Features in half precision have a
        cosine of at least .999 with those in float32.
    progress : callable, optional
        Called with the number of windows that are done and the number of all.
    origin : mapping, optional
        What is to be said of the model's origin, beside its arguments and the hash of its weights.

    Returns
    -------
    Embeddings
        Its frame has one row a scan, in the order of the store: scan, subject, session, site, then
        mean_0000, mean_0001, ... and cls_0000, cls_0001, ..., or <network>_0000, ... (float32).
        Its provenance names store, atlas and model.

    Raises
    ------
    InputError
        If the store has another atlas than the model or was prepared otherwise, a scan is shorter
        than a window, or features come out that are not finite.
    ConfigurationError
        If there are no such features.

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
    check_preprocessing(store, encoder.preprocessing)
    chosen = choose_precision(precision, encoder.cls_token.device, dim=encoder.dim)
    names = feature_names(encoder, features)
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
    provenance = embedding_provenance(
        store, encoder, windows=windows, features=features, window=window, precision=chosen
    )
    return Embeddings(_frame(store, rows, names), provenance | dict(origin or {}))


def embedding_provenance(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    windows: int,
    features: FeatureKind = "mean+cls",
    window: int | None = None,
    precision: Precision = "float32",
) -> dict[str, Any]:
    """Say what embeddings were made of.

    Parameters
    ----------
    store : Store
        The scans.
    encoder : SemantoksEncoder
        The model.
    windows : int
        Windows a scan.
    features : {"mean+cls", "mean", "cls", "networks"}
        What is read out.
    window : int, optional
        Samples in a window; the model's window by default.
    precision : {"float32", "bf16", "fp16"}
        Of matrix products.

    Returns
    -------
    dict
        Plain values, for JSON: store (path, fingerprint, n_scans), atlas of the store (name,
        fingerprint), model (its arguments and a hash of its weights), trained_on (fingerprint of
        the store that the model was trained on, None if untrained or unknown), windows, features,
        window, precision and the version of semantoks.
    """
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return {
        "store": {
            "path": str(store.path),
            "fingerprint": store.fingerprint,
            "n_scans": len(store),
        },
        "atlas": {"name": store.atlas.name, "fingerprint": store.atlas.fingerprint},
        "model": {**encoder.arguments, "weights_sha256": digest.hexdigest()},
        "trained_on": encoder.provenance.get("store", {}).get("fingerprint"),
        "windows": windows,
        "features": features,
        "window": window_length(encoder, window),
        "precision": precision,
        "semantoks": semantoks.__version__,
    }


def _frame(store: Store, rows: NDArray[np.float32], names: list[str]) -> pd.DataFrame:
    """Join features with who they are."""
    identity = store.scans[list(IDENTITY)].reset_index(drop=True)
    return pd.concat([identity, pd.DataFrame(rows, columns=names)], axis=1)


def check_preprocessing(store: Store, expected: Mapping[str, Any]) -> None:
    """Refuse a store whose series are not what a model was trained on.

    Parameters
    ----------
    store : Store
        The scans.
    expected : mapping
        The preprocessing that the model was trained with; what it does not name may be anything.

    Raises
    ------
    InputError
        If repetition time or band differ; lengths and thresholds may.
    """
    found = store.preprocessing.to_dict()
    differing = [
        f"{key} is {found[key]}, expected {expected[key]}"
        for key in ("target_t_r", "high_pass", "low_pass", "detrend")
        if key in expected and expected[key] != found.get(key)
    ]
    if differing:
        raise InputError(
            f"store {store.path} was prepared otherwise than the model expects: "
            f"{'; '.join(differing)}. Prepare the recordings again with the model's settings."
        )
