"""Files that nobody should have: a clear message each, nothing left behind, good scans kept."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
from semantoks.data.readers import find_scans
from semantoks.data.store import Store
from semantoks.errors import InputError

CORTEX = Atlas.load("schaefer400")
CC200 = Atlas.load("cc200")
N_VOLUMES = 110
Series = NDArray[np.float64]


def noise(n_rois: int, seed: int, n_volumes: int = N_VOLUMES) -> Series:
    return np.random.default_rng(seed).standard_normal((n_rois, n_volumes)).round(3)


def text(series: Series, labels: tuple[str, ...] = (), separator: str = "\t") -> str:
    header = [separator.join(labels)] if labels else []
    rows = [separator.join(f"{x:g}" for x in row) for row in series.T]
    return "\n".join([*header, *rows]) + "\n"


def write_xcpd(folder: Path, who: int) -> Path:
    func = folder / f"sub-{who}" / "func"
    func.mkdir(parents=True)
    stem = f"sub-{who}_task-rest"
    path = func / f"{stem}_space-MNI152NLin6Asym_seg-4S456Parcels_stat-mean_timeseries.tsv"
    path.write_text(text(noise(400, who), CORTEX.labels))
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
    outliers = "framewise_displacement\n" + "0\n" * N_VOLUMES
    (func / f"{stem}_outliers.tsv").write_text(outliers)
    (func / f"{stem}_motion.tsv").write_text(outliers)
    return path


@cache
def returned_series(who: int) -> bytes:
    series = noise(400, who, 280)
    lines = [",".join(("label_name", *(f"timepoint_{i}" for i in range(280))))]
    lines += [
        f"{x},{','.join(map(str, row))}" for x, row in zip(CORTEX.labels, series, strict=True)
    ]
    return gzip.compress("\n".join(lines).encode(), compresslevel=1)


def write_ukb(folder: Path, who: int) -> Path:
    path = folder / f"100000{who}_31018_2_0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fMRI.Schaefer7n400p.csv.gz", returned_series(who))
    return path


def write_conn(folder: Path, who: int) -> Path:
    path = folder / f"ROI_Subject00{who}_Condition000.mat"
    names, data = (np.empty((1, 400), dtype=object) for _ in range(2))
    for i, row in enumerate(noise(400, who)):
        names[0, i], data[0, i] = f"S.{CORTEX.labels[i]}", row[:, None]
    scipy.io.savemat(path, {"names": names, "data": data})
    return path


def write_dpabi(folder: Path, who: int) -> Path:
    path = folder / f"ROISignals_Sub{who}.mat"
    scipy.io.savemat(path, {"ROISignals": noise(400, who).T})
    mask = "Schaefer2018_400Parcels_7Networks_order.nii"
    lines = ["Order\tLabel in Mask\tROI Definition", *(f"{i}\t{i}\t{mask}" for i in range(1, 401))]
    (folder / f"ROI_OrderKey_Sub{who}.tsv").write_text("\n".join(lines))
    return path


def write_cpac(folder: Path, who: int) -> Path:
    path = folder / f"sub-{who}_task-rest_atlas-CC200_desc-Mean-1_timeseries.1D"
    numbers = ("#1", *map(str, CC200.values[1:]))
    path.write_text(text(noise(200, who), numbers, ","))
    return path


class Format(NamedTuple):
    write: Callable[[Path, int], Path]
    atlas: Atlas = CORTEX


FORMATS = {
    "xcpd": Format(write_xcpd),
    "ukb": Format(write_ukb),
    "conn": Format(write_conn),
    "dpabi": Format(write_dpabi),
    "cpac": Format(write_cpac, CC200),
}


def t_r_of(name: str) -> float | None:
    return None if name in ("xcpd", "ukb") else 2.0


# Any damage


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """Return a format, a folder with one good scan of it, and the files in it."""
    folder = tmp_path_factory.mktemp(request.param)
    FORMATS[request.param].write(folder, 1)
    files = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return FORMATS[request.param], folder, files


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_an_input_error_or_harmless(whole: tuple, data: st.DataObject) -> None:
    format_, folder, files = whole
    path = data.draw(st.sampled_from(sorted(files)))
    content = files[path]
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 3000)))
    new = data.draw(
        st.binary(max_size=40) | st.sampled_from([b"\n", b"\t", b"nan", b"1e999", b"-"])
    )
    path.write_bytes(content[:start] + new + content[stop:])
    message = "a paragraph that says what is wrong and what to do"
    try:
        for scan in find_scans(folder, format_.atlas).scans:
            series = scan.load()
            assert series.ndim == 2
            assert len(series) == len(format_.atlas)
    except InputError as error:
        message = str(error)
    finally:
        path.write_bytes(content)
    assert len(message) > 40
    assert "\n" not in message.strip()


# Faults that happen


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


FAULTS = [cut, empty, binary]


@pytest.mark.parametrize(
    ("name", "fault"), [(name, FAULTS[i % 3]) for i, name in enumerate(FORMATS)]
)
def test_one_bad_file_stops_or_is_left_out(
    name: str, fault: Callable[[Path], None], tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    format_ = FORMATS[name]
    format_.write(source, 1)
    bad = format_.write(source, 2)
    fault(bad)
    with pytest.raises(InputError) as caught:
        prepare(source, out, atlas=format_.atlas, t_r=t_r_of(name))
    assert bad.name in str(caught.value) or bad.parent.name in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    report = prepare(source, out, atlas=format_.atlas, t_r=t_r_of(name), policy="keep-going")
    assert (report.n_found, report.n_written) == (2, 1)
    assert [refusal.category for refusal in report.refused] == ["unreadable"]
    assert len(Store.open(out).scans) == 1


def set_json(path: Path, content: str) -> None:
    path.with_suffix(".json").write_text(content)


def beside(path: Path, name: str, content: str) -> None:
    (path.parent / f"{path.parent.parent.name}_task-rest_{name}.tsv").write_text(content)


def edit(path: Path, line: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    lines[line] = change(lines[line])
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("xcpd", lambda p: set_json(p, "{"), r"cannot be read as JSON"),
        ("xcpd", lambda p: set_json(p, "[]"), r"holds a JSON list"),
        ("xcpd", lambda p: set_json(p, '{"RepetitionTime": 2000}'), r"milliseconds; give 2"),
        ("xcpd", lambda p: set_json(p, '{"RepetitionTime": "two"}'), r"is 'two', but a repetition"),
        ("xcpd", lambda p: set_json(p, '{"SamplingFrequency": "TR"}'), r"no repetition time"),
        ("xcpd", lambda p: beside(p, "outliers", "x\n0\n"), r"is no table of outliers"),
        (
            "xcpd",
            lambda p: beside(p, "outliers", "framewise_displacement\n" + "0\n" * 200),
            r"has 110 volumes, but .*outliers.tsv has 200 rows, of which 200 are no outliers",
        ),
        (
            "xcpd",
            lambda p: beside(p, "outliers", "framewise_displacement\n" + "0.3\n" * N_VOLUMES),
            r"zeros and ones was expected",
        ),
        ("xcpd", lambda p: edit(p, 5, lambda x: x.replace("\t", "\toops\t", 1)), r"line 6, col"),
        ("xcpd", lambda p: edit(p, 5, lambda x: x.rpartition("\t")[0]), r"line 6: 400 columns"),
        (
            "xcpd",
            lambda p: edit(p, 0, lambda x: x.replace("RH_Vis_1\t", "RH_Vis_2\t")),
            r"more tha",
        ),
        (
            "xcpd",
            lambda p: edit(p, 0, lambda x: x.replace("LH_Vis_2\t", "LH_VisCent_ExStr_1\t")),
            r"mixes two namings",
        ),
        ("xcpd", lambda p: edit(p, 0, lambda x: "\t".join(map(str, range(400)))), r"400 of 400"),
        ("cpac", lambda p: set_json(p, "{}}"), r"cannot be read as JSON"),
        ("cpac", lambda p: edit(p, 4, lambda x: x.replace(",", ",oops,", 1)), r"line 5, column 2"),
        ("cpac", lambda p: edit(p, 0, lambda x: x.replace("#1,", "#999,")), r"not the values"),
        ("cpac", lambda p: edit(p, 0, lambda x: x.replace("#1,", "#2,")), r"different ROIs"),
        ("cpac", lambda p: p.write_text("#1,2\n"), r"not the values|has a header but no data"),
        (
            "dpabi",
            lambda p: p.with_name("ROI_OrderKey_Sub2.tsv").unlink(),
            r"has no key: ROI_OrderKey_Sub2.tsv",
        ),
        (
            "dpabi",
            lambda p: scipy.io.savemat(p, {"Signals": np.ones((5, 400))}),
            r"no variable ROISignals; it has Signals",
        ),
        (
            "dpabi",
            lambda p: scipy.io.savemat(p, {"ROISignals": np.ones((5, 3, 400))}),
            r"shape \(5, 3, 400\)",
        ),
        ("conn", lambda p: scipy.io.savemat(p, {"data": 1.0}), r"no variable names; it has data"),
        (
            "conn",
            lambda p: scipy.io.savemat(p, {"names": "LH_Vis_1", "data": "x"}),
            r"names and data should be cells|has a series of shape",
        ),
        ("ukb", lambda p: zipfile.ZipFile(p, "w").close(), r"holds none of fMRI.Schaefer7n400p"),
        ("ukb", lambda p: p.rename(p.with_name("1000002_31019_2_0.zip")), r"no series of the cor"),
    ],
)
def test_faults_are_explained(
    name: str, fault: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    format_ = FORMATS[name]
    format_.write(source, 1)
    fault(format_.write(source, 2))
    with pytest.raises(InputError, match=message) as caught:
        prepare(source, out, atlas=format_.atlas, t_r=t_r_of(name))
    assert "\n" not in str(caught.value).strip()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_most_of_a_scan_censored_is_a_matter_of_quality(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_xcpd(source, 1)
    path = write_xcpd(source, 2)
    shares = "framewise_displacement\n" + "1\n" * 60 + "0\n" * 50
    beside(path, "outliers", shares)
    report = prepare(source, tmp_path / "out", atlas=CORTEX)
    assert [(x.scan, x.category) for x in report.refused] == [("sub-2_task-rest", "short")]
    assert "60 of 110 volumes are outliers" in report.refused[0].reason


def test_a_source_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for format_ in FORMATS:
        with pytest.raises(InputError, match=r"is an empty folder. Expected was"):
            prepare(tmp_path / "empty", tmp_path / "out", atlas=CORTEX, format=format_, t_r=2.0)
    shutil.rmtree(tmp_path / "empty")
    assert not list(tmp_path.iterdir())
