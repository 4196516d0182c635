"""Confounds of fMRIPrep: real tables, and denoising with known answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn import signal
from nilearn.interfaces.fmriprep import load_confounds_strategy

from semantoks.data.bids import parse_bids_name
from semantoks.data.denoising import (
    MOTION_COLUMNS,
    choose_regressors,
    clean_series,
    find_confounds,
    measure_motion,
    read_confounds,
)
from semantoks.data.recording import Denoise, ReaderOptions
from semantoks.data.signal import Preprocessing, QualityError, filter_series, preprocess
from semantoks.errors import InputError

RIGID = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
BAND = (0.01, 0.1)
STEM = "sub-01_task-rest"


def noise(n_rows: int, n: int, seed: int) -> np.ndarray:
    """Return series that wander."""
    walk = np.random.default_rng(seed).standard_normal((n_rows, n)).cumsum(axis=1)
    return walk - walk.mean(axis=1, keepdims=True)


def make_table(n: int = 300, seed: int = 3) -> pd.DataFrame:
    """Return a table with all that the strategies ask for, as old versions wrote it."""
    table = pd.DataFrame(noise(9, n, seed).T, columns=[*RIGID, "csf", "white_matter", "x"])
    table = table.rename(columns={"x": "global_signal"})
    table["framewise_displacement"] = [np.nan, *np.full(n - 1, 0.1)]
    table["std_dvars"] = [np.nan, *np.full(n - 1, 1.0)]
    times = np.arange(n) + 0.5
    for i in range(4):
        table[f"cosine_{i:02d}"] = np.cos(np.pi * (i + 1) * times / n)
    for i in range(8):
        table[f"a_comp_cor_{i:02d}"] = noise(1, n, 50 + i)[0]
    return table


def write(folder: Path, table: pd.DataFrame, name: str = "timeseries.tsv") -> Path:
    """Write a table and the description of its components."""
    path = folder / f"{STEM}_desc-confounds_{name}"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    components = {
        f"a_comp_cor_{i:02d}": {
            "Method": "aCompCor",
            "Mask": "combined",
            "Retained": True,
            "SingularValue": 10.0 - i,
            "VarianceExplained": 0.1,
            "CumulativeVarianceExplained": 0.1 * (i + 1),
        }
        for i in range(8)
    }
    path.with_suffix(".json").write_text(json.dumps(components))
    return path


def clean(series: np.ndarray, path: Path | None, **options: object) -> np.ndarray:
    """Denoise with some options, in the usual band."""
    chosen = ReaderOptions(**{"denoise": "simple", "band": BAND} | options)  # type: ignore[arg-type]
    return clean_series(series, path, 2.0, chosen, image=Path(f"{STEM}_desc-preproc_bold.nii.gz"))


@pytest.mark.parametrize(
    ("denoise", "nilearn_name"),
    [("simple", "simple"), ("scrubbing", "scrubbing"), ("compcor", "compcor")],
)
def test_regressors_are_those_of_nilearn_without_cosines(
    tmp_path: Path, denoise: Denoise, nilearn_name: str
) -> None:
    table = read_confounds(write(tmp_path, make_table()))
    path = write(tmp_path, table)
    more = {"n_compcor": 5} if denoise == "compcor" else {}
    theirs, _ = load_confounds_strategy(
        str(tmp_path / f"{STEM}_desc-preproc_bold.nii.gz"), nilearn_name, **more
    )
    wanted = theirs[[name for name in theirs if not name.startswith("cosine")]]
    ours = choose_regressors(table, path, ReaderOptions(denoise=denoise, band=BAND))
    assert ours.shape == wanted.T.shape
    np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(wanted.T.to_numpy(), axis=0))
    # Where no high-pass follows, the cosines are the high-pass.
    all_ours = choose_regressors(table, path, ReaderOptions(denoise=denoise, band=(None, 0.1)))
    assert len(all_ours) == len(theirs.columns) == len(ours) + 4


def test_global_signal_is_an_option(tmp_path: Path) -> None:
    path = write(tmp_path, make_table())
    table = read_confounds(path)
    plain = ReaderOptions(denoise="motion", band=BAND)
    assert len(choose_regressors(table, path, plain)) == 24
    more = ReaderOptions(denoise="simple", band=BAND, global_signal="removed")
    assert len(choose_regressors(table, path, more)) == 24 + 2 + 1


def test_cleaned_and_filtered_equals_nilearn_that_filters_both(tmp_path: Path) -> None:
    """The band-pass that follows makes of it what filtering series and confounds together gives."""
    path = write(tmp_path, make_table())
    table = read_confounds(path)
    series = noise(5, 300, 7) + 1000
    options = ReaderOptions(denoise="simple", band=BAND)
    regressors = choose_regressors(table, path, options)
    ours = filter_series(clean(series, path), 2.0, *BAND)
    both = [filter_series(x, 2.0, *BAND) for x in (series, regressors)]
    theirs = signal.clean(
        both[0].T, confounds=both[1].T, detrend=False, filter=False, standardize=None
    ).T
    # But for a constant, which nilearn leaves in where a filter has left one.
    ours, theirs = (x - x.mean(axis=1, keepdims=True) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())
    # Regressing first and filtering then leaves confounds in the band.
    naive = signal.clean(series.T, confounds=regressors.T, detrend=True, standardize=None).T
    confound = both[1] - both[1].mean(axis=1, keepdims=True)

    def leak(cleaned: np.ndarray) -> float:
        kept = cleaned - cleaned.mean(axis=1, keepdims=True)
        return float(np.abs(np.corrcoef(kept, confound)[:5, 5:]).max())

    assert leak(ours) < 1e-6
    assert leak(filter_series(naive, 2.0, *BAND)) > 0.1


def test_motion_is_taken_out_and_the_mean_stays(tmp_path: Path) -> None:
    table = make_table()
    path = write(tmp_path, table)
    truth = filter_series(noise(5, 300, 8), 2.0, *BAND)
    weights = np.random.default_rng(9).standard_normal((5, 8))
    artefact = weights @ table[[*RIGID, "csf", "white_matter"]].to_numpy().T
    cleaned = clean(truth + artefact + 1000, path)
    assert cleaned.mean() == pytest.approx(1000, abs=1)
    ready = preprocess(cleaned, 2.0, Preprocessing()).series
    # As if the head had never moved: the artefact is gone to the last digit.
    still = preprocess(clean(truth + 1000, path), 2.0, Preprocessing()).series
    np.testing.assert_allclose(ready, still, atol=1e-4)
    moved = preprocess(truth + artefact + 1000, 2.0, Preprocessing()).series
    assert agreement(moved, truth) < 0.6 < 0.7 < agreement(ready, truth)


def agreement(series: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean correlation over ROIs."""
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(series, truth, strict=True)]))


