"""Recordings to a store."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from semantoks.cli.application import SILENT, app
from semantoks.cli.options import (
    ALL_CORES,
    AS_FOUND,
    AS_USUAL,
    Reading,
    Recordings,
    Working,
    write_store,
)
from semantoks.errors import ConfigurationError
from semantoks.terminal import Output, complain

if TYPE_CHECKING:
    from semantoks.data.preparation import PreparationReport


PAGE: Final = "quality.html"
"""The page in the folder of a store."""


@app.command(sort_key=25)
def quality(store: Path, *, out: Path | None = None, output: Output = SILENT) -> None:
    """Draw the data quality of every scan, kept or refused, with outliers by name.

    Length, motion, coverage, temporal signal to noise, share in band, jumps, global signal, and
    connectivity with distance. The numbers are in STORE/quality.parquet and STORE/coverage.csv.

    Example: semantoks quality abide.store

    Parameters
    ----------
    store : Path
        The store.
    out : Path
        The page; by default STORE/quality.html. One that is there is replaced.
    output : Output
        What is printed.
    """
    page = _draw(store, out)
    output.say(f"The quality of the scans: {page}.")
    output.result({"quality_page": str(page)})


def draw_quality_page(store: Path, output: Output) -> Path | None:
    """Draw the page of a store into it; nothing else may be lost if that fails."""
    try:
        return _draw(store, None)
    except Exception as error:
        if output.debug:
            traceback.print_exc()
        complain(
            f"the page of quality could not be drawn ({type(error).__name__}: {error}); everything "
            "else is done. To try it again on a store: semantoks quality STORE."
        )
        return None


def _draw(path: Path, out: Path | None) -> Path:
    """Draw the page of a store."""
    from semantoks.data.store import Store
    from semantoks.interpretation.quality_page import write_quality_page

    store = Store.open(path)
    return write_quality_page(store, store.quality, path / PAGE if out is None else out)


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
    """Preprocess recordings into a store, with a page of their data quality.

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
        Files, and metadata of the scans.
    reading : Reading
        How images are read.
    working : Working
        Processes, or a cluster.
    output : Output
        What is printed.
    """
    from semantoks.data.atlas import Atlas
    from semantoks.data.signal import Preprocessing
    from semantoks.data.store import is_store

    recordings.check()
    if not filter and (recordings.high_pass, recordings.low_pass) != (None, None):
        raise ConfigurationError(
            "--no-filter applies no band-pass; leave --high-pass and --low-pass out."
        )
    if filter:
        usual = Preprocessing(target_t_r=target_t_r, detrend=detrend)
    else:
        usual = Preprocessing(target_t_r=target_t_r, detrend=detrend, high_pass=None, low_pass=None)
    drawn = out / PAGE
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
        # Killed between the store and its page: the same call draws it.
        existing="reuse" if quality_page and is_store(out) and not drawn.exists() else "refuse",
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
