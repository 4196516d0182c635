"""Recordings to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.cli.reading import AS_USUAL, Reading
from semantoks.cli.working import ALL_CORES, Working
from semantoks.errors import ConfigurationError
from semantoks.terminal import Output

if TYPE_CHECKING:
    from semantoks.data.preparation import PreparationReport


@app.command(sort_key=20)
def prepare(
    source: Path,
    *,
    out: Path,
    atlas: str = "schaefer400-tian3-buckner7",
    format: Literal[
        "auto",
        "pcp",
        "arrays",
        "original-hdf5",
        "fmriprep",
        "cifti",
        "xcpd",
        "ukb",
        "conn",
        "dpabi",
        "cpac",
    ] = "auto",
    table: Path | None = None,
    id_column: str | None = None,
    subject_column: str | None = None,
    session_column: str | None = None,
    t_r_column: str | None = None,
    site_column: str | None = None,
    motion_column: str | None = None,
    t_r: float | None = None,
    target_t_r: float = 2.0,
    high_pass: float | Literal["none"] = 0.01,
    low_pass: float | Literal["none"] = 0.1,
    filter: bool = True,
    filtered_before: tuple[float | Literal["none"], float | Literal["none"]] | None = None,
    detrend: bool = True,
    min_samples: int = 100,
    min_coverage: float = 0.95,
    trust_order: Annotated[bool, Parameter(negative="")] = False,
    strict: Annotated[bool, Parameter(negative="")] = False,
    keep_going: Annotated[bool, Parameter(negative="")] = False,
    reading: Reading = AS_USUAL,
    working: Working = ALL_CORES,
    output: Output = SILENT,
) -> None:
    """Read recordings, preprocess them, and write a store.

    Scans whose data are not good enough (too short, too many flat ROIs, NaN, the same series under
    two names) are left out by name. An interrupted run goes on when it is called again; what
    is done is not read again. A process that is killed is replaced.

    Example: semantoks prepare ABIDE_pcp --atlas cc200 --table subjects.csv --out abide.store

    Example: semantoks prepare derivatives --atlas-image atlas_space-MNI152NLin6Asym_dseg.nii.gz
    --task rest --out study.store

    Parameters
    ----------
    source : Path
        Folder or file with the recordings.
    out : Path
        Folder of the store; it must not exist.
    atlas : str
        schaefer400-tian3-buckner7, schaefer400-tian3, schaefer400, the same with 17 networks
        (schaefer400-17networks...), cc200, or a TSV/CSV file with the columns label and network.
    format : str
        Layout of SOURCE.
    table : Path
        CSV or TSV with a row a scan or subject: repetition time, site, motion, phenotypes.
    id_column, subject_column, session_column, t_r_column, site_column, motion_column : str
        Columns of the table, where their names are not recognised.
    t_r : float
        Repetition time in s, where neither files nor table say it.
    target_t_r : float
        Repetition time in s to which all scans are resampled.
    high_pass, low_pass : float
        Edges of the band-pass filter in Hz; none for no edge.
    filter : bool
        Band-pass; --no-filter leaves the band as it is.
    filtered_before : float float
        Edges in Hz (or none) of the band that the series were filtered to before they came here,
        such as 0.008 0.08. No band-pass is applied then, and models that expect about this band
        (each edge within a factor of 1.5) accept the store.
    detrend : bool
        Take a straight line out of every ROI.
    min_samples : int
        Shortest scan, in samples after resampling.
    min_coverage : float
        Smallest share of ROIs that are neither flat nor missing.
    trust_order : bool
        Believe that ROIs come in the order of the atlas, whatever their connectivity says.
    strict : bool
        Refuse the whole source if any scan is refused or names no subject.
    keep_going : bool
        Leave out, too, what cannot be read, lacks a repetition time or is not in the table.
    reading : Reading
        How images are read.
    working : Working
        Who does the work.
    output : Output
        How to speak.
    """
    from semantoks.data.atlas import Atlas
    from semantoks.data.preparation import prepare as prepare_store
    from semantoks.data.preprocessing import Preprocessing
    from semantoks.data.scan_table import read_scan_table

    if strict and keep_going:
        raise ConfigurationError("--strict and --keep-going exclude each other; choose one.")
    columns = {
        "id_column": id_column,
        "subject_column": subject_column,
        "session_column": session_column,
        "t_r_column": t_r_column,
        "site_column": site_column,
        "motion_column": motion_column,
    }
    if table is None and any(columns.values()):
        raise ConfigurationError("columns are named, but there is no table; give --table FILE.")
    if filtered_before is not None:
        if (high_pass, low_pass) != (0.01, 0.1):
            raise ConfigurationError(
                "--filtered-before applies no band-pass; leave --high-pass and --low-pass out."
            )
        filter = False
    preprocessing = Preprocessing(
        target_t_r=target_t_r,
        high_pass=_edge(high_pass) if filter else None,
        low_pass=_edge(low_pass) if filter else None,
        filtered_before=None
        if filtered_before is None
        else (_edge(filtered_before[0]), _edge(filtered_before[1])),
        detrend=detrend,
        min_samples=min_samples,
        min_coverage=min_coverage,
    )
    with output.progress("preparing scans") as advance:
        report = prepare_store(
            source,
            out,
            atlas=Atlas.load(atlas),
            ignore=[Path(atlas)],
            reading=reading.options(),
            trust_order=trust_order,
            format=format,
            table=read_scan_table(table, **columns) if table else None,
            t_r=t_r,
            preprocessing=preprocessing,
            workers=working.workers,
            scheduler=working.scheduler,
            policy="strict" if strict else "keep-going" if keep_going else "default",
            progress=lambda done, total: advance(done, total, ""),
        )
    _say_prepared(report, output)


def _edge(value: float | Literal["none"]) -> float | None:
    """Read an edge of a filter; the word none means that there is none."""
    return None if isinstance(value, str) else value


def _say_prepared(report: PreparationReport, output: Output) -> None:
    """Say which scans are in the store and which were refused, and why."""
    for refusal in report.refused:
        output.say(f"refused {refusal.scan} [{refusal.category}]: {refusal.reason}")
    for notice in report.notices:
        output.say(notice)
    resumed = f" ({report.n_resumed} of them before an interruption)" if report.n_resumed else ""
    output.say(
        f"{report.n_written} of {report.n_found} scans{resumed} are in {report.path}, "
        f"{len(report.refused)} were refused ({report.path / 'refused.csv'}); "
        f"{report.seconds:.1f} s."
    )
    output.result(
        {
            "store": str(report.path),
            "n_found": report.n_found,
            "n_written": report.n_written,
            "n_unnamed_subjects": report.nameless,
            "refused": [vars(refusal) for refusal in report.refused],
            "seconds": report.seconds,
        }
    )
