"""Recordings to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from semantoks.cli.application import SILENT, app
from semantoks.cli.quality import draw_quality_page
from semantoks.cli.reading import AS_USUAL, Reading
from semantoks.cli.recordings import AS_FOUND, Recordings, write_store
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
    target_t_r: float = 2.0,
    filter: bool = True,
    detrend: bool = True,
    quality_page: bool = True,
    recordings: Recordings = AS_FOUND,
    reading: Reading = AS_USUAL,
    working: Working = ALL_CORES,
    output: Output = SILENT,
) -> None:
    """Read recordings, preprocess them, and write a store and a page of their quality.

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
    target_t_r : float
        Repetition time in s to which all scans are resampled.
    filter : bool
        Band-pass; --no-filter leaves the band as it is.
    detrend : bool
        Take a straight line out of every ROI.
    quality_page : bool
        Draw OUT/quality.html; semantoks quality OUT does it later.
    recordings : Recordings
        Which files, and what is known of them.
    reading : Reading
        How images are read.
    working : Working
        Who does the work.
    output : Output
        How to speak.
    """
    from semantoks.data.atlas import Atlas
    from semantoks.data.preprocessing import Preprocessing

    recordings.check()
    if not filter and (recordings.high_pass, recordings.low_pass) != (None, None):
        raise ConfigurationError(
            "--no-filter applies no band-pass; leave --high-pass and --low-pass out."
        )
    if filter:
        usual = Preprocessing(target_t_r=target_t_r, detrend=detrend)
    else:
        usual = Preprocessing(target_t_r=target_t_r, detrend=detrend, high_pass=None, low_pass=None)
    report = write_store(
        source,
        out,
        atlas=Atlas.load(atlas),
        preprocessing=recordings.preprocessing(usual),
        recordings=recordings,
        reading=reading,
        working=working,
        output=output,
        ignore=[Path(atlas)],
    )
    page = draw_quality_page(report.path, output) if quality_page else None
    _say_prepared(report, page, output)


def _say_prepared(report: PreparationReport, page: Path | None, output: Output) -> None:
    """Say where the store is, and how many scans are in it."""
    resumed = f" ({report.n_resumed} of them before an interruption)" if report.n_resumed else ""
    output.say(
        f"{report.n_written} of {report.n_found} scans{resumed} are in {report.path}, "
        f"{len(report.refused)} were refused ({report.path / 'refused.csv'}); "
        f"{report.seconds:.1f} s."
    )
    if page is not None:
        output.say(f"Their quality: {page}.")
    output.result(
        {
            "store": str(report.path),
            "quality_page": None if page is None else str(page),
            "n_found": report.n_found,
            "n_written": report.n_written,
            "n_unnamed_subjects": report.nameless,
            "refused": [vars(refusal) for refusal in report.refused],
            "seconds": report.seconds,
        }
    )
