"""Scans that stand out, and those that do not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.data.quality import MEASURES, outliers
from semantoks.errors import InputError


def cohort(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "scan": [f"s{i:02d}" for i in range(n)],
            "site": ["a", "b"] * (n // 2),
            "motion": 0.1 + 0.02 * rng.random(n),
            "coverage": np.ones(n),
            "in_band": 0.6 + 0.05 * rng.random(n),
        }
    )


def test_a_usual_cohort_has_no_outliers() -> None:
    assert outliers(cohort()).empty


def test_outliers_are_found_in_the_suspicious_direction_only() -> None:
    table = cohort()
    table.loc[3, "motion"], table.loc[4, "motion"] = 1.0, 0.0
    table.loc[5, "in_band"], table.loc[6, "in_band"] = 0.1, 0.99
    found = outliers(table)
    assert {*zip(found["scan"], found["measure"], strict=True)} == {
        ("s03", "motion"),
        ("s05", "in_band"),
    }
    assert found["distance"].is_monotonic_decreasing


def test_scans_are_held_against_their_site() -> None:
    table = cohort()
    table.loc[table["site"] == "b", "motion"] += 5
    assert outliers(table).empty
    together = outliers(table.drop(columns="site"))
    assert together.empty  # half the cohort is no outlier either
    table.loc[0, "motion"] = 5.1  # usual for site b, but the scan is of site a
    assert outliers(table)["scan"].tolist() == ["s00"]


def test_small_sites_are_held_against_everyone() -> None:
    table = cohort()
    table.loc[:2, "site"] = "small"
    table.loc[1, "motion"] = 2.0
    assert outliers(table)["scan"].tolist() == ["s01"]


def test_equal_values_do_not_make_the_smallest_difference_infinite() -> None:
    table = cohort()
    table.loc[7, "coverage"] = 0.995
    assert outliers(table).empty
    table.loc[7, "coverage"] = 0.9
    found = outliers(table)
    assert found["scan"].tolist() == ["s07"]
    assert found["distance"].iloc[0] == pytest.approx(0.1 / 0.005)


def test_unknown_values_never_stand_out() -> None:
    table = cohort()
    table["motion"] = np.nan
    table.loc[0, "in_band"] = np.nan
    assert outliers(table).empty


def test_a_table_without_scans_is_refused() -> None:
    with pytest.raises(InputError, match="no column scan"):
        outliers(cohort().drop(columns="scan"))


def test_measures_are_columns_of_the_quality_table_or_of_the_source() -> None:
    from semantoks.data.quality import ScanQuality

    known = {*ScanQuality().to_dict(), "motion", "share_scrubbed"}
    assert {measure.column for measure in MEASURES} <= known
