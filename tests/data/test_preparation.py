"""From files to a store: what is refused, what stops, and what is left behind."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.preparation import PreparationReport, prepare
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.tables import ScanTable, read_scan_table
from semantoks.errors import ConfigurationError, InputError

ATLAS = Atlas.from_networks({"Vis": 10, "Default": 10}, name="tiny20")


def noise(seed: int, n_samples: int = 130) -> np.ndarray:
    """Make a series that every check accepts."""
    return np.random.default_rng(seed).standard_normal((20, n_samples))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with three good scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate(("a", "b", "c")):
        np.save(folder / f"{name}.npy", noise(seed))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The place for a store."""
    return tmp_path / "stores" / "cohort"


def table(source: Path, text: str) -> ScanTable:
    """Write a table beside the scans."""
    path = source.parent / "table.csv"
    path.write_text(text)
    return read_scan_table(path)


def categories(report: PreparationReport) -> dict[str, str]:
    """Return why each refused scan was refused."""
    return {refusal.scan: refusal.category for refusal in report.refused}


def nothing_left(out: Path) -> bool:
    """Say whether neither store nor unfinished store is there."""
    return not out.parent.exists() or not list(out.parent.iterdir())


def test_good_scans_become_a_store(source: Path, out: Path) -> None:
    known = table(
        source, "scan_id,sub_id,tr,site,age,length\na,1,2,A,30,x\nb,2,1,B,,y\nc,1,2,A,9,z\n"
    )
    seen: list[tuple[int, int]] = []
    report = prepare(
        source, out, atlas=ATLAS, table=known, progress=lambda *x: seen.append(x),
        preprocessing=Preprocessing(min_samples=60),
    )  # fmt: skip
    assert (report.n_found, report.n_written, report.refused) == (3, 3, ())
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    store = Store.open(out)
    assert report.path == out
    assert store.scans["scan"].tolist() == ["a", "b", "c"]
    assert store.scans["subject"].tolist() == ["1", "2", "1"]
    assert store.scans["t_r"].tolist() == [2.0, 1.0, 2.0]
    assert store.scans["length"].tolist() == [130, 65, 130]
    assert store.scans["length_in_table"].tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(store.series(0).std(axis=1), 1, atol=1e-3)


