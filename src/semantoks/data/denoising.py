"""Confounds of fMRIPrep: selection of columns, and regression from the series."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.bids import BidsName, parse_bids_name, read_json
from semantoks.data.recording import Denoise, ReaderOptions
from semantoks.data.signal import QualityError, fill_censored, filter_series
from semantoks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


_NAME: Final = re.compile(r"_desc-confounds_((?:part-mag_)?(?:timeseries|regressors))\.tsv(\.gz)?$")
_RIGID: Final = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")
_DISPLACEMENT: Final = "framewise_displacement"
MOTION_COLUMNS: Final = (_DISPLACEMENT, "std_dvars", "non_steady_state_outlier")
"""What `measure_motion` looks at."""
_STRATEGIES: Final[Mapping[Denoise, dict[str, Any]]] = {
    "motion": {"strategy": ("motion",), "motion": "full"},
    "simple": {"strategy": ("motion", "wm_csf"), "motion": "full", "wm_csf": "basic"},
    "scrubbing": {
        "strategy": ("motion", "wm_csf", "scrub"),
        "motion": "full",
        "wm_csf": "full",
        "scrub": 5,
    },
    "compcor": {"strategy": ("motion", "compcor"), "motion": "full", "compcor": "anat_combined"},
}
"""What nilearn's strategies of these names take, without the cosines."""


class Motion(NamedTuple):
    """How a head moved, and which volumes that costs."""

    mean_displacement: float
    n_non_steady: int
    kept: NDArray[np.bool_]

    @property
    def share_scrubbed(self) -> float:
        """Share of the volumes in the steady state that are scrubbed."""
        steady = self.kept[self.n_non_steady :]
        return float(1 - steady.mean()) if steady.size else float("nan")


def find_confounds(image: BidsName) -> Path | None:
    """Find the confounds table of an image."""
    folder = image.path.parent
    candidates = [
        path for path in folder.glob(f"{image.subject}*_desc-confounds*") if _is_table(path)
    ]
    tables = {path: parse_bids_name(path) for path in sorted(candidates)}
    fitting = [path for path, table in tables.items() if table.is_of(image)]
    if not fitting:  # echoes are combined into one series, and have one table
        fitting = [path for path, table in tables.items() if table.is_of(image, without="echo")]
    if len(fitting) > 1:
        raise InputError(
            f"{image.path} has {len(fitting)} confounds tables: "
            f"{', '.join(path.name for path in fitting)}. Keep the one that belongs to it."
        )
    return fitting[0] if fitting else None


def list_confounds(image: BidsName) -> tuple[Path, ...]:
    """List what says how an image is cleaned."""
    try:
        table = find_confounds(image)
    except InputError:
        # Complained of when the image is loaded.
        return ()
    return () if table is None else tuple(x for x in (table, _json_of(table)) if x.is_file())


def _is_table(path: Path) -> bool:
    """Say whether a file is a confounds table by its name, of any version."""
    return _NAME.search(path.name) is not None


