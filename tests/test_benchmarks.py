"""The benchmark of everything runs, and its file holds what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_everything_beside_a_plain_path(tmp_path: Path) -> None:
    words = [sys.executable, BENCHMARKS / "all.py", "--quick", "--repeats", "1"]
    done = subprocess.run(
        [*words, "--json", tmp_path / "all.json"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    paths = {(row["task"], row["path"]): row for row in rows}
    for task in ("masked step", "step, mean", "embedding", "drawing windows", "probe, splits"):
        assert paths[task, "plain"]["ratio"] == pytest.approx(1)
    assert len(paths) == len(rows) == 17
    assert all(row["a_second"] > 0 for row in rows)
    assert all(paths["masked step", path]["share"] > 0 for path in ("plain", "float32", "bf16"))


@pytest.mark.slow
def test_windows_and_their_memory(tmp_path: Path) -> None:
    words = [sys.executable, BENCHMARKS / "windows.py", "--scans", "10", "--seconds", "0.2"]
    words += ["--memory-scans", "20", "--atlas", "cc200", "--json", tmp_path / "windows.json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "windows.json").read_text())
    assert all(rate > 0 for rate in found["windows_per_second"].values())
    if found["peak_bytes"]:  # only Linux tells
        small, large = (found["peak_bytes"][count]["reading"] for count in ("20", "200"))
        assert large < small + 5e6
