"""Series of XCP-D, written as its versions write them."""

from __future__ import annotations

import json
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.labels import match_labels, seventeen_network_names
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions, ScanFile, collect_notices
from semantoks.data.signal import fill_censored
from semantoks.errors import InputError

WHOLE = Atlas.load("schaefer400-tian3-buckner7")
CORTEX = Atlas.load("schaefer400")
TIAN = WHOLE.labels[400:450]
SIDES = ("LH", "RH")
CIT168 = [
    "Pu",
    "Ca",
    "NAC",
    "EXA",
    "GPe",
    "GPi",
    "SNc_PBP_VTA",
    "RN",
    "SNr",
    "VeP",
    "HN",
    "HTH",
    "MN",
    "STH",
]
THALAMUS = [
    "Pulvinar",
    "Anterior",
    "Medio_Dorsal",
    "Ventral_Latero_Dorsal",
    "Central_Lateral-Lateral_Posterior-Medial_Pulvinar",
    "Ventral_Anterior",
    "Ventral_Latero_Ventral",
]
BELOW_4S = (
    *(f"{side}-{x}" for side in SIDES for x in CIT168),
    *(f"{side}-{x}" for side in SIDES for x in THALAMUS),
    *(f"{side}_{x}" for side in SIDES for x in ("Hippocampus", "Amygdala")),
    *(f"Cerebellar_Region{i}" for i in range(1, 11)),
)
"""All 56 regions of the 4S atlas below the cortex, as AtlasPack names them."""
NAMINGS = {
    "0.5": "space-MNI152NLin2009cAsym_res-2_atlas-Schaefer417_timeseries.tsv",
    "0.6": "space-MNI152NLin2009cAsym_res-2_atlas-4S456Parcels_timeseries.tsv",
    "0.7": "space-MNI152NLin6Asym_seg-4S456Parcels_stat-mean_timeseries.tsv",
    "26": "space-MNI152NLin6Asym_atlas-4S456Parcels_stat-mean_timeseries.tsv",
    "cifti": "space-fsLR_seg-4S456Parcels_den-91k_stat-mean_timeseries.tsv",
}
RUN = "sub-01_ses-2_task-rest_run-01"
SERIES = np.random.default_rng(0).standard_normal((457, 30))


