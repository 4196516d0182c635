"""Networks that a scan hardly has, and the table that says how much it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
from semantoks.data.quality import mask_sparse_networks, write_coverage
from semantoks.data.signal import Preprocessed, Preprocessing, QualityError
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError

ATLAS = Atlas.from_networks({"Vis": 4, "Default": 4, "Limbic": 2}, name="ten")


def ready(missing: list[int], flat: tuple[int, ...] = ()) -> Preprocessed:
    bad = np.zeros((2, 10), dtype=bool)
    bad[0, missing], bad[1, list(flat)] = True, True
    series = np.where(bad.any(axis=0)[:, None], 0, np.ones((10, 5))).astype(np.float32)
    return Preprocessed(series, 2.0, bad[1], bad[0])


@pytest.mark.parametrize(
    ("least", "left"),
    [(0.0, [1, 2, 3, 4, 8, 9]), (0.25, [1, 2, 3, 4, 8, 9]), (0.26, [1, 2, 3, 8, 9]),
     (0.75, [1, 2, 3, 8, 9]), (0.8, [8, 9]), (1.0, [8, 9])],
)  # fmt: skip
def test_networks_below_the_threshold_go_as_a_whole(least: float, left: list[int]) -> None:
    given = ready([0, 5, 6], flat=(7,))
    found = mask_sparse_networks(given, ATLAS, least)
    assert np.flatnonzero(found.valid).tolist() == left
    assert np.flatnonzero(found.series.any(axis=1)).tolist() == left
    # Flat ROIs stay flat ones, and what was given stays as it was.
    assert np.flatnonzero(found.flat).tolist() == [7]
    assert given.valid.sum() == 6


def test_no_network_left() -> None:
    with pytest.raises(QualityError, match="no network has 90% of its ROIs") as caught:
        mask_sparse_networks(ready([0, 4, 8]), ATLAS, 0.9)
    assert caught.value.category == "coverage"


def test_the_table_has_a_share_a_network(tmp_path: Path) -> None:
    rows = [
        {"scan": "a", "category": "", "n_volumes": 9, "bad_networks": '{"Vis": 1, "Limbic": 2}'},
        {"scan": "b", "category": "short", "n_volumes": 9, "bad_networks": "{}"},
        {"scan": "c", "category": "unreadable", "n_volumes": 0, "bad_networks": "{}"},
    ]
    write_coverage(tmp_path / "c.csv", rows, ATLAS, 0.0)
    table = pd.read_csv(tmp_path / "c.csv", keep_default_na=False)
    assert table.columns.tolist() == ["scan", "category", "masked", "Vis", "Default", "Limbic"]
    assert table.astype(str).to_numpy().tolist() == [
        ["a", "", "Limbic", "0.75", "1", "0"],
        ["b", "short", "", "1", "1", "1"],
        ["c", "unreadable", "", "", "", ""],
    ]
    write_coverage(tmp_path / "d.csv", rows, ATLAS, 0.8)
    assert pd.read_csv(tmp_path / "d.csv")["masked"].iloc[0] == "Vis;Limbic"


def test_prepare_masks_them_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for name, missing in {"a": [], "b": [0, 1, 2], "c": list(range(10))[:9]}.items():
        series = rng.standard_normal((10, 120))
        series[missing] = np.nan
        np.save(tmp_path / "scans" / f"{name}.npy", series)
    settings = Preprocessing(min_coverage=0, min_network_coverage=0.6)
    report = prepare(
        tmp_path / "scans", tmp_path / "store", atlas=ATLAS, t_r=2.0, preprocessing=settings
    )
    assert [(x.scan, x.category) for x in report.refused] == [("c", "coverage")]
    store = Store.open(tmp_path / "store")
    assert store.preprocessing == settings
    assert store.network_valid.tolist() == [[True] * 3, [False, True, True]]
    assert store.scans["coverage"].tolist() == [1.0, 0.6]
    # The measures are of the scan as it came.
    assert store.quality["coverage"].tolist() == pytest.approx([1.0, 0.7, 0.1])
    table = pd.read_csv(tmp_path / "store/coverage.csv", keep_default_na=False)
    assert table["masked"].tolist() == ["", "Vis", "Vis;Default;Limbic"]


def test_impossible_thresholds() -> None:
    with pytest.raises(ConfigurationError, match="min_network_coverage is -1; it is a share"):
        Preprocessing(min_network_coverage=-1)
    assert Preprocessing.from_dict(Preprocessing(min_network_coverage=0.5).to_dict()) == (
        Preprocessing(min_network_coverage=0.5)
    )
