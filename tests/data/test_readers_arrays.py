"""A folder of arrays: orientation, names of ROIs, identities."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.errors import InputError

ATLAS = Atlas.from_networks({"Vis": 2, "Default": 2}, name="tiny4")
SERIES = np.random.default_rng(0).standard_normal((4, 9))


def load(folder: Path) -> np.ndarray:
    """Read the only scan of a folder."""
    scans = find_scans(folder, ATLAS).scans
    assert len(scans) == 1
    return scans[0].load()


def write_text(path: Path, series: np.ndarray, labels: tuple[str, ...]) -> None:
    """Write (roi, time) as a text file with a header."""
    separator = "\t" if path.suffix == ".tsv" else ","
    pd.DataFrame(series.T, columns=list(labels)).to_csv(path, sep=separator, index=False)


@pytest.mark.parametrize("values", [SERIES, SERIES.T, SERIES.astype(np.float16)])
def test_roi_axis_is_found(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    series = load(tmp_path)
    assert series.shape == (4, 9)
    np.testing.assert_allclose(series, SERIES, rtol=1e-3, atol=1e-3)


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / ".hidden" / "sub-1_ses-2_task-rest.tsv"
    path.parent.mkdir()
    write_text(path, SERIES, ATLAS.labels)
    found = find_scans(path, ATLAS)
    assert ([scan.subject for scan in found.scans], found.table) == (["sub-1"], None)
    np.testing.assert_allclose(found.scans[0].load(), SERIES)
    with pytest.raises(InputError, match=r"is a \.tsv file"):
        find_scans(path.rename(path.with_name("participants.tsv")), ATLAS)


def test_text_archives_and_parquet_are_read(tmp_path: Path) -> None:
    backwards, rows = ATLAS.labels[::-1], SERIES[::-1]
    pd.DataFrame(rows.T, columns=list(backwards)).to_parquet(tmp_path / "sub-1.parquet")
    np.savez_compressed(tmp_path / "sub-2.npz", series=SERIES)
    np.savetxt(tmp_path / "sub-3.txt", SERIES.T)
    np.savetxt(tmp_path / "sub-4.1D", rows.T, header="\t".join(backwards), delimiter="\t")
    (tmp_path / "README.txt").write_text("Four scans.\n")
    scans = find_scans(tmp_path, ATLAS).scans
    assert [scan.subject for scan in scans] == ["sub-1", "sub-2", "sub-3", "sub-4"]
    for scan in scans:
        np.testing.assert_allclose(scan.load(), SERIES, err_msg=scan.source)


def test_an_archive_of_two_arrays_and_a_table_of_words_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", series=SERIES, mask=SERIES)
    with pytest.raises(InputError, match=r"2 arrays .*series.*mask.* single array was expected"):
        load(tmp_path)
    (tmp_path / "a.npz").unlink()
    pd.DataFrame({"age": [1, 2], "sex": ["F", "M"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet was expected .* but has column sex"):
        load(tmp_path)
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read as a \.parquet file.*cut off"):
        load(tmp_path)


def test_damaged_archives_and_archives_of_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, series=np.random.default_rng(1).standard_normal((4, 500)))
    content = bytearray(path.read_bytes())
    content[200:-200] = bytes(byte ^ 0x5A for byte in content[200:-200])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz cannot be read as a \.npz file of numbers"):
        load(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "words")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no array"):
        load(tmp_path)


def test_stores_are_no_recordings(tmp_path: Path) -> None:
    """The series of a store are those of all its scans, and would be read as one."""
    store = tmp_path / "study.store"
    store.mkdir()
    (store / "store.json").write_text("{}")
    np.save(store / "series.npy", SERIES.T)
    pd.DataFrame({"scan": ["a"]}).to_parquet(store / "scans.parquet")
    with pytest.raises(InputError, match=r"study\.store is a store.*Give it as --data"):
        find_scans(store, ATLAS)
    np.save(tmp_path / "a.npy", SERIES)
    pd.DataFrame({"participant_id": ["a"]}).to_parquet(tmp_path / "participants.parquet")
    (tmp_path / "subjects_scans.txt").write_text("a b\n")
    assert [scan.scan for scan in find_scans(tmp_path, ATLAS).scans] == ["a"]


def test_integers_are_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(36).reshape(9, 4))
    assert load(tmp_path).dtype == np.float64


@pytest.mark.parametrize("shape", [(4, 4), (5, 9), (4,), (2, 4, 9)])
def test_ambiguous_or_wrong_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    message = "either axis may be time" if shape == (4, 4) else "one axis of 4 was expected"
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path)
    assert str(shape) in str(caught.value)
    assert "a.npy" in str(caught.value)


def test_damaged_npy_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SERIES)
    content = (tmp_path / "a.npy").read_bytes()
    for damaged in (content[:-10], content[:20], b""):
        (tmp_path / "a.npy").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.npy cannot be read as a \.npy file"):
            load(tmp_path)
    for wrong in (SERIES.astype(complex), np.array([["1", "2"]])):
        np.save(tmp_path / "a.npy", wrong)
        with pytest.raises(InputError, match="real numbers were expected"):
            load(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_columns_are_matched_by_name(tmp_path: Path, suffix: str) -> None:
    order = [2, 0, 3, 1]
    labels = tuple(ATLAS.labels[i] for i in order)
    write_text(tmp_path / f"a{suffix}", SERIES[order], labels)
    np.testing.assert_array_equal(load(tmp_path), SERIES)


def test_even_a_square_table_is_read_by_name(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", SERIES[::-1, :4], ATLAS.labels[::-1])
    np.testing.assert_array_equal(load(tmp_path), SERIES[:, :4])


def test_schaefer_labels_may_carry_their_scheme(tmp_path: Path) -> None:
    atlas = Atlas.load("schaefer400")
    series = np.random.default_rng(1).standard_normal((400, 5))
    write_text(tmp_path / "a.tsv", series, tuple(f"7Networks_{x}" for x in atlas.labels))
    np.testing.assert_array_equal(find_scans(tmp_path, atlas).scans[0].load(), series)


def test_missing_columns_and_cells_become_nan(tmp_path: Path) -> None:
    series = SERIES[[0, 1, 3]].copy()
    series[1] = np.nan
    write_text(tmp_path / "a.csv", series, (ATLAS.labels[0], ATLAS.labels[1], ATLAS.labels[3]))
    loaded = load(tmp_path)
    assert np.isnan(loaded[[1, 2]]).all()
    np.testing.assert_array_equal(loaded[[0, 3]], SERIES[[0, 3]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("Vis_1", "Vis_2", "Default_1", "Defalt_2"), r"1 of 4.*'Defalt_2'.*mean 'Default_2'"),
        (("Vis_1", "Vis_2", "Default_1", "Default_2", "csf"), r"1 of 5 columns.*'csf'.*Drop"),
        (("w", "x", "y", "z"), r"4 of 4 columns are no ROI of atlas 'tiny4'"),
        (("Vis_1", "Vis_2", "Vis_2", "Default_2"), r"more than one column for 'Vis_2'"),
    ],
)
def test_unknown_labels_are_named(tmp_path: Path, labels: tuple[str, ...], message: str) -> None:
    write_text(tmp_path / "a.csv", np.ones((len(labels), 9)), labels)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_columns_are_positions(tmp_path: Path, first: int) -> None:
    write_text(tmp_path / "a.csv", SERIES, tuple(str(first + i) for i in range(4)))
    np.testing.assert_array_equal(load(tmp_path), SERIES)


def test_row_numbers_of_pandas_are_recognised(tmp_path: Path) -> None:
    pd.DataFrame(SERIES.T).to_csv(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"5 numbered columns.*save with index=False"):
        load(tmp_path)


def test_text_without_header_is_read_both_ways(tmp_path: Path) -> None:
    for values in (SERIES, SERIES.T):
        np.savetxt(tmp_path / "a.csv", values, delimiter=",")
        np.testing.assert_allclose(load(tmp_path), SERIES)


def test_text_among_numbers_is_located(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", SERIES, ATLAS.labels)
    text = (tmp_path / "a.csv").read_text().splitlines()
    text[4] = "1,2,oops,4"
    (tmp_path / "a.csv").write_text("\n".join(text))
    with pytest.raises(InputError, match=r"a.csv, line 5, column 3 \(Default_1\).*'oops'"):
        load(tmp_path)


def test_names_and_sidecars_say_who_when_and_how_fast(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "ses-b" / "func"
    folder.mkdir(parents=True)
    np.save(folder / "sub-01_ses-b_task-rest_timeseries.npy", SERIES)
    sidecar = folder / "sub-01_ses-b_task-rest_timeseries.json"
    sidecar.write_text(json.dumps({"RepetitionTime": 0.8}))
    (tmp_path / ".cache").mkdir()
    np.save(tmp_path / ".cache" / "sub-02.npy", SERIES)
    (tmp_path / "sub-01_scans.tsv").write_text("filename\n")
    (scan,) = find_scans(tmp_path, ATLAS).scans
    assert scan.scan == "sub-01_ses-b_task-rest_timeseries"
    assert (scan.subject, scan.session, scan.t_r) == ("sub-01", "ses-b", 0.8)
    sidecar.write_text(json.dumps({"RepetitionTime": 800}))
    with pytest.raises(InputError, match=r"timeseries.json is '800'.*milliseconds; give 0.8"):
        find_scans(tmp_path, ATLAS).scans[0].load()


def test_table_of_participants_is_found_and_not_taken_for_a_scan(tmp_path: Path) -> None:
    np.save(tmp_path / "sub-001.npy", SERIES)
    assert find_scans(tmp_path, ATLAS).table is None
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-001\t30\n")
    (tmp_path / "participants.json").write_text('{"RepetitionTime": {"Units": "s"}}')
    found = find_scans(tmp_path, ATLAS)
    assert found.table == tmp_path / "participants.tsv"
    assert [scan.scan for scan in found.scans] == ["sub-001"]


def test_ignored_files_are_no_scans_however_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", SERIES)
    (tmp_path / "cohort.csv").write_text("scan_id,RepetitionTime\na,2\n")
    # It explains the columns of the table and is no sidecar of a scan.
    (tmp_path / "cohort.json").write_text('{"RepetitionTime": {"Units": "s"}}')
    (tmp_path / "participants.tsv").write_text("participant_id\na\n")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "cohort.csv")
    others = [Path("cohort.csv"), Path("participants.tsv")]
    found = find_scans(tmp_path, ATLAS, ignore=others)
    assert ([scan.scan for scan in found.scans], found.table) == (["a"], None)
    with pytest.raises(InputError, match="holds no scans"):
        find_scans(tmp_path, ATLAS, ignore=[*others, tmp_path / "x" / ".." / "a.npy"])


def test_duplicate_scans_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SERIES)
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "a.npy", SERIES)
    with pytest.raises(InputError, match=r"scan 'a' occurs twice: .*a.npy and .*a.npy"):
        find_scans(tmp_path, ATLAS)
