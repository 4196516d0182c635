"""ROI series of CONN and DPABI, in MATLAB files of both kinds."""

from __future__ import annotations

from pathlib import Path

import cloudpickle
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.labels import labels_of_values, seventeen_network_names
from semantoks.data.readers import find_scans
from semantoks.data.readers.conn import matches as is_conn
from semantoks.data.readers.matlab import read_matlab
from semantoks.data.recording import ReaderOptions, ScanFile
from semantoks.errors import InputError

WHOLE = Atlas.load("schaefer400-tian3-buckner7")
CORTEX = Atlas.load("schaefer400")
CC200 = Atlas.load("cc200")
SERIES = np.random.default_rng(0).standard_normal((457, 24))
TISSUES = ("Grey Matter", "White Matter", "CSF")


def cells(values: list[object]) -> NDArray[np.object_]:
    """Return a cell of MATLAB, (1, n)."""
    row = np.empty((1, len(values)), dtype=object)
    for i, value in enumerate(values):
        row[0, i] = value
    return row


def write_conn(
    path: Path,
    names: list[str],
    series: NDArray[np.float64],
    sessions: NDArray[np.int_] | None = None,
    changes: dict[str, object] | None = None,
) -> Path:
    """Write a file as denoising in CONN does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = series.shape[1]
    tissues = [np.full((n, 1), float(i)) for i in range(3)]
    task = np.zeros((n, 2))
    content: dict[str, object] = {
        "names": cells([*TISSUES, *names, "Effect of rest"]),
        "data": cells([*tissues, *(row[:, None] for row in series), task]),
        "xyz": cells([np.zeros((1, 3))] * (len(names) + 4)),
        "data_sessions": np.ones((n, 1)) if sessions is None else sessions[:, None].astype(float),
    }
    scipy.io.savemat(path, content | (changes or {}))
    return path


def write_v73(path: Path, names: list[str], series: NDArray[np.float64]) -> None:
    """Write the same as MATLAB's version 7.3 does: HDF5 behind 512 bytes, cells of references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        text, data = [], []
        for i, (name, row) in enumerate(zip(names, series, strict=True)):
            letters = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
            text.append(file.create_dataset(f"#refs#/n{i}", data=letters))
            text[-1].attrs["MATLAB_class"] = np.bytes_("char")
            data.append(file.create_dataset(f"#refs#/d{i}", data=row[None]))
            data[-1].attrs["MATLAB_class"] = np.bytes_("double")
        for key, found in (("names", text), ("data", data)):
            references = np.array([[x.ref] for x in found], dtype=h5py.ref_dtype)
            file.create_dataset(key, data=references).attrs["MATLAB_class"] = np.bytes_("cell")
        ones = file.create_dataset("data_sessions", data=np.ones((1, series.shape[1])))
        ones.attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def only(folder: Path, atlas: Atlas) -> ScanFile:
    (scan,) = find_scans(folder, atlas).scans
    return scan


# CONN


