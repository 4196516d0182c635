"""Derivatives of fMRIPrep, written as fMRIPrep writes them, on a small grid."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker

from semantoks.cli.application import run
from semantoks.data import preparation
from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.data.signal import QualityError
from semantoks.data.store import Store
from semantoks.data.tables import complete
from semantoks.errors import ConfigurationError, InputError

SPACE = "MNI152NLin6Asym"
AFFINE = np.array([[-8.0, 0, 0, 40], [0, 8, 0, -40], [0, 0, 8, -30], [0, 0, 0, 1]])
SHAPE = (10, 10, 8)
N_ROIS = 6
T_R = 2.0


def make_labels() -> np.ndarray:
    """Return a volume of six ROIs of 3 x 3 x 3 voxels, numbered 11, 12, ... 16."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    corners = [(x, y, z) for x in (1, 6) for y in (1, 6) for z in (1,)] + [(1, 1, 5), (6, 6, 5)]
    for number, (x, y, z) in enumerate(corners):
        labels[x : x + 3, y : y + 3, z : z + 3] = 11 + number
    return labels


def make_atlas() -> Atlas:
    """Return the atlas of that volume; its order is not that of the values."""
    labels = make_labels()
    order = [13, 11, 16, 12, 15, 14]
    centres = [
        nib.affines.apply_affine(AFFINE, np.argwhere(labels == v).mean(axis=0)) for v in order
    ]
    table = pd.DataFrame(np.array(centres), columns=["x", "y", "z"])
    table = table.assign(value=order, label=[f"roi{v}" for v in order], network="Vis")
    table.loc[3:, "network"] = "Default"
    return Atlas.from_table(table, name="six")


@dataclass
class Study:
    """A folder of derivatives to which runs are added."""

    folder: Path
    atlas: Atlas
    atlas_image: Path

    def options(self, **changes: Any) -> ReaderOptions:
        """Return options that name the atlas image."""
        return ReaderOptions(**{"atlas_image": self.atlas_image, "denoise": "none"} | changes)

    def find(self, **changes: Any) -> list[ScanFile]:
        """List the scans."""
        found = find_scans(self.folder, self.atlas, options=self.options(**changes))
        return found.scans

    def load(self, **changes: Any) -> np.ndarray:
        """Read the only scan."""
        (scan,) = self.find(**changes)
        return scan.load()

    def stem(self, subject: str, session: str, task: str, run: str) -> Path:
        """Return what the names of a run begin with."""
        parts = [f"sub-{subject}", f"ses-{session}", f"task-{task}", f"run-{run}"]
        where = self.folder / parts[0] / parts[1] / "func"
        where.mkdir(parents=True, exist_ok=True)
        return where / "_".join(parts)

    def add(
        self,
        series: np.ndarray,
        *,
        subject: str = "01",
        session: str = "1",
        task: str = "rest",
        run: str = "1",
        space: str = f"{SPACE}_res-2",
        header_t_r: float = T_R,
        sidecar: dict[str, Any] | None = None,
        confounds: pd.DataFrame | None = None,
        mask: np.ndarray | None = None,
        volume: np.ndarray | None = None,
        affine: np.ndarray = AFFINE,
    ) -> Path:
        """Write one run: image, sidecar, mask and confounds; return the image."""
        stem = self.stem(subject, session, task, run)
        values = paint(series, self.atlas) if volume is None else volume
        image = nib.Nifti1Image(values.astype(np.float32), affine)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((*image.header.get_zooms()[:3], header_t_r))
        path = Path(f"{stem}_space-{space}_desc-preproc_bold.nii.gz")
        nib.save(image, path)
        content = {"RepetitionTime": T_R, "SkullStripped": False} if sidecar is None else sidecar
        if content:
            path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(content))
        brain = np.ones(values.shape[:3]) if mask is None else mask
        nib.save(
            nib.Nifti1Image(brain.astype(np.uint8), affine),
            path.with_name(path.name.replace("preproc_bold", "brain_mask")),
        )
        if confounds is not None:
            confounds.to_csv(
                f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a"
            )
        return path


