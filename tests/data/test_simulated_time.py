"""Simulated brains are processes in seconds: the repetition time says where they are sampled."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from semantoks.data.simulation import simulate_cohort

DURATION = 3000.0


def properties(t_r: float, every: int = 1) -> NDArray[np.float64]:
    """Spread and memory of every site's scans when sampled at 2 s, shape (site, 2)."""
    cohort = simulate_cohort(24, n_samples=round(DURATION / t_r), t_r=t_r, seed=1)
    found: dict[str, list[tuple[float, float]]] = {}
    for scan in cohort:
        # Differences and a median: spread without the slow drift and the spikes of movement.
        steps = np.diff(scan.series[:, ::every].astype(np.float64), axis=1)
        spread = float(np.log(np.median(np.abs(steps))))
        memory = float((steps[:, 1:] * steps[:, :-1]).mean() / steps.var())
        found.setdefault(scan.site, []).append((spread, memory))
    return np.array([np.mean(found[site], axis=0) for site in sorted(found)])


@pytest.mark.parametrize("t_r", [0.25, 0.5])
def test_thinned_fine_cohort_is_like_a_coarse_one(t_r: float) -> None:
    expected = properties(2.0)
    np.testing.assert_allclose(properties(t_r, every=round(2 / t_r)), expected, atol=0.05)
    # The sites differ by more than that, so the comparison means something.
    assert np.ptp(expected, axis=0).min() > 0.15


def test_movements_come_by_the_second_not_by_the_sample() -> None:
    def jumps(t_r: float) -> float:
        cohort = simulate_cohort(12, n_samples=round(DURATION / t_r), t_r=t_r, seed=2)
        total = 0
        for scan in cohort:
            common = np.diff(scan.series.mean(axis=0).astype(np.float64))
            total += int((np.abs(common) > 8 * np.median(np.abs(common))).sum())
        return total / len(cohort)

    assert jumps(0.5) == pytest.approx(jumps(0.25), rel=0.4)