def test_conn_matches_names_and_drops_tissues(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(450)
    names = [f"Schaefer400Tian.7Networks_{WHOLE.labels[i]} (1,-55,3)" for i in order]
    folder = tmp_path / "conn_project" / "results" / "preprocessing"
    write_conn(folder / "ROI_Subject001_Condition000.mat", names, SERIES[order])
    write_conn(folder / "ROI_Subject001_Condition001.mat", names, SERIES[order] * 0)
    raw = tmp_path / "conn_project" / "data" / "ROI_Subject001_Session001.mat"
    write_conn(raw, names, SERIES[order])
    scan = cloudpickle.loads(cloudpickle.dumps(only(tmp_path, WHOLE)))
    assert (scan.scan, scan.subject, scan.session, scan.t_r) == (
        *("Subject001", "Subject001"),
        "",
        None,
    )
    assert "--filtered-before 0.008 0.09" in scan.notices[0]
    loaded = scan.load()
    np.testing.assert_array_equal(loaded[:450], SERIES[:450])
    assert np.isnan(loaded[450:]).all()


def test_conn_clusters_are_values_of_the_atlas(tmp_path: Path) -> None:
    names = [f"cc200.cluster{value:03d} (1,2,3)" for value in CC200.values[::-1]]
    write_conn(tmp_path / "ROI_Subject001_Condition000.mat", names, SERIES[:200])
    np.testing.assert_array_equal(only(tmp_path, CC200).load(), SERIES[:200][::-1])


def test_conn_of_version_73(tmp_path: Path) -> None:
    path = tmp_path / "ROI_Subject012_Condition000.mat"
    names = [*TISSUES, *(f"Schaefer.{x}" for x in CORTEX.labels)]
    write_v73(path, names, np.vstack([np.ones((3, 24)), SERIES[:400]]))
    assert is_conn(tmp_path)
    np.testing.assert_array_equal(only(path, CORTEX).load(), SERIES[:400])


def test_conn_sessions_stay_separate(tmp_path: Path) -> None:
    sessions = np.repeat([1, 2], 12)
    path = tmp_path / "ROI_Subject001_Condition000.mat"
    write_conn(path, list(CORTEX.labels), SERIES[:400], sessions)
    scans = find_scans(tmp_path, CORTEX).scans
    assert [(x.scan, x.session) for x in scans] == [
        ("Subject001_Session001", "001"),
        ("Subject001_Session002", "002"),
    ]
    np.testing.assert_array_equal(scans[1].load(), SERIES[:400, 12:])


def test_conn_atlases_in_one_project_are_told_apart(tmp_path: Path) -> None:
    firsts = [x for x in CORTEX.labels if int(x.rpartition("_")[2]) <= 2]
    names = [
        *(f"networks.{x}" for x in ("DefaultMode.MPFC (1,55,-3)", "Visual.Medial (2,-79,12)")),
        *(f"Schaefer100.{x}" for x in firsts),
        *(f"Schaefer400.{x}" for x in CORTEX.labels),
    ]
    other = np.full((2 + len(firsts), 24), 7.0)
    path = tmp_path / "ROI_Subject001_Condition000.mat"
    write_conn(path, names, np.vstack([other, SERIES[:400]]))
    np.testing.assert_array_equal(only(tmp_path, CORTEX).load(), SERIES[:400])
    with pytest.raises(InputError, match=r"nothing holds ROIs of atlas 'cc200'"):
        only(tmp_path, CC200).load()
    twice = [*(f"A.{x}" for x in CORTEX.labels), *(f"B.{x}" for x in CORTEX.labels)]
    write_conn(path, twice, np.vstack([SERIES[:400]] * 2))
    with pytest.raises(InputError, match=r"the ROIs 'A' and the ROIs 'B' hold the same 400"):
        only(tmp_path, CORTEX).load()


def test_conn_raw_series_and_lone_conditions_are_refused(tmp_path: Path) -> None:
    names = list(CORTEX.labels)
    raw = write_conn(tmp_path / "ROI_Subject001_Session001.mat", names, SERIES[:400])
    with pytest.raises(InputError, match="raw series of CONN only"):
        find_scans(tmp_path, CORTEX)
    raw.unlink()
    for condition in ("001", "002"):
        write_conn(tmp_path / f"ROI_Subject001_Condition{condition}.mat", names, SERIES[:400])
    with pytest.raises(InputError, match=r"conditions 001, 002 of CONN, but not Condition000"):
        find_scans(tmp_path, CORTEX)
    for project in ("a", "b"):
        write_conn(tmp_path / project / "ROI_Subject001_Condition000.mat", names, SERIES[:400])
    with pytest.raises(InputError, match=r"several projects of CONN"):
        find_scans(tmp_path, CORTEX)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": cells(["a", "b"])}, r"2 names and 404 series"),
        ({"data_sessions": np.ones((3, 1)) * [[1], [2], [2]]}, r"has 3 entries, but there are 24"),
        ({"names": cells([*TISSUES, *["LH_Vis_1"] * 401])}, r"more than one ROI named 'LH_Vis_1'"),
        ({"data": np.ones((4, 4))}, r"404 names and 4 series"),
        ({"data": cells([np.ones((24, 2))] * 404)}, r"'LH_Vis_1' has a series of shape \(24, 2\)"),
        (
            {"data": cells([*[np.ones((24, 1))] * 4, *[np.ones((9, 1))] * 400])},
            r"'LH_Vis_2' has 9 volumes, but others have 24",
        ),
    ],
)
def test_conn_files_that_do_not_fit(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "ROI_Subject001_Condition000.mat"
    write_conn(path, list(CORTEX.labels), SERIES[:400], changes=changes)
    with pytest.raises(InputError, match=message):
        find_scans(tmp_path, CORTEX).scans[0].load()


def test_damaged_matlab_files_are_named(tmp_path: Path) -> None:
    path = write_conn(
        tmp_path / "ROI_Subject001_Condition000.mat", list(CORTEX.labels), SERIES[:400]
    )
    whole = path.read_bytes()
    for content in (whole[:2000], whole[:100], b"", b"not a file of MATLAB" * 20):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"Condition000.mat (cannot be read as|has no var)"):
            only(tmp_path, CORTEX).load()
    scipy.io.savemat(path, {"something": 1.0})
    with pytest.raises(InputError, match=r"no variable data, names; it has something"):
        read_matlab(path, ("data", "names"))