def test_missing_rois_stay_missing(tmp_path: Path) -> None:
    series = noise(4, 300, 1)
    series[2] = np.nan
    cleaned = clean(series, write(tmp_path, make_table()))
    assert np.isnan(cleaned).all(axis=1).tolist() == [False, False, True, False]


def test_scrubbed_volumes_do_not_matter(tmp_path: Path) -> None:
    table = make_table()
    table.loc[100:104, "framewise_displacement"] = 2.0
    table.loc[200, "std_dvars"] = 9.0
    path = write(tmp_path, table)
    options = ReaderOptions(denoise="scrubbing", band=BAND)
    motion = measure_motion(read_confounds(path), path, options)
    assert np.flatnonzero(~motion.kept).tolist() == [100, 101, 102, 103, 104, 200]
    assert motion.share_scrubbed == pytest.approx(6 / 300)
    series = noise(5, 300, 4)
    spiked = series.copy()
    spiked[:, 100:105] += 1e6
    spiked[:, 200] -= 1e6
    cleaned = clean(spiked, path, denoise="scrubbing")
    assert cleaned.shape == series.shape
    np.testing.assert_allclose(cleaned, clean(series, path, denoise="scrubbing"))
    assert np.abs(clean(spiked, path)).max() > 1e5


def test_scrubbed_ends_are_cut(tmp_path: Path) -> None:
    table = make_table()
    table.loc[298, "framewise_displacement"] = 2.0
    table["non_steady_state_outlier00"] = (np.arange(300) == 0).astype(int)
    cleaned = clean(noise(5, 300, 4), write(tmp_path, table), denoise="scrubbing")
    # One volume at the beginning; at the end one, and one after it that is too short a piece.
    assert cleaned.shape == (5, 297)


def test_too_much_motion_is_a_matter_of_quality(tmp_path: Path) -> None:
    table = make_table()
    table.loc[50:250, "framewise_displacement"] = 0.6
    path = write(tmp_path, table)
    with pytest.raises(QualityError, match=r"201 of 300 volumes are scrubbed .*at most 50%"):
        clean(noise(5, 300, 4), path, denoise="scrubbing")
    table["framewise_displacement"] = 0.6
    path = write(tmp_path, table)
    with pytest.raises(QualityError, match="300 of 300 volumes are scrubbed"):
        clean(noise(5, 300, 4), path, denoise="scrubbing", max_scrubbed=1.0)
    assert clean(noise(5, 300, 4), path, denoise="scrubbing", fd_threshold=0.7).shape == (5, 300)


