"""Real series painted into files of fMRIPrep and CIFTI, and read back."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semantoks.cli.application import run
from semantoks.data.store import Store

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "paint_stages.py"


@pytest.fixture(scope="module")
def painting() -> dict[str, Any]:
    """Return the functions of the example."""
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("kind", "noise"),
    [
        ("parcels", 0.0),
        pytest.param("dense", 0.3, marks=pytest.mark.slow),
        pytest.param("fmriprep", 0.3, marks=pytest.mark.slow),
    ],
)
def test_series_come_back(
    painting: dict[str, Any], shared: Path, tmp_path: Path, kind: str, noise: float
) -> None:
    (archive,) = (shared / "data" / "stages").glob("*.h5")
    (volume,) = (shared / "data" / "atlases").glob("derived_*_457_*.nii.gz")
    image = painting["paint"](archive, volume, tmp_path, kind=kind, n_scans=2, noise=noise)
    agreement = painting["read_back"](tmp_path, kind, image, archive)
    assert agreement.shape == (2, 400)
    assert np.nanmin(agreement) >= 0.999


def test_from_parcels_to_a_store(painting: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    (archive,) = (shared / "data" / "stages").glob("*.h5")
    painting["paint"](archive, tmp_path, tmp_path, kind="parcels", n_scans=2)
    out = tmp_path / "store"
    words = ["prepare", str(tmp_path / "parcels"), "--atlas", "schaefer400", "--out", str(out)]
    assert run([*words, "--quiet", "--workers", "1", "--no-quality-page"]) == 0
    store = Store.open(out)
    assert store.scans["subject"].tolist() == ["sub-001", "sub-002"]
    assert store.scans["length"].tolist() == [234, 234]
