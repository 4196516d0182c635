"""The quality sheet on the command line: drawn with a store, again if asked, never at its cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.store import Store

CORTEX = Atlas.load("schaefer400")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series of XCP-D: a whole one, one with a tenth censored, one that is too short."""
    folder = tmp_path_factory.mktemp("xcp_d")
    for who, (n_volumes, n_censored) in {1: (110, 0), 2: (110, 11), 3: (20, 0)}.items():
        func = folder / f"sub-{who}" / "func"
        func.mkdir(parents=True)
        stem = f"sub-{who}_task-rest"
        series = np.random.default_rng(who).standard_normal((n_volumes, 400)).round(3)
        path = func / f"{stem}_space-MNI152NLin6Asym_seg-4S456Parcels_stat-mean_timeseries.tsv"
        pd.DataFrame(series, columns=CORTEX.labels).to_csv(path, sep="\t", index=False)
        path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
        censored = ["0"] * (n_volumes - n_censored) + ["1"] * n_censored
        (func / f"{stem}_outliers.tsv").write_text("\n".join(["framewise_displacement", *censored]))
    return folder


def prepare(source: Path, out: Path, *more: str) -> int:
    words = ["prepare", str(source), "--atlas", "schaefer400", "--out", str(out), "--workers", "1"]
    return run([*words, *more])


def test_prepare_writes_tables_and_page(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(source, tmp_path / "store", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    page = tmp_path / "store/quality.html"
    assert result["quality_page"] == str(page)
    content = page.read_text(encoding="utf-8")
    assert "3 scans found, 2 kept" in content
    assert "share of volumes scrubbed" in content.partition("Not known of any scan")[0]
    quality = Store.open(tmp_path / "store").quality
    assert quality["share_scrubbed"].tolist() == pytest.approx([0, 0.1, 0])
    assert quality["category"].tolist() == ["", "", "short"]
    # Made again from what the store holds, also elsewhere.
    page.unlink()
    assert run(["quality", str(tmp_path / "store"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quality_page"] == str(page)
    assert page.stat().st_size > 10_000
    assert run(["quality", str(tmp_path / "store"), "--out", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "a.html").is_file()


def test_a_page_that_cannot_be_drawn_does_not_cost_the_store(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("semantoks.interpretation.quality_page.write_quality_page", fail)
    assert prepare(source, tmp_path / "store", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["quality_page"] is None
    assert "could not be drawn (RuntimeError: no fonts)" in " ".join(told.err.split())
    assert len(Store.open(tmp_path / "store")) == 2
    assert not (tmp_path / "store/quality.html").exists()


def test_stores_without_the_table_say_what_to_do(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(source, tmp_path / "store", "--no-quality-page", "--quiet") == 0
    assert not (tmp_path / "store/quality.html").exists()
    (tmp_path / "store/quality.parquet").unlink()
    capsys.readouterr()
    assert run(["quality", str(tmp_path / "store")]) == 1
    assert "was not measured when it was written. Prepare it again." in capsys.readouterr().err
    (tmp_path / "store/quality.parquet").write_bytes(b"PAR1")
    assert run(["quality", str(tmp_path / "store")]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert run(["quality", str(tmp_path / "nowhere")]) == 1
    assert "is not a store" in capsys.readouterr().err
