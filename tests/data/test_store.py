"""The store: what is written comes back, and nothing half-written is ever seen."""

from __future__ import annotations

import errno
import json
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from semantoks import files
from semantoks.data import store_writer
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Files, Store, partial_folder
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError

ATLAS = Atlas.from_networks({"Vis": 2, "SomMot": 3, "Default": 1}, name="six")
VALID = np.ones(6, dtype=bool)


@dataclass(frozen=True)
class Refusal:
    scan: str
    source: str
    reason: str
    category: str


def recording(number: int, n_samples: int | None = None, **changes: Any) -> Recording:
    """Scan `number`, of subject number // 2; every scan has another length."""
    random = np.random.default_rng(number)
    series = random.standard_normal((6, n_samples or 120 + number)).astype(np.float32)
    scan = Recording(
        series=series,
        t_r=0.735,
        atlas=ATLAS,
        scan=f"scan-{number}",
        subject=f"person-{number // 2}",
        site="here",
        motion=0.1 * number,
        phenotypes={"age": 20 + number, "sex": "f"},
        source=f"{number}.npy",
    )
    return replace(scan, **changes)


def write(path: Path, numbers: range = range(4), request: dict[str, Any] | None = None) -> Store:
    with StoreWriter(path, ATLAS, Preprocessing(), request or {}) as writer:
        for number in numbers:
            if f"scan-{number}" not in writer.done:
                writer.add(recording(number), VALID)
        return writer.finish()


def begin(path: Path, n: int, error: BaseException, request: dict[str, Any]) -> None:
    """Begin a store and raise an error after `n` scans."""
    with StoreWriter(path, ATLAS, Preprocessing(), request) as writer:
        for number in range(n):
            writer.add(recording(number), VALID)
        raise error