def test_tables_may_lie_among_the_scans(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    (source / "cohort.csv").write_text("scan_id,tr\na,2\nb,2\nc,2\n")
    ATLAS.to_table().to_csv(source / "atlas.tsv", sep="\t", index=False)
    known = read_scan_table("cohort.csv")
    report = prepare(source.resolve(), out, atlas=ATLAS, table=known, ignore=["atlas.tsv"])
    assert (report.n_found, report.n_written) == (3, 3)


def test_table_of_participants_and_given_table_complete_each_other(source: Path, out: Path) -> None:
    (source / "participants.tsv").write_text("participant_id\tage\tsite\na\t30\tA\nb\t\tB\n")
    with pytest.raises(InputError, match=r"1 scan\(s\) have no row.*participants.tsv: 'c'"):
        prepare(source, out, atlas=ATLAS, t_r=2.0)
    report = prepare(source, out.with_name("left"), atlas=ATLAS, t_r=2.0, policy="keep-going")
    assert (categories(report), report.n_found) == ({"c": "no table row"}, 3)
    known = table(source, "scan_id,tr,age\na,2,30\nb,2,40\nc,2,50\n")
    assert prepare(source, out, atlas=ATLAS, table=known).refused == ()
    scans = Store.open(out).scans
    assert scans["scan"].tolist() == ["a", "b", "c"]
    assert scans["site"].tolist() == ["A", "B", ""]
    assert scans["age"].tolist() == [30, 40, 50]
    # Given as the table, it is read once, with the columns that are named.
    own = read_scan_table(source / "participants.tsv", site_column="age")
    report = prepare(
        source, out.with_name("own"), atlas=ATLAS, table=own, t_r=2.0, policy="keep-going"
    )
    assert Store.open(report.path).scans["site"].tolist() == ["30", ""]


def test_scans_without_a_subject_are_counted(source: Path, out: Path) -> None:
    report = prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert report.nameless == Store.open(out).n_unnamed_subjects == 3
    assert report.notices[:1] == (
        "3 scan(s) name no subject; each counts as a person of its own. If some are of the same "
        "person, give a table with their participant_id (--table).",
    )
    with pytest.raises(InputError, match=r"^3 scan\(s\) name no subject;.*'a', 'b', 'c'.*strict"):
        prepare(source, out.with_name("b"), atlas=ATLAS, t_r=2.0, policy="strict")
    known = table(source, "scan_id,participant_id,tr\na,anna,2\nb,,2\nc,anna,2\n")
    np.save(source / "b.npy", noise(1, 50))
    report = prepare(source, out.with_name("c"), atlas=ATLAS, table=known)
    # The nameless one is too short, and not in the store.
    assert (report.n_written, report.nameless) == (2, 0)
    assert len(report.notices) == 1
    assert "could not be checked by connectivity" in report.notices[0]
    assert Store.open(report.path).n_subjects == 1


def spoil(source: Path) -> dict[str, str]:
    """Add a scan for every check of quality; return what should be found."""
    flat, hole, copy = noise(10), noise(11), noise(0)
    flat[:2] = 7.0
    hole[3, 50] = np.nan
    np.save(source / "d_flat_rois.npy", flat)
    np.save(source / "e_hole.npy", hole)
    np.save(source / "f_short.npy", noise(12, 99))
    np.save(source / "g_all_flat.npy", np.full((20, 130), 3.0))
    np.save(source / "h_copy.npy", copy)
    return {
        "d_flat_rois": "coverage",
        "e_hole": "nan",
        "f_short": "short",
        "g_all_flat": "flat",
        "h_copy": "identical",
    }


def test_bad_quality_is_left_out_and_named(source: Path, out: Path) -> None:
    expected = spoil(source)
    report = prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert categories(report) == expected
    assert (report.n_found, report.n_written) == (8, 3)
    kept = Store.open(out).refused
    assert dict(zip(kept["scan"], kept["category"], strict=True)) == expected
    reasons = {refusal.scan: refusal.reason for refusal in report.refused}
    assert "'a'" in reasons["h_copy"]
    assert "99 samples" in reasons["f_short"]
    assert report.refused[0].source == str(source / "d_flat_rois.npy")


def test_strict_stops_with_the_whole_list(source: Path, out: Path) -> None:
    expected = spoil(source)
    rows = "".join(f"{name},{name}\n" for name in ("a", "b", "c", *expected))
    known = table(source, "scan_id,sub_id\n" + rows)
    with pytest.raises(
        InputError, match=r"5 of 8 scan\(s\) are refused.*policy is strict"
    ) as caught:
        prepare(source, out, atlas=ATLAS, table=known, t_r=2.0, policy="strict")
    assert all(repr(name) in str(caught.value) for name in expected)
    assert nothing_left(out)
    for name in expected:
        (source / f"{name}.npy").unlink()
    report = prepare(source, out, atlas=ATLAS, table=known, t_r=2.0, policy="strict")
    assert report.n_written == 3


def test_unreadable_file_stops_or_is_left_out(source: Path, out: Path) -> None:
    (source / "bad.npy").write_bytes(b"no array")
    known = table(source, "scan_id,sub_id\na,1\nb,2\nc,3\nbad,4\n")
    for policy in ("default", "strict"):
        with pytest.raises(InputError, match=r"bad\.npy cannot be read.*--keep-going"):
            prepare(source, out, atlas=ATLAS, table=known, t_r=2.0, policy=policy)  # type: ignore[arg-type]
        assert nothing_left(out)
    report = prepare(source, out, atlas=ATLAS, t_r=2.0, policy="keep-going")
    assert categories(report) == {"bad": "unreadable"}
    assert report.n_written == 3


def test_all_unreadable_files_are_named_at_once(source: Path, out: Path) -> None:
    for number in range(11):
        (source / f"z{number:02}.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"^11 of 14 scan\(s\) cannot be used: 'z00'") as caught:
        prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert "'z09': " in str(caught.value)
    assert "; and 1 more. Mend all of them" in str(caught.value)
    assert nothing_left(out)


def test_when_the_first_ten_fail_the_others_are_not_tried(source: Path, out: Path) -> None:
    for number in range(8):
        np.save(source / f"d{number}.npy", noise(number + 20))
    seen: list[int] = []
    other = Atlas.from_networks({"Vis": 21})
    with pytest.raises(InputError, match=r"^each of the first 10 of 11 scan\(s\) cannot be used"):
        prepare(source, out, atlas=other, t_r=2.0, progress=lambda done, _: seen.append(done))
    assert seen[:10] == list(range(10))
    assert 10 not in seen
    assert nothing_left(out)


def test_two_preparations_of_one_store_exclude_each_other(source: Path, out: Path) -> None:
    refusals: list[str] = []

    def again(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(InputError) as caught:
                prepare(source, out, atlas=ATLAS, t_r=1.9)
            refusals.append(str(caught.value))

    report = prepare(source, out, atlas=ATLAS, t_r=2.0, progress=again)
    assert "another prepare is writing here" in refusals[0]
    assert (report.n_written, Store.open(out).scans["t_r"].tolist()) == (3, [2.0] * 3)


@pytest.mark.parametrize("setting", [{"high_pass": None}, {"low_pass": None}, {"detrend": False}])
def test_parts_of_the_preprocessing_may_be_off(
    source: Path, out: Path, setting: dict[str, bool | None]
) -> None:
    prepare(source, out.with_name("whole"), atlas=ATLAS, t_r=2.0)
    prepare(source, out, atlas=ATLAS, t_r=2.0, preprocessing=Preprocessing(**setting))  # type: ignore[arg-type]
    recorded = json.loads((out / "store.json").read_text())["preprocessing"]
    assert setting.items() <= recorded.items()
    assert setting.items() <= Store.open(out).preprocessing.to_dict().items()
    assert not np.array_equal(Store.open(out).series(0), Store.open(out.parent / "whole").series(0))


def test_missing_rows_stop_or_are_left_out(source: Path, out: Path) -> None:
    known = table(source, "scan_id,tr\na,2\nb,2\n")
    with pytest.raises(InputError, match=r"1 scan\(s\) have no row.*'c'"):
        prepare(source, out, atlas=ATLAS, table=known)
    report = prepare(source, out, atlas=ATLAS, table=known, policy="keep-going")
    assert categories(report) == {"c": "no table row"}


def test_missing_repetition_time_is_never_guessed(source: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"3 of 3 scan\(s\) have no rep.*'a', 'b', 'c'.*no table"):
        prepare(source, out, atlas=ATLAS)
    known = table(source, "scan_id,age\na,2\nb,2\nc,2\n")
    with pytest.raises(InputError, match="has no column such as tr"):
        prepare(source, out, atlas=ATLAS, table=known)
    known = table(source, "scan_id,tr\na,2\nb,\nc,2\n")
    with pytest.raises(InputError, match=r"1 of 3 scan\(s\).*'b'.*column 'tr'.*is empty"):
        prepare(source, out, atlas=ATLAS, table=known)
    assert nothing_left(out)
    report = prepare(source, out, atlas=ATLAS, table=known, policy="keep-going")
    assert categories(report) == {"b": "no t_r"}


def test_repetition_time_for_all_fills_gaps_only(source: Path, out: Path) -> None:
    known = table(source, "scan_id,tr\na,2\nb,\nc,2\n")
    with pytest.raises(InputError, match=r"is 3 s, but files or table say otherwise for 2 of 3"):
        prepare(source, out, atlas=ATLAS, table=known, t_r=3.0)
    with pytest.raises(InputError, match="surely in milliseconds; give 2"):
        prepare(source, out, atlas=ATLAS, t_r=2000)
    assert prepare(source, out, atlas=ATLAS, table=known, t_r=2.0).n_written == 3


def test_band_that_a_scan_cannot_hold(source: Path, out: Path) -> None:
    known = table(source, "scan_id,tr\na,2\nb,6\nc,2\n")
    with pytest.raises(InputError, match=r"scan 'b' of .*b\.npy: .*Nyquist"):
        prepare(source, out, atlas=ATLAS, table=known)
    report = prepare(source, out, atlas=ATLAS, table=known, policy="keep-going")
    assert categories(report) == {"b": "preprocessing"}


def test_nothing_usable_is_an_error(source: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 3 scan\(s\) can be used \(3 short\): 'a'"):
        prepare(source, out, atlas=ATLAS, t_r=1.0)
    with pytest.raises(InputError, match=r"one axis of 457 was expected"):
        prepare(source, out, atlas=Atlas.load("schaefer400-tian3-buckner7"), t_r=2.0)
    assert nothing_left(out)


def test_existing_output_is_kept(source: Path, out: Path) -> None:
    prepare(source, out, atlas=ATLAS, t_r=2.0)
    fingerprint = Store.open(out).fingerprint
    np.save(source / "d.npy", noise(9))
    with pytest.raises(InputError, match="exists already"):
        prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert Store.open(out).fingerprint == fingerprint


def test_unknown_policy_names_the_nearest(source: Path, out: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no policy 'keepgoing'.*mean 'keep-going'"):
        prepare(source, out, atlas=ATLAS, t_r=2.0, policy="keepgoing")  # type: ignore[arg-type]


class Interruption:
    """Press Ctrl-C before a given scan."""

    def __init__(self, before: int) -> None:
        self.before = before

    def __call__(self, done: int, total: int) -> None:
        if done == self.before:
            raise KeyboardInterrupt


def test_interrupted_preparation_goes_on(source: Path, out: Path, tmp_path: Path) -> None:
    expected = spoil(source)
    whole = tmp_path / "whole"
    prepare(source, whole, atlas=ATLAS, t_r=2.0)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, atlas=ATLAS, t_r=2.0, progress=Interruption(before=2))
    assert not out.exists()
    report = prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert (report.n_resumed, report.started_over, report.n_written) == (2, False, 3)
    # The copy of a scan that was written before the interruption is found as well.
    assert categories(report) == expected
    assert Store.open(out).fingerprint == Store.open(whole).fingerprint
    assert [path.name for path in out.parent.iterdir()] == ["cohort"]


def test_interrupted_preparation_of_something_else_starts_over(source: Path, out: Path) -> None:
    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out, atlas=ATLAS, t_r=2.0, progress=Interruption(before=2))

    interrupt()
    report = prepare(source, out, atlas=ATLAS, t_r=1.9)
    assert (report.n_resumed, report.started_over, report.n_written) == (0, True, 3)
    out.rename(out.with_name("first"))
    interrupt()
    np.save(source / "a.npy", noise(77))
    report = prepare(source, out, atlas=ATLAS, t_r=2.0)
    assert (report.n_resumed, report.started_over) == (0, True)


def test_stages_as_users_have_it(tmp_path: Path, out: Path, shared: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "examples" / "export_stages.py"
    export = runpy.run_path(str(script))["export"]
    (archive,) = (shared / "data" / "stages").glob("*.h5")
    export(archive, tmp_path / "stages", 3)
    report = prepare(
        tmp_path / "stages",
        out,
        atlas=Atlas.load("schaefer400"),
        table=read_scan_table(tmp_path / "stages" / "scans.tsv"),
    )
    scans = Store.open(out).scans
    assert report.n_written == 3
    assert scans["subject"].tolist() == ["sub-001", "sub-002", "sub-003"]
    assert scans["session"].tolist() == ["ses-1"] * 3
    assert scans["length"].tolist() == [234] * 3
    assert scans["coverage"][0] < 1 == scans["coverage"][2]
