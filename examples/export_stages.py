#!/usr/bin/env python3
"""Write the STAGES recordings as a user would have them: one .tsv a scan and a table of scans.

The archive holds the z-scored series of 92 scans in one file: ``timeseries_z`` (scan, roi, time)
with ``roi_mean`` and ``roi_sd`` (scan, roi) that restore their units, ``subject`` and ``session``.
ROIs 0 to 399 are Schaefer-400 in 7-network order; the other 19 are left out. This writes::

    OUT/sub-001_ses-1_task-rest_timeseries.tsv    a header of ROI labels, then a row a volume
    OUT/scans.tsv                                 scan_id, participant_id, session, tr, outcomes

``--outcome sofas=sofas_change_scores.txt`` adds a column: a person's mean change score (BIDS_ID,
timepoint, outcome) over time points.

Then ``semantoks prepare OUT --atlas schaefer400 --table OUT/scans.tsv --out STORE`` reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from semantoks.data.atlas import Atlas


def export(
    archive: Path, out: Path, n_scans: int | None = None, outcomes: dict[str, Path] | None = None
) -> pd.DataFrame:
    """Write the scans of the archive, and return the table of scans.

    Parameters
    ----------
    archive : Path
        The HDF5 file.
    out : Path
        Folder to write to; made if it is not there.
    n_scans : int or None
        Only the first scans; all if None.
    outcomes : dict of str to Path, optional
        Tables of change scores by the name of the column that they become.

    Returns
    -------
    DataFrame
        Columns scan_id, participant_id, session, tr (s) and the outcomes.
    """
    out.mkdir(parents=True, exist_ok=True)
    labels = Atlas.load("schaefer400").labels
    n_rois = len(labels)
    rows = []
    with h5py.File(archive) as file:
        t_r = float(file.attrs["tr_s"])
        subjects, sessions = file["subject"].asstr()[:n_scans], file["session"][:n_scans]
        for i, (subject, session) in enumerate(zip(subjects, sessions, strict=True)):
            z = file["timeseries_z"][i, :n_rois].astype(np.float32)
            mean, deviation = file["roi_mean"][i, :n_rois], file["roi_sd"][i, :n_rois]
            series = z * deviation[:, None] + mean[:, None]
            scan = f"{subject}_ses-{session}_task-rest_timeseries"
            table = pd.DataFrame(series.T, columns=list(labels))
            table.to_csv(out / f"{scan}.tsv", sep="\t", index=False, float_format="%.7g")
            rows.append({"scan_id": scan, "participant_id": subject, "session": session, "tr": t_r})
    scans = pd.DataFrame(rows)
    for name, path in (outcomes or {}).items():
        scores = pd.read_csv(path, sep="\t").groupby("BIDS_ID")["outcome"].mean()
        scans[name] = scans["participant_id"].map(scores)
    scans.to_csv(out / "scans.tsv", sep="\t", index=False)
    return scans


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path, help="the HDF5 file of the recordings")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--scans", type=int, default=None, help="only the first N scans")
    parser.add_argument("--outcome", action="append", default=[], metavar="NAME=FILE")
    args = parser.parse_args()
    outcomes = {name: Path(file) for name, file in (word.split("=", 1) for word in args.outcome)}
    scans = export(args.archive, args.out, args.scans, outcomes)
    print(f"wrote {len(scans)} scans of {scans.participant_id.nunique()} people to {args.out}")


if __name__ == "__main__":
    main()
