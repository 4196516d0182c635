"""A part of a cohort is a store of its own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from semantoks.data.preparation import prepare
from semantoks.data.selection import read_subjects, select_scans, select_subjects
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.errors import InputError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("selection")
    recordings = simulate_cohort(6, sessions=2, n_samples=130, seed=0)
    write_cohort(recordings, folder / "raw")
    prepare(folder / "raw", folder / "store", atlas=recordings[0].atlas)
    return Store.open(folder / "store")


def test_scans_windows_and_table_are_those_of_the_whole(store: Store) -> None:
    rows = np.array([7, 2, 3])
    part = select_scans(store, rows)
    assert len(part) == 3
    for place, row in enumerate([2, 3, 7]):
        np.testing.assert_array_equal(part.series(place), store.series(row))
    one = part.windows(np.array([2]), np.array([5]), 100)
    np.testing.assert_array_equal(one, store.windows(np.array([7]), np.array([5]), 100))
    assert part.scans["scan"].tolist() == store.scans["scan"].iloc[[2, 3, 7]].tolist()
    assert part.network_valid.shape == (3, len(store.atlas.network_names))


def test_people_keep_their_scans_together(store: Store) -> None:
    people = store.scans["subject"].unique()
    part = select_subjects(store, [people[4], people[1]])
    assert part.n_subjects == 2
    assert part.subject_codes.tolist() == [0, 0, 1, 1]
    assert set(part.scans["subject"]) == {people[1], people[4]}


def test_the_fingerprint_says_what_was_chosen(store: Store) -> None:
    first, second = select_scans(store, np.arange(4)), select_scans(store, np.arange(5))
    assert len({store.fingerprint, first.fingerprint, second.fingerprint}) == 3
    assert select_scans(store, np.arange(4)).fingerprint == first.fingerprint


def test_a_part_of_a_part_and_another_process(store: Store) -> None:
    part = select_scans(select_scans(store, np.array([1, 4, 6, 9])), np.array([1, 3]))
    assert part.rows.tolist() == [4, 9]
    again = pickle.loads(pickle.dumps(part))
    assert again.rows.tolist() == [4, 9]
    np.testing.assert_array_equal(again.series(1), store.series(9))
    assert part.scans["scan"].tolist() == store.scans["scan"].iloc[[4, 9]].tolist()


@pytest.mark.parametrize(
    ("rows", "match"),
    [([], "none was chosen"), ([1, 1], "more than once"), ([0, 99], "has scans 0 to 11")],
)
def test_impossible_rows_are_refused(store: Store, rows: list[int], match: str) -> None:
    with pytest.raises(InputError, match=match):
        select_scans(store, np.array(rows, dtype=np.int64))


def test_nobody_never_means_everybody(store: Store) -> None:
    with pytest.raises(InputError, match="is empty"):
        select_subjects(store, [])
    with pytest.raises(InputError, match=r"1 subject\(s\) are not in .*: nobody"):
        select_subjects(store, ["nobody"])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "anna\n otto \n\n", ["anna", "otto"]),
        ("a.csv", "site,subject\nx,anna\ny,otto\ny,otto\n", ["anna", "otto"]),
        ("a.tsv", "participant_id\tage\nsub-1\t3\n", ["sub-1"]),
    ],
)
def test_lists_of_subjects(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert read_subjects(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "no text"),
        ("a.txt", b"anna\nanna\n", "'anna' more than once"),
        ("a.csv", b"who\nanna\n", "no column subject or participant_id, but who"),
        ("none.txt", None, "No such file"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match):
        read_subjects(tmp_path / name)
