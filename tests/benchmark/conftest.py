"""A small cohort whose connectivity tells the diagnosis, in two sessions and three sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.evaluation.embedding import Embeddings

N_SUBJECTS = 60
SITES = ("Bonn", "Oslo", "Rome")


def make_store(path: Path, n_subjects: int = N_SUBJECTS, seed: int = 0) -> Store:
    """Couple two networks in patients only; every third subject has a second session."""
    atlas = Atlas.from_networks({"Vis": 4, "Cont": 4}, name="tiny")
    random = np.random.default_rng(seed)
    with StoreWriter(path, atlas, Preprocessing(min_samples=50), {}) as writer:
        for person in range(n_subjects):
            patient = person % 2
            phenotypes = {
                "diagnosis": "patient" if patient else "control",
                "age": float(random.uniform(20, 80)) if person % 10 else float("nan"),
                "coin": float(random.integers(0, 2)),
                "same": "x",
                "empty": None,
                "rare": "yes" if person < 3 else "no",
            }
            for session in range(1 + (person % 3 == 0)):
                series = random.standard_normal((8, 80)) + random.standard_normal(80) * 0.7
                if patient:
                    series[4:] += random.standard_normal(80)
                recording = Recording(
                    series.astype(np.float32),
                    t_r=2.0,
                    atlas=atlas,
                    scan=f"{person:03d}_{session}",
                    subject=f"{person:03d}",
                    session=str(session),
                    site=SITES[person // 2 % 3],
                    phenotypes=phenotypes,
                )
                valid = np.ones(8, dtype=bool)
                valid[7] = person != 0
                writer.add(recording, valid)
        return writer.finish(())


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("benchmark") / "store")


@pytest.fixture
def other_store(tmp_path: Path) -> Store:
    """Return the same scans and subjects with other series."""
    return make_store(tmp_path / "store", seed=9)


@pytest.fixture
def noise(store: Store) -> Embeddings:
    """Return features that know nothing, in another order than the store."""
    features = np.random.default_rng(5).standard_normal((len(store), 6))
    frame = pd.DataFrame(features, columns=[f"mean_{i:04d}" for i in range(6)])
    frame.insert(0, "scan", store.scans["scan"].to_numpy())
    frame = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    return Embeddings(frame, {"store": {"fingerprint": store.fingerprint}})