def interrupt(path: Path, n: int = 2, request: dict[str, Any] | None = None) -> None:
    """Begin a store and press Ctrl-C after `n` scans."""
    with pytest.raises(KeyboardInterrupt):
        begin(path, n, KeyboardInterrupt(), request or {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write(tmp_path / "store")


# What comes back


def test_series_come_back_as_float16_keeps_them(store: Store) -> None:
    assert len(store) == 4
    for number in range(4):
        expected = recording(number).series.astype(np.float16).astype(np.float32)
        result = store.series(number)
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.float32
        assert result.flags.c_contiguous


def test_description_comes_back(store: Store) -> None:
    assert store.atlas == ATLAS
    assert store.atlas.name == "six"
    assert store.preprocessing == Preprocessing()
    assert (store.t_r, store.format_version, store.n_subjects) == (2.0, 1, 2)
    assert store.lengths.tolist() == [120, 121, 122, 123]
    assert store.offsets.tolist() == [0, 120, 241, 363]
    assert store.subject_codes.tolist() == [0, 0, 1, 1]
    assert "4 scans of 2 subjects" in repr(store)


def test_table_of_scans(store: Store) -> None:
    table = store.scans
    assert table.columns.tolist() == [
        *("scan", "subject", "session", "site", "t_r", "length", "offset", "motion", "coverage"),
        *("source", "age", "sex"),
    ]
    assert table["scan"].tolist() == [f"scan-{i}" for i in range(4)]
    assert table["t_r"].tolist() == [0.735] * 4
    assert table["age"].tolist() == [20, 21, 22, 23]
    assert table["motion"].tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert table is store.scans


def test_phenotypes_of_every_kind(tmp_path: Path) -> None:
    phenotypes: list[dict[str, Any]] = [
        {"mixed": 1, "gap": np.float32(1.5), "flag": True, "empty": None, "big": 10**30},
        {"mixed": "x", "gap": float("nan"), "flag": np.bool_(False), "late": np.int64(3)},
    ]
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        for number, values in enumerate(phenotypes):
            writer.add(recording(number, phenotypes=values), VALID)
        table = writer.finish().scans
    assert table["mixed"].tolist() == ["1", "x"]
    assert table["gap"].isna().tolist() == [False, True]
    assert table["flag"].tolist() == [True, False]
    assert table["empty"].isna().all()
    assert table["late"].isna().tolist() == [True, False]
    assert table["big"][0] == str(10**30)


def test_valid_rois_and_networks(tmp_path: Path) -> None:
    valid = np.array([False, False, True, False, True, True])
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        writer.add(recording(0), VALID)
        writer.add(recording(1), valid)
        store = writer.finish()
    np.testing.assert_array_equal(store.valid, [VALID, valid])
    assert store.network_valid.tolist() == [[True, True, True], [False, True, True]]
    assert store.scans["coverage"].tolist() == [1.0, 0.5]


def test_refused_scans_are_kept_by_name(tmp_path: Path) -> None:
    refused = [Refusal("bad", "bad.1D", 'says "too short", so', "short")]
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        writer.add(recording(0), VALID)
        store = writer.finish(refused)
    row = store.refused.iloc[0].to_dict()
    assert row == {
        "scan": "bad",
        "source": "bad.1D",
        "category": "short",
        "reason": 'says "too short", so',
    }


def test_series_is_a_plain_npy_file(store: Store) -> None:
    array = np.load(store.path / "series.npy", mmap_mode="r")
    assert (array.shape, array.dtype) == ((486, 6), np.float16)
    np.testing.assert_array_equal(array, store.samples)


def test_nothing_but_the_store_is_left(store: Store) -> None:
    assert [path.name for path in store.path.parent.iterdir()] == ["store"]
    assert sorted(path.name for path in store.path.iterdir()) == [
        *("index.npy", "refused.csv", "scans.parquet", "series.npy", "store.json", "valid.npy"),
    ]


# Windows


def test_windows_are_slices_of_the_series(store: Store) -> None:
    scans, starts = np.array([3, 0, 0, 2]), np.array([23, 0, 20, 7])
    windows = store.windows(scans, starts)
    assert (windows.shape, windows.dtype) == ((4, 6, 100), np.float32)
    for window, scan, start in zip(windows, scans, starts, strict=True):
        np.testing.assert_array_equal(window, store.series(scan)[:, start : start + 100])


def test_no_windows(store: Store) -> None:
    none = np.array([], dtype=np.int64)
    assert store.windows(none, none, 10).shape == (0, 6, 10)


@pytest.mark.parametrize(
    ("scans", "starts", "length", "message"),
    [
        ([0], [21], 100, "from sample 21 does not lie within scan 0, which has 120 samples"),
        ([0, 1], [0, -1], 100, "from sample -1 does not lie within scan 1"),
        ([4], [0], 100, "scans 4 to 4 were asked for; the store has scans 0 to 3"),
        ([-1], [0], 100, "scans -1 to -1"),
        ([0], [0, 1], 100, "one start a scan"),
        ([0], [0], 0, "at least 1 sample"),
        ([0], [0], 500, "a window of 500 samples"),
    ],
)
def test_windows_outside_are_refused(
    store: Store, scans: list[int], starts: list[int], length: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        store.windows(np.array(scans), np.array(starts), length)


@pytest.mark.parametrize("scan", [-1, 4])
def test_series_of_no_scan(store: Store, scan: int) -> None:
    with pytest.raises(InputError, match="scans 0 to 3"):
        store.series(scan)


def test_every_finite_half_is_read_exactly(store: Store) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    samples = np.resize(finite, (len(finite) // 6 + 1, 6))
    one = replace(
        store,
        offsets=np.zeros(1, dtype=np.int64),
        lengths=np.array([len(samples)]),
        samples=samples,
    )
    starts = np.arange(0, len(samples) - 100, 50)  # many windows, the last block not full
    starts = np.append(starts, len(samples) - 100)
    windows = one.windows(np.zeros_like(starts), starts)
    raw = one.stored_windows(np.zeros_like(starts), starts)
    assert windows.flags.c_contiguous is False
    assert windows.transpose(0, 2, 1).flags.c_contiguous
    for window, stored, start in zip(windows, raw, starts, strict=True):
        part = samples[start : start + 100]
        # As bits, so that the two zeros are told apart.
        expected = np.ascontiguousarray(part.astype(np.float32).T).view(np.uint32)
        np.testing.assert_array_equal(np.ascontiguousarray(window).view(np.uint32), expected)
        np.testing.assert_array_equal(stored.view(np.uint16), part.view(np.uint16))


def test_stored_windows_go_where_they_are_wanted(store: Store) -> None:
    scans, starts = np.array([1, 0]), np.array([0, 20])
    out = np.empty((2, 100, 6), dtype=np.float16)
    assert store.stored_windows(scans, starts, out=out) is out
    np.testing.assert_array_equal(out.transpose(0, 2, 1), store.windows(scans, starts))
    with pytest.raises(InputError, match=r"shape \(2, 6, 100\) in float16"):
        store.stored_windows(scans, starts, out=np.empty((2, 6, 100), dtype=np.float16))
    with pytest.raises(InputError, match="float32"):
        store.stored_windows(scans, starts, out=np.empty((2, 100, 6), dtype=np.float32))
    with pytest.raises(InputError, match="from sample 21"):
        store.stored_windows(np.array([0]), np.array([21]))


# Fingerprint


def test_same_content_same_fingerprint(tmp_path: Path) -> None:
    assert write(tmp_path / "a").fingerprint == write(tmp_path / "b").fingerprint


def test_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    fingerprints = {write(tmp_path / "reference").fingerprint}
    other_values = recording(0).series.copy()
    other_values[0, 0] += 1
    changes: list[tuple[Preprocessing, dict[str, Any], Any]] = [
        (Preprocessing(low_pass=0.08), {}, VALID),
        (Preprocessing(), {"series": other_values}, VALID),
        (Preprocessing(), {"subject": "someone else"}, VALID),
        (Preprocessing(), {"scan": "other name"}, VALID),
        (Preprocessing(), {}, np.arange(6) > 0),
    ]
    for i, (preprocessing, change, valid) in enumerate(changes):
        with StoreWriter(tmp_path / str(i), ATLAS, preprocessing, {}) as writer:
            writer.add(recording(0, **change), valid)
            for number in range(1, 4):
                writer.add(recording(number), VALID)
            fingerprints.add(writer.finish().fingerprint)
    assert len(fingerprints) == 6


# Opening


def test_opening_reads_neither_pandas_nor_the_table(store: Store) -> None:
    (store.path / "scans.parquet").unlink()
    code = (
        "import sys; from semantoks.data.store import Store; import numpy as np;"
        f"s = Store.open({str(store.path)!r}); s.stored_windows(np.array([1]), np.array([3]));"
        "s.network_valid; print(len(s), 'pandas' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False", "False"]


def test_a_pickled_store_maps_the_file_again(store: Store) -> None:
    data = pickle.dumps(store)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert isinstance(copy.samples, np.memmap)
    np.testing.assert_array_equal(copy.series(2), store.series(2))


def test_the_files_cannot_be_changed_through_the_store(store: Store) -> None:
    with pytest.raises(ValueError, match="read-only"):
        store.samples[0, 0] = 1


def test_truncated_series_is_found(store: Store) -> None:
    file = store.path / "series.npy"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(size - 1000)
    with pytest.raises(InputError, match=rf"{size - 1000:,} bytes, but {size:,} are expected"):
        Store.open(store.path)


def test_series_of_another_shape_is_found(store: Store) -> None:
    np.save(store.path / "series.npy", np.zeros((486, 7), dtype=np.float16))
    with pytest.raises(InputError, match=r"float16 of shape \(486, 7\), but store.json says"):
        Store.open(store.path)


def test_index_that_does_not_fit_is_found(store: Store) -> None:
    change_description(store)
    index = np.load(store.path / "index.npy")
    index[1, 0] += 1
    np.save(store.path / "index.npy", index)
    with pytest.raises(InputError, match=r"index\.npy does not fit"):
        Store.open(store.path)


@pytest.mark.parametrize("name", ["series.npy", "index.npy", "valid.npy"])
def test_missing_and_senseless_parts_are_named(store: Store, name: str) -> None:
    change_description(store)
    (store.path / name).write_bytes(b"no array")
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        Store.open(store.path)
    (store.path / name).unlink()
    with pytest.raises(InputError, match=f"lacks {name}"):
        Store.open(store.path)


def change_description(store: Store, **changes: Any) -> None:
    file = store.path / "store.json"
    content = json.loads(file.read_text()) | changes
    # As an older version wrote it, so that what is behind the checksums is tested as well.
    content |= {"checksum": None, "sha256": None}
    content = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(content))


def test_newer_format_is_refused(store: Store) -> None:
    change_description(store, format_version=2, semantoks="9.9")
    with pytest.raises(InputError, match=r"version 2, written by semantoks 9\.9.*reads 1"):
        Store.open(store.path)


def test_changed_atlas_is_refused(store: Store) -> None:
    content = ATLAS.to_dict()
    content["labels"] = [*content["labels"][::-1]]
    change_description(store, atlas=content)
    with pytest.raises(InputError, match=r"its fingerprint is .* the description was changed"):
        Store.open(store.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something"}, "not the description of a semantoks store"),
        ({"atlas": None}, "lacks 'atlas'"),
        ({"fingerprint": None}, "lacks 'fingerprint'"),
        ({"counts": {"scans": 4}}, "lacks 'samples'"),
        ({"preprocessing": {"target_tr": 2}}, "Did you mean 'target_t_r'"),
    ],
)
def test_broken_description_is_refused(store: Store, changes: dict[str, Any], message: str) -> None:
    change_description(store, **changes)
    with pytest.raises(InputError, match=message):
        Store.open(store.path)


def test_description_that_is_no_json(store: Store) -> None:
    (store.path / "store.json").write_text('{"format": ')
    with pytest.raises(InputError, match=r"store\.json cannot be read"):
        Store.open(store.path)


def test_paths_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no store\.json"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is not a folder"):
        Store.open(tmp_path / "file")


def test_table_of_another_store_is_refused(store: Store, tmp_path: Path) -> None:
    change_description(store)
    other = write(tmp_path / "other", range(3))
    (store.path / "scans.parquet").write_bytes((other.path / "scans.parquet").read_bytes())
    with pytest.raises(InputError, match=r"it has 3 row\(s\), the store 4 scan"):
        _ = Store.open(store.path).scans
    (store.path / "scans.parquet").unlink()
    with pytest.raises(InputError, match=r"scans\.parquet cannot be read"):
        _ = Store.open(store.path).scans
    (store.path / "refused.csv").unlink()
    with pytest.raises(InputError, match=r"refused\.csv cannot be read"):
        _ = Store.open(store.path).refused


# Writing


def test_existing_target_is_refused_and_left_alone(store: Store) -> None:
    with pytest.raises(InputError, match="exists already"):
        StoreWriter(store.path, ATLAS, Preprocessing(), {})
    assert len(Store.open(store.path)) == 4


def huge() -> Recording:
    series = recording(0).series.copy()
    series[2, 3] = 1e5
    return recording(0, series=series)


@pytest.mark.parametrize(
    ("scan", "valid", "message"),
    [
        (recording(0), VALID, "'scan-0' is in the store already"),
        (recording(1, subject=""), VALID, "has no subject"),
        (replace(huge(), scan="huge"), VALID, "beyond 65,504"),
        (recording(1, series=np.full((6, 9), np.nan)), VALID, "NaN, infinite"),
        (recording(1), np.ones(5, dtype=bool), "one boolean a ROI"),
        (recording(1), np.ones(6), "one boolean a ROI"),
        (recording(1, phenotypes={"length": 3}), VALID, "named like columns .* length"),
        (
            recording(1, atlas=Atlas.from_networks({"Vis": 6}, name="other")),
            VALID,
            "has atlas .*other.* but the store has .*six",
        ),
    ],
)
def test_scans_that_do_not_fit_stop_everything(
    tmp_path: Path, scan: Recording, valid: Any, message: str
) -> None:
    def add_both() -> None:
        with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
            writer.add(recording(0), VALID)
            writer.add(scan, valid)

    with pytest.raises(InputError, match=message):
        add_both()
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_scans_is_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no scan was added"),
        StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer,
    ):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path / "deep" / "store", 1, ZeroDivisionError(), {})
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_block_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        writer.add(recording(0), VALID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_writes", [0, 1, 2, 5, 8])
def test_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_writes: int
) -> None:
    honest, written = store_writer._write, []

    def fill(stream: IO[bytes], content: bytes) -> None:
        if len(written) == n_writes:
            # As on a real full disk, half of it still fits.
            honest(stream, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(content)
        honest(stream, content)

    monkeypatch.setattr(store_writer, "_write", fill)
    with pytest.raises(InputError, match=r"store cannot be written: the disk is full"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_at_the_very_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_writer, "_synchronize", fill)
    with pytest.raises(InputError, match="the disk is full"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "store")


@pytest.mark.parametrize("part", ["series", "valid", "positions", "scans"])
def test_what_was_written_is_checked_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    file = getattr(Files.of(partial_folder(tmp_path / "store")), part)
    honest = store_writer._synchronize

    def lose(path: Path) -> None:
        # The disk has not kept the end of a file.
        if path == file:
            path.write_bytes(path.read_bytes()[:-7])
        honest(path)

    monkeypatch.setattr(store_writer, "_synchronize", lose)
    with pytest.raises(InputError, match=file.name):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_unnamed_subjects_are_counted(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        writer.add(recording(0), VALID)
        assert writer.finish(n_unnamed_subjects=1).n_unnamed_subjects == 1
    assert Store.open(tmp_path / "store").n_unnamed_subjects == 1
    assert write(tmp_path / "other").n_unnamed_subjects == 0


# Two writers


def test_second_writer_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as first:
        first.add(recording(0), VALID)
        second = StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {"other": 1})
        with pytest.raises(InputError, match=r"another prepare is writing here.*\.store\.lock"):
            second.__enter__()
        first.add(recording(1), VALID)
        assert len(first.finish()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    with pytest.raises(InputError, match="exists already"):
        second.__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(Store.open(tmp_path / "store")) == 2


def test_another_process_is_refused(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from semantoks.files import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    words = [sys.executable, "-c", code, str(tmp_path / ".store.lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another prepare is writing here"):
            write(tmp_path / "store")
        other.kill()
    # The file is still there, but nobody holds it.
    assert [path.name for path in tmp_path.iterdir()] == [".store.lock"]
    assert len(write(tmp_path / "store")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_file_is_the_lock_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as first:
        first.add(recording(0), VALID)
        with pytest.raises(InputError, match=r"If none is running.*remove .*\.store\.held"):
            write(tmp_path / "store")
        first.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


# Resuming


def test_interrupted_store_is_continued(tmp_path: Path) -> None:
    interrupt(tmp_path / "store", n=3)
    assert [path.name for path in tmp_path.iterdir()] == [".store.partial"]
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        assert writer.done == {"scan-0", "scan-1", "scan-2"}
        assert not writer.started_over
        writer.add(recording(3), VALID)
        store = writer.finish()
    whole = write(tmp_path / "whole")
    assert store.fingerprint == whole.fingerprint
    for name in ("series.npy", "index.npy", "valid.npy", "scans.parquet"):
        assert (store.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_unfinished_store_is_named_when_opened(tmp_path: Path) -> None:
    interrupt(tmp_path / "store")
    with pytest.raises(InputError, match=r"\.store\.partial beside it is unfinished"):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize("request_", [{"source": "elsewhere"}, {}])
def test_other_arguments_start_over(tmp_path: Path, request_: dict[str, Any]) -> None:
    interrupt(tmp_path / "store", request={"source": "here"})
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), request_) as writer:
        assert writer.started_over
        assert writer.done == set()


def test_other_preprocessing_starts_over(tmp_path: Path) -> None:
    interrupt(tmp_path / "store")
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(high_pass=None), {}) as writer:
        assert writer.started_over


@pytest.mark.parametrize("lost", [1, 700, 1500])
def test_samples_that_the_disk_lost_are_written_again(tmp_path: Path, lost: int) -> None:
    interrupt(tmp_path / "store", n=3)
    series = partial_folder(tmp_path / "store") / "series.npy"
    with series.open("r+b") as stream:
        stream.truncate(series.stat().st_size - lost)
    kept = 2 if lost <= 122 * 12 else 1
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        assert len(writer.done) == kept
        for number in range(kept, 4):
            writer.add(recording(number), VALID)
        store = writer.finish()
    assert store.fingerprint == write(tmp_path / "whole").fingerprint
    np.testing.assert_array_equal(
        store.series(3), recording(3).series.astype(np.float16).astype(np.float32)
    )


def test_samples_that_changed_are_written_again(tmp_path: Path) -> None:
    interrupt(tmp_path / "store", n=3)
    with (partial_folder(tmp_path / "store") / "series.npy").open("r+b") as stream:
        stream.seek(128 + 120 * 12 + 40)  # within the second scan
        stream.write(b"\0\0\0\0")
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        assert writer.done == {"scan-0"}


def test_journal_that_was_cut_short_is_continued(tmp_path: Path) -> None:
    interrupt(tmp_path / "store", n=3)
    journal = partial_folder(tmp_path / "store") / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        assert writer.done == {"scan-0", "scan-1"}
    write(tmp_path / "store")


def test_interruption_while_finishing_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_writer, "_synchronize", press)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "store")
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        assert len(writer.done) == 4
        store = writer.finish()
    assert store.fingerprint == write(tmp_path / "whole").fingerprint


def test_killed_process_is_continued(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import numpy as np
from semantoks.data.atlas import Atlas
from semantoks.data.signal import Preprocessing
from semantoks.data.recording import Recording
from semantoks.data.store_writer import StoreWriter
atlas = Atlas.from_networks({"Vis": 2, "SomMot": 3, "Default": 1}, name="six")
with StoreWriter(Path(sys.argv[1]), atlas, Preprocessing(), {}) as writer:
    for scan in "ab":
        writer.add(Recording(np.ones((6, 50)), 2.0, atlas, scan, scan), np.ones(6, dtype=bool))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], check=False)
    assert done.returncode == -signal.SIGKILL
    with StoreWriter(tmp_path / "store", ATLAS, Preprocessing(), {}) as writer:
        assert writer.done == {"a", "b"}
        writer.add(recording(0), VALID)
        assert writer.finish().lengths.tolist() == [50, 50, 120]