def paint(series: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Fill the voxels of every ROI with its series, and those of none with noise."""
    labels = make_labels()
    volume = np.random.default_rng(1).normal(500, 5, (*SHAPE, series.shape[1]))
    for row, value in zip(series, atlas.values, strict=True):
        volume[labels == value] = row
    return volume


def make_series(n: int = 120, seed: int = 0) -> np.ndarray:
    """Return series (roi, time) with a mean as BOLD has it."""
    rng = np.random.default_rng(seed)
    return 1000 + 10 * rng.standard_normal((N_ROIS, n)).cumsum(axis=1)


def make_confounds(n: int, seed: int = 2) -> pd.DataFrame:
    """Return a confounds table with the columns of fMRIPrep."""
    rng = np.random.default_rng(seed)
    table = {}
    rigid = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    for name in (*rigid, "csf", "white_matter", "global_signal"):
        values = rng.standard_normal(n).cumsum()
        derivative = np.concatenate([[np.nan], np.diff(values)])
        table |= {
            name: values,
            f"{name}_derivative1": derivative,
            f"{name}_power2": values**2,
            f"{name}_derivative1_power2": derivative**2,
        }
    table["framewise_displacement"] = np.concatenate([[np.nan], np.full(n - 1, 0.1)])
    table["std_dvars"] = np.concatenate([[np.nan], np.full(n - 1, 1.0)])
    for i in range(3):
        table[f"cosine_{i:02d}"] = np.cos(np.pi * (i + 1) * (np.arange(n) + 0.5) / n)
    return pd.DataFrame(table)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Return an empty data set and its atlas."""
    folder = tmp_path / "derivatives"
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "fMRIPrep", "BIDSVersion": "1.4"}')
    image = tmp_path / f"tpl-{SPACE}_atlas-six_dseg.nii.gz"
    nib.save(nib.Nifti1Image(make_labels(), AFFINE), image)
    return Study(folder, make_atlas(), image)


def test_series_come_back_in_the_order_of_the_atlas(study: Study) -> None:
    series = make_series()
    study.add(series)
    np.testing.assert_allclose(study.load(), series, rtol=1e-6)


def test_means_are_those_of_nilearn(study: Study) -> None:
    volume = np.random.default_rng(5).normal(500, 50, (*SHAPE, 30))
    mask = np.random.default_rng(6).random(SHAPE) < 0.8
    path = study.add(make_series(30), volume=volume, mask=mask)
    masker = NiftiLabelsMasker(
        study.atlas_image,
        mask_img=str(path).replace("preproc_bold", "brain_mask"),
        standardize=None,
    )
    theirs = masker.fit_transform(path).T
    values = [int(value) for key, value in masker.region_ids_.items() if key != "background"]
    ours = study.load()[[study.atlas.values.index(value) for value in values]]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_runs_of_a_session_are_scans_of_one_subject(study: Study) -> None:
    for run_ in ("1", "2"):
        study.add(make_series(20, int(run_)), run=run_)
    study.add(make_series(20), session="2", task="nback")
    study.add(make_series(20), subject="02")
    scans = study.find()
    assert [scan.scan for scan in scans] == [
        "sub-01_ses-1_task-rest_run-1",
        "sub-01_ses-1_task-rest_run-2",
        "sub-01_ses-2_task-nback_run-1",
        "sub-02_ses-1_task-rest_run-1",
    ]
    assert [scan.subject for scan in scans] == ["sub-01"] * 3 + ["sub-02"]
    assert [scan.session for scan in scans] == ["ses-1", "ses-1", "ses-2", "ses-1"]
    assert {scan.t_r for scan in scans} == {T_R}
    assert len(study.find(task="task-nback")) == 1
    assert len(study.find(run="02")) == 1
    with pytest.raises(InputError, match="no recording with task-movie; there are nback, rest"):
        study.find(task="movie")


