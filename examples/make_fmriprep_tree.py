#!/usr/bin/env python3
"""Write a small simulated cohort as fMRIPrep writes its derivatives, to try the commands on.

    OUT/fmriprep/participants.tsv                       diagnosis (planted), age, handedness, site
    OUT/fmriprep/sub-001/func/sub-001_task-rest_...     volumes, sidecars, brain masks, confounds
    OUT/atlas.tsv                                       40 ROIs in 5 networks
    OUT/tpl-MNI152NLin6Asym_atlas-simulated_dseg.nii.gz where they are

Volumes have 960 voxels, so that a cohort takes seconds. One run is cut short, one head moves,
and one field of view misses a network.

    python examples/make_fmriprep_tree.py OUT --subjects 30
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.simulation import simulate_cohort

SPACE = "MNI152NLin6Asym"
NETWORKS = {"Vis": 9, "SomMot": 8, "DorsAttn": 7, "Cont": 6, "Default": 10}
SHAPE = (40, 6, 4)
"""A network is a block of up to 2 x 3 x 2 ROIs, a ROI a box of 2 x 2 x 2 voxels."""
AFFINE = np.array([[6.0, 0, 0, -117], [0, 6, 0, -15], [0, 0, 6, 10], [0, 0, 0, 1]])


def place_rois() -> tuple[Atlas, NDArray[np.int16]]:
    """Return an atlas of the simulated networks, and the volume that says where its ROIs are."""
    atlas = Atlas.from_networks(NETWORKS, name="simulated")
    labels = np.zeros(SHAPE, dtype=np.int16)
    for i, rois in enumerate(atlas.network_indices):
        # As far apart as a network is long: connectivity falls with distance, as in a brain.
        places = [(8 * i + x, y, z) for y in (0, 2, 4) for z in (0, 2) for x in (0, 2)]
        for value, (x, y, z) in zip(rois + 1, places, strict=False):
            labels[x : x + 2, y : y + 2, z : z + 2] = value
    centres = [
        nib.affines.apply_affine(AFFINE, np.argwhere(labels == value).mean(axis=0))
        for value in range(1, len(atlas) + 1)
    ]
    values = tuple(range(1, len(atlas) + 1))
    return dataclasses.replace(atlas, coordinates=np.array(centres), values=values), labels


def paint(person: Recording, labels: NDArray[np.int16]) -> NDArray[np.float32]:
    """Give every voxel the series of its ROI, and noise of its own."""
    generator = np.random.default_rng(int(person.subject.removeprefix("sub-")))
    rest = np.zeros((1, person.series.shape[1]))
    volume = 1000 + 10 * np.concatenate([rest, person.series])[labels]
    return (volume + generator.standard_normal(volume.shape)).astype(np.float32)


def make_confounds(n_times: int, motion: float, seed: int) -> pd.DataFrame:
    """Return the confounds of a head that moves by so many mm from volume to volume."""
    generator = np.random.default_rng(seed)
    columns = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    table = pd.DataFrame(generator.standard_normal((n_times, 6)).cumsum(axis=0), columns=columns)
    table[["csf", "white_matter", "global_signal"]] = generator.standard_normal((n_times, 3))
    table["framewise_displacement"] = motion * generator.uniform(0.2, 1.8, n_times)
    table["std_dvars"] = generator.uniform(0.8, 1.2, n_times)
    table.loc[0, ["framewise_displacement", "std_dvars"]] = np.nan
    return table


def write_run(out: Path, person: Recording, labels: NDArray[np.int16], seed: int) -> None:
    """Write image, sidecar, mask and confounds of one scan."""
    func = out / person.subject / "func"
    func.mkdir(parents=True)
    stem = f"{person.subject}_task-rest"
    image = nib.Nifti1Image(paint(person, labels), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((6, 6, 6, person.t_r))
    nib.save(image, func / f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz")
    sidecar = {"RepetitionTime": person.t_r, "TaskName": "rest", "SkullStripped": False}
    (func / f"{stem}_space-{SPACE}_desc-preproc_bold.json").write_text(json.dumps(sidecar))
    mask = np.ones(SHAPE, dtype=np.uint8)
    if seed == 2:
        mask[:8] = 0
    nib.save(nib.Nifti1Image(mask, AFFINE), func / f"{stem}_space-{SPACE}_desc-brain_mask.nii.gz")
    motion = 1.2 if seed == 1 else person.motion
    table = make_confounds(person.series.shape[1], motion, seed)
    table.to_csv(
        func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a"
    )


def main() -> None:
    """Write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--subjects", type=int, default=30)
    arguments = parser.parse_args()
    out: Path = arguments.out
    atlas, labels = place_rois()
    people = simulate_cohort(arguments.subjects, atlas=atlas, n_samples=240)
    (out / "fmriprep").mkdir(parents=True)
    description = {"Name": "simulated", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (out / "fmriprep" / "dataset_description.json").write_text(json.dumps(description))
    for seed, person in enumerate(people):
        series = person.series[:, :40] if seed == 0 else person.series
        write_run(out / "fmriprep", dataclasses.replace(person, series=series), labels, seed)
    rows = [
        {"participant_id": person.subject, "site": person.site, **person.phenotypes}
        for person in people
    ]
    pd.DataFrame(rows).to_csv(out / "fmriprep" / "participants.tsv", sep="\t", index=False)
    atlas.to_table().to_csv(out / "atlas.tsv", sep="\t", index=False)
    nib.save(nib.Nifti1Image(labels, AFFINE), out / f"tpl-{SPACE}_atlas-simulated_dseg.nii.gz")


if __name__ == "__main__":
    main()