def read_confounds(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read a confounds table of fMRIPrep 1.2 or later."""
    import pandas as pd

    try:
        table = pd.read_csv(
            path,
            sep="\t",
            na_values=["n/a"],
            encoding="utf-8",
            usecols=None if columns is None else lambda name: name.startswith(tuple(columns)),
        )
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"confounds table {path} cannot be read: {str(error).strip()}. It may be cut off, or a "
            "link to a file that was not downloaded; copy it again."
        ) from error
    if table.empty or not set(table.select_dtypes("number").columns):
        raise InputError(
            f"confounds table {path} holds no numbers; a header and then a row a volume was "
            "expected. Copy it again."
        )
    if "FramewiseDisplacement" in table or "RotX" in table:
        raise InputError(
            f"confounds table {path} has the columns of fMRIPrep before version 1.2 (such as "
            "FramewiseDisplacement), which cannot be used. Run a newer fMRIPrep."
        )
    for name, column in table.items():
        if not pd.api.types.is_numeric_dtype(column):
            row = int((pd.to_numeric(column, errors="coerce").isna() & column.notna()).argmax())
            raise InputError(
                f"confounds table {path}, line {row + 2}, column {name!r}: a number or n/a was "
                f"expected, but {str(column.iloc[row])!r} stands there. Copy the table again."
            )
    return _complete(table)


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """Add derivatives and squares that are not there."""
    import pandas as pd

    added: dict[str, pd.Series[float]] = {}
    for name in (*_RIGID, "csf", "white_matter", "global_signal"):
        if name not in table:
            continue
        derivative = table.get(f"{name}_derivative1", table[name].diff())
        for column, values in (
            (f"{name}_derivative1", derivative),
            (f"{name}_power2", table[name] ** 2),
            (f"{name}_derivative1_power2", derivative**2),
        ):
            if column not in table:
                added[column] = values
    return pd.concat([table, pd.DataFrame(added, index=table.index)], axis=1)


def measure_motion(table: pd.DataFrame, path: Path, options: ReaderOptions) -> Motion:
    """Tell how a head moved, and which volumes are left out."""
    n_non_steady = _count_non_steady(table) if options.non_steady == "dropped" else 0
    kept = np.arange(len(table)) >= n_non_steady
    if options.denoise == "scrubbing":
        _require(table, (_DISPLACEMENT, "std_dvars"), path, options.denoise)
        columns = table[[_DISPLACEMENT, "std_dvars"]]
        _, mask = _ask_nilearn(
            columns,
            None,
            path,
            strategy=("scrub",),
            scrub=_STRATEGIES["scrubbing"]["scrub"],
            fd_threshold=options.fd_threshold,
            std_dvars_threshold=options.std_dvars_threshold,
        )
        kept &= mask
    displacement = float("nan")
    if _DISPLACEMENT in table:
        steady = table[_DISPLACEMENT].iloc[n_non_steady:]
        displacement = float(steady.mean()) if steady.notna().any() else displacement
    return Motion(displacement, n_non_steady, kept)


def _count_non_steady(table: pd.DataFrame) -> int:
    """Return the number of volumes up to the last one that is not in the steady state."""
    columns = [name for name in table if str(name).startswith("non_steady_state_outlier")]
    marked = np.flatnonzero((table[columns] != 0).any(axis=1)) if columns else np.array([])
    return int(marked[-1]) + 1 if marked.size else 0


def _require(table: pd.DataFrame, columns: tuple[str, ...], path: Path, denoise: str) -> None:
    """Refuse a table that lacks columns."""
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(
            f"confounds table {path} lacks the column(s) {', '.join(missing)}, which denoising by "
            f"{denoise!r} needs. Choose another strategy that it has the columns for (denoise, "
            "--denoise: none, motion, simple, scrubbing, compcor), or run a newer fMRIPrep."
        )


def _ask_nilearn(
    table: pd.DataFrame, sidecar: Path | None, path: Path, **choice: Any
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Let nilearn choose columns and volumes; it looks for files beside an image by their names."""
    from nilearn.interfaces.fmriprep import load_confounds

    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / "sub-1_desc-confounds_timeseries.tsv"
        # nilearn refuses tables with capitals for too old, but vx-wisestdDVARS is of version 1.2.
        named = [name for name in table if str(name) == str(name).lower()]
        table[named].to_csv(beside, sep="\t", index=False, na_rep="n/a")
        content = "{}" if sidecar is None else sidecar.read_text(encoding="utf-8")
        beside.with_suffix(".json").write_text(content, encoding="utf-8")
        try:
            with warnings.catch_warnings():
                # That all volumes are outliers is refused later, in words of our own.
                warnings.filterwarnings("ignore", "All volumes were marked", RuntimeWarning)
                chosen, mask = load_confounds(f"{folder}/sub-1_desc-preproc_bold.nii.gz", **choice)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"confounds table {path} does not have what denoising needs: "
                f"{str(error).strip()}. Choose another strategy (denoise, --denoise)."
            ) from error
    kept = np.ones(len(table), dtype=bool)
    if mask is not None:
        kept[:] = False
        kept[mask] = True
    return chosen, kept


def choose_regressors(
    table: pd.DataFrame, path: Path, options: ReaderOptions
) -> NDArray[np.float64]:
    """Choose the confounds to regress out."""
    choice = dict(_STRATEGIES[options.denoise])
    parts = [part for part in choice["strategy"] if part != "scrub"]
    _require(table, _RIGID, path, options.denoise)
    if "wm_csf" in parts:
        _require(table, ("csf", "white_matter"), path, options.denoise)
    if options.global_signal == "removed":
        _require(table, ("global_signal",), path, "removing the global signal")
        # With the same terms as the others of the strategy.
        choice["global_signal"] = choice.get("wm_csf", "basic")
        parts.append("global_signal")
    sidecar = None
    if "compcor" in parts:
        sidecar = _sidecar_of(path)
        choice["n_compcor"] = options.n_compcor
    choice["strategy"] = (*parts, "high_pass")
    chosen, _ = _ask_nilearn(table, sidecar, path, **choice)
    if options.band[0] is not None:
        chosen = chosen[[name for name in chosen if not str(name).startswith("cosine")]]
    values = chosen.to_numpy(dtype=np.float64).T
    if not np.isfinite(values).all():
        bad = [str(name) for name in chosen if not np.isfinite(chosen[name]).all()]
        raise InputError(
            f"confounds table {path} has missing values after the first volume in "
            f"{', '.join(bad[:3])}; a number a volume was expected. Copy it again."
        )
    return values


def _json_of(table: Path) -> Path:
    """Return where the JSON file of a confounds table would be."""
    return table.with_name(_NAME.sub(r"_desc-confounds_\1.json", table.name))


def _sidecar_of(path: Path) -> Path:
    """Return the JSON file beside a confounds table, which says what its components are."""
    sidecar = _json_of(path)
    if not sidecar.is_file():
        raise InputError(
            f"{sidecar} is not there, but denoising by 'compcor' needs it: it says which mask each "
            "component is from. Copy it, or choose another strategy (denoise, --denoise)."
        )
    read_json(sidecar)
    return sidecar


