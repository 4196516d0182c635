"""Events are read or refused with the reason, and windows lie where the response is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.simulation import haemodynamic_course
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.events import block_windows, find_events, read_events, share_that_passes

SCANS = {
    "sub-01_task-faces_run-1": "sub-01",
    "sub-01_task-faces_run-2": "sub-01",
    "sub-02_task-faces_run-1": "sub-02",
    "sub-02_task-rest": "sub-02",
}
HEADER = "onset\tduration\ttrial_type\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four scans of 100 samples at 2 s."""
    atlas = Atlas.from_networks({"Vis": 2, "Cont": 2}, name="four")
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("events")
    with StoreWriter(folder / "store", atlas, Preprocessing(), {}) as writer:
        for scan, subject in SCANS.items():
            series = random.standard_normal((4, 100)).astype(np.float32)
            recording = Recording(series, t_r=2.0, atlas=atlas, scan=scan, subject=subject)
            writer.add(recording, np.ones(4, dtype=bool))
        return writer.finish(())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(*rows: tuple[float, float, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])


def test_events_are_read_in_order_of_onset_and_unknowns_are_kept(tmp_path):
    text = HEADER + "40\t20\tshapes\n-2.5\tn/a\tfaces\n70\t0\tn/a\n80\t5\t\n"
    events = read_events(write(tmp_path / "a_events.tsv", text))
    assert events["onset"].tolist() == [-2.5, 40, 70, 80]
    assert np.isnan(events["duration"][0])
    assert events["trial_type"].tolist() == ["faces", "shapes", "", ""]


def test_columns_may_stand_in_any_order_among_others(tmp_path):
    text = "trial_type\tstim\tduration\tonset\nfaces\ta.png\t20\t10\n"
    assert read_events(write(tmp_path / "a_events.tsv", text)).values.tolist() == [
        [10.0, 20.0, "faces"]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        (HEADER, "has no rows"),
        ("onset,duration,trial_type\n1,2,a\n", r"no column 'onset'.*separated by tabs"),
        ("onset\tduration\ttrialtype\n1\t2\ta\n", r"no column 'trial_type'.*Did you mean 'trialt"),
        (HEADER + "1\t2\ta\nsoon\t2\ta\n", "line 3: the onset is 'soon'; it must be a number of"),
        (HEADER + "n/a\t2\ta\n", "line 2: the onset is 'n/a'"),
        (HEADER + "inf\t2\ta\n", "line 2: the onset is 'inf'"),
        (HEADER + "1\tlong\ta\n", "line 2: the duration is 'long'.*or n/a"),
        (HEADER + "1\t-2\ta\n", "the duration is -2 s; it cannot be negative"),
        (HEADER + "1\t2\ta\tb\n", "cannot be read"),
        (HEADER + "1\t2\ta\n1\t2\ta\tb\n", "cannot be read"),
    ],
)
def test_malformed_events_are_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_events(write(tmp_path / "a_events.tsv", text))


def test_a_file_belongs_to_the_scan_that_it_names(tmp_path, store):
    for number, name in enumerate(
        ["sub-01_task-faces_run-01", "sub-01_task-faces_run-02", "sub-02_task-faces"]
    ):
        write(tmp_path / name[:6] / "func" / f"{name}_events.tsv", f"{HEADER}{number}\t20\tfaces\n")
    found = find_events(store, tmp_path, missing="drop")
    assert {row: events["onset"][0] for row, events in found.items()} == {0: 0, 1: 1, 2: 2}
    with pytest.raises(
        InputError, match=r"1 of 4 scans have no file of events .* 'sub-02_task-res"
    ):
        find_events(store, tmp_path)


def test_one_file_may_serve_all_scans_of_a_task_and_a_nearer_one_goes_first(tmp_path, store):
    write(tmp_path / "task-faces_events.tsv", HEADER + "10\t20\tfaces\n")
    write(tmp_path / "sub-02_task-faces_run-1_events.tsv", HEADER + "30\t20\tfaces\n")
    found = find_events(store, tmp_path, missing="drop")
    assert {row: events["onset"][0] for row, events in found.items()} == {0: 10, 1: 10, 2: 30}


def test_two_files_that_fit_equally_are_refused(tmp_path, store):
    for run in ("a", "b"):
        write(tmp_path / run / "task-faces_events.tsv", HEADER + "10\t20\tfaces\n")
    with pytest.raises(InputError, match="2 files of events that fit it equally"):
        find_events(store, tmp_path)