def test_single_file_is_read(study: Study) -> None:
    path = study.add(make_series(20))
    (scan,) = find_scans(path, study.atlas, options=study.options()).scans
    assert scan.load().shape == (N_ROIS, 20)


def test_scans_travel_to_other_processes(study: Study) -> None:
    series = make_series(20)
    study.add(series)
    (scan,) = study.find()
    load = cloudpickle.loads(cloudpickle.dumps(scan.load))
    np.testing.assert_allclose(load(), series, rtol=1e-6)


def test_repetition_time_of_sidecar_and_header(study: Study) -> None:
    path = study.add(make_series(20), header_t_r=0)
    (scan,) = study.find()
    assert scan.t_r == T_R
    scan.load()
    beside = path.with_name(path.name.replace(".nii.gz", ".json"))
    beside.unlink()
    study.add(make_series(20), sidecar={}, header_t_r=1.5)
    assert study.find()[0].t_r == 1.5
    # A sidecar above all runs is inherited, one beside the image wins.
    (study.folder / "task-rest_bold.json").write_text('{"RepetitionTime": 0.8}')
    assert study.find()[0].t_r == 0.8
    (study.folder / "task-nback_bold.json").write_text('{"RepetitionTime": 0.7}')
    assert study.find()[0].t_r == 0.8
    beside.write_text('{"RepetitionTime": 1.5}')
    assert study.find()[0].t_r == 1.5


def test_contradiction_of_repetition_times_names_both(study: Study) -> None:
    study.add(make_series(20), header_t_r=3.0)
    (scan,) = study.find()
    with pytest.raises(InputError, match=r"sidecar is 2 s, but the header.* 3 s") as caught:
        scan.load()
    assert "sub-01_ses-1_task-rest_run-1_space" in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", '{"RepetitionTime": "soon"}'])
def test_broken_sidecar_is_named(study: Study, content: str) -> None:
    path = study.add(make_series(20))
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(content)
    (scan,) = study.find()
    with pytest.raises(InputError, match="JSON"):
        scan.load()


def test_other_space_is_refused_until_accepted(study: Study) -> None:
    series = make_series(20)
    study.add(series, space="MNI152NLin2009cAsym")
    with pytest.raises(InputError, match="in the space MNI152NLin2009cAsym, but the atlas image"):
        study.find()
    (scan,) = study.find(atlas_space="MNI152NLin2009cAsym")
    np.testing.assert_allclose(scan.load(), series, rtol=1e-6)
    assert "shifted by up to several mm" in scan.notices[0]


def test_the_space_of_the_atlas_is_chosen_among_several(study: Study) -> None:
    study.add(make_series(20), space="MNI152NLin2009cAsym")
    right = study.add(make_series(20))
    (scan,) = study.find()
    assert scan.source == str(right)
    study.add(make_series(20), space=f"{SPACE}_res-1")
    with pytest.raises(InputError, match=r"is there 2 times.*--res"):
        study.find()
    assert study.find(res="2")[0].source == str(right)


def test_atlas_image_without_a_space_is_asked_for_it(study: Study, tmp_path: Path) -> None:
    study.add(make_series(20))
    nameless = shutil.copy(study.atlas_image, tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match="--atlas-space"):
        study.find(atlas_image=Path(nameless))
    assert len(study.find(atlas_image=Path(nameless), atlas_space=SPACE)) == 1


def test_missing_atlas_image_is_asked_for(study: Study) -> None:
    study.add(make_series(20))
    with pytest.raises(InputError, match="--atlas-image"):
        study.find(atlas_image=None)