# Denoising is least squares of every ROI on the confounds, estimated *within the band that passes
# afterwards* and on the volumes that are kept. The fit is subtracted from the unfiltered series, so
# that the band-pass that follows gives what filtering series and confounds together would give
# (Lindquist et al., 2019): nothing is filtered twice, and no frequency that was taken out comes
# back. That is why the cosines of fMRIPrep are used only if no high-pass follows. Volumes that are
# scrubbed take no part in the fit, and are interpolated between their neighbours afterwards.

_LEAST_FREEDOM: Final = 10
"""So many degrees of freedom must be left in the band, or the fit is of noise to noise."""


def clean_series(
    series: Float[NDArray[np.floating[Any]], "roi time"],
    confounds: Path | None,
    t_r: float,
    options: ReaderOptions,
    *,
    image: Path,
) -> NDArray[np.float64]:
    """Leave out volumes, regress confounds out, and fill the volumes that are scrubbed."""
    values = np.asarray(series, dtype=np.float64)
    if confounds is None:
        if options.denoise != "none":
            expected = f"{parse_bids_name(image).recording}_desc-confounds_timeseries.tsv"
            raise InputError(
                f"{image} has no confounds table, which denoising by {options.denoise!r} needs: "
                f"{image.parent / expected} was expected. Copy it there, or read the series as "
                "they are (denoise='none', --denoise none)."
            )
        return values
    table = read_confounds(confounds)
    if len(table) != values.shape[1]:
        raise InputError(
            f"{image} has {values.shape[1]} volumes, but its confounds table {confounds} has "
            f"{len(table)} rows. They are not of the same run, or one of them was cut; copy both "
            "again."
        )
    motion = measure_motion(table, confounds, options)
    _check_scrubbed(motion, options)
    if options.denoise != "none":
        regressors = choose_regressors(table, confounds, options)
        _check_freedom(motion, len(regressors), t_r, options)
        values = _regress_out(values, regressors, motion, t_r, options.band)
    return fill_censored(values[:, motion.kept], motion.kept)


def _check_scrubbed(motion: Motion, options: ReaderOptions) -> None:
    """Refuse a scan of which too little is left."""
    if not motion.kept.any() or motion.share_scrubbed > options.max_scrubbed:
        steady = len(motion.kept) - motion.n_non_steady
        raise QualityError(
            f"{steady - int(motion.kept.sum())} of {steady} volumes are scrubbed (framewise "
            f"displacement above {options.fd_threshold:g} mm, standardised DVARS above "
            f"{options.std_dvars_threshold:g}, or between such volumes), but at most "
            f"{options.max_scrubbed:.0%} may be.",
            "short",
        )


def _check_freedom(motion: Motion, n_regressors: int, t_r: float, options: ReaderOptions) -> None:
    """Refuse a fit that has about as many regressors as the band has degrees of freedom."""
    nyquist = 0.5 / t_r
    low, high = options.band[0] or 0.0, min(options.band[1] or nyquist, nyquist)
    freedom = int(motion.kept.sum()) * (high - low) / nyquist
    if freedom - n_regressors < _LEAST_FREEDOM:
        raise QualityError(
            f"too short for denoising by {options.denoise!r}: {int(motion.kept.sum())} volumes at "
            f"{t_r:g} s have about {freedom:.0f} degrees of freedom between {low:g} and {high:g} "
            f"Hz, and {n_regressors} confounds leave fewer than {_LEAST_FREEDOM}.",
            "short",
        )


def _regress_out(
    values: NDArray[np.float64],
    regressors: NDArray[np.float64],
    motion: Motion,
    t_r: float,
    band: tuple[float | None, float | None],
) -> NDArray[np.float64]:
    """Subtract the fit of the confounds, estimated in the band and on the kept volumes."""
    there = np.isfinite(values).all(axis=1)
    stacked = np.concatenate([values[there], regressors])
    # The ends that are left out must not ring into the band.
    inside = _span(motion.kept)
    stacked = fill_censored(stacked[:, motion.kept], motion.kept)
    centred = stacked - stacked.mean(axis=1, keepdims=True)
    in_band = filter_series(centred, t_r, *band, detrend=True)
    used = in_band[:, motion.kept[inside]]
    used = used - used.mean(axis=1, keepdims=True)
    n_rois = int(there.sum())
    scale = np.linalg.norm(used[n_rois:], axis=1)
    alive = scale > 0
    design = used[n_rois:][alive] / scale[alive, None]
    slopes = np.linalg.lstsq(design.T, used[:n_rois].T, rcond=None)[0]
    fit = slopes.T @ (centred[n_rois:][alive] / scale[alive, None])
    cleaned = values.copy()
    cleaned[np.ix_(np.flatnonzero(there), np.arange(inside.start, inside.stop))] -= fit
    return cleaned


def _span(kept: NDArray[np.bool_]) -> slice:
    """Return the part from the first to the last volume that is kept."""
    found = np.flatnonzero(kept)
    return slice(int(found[0]), int(found[-1]) + 1)
