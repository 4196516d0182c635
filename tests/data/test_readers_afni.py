"""Tables of AFNI's 3dROIstats, as ADHD-200 is distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions
from semantoks.errors import InputError

LABELS = ("a", "b", "c", "d")
NAME = "sfnwmrda1056121_session_2_rest_1_four_TCs.1D"


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    rows = [f"{x}\tVis\t{value}" for x, value in zip(LABELS, (2, 5, 7, 11), strict=True)]
    (tmp_path / "four.tsv").write_text("label\tnetwork\tvalue\n" + "\n".join(rows) + "\n")
    return Atlas.load(str(tmp_path / "four.tsv"))


def write(folder: Path, header: str, n_columns: int, name: str = NAME) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((9, n_columns)).round(4)
    lines = ["File\tSub-brick\t" + header]
    lines += [f"{name}\t{i}[?]\t" + "\t".join(map(str, row)) for i, row in enumerate(values)]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")
    return values.T


@pytest.mark.parametrize("column", ["Mean_{}  ", "NZMean_{}", "#{}"])
def test_columns_are_values_of_the_atlas(tmp_path: Path, atlas: Atlas, column: str) -> None:
    header = "\t".join(column.format(value) for value in (11, 2, 5))
    values = write(tmp_path / "in", header, 3)
    (scan,) = find_scans(tmp_path / "in", atlas).scans
    assert (scan.subject, scan.session) == ("1056121", "session-2")
    series = scan.load()
    np.testing.assert_array_equal(series[[3, 0, 1]], values)
    assert np.isnan(series[2]).all()  # the value 7 had no voxel


def test_means_are_taken_among_other_statistics(tmp_path: Path, atlas: Atlas) -> None:
    values = write(tmp_path / "in", "Mean_2\tSigma_2\tNZMean_2\tMean_5", 4)
    series = find_scans(tmp_path / "in", atlas).scans[0].load()
    np.testing.assert_array_equal(series[:2], values[[0, 3]])


def test_filtered_releases_are_told(tmp_path: Path, atlas: Atlas) -> None:
    write(tmp_path / "in", "Mean_2", 1)
    write(tmp_path / "in", "Mean_2", 1, "snwmrda1056121_session_1_rest_1_four_TCs.1D")
    options = ReaderOptions(band=(0.01, 0.1))
    told = [scan.notices for scan in find_scans(tmp_path / "in", atlas, options=options).scans]
    assert sorted(len(notices) for notices in told) == [0, 1]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Mean_2\tMean_3", r"values that are not in atlas 'four' \('3'\)"),
        ("Mean_2\tMean_2", "two columns 'Mean_2'"),
        ("Mean_2\tfrontal", "its columns are 'frontal'"),
        ("Mean_2", r"1 columns were expected"),
    ],
)
def test_what_is_refused(tmp_path: Path, atlas: Atlas, header: str, message: str) -> None:
    write(tmp_path / "in", header, 2)
    with pytest.raises(InputError, match=message):
        find_scans(tmp_path / "in", atlas).scans[0].load()


def test_an_atlas_without_values_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", "Mean_2", 1)
    with pytest.raises(InputError, match="Add a column 'value'"):
        find_scans(tmp_path / "in", Atlas.from_networks({"Vis": 2})).scans[0].load()


def test_a_real_file_of_adhd200(shared: Path) -> None:
    (scan,) = find_scans(shared / "data" / "adhd200", Atlas.load("cc200")).scans
    series = scan.load()
    assert series.shape == (200, 232)
    assert (np.flatnonzero(np.isnan(series[:, 0])) + 1).tolist() == [
        *(2, 5, 11, 25, 34, 68, 82, 95, 126, 191)
    ]