def test_a_folder_without_events_is_refused(tmp_path, store):
    with pytest.raises(InputError, match=r"holds no file \*_events.tsv"):
        find_events(store, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_events(store, tmp_path / "nowhere")
    write(tmp_path / "sub-09_events.tsv", HEADER + "10\t20\tfaces\n")
    with pytest.raises(InputError, match="4 of 4 scans"):
        find_events(store, tmp_path, missing="drop")
    with pytest.raises(ConfigurationError, match="'refuse' or 'drop'"):
        find_events(store, tmp_path, missing="skip")


def test_windows_follow_their_blocks_by_the_delay(store):
    events = {0: table((30, 20, "faces"), (50, 20, "shapes"))}
    windows = block_windows(store, events, length=10, delay=6.0)
    assert windows.start.tolist() == [18, 28]
    assert windows.label.tolist() == ["faces", "shapes"]
    assert block_windows(store, events, length=10, delay=0.0).start.tolist() == [15, 25]
    assert (windows.length, windows.delay, len(windows)) == (10, 6.0, 2)


def test_long_blocks_give_as_many_windows_as_fit_in_their_middle(store):
    windows = block_windows(store, {1: table((20, 50, "faces"))}, length=10, delay=0.0)
    assert windows.start.tolist() == [12, 22]  # 24 s and 44 s: 5 s are left at either end, of 50
    assert windows.scan.tolist() == [1, 1]
    assert windows.onset.tolist() == [20, 20]


def test_short_blocks_are_refused_centred_or_dropped_as_asked(store):
    events = {0: table((40, 12, "faces"), (60, 20, "shapes"))}
    with pytest.raises(InputError, match=r"'faces' at 40 s .* lasts 12 s, .* 10 samples \(20 s\)"):
        block_windows(store, events, length=10)
    centred = block_windows(store, events, length=10, delay=0.0, short="centre")
    middle = (centred.start[0] + 5) * 2.0
    assert middle == 46
    dropped = block_windows(store, events, length=10, short="drop")
    assert dropped.label.tolist() == ["shapes"]
    assert dropped.left_out == {"shorter than a window": 1}


def test_windows_outside_of_the_scan_are_refused_or_dropped(store):
    events = {0: table((-10, 20, "faces"), (60, 20, "shapes"), (180, 20, "faces"))}
    with pytest.raises(InputError, match="samples -3 to 6, but the scan has 100"):
        block_windows(store, events, length=10)
    windows = block_windows(store, events, length=10, outside="drop")
    assert windows.label.tolist() == ["shapes"]
    assert windows.left_out == {"outside of the scan": 2}


def test_events_of_which_too_little_is_known_are_left_out_and_counted(store):
    nan = float("nan")
    events = {0: table((10, 20, ""), (40, nan, "faces"), (60, 20, "rest"), (90, 20, "faces"))}
    windows = block_windows(store, events, length=10, conditions=["faces"])
    assert windows.onset.tolist() == [90]
    assert windows.left_out == {
        "without a trial_type": 1,
        "of another condition": 1,
        "without a duration": 1,
    }
    with pytest.raises(InputError, match="no block is left to be decoded: 1 without a duration"):
        block_windows(store, {0: table((40, nan, "faces"))}, length=10)


def test_options_and_conditions_that_do_not_exist_are_refused(store):
    events = {0: table((10, 20, "faces"))}
    with pytest.raises(InputError, match=r"condition 'face'\. Did you mean 'fac"):
        block_windows(store, events, length=10, conditions=["face"])
    with pytest.raises(ConfigurationError, match="short is one of refuse, centre, drop"):
        block_windows(store, events, length=10, short="center")
    with pytest.raises(InputError, match="windows of 0 samples"):
        block_windows(store, events, length=0)


@pytest.mark.parametrize(("block", "least", "most"), [(20, 0.95, 1), (30, 0.93, 1), (60, 0, 0.4)])
def test_blocks_of_twenty_to_thirty_seconds_survive_the_band_pass(store, block, least, most):
    number = 180 // block
    events = {
        0: table(*[(4 + block * i, block, ("faces", "shapes")[i % 2]) for i in range(number)])
    }
    assert least < share_that_passes(store, events, ["faces", "shapes"]) <= most


def test_response_is_the_convolution_with_the_canonical_one():
    from nilearn.glm.first_level import glover_hrf

    times = 0.1 * np.arange(800)
    course = haemodynamic_course(np.array([10.0]), np.array([15.0]), times)
    box = ((times >= 10) & (times < 25)).astype(float)
    kernel = glover_hrf(0.1, oversampling=1)
    expected = np.convolve(box, kernel)[: len(times)]
    assert np.corrcoef(course, expected)[0, 1] > 0.999
    assert course.max() == pytest.approx(expected.max(), rel=0.02)
    assert haemodynamic_course(np.empty(0), np.empty(0), times).sum() == 0
