"""Tables of scans: which columns are taken, how rows are found, what is said when they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantoks.data.recording import ScanFile
from semantoks.data.tables import (
    ScanTable,
    check_t_r,
    complete,
    join,
    match_rows,
    read_scan_table,
)
from semantoks.errors import InputError


def scan(name: str, **known: object) -> ScanFile:
    """Make a scan of which only the identity counts."""
    return ScanFile(scan=name, load=lambda: np.zeros((1, 1)), source=f"{name}.npy", **known)  # type: ignore[arg-type]


def table(folder: Path, text: str, **columns: str) -> ScanTable:
    """Write and read a table."""
    path = folder / "table.csv"
    path.write_text(text)
    return read_scan_table(path, **columns)


def test_columns_are_recognised_whatever_their_case(tmp_path: Path) -> None:
    text = "FILE_ID,sub_id,SITE,RepetitionTime,Mean_FD,ses,age\na_0050003,50003,NYU,2.5,0.1,2,30\n"
    (joined,) = join([scan("a_0050003")], table(tmp_path, text))
    assert (joined.subject, joined.site, joined.session) == ("50003", "NYU", "2")
    assert (joined.t_r, joined.motion, joined.phenotypes) == (2.5, 0.1, {"age": 30})


def test_columns_may_be_named(tmp_path: Path) -> None:
    text = "who,code,centre,seconds,fd,visit,tr\nx,a,B,1.5,0.2,v1,9\n"
    read = table(
        tmp_path,
        text,
        id_column="code",
        subject_column="who",
        site_column="centre",
        t_r_column="seconds",
        motion_column="fd",
        session_column="visit",
    )
    (joined,) = join([scan("a", subject="other", site="A", t_r=2.0, motion=0.5)], read)
    assert (joined.subject, joined.site, joined.session) == ("x", "B", "v1")
    assert (joined.t_r, joined.motion, joined.phenotypes) == (1.5, 0.2, {"tr": 9})


def test_recordings_know_better_unless_a_column_is_named(tmp_path: Path) -> None:
    text = "scan_id,tr,site,age,sex\na,2.0004,B,40,f\n"
    known = scan("a", t_r=2.0, site="A", phenotypes={"age": 41, "sex": float("nan")})
    (joined,) = join([known], table(tmp_path, text))
    assert (joined.t_r, joined.site) == (2.0, "A")
    assert joined.phenotypes == {"age": 41, "sex": "f"}
    (joined,) = join([known], table(tmp_path, text, t_r_column="tr"))
    assert (joined.t_r, joined.site) == (2.0004, "A")


def test_contradictions_name_both_sides(tmp_path: Path) -> None:
    text = "scan_id,participant_id,tr\na,sub-01,3\nb,02,2\nc,sub-03,2\n"
    scans = [scan("a", t_r=2.0), scan("b", subject="sub-2"), scan("c", subject="otto", t_r=1.0)]
    with pytest.raises(InputError) as caught:
        join(scans, table(tmp_path, text))
    message = str(caught.value)
    assert "table.csv contradicts the recordings in 3 place(s): scan 'a' of a.npy" in message
    assert "2 s by what lies with it, but of 3 s by column 'tr'" in message
    assert "scan 'c' is of subject 'otto' by its name or file, but of 'sub-03' by" in message
    named = table(tmp_path, text, t_r_column="tr", subject_column="participant_id")
    joined = join(scans, named)
    assert [(s.subject, s.t_r) for s in joined] == [("sub-01", 3), ("02", 2), ("sub-03", 2)]


def test_scans_in_the_column_of_participants_contradict_nothing(tmp_path: Path) -> None:
    read = table(tmp_path, "participant_id,age\nsub-1_ses-1,3\nsub-1_ses-2,4\n")
    scans = [scan(f"sub-1_ses-{i}", subject="sub-1", session=f"ses-{i}") for i in (1, 2)]
    assert [(s.subject, s.phenotypes["age"]) for s in join(scans, read)] == [
        ("sub-1", 3),
        ("sub-1", 4),
    ]


def test_words_are_missing_among_numbers_only(tmp_path: Path) -> None:
    text = (
        "scan_id,sub_id,site,tr,mean_fd,group,only,age,well,bids\n"
        "NA,null,NA,NA,nan,NA,NA,NA,True,n/a\n"
        "b,None,null,2,0.1,null,NA,30,NA,x\n"
        "c,NaN,,2,0.1,,NA,31,False,y\n"
    )
    read = table(tmp_path, text)
    joined = join([scan("NA"), scan("b"), scan("c")], read)
    assert [s.subject for s in joined] == ["null", "None", "NaN"]
    assert [s.site for s in joined] == ["NA", "null", ""]
    assert [s.t_r for s in joined] == [None, 2.0, 2.0]
    np.testing.assert_array_equal([s.motion for s in joined], [np.nan, 0.1, 0.1])
    phenotypes = read.rows[list(read.phenotypes)]
    assert phenotypes["group"].tolist()[:2] == ["NA", "null"]
    assert phenotypes["only"].tolist() == ["NA"] * 3
    assert phenotypes["bids"].tolist()[1:] == ["x", "y"]
    assert phenotypes.isna().sum().to_dict() == {
        "group": 1, "only": 0, "age": 1, "well": 1, "bids": 1
    }  # fmt: skip
    assert phenotypes["age"].tolist()[1:] == [30.0, 31.0]


def test_ids_are_text(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("\ufeffsubject_id\tage\n007\t1\n7e1\t2\n", encoding="utf-8")
    read = read_scan_table(tmp_path / "t.tsv")
    joined = join([scan("x", subject="007"), scan("y", subject="7e1")], read)
    assert [s.phenotypes["age"] for s in joined] == [1, 2]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [("sub-0050003", "50003"), ("50003", "sub-50003"), ("0050003", "50003.0"), ("00", "0")],
)
def test_prefix_and_zeros_may_differ(tmp_path: Path, wanted: str, given: str) -> None:
    read = table(tmp_path, f"participant_id,age\n{given},5\n")
    assert join([scan("x", subject=wanted)], read)[0].phenotypes == {"age": 5}
    assert join([scan(wanted)], read)[0].phenotypes == {"age": 5}


def test_loose_ids_must_leave_one_candidate(tmp_path: Path) -> None:
    read = table(tmp_path, "participant_id,age\n01,5\n001,6\n2,7\n")
    assert join([scan("x", subject="001")], read)[0].phenotypes == {"age": 6}
    with pytest.raises(InputError, match=r"1 scan\(s\) have no row"):
        join([scan("x", subject="1"), scan("y", subject="2")], read)
    with pytest.raises(InputError, match=r"2 scan\(s\) have no row"):
        join([scan("x", subject="02"), scan("y", subject="002"), scan("z", subject="01")], read)


def test_sessions_tell_rows_of_a_subject_apart(tmp_path: Path) -> None:
    read = table(tmp_path, "participant_id,session,score\nsub-1,1,10\nsub-1,2,20\nsub-2,1,30\n")
    first, second = scan("a", subject="sub-1", session="ses-1"), scan("b", subject="sub-1")
    third = scan("c", subject="sub-2")
    later = scan("d", subject="sub-1", session="ses-02")
    joined = join([first, third, later], read)
    assert [s.phenotypes["score"] for s in joined] == [10, 30, 20]
    assert [s.session for s in joined] == ["ses-1", "1", "ses-02"]
    with pytest.raises(InputError, match=r"scan 'b' does not say its session.*sessions 1, 2"):
        join([second], read)
    with pytest.raises(InputError, match="'c' of session 'ses-3'"):
        join([first, scan("c", subject="sub-2", session="ses-3")], read)


def test_one_row_may_describe_all_scans_of_a_subject(tmp_path: Path) -> None:
    read = table(tmp_path, "participant_id,age\nsub-1,10\n")
    scans = [scan("a", subject="sub-1", session="ses-1"), scan("b", subject="sub-1")]
    assert [s.phenotypes["age"] for s in join(scans, read)] == [10, 10]


def test_missing_rows_are_named_with_the_nearest(tmp_path: Path) -> None:
    rows = "".join(f"Pitt_005000{i},{i}\n" for i in range(1, 8))
    read = table(tmp_path, "file_id,age\n" + rows)
    scans = [scan("Pitt_0050001"), scan("Pit_0050003"), *(scan(f"other{i}") for i in range(6))]
    with pytest.raises(InputError) as caught:
        join(scans, read)
    message = str(caught.value)
    assert "7 scan(s) have no row in table" in message
    assert "'Pit_0050003' (nearest in the table: 'Pitt_0050003')" in message
    assert "'other3', ..." in message
    assert "'other4'" not in message
    assert "looked up in 'file_id'" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_id,age\na,1\na,2\n", r"more than one row for 1 id\(s\) in column 'file_id': a\."),
        ("subject,age\ns,1\ns,2\n", r"more than one row.*add a column 'session'"),
        ("subject,session,age\ns,1,1\ns,1,2\n", r"s \(session 1\)"),
        ("file_id,age\na,1\n,2\n", r"line 3 has no id in column 'file_id'"),
        ("name,age\na,1\n", r"no column of identities: one of file_id.*has name, age"),
        ("file_id,tr,t_r\na,1,2\n", r"several columns of repetition times: tr, t_r"),
        ("file_id,mean_fd\na,high\n", r"'mean_fd'.*is 'high' for scan 'a'"),
        ("", r"cannot be read"),
        ("file_id,age\na,1\nb,1,2\n", r"cannot be read.*line 3"),
        ("file_id,age\na,1,2\nb,1,2\n", r"more cells than the header has names \(file_id, age"),
    ],
)
def test_unusable_tables_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        join([scan("a", subject="s")], table(tmp_path, text))
    assert "table.csv" in str(caught.value)


def test_absent_column_and_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no column 'file'.*Did you mean 'file_id'"):
        table(tmp_path, "file_id,age\na,1\n", id_column="file")
    with pytest.raises(InputError, match="has no column 'TR_s'; it has file_id, tr_s"):
        table(tmp_path, "file_id,tr_s\na,1\n", t_r_column="TR_s")
    with pytest.raises(InputError, match=r"nowhere.csv does not exist"):
        read_scan_table(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"a \.csv \(commas\) or \.tsv \(tabs\) file"):
        read_scan_table(tmp_path / "table.xlsx")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two", r"is 'two', but a repetition time is a positive number"),
        ("0", r"is '0', but"),
        ("-2", r"is '-2', but"),
        ("inf", r"is 'inf', but"),
        ("2000", r"is '2000'.*surely in milliseconds; give 2\."),
        ("20.5", r"surely in milliseconds"),
    ],
)
def test_impossible_repetition_times_are_refused(tmp_path: Path, value: str, message: str) -> None:
    read = table(tmp_path, f"file_id,tr\na,2.0\nb,{value}\n")
    with pytest.raises(InputError, match=message) as caught:
        join([scan("a"), scan("b")], read)
    assert "column 'tr' of table" in str(caught.value)
    assert "for scan 'b'" in str(caught.value)
    assert join([scan("a")], read)[0].t_r == 2.0  # rows that nobody asks for do no harm


def test_empty_repetition_time_is_unknown(tmp_path: Path) -> None:
    read = table(tmp_path, "file_id,tr,mean_fd,age\na,,,\nb,2.0,0.1,3\n,,,\n")
    joined = join([scan("a"), scan("b")], read)
    assert [s.t_r for s in joined] == [None, 2.0]
    assert np.isnan(joined[0].motion)
    assert check_t_r(0.735, "here") == 0.735


def test_abide_table(shared: Path) -> None:
    read = read_scan_table(shared / "data" / "abide" / "abide1_subjects.csv")
    (joined,) = join([scan("UM_1_0050286")], read)
    assert (joined.subject, joined.site, joined.t_r) == ("50286", "UM_1", 2.0)
    assert joined.phenotypes["diagnosis"] == 1
    assert joined.phenotypes["scan_site"] == "UM_1"


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("scan_id,age\na,30\nb,31\nc,32\nd,33\n", ["c", "d"]),
        ("participant_id,age\nsub-a,30\nsub-b,31\nsub-z,32\n", ["sub-z"]),
        ("scan_id,age\na,30\nb,31\n", []),
    ],
)
def test_those_without_a_scan_are_told(tmp_path: Path, text: str, absent: list[str]) -> None:
    read = table(tmp_path, text)
    scans = [scan("a", subject="a", t_r=2.0), scan("b", subject="b", t_r=2.0)]
    assert match_rows(scans, read).absent == absent
    made = complete(scans, own_table=None, table=read, t_r=None, policy="skip")
    if absent:
        assert f"{len(absent)} of those in table" in made.told
        assert repr(absent[0]) in made.told
    else:
        assert made.told == ""
