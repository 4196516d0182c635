"""Returned series of UK Biobank, zipped and unpacked as they are downloaded."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.labels import seventeen_network_names
from semantoks.data.readers import find_scans
from semantoks.errors import InputError

WHOLE = Atlas.load("schaefer400-tian3-buckner7")
CORTEX = Atlas.load("schaefer400")
SERIES = np.random.default_rng(0).standard_normal((457, 12)) + 8000
SCHAEFER = [f"7Networks_{label}" for label in CORTEX.labels]
TIAN = list(WHOLE.labels[400:450])


def rows(series: NDArray[np.float64], labels: list[str]) -> bytes:
    """Return a table as pandas writes it, packed."""
    table = pd.DataFrame(series, columns=[f"timepoint_{i}" for i in range(series.shape[1])])
    table.insert(0, "label_name", labels)
    return gzip.compress(table.to_csv(index=False).encode())


CORTICAL, SUBCORTICAL = rows(SERIES[:400], SCHAEFER), rows(SERIES[400:450], TIAN)


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_visit(folder: Path, visit: str = "2_0", eid: str = "1234567") -> Path:
    coarse = rows(SERIES[:100], SCHAEFER[:100])
    members = {"fMRI.Schaefer7n100p.csv.gz": coarse, "fMRI.Schaefer7n400p.csv.gz": CORTICAL}
    path = write_zip(folder / f"{eid}_31018_{visit}.zip", members)
    write_zip(
        folder / f"{eid}_31019_{visit}.zip",
        {"fMRI.Tian_Subcortex_S1_3T.csv.gz": b"", "fMRI.Tian_Subcortex_S3_3T.csv.gz": SUBCORTICAL},
    )
    return path


def test_zips_of_two_visits_are_joined(tmp_path: Path) -> None:
    first = write_visit(tmp_path / "bulk")
    write_visit(tmp_path / "bulk", "3_0")
    scans = cloudpickle.loads(cloudpickle.dumps(find_scans(tmp_path, WHOLE).scans))
    assert [(x.scan, x.subject, x.session, x.t_r) for x in scans] == [
        ("1234567_2_0", "1234567", "2", 0.735),
        ("1234567_3_0", "1234567", "3", 0.735),
    ]
    assert scans[0].source == str(first)
    fields = {x.name for x in scans[0].beside}
    assert fields == {"1234567_31018_2_0.zip", "1234567_31019_2_0.zip"}
    loaded = scans[0].load()
    np.testing.assert_allclose(loaded[:450], SERIES[:450])
    assert np.isnan(loaded[450:]).all()
    assert scans[0].notices == (
        "The returned series of UK Biobank have no cerebellum; its network is masked.",
    )
    assert find_scans(tmp_path, CORTEX).scans[0].notices == ()


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("1234567_31018_2_0", ("1234567_2_0", "2")),
        ("1234567_2_0/fMRI", ("1234567_2_0", "2")),
        ("1234567/i3", ("1234567_3", "3")),
        ("1234567", ("1234567", "")),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_unpacked_files(
    tmp_path: Path, folder: str, expected: tuple[str, str], packed: bool
) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    for name, content in (("Schaefer7n400p", CORTICAL), ("Tian_Subcortex_S3_3T", SUBCORTICAL)):
        if packed:
            (place / f"fMRI.{name}.csv.gz").write_bytes(content)
        else:
            (place / f"fMRI.{name}.csv").write_bytes(gzip.decompress(content))
    (place / "fMRI.Schaefer7n1000p.csv.gz").write_bytes(b"not looked at")
    (scan,) = find_scans(tmp_path, WHOLE).scans
    assert (scan.scan, scan.session) == expected
    np.testing.assert_allclose(scan.load()[:450], SERIES[:450])


def test_rows_are_matched_by_name_and_may_be_missing(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(400)[10:]
    series = SERIES[order].copy()
    series[0] = np.nan
    content = rows(series, [SCHAEFER[i] for i in order])
    write_zip(tmp_path / "1234567_31018_2_0.zip", {"fMRI/fMRI.Schaefer7n400p.csv.gz": content})
    (scan,) = find_scans(tmp_path, Atlas.load("schaefer400-tian3")).scans
    assert "no field 31019" in scan.notices[0]
    loaded = scan.load()
    np.testing.assert_allclose(loaded[order[1:]], SERIES[order[1:]])
    assert np.isnan(loaded).all(axis=1).sum() == 50 + 10 + 1


def test_the_17_network_file_will_do(tmp_path: Path) -> None:
    names = seventeen_network_names()
    order = [CORTEX.labels.index(label) for label in names]
    content = rows(SERIES[order], [f"17Networks_{name}" for name in names.values()])
    write_zip(tmp_path / "1234567_31018_2_0.zip", {"fMRI.Schaefer17n400p.csv.gz": content})
    (scan,) = find_scans(tmp_path, CORTEX).scans
    np.testing.assert_allclose(scan.load(), SERIES[:400])


def damage(content: bytes, kind: str) -> bytes:
    """Return a table with a fault, packed."""
    lines = gzip.decompress(content).decode().splitlines()
    if kind == "word":
        lines[3] = lines[3].replace(lines[3].split(",")[5], "oops")
    elif kind == "short":
        lines[3] = lines[3].rpartition(",")[0]
    elif kind == "header":
        lines[0] = lines[0].replace("label_name", "region")
    elif kind == "label":
        lines[3] = "Elsewhere" + lines[3][lines[3].index(",") :]
    elif kind == "twice":
        lines[3] = lines[2]
    elif kind == "empty":
        lines = lines[:1]
    elif kind == "volumes":
        lines = [line.rpartition(",")[0] for line in lines]
    elif kind == "bytes":
        return gzip.compress(b"\xff\xfe\x00\x01")
    return gzip.compress("\n".join(lines).encode())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("word", r"csv in .*_31018_2_0\.zip, line 4 \(7Networks_LH_Vis_3\): numbers.*'oops'"),
        ("short", r"line 4: 13 cells were expected .* but there are 12"),
        ("header", r"a header 'label_name,timepoint_0.*'region, timepoint_0"),
        ("label", r"1 of 400 columns are no ROI of atlas .*'Elsewhere'"),
        ("twice", r"more than one column for 'LH_Vis_2'"),
        ("empty", r"a row a ROI were expected"),
        ("volumes", r"has 12 volumes, but .* of the same visit has 11"),
        ("bytes", r"is no table"),
    ],
)
def test_damaged_tables_say_where(tmp_path: Path, kind: str, message: str) -> None:
    write_visit(tmp_path)
    content = damage(CORTICAL, kind)
    write_zip(tmp_path / "1234567_31018_2_0.zip", {"fMRI.Schaefer7n400p.csv.gz": content})
    (scan,) = find_scans(tmp_path, WHOLE).scans
    with pytest.raises(InputError, match=message):
        scan.load()


def test_damaged_zips_are_named(tmp_path: Path) -> None:
    path = write_visit(tmp_path)
    whole = path.read_bytes()
    (scan,) = find_scans(tmp_path, WHOLE).scans
    for content in (whole[:-200], b"", whole[:30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"_31018_2_0.zip cannot be read as a zip"):
            scan.load()
    torn = io.BytesIO(CORTICAL[:-50]).getvalue()
    write_zip(path, {"fMRI.Schaefer7n400p.csv.gz": torn})
    with pytest.raises(InputError, match="cannot be read as a zip file"):
        scan.load()
    write_zip(path, {"fMRI.Glasser.csv.gz": CORTICAL})
    with pytest.raises(InputError, match=r"holds none of fMRI.Schaefer7n400p.csv"):
        scan.load()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    path = write_visit(tmp_path / "1234567")
    with pytest.raises(InputError, match=r"atlas 'cc200' is another"):
        find_scans(tmp_path, Atlas.load("cc200"))
    path.unlink()
    (scan,) = find_scans(tmp_path, WHOLE).scans
    with pytest.raises(InputError, match=r"1234567_2_0 has no series of the cortex \(field 31018"):
        scan.load()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "fMRI.Schaefer7n400p.csv.gz").write_bytes(CORTICAL)
    with pytest.raises(InputError, match="does not say whose series it holds"):
        find_scans(tmp_path / "loose", WHOLE)


def test_a_number_above_the_folders_of_people_is_not_a_person(tmp_path: Path) -> None:
    for person in ("sub-1234567", "sub-7654321"):
        folder = tmp_path / "81234" / person
        folder.mkdir(parents=True)
        (folder / "fMRI.Schaefer7n400p.csv.gz").write_bytes(CORTICAL)
    with pytest.raises(InputError, match=r"would both be of person 81234 .*1234567_2_0"):
        find_scans(tmp_path, CORTEX)


def test_packed_and_unpacked_side_by_side_are_one_visit(tmp_path: Path) -> None:
    path = write_visit(tmp_path)
    folder = tmp_path / path.stem
    folder.mkdir()
    (folder / "fMRI.Schaefer7n400p.csv.gz").write_bytes(CORTICAL)
    (scan,) = find_scans(tmp_path, WHOLE).scans
    assert scan.subject == "1234567"
