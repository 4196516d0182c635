"""The quality sheet says what is in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
from semantoks.data.quality import measure
from semantoks.data.signal import Preprocessing, QualityError, preprocess
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.interpretation.quality_page import write_quality_page

ATLAS = Atlas.from_networks({"Vis": 4, "Default": 4})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("quality")
    rng = np.random.default_rng(0)
    rows = []
    (folder / "raw").mkdir()
    for i in range(14):
        series = 100 + rng.standard_normal((8, 60 if i == 13 else 150))
        if i == 12:
            series[5] = 3.0
        np.save(folder / "raw" / f"scan-{i:02d}.npy", series)
        try:
            ready, category = preprocess(series, 2.0, Preprocessing(min_coverage=0.8)), ""
        except QualityError as error:
            ready, category = None, error.category
        found = measure(series, ready, t_r=2.0, atlas=ATLAS).to_dict()
        row = {"scan": f"scan-{i:02d}", "category": category, "reason": f"<{category}>"}
        rows.append({**row, **found})
    prepare(
        folder / "raw",
        folder / "store",
        atlas=ATLAS,
        t_r=2.0,
        preprocessing=Preprocessing(min_coverage=0.8),
    )
    return Store.open(folder / "store"), pd.DataFrame(rows)


def test_the_page_names_outliers_coverage_and_refusals(
    prepared: tuple[Store, pd.DataFrame], tmp_path: Path
) -> None:
    store, table = prepared
    page = write_quality_page(store, table, tmp_path / "quality.html").read_text()
    assert "14 scans found, 13 kept" in page
    assert "1 of 14 scans were refused" in page
    assert "1 of 14 scans have flat or missing ROIs" in page
    assert "&lt;short&gt;" in page  # text of files is escaped
    assert page.count("scan-12") >= 1  # coverage stands out
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://", "http")


def test_a_page_without_faults_says_so(
    prepared: tuple[Store, pd.DataFrame], tmp_path: Path
) -> None:
    store, table = prepared
    page = write_quality_page(store, table.iloc[:10], tmp_path / "quality.html").read_text()
    assert "Every ROI of every scan carries signal." in page
    assert "No scan was refused." in page


def test_a_table_that_is_none_is_refused(
    prepared: tuple[Store, pd.DataFrame], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no column bad_networks"):
        write_quality_page(prepared[0], prepared[1].drop(columns="bad_networks"), tmp_path / "q")
    assert not (tmp_path / "q").exists()