def test_atlas_of_another_resolution_is_resampled(study: Study, tmp_path: Path) -> None:
    series = make_series(20)
    study.add(series)
    fine = np.repeat(np.repeat(np.repeat(make_labels(), 2, 0), 2, 1), 2, 2)
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    # The centre of the first fine voxel is a quarter of a coarse one before that of the first.
    affine[:3, 3] = nib.affines.apply_affine(AFFINE, [-0.25, -0.25, -0.25])
    path = tmp_path / f"fine_space-{SPACE}_dseg.nii.gz"
    nib.save(nib.Nifti1Image(fine, affine), path)
    np.testing.assert_allclose(study.load(atlas_image=path), series, rtol=1e-6)


def test_labels_that_lie_elsewhere_are_refused(study: Study, tmp_path: Path) -> None:
    study.add(make_series(20))
    labels = make_labels()
    swapped = np.where(labels > 0, 11 + (labels - 11 + 1) % N_ROIS, 0).astype(np.int16)
    path = tmp_path / f"swapped_space-{SPACE}.nii.gz"
    nib.save(nib.Nifti1Image(swapped, AFFINE), path)
    with pytest.raises(InputError, match="numbers its labels otherwise than atlas 'six'"):
        study.find(atlas_image=path)


def test_labels_that_are_not_there_are_refused(study: Study, tmp_path: Path) -> None:
    study.add(make_series(20))
    labels = np.where(make_labels() == 14, 0, make_labels())
    path = tmp_path / f"fewer_space-{SPACE}.nii.gz"
    nib.save(nib.Nifti1Image(labels, AFFINE), path)
    with pytest.raises(InputError, match=r"lacks 1 of the 6 ROIs of atlas 'six' \(roi14\)"):
        study.find(atlas_image=path)
    nib.save(nib.Nifti1Image(make_labels() / np.float32(3), AFFINE), path)
    with pytest.raises(InputError, match="no volume of labels"):
        study.find(atlas_image=path)
    valueless = dataclasses.replace(study.atlas, values=())
    with pytest.raises(InputError, match="column 'value'"):
        find_scans(study.folder, valueless, options=study.options())


def test_roi_outside_the_brain_mask_is_missing(study: Study) -> None:
    series = make_series(20)
    mask = np.ones(SHAPE)
    mask[make_labels() == 16] = 0
    # Of ROI 12, one of three slices is left: a third, which is less than half.
    mask[:, 7:9][make_labels()[:, 7:9] == 12] = 0
    study.add(series, mask=mask)
    loaded = study.load()
    lost = [study.atlas.values.index(16), study.atlas.values.index(12)]
    assert np.isnan(loaded[lost]).all()
    kept = [i for i in range(N_ROIS) if i not in lost]
    np.testing.assert_allclose(loaded[kept], series[kept], rtol=1e-6)
    partly = study.load(min_roi_coverage=0.3)
    assert np.isnan(partly).all(axis=1).tolist() == [i == lost[0] for i in range(N_ROIS)]


def test_voxels_without_signal_do_not_count(study: Study) -> None:
    series = make_series(20)
    volume = paint(series, study.atlas)
    labels = make_labels()
    volume[:, :, :3][labels[:, :, :3] == 11] = 0  # two thirds of it, in a brain mask of ones
    volume[1:2][labels[1:2] == 13] = np.nan  # one third
    study.add(series, volume=volume)
    loaded = study.load()
    assert np.isnan(loaded[study.atlas.values.index(11)]).all()
    row = study.atlas.values.index(13)
    np.testing.assert_allclose(loaded[row], series[row], rtol=1e-6)


def test_field_of_view_that_cuts_the_atlas_is_seen(study: Study) -> None:
    series = make_series(20)
    # Recorded from slice 3 on: ROIs in slices 1 to 3 keep a third, those in 5 to 7 are whole.
    affine = AFFINE.copy()
    affine[:3, 3] = nib.affines.apply_affine(AFFINE, [0, 0, 3])
    study.add(series, volume=paint(series, study.atlas)[:, :, 3:], affine=affine)
    whole = [study.atlas.values.index(value) for value in (15, 16)]
    missing = np.isnan(study.load()).all(axis=1)
    assert sorted(np.flatnonzero(~missing)) == sorted(whole)