@pytest.mark.parametrize(
    ("denoise", "column"),
    [("simple", "csf"), ("motion", "rot_z"), ("scrubbing", "std_dvars")],
)
def test_columns_that_are_missing_are_named(tmp_path: Path, denoise: str, column: str) -> None:
    path = write(tmp_path, make_table().drop(columns=column))
    with pytest.raises(InputError, match=rf"lacks the column\(s\) {column}") as caught:
        clean(noise(5, 300, 4), path, denoise=denoise)
    assert path.name in str(caught.value)


def test_components_without_description_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, make_table())
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"timeseries\.json is not there.*'compcor'"):
        clean(noise(5, 300, 4), path, denoise="compcor")
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match="does not have what denoising needs"):
        clean(noise(5, 300, 4), path, denoise="compcor")


def test_gaps_in_a_confound_are_refused(tmp_path: Path) -> None:
    table = make_table()
    table.loc[100, "csf"] = np.nan
    with pytest.raises(InputError, match="missing values after the first volume in csf"):
        clean(noise(5, 300, 4), write(tmp_path, table))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"trans_x\ttrans_y\n", "holds no numbers"),
        (b"\x1f\x8b\x08\x00broken", "cannot be read"),
        (b"FramewiseDisplacement\tX\n0\t0\n", r"before version 1\.2"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / f"{STEM}_desc-confounds_timeseries.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_confounds(path)
    assert path.name in str(caught.value)


def test_table_is_found_by_recording(tmp_path: Path) -> None:
    image = parse_bids_name(
        tmp_path / "sub-01_task-rest_run-2_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    )
    assert find_confounds(image) is None
    for run in (1, 2):
        (tmp_path / f"sub-01_task-rest_run-{run}_desc-confounds_regressors.tsv").touch()
    (tmp_path / "sub-01_task-rest_run-2_desc-confounds_regressors.json").touch()
    found = find_confounds(image)
    assert found is not None
    assert found.name == "sub-01_task-rest_run-2_desc-confounds_regressors.tsv"


def test_real_table_of_aomic(shared: Path) -> None:
    """Old naming, compressed, columns numbered as nilearn does not expect, three first volumes."""
    name = "aomic_sub-0001_task-restingstate_acq-mb3_desc-confounds_regressors.tsv.gz"
    path = shared / "data" / "confounds" / name
    with gzip.open(path) as stream:
        plain = pd.read_csv(stream, sep="\t", na_values="n/a")
    options = ReaderOptions(denoise="simple", band=BAND)
    motion = measure_motion(read_confounds(path, MOTION_COLUMNS), path, options)
    assert len(motion.kept) == 480
    assert motion.n_non_steady == 3
    displacement = plain["framewise_displacement"].to_numpy(dtype=float)
    assert motion.mean_displacement == pytest.approx(displacement[3:].mean())
    cleaned = clean_series(noise(5, 480, 1), path, 0.75, options, image=path)
    assert cleaned.shape == (5, 477)
    scrubbing = ReaderOptions(denoise="scrubbing", band=BAND)
    mask = measure_motion(read_confounds(path), path, scrubbing).kept
    assert (~mask[displacement > 0.5]).all()
    assert 0 < (~mask).mean() < 0.5


def test_real_table_of_forty_volumes(shared: Path) -> None:
    """From an early version: no CSF, no derivatives; its motion is there."""
    name = "ds000031_sub-01_ses-002_task-rest_run-001_desc-confounds_timeseries.tsv"
    path = shared / "data" / "confounds" / name
    motion = measure_motion(read_confounds(path), path, ReaderOptions())
    assert len(motion.kept) == 40
    assert motion.mean_displacement == pytest.approx(
        pd.read_csv(path, sep="\t")["framewise_displacement"].mean()
    )
    assert "trans_x_derivative1" in read_confounds(path)
    series = noise(5, 40, 1)
    with pytest.raises(InputError, match=r"lacks the column\(s\) csf"):
        clean(series, path)
    with pytest.raises(QualityError, match="too short for denoising by 'motion': 40 volumes"):
        clean(series, path, denoise="motion")
    with pytest.raises(QualityError, match="too short: 40 samples"):
        preprocess(clean(series, path, denoise="none"), 2.0, Preprocessing())
