"""Options that several verbs share: reading, workers, and recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Group, Parameter, validators

from semantoks.errors import ConfigurationError

if TYPE_CHECKING:
    from semantoks.data.atlas import Atlas
    from semantoks.data.preparation import PreparationReport
    from semantoks.data.recording import Policy, ReaderOptions
    from semantoks.data.signal import Preprocessing
    from semantoks.data.tables import ScanTable
    from semantoks.terminal import Output


_Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]


@Parameter(name="*", group=Group("Images (fMRIPrep, CIFTI)", sort_key=2))
@dataclass(frozen=True)
class Reading:
    """What can be said of images; series that were extracted before need none of it.

    Parameters
    ----------
    atlas_image : Path
        Where the ROIs of the atlas are: labels as .nii.gz for volumes, .dlabel.nii for dtseries.
    atlas_space : str
        Space of the atlas image, if its name does not say it: MNI152NLin6Asym, ...
    task : str
        Only files with this task in their names, such as rest.
    run : str
        Only files with this run in their names.
    space : str
        Only files with this space in their names, such as MNI152NLin6Asym.
    res : str
        Only files with this resolution in their names.
    denoise : str
        Confounds of fMRIPrep to regress out; auto is simple for its files, none for clean ones.
    global_signal : str
        removed regresses the global signal out as well.
    n_compcor : int
        Components of compcor.
    fd_threshold : float
        Framewise displacement in mm above which scrubbing takes a volume out.
    std_dvars_threshold : float
        The same for standardised DVARS.
    max_scrubbed : float
        Largest share of scrubbed volumes.
    non_steady : str
        What becomes of the volumes before the steady state.
    min_roi_coverage : float
        A ROI of which a smaller share was measured is missing.
    """

    atlas_image: Path | None = None
    atlas_space: str | None = None
    task: str | None = None
    run: str | None = None
    space: str | None = None
    res: str | None = None
    denoise: Literal["auto", "none", "motion", "simple", "scrubbing", "compcor"] = "auto"
    global_signal: Literal["kept", "removed"] = "kept"
    n_compcor: int = 5
    fd_threshold: float = 0.5
    std_dvars_threshold: float = 1.5
    max_scrubbed: _Share = 0.5
    non_steady: Literal["dropped", "kept"] = "dropped"
    min_roi_coverage: _Share = 0.5

    def options(self) -> ReaderOptions:
        """Return them as the readers take them.

        Returns
        -------
        ReaderOptions
            The same values.
        """
        from semantoks.data.recording import ReaderOptions

        return ReaderOptions(**vars(self))


AS_USUAL: Final = Reading()
"""How images are read if nothing is said."""


@Parameter(name="*", group=Group("Many cores and clusters", sort_key=3))
@dataclass(frozen=True)
class Working:
    """Who does the work; the result is the same.

    Parameters
    ----------
    workers : int
        Processes of this machine, a thread each; 1 is this process alone. By default, prepare takes
        all cores that it may use, and embed is one process with a thread a core.
    scheduler : str
        Address (tcp://node17:8786) or file (.json) of the scheduler of a Dask cluster that does the
        work instead. It must see the files under the same paths.
    """

    workers: int | None = None
    scheduler: str | None = None


ALL_CORES: Final = Working()
"""Who does the work if nothing is said."""


# `prepare` and `embed` share them, so that the same words give the same series.

_Edge = float | Literal["none"]
_Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*", group=Group("Recordings", sort_key=1))
@dataclass(frozen=True)
class Recordings:
    """What can be said of recordings, and which of them are good enough.

    Parameters
    ----------
    format : str
        Layout of SOURCE.
    table : Path
        CSV or TSV with a row a scan or subject: repetition time, site, motion, phenotypes.
    id_column : str
        Column of the table that names scans or subjects, if it is not recognised.
    subject_column : str
        The same for the subject.
    session_column : str
        The same for the session.
    t_r_column : str
        The same for the repetition time in s.
    site_column : str
        The same for the site.
    motion_column : str
        The same for the mean framewise displacement in mm.
    t_r : float
        Repetition time in s, where neither files nor table say it.
    high_pass : float
        Lower edge of the band-pass filter in Hz, none for no edge; by default 0.01, in embed as
        the model expects.
    low_pass : float
        Upper edge of the band-pass filter in Hz, none for no edge; by default 0.1, in embed as the
        model expects.
    filtered_before : float float
        Edges in Hz (or none) of the band that the series were filtered to before they came here,
        such as 0.008 0.08. No band-pass is applied then, and models that expect about this band
        (each edge within a factor of 1.5) accept the store.
    min_samples : int
        Shortest scan, in samples after resampling; by default 100, in embed one window.
    min_coverage : float
        Smallest share of ROIs that are neither flat nor missing; by default 0.95, in embed that of
        the model. A network without any is masked in the model.
    min_network_coverage : float
        Smallest share of the ROIs of a network; one that has fewer is masked as a whole in that
        scan. By default, one ROI is enough.
    trust_order : bool
        Believe that ROIs come in the order of the atlas, whatever their connectivity says.
    strict : bool
        Refuse the whole source if any scan is refused or names no subject.
    keep_going : bool
        Leave out, too, what cannot be read, lacks a repetition time or is not in the table.
    """

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
    ] = "auto"
    table: Path | None = None
    id_column: str | None = None
    subject_column: str | None = None
    session_column: str | None = None
    t_r_column: str | None = None
    site_column: str | None = None
    motion_column: str | None = None
    t_r: float | None = None
    high_pass: _Edge | None = None
    low_pass: _Edge | None = None
    filtered_before: tuple[_Edge, _Edge] | None = None
    min_samples: int | None = None
    min_coverage: float | None = None
    min_network_coverage: float | None = None
    trust_order: _Flag = False
    strict: _Flag = False
    keep_going: _Flag = False

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises
        ------
        ConfigurationError
            If so.
        """
        if self.strict and self.keep_going:
            raise ConfigurationError("--strict and --keep-going exclude each other; choose one.")
        if self.table is None and any(self._columns().values()):
            raise ConfigurationError("columns are named, but there is no table; give --table FILE.")
        if self.filtered_before is not None and (self.high_pass, self.low_pass) != (None, None):
            raise ConfigurationError(
                "--filtered-before applies no band-pass; leave --high-pass and --low-pass out."
            )

    @property
    def policy(self) -> Policy:
        """What becomes of scans that cannot be used."""
        return "strict" if self.strict else "keep-going" if self.keep_going else "default"

    def preprocessing(self, usual: Preprocessing) -> Preprocessing:
        """Change what is usually done to recordings as far as the options say so.

        Parameters
        ----------
        usual : Preprocessing
            What is done if nothing is said.

        Returns
        -------
        Preprocessing
            What is to be done.

        Raises
        ------
        ConfigurationError
            If a value is impossible.
        """
        changes: dict[str, object] = {}
        if self.filtered_before is not None:
            low, high = map(_edge, self.filtered_before)
            changes |= {"high_pass": None, "low_pass": None, "filtered_before": (low, high)}
        elif (self.high_pass, self.low_pass) != (None, None):
            changes["filtered_before"] = None
            for name, value in (("high_pass", self.high_pass), ("low_pass", self.low_pass)):
                if value is not None:
                    changes[name] = _edge(value)
        for name in ("min_samples", "min_coverage", "min_network_coverage"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]

    def scan_table(self) -> ScanTable | None:
        """Read the table of scans.

        Returns
        -------
        ScanTable or None
            None if there is none.

        Raises
        ------
        InputError
            If it cannot be read or lacks a column.
        """
        from semantoks.data.tables import read_scan_table

        return None if self.table is None else read_scan_table(self.table, **self._columns())

    def _columns(self) -> dict[str, str | None]:
        """Return the columns that are named."""
        return {
            "id_column": self.id_column,
            "subject_column": self.subject_column,
            "session_column": self.session_column,
            "t_r_column": self.t_r_column,
            "site_column": self.site_column,
            "motion_column": self.motion_column,
        }


AS_FOUND: Final = Recordings()
"""What is known of recordings if nothing is said."""


def write_store(
    source: Path,
    out: Path,
    *,
    atlas: Atlas,
    preprocessing: Preprocessing,
    recordings: Recordings,
    reading: Reading,
    working: Working,
    output: Output,
    ignore: Sequence[Path] = (),
    existing: Literal["refuse", "reuse"] = "refuse",
) -> PreparationReport:
    """Read recordings into a store, and say what became of them."""
    from semantoks.data.preparation import prepare

    with output.progress("preparing scans") as advance:
        report = prepare(
            source,
            out,
            atlas=atlas,
            ignore=ignore,
            reading=reading.options(),
            trust_order=recordings.trust_order,
            format=recordings.format,
            table=recordings.scan_table(),
            t_r=recordings.t_r,
            preprocessing=preprocessing,
            workers=working.workers,
            scheduler=working.scheduler,
            policy=recordings.policy,
            existing=existing,
            progress=lambda done, total: advance(done, total, ""),
        )
    for refusal in report.refused:
        output.say(f"refused {refusal.scan} [{refusal.category}]: {refusal.reason}")
    for notice in report.notices:
        output.say(notice)
    return report


def _edge(value: _Edge) -> float | None:
    """Read an edge of a filter; the word none means that there is none."""
    return None if isinstance(value, str) else value
