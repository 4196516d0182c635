"""Embeddings as a BIDS derivative dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.bids import parse_bids_filename

from semantoks.errors import InputError
from semantoks.evaluation.derivatives import bids_stems, write_bids_derivatives
from semantoks.evaluation.embedding import Embeddings, read_embeddings


def embeddings(
    subjects: list[str], scans: list[str] | None = None, **more: list[str]
) -> Embeddings:
    features = np.random.default_rng(0).standard_normal((len(subjects), 3)).astype(np.float32)
    frame = pd.DataFrame({"scan": scans or subjects, "subject": subjects, **more})
    frame[["mean_0000", "mean_0001", "cls_0000"]] = features
    return Embeddings(frame, {"features": "mean+cls", "windows": 8, "store": {"path": "a.store"}})


def test_everything_can_be_read_back(tmp_path: Path) -> None:
    given = embeddings(
        ["sub-01", "sub-01", "sub-02"],
        ["sub-01_ses-1_task-rest", "sub-01_ses-2_task-rest", "sub-02_ses-1_task-rest"],
        session=["ses-1", "ses-2", "ses-1"],
    )
    folder = write_bids_derivatives(
        given, tmp_path / "out", sources={"sub-02_ses-1_task-rest": "raw/two.nii.gz"}
    )
    description = json.loads((folder / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "semantoks"
    index = pd.read_csv(folder / "scans.tsv", sep="\t")
    assert index["scan"].tolist() == given.frame["scan"].tolist()
    for row, place in enumerate(index["filename"]):
        table = pd.read_csv(folder / place, sep="\t")
        assert list(table.columns) == given.feature_names
        assert np.allclose(table.to_numpy()[0], given.features[row], rtol=1e-8)
        entities = parse_bids_filename(str(folder / place))["entities"]
        assert (entities["sub"], entities["desc"]) == (f"0{1 + (row == 2)}", "semantoks")
        sidecar = json.loads((folder / place).with_suffix(".json").read_text())
        assert sidecar["Scan"] == given.frame["scan"][row]
        assert sidecar["Sources"] == (["raw/two.nii.gz"] if row == 2 else [])
    again = read_embeddings(folder / "features.parquet")
    pd.testing.assert_frame_equal(again.frame, given.frame)
    people = pd.read_csv(folder / "participants.tsv", sep="\t")["participant_id"].tolist()
    assert people == ["sub-01", "sub-02"]


def test_names_that_are_not_of_bids_are_made_so(tmp_path: Path) -> None:
    folder = write_bids_derivatives(embeddings(["NYU_0051", "x y"]), tmp_path / "out")
    assert (folder / "sub-NYU0051/func/sub-NYU0051_desc-semantoks_features.tsv").is_file()


def test_several_scans_of_a_session_are_runs() -> None:
    given = embeddings(["a", "a", "b"], ["1", "2", "3"])
    assert bids_stems(given.frame) == ["sub-a_run-1", "sub-a_run-2", "sub-b"]


def test_entities_come_in_the_order_of_the_standard() -> None:
    mixed = "space-X_res-2_den-91k_desc-y_run-3_dir-AP_part-mag_echo-1_acq-b_task-rest_ses-1_sub-01"
    written = "sub-01_ses-1_task-rest_acq-b_dir-AP_run-3_echo-1_part-mag_space-X_res-2_den-91k"
    assert bids_stems(embeddings(["sub-01"], [mixed], session=["ses-1"]).frame) == [written]
    # A number that is given to a scan stands where its run would.
    twice = [f"sub-01_task-rest_echo-2_space-X_desc-{x}" for x in "ab"]
    assert bids_stems(embeddings(["sub-01"] * 2, twice).frame) == [
        f"sub-01_task-rest_run-{run}_echo-2_space-X" for run in (1, 2)
    ]


def test_two_people_never_become_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a_1' and 'a1' would both be sub-a1"):
        write_bids_derivatives(embeddings(["a_1", "a1"]), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scans", "match"),
    [
        (["sub-a_run-1", "sub-a_run-1_desc-x"], "same BIDS name sub-a_run-1"),
        (["sub-a", "sub-a_desc-x", "sub-a_run-2"], "same BIDS name sub-a_run-2"),
    ],
)
def test_two_scans_never_become_one(scans: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match):
        bids_stems(embeddings(["a"] * len(scans), scans).frame)


def test_a_name_without_letters_is_refused() -> None:
    with pytest.raises(InputError, match="no letter or digit"):
        bids_stems(embeddings(["--"]).frame)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        write_bids_derivatives(embeddings(["a"]), tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "x"
