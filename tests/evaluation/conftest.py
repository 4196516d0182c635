"""A small store with scans of different lengths and a network that one scan lacks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.evaluation.splits import Split

LENGTHS = (20, 20, 23, 31, 44)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    atlas = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4}, name="tiny")
    random = np.random.default_rng(0)
    path: Path = tmp_path_factory.mktemp("evaluation") / "store"
    with StoreWriter(path, atlas, Preprocessing(min_samples=20), {}) as writer:
        for i, length in enumerate(LENGTHS):
            recording = Recording(
                random.standard_normal((9, length)).astype(np.float32),
                t_r=2.0,
                atlas=atlas,
                scan=f"00{i}",
                subject=f"0{i // 2}",
                session=str(i % 2 + 1),
                site="Oslo",
            )
            valid = np.ones(9, dtype=bool)
            valid[3:5] = i != 1  # scan 1 has no network Cont
            writer.add(recording, valid)
        return writer.finish(())


class Cohort(NamedTuple):
    """Scans with a class and a value, and a split of them."""

    store: Store
    classes: np.ndarray
    values: np.ndarray
    subjects: np.ndarray
    split: Split


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Sixty people; the strength of a slow wave in the network Default tells class and value."""
    atlas = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4}, name="tiny")
    random = np.random.default_rng(0)
    classes = np.arange(60) % 2
    values = 50 + 10 * (2.0 * classes - 1 + 0.3 * random.standard_normal(60))
    path: Path = tmp_path_factory.mktemp("planted") / "store"
    with StoreWriter(path, atlas, Preprocessing(min_samples=20), {}) as writer:
        for i, value in enumerate(values):
            series = random.standard_normal((9, 60))
            wave = np.sin(2 * np.pi * (np.arange(60) / 10 + random.random()))
            series[5:] += 3 * max(value - 40, 0) / 20 * wave
            series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
            name = f"{i:03d}"
            who = Recording(series.astype(np.float32), 2.0, atlas, name, name)
            valid = np.ones(9, dtype=bool)
            valid[3:5] = i % 7 != 3  # some scans have no network Cont
            writer.add(who, valid)
        store = writer.finish(())
    order = random.permutation(30)  # pairs of a scan of each class
    parts = [np.sort(np.r_[2 * p, 2 * p + 1]) for p in np.split(order, [18, 23])]
    split = Split("mine", 0, "0", parts[0], parts[2], validation=parts[1])
    return Cohort(store, classes, values, np.arange(60).astype(str), split)
