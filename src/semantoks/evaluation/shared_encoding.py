"""Encodes the scans of a store by several processes or a cluster, a few scans at a time.

Every process loads the model from its folder and maps the store, so that only the places of scans
and the rows of features travel. What is done is kept on disk until all is, if a place is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.data.workers import Lost, WorkInterruptedError, check_workers, work
from semantoks.errors import InputError
from semantoks.evaluation.readout import (
    FeatureKind,
    SmallerAtlas,
    check_lengths,
    check_whole,
    encode_scans,
    samples_needed,
    scans_of,
)
from semantoks.files import replacing
from semantoks.model.checkpoint import load_model
from semantoks.model.encoder import SemantoksEncoder, fresh_weights
from semantoks.training.plan import choose_device
from semantoks.training.precision import Precision


class ModelPlace(NamedTuple):
    """Where processes find a model."""

    folder: str
    fresh_weights_seed: int | None = None

    def load(self) -> SemantoksEncoder:
        """Load the model."""
        saved = load_model(self.folder)
        if self.fresh_weights_seed is None:
            return saved.encoder
        return fresh_weights(saved.encoder, self.fresh_weights_seed)


@dataclass(frozen=True)
class Sharing:
    """Who encodes, and where what is done is kept meanwhile."""

    model: ModelPlace
    workers: int | None = 1
    scheduler: str | None = None
    device: str = "auto"
    keep: Path | None = None

    def __post_init__(self) -> None:
        check_workers(self.workers, self.scheduler)


class Reading(NamedTuple):
    """How scans are encoded."""

    features: FeatureKind
    windows: int
    window: int | None
    smaller_atlas: SmallerAtlas
    batch_size: int
    precision: Precision


class _Chunk(NamedTuple):
    """Neighbouring scans of a store."""

    first: int
    stop: int


def encode_together(
    store: Store,
    encoder: SemantoksEncoder,
    sharing: Sharing,
    reading: Reading,
    *,
    identity: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Average the read-out over the windows of every scan, by those who share the work."""
    needed = samples_needed(encoder, reading.features, reading.window)
    check_lengths(scans_of(store, encoder, reading.smaller_atlas), needed)
    check_whole("windows", reading.windows)
    size = max(1, reading.batch_size // reading.windows)
    chunks = [_Chunk(i, min(i + size, len(store))) for i in range(0, len(store), size)]
    digest = hashlib.sha256(json.dumps([identity, size], default=str).encode()).hexdigest()
    function = partial(
        _encode,
        store=str(store.path.absolute()),
        fingerprint=store.fingerprint,
        model=_absolute(sharing.model),
        reading=reading,
        device=sharing.device,
        weights=weights_digest(encoder),
    )
    with _kept(sharing.keep, digest) as place:
        rows = {chunk: kept for chunk in chunks if (kept := _read(place, chunk)) is not None}
        waiting = [chunk for chunk in chunks if chunk not in rows]
        outcomes = work(
            function, waiting, workers=sharing.workers, scheduler=sharing.scheduler, patience=0
        )
        with contextlib.closing(outcomes):
            for chunk in waiting:
                if progress is not None:
                    progress(chunk.first, len(store))
                rows[chunk] = _take(next(outcomes), store, chunk)
                _write(place, chunk, rows[chunk])
        if progress is not None:
            progress(len(store), len(store))
        return np.concatenate([rows[chunk] for chunk in chunks])


def _read(place: Path | None, chunk: _Chunk) -> NDArray[np.float32] | None:
    """Read the rows of scans that were encoded before."""
    file = None if place is None else place / f"{chunk.first}.npy"
    if file is None or not file.is_file():
        return None
    rows: NDArray[np.float32] = np.load(file)
    return rows


def _write(place: Path | None, chunk: _Chunk, rows: NDArray[np.float32]) -> None:
    """Keep the rows of scans until all are encoded."""
    if place is not None:
        with replacing(place / f"{chunk.first}.npy") as beside, beside.open("wb") as stream:
            np.save(stream, rows)


def _absolute(model: ModelPlace) -> ModelPlace:
    """Name a folder so that processes in other working directories find it."""
    folder = Path(model.folder)
    return model._replace(folder=str(folder.absolute())) if folder.exists() else model


def _take(outcome: NDArray[np.float32] | Lost, store: Store, chunk: _Chunk) -> NDArray[np.float32]:
    """Return rows, or say which scans could not be encoded."""
    if isinstance(outcome, Lost):
        first, last = (store.scans["scan"].iloc[i] for i in (chunk.first, chunk.stop - 1))
        raise WorkInterruptedError(
            f"scans {first!r} to {last!r} of {store.path} could not be encoded: {outcome.reason} "
            "Use fewer processes, or another device."
        )
    return outcome


@contextlib.contextmanager
def _kept(folder: Path | None, digest: str) -> Iterator[Path | None]:
    """Open the folder of what is done; remove it when all is."""
    if folder is None:
        yield None
        return
    note = folder / "of"
    if not note.is_file() or note.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(digest)
    try:
        yield folder
    except Exception as error:
        # What was broken off from outside can go on; whatever else is wrong will be again.
        if not isinstance(error, WorkInterruptedError):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def weights_digest(encoder: SemantoksEncoder) -> str:
    """Condense the weights of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _encode(
    chunk: _Chunk,
    *,
    store: str,
    fingerprint: str,
    model: ModelPlace,
    reading: Reading,
    device: str,
    weights: str,
) -> NDArray[np.float32]:
    """Encode a few scans."""
    opened = _open(store, fingerprint)
    if opened.fingerprint != fingerprint:
        raise InputError(
            f"a process that encodes sees another store at {store}: fingerprint "
            f"{opened.fingerprint}, not {fingerprint}. All must see the same files."
        )
    encoder = _load(model, device, weights)
    scans = scans_of(opened, encoder, reading.smaller_atlas).part(chunk.first, chunk.stop)
    return encode_scans(
        encoder,
        scans,
        features=reading.features,
        windows=reading.windows,
        window=reading.window,
        batch_size=reading.batch_size,
        precision=reading.precision,
    )


@lru_cache(maxsize=1)
def _open(store: str, fingerprint: str) -> Store:
    """Map a store, once a process; workers of a cluster outlive it, and another may follow."""
    return Store.open(store)


@lru_cache(maxsize=1)
def _load(model: ModelPlace, device: str, weights: str) -> SemantoksEncoder:
    """Load a model, once a process, and again if its folder holds another one by now."""
    encoder = model.load()
    if weights_digest(encoder) != weights:
        raise InputError(
            f"a process that encodes finds other weights in {model.folder} than were to be used. "
            "All must see the same files, and none may change meanwhile."
        )
    return encoder.to(choose_device(device))