def write_series(path: Path, series: NDArray[np.float64], labels: tuple[str, ...]) -> None:
    """Write (roi, time) as XCP-D does: tabs, names of nodes, n/a."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(series.T, columns=list(labels))
    table.to_csv(path, sep="\t", na_rep="n/a", index=False)


def write_run(
    folder: Path,
    naming: str = "0.7",
    *,
    run: str = RUN,
    outliers: NDArray[np.int_] | None = None,
    censored: bool = True,
    tian: bool = True,
    t_r: float | None = 0.8,
    series: NDArray[np.float64] = SERIES,
) -> Path:
    """Write what lies in the func folder of one run."""
    func = folder / "sub-01" / "ses-2" / "func"
    outliers = np.zeros(series.shape[1], dtype=int) if outliers is None else outliers
    kept = series[:, outliers == 0] if censored else series
    path = func / f"{run}_{NAMINGS[naming]}"
    if naming == "0.5":
        names = seventeen_network_names()
        order = [CORTEX.labels.index(name) for name in names]
        write_series(path, kept[order], tuple(f"17Networks_{x}" for x in names.values()))
    else:
        extra = np.zeros((len(BELOW_4S), kept.shape[1]))
        write_series(path, np.vstack([kept[:400], extra]), (*CORTEX.labels, *BELOW_4S))
    if tian:
        beside = path.name.replace("4S456Parcels", "Tian").replace("Schaefer417", "Tian")
        write_series(func / beside, kept[400:450], TIAN)
    pd.DataFrame({"framewise_displacement": outliers}).to_csv(
        func / f"{run}_outliers.tsv", sep="\t", index=False
    )
    motion = pd.DataFrame({"rot_x": 0.0, "framewise_displacement": np.linspace(0, 0.2, 30)})
    motion.loc[0] = np.nan
    motion.to_csv(func / f"{run}_motion.tsv", sep="\t", index=False, na_rep="n/a")
    sidecar = {"SamplingFrequency": "TR", "Sources": ["bids:xcp_d:..."]}
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    if t_r is not None:
        image = {
            "RepetitionTime": t_r,
            "SoftwareFilters": {
                "Bandpass filter": {
                    "Filter order": 2,
                    "High-pass cutoff (Hz)": 0.01,
                    "Low-pass cutoff (Hz)": 0.08,
                }
            },
        }
        space = NAMINGS[naming].split("_")[0]
        (func / f"{run}_{space}_desc-denoised_bold.json").write_text(json.dumps(image))
    return path


def only(folder: Path, atlas: Atlas = WHOLE, options: ReaderOptions | None = None) -> ScanFile:
    (scan,) = find_scans(folder, atlas, options=options).scans
    return scan


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming(tmp_path: Path, naming: str) -> None:
    path = write_run(tmp_path, naming)
    scan = cloudpickle.loads(cloudpickle.dumps(only(tmp_path)))
    assert (scan.scan, scan.subject, scan.session, scan.t_r) == (RUN, "sub-01", "ses-2", 0.8)
    assert scan.source == str(path)
    assert scan.motion == pytest.approx(np.linspace(0, 0.2, 30)[1:].mean())
    first = "Schaefer417" if naming == "0.5" else "4S456Parcels"
    assert scan.phenotypes == {"share_scrubbed": 0.0, "xcpd_atlases": f"{first}+Tian"}
    loaded = scan.load()
    np.testing.assert_array_equal(loaded[:450], SERIES[:450])
    assert np.isnan(loaded[450:]).all()


@pytest.mark.parametrize("numbered", [True, False])
def test_the_oldest_files_have_no_names(tmp_path: Path, numbered: bool) -> None:
    path = write_run(tmp_path, "0.5", tian=False)
    table = pd.read_csv(path, sep="\t")
    table.columns = [str(i) for i in range(1, 401)]
    table.to_csv(path, sep="\t", index=False, header=numbered)
    np.testing.assert_array_equal(only(tmp_path, CORTEX).load(), SERIES[:400])


def test_without_tian_the_other_regions_are_not_taken(tmp_path: Path) -> None:
    write_run(tmp_path, tian=False)
    scan = only(tmp_path)
    assert np.isnan(scan.load()[400:]).all()
    assert "The 56 regions of XCP-D's 4S atlas" in scan.notices[0]
    assert "no Tian file beside it; missing: Cerebellar, Subcortical" in scan.notices[0]
    assert len(BELOW_4S) == 56
    assert match_labels(BELOW_4S, WHOLE).n_found == 0
    # An atlas that needs none of them has nothing to be told.
    assert not any("56 regions" in notice for notice in only(tmp_path, CORTEX).notices)


def test_parcels_without_coverage_are_missing(tmp_path: Path) -> None:
    series = SERIES.copy()
    series[[3, 420]] = np.nan
    write_run(tmp_path, series=series)
    loaded = only(tmp_path).load()
    assert np.isnan(loaded[[3, 420]]).all()
    np.testing.assert_array_equal(loaded[:3], SERIES[:3])


def test_the_band_is_said_unless_it_is_known(tmp_path: Path) -> None:
    write_run(tmp_path)
    told = " ".join(only(tmp_path, CORTEX).notices)
    assert "XCP-D band-passed these series to 0.01 to 0.08 Hz" in told
    assert "--filtered-before 0.01 0.08" in told
    known = ReaderOptions(band=(0.01, 0.08), filtered="before")
    assert only(tmp_path, CORTEX, known).notices == ()
    # The same edges as a filter of this package are a second filter.
    (told,) = only(tmp_path, CORTEX, ReaderOptions(band=(0.01, 0.08))).notices
    assert "filtered again here (0.01 to 0.08 Hz), which damps the edges of the band twice" in told
    (told,) = only(tmp_path, CORTEX, ReaderOptions(band=(0.01, 0.1), filtered="before")).notices
    assert "but --filtered-before says 0.01 to 0.1 Hz" in told
    (told,) = only(tmp_path, CORTEX, ReaderOptions()).notices
    assert "no band-pass is applied here" in told


@pytest.mark.parametrize(
    ("filters", "say"),
    [
        ({"High-pass filter": {"cutoff (Hz)": 0.01, "Filter order": 2}}, ["0.01 none"]),
        ({"Low-pass filter": {"cutoff (Hz)": 0.08, "Filter order": 2}}, ["none 0.08"]),
        ({"Notch filter": {}}, []),
        (None, ["0.01 0.08"]),
    ],
)
def test_filters_with_one_edge_are_said(tmp_path: Path, filters: object, say: list[str]) -> None:
    path = write_run(tmp_path, t_r=None)
    image = path.with_name(f"{RUN}_space-MNI152NLin6Asym_desc-denoised_bold.json")
    image.write_text(json.dumps({"RepetitionTime": 0.8, "SoftwareFilters": filters}))
    told = only(tmp_path, CORTEX, ReaderOptions(band=(0.01, 0.1))).notices
    assert len(told) == len(say)
    assert all(f"--filtered-before {x}." in notice for x, notice in zip(say, told, strict=True))


def test_tables_are_found_where_a_hash_stands_in_the_names(tmp_path: Path) -> None:
    outliers = np.zeros(30, dtype=int)
    outliers[5:8] = 1
    path = write_run(tmp_path, outliers=outliers)
    for file in list(path.parent.iterdir()):
        file.rename(file.with_name(file.name.replace("_task-rest", "_hash-a1b2_task-rest")))
    scan = only(tmp_path)
    assert (scan.scan, scan.t_r) == (RUN, 0.8)
    assert scan.phenotypes["share_scrubbed"] == pytest.approx(0.1)
    assert scan.load().shape == (457, 30)


def test_a_motion_table_that_cannot_be_read_is_complained_of(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (path.parent / f"{RUN}_motion.tsv").write_text("framewise_displacement\nno number\n1\n")
    scan = only(tmp_path)
    with pytest.raises(InputError, match=r"_motion\.tsv.*'no number'"):
        scan.load()


# Censoring


def test_censored_series_are_put_back_in_time(tmp_path: Path) -> None:
    outliers = np.zeros(30, dtype=int)
    outliers[[0, 1, 7, 8, 15, 29]] = 1
    # Straight lines are what a monotone interpolation gives back to the last digit.
    series = np.linspace(0, 29, 30) * np.arange(1, 458)[:, None]
    write_run(tmp_path, outliers=outliers, series=series)
    scan = only(tmp_path)
    assert scan.phenotypes["share_scrubbed"] == pytest.approx(0.2)
    np.testing.assert_allclose(scan.load()[:450], series[:450, 2:29])


def test_interpolated_series_stay_as_they_are(tmp_path: Path) -> None:
    outliers = np.zeros(30, dtype=int)
    outliers[5:8] = 1
    write_run(tmp_path, outliers=outliers, censored=False)
    scan = only(tmp_path)
    assert scan.phenotypes["share_scrubbed"] == pytest.approx(0.1)
    np.testing.assert_array_equal(scan.load()[:450], SERIES[:450])


def test_a_tone_keeps_its_frequency() -> None:
    random = np.random.default_rng(0)
    times = np.arange(400) * 0.8
    tone = np.sin(2 * np.pi * 0.05 * times)
    kept = random.random(400) > 0.25
    filled = fill_censored(tone[kept][None], kept)[0]
    span = slice(*(np.flatnonzero(kept)[[0, -1]] + [0, 1]))
    assert np.corrcoef(filled, tone[span])[0, 1] > 0.999
    # As if nothing had been cut out, the tone would be a quarter too fast.
    assert np.corrcoef(tone[kept][:200], tone[:200])[0, 1] < 0.5


def test_rois_with_gaps_keep_them() -> None:
    kept = np.array([True, False, True, True])
    filled = fill_censored(np.array([[1.0, np.nan, 4.0], [1, 3, 4], [np.nan] * 3]), kept)
    np.testing.assert_array_equal(filled[0], [1, np.nan, np.nan, 4])
    np.testing.assert_array_equal(filled[1], [1, 2, 3, 4])
    assert np.isnan(filled[2]).all()


def test_without_outliers_nothing_tells(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (path.parent / f"{RUN}_outliers.tsv").unlink()
    scan = only(tmp_path)
    assert np.isnan(scan.phenotypes["share_scrubbed"])
    assert any("no _outliers.tsv" in notice for notice in scan.notices)
    assert scan.load().shape == (457, 30)


# Files beside each other


def test_runs_stay_apart_and_joined_runs_are_left_out(tmp_path: Path) -> None:
    for run in ("run-01", "run-02"):
        write_run(tmp_path, run=f"sub-01_ses-2_task-rest_{run}")
    write_run(tmp_path, run="sub-01_ses-2_task-rest")
    write_run(tmp_path, run="sub-01_ses-2_task-movie")
    scans = find_scans(tmp_path, CORTEX).scans
    assert [scan.scan.removeprefix("sub-01_ses-2_") for scan in scans] == [
        "task-movie",
        "task-rest_run-01",
        "task-rest_run-02",
    ]
    assert len({scan.subject for scan in scans}) == 1
    rest = find_scans(tmp_path, CORTEX, options=ReaderOptions(task="movie")).scans
    assert len(rest) == 1
    with pytest.raises(InputError, match="no recording with task-nback; there are movie, rest"):
        find_scans(tmp_path, CORTEX, options=ReaderOptions(task="nback"))


def test_other_resolutions_beside_it_are_not_taken(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    firsts = tuple(x for x in CORTEX.labels if int(x.rpartition("_")[2]) <= 2)
    finer = (*CORTEX.labels[:300], *(f"LH_Vis_{i}" for i in range(32, 90)))
    for name, labels in (("4S156Parcels", firsts), ("4S556Parcels", finer)):
        series = np.full((len(labels), 30), 7.0)
        write_series(path.with_name(path.name.replace("4S456Parcels", name)), series, labels)
    np.testing.assert_array_equal(only(tmp_path, CORTEX).load(), SERIES[:400])
    path.unlink()
    scan = only(tmp_path, CORTEX)
    with pytest.raises(InputError, match=r"nothing holds ROIs of atlas 'schaefer400'.*coarser"):
        scan.load()


def test_two_versions_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "0.7")
    write_run(tmp_path, "26")
    with pytest.raises(InputError, match=r"run-01' is there twice: .*_atlas-.* and .*_seg-"):
        find_scans(tmp_path, CORTEX)


def test_two_spaces_are_a_choice(tmp_path: Path) -> None:
    write_run(tmp_path, "0.7")
    write_run(tmp_path, "cifti")
    with pytest.raises(InputError, match=r"is there twice.*--space"):
        find_scans(tmp_path, CORTEX)
    assert "fsLR" in only(tmp_path, CORTEX, ReaderOptions(space="fsLR")).source


def test_a_single_file_brings_those_beside_it(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    write_run(tmp_path, run="sub-01_ses-2_task-rest_run-02")
    np.testing.assert_array_equal(only(path).load()[:450], SERIES[:450])


def test_another_atlas_is_found_by_its_labels(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    labels = ("L_V1_ROI", "R_V1_ROI", "L_MST_ROI")
    glasser = Atlas.from_table(
        pd.DataFrame({"label": labels, "network": ["Vis"] * 3}), name="glasser3"
    )
    write_series(
        path.with_name(path.name.replace("4S456Parcels", "Glasser")),
        SERIES[[2, 1, 0]],
        labels[::-1],
    )
    np.testing.assert_array_equal(only(tmp_path, glasser).load(), SERIES[:3])


def test_notices_are_collected_once(tmp_path: Path) -> None:
    for run in ("run-01", "run-02"):
        write_run(tmp_path, run=f"sub-01_ses-2_task-rest_{run}")
    told = collect_notices(find_scans(tmp_path, CORTEX).scans)
    assert len(told) == 1
    assert not told[0].endswith("scans)")


def test_all_files_that_a_scan_depends_on_are_named(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    write_run(tmp_path, run="sub-01_ses-2_task-rest_run-02")
    whole = [x for x in path.parent.iterdir() if x.name.startswith(RUN)]
    scan = find_scans(tmp_path, WHOLE).scans[0]
    assert sorted([path, *scan.beside]) == sorted(whole)
    assert len(whole) == 6
