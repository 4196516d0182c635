"""The same brains at 0.735, 2 and 3 s have about the same features."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semantoks.data.preparation import prepare
from semantoks.data.recording import Recording
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.evaluation.embedding import embed
from semantoks.model.encoder import SemantoksEncoder

N_BRAINS = 8


@pytest.fixture(scope="module")
def robustness() -> ModuleType:
    """The benchmark, whose way to sample brains is tested here with it."""
    path = Path(__file__).parents[2] / "benchmarks" / "robustness.py"
    spec = importlib.util.spec_from_file_location("robustness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "robustness", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def brains(robustness: ModuleType) -> list[Recording]:
    """Brains that are simulated in steps of 0.05 s."""
    n_samples = round(robustness.DURATION / robustness.FINE_T_R)
    return simulate_cohort(N_BRAINS, n_samples=n_samples, t_r=robustness.FINE_T_R, seed=1234)


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / norms)


# Measured with three seeds of the weights. 3 s, instant: what a scanner aliases stays in.
@pytest.mark.parametrize(
    ("how", "raw", "centred_fast", "centred_slow"),
    [("averaged", 0.998, 0.97, 0.88), ("instant", 0.995, 0.90, 0.72)],
)
def test_features_agree_over_repetition_times(
    robustness, brains, tmp_path, how, raw, centred_fast, centred_slow
):
    torch.manual_seed(0)
    encoder = SemantoksEncoder(brains[0].atlas, dim=64, depth=2, head_dim=32)
    encoder.preprocessing = {"target_t_r": 2.0, "high_pass": 0.01, "low_pass": 0.1}
    found = {}
    for t_r in (2.0, 0.735, 3.0):
        folder = tmp_path / str(t_r)
        write_cohort([robustness.sample(brain, t_r, how) for brain in brains], folder / "raw")
        out = prepare(folder / "raw", folder / "store", atlas=brains[0].atlas).path
        store = Store.open(out)
        assert set(store.scans["t_r"]) == {t_r}
        found[t_r] = embed(store, encoder).features
    at_2 = found[2.0]
    centred = at_2 - at_2.mean(0)
    # Centred features of another brain are unlike: what follows is no matter of course.
    assert np.median(cosines(centred, np.roll(centred, 1, axis=0))) < 0.2
    for t_r, bound in ((0.735, centred_fast), (3.0, centred_slow)):
        assert cosines(at_2, found[t_r]).min() > raw
        other = found[t_r] - found[t_r].mean(0)
        assert np.median(cosines(centred, other)) > bound
        likeness = centred @ other.T / np.linalg.norm(other, axis=1)
        assert list(likeness.argmax(axis=1)) == list(range(N_BRAINS))
