"""Malformed images, .1D and HDF5 files: a clear message each, nothing left, good scans kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel import cifti2

Edit = Callable[[Path], object]
AFFINE = np.array([[-8.0, 0, 0, 40], [0, 8, 0, -40], [0, 0, 8, -30], [0, 0, 0, 1]])
SPACE = "space-MNI152NLin6Asym_res-2"
LABELS = ["LH_Vis_1", "LH_Vis_2", "RH_Vis_1", "RH_Vis_2", "HIP-lh", "THA-rh"]


def noise(seed: int, shape: tuple[int, ...] = (6, 120)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).round(3)


def write_atlas(home: Path) -> Path:
    centres = [nib.affines.apply_affine(AFFINE, (0.5 + 2 * (i % 3), 0.5 + 2 * (i // 3), 0.5))
               for i in range(6)]  # fmt: skip
    table = pd.DataFrame(centres, columns=["x", "y", "z"])
    table = table.assign(label=LABELS, network="Vis", value=range(1, 7))
    table.to_csv(home / "six.tsv", sep="\t", index=False)
    return home / "six.tsv"


# Three scans of every format, of which the last one is edited


def fmriprep(edit: Edit, *more: object, image: bool = True) -> Callable[[Path], list[object]]:
    def arrange(home: Path) -> list[object]:
        atlas, labels = write_atlas(home), np.zeros((8, 6, 4), dtype=np.int16)
        for i in range(6):
            labels[2 * (i % 3) : 2 * (i % 3) + 2, 2 * (i // 3) : 2 * (i // 3) + 2, :2] = i + 1
        dseg = home / "tpl-MNI152NLin6Asym_atlas-six_dseg.nii.gz"
        nib.save(nib.Nifti1Image(labels, AFFINE), dseg)
        for who in (1, 2, 3):
            bold = write_run(home / "derivatives", f"sub-0{who}", labels, who)
        edit(bold)
        given = ["--atlas-image", dseg] if image else []
        return [home / "derivatives", "--atlas", atlas, *given, *more]

    return arrange


def write_run(folder: Path, subject: str, labels: np.ndarray, seed: int) -> Path:
    func = folder / subject / "func"
    func.mkdir(parents=True)
    volume = 1000 + np.concatenate([np.zeros((1, 120)), noise(seed)])[labels]
    bold = func / f"{subject}_task-rest_{SPACE}_desc-preproc_bold.nii.gz"
    save_volume(bold, volume)
    beside(bold, ".nii.gz", ".json").write_text('{"RepetitionTime": 2.0}')
    mask = np.ones(labels.shape, dtype=np.uint8)
    nib.save(nib.Nifti1Image(mask, AFFINE), beside(bold, "preproc_bold", "brain_mask"))
    write_confounds(bold, 120)
    return bold


def save_volume(path: Path, volume: np.ndarray) -> None:
    image = nib.Nifti1Image(volume.astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if volume.ndim == 4:
        image.header.set_zooms((8, 8, 8, 2.0))
    nib.save(image, path)


def beside(bold: Path, old: str, new: str) -> Path:
    return bold.with_name(bold.name.replace(old, new))


def confounds(bold: Path) -> Path:
    return beside(bold, f"{SPACE}_desc-preproc_bold.nii.gz", "desc-confounds_timeseries.tsv")


def write_confounds(bold: Path, n: int, without: str = "nothing") -> None:
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    names += ["csf", "white_matter", "framewise_displacement", "std_dvars"]
    table = pd.DataFrame(np.abs(noise(90, (n, len(names)))), columns=names)
    table.drop(columns=without, errors="ignore").to_csv(confounds(bold), sep="\t", index=False)


def cifti(edit: Edit, *more: object) -> Callable[[Path], list[object]]:
    def arrange(home: Path) -> list[object]:
        (home / "series").mkdir()
        for who in (1, 2, 3):
            path = home / "series" / f"sub-0{who}_task-rest_den-91k_timeseries.ptseries.nii"
            write_parcels(path, LABELS, who)
        edit(path)
        return [home / "series", "--atlas", write_atlas(home), *more]

    return arrange


def write_parcels(path: Path, names: list[str], seed: int = 3, unit: str = "SECOND") -> None:
    left = "CIFTI_STRUCTURE_CORTEX_LEFT"
    vertices = [{left: np.array([i])} for i in range(len(names))]
    voxels = [np.empty((0, 3), dtype=int)] * len(names)
    axis = cifti2.ParcelsAxis(names, voxels, vertices, nvertices={left: 32})
    values = noise(seed, (320, len(names))).astype(np.float32)
    times = cifti2.SeriesAxis(0, 0.72, len(values), unit)
    cifti2.Cifti2Image(values, (times, axis)).to_filename(path)


def pcp(edit: Edit, atlas: str = "") -> Callable[[Path], list[object]]:
    def arrange(home: Path) -> list[object]:
        folder = home / "cpac" / "filt_noglobal"
        folder.mkdir(parents=True)
        for who in (1, 2, 3):
            lines = ["\t".join(f"#{i}" for i in range(1, 7))]
            lines += ["\t".join(map(str, row)) for row in noise(who).T]
            path = folder / f"Pitt_005000{who}_rois_six.1D"
            path.write_text("\n".join(lines) + "\n")
        edit(path)
        return [home / "cpac", "--atlas", atlas or write_atlas(home), "--t-r", 2]

    return arrange


def hdf5(edit: Callable[[h5py.File], object], keep: int | None = None) -> Callable[[Path], Any]:
    def arrange(home: Path) -> list[object]:
        path = home / "cohort.h5"
        with h5py.File(path, "w") as file:
            file["timeseries/six"] = np.stack([noise(i) for i in range(3)])
            file["long_subject_id"] = np.array([b"sub-1", b"sub-2", b"sub-3"])
            edit(file)
        path.write_bytes(path.read_bytes()[:keep])
        return [path, "--atlas", write_atlas(home), "--t-r", 2]

    return arrange


# Edits


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to(".git/annex/objects/absent")


def line(number: int, old: str, new: str) -> Edit:
    def edit(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[number] = lines[number].replace(old, new, 1) if old else new
        path.write_text("\n".join(lines) + "\n")

    return edit


def put(name: str, value: object) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return edit


def words_in(path: Path) -> None:
    text = confounds(path).read_text().splitlines()
    text[3] = "\t".join(["high", *text[3].split("\t")[1:]])
    confounds(path).write_text("\n".join(text))


def to(name: str, old: str = ".nii.gz") -> Callable[[str], Edit]:
    """Return what writes a text to a file beside an image."""
    return lambda text: lambda path: beside(path, old, name).write_text(text)


JSON, JSON_OF_PARCELS = to(".json"), to(".json", ".ptseries.nii")
BOLD, CONFOUNDS = r"sub-03_task-rest_.*preproc_bold\.", "sub-03_task-rest_desc-confounds"
PARCELS, PITT = r"sub-03_.*\.ptseries\.nii", r"Pitt_0050003_rois_six\.1D"
COPY = "[Cc]opy|download"

SCANS = [
    ("volume cut", fmriprep(cut), BOLD, "cannot be read", COPY),
    ("volume of nothing", fmriprep(empty), BOLD, "cannot be read", COPY),
    ("volume not downloaded", fmriprep(link), BOLD, "cannot be read", "not downloaded; copy"),
    ("volume of three axes", fmriprep(lambda p: save_volume(p, np.ones((8, 6, 4)))), BOLD,
     r"\(x, y, z, time\) was expected", "Export it again"),
    ("volume without mask", fmriprep(lambda p: beside(p, "preproc_bold", "brain_mask").unlink()),
     "sub-03.*brain_mask", "which ROIs were measured", COPY),
    ("mask cut", fmriprep(lambda p: cut(beside(p, "preproc_bold", "brain_mask"))),
     "sub-03.*brain_mask", "cannot be read", COPY),
    ("sidecar cut", fmriprep(JSON("{")), r"bold\.json", "as JSON", "Correct it"),
    ("sidecar of a list", fmriprep(JSON("[2]")), r"bold\.json", "an object with", "Correct it"),
    ("sidecar of ms", fmriprep(JSON('{"RepetitionTime": 2000}')), BOLD, "of seconds", "give 2"),
    ("sidecar and header", fmriprep(JSON('{"RepetitionTime": 3}')), BOLD, "header .* says 2 s",
     "correct the JSON file or the header"),
    ("no confounds", fmriprep(lambda p: confounds(p).unlink()), CONFOUNDS, "was expected", COPY),
    ("confounds of nothing", fmriprep(lambda p: empty(confounds(p))), CONFOUNDS, "be read", COPY),
    ("confounds of a word", fmriprep(words_in), CONFOUNDS + ".*line 4, column 'trans_x'",
     "a number or n/a was expected", COPY),
    ("confounds of another run", fmriprep(lambda p: write_confounds(p, 99)), CONFOUNDS,
     "120 volumes, but .* 99 rows", COPY),
    ("confounds without csf", fmriprep(lambda p: write_confounds(p, 120, "csf")), CONFOUNDS,
     r"lacks the column\(s\) csf", "Choose another strategy"),
    ("parcels cut", cifti(cut), PARCELS, "cannot be read", COPY),
    ("parcels of nothing", cifti(empty), PARCELS, "cannot be read", COPY),
    ("parcels of a volume", cifti(lambda p: nib.save(nib.Nifti1Image(np.ones((3, 3, 3, 9)), AFFINE),
     str(p))), PARCELS, "no CIFTI-2 file", "are converted by"),
    ("parcels of others", cifti(lambda p: write_parcels(p, list("uvwxyz"))), PARCELS,
     "none of its 6 parcels .* is a ROI", "Give the atlas"),
    ("parcels in hertz", cifti(lambda p: write_parcels(p, LABELS, unit="HERTZ")), PARCELS,
     "in seconds, were expected", "move it out"),
    ("parcels and sidecar", cifti(JSON_OF_PARCELS('{"RepetitionTime": 2}')), PARCELS,
     "header .* says 0.72 s", "correct the JSON file or the header"),
    ("1D of a word", pcp(line(5, ".", "x")), PITT + ", line 6", "a number was expected", "Correct"),
    ("1D of a short line", pcp(line(5, "", "1\t2")), PITT + ", line 6", "6 columns were", COPY),
    ("1D of another value", pcp(line(0, "#1", "#7")), PITT, "column 1 should be 1", "Give the atl"),
    ("1D of a short header", pcp(line(0, "#1\t", "")), PITT, "names 5 ROIs", "Download"),
    ("1D of nothing", pcp(empty), PITT, "a line a volume was expected", "Download or export"),
    ("1D of html", pcp(lambda p: p.write_text("<html>\n<p>")), PITT, "a number was exp", "Correct"),
    ("1D of zeros", pcp(lambda p: p.write_bytes(bytes(99))), PITT, "UTF-8 text", "Export this"),
]  # fmt: skip
"""Two scans are good and one is not: a name, how it is written, and what must be said."""

H5, NAMES = r"cohort\.h5", "long_subject_id"
COHORTS = [
    ("no atlas image", fmriprep(lambda p: None, image=False), "--atlas-image", "need an image",
     "give the label volume"),
    ("atlas image cut", fmriprep(lambda p: cut(next(p.parents[3].glob("tpl-*")))), "dseg.nii.gz",
     "cannot be read", COPY),
    ("atlas image not there", fmriprep(lambda p: next(p.parents[3].glob("tpl-*")).unlink()),
     "dseg.nii.gz", "No such file", "Give the label volume"),
    ("no such task", fmriprep(lambda p: None, "--task", "movie"), "task-movie", "there are rest",
     "name one of these"),
    ("no such space", fmriprep(lambda p: None, "--space", "MNI152NLin2009cAsym"),
     "space-MNI152NLin2009cAsym", "there are MNI152NLin6Asym", "name one of these"),
    ("two resolutions", fmriprep(lambda p: shutil.copy(p, beside(p, "res-2", "res-1"))),
     "'sub-03_task-rest'", "is there 2 times", "--res"),
    ("parcels denoised", cifti(lambda p: None, "--denoise", "simple"), "sub-01", "clean already",
     "Leave --denoise out"),
    ("parcels and a volume", cifti(lambda p: None, "--atlas-image", "x.nii.gz"), "x.nii.gz",
     "holds CIFTI series", "Give the .dlabel.nii"),
    ("parcels twice", cifti(lambda p: shutil.copy(p, beside(p, "_den-91k", ""))),
     "sub-03_task-rest", "has 2 files", "Give the folder"),
    ("1D of another atlas", pcp(lambda p: None, "cc200"), "cc200", "those of six", "Name one"),
    ("1D of two strategies", pcp(lambda p: shutil.copytree(p.parent, p.parents[1] / "nofilt")),
     "nofilt", "2 preprocessing strategies", "Give the folder"),
    ("HDF5 cut", hdf5(lambda f: None, 3000), H5, "truncated file", "copy or download it again"),
    ("HDF5 of nothing", hdf5(lambda f: None, 0), H5, "an HDF5 file", "copy or download it again"),
    ("HDF5 without series", hdf5(put("timeseries", None)), H5, "the group .* was exp", "Write the"),
    ("HDF5 of two axes", hdf5(put("timeseries/six", np.ones((3, 6)))), H5, "were exp", "Write the"),
    ("HDF5 of other ROIs", hdf5(put("timeseries/six", np.ones((3, 7, 120)))), H5, "7 ROIs", "Give"),
    ("HDF5 of words", hdf5(put("timeseries/six", np.full((3, 6, 120), b"x"))), H5, "real numbers",
     "Write the series again"),
    ("HDF5 without names", hdf5(put(NAMES, None)), H5, f"{NAMES}.* was expected", "Add it"),
    ("HDF5 of one name", hdf5(put(NAMES, np.array([b"a"]))), H5, "each of the 3 scans", "Add it"),
    ("HDF5 of no name", hdf5(put(NAMES, np.array([b"a", b"", b"c"]))), H5, "row 1", "Give every"),
    ("HDF5 of odd lengths", hdf5(put("ts_len", np.array([9, 500, 9]))), H5, "1 and 120", "Correct"),
]  # fmt: skip
"""The fault is that of all scans: how it is arranged, and what must be said."""


@pytest.mark.parametrize(
    ("name", "arrange", "names", "expected", "remedy"), SCANS, ids=[case[0] for case in SCANS]
)
def test_one_scan_is_malformed(
    check_malformed: Any, name: str, arrange: Any, names: str, expected: str, remedy: str
) -> None:
    check_malformed(arrange, names, expected, remedy, kept=2)


@pytest.mark.parametrize(
    ("name", "arrange", "names", "expected", "remedy"), COHORTS, ids=[case[0] for case in COHORTS]
)
def test_a_cohort_is_malformed(
    check_malformed: Any, name: str, arrange: Any, names: str, expected: str, remedy: str
) -> None:
    check_malformed(arrange, names, expected, remedy)
