"""Series of C-PAC in the namings of its versions."""

from __future__ import annotations

import json
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.labels import seventeen_network_names
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.errors import InputError

CC200 = Atlas.load("cc200")
CORTEX = Atlas.load("schaefer400")
SERIES = np.random.default_rng(0).standard_normal((400, 15))
NAMES = [
    "sub-0050003_ses-1_task-rest_atlas-CC200_space-template_desc-Mean-1_timeseries.1D",
    "sub-0050003_ses-1_task-rest_atlas-CC200_space-MNI152NLin6ASym_res-3mm_desc-Mean1_timeseries.1D",
    "sub-0050003_ses-1_task-rest_atlas-CC200_space-MNI152NLin6ASym_reg-default_desc-Mean_timeseries.1D",
    "sub-0050003_ses-1_task-rest_atlas-CC200space-MNI152NLin6res-1x1x1_desc-Mean-1_timeseries.1D",
]
HEADERS = ["#{}", "Mean_{}", "#Mean_{}", "NZMean_{}"]


def write(
    path: Path,
    series: np.ndarray = SERIES[:200],
    header: str = "#{}",
    values: tuple[int, ...] = CC200.values,
    separator: str = ",",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = separator.join(header.format(value) for value in values)
    if header and not names.startswith("#"):
        names = f"#{names}"
    np.savetxt(
        path, series.T, fmt="%.8g", delimiter=separator, header=names if header else "", comments=""
    )
    return path


def only(folder: Path, atlas: Atlas = CC200) -> ScanFile:
    (scan,) = find_scans(folder, atlas).scans
    return scan


def test_the_usual_filter_is_said_until_the_user_knows(tmp_path: Path) -> None:
    write(tmp_path / NAMES[0])
    (scan,) = find_scans(tmp_path, CC200, options=ReaderOptions(band=(0.01, 0.1))).scans
    assert "do not say how they were filtered" in scan.notices[0]
    assert "--filtered-before 0.01 0.1" in scan.notices[0]
    known = ReaderOptions(band=(0.009, 0.08), filtered="before")
    assert find_scans(tmp_path, CC200, options=known).scans[0].notices == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("header", HEADERS)
def test_namings_and_headers(tmp_path: Path, name: str, header: str) -> None:
    path = write(tmp_path / "output" / "func" / name, header=header)
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
    scan = cloudpickle.loads(cloudpickle.dumps(only(tmp_path)))
    assert (scan.scan, scan.subject, scan.session, scan.t_r) == (
        *("sub-0050003_ses-1_task-rest", "sub-0050003", "ses-1"),
        2.0,
    )
    assert scan.phenotypes["cpac_strategy"] in name
    np.testing.assert_allclose(scan.load(), SERIES[:200], rtol=1e-6)


@pytest.mark.parametrize("separator", [",", "\t"])
def test_columns_go_by_their_numbers(tmp_path: Path, separator: str) -> None:
    order = np.random.default_rng(0).permutation(200)[5:]
    values = tuple(CC200.values[i] for i in order)
    write(tmp_path / NAMES[0], SERIES[order], values=values, separator=separator)
    loaded = only(tmp_path).load()
    np.testing.assert_allclose(loaded[order], SERIES[order], rtol=1e-6)
    assert np.isnan(loaded).all(axis=1).sum() == 5


def test_schaefer_in_17_network_order_is_reordered(tmp_path: Path) -> None:
    order = [CORTEX.labels.index(label) for label in seventeen_network_names()]
    name = NAMES[0].replace("CC200", "Schaefer2018p400n17Networks400Parcels17Networks")
    name = NAMES[0].replace("CC200", "Schaefer400Parcels17Networks")
    write(tmp_path / name, SERIES[order], header="")
    np.testing.assert_allclose(only(tmp_path, CORTEX).load(), SERIES, rtol=1e-6)


def test_the_atlas_is_found_by_name_among_several(tmp_path: Path) -> None:
    write(tmp_path / NAMES[0])
    write(tmp_path / NAMES[0].replace("CC200", "AAL"), SERIES[:116], values=tuple(range(116)))
    assert "CC200" in only(tmp_path).source
    with pytest.raises(InputError, match=r"atlases AAL, CC200, and none of them is named like"):
        find_scans(tmp_path, CORTEX)


def test_strategies_are_a_choice(tmp_path: Path) -> None:
    write(tmp_path / NAMES[0])
    write(tmp_path / NAMES[0].replace("Mean-1", "Mean-2"))
    with pytest.raises(InputError, match=r"2 series of 'sub-0050003_ses-1_task-rest'.*Mean-2"):
        find_scans(tmp_path, CC200)


@pytest.mark.parametrize(
    ("series", "header", "values", "message"),
    [
        (SERIES[:116], "#{}", tuple(range(1, 117)), r"are not the values of atlas 'cc200'"),
        (SERIES[:116], "", (), r"has 116 columns, but 200 different ROIs"),
        (SERIES[:200], "#{}", CC200.values[:199], r"header names 199 ROIs, but there are 200"),
        (SERIES[:201], "#{}", (*CC200.values, 1), r"has 201 columns, but 200 different ROIs"),
        (SERIES[:200], "#{}", tuple(range(501, 701)), r"numbered 501, 502, 503"),
    ],
)
def test_other_atlases_are_refused(
    tmp_path: Path, series: np.ndarray, header: str, values: tuple[int, ...], message: str
) -> None:
    write(tmp_path / NAMES[0], series, header, values)
    with pytest.raises(InputError, match=message):
        only(tmp_path).load()


def test_values_of_a_coarser_schaefer_are_refused(tmp_path: Path) -> None:
    name = NAMES[0].replace("CC200", "Schaefer200")
    write(tmp_path / name, SERIES[:200], values=tuple(range(1, 201)))
    with pytest.raises(InputError, match="those of an atlas 'Schaefer200'"):
        only(tmp_path, CORTEX).load()