# DPABI


def write_dpabi(
    folder: Path,
    masks: dict[str, list[object]],
    series: NDArray[np.float64],
    *,
    subject: str = "Sub_001",
    text: bool = False,
) -> Path:
    """Write signals and their key as DPABI does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ROISignals_{subject}.{'txt' if text else 'mat'}"
    if text:
        np.savetxt(path, series.T, fmt="%.16e", delimiter="\t")
    else:
        scipy.io.savemat(path, {"ROISignals": series.T})
    columns = [(value, mask) for mask, values in masks.items() for value in values]
    lines = [f"{i}\t{value}\t{mask}" for i, (value, mask) in enumerate(columns, start=1)]
    header = "Order\tLabel in Mask\tROI Definition"
    (folder / f"ROI_OrderKey_{subject}.tsv").write_text("\n".join([header, *lines]) + "\n")
    return path


AAL = r"C:\DPABI\Templates\aal.nii"
SCHAEFER = "/toolbox/DPABI/Templates/Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.nii"
SCHAEFER17 = SCHAEFER.replace("7Networks", "17Networks")
TIAN = "/atlases/Tian_Subcortex_S3_3T.nii"


@pytest.mark.parametrize("text", [True, False])
def test_dpabi_columns_are_picked_by_key(tmp_path: Path, text: bool) -> None:
    folder = tmp_path / "Results" / "ROISignals_FunImgARCWF"
    masks = {
        AAL: [*range(1, 117)],
        SCHAEFER: [*range(1, 401)],
        TIAN: [*range(1, 51)],
    }
    series = np.vstack([np.full((116, 24), 7.0), SERIES[:450]])
    path = write_dpabi(folder, masks, series, text=text)
    scan = cloudpickle.loads(cloudpickle.dumps(only(tmp_path, WHOLE)))
    assert (scan.scan, scan.subject, scan.session) == ("Sub_001", "Sub_001", "")
    assert scan.source == str(path)
    assert [x.name for x in scan.beside] == ["ROI_OrderKey_Sub_001.tsv"]
    assert "an F as in FunImgARCWF" in scan.notices[0]
    known = ReaderOptions(band=(0.01, 0.1), filtered="before")
    assert all(not x.notices for x in find_scans(tmp_path, CORTEX, options=known).scans)
    loaded = scan.load()
    np.testing.assert_allclose(loaded[:450], SERIES[:450])
    assert np.isnan(loaded[450:]).all()


def test_dpabi_17_networks_are_reordered(tmp_path: Path) -> None:
    order = [CORTEX.labels.index(label) for label in seventeen_network_names()]
    write_dpabi(tmp_path, {SCHAEFER17: [*range(1, 401)]}, SERIES[order])
    np.testing.assert_array_equal(only(tmp_path, CORTEX).load(), SERIES[:400])


def test_dpabi_values_of_any_atlas(tmp_path: Path) -> None:
    masks = {AAL: [*range(1, 117)], "CC200ROI_tcorr05_2level_all.nii": [*CC200.values[::-1]]}
    series = np.vstack([np.zeros((116, 24)), SERIES[:200]])
    write_dpabi(tmp_path / "ROISignals_FunImgARCW", masks, series)
    scan = only(tmp_path, CC200)
    assert scan.notices == ()
    np.testing.assert_array_equal(scan.load(), SERIES[:200][::-1])


def test_dpabi_masks_of_one_roi_are_named_by_their_files(tmp_path: Path) -> None:
    atlas = Atlas.from_networks({"Vis": 2, "Default": 1})
    masks: dict[str, list[object]] = {
        f"/rois/{name}.nii": [""] for name in ("Default_1", "Vis_2", "PCC", "Vis_1")
    }
    write_dpabi(tmp_path, masks, SERIES[:4])
    np.testing.assert_array_equal(only(tmp_path, atlas).load(), SERIES[[3, 1, 0]])


def test_dpabi_other_parcellations_are_not_taken(tmp_path: Path) -> None:
    coarse = SCHAEFER.replace("400Parcels", "200Parcels")
    write_dpabi(tmp_path, {coarse: [*range(1, 201)]}, SERIES[:200])
    with pytest.raises(InputError, match=r"nothing holds ROIs of atlas 'schaefer400'"):
        only(tmp_path, CORTEX).load()
    # Values 1 to 200 are all in a finer atlas as well, and 1 to 392 hold those of a coarser one.
    for values, atlas in ((200, CORTEX), (392, CC200)):
        write_dpabi(tmp_path, {"atlas.nii": [*range(1, values + 1)]}, SERIES[:values])
        with pytest.raises(InputError, match=r"nothing holds ROIs"):
            only(tmp_path, atlas).load()
    assert labels_of_values("Tian_Subcortex_S2_3T.nii", [], WHOLE) == {}


def test_dpabi_sessions_and_strategies(tmp_path: Path) -> None:
    masks: dict[str, list[object]] = {SCHAEFER: [*range(1, 401)]}
    for results in ("Results", "S2_Results"):
        write_dpabi(tmp_path / results / "ROISignals_FunImgARCWF", masks, SERIES[:400])
    scans = find_scans(tmp_path, CORTEX).scans
    assert [(x.scan, x.session) for x in scans] == [("Sub_001_S1", "1"), ("Sub_001_S2", "2")]
    write_dpabi(tmp_path / "Results" / "ROISignals_FunImgARglobalCWF", masks, SERIES[:400])
    with pytest.raises(InputError, match=r"2 strategies of DPABI: .*ARCWF, .*globalCWF"):
        find_scans(tmp_path, CORTEX)


def test_dpabi_of_bids_names(tmp_path: Path) -> None:
    masks: dict[str, list[object]] = {SCHAEFER: [*range(1, 401)]}
    write_dpabi(tmp_path, masks, SERIES[:400], subject="sub-01")
    assert only(tmp_path, CORTEX).subject == "sub-01"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, r"has no key: ROI_OrderKey_Sub_001.tsv was expected"),
        ("", r"is no key of DPABI"),
        ("Order,Label in Mask,ROI Definition\n1,1,a.nii\n", r"is no key of DPABI"),
        ("Order\tLabel in Mask\tROI Definition\n2\t1\ta.nii\n", r"Order should count 1, 2, 3"),
        ("Order\tLabel in Mask\tROI Definition\n1\t1\ta.nii\n", r"has 400 columns, but its key"),
        ("Order\tLabel in Mask\tROI Definition\n1\ta.nii\n", r"is no key of DPABI"),
    ],
)
def test_dpabi_keys_that_do_not_fit(tmp_path: Path, key: str | None, message: str) -> None:
    write_dpabi(tmp_path, {SCHAEFER: [*range(1, 401)]}, SERIES[:400])
    place = tmp_path / "ROI_OrderKey_Sub_001.tsv"
    if key is None:
        place.unlink()
    else:
        place.write_text(key)
    with pytest.raises(InputError, match=message):
        only(tmp_path, CORTEX).load()


def test_dpabi_signals_that_do_not_fit(tmp_path: Path) -> None:
    path = write_dpabi(tmp_path, {SCHAEFER: [*range(1, 401)]}, SERIES[:400])
    scipy.io.savemat(path, {"ROISignals": np.ones(5)})
    with pytest.raises(InputError, match=r"ROISignals has shape \(5,\)"):
        only(tmp_path, CORTEX).load()
    path.unlink()
    table = pd.DataFrame(SERIES[:400].T, columns=list(CORTEX.labels))
    table.to_csv(path.with_suffix(".txt"), sep="\t", index=False)
    with pytest.raises(InputError, match="has a header, but DPABI writes numbers only"):
        only(tmp_path, CORTEX).load()