def test_missing_mask_is_named(study: Study) -> None:
    path = study.add(make_series(20))
    path.with_name(path.name.replace("preproc_bold", "brain_mask")).unlink()
    with pytest.raises(InputError, match=r"desc-brain_mask.nii.gz is not there"):
        study.load()


@pytest.mark.parametrize("keep", [0.6, 0.02, 0.0])
def test_truncated_image_is_named(study: Study, keep: float) -> None:
    path = study.add(make_series(20))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    (scan,) = study.find()
    with pytest.raises(InputError, match="cannot be read") as caught:
        scan.load()
    assert path.name in str(caught.value)


def test_link_to_what_was_not_downloaded(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study.add(make_series(20))
    path.unlink()
    path.symlink_to(tmp_path / ".git" / "annex" / "object")
    table = tmp_path / "six.tsv"
    study.atlas.to_table().to_csv(table, sep="\t", index=False)
    words = ["prepare", str(study.folder), "--atlas", str(table), "--out", str(tmp_path / "store")]
    assert run([*words, "--atlas-image", str(study.atlas_image)]) == 1
    assert "link to a file that was not downloaded" in " ".join(capsys.readouterr().err.split())


def test_volume_without_time_is_refused(study: Study) -> None:
    path = study.add(make_series(20))
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE), path)
    with pytest.raises(InputError, match=r"\(x, y, z, time\) was expected"):
        study.load()


def test_confounds_are_needed_for_denoising_only(study: Study) -> None:
    path = study.add(make_series(60))
    expected = path.parent / "sub-01_ses-1_task-rest_run-1_desc-confounds_timeseries.tsv"
    with pytest.raises(InputError, match="has no confounds table") as caught:
        study.load(denoise="auto")
    assert str(expected) in str(caught.value)
    (scan,) = study.find(denoise="none")
    assert np.isnan(scan.motion)


def test_first_volumes_are_dropped_and_motion_is_measured(study: Study) -> None:
    series = make_series(60)
    confounds = make_confounds(60)
    confounds.loc[:2, "framewise_displacement"] = [np.nan, 9.0, 9.0]
    for i in range(3):
        confounds[f"non_steady_state_outlier{i:02d}"] = (np.arange(60) == i).astype(float)
    study.add(series, confounds=confounds)
    (scan,) = study.find()
    assert scan.motion == pytest.approx(0.1)
    assert scan.phenotypes["n_non_steady"] == 3
    assert scan.phenotypes["denoising"] == "none"
    np.testing.assert_allclose(scan.load(), series[:, 3:], rtol=1e-6)
    np.testing.assert_allclose(study.load(non_steady="kept"), series, rtol=1e-6)


def test_rows_of_another_run_are_refused(study: Study) -> None:
    study.add(make_series(60), confounds=make_confounds(59))
    with pytest.raises(InputError, match=r"60 volumes, but its confounds table .* has 59 rows"):
        study.load()


def test_command_line_from_derivatives_to_store(study: Study, tmp_path: Path) -> None:
    study.add(make_series(150), confounds=make_confounds(150))
    study.add(make_series(40), subject="02", confounds=make_confounds(40))
    pd.DataFrame({"participant_id": ["sub-01", "sub-02"], "age": [30, 40]}).to_csv(
        study.folder / "participants.tsv", sep="\t", index=False
    )
    table = tmp_path / "six.tsv"
    study.atlas.to_table().to_csv(table, sep="\t", index=False)
    words = ["prepare", str(study.folder), "--atlas", str(table), "--out", str(tmp_path / "store")]
    words += ["--atlas-image", str(study.atlas_image), "--quiet"]
    words += ["--workers", "1", "--no-quality-page"]
    assert run(words) == 0
    store = Store.open(tmp_path / "store")
    assert store.scans["scan"].tolist() == ["sub-01_ses-1_task-rest_run-1"]
    assert store.scans["age"].tolist() == [30]
    assert store.scans["denoising"].tolist() == ["simple"]
    refused = pd.read_csv(tmp_path / "store" / "refused.csv")
    assert refused["scan"].tolist() == ["sub-02_ses-1_task-rest_run-1"]
    assert refused["category"].tolist() == ["short"]
    assert "40 volumes" in refused["reason"][0]


