"""One row of features a scan, with who it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

import semantoks
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding_file import (
    IDENTITY,
    Embeddings,
    read_embeddings,
    write_embeddings,
)
from semantoks.model.checkpoint import SavedModel
from semantoks.model.encoder import SemantoksEncoder

__all__ = [
    "Embeddings",
    "embed",
    "embedding_provenance",
    "read_embeddings",
    "window_starts",
    "write_embeddings",
]


def window_starts(length: int, window: int, n_windows: int) -> NDArray[np.int64]:
    """Place windows evenly over a scan, the first at its beginning, the last at its end.

    Parameters
    ----------
    length : int
        Samples in the scan.
    window : int
        Samples in a window.
    n_windows : int
        How many windows are wanted.

    Returns
    -------
    ndarray of int
        First samples of the windows, rising; fewer than wanted if the scan has fewer places. One
        window alone stands at the beginning.

    Raises
    ------
    InputError
        If the scan is shorter than a window, or no window is wanted.

    Examples
    --------
    >>> window_starts(200, 100, 5)
    array([  0,  25,  50,  75, 100])
    >>> window_starts(101, 100, 8)
    array([0, 1])
    """
    if n_windows < 1:
        raise InputError(f"at least one window a scan is needed; {n_windows} were asked for.")
    if length < window:
        raise InputError(
            f"a scan of {length} samples is shorter than the model's window of {window}. Leave it "
            f"out: prepare the store with at least {window} samples a scan."
        )
    return np.unique(np.rint(np.linspace(0, length - window, n_windows)).astype(np.int64))


def embed(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    windows: int = 8,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Embeddings:
    """Describe every scan by the mean over its windows of [mean token, CLS].

    A network of which a scan has no valid ROI is masked: its tokens are what the encoder expects
    there.

    Parameters
    ----------
    store : Store
        The scans.
    encoder : SemantoksEncoder
        The model; used where its weights are, and left in the mode that it came in.
    windows : int
        Windows a scan, evenly spaced.
    batch_size : int
        Windows that are encoded at once.
    progress : callable, optional
        Called with the number of windows that are done and the number of all.
    origin : mapping, optional
        What is to be said of the model's origin, beside its arguments and the hash of its weights.

    Returns
    -------
    Embeddings
        Its frame has one row a scan, in the order of the store: scan, subject, session, site, then
        mean_0000, mean_0001, ... and cls_0000, cls_0001, ... (float32). Its provenance names store,
        atlas and model.

    Raises
    ------
    InputError
        If the store has another atlas than the model, a scan is shorter than a window, or features
        come out that are not finite.
    """
    if store.atlas != encoder.atlas:
        raise InputError(
            f"the store has atlas {store.atlas.name!r} (fingerprint {store.atlas.fingerprint}, "
            f"{len(store.atlas)} ROIs), but the model was made for {encoder.atlas.name!r} "
            f"(fingerprint {encoder.atlas.fingerprint}, {len(encoder.atlas)} ROIs). Prepare the "
            "recordings with the model's atlas, or pretrain a model on this store."
        )
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1; {batch_size} was asked for.")
    scan, start = _place_windows(store, encoder.window, windows)
    totals = np.zeros((len(store), 2 * encoder.dim))
    with _evaluating(encoder):
        for first in range(0, len(scan), batch_size):
            batch = slice(first, first + batch_size)
            np.add.at(totals, scan[batch], _features(store, encoder, scan[batch], start[batch]))
            if progress is not None:
                progress(min(first + batch_size, len(scan)), len(scan))
    features = totals / np.bincount(scan, minlength=len(store))[:, None]
    provenance = embedding_provenance(store, encoder, windows=windows)
    return Embeddings(_frame(store, features.astype(np.float32)), provenance | dict(origin or {}))


def embedding_provenance(
    store: Store, encoder: SemantoksEncoder, *, windows: int
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

    Returns
    -------
    dict
        Plain values, for JSON: store (path, fingerprint, n_scans), atlas (name, fingerprint),
        model (its arguments and a hash of its weights), windows and the version of semantoks.
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
        "windows": windows,
        "semantoks": semantoks.__version__,
    }


def _place_windows(
    store: Store, window: int, windows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the scan and the first sample of every window of a store."""
    short = np.flatnonzero(store.lengths < window)
    if len(short):
        name, length = store.scans["scan"].iloc[short[0]], store.lengths[short[0]]
        raise InputError(
            f"{len(short)} scan(s) are shorter than the model's window of {window} samples, the "
            f"first is {name!r} with {length}. Prepare the store with min_samples={window}."
        )
    starts = [window_starts(int(length), window, windows) for length in store.lengths]
    scan = np.repeat(np.arange(len(starts), dtype=np.int64), [len(s) for s in starts])
    return scan, np.concatenate(starts)


def _features(
    store: Store, encoder: SemantoksEncoder, scan: NDArray[np.int64], start: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return [mean token, CLS] of some windows, shape (window, 2 dim)."""
    device = next(encoder.parameters()).device
    series = torch.from_numpy(store.windows(scan, start, encoder.window)).to(device)
    valid = store.network_valid[scan]
    mask: Tensor | None = None
    if not valid.all():
        patches = encoder.window // encoder.patch
        absent = torch.from_numpy(~valid).to(device)
        mask = absent[:, :, None].expand(-1, -1, patches).contiguous()
    summary, tokens = encoder(series, mask)
    features: NDArray[np.float32] = torch.cat([tokens.mean((1, 2)), summary], 1).cpu().numpy()
    return features


@contextmanager
def _evaluating(encoder: SemantoksEncoder) -> Iterator[None]:
    """Switch to evaluation without gradients, and back."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        encoder.train(training)


def _frame(store: Store, features: NDArray[np.float32]) -> pd.DataFrame:
    """Join features with who they are."""
    scans = store.scans
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} scan(s) are not finite, the first is "
            f"{scans['scan'].iloc[broken[0]]!r}: the model's weights or this scan are broken."
        )
    half = features.shape[1] // 2
    names = [f"{part}_{i:04d}" for part in ("mean", "cls") for i in range(half)]
    identity = scans[list(IDENTITY)].reset_index(drop=True)
    return pd.concat([identity, pd.DataFrame(features, columns=names)], axis=1)


def check_preprocessing(store: Store, model: SavedModel) -> None:
    """Refuse a store whose series are not what a model was trained on.

    Parameters
    ----------
    store : Store
        The scans.
    model : SavedModel
        The model, with the preprocessing that it expects.

    Raises
    ------
    InputError
        If repetition time or band differ; lengths and thresholds may.
    """
    expected, found = model.preprocessing, store.preprocessing.to_dict()
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
