"""Preprocessed Connectomes Project: what is read, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.data.recording import ReaderOptions
from semantoks.errors import ConfigurationError, InputError

ATLAS = Atlas(
    name="tiny4",
    labels=("a", "b", "c", "d"),
    networks=("Vis", "Vis", "Default", "Default"),
    hemispheres=("", "", "", ""),
    coordinates=np.full((4, 3), np.nan),
    values=(1, 2, 5, 9),
)
HEADER = "#1\t#2\t#5\t#9"


def write(folder: Path, scan: str, text: str | None = None, atlas: str = "tiny4") -> Path:
    """Write one .1D file, five volumes of 0.5, 1.5, ... by default."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scan}_rois_{atlas}.1D"
    if text is None:
        rows = np.arange(20).reshape(5, 4) + 0.5
        text = "\n".join([HEADER, *("\t".join(map(str, row)) for row in rows)]) + "\n"
    path.write_text(text)
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two scans and a phenotype table that lists one of them."""
    folder = tmp_path / "ABIDE_pcp" / "cpac" / "nofilt_noglobal"
    write(folder, "Pitt_0050003")
    write(folder, "Pitt_0050002")
    write(folder, "CMU_a_0050642")
    (tmp_path / "ABIDE_pcp" / "Phenotypic_V1_0b_preprocessed1.csv").write_text(
        "Unnamed: 0,SUB_ID,X,subject,SITE_ID,FILE_ID,DX_GROUP,FIQ,func_mean_fd\n"
        "1,50002,1,50002,PITT,no_filename,1,-9999,0.3\n"
        "2,50003,2,50003,PITT,Pitt_0050003,2,101.5,0.1\n"
    )
    return tmp_path


@pytest.mark.parametrize("below", ["", "ABIDE_pcp", "ABIDE_pcp/cpac/nofilt_noglobal"])
def test_identity_comes_from_names_and_phenotype_table(cohort: Path, below: str) -> None:
    scans = find_scans(cohort / below, ATLAS).scans
    assert [scan.scan for scan in scans] == ["CMU_a_0050642", "Pitt_0050002", "Pitt_0050003"]
    unknown, unlisted, listed = scans
    assert (listed.subject, listed.site, listed.motion) == ("50003", "PITT", 0.1)
    assert listed.phenotypes == {"DX_GROUP": 2, "FIQ": 101.5}
    assert (unlisted.subject, unlisted.site) == ("50002", "PITT")
    assert np.isnan(unlisted.phenotypes["FIQ"])  # -9999 stands for a missing value
    assert (unknown.subject, unknown.site, dict(unknown.phenotypes)) == ("50642", "", {})
    assert all(scan.t_r is None for scan in scans)


def test_empty_cells_of_the_phenotype_table_are_no_names(cohort: Path) -> None:
    (cohort / "ABIDE_pcp" / "Phenotypic_V1_0b_preprocessed1.csv").write_text(
        "SUB_ID,SITE_ID,FILE_ID,GROUP,COMORBIDITY,FIQ,func_mean_fd\n"
        ",,Pitt_0050003,NA,None,NA,\n"
        "0050002,NA,no_filename,x,,100,-9999\n"
        ",,,y,z,,\n"
    )
    write(cohort / "ABIDE_pcp" / "cpac" / "nofilt_noglobal", "phantom")
    found = {scan.scan: scan for scan in find_scans(cohort, ATLAS).scans}
    assert [found[name].subject for name in sorted(found)] == ["50642", "50002", "50003", ""]
    listed, unlisted = found["Pitt_0050003"], found["Pitt_0050002"]
    assert (listed.site, unlisted.site, found["phantom"].site) == ("", "NA", "")
    assert np.isnan([listed.motion, unlisted.motion]).all()
    # Words are missing among numbers only.
    assert (listed.phenotypes["GROUP"], listed.phenotypes["COMORBIDITY"]) == ("NA", "None")
    assert np.isnan(listed.phenotypes["FIQ"])
    assert found["phantom"].phenotypes == {}


@pytest.mark.parametrize("value", ["high", "-1", "inf"])
def test_impossible_motion_is_located(cohort: Path, value: str) -> None:
    (cohort / "ABIDE_pcp" / "Phenotypic_V1_0b_preprocessed1.csv").write_text(
        "SUB_ID,SITE_ID,FILE_ID,func_mean_fd\n50002,P,no_filename,0.1\n"
        f"50003,P,Pitt_0050003,{value}\n"
    )
    message = rf"preprocessed1\.csv, line 3, column 'func_mean_fd'.*'{value}' stands there"
    with pytest.raises(InputError, match=message):
        find_scans(cohort, ATLAS)


def test_series_are_exact_and_roi_first(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((7, 4)) * 10.0 ** np.arange(-3, 4)[:, None]
    text = "\n".join([HEADER, *("\t".join(repr(float(x)) for x in row) for row in values)])
    write(tmp_path, "a_1", text)
    np.testing.assert_array_equal(find_scans(tmp_path, ATLAS).scans[0].load(), values.T)


@pytest.mark.parametrize(
    "text",
    [
        "#1\t#2\t#5\t#9\n1\t2\t3\t4\t\n5\t6\t7\t8\t\n",  # AFNI ends its lines with a tab
        "# 1 2 5 9\n  1  2 3   4 \n 5 6 7 8\n",
        "#1,#2,#5,#9\r\n1,2,3,4\r\n5,6,7,8\r\n",
        "# written by a pipeline\n#\n#1\t#2\t#5\t#9\n1\t2\t3\t4\n5\t6\t7\t8\n\n",
        "1\t2\t3\t4.0\n5\t6\t7\t8\n",
    ],
)
def test_variants_of_the_text_are_understood(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a_1", text)
    series = find_scans(tmp_path, ATLAS).scans[0].load()
    np.testing.assert_array_equal(series, [[1, 5], [2, 6], [3, 7], [4, 8]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a_1_rois_tiny4.1D is empty"),
        (HEADER + "\n", r"a header but no data"),
        (f"{HEADER}\n1\t2\t3\t4\n5\t6\tn.a.\t8\n", r"line 3, column 3 \(5\).*the text 'n.a.'"),
        (f"{HEADER}\n1\tx\t3\t4\n5\t6\t7\t8\n", r"line 2, column 2 \(2\).*the text 'x'"),
        ("1\tx\t3\t4\n5\t6\t7\t8\n", r"line 1, column 2:.*the text 'x'"),
        (f"{HEADER}\n1\t2\t\t4\n5\t6\t7\t8\n", r"line 2, column 3 \(5\).*nothing"),
        (f"{HEADER}\n1\t2\t3\t4\n5\t6\t7\n1\t2\t3\t4\n", r"line 3: 4 columns.*but there are 3"),
        (f"{HEADER}\n1\t2\t3\t4\n5\t6\t7\t8\t9\n", r"line 3: 4 columns.*but there are 5"),
        ("#1\t#2\t#5\n1\t2\t3\n4\t5\t6\n", r"has 3 columns, but atlas 'tiny4' has 4 ROIs"),
        ("#1\t#5\t#2\t#9\n1\t2\t3\t4\n", r"column 2 should be 2.*but is '5'"),
        ("#1\t#2\t#5\n1\t2\t3\t4\n", r"header names 3 ROIs, but there are 4 columns"),
        ("1;2;3;4\n1;2;3;4\n", r"semicolons"),
        ("1\x00", r"not a text file"),
    ],
)
def test_unreadable_text_is_located(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "a_1", text)
    with pytest.raises(InputError, match=message) as caught:
        find_scans(tmp_path, ATLAS).scans[0].load()
    assert "a_1_rois_tiny4.1D" in str(caught.value)


def test_file_that_vanished_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a_1")
    scans = find_scans(tmp_path, ATLAS).scans
    path.unlink()
    with pytest.raises(InputError, match=r"a_1_rois_tiny4.1D cannot be read: No such file"):
        scans[0].load()


def test_several_strategies_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "cpac" / "nofilt_noglobal", "a_1")
    write(tmp_path / "cpac" / "filt_global", "a_1")
    with pytest.raises(InputError, match=r"2 preprocessing strategies.*filt_global.*Give the fold"):
        find_scans(tmp_path, ATLAS)
    assert len(find_scans(tmp_path / "cpac" / "filt_global", ATLAS).scans) == 1
    (file,) = (tmp_path / "cpac" / "filt_global").glob("a_1_rois_*.1D")
    (scan,) = find_scans(file, ATLAS).scans
    assert (scan.scan, len(scan.load())) == ("a_1", 4)


def test_a_folder_of_filtered_series_is_told_until_the_user_says_so(tmp_path: Path) -> None:
    write(tmp_path / "cpac" / "filt_global" / "rois_cc200", "a_1")
    write(tmp_path / "other" / "nofilt_global", "a_1")
    here, before = (ReaderOptions(band=(0.01, 0.1), filtered=x) for x in ("here", "before"))
    (told,) = find_scans(tmp_path / "cpac", ATLAS, options=here).scans[0].notices
    assert "band-passed these series to 0.01 to 0.1 Hz, and they are filtered again here" in told
    assert told.endswith("--filtered-before 0.01 0.1.")
    assert find_scans(tmp_path / "cpac", ATLAS, options=before).scans[0].notices == ()
    assert find_scans(tmp_path / "other", ATLAS, options=here).scans[0].notices == ()


def test_files_of_another_atlas_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_1", atlas="aal")
    with pytest.raises(InputError, match=r"no files \*_rois_cc200.1D.*those of aal"):
        find_scans(tmp_path, Atlas.load("cc200"))
    # A table of ROIs by another name is used, and then checked against the header.
    assert len(find_scans(tmp_path, ATLAS).scans) == 1
    write(tmp_path, "a_1", atlas="tt")
    with pytest.raises(InputError, match="those of aal, tt"):
        find_scans(tmp_path, ATLAS)


def test_damaged_phenotype_table_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a_1")
    (tmp_path / "Phenotypic_V1_0b_preprocessed1.csv").write_text("SUB_ID,AGE\n1,2\n")
    with pytest.raises(InputError, match=r"lacks the column\(s\) SITE_ID, FILE_ID"):
        find_scans(tmp_path, ATLAS)


def test_format_is_named_or_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_scans(tmp_path / "nowhere", ATLAS)
    with pytest.raises(InputError, match=r"is an empty folder.*\.1D files \(pcp\)"):
        find_scans(tmp_path, ATLAS)
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(InputError, match=r"holds no recordings \(notes.md\)"):
        find_scans(tmp_path, ATLAS)
    with pytest.raises(InputError, match=r"is a \.md file"):
        find_scans(tmp_path / "notes.md", ATLAS)
    (tmp_path / "README.txt").write_text("hello")
    with pytest.raises(InputError, match=r"holds no recordings \(README.txt, notes.md\)"):
        find_scans(tmp_path, ATLAS)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt has a header but no data"):
        find_scans(tmp_path, ATLAS).scans[0].load()
    with pytest.raises(ConfigurationError, match=r"no format 'pcb'.*Did you mean 'pcp'"):
        find_scans(tmp_path, ATLAS, format="pcb")  # type: ignore[arg-type]


def test_abide_as_users_have_it(tmp_path: Path, shared: Path) -> None:
    table = shared / "data" / "abide" / "Phenotypic_V1_0b_preprocessed1.csv"
    atlas = Atlas.load("cc200")
    header = "\t".join(f"#{value}" for value in atlas.values)
    rows = ["\t".join(["1.5"] * 200)] * 3
    text = "\n".join([header, *rows])
    write(tmp_path / "cpac" / "filt", "Pitt_0050003", text, atlas="cc200")
    (tmp_path / table.name).write_bytes(table.read_bytes())
    scan = find_scans(tmp_path, atlas).scans[0]
    assert (scan.subject, scan.site) == ("50003", "PITT")
    assert scan.phenotypes["AGE_AT_SCAN"] == 24.45
    assert scan.load().shape == (200, 3)


def test_the_number_of_a_run_is_no_subject(tmp_path: Path) -> None:
    for name in ("sub-01_task-rest_run-1", "sub-02_task-rest_run-1", "KKI_0010001_1", "A_0050003"):
        write(tmp_path, name)
    subjects = {scan.scan: scan.subject for scan in find_scans(tmp_path, ATLAS).scans}
    assert list(subjects.values()) == ["50003", "", "sub-01", "sub-02"]
