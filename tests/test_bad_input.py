"""What users are told when something is wrong: each case a command and its message."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from semantoks.cli.application import run


@dataclass(frozen=True)
class World:
    """A small cohort, its store, a run on it and features of it, made once by the command line."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name


SETTINGS = "optimization.epochs=1 optimization.warmup_epochs=0 model.dim=16 model.head_dim=8"
TINY = ["--recipe", "tiny", *(word for s in SETTINGS.split() for word in ("--set", s))]


def succeed(*words: object) -> None:
    assert run([str(word) for word in words] + ["--quiet"]) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    (root / "atlas.tsv").write_text(
        "label\tnetwork\n" + "".join(f"r{i}\t{'Vis' if i < 3 else 'Default'}\n" for i in range(6))
    )
    (root / "other.tsv").write_text(
        "label\tnetwork\n" + "".join(f"q{i}\t{'Vis' if i < 3 else 'Default'}\n" for i in range(6))
    )
    rng = np.random.default_rng(0)
    (root / "scans").mkdir()
    people = []
    for i in range(16):
        np.save(root / "scans" / f"p{i:02d}.npy", rng.standard_normal((6, 120)))
        person = {"participant_id": f"p{i:02d}", "t_r": 2.0, "site": "ABC"[i % 3]}
        targets = {"sex": "fm"[i // 8], "same": 1, "none": "", "rare": int(i == 0)}
        # All who are ill were scanned at site A: with A left out, training knows nobody ill.
        people.append(person | targets | {"ill": int(i % 6 == 0), "hospital": "H"})
    pd.DataFrame(people).to_csv(root / "people.csv", index=False)
    prepare = ["prepare", root / "scans", "--table", root / "people.csv", "--min-samples", 100]
    succeed(*prepare, "--atlas", root / "atlas.tsv", "--out", root / "store")
    succeed(*prepare, "--atlas", root / "other.tsv", "--out", root / "other-store")
    succeed("pretrain", "--data", root / "store", "--out", root / "run", *TINY)
    succeed("embed", "--data", root / "store", "--model", root / "run", "--out", root / "f.parquet")
    return World(root)


def rejected(
    capsys: pytest.CaptureFixture[str], words: list[object], code: int, *expected: str
) -> None:
    """Run a command that must fail with one paragraph that holds the expected words."""
    capsys.readouterr()
    assert run([str(word) for word in words]) == code
    message = capsys.readouterr().err.strip()
    paragraph = message[message.rindex("error:") :]
    assert "\n" not in paragraph
    assert "Traceback" not in message
    for word in expected:
        assert word in paragraph


# Preparing -------------------------------------------------------------------------------------


def one_scan(folder: Path, series: np.ndarray, name: str = "p00.npy") -> Path:
    folder.mkdir()
    np.save(folder / name, series)
    return folder


def noise(rois: int = 6, samples: int = 120, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rois, samples))


Arrange = Callable[[World, Path], list[object]]


def wrong_roi_count(world: World, tmp: Path) -> list[object]:
    return [world / "scans", "--atlas", "schaefer400", "--t-r", 2]


def unknown_atlas(world: World, tmp: Path) -> list[object]:
    return [world / "scans", "--atlas", "schaefer-400", "--t-r", 2]


def missing_t_r(world: World, tmp: Path) -> list[object]:
    return [world / "scans", "--atlas", world / "atlas.tsv"]


def contradicting_t_r(world: World, tmp: Path) -> list[object]:
    table = ["--table", world / "people.csv"]
    return [world / "scans", "--atlas", world / "atlas.tsv", *table, "--t-r", 3]


def text_in_a_1d(world: World, tmp: Path) -> list[object]:
    folder = tmp / "ABIDE_pcp" / "cpac" / "nofilt_noglobal"
    folder.mkdir(parents=True)
    rows = ["\t".join(f"#{i + 1}" for i in range(200))]
    rows += ["\t".join("0.5" for _ in range(200)) for _ in range(5)]
    rows[3] = rows[3].replace("0.5", "oops", 1)
    (folder / "Pitt_0050003_rois_cc200.1D").write_text("\n".join(rows))
    pd.DataFrame({"SUB_ID": [50003], "FILE_ID": ["Pitt_0050003"], "SITE_ID": ["PITT"]}).to_csv(
        tmp / "ABIDE_pcp" / "Phenotypic_V1_0b_preprocessed1.csv"
    )
    return [tmp / "ABIDE_pcp", "--atlas", "cc200", "--t-r", 2]


def truncated_hdf5(world: World, tmp: Path) -> list[object]:
    path = tmp / "cohort.h5"
    with h5py.File(path, "w") as file:
        file["timeseries/atlas"] = np.zeros((3, 6, 120))
        file["long_subject_id"] = np.array([b"a", b"b", b"c"])
    path.write_bytes(path.read_bytes()[:3000])
    return [path, "--atlas", world / "atlas.tsv", "--t-r", 2]


def duplicate_scan_ids(world: World, tmp: Path) -> list[object]:
    folder = one_scan(tmp / "scans", noise())
    np.savetxt(folder / "p00.csv", noise().T, delimiter=",")
    return [folder, "--atlas", world / "atlas.tsv", "--t-r", 2]


def subject_missing_from_table(world: World, tmp: Path) -> list[object]:
    folder = one_scan(tmp / "scans", noise(), "p77.npy")
    return [folder, "--atlas", world / "atlas.tsv", "--table", world / "people.csv"]


def unknown_id_column(world: World, tmp: Path) -> list[object]:
    table = ["--table", world / "people.csv", "--id-column", "participant"]
    return [world / "scans", "--atlas", world / "atlas.tsv", *table]


def t_r_in_milliseconds(world: World, tmp: Path) -> list[object]:
    table = pd.read_csv(world / "people.csv").assign(t_r=2000)
    table.to_csv(tmp / "people.csv", index=False)
    return [world / "scans", "--atlas", world / "atlas.tsv", "--table", tmp / "people.csv"]


def network_without_a_name(world: World, tmp: Path) -> list[object]:
    table = (world / "atlas.tsv").read_text().replace("r4\tDefault", "r4\t")
    (tmp / "atlas.tsv").write_text(table)
    return [world / "scans", "--atlas", tmp / "atlas.tsv", "--t-r", 2]


def atlas_without_networks(world: World, tmp: Path) -> list[object]:
    (tmp / "atlas.tsv").write_text("label\nr0\nr1\n")
    return [world / "scans", "--atlas", tmp / "atlas.tsv", "--t-r", 2]


def repeated_label(world: World, tmp: Path) -> list[object]:
    (tmp / "atlas.tsv").write_text((world / "atlas.tsv").read_text().replace("r4", "r3"))
    return [world / "scans", "--atlas", tmp / "atlas.tsv", "--t-r", 2]


def every_scan_short(world: World, tmp: Path) -> list[object]:
    folder = one_scan(tmp / "scans", noise(samples=40))
    return [folder, "--atlas", world / "atlas.tsv", "--t-r", 2]


def no_scans(world: World, tmp: Path) -> list[object]:
    (tmp / "empty").mkdir()
    return [tmp / "empty", "--atlas", world / "atlas.tsv", "--t-r", 2]


def no_source(world: World, tmp: Path) -> list[object]:
    return [tmp / "nowhere", "--atlas", world / "atlas.tsv", "--t-r", 2]


@pytest.mark.parametrize(
    ("arrange", "code", "expected"),
    [
        (wrong_roi_count, 1, ["p00.npy", "400"]),
        (unknown_atlas, 1, ["no atlas 'schaefer-400'", "Did you mean 'schaefer400"]),
        (missing_t_r, 1, ["repetition time", "p00", "--t-r"]),
        (contradicting_t_r, 1, ["p00", "3"]),
        (text_in_a_1d, 1, ["Pitt_0050003_rois_cc200.1D", "line 4", "oops"]),
        (truncated_hdf5, 1, ["cohort.h5", "truncated"]),
        (duplicate_scan_ids, 1, ["p00"]),
        (subject_missing_from_table, 1, ["p77", "people.csv"]),
        (unknown_id_column, 1, ["participant_id"]),
        (t_r_in_milliseconds, 1, ["2000", "millisecond"]),
        (network_without_a_name, 1, ["r4", "network"]),
        (atlas_without_networks, 1, ["lacks the column(s) network"]),
        (repeated_label, 1, ["more than once: r3"]),
        (every_scan_short, 1, ["p00", "short"]),
        (no_scans, 1, ["empty"]),
        (no_source, 1, ["nowhere"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_preparing(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arrange: Arrange,
    code: int,
    expected: list[str],
) -> None:
    before = sorted(tmp_path.rglob("*"))
    words = ["prepare", *arrange(world, tmp_path), "--out", tmp_path / "out" / "store"]
    made = sorted(tmp_path.rglob("*"))
    rejected(capsys, words, code, *expected)
    left = [path for path in tmp_path.rglob("*") if path not in made and path.name != "out"]
    assert left == []
    assert len(before) <= len(made)


@pytest.mark.parametrize(
    ("bad", "category"),
    [
        (noise(samples=60, seed=9), "short"),
        (np.ones((6, 120)), "flat"),
        (np.where(np.arange(120) == 50, np.nan, noise(seed=9)), "nan"),
        (noise(seed=5), "identical"),
        (noise(seed=9) * (np.arange(6) > 2)[:, None], "coverage"),
    ],
    ids=["short", "flat", "nan", "identical", "coverage"],
)
def test_bad_scans_are_left_out_by_name_or_stop_a_strict_run(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: np.ndarray,
    category: str,
) -> None:
    folder = one_scan(tmp_path / "scans", noise(seed=5), "a-good.npy")
    np.save(folder / "b-bad.npy", bad)
    words = ["prepare", folder, "--atlas", world / "atlas.tsv", "--t-r", 2]
    rejected(capsys, [*words, "--out", tmp_path / "strict", "--strict"], 1, "b-bad")
    assert not (tmp_path / "strict").exists()
    assert run([str(w) for w in [*words, "--out", tmp_path / "store", "--json"]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n_found"], result["n_written"]) == (2, 1)
    assert [(r["scan"], r["category"]) for r in result["refused"]] == [("b-bad", category)]
    refused = pd.read_csv(tmp_path / "store" / "refused.csv")
    assert refused["scan"].tolist() == ["b-bad"]


def test_keep_going_leaves_out_what_cannot_be_read(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = one_scan(tmp_path / "scans", noise(), "good.npy")
    (folder / "torn.npy").write_bytes((folder / "good.npy").read_bytes()[:200])
    words = ["prepare", folder, "--atlas", world / "atlas.tsv", "--t-r", 2]
    rejected(capsys, [*words, "--out", tmp_path / "store"], 1, "torn.npy")
    succeed(*words, "--out", tmp_path / "store", "--keep-going")


def test_disk_full_while_preparing(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("semantoks.data.store_writer._write", full)
    words = ["prepare", world / "scans", "--atlas", world / "atlas.tsv", "--t-r", 2]
    rejected(capsys, [*words, "--out", tmp_path / "store"], 1, "disk is full", "store")
    assert list(tmp_path.iterdir()) == []


def test_existing_store_is_kept(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = (world / "store" / "store.json").read_bytes()
    words = ["prepare", world / "scans", "--atlas", world / "atlas.tsv", "--t-r", 2]
    rejected(capsys, [*words, "--out", world / "store"], 1, "exists")
    assert (world / "store" / "store.json").read_bytes() == before


# Pretraining and embedding ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("--set optimization.epoch=3", 2, ["Did you mean 'optimization.epochs'"]),
        ("--set model.dim=100", 2, ["multiple of head_dim"]),
        ("--recipe papper", 2, ["Did you mean 'paper'"]),
        ("--set model.window=200", 1, ["shorter than a window of 200"]),
        ("--set device=cuda:7", 2, ["cuda:7"]),
        ("--epochs 3", 2, ["--epochs"]),
    ],
)
def test_pretraining(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    expected: list[str],
) -> None:
    command = ["pretrain", "--data", world / "store", "--out", tmp_path / "run", *words.split()]
    rejected(capsys, command, code, *expected)
    assert not (tmp_path / "run").exists()


def test_existing_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", "--data", world / "store", "--out", world / "run", *TINY]
    rejected(capsys, command, 1, "exists", "--resume")


def test_damaged_store(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "store", tmp_path / "store")
    path = tmp_path / "store" / "series.npy"
    path.write_bytes(path.read_bytes()[:-100])
    command = ["pretrain", "--data", tmp_path / "store", "--out", tmp_path / "run", *TINY]
    rejected(capsys, command, 1, "series.npy")
    command = ["pretrain", "--data", tmp_path, "--out", tmp_path / "run", *TINY]
    rejected(capsys, command, 1, "store.json")


@pytest.mark.parametrize(
    ("data", "model", "out", "code", "expected"),
    [
        ("other-store", "run", "f.parquet", 1, ["atlas", "fingerprint"]),
        ("store", "scans", "f.parquet", 1, ["no model.safetensors"]),
        ("store", "run", "f.xlsx", 1, [".parquet"]),
        ("nowhere", "run", "f.parquet", 1, ["nowhere"]),
    ],
)
def test_embedding(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: str,
    model: str,
    out: str,
    code: int,
    expected: list[str],
) -> None:
    files = ["--data", world / data, "--model", world / model, "--out", tmp_path / out]
    rejected(capsys, ["embed", *files], code, *expected)
    assert list(tmp_path.iterdir()) == []


def test_store_prepared_otherwise_than_the_model_expects(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", world / "scans", "--atlas", world / "atlas.tsv", "--t-r", 2]
    succeed(*words, "--target-t-r", 1.5, "--out", tmp_path / "store")
    files = ["--data", tmp_path / "store", "--model", world / "run", "--out", tmp_path / "f.csv"]
    rejected(capsys, ["embed", *files], 1, "target_t_r is 1.5, expected 2.0")


# Probing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("--target illness", 1, ["illness", "ill"]),
        ("--target same", 1, ["same", "value"]),
        ("--target none", 1, ["none"]),
        ("--target rare", 1, ["fewer subjects than the 5 folds", "'1' (1)"]),
        ("--target ill --splits site", 1, ["one class"]),
        ("--target site --splits site", 1, ["site"]),
        ("--target sex --splits site --site-column hospital", 1, ["hospital"]),
        ("--target sex --splits site --site-column scanner", 1, ["scanner"]),
        ("--target sex --folds 1", 1, ["fold"]),
        ("--target sex --kind regression", 1, ["sex"]),
        ("--target sex --splits random", 2, ["--splits"]),
    ],
)
def test_probing(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    expected: list[str],
) -> None:
    files = ["--data", world / "store", "--embeddings", world / "f.parquet"]
    command = ["probe", *files, "--out", tmp_path / "probe", *words.split()]
    rejected(capsys, command, code, *expected)
    assert list(tmp_path.iterdir()) == []


def test_embeddings_of_other_scans(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = pd.read_parquet(world / "f.parquet")
    for name, frame, expected in (
        ("lacking", features.iloc[1:], "p00"),
        ("unknown", pd.concat([features, features.iloc[:1].assign(scan="p99")]), "p99"),
        ("twice", pd.concat([features, features.iloc[:1]]), "p00"),
        ("infinite", features.assign(cls_0000=np.inf), "p00"),
    ):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        files = ["--data", world / "store", "--embeddings", tmp_path / f"{name}.csv"]
        command = ["probe", *files, "--target", "sex", "--out", tmp_path / "probe"]
        rejected(capsys, command, 1, expected)


def test_embeddings_of_another_store(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--data", world / "other-store", "--embeddings", world / "f.parquet"]
    command = ["probe", *files, "--target", "sex", "--out", tmp_path / "probe"]
    rejected(capsys, command, 1, "another store")


# The command line itself -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("prepar x", ["prepar"]),
        ("prepare", ["source"]),
        ("info", ["path"]),
        ("prepare x --out y --strict --keep-going", ["exclude each other"]),
        ("prepare x --out y --t-r two", ["two"]),
        ("prepare x --out y --id-column a", ["--table"]),
    ],
)
def test_wrong_command_lines(
    capsys: pytest.CaptureFixture[str], words: str, expected: list[str]
) -> None:
    rejected(capsys, [*words.split()], 2, *expected)


def test_debug_shows_where_and_keeps_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(tmp_path), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert run(["pretrain", "--data", "x", "--out", "y", "--recipe", "z", "--debug"]) == 2


def test_info_of_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rejected(capsys, ["info", tmp_path / "nowhere"], 1, "does not exist")
    (tmp_path / "run.json").write_text("{")
    rejected(capsys, ["info", tmp_path], 1, "run.json", "damaged")


def test_report_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rejected(capsys, ["report", tmp_path], 1, "run.json")
