"""One person under two ids is found by the series."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing, filter_series, standardize
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError
from semantoks.evaluation.same_series import check_people, same_series
from semantoks.evaluation.splitters import SubjectFolds, check_splits

ATLAS = Atlas.from_networks({"Vis": 10, "Cont": 10, "Default": 10}, name="thirty")


def band_passed(seed: int, length: int = 200) -> np.ndarray:
    random = np.random.default_rng(seed)
    shared = random.standard_normal((3, length)).repeat(10, axis=0)
    raw = random.standard_normal((30, length)) + shared
    return standardize(filter_series(raw, 2.0))


def write(folder: Path, series: dict[tuple[str, str], np.ndarray], atlas: Atlas = ATLAS) -> Store:
    with StoreWriter(folder / "store", atlas, Preprocessing(min_samples=20), {}) as writer:
        for (scan, subject), values in series.items():
            recording = Recording(
                values.astype(np.float32), t_r=2.0, atlas=atlas, scan=scan, subject=subject
            )
            writer.add(recording, np.ones(len(atlas), dtype=bool))
        return writer.finish(())


def cohort(n: int = 12) -> dict[tuple[str, str], np.ndarray]:
    return {(f"scan{i}", f"person{i}"): band_passed(i) for i in range(n)}


def test_different_people_and_sessions_of_one_are_not_refused(tmp_path):
    series = cohort() | {("scan0 again", "person0"): band_passed(0)}
    store = write(tmp_path, series)
    assert same_series(store) == ()
    check_people(store)


def test_the_same_numbers_under_two_ids_are_refused_with_both_names(tmp_path):
    store = write(tmp_path, cohort() | {("copy", "somebody"): band_passed(3)})
    with pytest.raises(
        InputError, match=r"'scan3' of subject 'person3' and 'copy' of subject 'somebody' \(every"
    ):
        check_people(store)
    scans = store.scans
    splits = SubjectFolds(3, 1).splits(scans, np.arange(len(scans)) % 2)
    check_splits(splits, scans)
    with pytest.raises(InputError, match="same recording"):
        check_splits(splits, scans, store=store)


@pytest.mark.parametrize(
    ("change", "shift"),
    [
        (lambda x: x + 0.2 * np.random.default_rng(9).standard_normal(x.shape), 0),
        (lambda x: x[:, 30:], 30),
        (lambda x: standardize(x[:, 60:170]), 60),
        (lambda x: x * np.linspace(0.7, 1.3, 30)[:, None], 0),
    ],
    ids=["noise", "cut at the start", "cut at both ends", "other gains"],
)
def test_the_same_scan_otherwise_cut_or_processed_is_refused(tmp_path, change, shift):
    store = write(tmp_path, cohort() | {("copy", "somebody"): change(band_passed(5))})
    (found,) = same_series(store)
    assert found.scans == ("scan5", "copy")
    assert found.subjects == ("person5", "somebody")
    assert found.shift == shift
    assert 0.9 < found.correlation < 1
    with pytest.raises(InputError, match=rf"at a shift of {shift} samples"):
        check_people(store)


def test_pieces_of_one_recording_that_overlap_by_half_are_found(tmp_path):
    whole = band_passed(50, 240)
    store = write(
        tmp_path, cohort() | {("early", "p"): whole[:, :160], ("late", "q"): whole[:, 80:]}
    )
    (found,) = same_series(store)
    assert (found.scans, found.shift) == (("early", "late"), 80)


def test_only_the_scans_asked_for_are_compared(tmp_path):
    store = write(tmp_path, cohort() | {("copy", "somebody"): band_passed(3)})
    assert same_series(store, ["scan0", "scan1", "copy"]) == ()
    assert same_series(store, ["copy"]) == ()
    with pytest.raises(InputError, match="'scan99'"):
        same_series(store, ["scan99"])


def test_two_pairs_of_real_scans_are_one_recording(shared, tmp_path):
    """ABIDE holds two recordings twice, as those of people of other age and diagnosis."""
    table = pd.read_csv(shared / "data" / "abide" / "abide1_subjects.csv")
    rows = np.flatnonzero(table["scan_site"].isin(["KKI", "Yale"]))[::2]
    known = np.flatnonzero(table["sub_id"].isin([50805, 50808, 50578, 50602]))
    file = next((shared / "data" / "abide").glob("*.h5"))
    series = {}
    with h5py.File(file) as content:
        offsets, values = content["offsets"][:], content["timeseries"]
        for row in np.union1d(rows, known):
            scan = values[offsets[row] : offsets[row + 1]].T.astype(float)
            alive = scan.std(axis=1) > 0
            scan[alive] = standardize(filter_series(scan[alive], table["tr"][row]))
            series[table["file_id"][row], str(table["sub_id"][row])] = scan
    store = write(tmp_path, series, Atlas.load("cc200"))
    found = {pair.subjects for pair in same_series(store)}
    assert found == {("50805", "50808"), ("50578", "50602")}
