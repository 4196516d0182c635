"""The HDF5 layout of the original code."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.data.tables import join, read_scan_table
from semantoks.errors import InputError

ATLAS = Atlas.from_networks({"Vis": 3, "Sub": 2}, name="first-other")
FIRST = np.random.default_rng(0).standard_normal((3, 3, 12)).astype(np.float16)
OTHER = np.random.default_rng(1).standard_normal((3, 2, 12)).astype(np.float16)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three scans, two atlases; the second scan is padded after 7 volumes."""
    path = tmp_path / "cohort.h5"
    first, other = FIRST.copy(), OTHER.copy()
    first[1, :, 7:] = other[1, :, 7:] = np.nan
    with h5py.File(path, "w") as file:
        file["timeseries/other"] = other
        file["timeseries/first"] = first
        file["long_subject_id"] = np.array([b"zoe", b"anna", b"otto"])
        file["age_5c"] = np.array([1, 2, 3])
        file["labels/sex"] = np.array([b"f", b"m", b"f"])
    return path


def test_atlases_are_joined_in_the_order_of_the_name(archive: Path) -> None:
    scans = find_scans(archive, ATLAS).scans
    assert [scan.scan for scan in scans] == ["anna", "otto", "zoe"]
    assert [scan.subject for scan in scans] == ["", "", ""]
    assert scans[2].phenotypes == {"age_5c": 1, "sex": "f"}
    assert scans[2].source == f"{archive}, row 0"
    np.testing.assert_array_equal(scans[2].load(), np.concatenate([FIRST[0], OTHER[0]]))
    padded = scans[0].load()
    assert padded.shape == (5, 12)
    assert np.isnan(padded[:, 7:]).all()


def test_a_part_may_be_asked_for(archive: Path) -> None:
    atlas = Atlas.from_networks({"Vis": 3}, name="first")
    assert find_scans(archive, atlas).scans[0].load().shape == (3, 12)


def test_lengths_cut_the_padding(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        file["ts_len"] = np.array([12, 7, 12])
    assert [scan.load().shape[1] for scan in find_scans(archive, ATLAS).scans] == [7, 12, 12]
    with h5py.File(archive, "a") as file:
        file["ts_len"][1] = 13
    with pytest.raises(InputError, match=r"'ts_len' must give.*between 1 and 12.*13 occurs"):
        find_scans(archive, ATLAS)


def test_repeated_names_are_subjects(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        file["long_subject_id"][2] = b"zoe"
    scans = find_scans(archive, ATLAS).scans
    assert [(s.scan, s.subject) for s in scans] == [
        ("anna", ""),
        ("zoe_scan-1", "zoe"),
        ("zoe_scan-2", "zoe"),
    ]


def test_names_as_in_bids_give_subject_and_session(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        del file["long_subject_id"]
        file["long_subject_id"] = np.array([b"sub-01_ses-1", b"sub-01_ses-2", b"sub-02"])
    scans = find_scans(archive, ATLAS).scans
    assert [(s.scan, s.subject, s.session) for s in scans] == [
        ("sub-01_ses-1", "sub-01", "ses-1"),
        ("sub-01_ses-2", "sub-01", "ses-2"),
        ("sub-02", "sub-02", ""),
    ]


def test_table_names_the_subject_of_scans_that_name_none(archive: Path) -> None:
    (archive.parent / "t.csv").write_text("scan_id,participant_id\nzoe,P1\nanna,P1\notto,P2\n")
    scans = join(find_scans(archive, ATLAS).scans, read_scan_table(archive.parent / "t.csv"))
    assert [(s.scan, s.subject) for s in scans] == [("anna", "P1"), ("otto", "P2"), ("zoe", "P1")]


def test_truncated_file_is_named(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cohort.h5 cannot be opened.*truncated file.*cut off"):
        find_scans(archive, ATLAS)
    archive.write_bytes(b"")
    with pytest.raises(InputError, match=r"cohort.h5 cannot be opened"):
        find_scans(archive, ATLAS)


def test_damage_in_a_dataset_names_the_scan(tmp_path: Path) -> None:
    path = tmp_path / "cohort.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("timeseries/first", data=FIRST, chunks=(1, 3, 12), fletcher32=1)
        file["long_subject_id"] = np.array([b"zoe", b"anna", b"otto"])
        place = data.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 5] ^= 0xFF
    path.write_bytes(content)
    scans = find_scans(path, Atlas.from_networks({"Vis": 3}, name="first")).scans
    with pytest.raises(InputError, match=r"scan 'anna' cannot be read from row 1"):
        scans[0].load()
    np.testing.assert_array_equal(scans[1].load(), FIRST[2])


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("timeseries/other", r"dataset timeseries/other of atlas 'first-other' \(5 ROIs\) is mis"),
        ("timeseries", r"the group 'timeseries'.*missing; the file holds age_5c, labels"),
        ("long_subject_id", r"dataset 'long_subject_id'.*each of the 3 scans.*missing"),
    ],
)
def test_missing_datasets_are_named(archive: Path, removed: str, message: str) -> None:
    with h5py.File(archive, "a") as file:
        del file[removed]
    with pytest.raises(InputError, match=message):
        find_scans(archive, ATLAS)


def test_sizes_must_fit_the_atlas(archive: Path) -> None:
    atlas = Atlas.from_networks({"Vis": 4, "Sub": 2}, name="first-other")
    with pytest.raises(InputError, match=r"add up to 5 ROIs, but atlas 'first-other' has 6"):
        find_scans(archive, atlas)
    with pytest.raises(InputError, match=r"schaefer400 of atlas.*timeseries/first \(3 ROIs\)"):
        find_scans(archive, Atlas.load("schaefer400"))


@pytest.mark.parametrize("shape", [(3, 2), (4, 2, 12), (3, 2, 11)])
def test_parts_must_fit_each_other(archive: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(archive, "a") as file:
        del file["timeseries/other"]
        file["timeseries/other"] = np.zeros(shape)
    with pytest.raises(InputError, match=r"\(scan, roi, time\).*there are timeseries/first"):
        find_scans(archive, ATLAS)


def test_order_of_writing_serves_atlases_of_another_name(tmp_path: Path, archive: Path) -> None:
    atlas = Atlas.from_networks({"Sub": 2, "Vis": 3}, name="mine")
    with pytest.raises(InputError, match="an atlas table of your own must be named after"):
        find_scans(archive, atlas)  # the file does not keep the order of writing
    ordered = tmp_path / "ordered.h5"
    with h5py.File(ordered, "w") as file:
        group = file.create_group("timeseries", track_order=True)
        group["other"], group["first"] = OTHER, FIRST
        file["long_subject_id"] = np.array([b"zoe", b"anna", b"otto"])
    series = find_scans(ordered, atlas).scans[2].load()
    np.testing.assert_array_equal(series, np.concatenate([OTHER[0], FIRST[0]]))
