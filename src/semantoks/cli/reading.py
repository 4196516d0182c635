"""Options of every verb that reads images: the atlas image, which files, and how to denoise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Group, Parameter, validators

if TYPE_CHECKING:
    from semantoks.data.reader_options import ReaderOptions

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
        from semantoks.data.reader_options import ReaderOptions

        return ReaderOptions(**vars(self))


AS_USUAL: Final = Reading()
"""How images are read if nothing is said."""
