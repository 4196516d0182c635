#!/usr/bin/env python3
"""Paint the STAGES recordings into files of fMRIPrep and CIFTI, and read them back.

The archive holds series of the 400 Schaefer parcels. They are written as users of fMRIPrep and of
HCP-style files have them::

    OUT/fmriprep/sub-001/ses-1/func/sub-001_ses-1_task-rest_space-MNI152NLin6Asym_res-2_...
        desc-preproc_bold.nii.gz, .json, desc-brain_mask.nii.gz, desc-confounds_timeseries.tsv
    OUT/parcels/sub-001/ses-1/func/..._timeseries.ptseries.nii     parcels in a shuffled order
    OUT/dense/sub-001/ses-1/func/..._bold.dtseries.nii             on the surfaces of 32k vertices
    OUT/schaefer400-made-for-this.dlabel.nii                       structures in another order

Every voxel and vertex of a parcel gets its series (1 % changes around 10,000, as int16 with a slope
in the volumes) and, with ``--noise``, noise of its own. The 57 ROIs below the cortex are painted
nowhere. Where parcels lie on the surface is made up: the file of labels says it to the reader.
Then the readers read all of it, and every series is correlated with the one in the archive.

    python examples/paint_stages.py stages.h5 atlas_MNI152NLin6Asym_2mm.nii.gz OUT --scans 2
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel import cifti2
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions

Kind = Literal["fmriprep", "parcels", "dense"]

ATLAS = "schaefer400-tian3-buckner7"
N_PARCELS = 400
SPACE = "MNI152NLin6Asym"
N_VERTICES = 32_492
MEDIAL_WALL = 2_796
HEMISPHERES = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}
BASELINE, PERCENT, SLOPE = 10_000.0, 100.0, 0.05


@dataclass(frozen=True)
class StagesScan:
    """A scan of the archive.

    Parameters
    ----------
    subject : str
        Such as "sub-001".
    session : str
        Such as "1".
    t_r : float
        Repetition time in seconds.
    z : ndarray of shape (400, time)
        Z-scored series of the parcels.
    """

    subject: str
    session: str
    t_r: float
    z: NDArray[np.float64]

    @property
    def name(self) -> str:
        """What the names of its files begin with."""
        return f"{self.subject}_ses-{self.session}_task-rest"

    def folder(self, out: Path) -> Path:
        """Return the folder of its files, made if it is not there."""
        folder = out / self.subject / f"ses-{self.session}" / "func"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def read_archive(archive: Path, n_scans: int) -> Iterator[StagesScan]:
    """Yield the first scans of the archive."""
    with h5py.File(archive) as file:
        t_r = float(file.attrs["tr_s"])
        subjects = file["subject"].asstr()[:n_scans]
        for i, subject in enumerate(subjects):
            z = file["timeseries_z"][i, :N_PARCELS].astype(np.float64)
            yield StagesScan(subject, str(file["session"][i]), t_r, z)


def paint_volume(scan: StagesScan, labels: nib.Nifti1Image, out: Path, noise: float) -> None:
    """Write one scan as fMRIPrep would: image, sidecar, brain mask, confounds."""
    numbers = np.asarray(labels.dataobj).astype(int)
    numbers[numbers > N_PARCELS] = 0
    inside = numbers > 0
    n_times = scan.z.shape[1]
    volume = np.zeros((*numbers.shape, n_times), dtype=np.int16, order="F")
    generator = np.random.default_rng(0)
    for time in range(n_times):
        values = scan.z[numbers[inside] - 1, time]
        if noise:
            values = values + noise * generator.standard_normal(values.size)
        volume[..., time][inside] = np.round(values * PERCENT / SLOPE).astype(np.int16)
    image = nib.Nifti1Image(volume, labels.affine)
    image.header.set_slope_inter(SLOPE, BASELINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], scan.t_r))
    folder = scan.folder(out)
    stem = f"{scan.name}_space-{SPACE}_res-2"
    nib.save(image, folder / f"{stem}_desc-preproc_bold.nii.gz")
    sidecar = {"RepetitionTime": scan.t_r, "SkullStripped": False}
    (folder / f"{stem}_desc-preproc_bold.json").write_text(json.dumps(sidecar))
    mask = nib.Nifti1Image(inside.astype(np.uint8), labels.affine)
    nib.save(mask, folder / f"{stem}_desc-brain_mask.nii.gz")
    table = make_confounds(n_times)
    table.to_csv(
        folder / f"{scan.name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a"
    )


def make_confounds(n_times: int) -> pd.DataFrame:
    """Return the confounds of a head that drifts at random."""
    generator = np.random.default_rng(0)
    rigid = generator.standard_normal((n_times, 6)).cumsum(axis=0) * ([0.01] * 3 + [0.0002] * 3)
    columns = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    table = pd.DataFrame(rigid, columns=columns)
    table[["csf", "white_matter"]] = generator.standard_normal((n_times, 2))
    # On a sphere of 50 mm (Power et al., 2012).
    table["framewise_displacement"] = table[columns].diff().abs() @ ([1.0] * 3 + [50.0] * 3)
    table.loc[0, "framewise_displacement"] = np.nan
    return table


def paint_parcels(scan: StagesScan, atlas: Atlas, out: Path) -> None:
    """Write one scan as series of parcels, in an order that is not that of the atlas."""
    order = np.random.default_rng(0).permutation(N_PARCELS)
    names = [f"7Networks_{atlas.labels[i]}" for i in order]
    vertices = surface_parcels(atlas)
    axis = cifti2.ParcelsAxis(
        names,
        [np.empty((0, 3), dtype=int)] * N_PARCELS,
        [{HEMISPHERES[atlas.hemispheres[i]]: vertices[i]} for i in order],
        nvertices=dict.fromkeys(HEMISPHERES.values(), N_VERTICES),
    )
    values = BASELINE + PERCENT * scan.z[order].T
    path = scan.folder(out) / f"{scan.name}_space-fsLR_seg-Schaefer_timeseries.ptseries.nii"
    write_cifti(values, axis, scan.t_r, path)


def paint_dense(scan: StagesScan, atlas: Atlas, out: Path, noise: float) -> None:
    """Write one scan as series of vertices, without a medial wall."""
    axis = surface_axis(("L", "R"), wall=MEDIAL_WALL)
    rois = rois_of(axis, atlas)
    values = np.zeros((scan.z.shape[1], len(axis)), dtype=np.float32)
    painted = rois >= 0
    values[:, painted] = BASELINE + PERCENT * scan.z[rois[painted]].T
    if noise:
        generator = np.random.default_rng(0)
        own = generator.standard_normal((len(values), int(painted.sum())), dtype=np.float32)
        values[:, painted] += noise * PERCENT * own
    path = scan.folder(out) / f"{scan.name}_space-fsLR_den-91k_bold.dtseries.nii"
    write_cifti(values, axis, scan.t_r, path)


def write_cifti(values: NDArray[np.floating], axis: cifti2.Axis, t_r: float, path: Path) -> None:
    """Write values (time, column) as CIFTI-2."""
    times = cifti2.SeriesAxis(0, t_r, len(values))
    cifti2.Cifti2Image(values.astype(np.float32), (times, axis)).to_filename(path)


def surface_parcels(atlas: Atlas) -> list[NDArray[np.intp]]:
    """Return the vertices of every parcel: equal shares of the hemisphere behind its wall."""
    vertices: list[NDArray[np.intp]] = [np.array([], dtype=np.intp)] * N_PARCELS
    for side in HEMISPHERES:
        own = [i for i in range(N_PARCELS) if atlas.hemispheres[i] == side]
        shares = np.array_split(np.arange(MEDIAL_WALL, N_VERTICES), len(own))
        for roi, share in zip(own, shares, strict=True):
            vertices[roi] = share
    return vertices


def surface_axis(sides: tuple[str, ...], wall: int) -> cifti2.BrainModelAxis:
    """Return the vertices of the hemispheres in some order, with or without the medial wall."""
    parts = [
        cifti2.BrainModelAxis.from_surface(np.arange(wall, N_VERTICES), N_VERTICES, HEMISPHERES[x])
        for x in sides
    ]
    return parts[0] + parts[1]


def rois_of(axis: cifti2.BrainModelAxis, atlas: Atlas) -> NDArray[np.intp]:
    """Return the ROI of every vertex, -1 on the medial wall."""
    rois = np.full(len(axis), -1, dtype=np.intp)
    for roi, vertices in enumerate(surface_parcels(atlas)):
        on_side = axis.name == HEMISPHERES[atlas.hemispheres[roi]]
        rois[on_side & np.isin(axis.vertex, vertices)] = roi
    return rois


def write_labels(atlas: Atlas, path: Path) -> None:
    """Write where the parcels are: the right hemisphere first, with the medial wall."""
    axis = surface_axis(("R", "L"), wall=0)
    keys = rois_of(axis, atlas) + 1
    table = {0: ("???", (0.0, 0.0, 0.0, 0.0))} | {
        i + 1: (f"7Networks_{atlas.labels[i]}", (1.0, 1.0, 1.0, 1.0)) for i in range(N_PARCELS)
    }
    labels = cifti2.LabelAxis(["Schaefer-400"], [table])
    cifti2.Cifti2Image(keys[None].astype(np.float32), (labels, axis)).to_filename(path)


def paint(
    archive: Path, atlas_image: Path, out: Path, *, kind: Kind, n_scans: int, noise: float = 0.0
) -> Path:
    """Write scans of the archive in one of the formats, and return the atlas image for it.

    Parameters
    ----------
    archive : Path
        The HDF5 file.
    atlas_image : Path
        The volume of the 457 ROIs.
    out : Path
        Folder to write to.
    kind : {"fmriprep", "parcels", "dense"}
        The format.
    n_scans : int
        Number of scans.
    noise : float
        Deviation of the noise of every voxel or vertex, in deviations of its parcel.

    Returns
    -------
    Path
        The atlas image that the reader needs.
    """
    atlas = Atlas.load(ATLAS)
    folder = out / kind
    folder.mkdir(parents=True, exist_ok=True)
    description = {"Name": "STAGES, painted", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    dlabel = out / "schaefer400-made-for-this.dlabel.nii"
    if kind == "dense":
        write_labels(atlas, dlabel)
    for scan in read_archive(archive, n_scans):
        if kind == "fmriprep":
            paint_volume(scan, nib.load(atlas_image), folder, noise)
        elif kind == "parcels":
            paint_parcels(scan, atlas, folder)
        else:
            paint_dense(scan, atlas, folder, noise)
    return dlabel if kind == "dense" else atlas_image


def read_back(out: Path, kind: Kind, atlas_image: Path, archive: Path) -> NDArray[np.float64]:
    """Read what was painted, and correlate it with the archive.

    Parameters
    ----------
    out : Path
        The folder that was painted to.
    kind : {"fmriprep", "parcels", "dense"}
        The format.
    atlas_image : Path
        What `paint` returned.
    archive : Path
        The HDF5 file.

    Returns
    -------
    ndarray of float, shape (scan, 400)
        Correlation of every series with the one in the archive; NaN where that is flat.
    """
    options = ReaderOptions(atlas_image=None if kind == "parcels" else atlas_image, denoise="none")
    found = find_scans(out / kind, Atlas.load(ATLAS), options=options).scans
    originals = {scan.name: scan for scan in read_archive(archive, len(found))}
    rows = []
    for scan in found:
        original = originals[scan.scan]
        series = scan.load()
        if scan.t_r != original.t_r or not np.isnan(series[N_PARCELS:]).all():
            raise SystemExit(f"{scan.scan}: another repetition time, or ROIs from nowhere")
        rows.append(correlate(series[:N_PARCELS], original.z))
    return np.array(rows)


def correlate(series: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of each row with its counterpart, NaN where that is flat."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (series, truth))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    flat = ~(b.std(axis=1) > 1e-6)
    return np.where(flat, np.nan, (a * b).sum(axis=1) / np.where(flat, 1.0, scale))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path, help="the HDF5 file of the recordings")
    parser.add_argument("atlas_image", type=Path, help="the volume of the 457 ROIs")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--scans", type=int, default=2, help="number of scans")
    parser.add_argument("--noise", type=float, default=0.0, help="noise of every voxel, in sd")
    parser.add_argument("--kind", choices=("fmriprep", "parcels", "dense"), action="append")
    parser.add_argument("--remove", action="store_true", help="remove the files afterwards")
    args = parser.parse_args()
    for kind in args.kind or ("fmriprep", "parcels", "dense"):
        image = paint(
            args.archive,
            args.atlas_image,
            args.out,
            kind=kind,
            n_scans=args.scans,
            noise=args.noise,
        )
        values = read_back(args.out, kind, image, args.archive)
        known = values[np.isfinite(values)]
        print(
            f"{kind}: {len(values)} scans, {known.size} series, correlation with the archive: "
            f"lowest {known.min():.6f}, median {np.median(known):.6f}"
        )
        if args.remove:
            shutil.rmtree(args.out / kind)


if __name__ == "__main__":
    main()
