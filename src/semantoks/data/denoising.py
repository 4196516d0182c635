"""Series cleaned of confounds, and of the volumes in which a head moved.

Denoising is least squares of every ROI on the confounds, estimated *within the band that passes
afterwards* and on the volumes that are kept. The fit is subtracted from the unfiltered series, so
that the band-pass that follows gives what filtering series and confounds together would give
(Lindquist et al., 2019): nothing is filtered twice, and no frequency that was taken out comes back.
That is why the cosines of fMRIPrep are used only if no high-pass follows. Volumes that are scrubbed
take no part in the fit, and are interpolated between their neighbours afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.bids import parse_bids_name
from semantoks.data.confounds import Motion, choose_regressors, measure_motion, read_confounds
from semantoks.data.filtering import filter_series
from semantoks.data.preprocessing import QualityError
from semantoks.data.reader_options import ReaderOptions
from semantoks.data.retiming import fill_censored
from semantoks.errors import InputError

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