def test_short_run_is_refused_by_name_without_denoising(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.add(make_series(40))
    table = tmp_path / "six.tsv"
    study.atlas.to_table().to_csv(table, sep="\t", index=False)
    words = ["prepare", str(study.folder), "--atlas", str(table), "--out", str(tmp_path / "store")]
    words += ["--atlas-image", str(study.atlas_image), "--denoise", "none"]
    assert run(words) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "'sub-01_ses-1_task-rest_run-1': too short: 40 samples" in said
    assert not (tmp_path / "store").exists()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"denoise is 'simpel'.*Did you mean 'simple'"):
        ReaderOptions(denoise="simpel")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="share between 0 and 1"):
        ReaderOptions(min_roi_coverage=50)
    with pytest.raises(ConfigurationError, match="must be positive"):
        ReaderOptions(fd_threshold=0)


def test_two_confounds_tables_are_refused(study: Study) -> None:
    path = study.add(make_series(60), confounds=make_confounds(60))
    stem = path.parent / "sub-01_ses-1_task-rest_run-1_desc-confounds"
    content = Path(f"{stem}_timeseries.tsv").read_bytes()
    Path(f"{stem}_regressors.tsv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match="2 confounds tables"):
        study.load()
    Path(f"{stem}_timeseries.tsv").unlink()
    assert study.load(denoise="simple", band=(None, None)).shape == (N_ROIS, 60)


def test_too_short_for_denoising_is_a_matter_of_quality(study: Study) -> None:
    study.add(make_series(60), confounds=make_confounds(60))
    with pytest.raises(QualityError, match=r"60 volumes at 2 s have about 22 degrees of freedom"):
        study.load(denoise="simple", band=(0.01, 0.1))


def test_confounds_are_regressed_out_at_the_time_that_the_user_gives(study: Study) -> None:
    seconds = T_R * np.arange(300)
    rng = np.random.default_rng(0)
    table = make_confounds(300)
    # In the band at 2 s; taken for 1 s, half of the band is another one.
    table["trans_x"] = np.sin(2 * np.pi * 0.08 * seconds) + 5 * np.sin(2 * np.pi * 0.13 * seconds)
    brain = 1000 + rng.standard_normal((N_ROIS, 300)) + 3 * table["trans_x"].to_numpy()
    study.add(brain, header_t_r=T_R, confounds=table)
    told = {"denoise": "motion", "band": (0.01, 0.1)}
    (scan,) = study.find(**told)
    expected = scan.load()
    study.add(brain, header_t_r=0.0, sidecar={"SkullStripped": False}, confounds=table)
    (scan,) = study.find(**told)
    assert scan.t_r is None
    with pytest.raises(InputError, match=r"does not say its repetition time, which denoising"):
        scan.load()
    done = complete([scan], own_table=None, table=None, t_r=T_R, policy="default")
    np.testing.assert_allclose(done.scans[0].load(), expected)


def test_a_header_in_milliseconds_is_refused(study: Study) -> None:
    study.add(make_series(60), header_t_r=2000.0, sidecar={})
    (scan,) = study.find()
    with pytest.raises(InputError, match=r"header of .* is '2000.0', .* give 2\."):
        scan.load()


def test_workers_of_a_cluster_get_the_whole_path_of_the_atlas_image(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.add(make_series(60))
    seen: list[Path | None] = []

    def find(source: Path, atlas: Atlas, *, options: ReaderOptions, **others: Any) -> Any:
        seen.append(options.atlas_image)
        return find_scans(source, atlas, options=options, **others)

    monkeypatch.setattr(preparation, "find_scans", find)
    monkeypatch.chdir(study.atlas_image.parent)
    reading = study.options(atlas_image=Path(study.atlas_image.name))
    # Nobody answers there, which is found out after the scans were.
    with pytest.raises(InputError, match="scheduler file"):
        preparation.prepare(
            study.folder,
            tmp_path / "store",
            atlas=study.atlas,
            reading=reading,
            scheduler=str(tmp_path / "none.json"),
        )
    assert seen == [study.atlas_image.absolute()]


def test_another_atlas_image_of_the_same_name_starts_over(study: Study, tmp_path: Path) -> None:
    study.add(make_series(150))

    def prepare(**others: Any) -> Any:
        told = {"atlas": study.atlas, "reading": study.options(), "existing": "reuse"}
        return preparation.prepare(study.folder, tmp_path / "store", **told, **others)

    prepare()
    assert prepare().n_resumed == 1
    os.utime(study.atlas_image, (1, 1))
    with pytest.raises(InputError, match="from other files or with other arguments"):
        prepare()


def test_files_beside_the_images_count_when_it_goes_on(study: Study, tmp_path: Path) -> None:
    image = study.add(make_series(150), confounds=make_confounds(150))
    table = Path(f"{study.stem('01', '1', 'rest', '1')}_desc-confounds_timeseries.tsv")
    description = table.with_suffix(".json")
    description.write_text("{}")
    shared = study.folder / "task-rest_bold.json"
    shared.write_text('{"TaskName": "rest"}')

    def prepare() -> int:
        told = {"atlas": study.atlas, "reading": study.options(), "existing": "reuse"}
        return preparation.prepare(study.folder, tmp_path / "store", **told).n_resumed

    assert [prepare(), prepare()] == [0, 1]
    mask = image.with_name(image.name.replace("preproc_bold", "brain_mask"))
    sidecar = image.with_name(image.name.replace(".nii.gz", ".json"))
    for path in (table, description, mask, sidecar, shared):
        before = path.stat()
        os.utime(path, (1, 1))
        with pytest.raises(InputError, match="from other files or with other arguments"):
            prepare()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    description.unlink()
    with pytest.raises(InputError, match="from other files or with other arguments"):
        prepare()


def test_images_that_ica_aroma_cleaned_are_not_read_and_that_is_said(study: Study) -> None:
    image = study.add(make_series(60), confounds=make_confounds(60))
    study.add(make_series(60), run="2")
    cleaned = image.with_name(image.name.replace("_res-2_desc-preproc", "_desc-smoothAROMAnonaggr"))
    cleaned.write_bytes(b"not even opened")
    first, second = study.find(denoise="simple")
    assert (first.source, second.notices) == (str(image), ())
    assert "ICA-AROMA" in first.notices[0]
    assert first.notices[0].endswith("Read is desc-preproc, denoised by 'simple'.")
    for path in study.folder.rglob("*desc-preproc_bold.*"):
        path.unlink()
    later = cleaned.with_name(cleaned.name.replace("smoothAROMAnonaggr", "nonaggrDenoised"))
    for source in (study.folder, cleaned, later):
        with pytest.raises(InputError, match=r"by ICA-AROMA and is not read.*desc-preproc_bold"):
            find_scans(source, study.atlas, options=study.options())
        if source == cleaned:
            cleaned.rename(later)
    later.rename(later.with_name(later.name.replace("nonaggrDenoised", "denoised")))
    with pytest.raises(InputError, match=r"is an image that XCP-D denoised.*_timeseries\.tsv"):
        find_scans(study.folder, study.atlas, options=study.options())
    (denoised,) = study.folder.rglob("*desc-denoised_bold.nii.gz")
    denoised.rename(Path(f"{study.stem('01', '1', 'rest', '1')}_desc-preproc_bold.nii.gz"))
    for format_ in ("auto", "fmriprep"):
        with pytest.raises(InputError, match=r"is in the space of the scanner.*--output-spaces"):
            find_scans(study.folder, study.atlas, format=format_, options=study.options())
