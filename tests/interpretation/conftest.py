"""A small run folder of every kind, as `prepare`, `pretrain`, `embed` and `probe` leave it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.evaluation.embedding import Embeddings, embedding_provenance, write_embeddings
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder

ATLAS = Atlas.from_networks({"Vis": 4, "SomMot": 3, "Default": 5}, name="small")


class Refusal(NamedTuple):
    """What the store says of a scan that it left out."""

    scan: str
    source: str
    category: str
    reason: str


def write_store(
    path: Path,
    n_scans: int = 24,
    sites: Sequence[str] = ("Site <A>", "B & Sons", "C$d$"),
    atlas: Atlas = ATLAS,
    refused: Sequence[Refusal] = (),
) -> Store:
    """Write scans of noise with shared signals, two sessions for some subjects."""
    random = np.random.default_rng(0)
    with StoreWriter(path, atlas, Preprocessing(), {}) as writer:
        for i in range(n_scans):
            length = int(random.integers(110, 180))
            series = random.standard_normal((len(atlas), length)).astype(np.float32)
            recording = Recording(
                series + random.standard_normal(length).astype(np.float32),
                t_r=float(random.choice([1.5, 2.0, 3.0])),
                atlas=atlas,
                scan=f"scan{i:04d}",
                subject=f"sub{i * 3 // 4:04d}",
                site=sites[i % len(sites)] if sites else "",
                motion=float(random.gamma(2, 0.1)) if i % 5 else float("nan"),
                phenotypes={
                    "diagnosis": "patient" if i % 2 else "control",
                    "age": float(random.uniform(8, 60)) if i % 7 else None,
                    "iq": None,
                    "sex": float(1 + i % 2),
                },
                source="made up",
            )
            valid = np.ones(len(atlas), dtype=bool)
            valid[: i % 2] = False
            writer.add(recording, valid)
        return writer.finish(refused)


def write_logs(run: Path, n_steps: int) -> None:
    """Write metrics.csv and health.csv of so many steps."""
    random = np.random.default_rng(1)
    steps = np.arange(n_steps)
    masked = random.random(n_steps) < 0.5
    noise = random.standard_normal((4, n_steps))
    progress = steps / max(n_steps, 1)
    metrics = pd.DataFrame(
        {
            "step": steps,
            "epoch": steps // 10,
            "learning_rate": 7e-4 * np.minimum(progress * 20, np.cos(progress * 1.5)),
            "weight_decay": 0.05 + 0.25 * progress,
            "momentum": 0.99 + 0.01 * progress,
            "masked": masked,
            "total": -3 - progress + 0.1 * noise[0] - 0.4 * masked,
            "compression": 0.2 + 0.6 * progress + 0.02 * noise[1],
            "expansion": 3 + progress + 0.05 * noise[2],
            "token": np.where(masked, -0.3 - 0.4 * progress, np.nan),
            "summary": np.where(progress < 0.05, -2.0, np.nan),
            "summary_weight": np.where(progress < 0.05, 1 - progress * 20, 0.0),
            "gradient_norm": np.exp(0.3 * noise[3]),
            "seconds": steps * 0.5,
        }
    )
    metrics.to_csv(run / "metrics.csv", index=False)
    looks = np.unique(np.linspace(0, n_steps, min(n_steps, 20)).astype(int))
    grown = 1 - np.exp(-3 * looks / max(n_steps, 1))
    pd.DataFrame(
        {
            "step": looks,
            "epoch": looks // 10,
            "effective_rank": 4 + 30 * grown,
            "effective_rank_max": np.full(len(looks), 63),
            "teacher_student_cosine": 0.6 + 0.3 * grown,
            "token_cosine": 0.8 - 0.3 * grown,
            "feature_deviation": 0.3 + 0.2 * grown,
            "identification": 0.1 + 0.8 * grown,
            "identification_chance": np.full(len(looks), 1 / 64),
        }
    ).to_csv(run / "health.csv", index=False)


def write_run(
    run: Path,
    store: Store,
    *,
    n_steps: int = 200,
    with_embeddings: bool = True,
    scores: pd.DataFrame | None = None,
    status: str = "finished",
) -> Path:
    """Write a run on a store, with logs, model, embeddings and scores."""
    run.mkdir()
    (run / "config.yaml").write_text("model:\n  dim: 16\n  note: <b>bold</b>\n", encoding="utf-8")
    record = {
        "status": status,
        "store": {
            "path": str(store.path), "fingerprint": store.fingerprint, "n_scans": len(store),
            "n_subjects": store.n_subjects,
        },
        "seed": 0, "step": n_steps, "steps": n_steps, "epochs": 3, "seconds": 754.2,
        "device": "cpu",
        "versions": {"semantoks": "0.1.0", "torch": "2.9"}, "parameters": 123456,
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    write_logs(run, n_steps)
    torch.manual_seed(0)
    encoder = SemantoksEncoder(store.atlas, dim=16, depth=1, head_dim=8)
    save_encoder(encoder, run / "model")
    if with_embeddings:
        scans = store.scans
        features = np.random.default_rng(2).standard_normal((len(scans), 12))
        features[:, :6] += (
            3
            * np.random.default_rng(3).standard_normal((40, 6))[pd.factorize(scans["site"])[0] % 40]
        )
        frame = scans[["scan", "subject", "session", "site"]].copy()
        frame[[f"mean_{i:04d}" for i in range(12)]] = features
        provenance = embedding_provenance(store, encoder, windows=8)
        write_embeddings(Embeddings(frame, provenance), run / "embeddings.parquet")
    if scores is not None:
        (run / "probe").mkdir()
        scores.to_csv(run / "probe" / "scores.csv", index=False)
    return run


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of 24 scans with one refused scan; not to be changed."""
    refused = [Refusal("bad<1>", "bad.1D", "too short", "80 samples, 100 are needed")]
    return write_store(tmp_path_factory.mktemp("cohort") / "store", refused=refused)


@pytest.fixture(scope="session")
def whole_run(
    tmp_path_factory: pytest.TempPathFactory, small_store: Store, scores: pd.DataFrame
) -> Path:
    """Return a run with everything; not to be changed."""
    return write_run(tmp_path_factory.mktemp("whole") / "run", small_store, scores=scores)


@pytest.fixture
def make_run(tmp_path: Path, small_store: Store) -> Callable[..., Path]:
    """Return a function that writes a run on the small store."""

    def make(store: Store = small_store, **options: object) -> Path:
        return write_run(tmp_path / "run", store, **options)

    return make


@pytest.fixture(scope="session")
def scores() -> pd.DataFrame:
    """Return scores of features, connectivity and a dummy at one target."""
    rows = []
    for method, value in {"features": 0.6, "connectivity": 0.7, "dummy": 0.5}.items():
        rows.append(
            {
                "method": method, "target": "diagnosis", "split": "subject", "repeat": "all",
                "metric": "balanced_accuracy", "value": value, "low": value - 0.05,
                "high": value + 0.05, "n_scans": 24, "n_subjects": 18, "difference": value - 0.7,
                "difference_low": value - 0.75, "difference_high": value - 0.65,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
