"""CIFTI series, written by nibabel as HCP, fMRIPrep and XCP-D write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cloudpickle
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel import cifti2

from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions
from semantoks.errors import InputError

ATLAS = Atlas.from_table(
    pd.DataFrame(
        {
            "label": ["LH_Vis_1", "LH_Vis_2", "RH_Vis_1", "RH_Vis_2", "HIP-lh", "THA-rh"],
            "network": ["Vis"] * 4 + ["Subcortical"] * 2,
        }
    ),
    name="six",
)
N_VERTICES = 60
SHAPE = (10, 12, 10)
AFFINE = np.diag([2.0, 2, 2, 1])
LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"
VOXELS = {"CIFTI_STRUCTURE_HIPPOCAMPUS_LEFT": 4, "CIFTI_STRUCTURE_THALAMUS_RIGHT": 5}
RUN = "rfMRI_REST1_LR"


def brain_models(
    order: tuple[str, ...] = (LEFT, RIGHT, *VOXELS), *, wall: int = 6, n_vertices: int = N_VERTICES
) -> cifti2.BrainModelAxis:
    """Return grayordinates of two surfaces without a medial wall, and two boxes of voxels."""
    parts = []
    for structure in order:
        if "CORTEX" in structure:
            vertices = np.arange(wall, n_vertices)
            parts.append(cifti2.BrainModelAxis.from_surface(vertices, n_vertices, structure))
        else:
            mask = np.zeros(SHAPE, dtype=bool)
            z = VOXELS[structure]
            mask[2:5, 2:5, z] = True
            parts.append(cifti2.BrainModelAxis.from_mask(mask, structure, AFFINE))
    axis = parts[0]
    for part in parts[1:]:
        axis += part
    return axis


def roi_of(axis: cifti2.BrainModelAxis) -> np.ndarray:
    """Return the ROI of every grayordinate: halves of surfaces, and each box; -1 at the wall."""
    rois = np.full(len(axis), -1)
    middle = (6 + N_VERTICES) // 2
    for i, (name, vertex) in enumerate(zip(axis.name, axis.vertex, strict=True)):
        if name in (LEFT, RIGHT) and vertex >= 6:
            rois[i] = 2 * (name == RIGHT) + (vertex >= middle)
        elif name in VOXELS:
            rois[i] = 4 + list(VOXELS).index(name)
    return rois


def write_dlabel(
    path: Path, axis: cifti2.BrainModelAxis | None = None, names: dict[int, str] | None = None
) -> Path:
    """Write labels; their keys are not in the order of the atlas."""
    axis = brain_models() if axis is None else axis
    keys = np.array([0, 9, 3, 7, 5, 2, 8])[roi_of(axis) + 1]
    names = names or {9: "7Networks_LH_Vis_1", 3: "7Networks_LH_Vis_2", 7: "7Networks_RH_Vis_1"} | {
        5: "7Networks_RH_Vis_2",
        2: "HIP-lh",
        8: "THA-rh",
    }
    table = {0: ("???", (0.0, 0.0, 0.0, 0.0))} | {
        key: (name, (1.0, 0.0, 0.0, 1.0)) for key, name in names.items()
    }
    labels = cifti2.LabelAxis(["atlas"], [table])
    cifti2.Cifti2Image(keys[None].astype(np.float32), (labels, axis)).to_filename(path)
    return path


def write_series(
    path: Path, values: np.ndarray, axis: Any, t_r: float = 0.72, unit: str = "SECOND"
) -> Path:
    """Write values (time, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = cifti2.SeriesAxis(0, t_r, len(values), unit)
    cifti2.Cifti2Image(values.astype(np.float32), (times, axis)).to_filename(path)
    return path


def make_series(n: int = 50, seed: int = 0) -> np.ndarray:
    """Return series (roi, time) with a mean."""
    return 100 + np.random.default_rng(seed).standard_normal((6, n))


def paint(series: np.ndarray, axis: cifti2.BrainModelAxis) -> np.ndarray:
    """Give grayordinates the series of their ROI with deviations that cancel out."""
    rois = roi_of(axis)
    values = series[rois].T.copy()
    for roi in range(6):
        members = np.flatnonzero(rois == roi)
        values[:, members] += np.linspace(-3, 3, members.size)
    values[:, rois < 0] = 5
    return values


def parcels(names: list[str]) -> cifti2.ParcelsAxis:
    """Return parcels of one vertex each, which is all that a name needs."""
    return cifti2.ParcelsAxis(
        names,
        [np.empty((0, 3), dtype=int)] * len(names),
        [{LEFT: np.array([i])} for i in range(len(names))],
        nvertices={LEFT: N_VERTICES},
    )


def find(source: Path, **options: Any) -> Any:
    """List the scans with some options."""
    return find_scans(source, ATLAS, options=ReaderOptions(**options)).scans


@pytest.fixture
def dlabel(tmp_path: Path) -> Path:
    """Return a file of labels outside of the data."""
    return write_dlabel(tmp_path / "atlas.dlabel.nii")


def hcp(tmp_path: Path, how: str = "_MSMAll_hp2000_clean", kind: str = "dtseries") -> Path:
    """Return the path of a file of HCP."""
    folder = tmp_path / "data" / "100307" / "MNINonLinear" / "Results" / RUN
    return folder / f"{RUN}_Atlas{how}.{kind}.nii"


def test_dense_series_of_hcp(tmp_path: Path, dlabel: Path) -> None:
    series = make_series()
    axis = brain_models()
    path = write_series(hcp(tmp_path), paint(series, axis), axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    assert (scan.scan, scan.subject, scan.t_r) == (f"100307_{RUN}", "100307", 0.72)
    assert scan.source == str(path)
    np.testing.assert_allclose(scan.load(), series, rtol=1e-5)
    load = cloudpickle.loads(cloudpickle.dumps(scan.load))
    np.testing.assert_array_equal(load(), scan.load())


@pytest.mark.parametrize("wall", [6, 0])
def test_grayordinates_are_matched_by_structure_and_number(tmp_path: Path, wall: int) -> None:
    """The labels list structures in another order, and have the medial wall or not."""
    other = brain_models((*reversed(VOXELS), RIGHT, LEFT), wall=wall)
    dlabel = write_dlabel(tmp_path / "other.dlabel.nii", other)
    series = make_series()
    axis = brain_models()
    write_series(hcp(tmp_path), paint(series, axis), axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    np.testing.assert_allclose(scan.load(), series, rtol=1e-5)


def test_slabs_make_no_difference(
    tmp_path: Path, dlabel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = make_series()
    axis = brain_models()
    write_series(hcp(tmp_path), paint(series, axis), axis)
    monkeypatch.setattr("semantoks.data.grayordinates._VALUES_AT_ONCE", 7 * 50)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    np.testing.assert_allclose(scan.load(), series, rtol=1e-5)


def test_what_was_not_measured_does_not_count(tmp_path: Path, dlabel: Path) -> None:
    series = make_series()
    axis = brain_models()
    values = series[roi_of(axis)].T.copy()
    first, second, third = (np.flatnonzero(roi_of(axis) == roi) for roi in (0, 1, 2))
    values[:, first[::3]] = 0
    values[:, second[: 2 * len(second) // 3]] = 0
    values[:, third[:2]] = np.nan
    write_series(hcp(tmp_path), values, axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    loaded = scan.load()
    assert np.isnan(loaded).all(axis=1).tolist() == [False, True, False, False, False, False]
    kept = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(loaded[kept], series[kept], rtol=1e-5)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel, min_roi_coverage=0.2)
    np.testing.assert_allclose(scan.load(), series, rtol=1e-5)


def test_structures_that_are_not_there_are_missing(tmp_path: Path, dlabel: Path) -> None:
    series = make_series()
    axis = brain_models((LEFT, RIGHT))
    write_series(hcp(tmp_path), paint(series, axis), axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    assert np.isnan(scan.load()).all(axis=1).tolist() == [False] * 4 + [True] * 2


def test_most_processed_file_of_a_run_is_read(tmp_path: Path, dlabel: Path) -> None:
    axis = brain_models()
    values = paint(make_series(), axis)
    for how in ("", "_hp2000_clean", "_MSMAll", "_MSMAll_hp2000_clean"):
        write_series(hcp(tmp_path, how), values, axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    assert scan.source.endswith("_Atlas_MSMAll_hp2000_clean.dtseries.nii")
    write_series(hcp(tmp_path, "_MSMAll_hp2000_clean_rclean_tclean"), values, axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    assert scan.source.endswith("_rclean_tclean.dtseries.nii")
    with pytest.raises(InputError, match="clean already"):
        find(tmp_path / "data", atlas_image=dlabel, denoise="simple")[0].load()


def test_raw_file_of_hcp_is_refused_until_accepted(tmp_path: Path, dlabel: Path) -> None:
    axis = brain_models()
    write_series(hcp(tmp_path, "_MSMAll"), paint(make_series(), axis), axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    with pytest.raises(InputError, match="was not denoised"):
        scan.load()
    (scan,) = find(tmp_path / "data", atlas_image=dlabel, denoise="none")
    assert scan.load().shape == (6, 50)


def test_surfaces_of_another_density_are_refused(tmp_path: Path) -> None:
    axis = brain_models()
    write_series(hcp(tmp_path), paint(make_series(), axis), axis)
    dlabel = write_dlabel(tmp_path / "fine.dlabel.nii", brain_models(n_vertices=80))
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    with pytest.raises(InputError, match=r"60 vertices in CIFTI_STRUCTURE_CORTEX_LEFT.* has 80"):
        scan.load()


def test_voxels_of_another_grid_are_refused(tmp_path: Path, dlabel: Path) -> None:
    axis = brain_models()
    shifted = AFFINE.copy()
    shifted[0, 3] = 2
    axis.affine = shifted
    write_series(hcp(tmp_path), paint(make_series(), axis), axis)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    with pytest.raises(InputError, match="shifted against it"):
        scan.load()


def test_labels_of_another_atlas_are_refused(tmp_path: Path) -> None:
    axis = brain_models()
    write_series(hcp(tmp_path), paint(make_series(), axis), axis)
    names = {key: f"Glasser{key}" for key in (9, 3, 7, 5, 2, 8)}
    dlabel = write_dlabel(tmp_path / "other.dlabel.nii", names=names)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    with pytest.raises(InputError, match=r"none of its 6 labels \(Glasser2"):
        scan.load()


def test_atlas_image_must_fit_the_files(tmp_path: Path, dlabel: Path) -> None:
    axis = brain_models()
    write_series(hcp(tmp_path), paint(make_series(), axis), axis)
    with pytest.raises(InputError, match=r"need a file of labels.*--atlas-image"):
        find(tmp_path / "data")
    with pytest.raises(InputError, match=r"is no \.dlabel\.nii"):
        find(tmp_path / "data", atlas_image=Path("atlas.nii.gz"))
    hcp(tmp_path).unlink()
    write_series(hcp(tmp_path, kind="ptseries"), make_series().T, parcels(list(ATLAS.labels)))
    with pytest.raises(InputError, match="holds no dense series"):
        find(tmp_path / "data", atlas_image=dlabel)


def test_shuffled_parcels_come_back_in_order(tmp_path: Path) -> None:
    series = make_series()
    order = [4, 2, 5, 0, 3, 1]
    names = [ATLAS.labels[i] for i in order]
    names[1] = "7Networks_RH_Vis_1"
    path = hcp(tmp_path, kind="ptseries")
    write_series(path, series[order].T, parcels(names))
    (scan,) = find(tmp_path / "data")
    assert (scan.scan, scan.t_r) == (f"100307_{RUN}", 0.72)
    np.testing.assert_allclose(scan.load(), series, rtol=1e-5)


def test_parcels_without_values_are_missing(tmp_path: Path) -> None:
    series = make_series()
    series[1] = 0
    series[3] = np.nan
    names = [*ATLAS.labels[:5], "Brain-Stem"]
    write_series(tmp_path / "a.ptseries.nii", series.T, parcels(names))
    (scan,) = find(tmp_path / "a.ptseries.nii")
    assert scan.scan == "a"
    missing = [False, True, False, True, False, True]
    assert np.isnan(scan.load()).all(axis=1).tolist() == missing


def test_parcels_of_another_atlas_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "a.ptseries.nii", make_series().T, parcels(list("uvwxyz")))
    (scan,) = find(tmp_path)
    with pytest.raises(InputError, match=r"none of its 6 parcels \(u, v, w, \.\.\.\) is a ROI"):
        scan.load()


def test_dense_series_of_fmriprep_are_denoised(tmp_path: Path, dlabel: Path) -> None:
    folder = tmp_path / "data" / "sub-01" / "func"
    series = make_series(300)
    axis = brain_models()
    stem = "sub-01_task-rest_run-2"
    path = folder / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii"
    write_series(path, paint(series, axis), axis, t_r=2.0)
    path.with_name(path.name.replace("dtseries.nii", "json")).write_text('{"RepetitionTime": 2.0}')
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    with pytest.raises(InputError, match=f"{stem}_desc-confounds_timeseries.tsv was expected"):
        scan.load()
    rng = np.random.default_rng(1)
    rigid = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    table = pd.DataFrame(rng.standard_normal((300, 8)), columns=[*rigid, "csf", "white_matter"])
    table["framewise_displacement"] = [np.nan, *np.full(299, 0.2)]
    table.to_csv(
        folder / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a"
    )
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    assert (scan.scan, scan.subject, scan.t_r) == (stem, "sub-01", 2.0)
    assert scan.motion == pytest.approx(0.2)
    assert scan.phenotypes["denoising"] == "simple"
    cleaned = scan.load()
    assert cleaned.shape == (6, 300)
    assert not np.allclose(cleaned, series, rtol=1e-4)
    (scan,) = find(tmp_path / "data", atlas_image=dlabel, denoise="none")
    np.testing.assert_allclose(scan.load(), series, rtol=1e-5)


def test_contradiction_of_repetition_times_names_both(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_task-rest_bold.ptseries.nii"
    write_series(path, make_series().T, parcels(list(ATLAS.labels)), t_r=0.72)
    (tmp_path / "sub-01_task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    (scan,) = find(tmp_path, denoise="none")
    with pytest.raises(InputError, match=r"sidecar is 0\.8 s, but the header.* 0\.72 s"):
        scan.load()


def test_rows_that_are_no_time_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ptseries.nii"
    write_series(path, make_series().T, parcels(list(ATLAS.labels)), unit="HERTZ")
    (scan,) = find(tmp_path)
    with pytest.raises(InputError, match="rows in time, in seconds, were expected"):
        scan.load()


@pytest.mark.parametrize("keep", [0.95, 0.3, 0.001, 0.0])
def test_truncated_file_is_named(tmp_path: Path, dlabel: Path, keep: float) -> None:
    axis = brain_models()
    path = write_series(hcp(tmp_path), paint(make_series(), axis), axis)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    (scan,) = find(tmp_path / "data", atlas_image=dlabel)
    with pytest.raises(InputError, match="cannot be read") as caught:
        scan.load()
    assert path.name in str(caught.value)


def test_volume_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.zeros((2, 2, 2, 5)), AFFINE), tmp_path / "a.ptseries.nii")
    (scan,) = find(tmp_path)
    with pytest.raises(InputError, match="no CIFTI-2 file"):
        scan.load()


def test_series_of_xcpd_from_which_volumes_were_cut(tmp_path: Path) -> None:
    stem = "sub-01_task-rest"
    path = tmp_path / f"{stem}_space-fsLR_seg-six_den-91k_stat-mean_timeseries.ptseries.nii"
    write_series(path, make_series(40).T, parcels(list(ATLAS.labels)), t_r=2.0)
    outliers = tmp_path / f"{stem}_outliers.tsv"
    outliers.write_text("framewise_displacement\n" + "0\n" * 40)
    assert find_scans(tmp_path, ATLAS).scans[0].load().shape == (6, 40)
    (scan,) = find_scans(tmp_path, ATLAS, format="cifti").scans
    assert (scan.scan, scan.load().shape) == (stem, (6, 40))
    other = outliers.with_name(outliers.name.replace("_outliers", "_run-3_outliers"))
    other.write_text("framewise_displacement\n" + "0\n" * 80)
    assert find(tmp_path)[0].load().shape[1] == 40
    # A straight line is what filling gaps gives back exactly, if they are where they were.
    line = np.arange(1.0, 7.0)[:, None] * np.arange(50)
    marked = np.zeros(50, dtype=int)
    marked[[0, 10, 11, 30]] = 1
    write_series(path, line[:, marked == 0].T, parcels(list(ATLAS.labels)), t_r=2.0)
    outliers.write_text("framewise_displacement\n" + "".join(f"{x}\n" for x in marked))
    dense = tmp_path / f"{stem}_space-fsLR_den-91k_desc-denoised_bold.dtseries.nii"
    axis = brain_models()
    write_series(dense, paint(line[:, marked == 0], axis), axis, t_r=2.0)
    dlabel = write_dlabel(tmp_path / "atlas.dlabel.nii")
    for options in (
        {"format": "cifti"},
        {"format": "xcpd"},
        {"options": ReaderOptions(atlas_image=dlabel)},
    ):
        (scan,) = find_scans(tmp_path, ATLAS, **options).scans
        assert scan.phenotypes["share_scrubbed"] == pytest.approx(0.08)
        np.testing.assert_allclose(scan.load(), line[:, 1:], rtol=1e-5)
    outliers.write_text("framewise_displacement\n" + "0\n" * 45 + "1\n" * 5)
    with pytest.raises(InputError, match=r"has 46 volumes, but .*_outliers\.tsv has 50 rows"):
        scan.load()


def test_several_files_of_one_recording_are_refused(tmp_path: Path) -> None:
    for seg in ("six", "seven"):
        name = f"sub-01_task-rest_seg-{seg}_stat-mean_timeseries.ptseries.nii"
        write_series(tmp_path / name, make_series().T, parcels(list(ATLAS.labels)))
    with pytest.raises(InputError, match="'sub-01_task-rest' has 2 files"):
        find_scans(tmp_path, ATLAS, format="cifti")


def test_runs_of_two_people_in_folders_of_their_own_are_not_one_run(tmp_path: Path) -> None:
    for seed, person in enumerate(("100307", "100408")):
        path = tmp_path / "data" / person / f"{RUN}_Atlas_MSMAll_hp2000_clean.ptseries.nii"
        write_series(path, make_series(seed=seed).T, parcels(list(ATLAS.labels)))
    with pytest.raises(InputError, match=rf"{RUN}' occurs twice: .*100307.*100408"):
        find(tmp_path / "data")


@pytest.mark.parametrize("joined", [True, False])
def test_runs_that_hcp_put_one_behind_the_other_are_left_out(tmp_path: Path, joined: bool) -> None:
    results = tmp_path / "HCD0001305_V1_MR" / "MNINonLinear" / "Results"
    runs = ["rfMRI_REST1_AP", "rfMRI_REST2_PA", "tfMRI_GUESSING_AP"]
    for seed, run in enumerate([*runs, "rfMRI_REST"] if joined else runs):
        path = results / run / f"{run}_Atlas_MSMAll_hp0_clean.ptseries.nii"
        write_series(path, make_series(seed=seed).T, parcels(list(ATLAS.labels)))
    scans = find(tmp_path)
    assert [scan.scan for scan in scans] == [f"HCD0001305_V1_MR_{run}" for run in runs]


def test_series_of_xcpd_say_how_they_were_filtered_and_joined_runs_are_left_out(
    tmp_path: Path,
) -> None:
    for seed, run in enumerate(("_run-1", "_run-2", "")):
        stem = f"sub-01_task-rest{run}_space-fsLR_seg-4S456Parcels_den-91k_stat-mean"
        path = tmp_path / "sub-01" / "func" / f"{stem}_timeseries.ptseries.nii"
        write_series(path, make_series(seed=seed).T, parcels(list(ATLAS.labels)))
    band = {"band": (0.01, 0.08)}
    for format_ in ("cifti", "xcpd"):
        here, before = (
            find_scans(tmp_path, ATLAS, format=format_, options=ReaderOptions(**band, filtered=x))
            for x in ("here", "before")
        )
        names = [scan.scan for scan in here.scans]
        assert names == ["sub-01_task-rest_run-1", "sub-01_task-rest_run-2"]
        told = [" ".join(found.scans[0].notices) for found in (here, before)]
        assert ["--filtered-before 0.01 0.08" in words for words in told] == [True, False]


@pytest.mark.parametrize("table", [False, True])
def test_parcels_of_xcpd_in_several_atlases_are_joined_by_name(tmp_path: Path, table: bool) -> None:
    series = make_series()
    stem = "sub-01_ses-1_task-rest_space-fsLR"
    cortex, below = list(ATLAS.labels[:4]), ["THA-rh", "HIP-lh"]
    others = ["LH-Pu", "LH_Hippocampus", "RH-Pulvinar", "Cerebellar_Region1"]
    files = {
        "4S456Parcels": (cortex[::-1] + others, np.vstack([series[3::-1], np.full((4, 50), 7.0)])),
        "Tian": (below, series[[5, 4]]),
        "Glasser": (["L_V1_ROI", "R_V1_ROI"], series[:2]),
    }
    for seg, (names, values) in files.items():
        path = tmp_path / f"{stem}_seg-{seg}_den-91k_stat-mean_timeseries.ptseries.nii"
        write_series(path, values.T, parcels(names), t_r=0.8)
        if table and seg != "Tian":
            # The table of the same series comes first.
            frame = pd.DataFrame(values.T + 1000, columns=names)
            tsv = path.with_name(path.name.replace(".ptseries.nii", ".tsv"))
            frame.to_csv(tsv, sep="\t", index=False)
    (scan,) = find(tmp_path)
    assert (scan.scan, scan.subject) == ("sub-01_ses-1_task-rest", "sub-01")
    assert scan.phenotypes["xcpd_atlases"] == "4S456Parcels+Tian"
    assert scan.t_r == (None if table else pytest.approx(0.8))
    expected = series + 1000 * np.array([table] * 4 + [False] * 2)[:, None]
    np.testing.assert_allclose(cloudpickle.loads(cloudpickle.dumps(scan.load))(), expected)
    with pytest.raises(InputError, match=r"'sub-01_ses-1_task-rest' has 3 files.*--format xcpd"):
        find_scans(tmp_path, ATLAS, format="cifti")
    if not table:
        path.with_name(f"{stem}_seg-4S456Parcels_den-91k_stat-mean_timeseries.json").write_text(
            '{"RepetitionTime": 0.9}'
        )
        (scan,) = find(tmp_path)
        with pytest.raises(InputError, match=r"sidecar is 0\.9 s, but the header.* 0\.8 s"):
            scan.load()
