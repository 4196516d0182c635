"""A small store with scans of different lengths and a network that one scan lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.recording import Recording
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter

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
