"""Faults that real files and rough use bring: each is refused, named or survived."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

import semantoks as sk
from semantoks.cli import run
from semantoks.data.bids import agree_on_t_r, parse_bids_name, walk
from semantoks.data.images import check_stream
from semantoks.data.labels import match_labels
from semantoks.data.readers import find_scans
from semantoks.data.readers.arrays import read_text_table
from semantoks.data.tables import plain_id
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.events import seconds_cut
from semantoks.files import hold, new_folder, parse_yaml, replacing
from semantoks.training.monitoring import effective_rank

ATLAS = sk.Atlas.from_networks({"Vis": 3, "Default": 3})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six scans of noise."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(6):
        np.save(folder / f"p{i}.npy", np.random.default_rng(i).standard_normal((6, 150)))
    return folder


@pytest.fixture
def store(source: Path, tmp_path: Path) -> Path:
    sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0)
    return tmp_path / "store"


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(content)


# Integrity


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(
    "name",
    ["store.json", "series.npy", "index.npy", "valid.npy", "scans.parquet", "refused.csv"],
)
def test_one_flipped_bit_of_a_store_is_found(store: Path, name: str, share: float) -> None:
    file = store / name
    flip(file, int(share * (file.stat().st_size - 1)))
    with pytest.raises(InputError):
        sk.Store.open(store).verify()


def test_tables_are_checked_where_they_are_read(store: Path) -> None:
    for name in ("scans", "refused", "quality"):
        opened = sk.Store.open(store)
        file = store / ("refused.csv" if name == "refused" else f"{name}.parquet")
        keep = file.read_bytes()
        flip(file, len(keep) // 2)
        with pytest.raises(InputError, match="SHA-256"):
            getattr(opened, name)
        file.write_bytes(keep)


def test_old_stores_without_checksums_open(store: Path) -> None:
    description = json.loads((store / "store.json").read_text())
    del description["sha256"], description["checksum"]
    (store / "store.json").write_text(json.dumps(description))
    assert len(sk.Store.open(store).verify().scans) == 6


def test_subject_codes_must_agree_with_the_table(store: Path) -> None:
    description = json.loads((store / "store.json").read_text())
    del description["sha256"], description["checksum"]
    (store / "store.json").write_text(json.dumps(description))
    index = np.load(store / "index.npy")
    index[3, 2] = index[2, 2]
    np.save(store / "index.npy", index)
    with pytest.raises(InputError, match="do not agree"):
        _ = sk.Store.open(store).scans


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9])
def test_one_flipped_bit_of_features_is_found(tmp_path: Path, suffix: str, share: float) -> None:
    rows = {"scan": ["a", "b"], "subject": ["a", "b"], "mean_0000": [0.5, 0.25]}
    path = tmp_path / f"f{suffix}"
    provenance = {"features": "mean", "windows": 8}
    sk.write_embeddings(sk.Embeddings(pd.DataFrame(rows), provenance), path)
    assert sk.read_embeddings(path).provenance == provenance
    for file in (path, tmp_path / f"f{suffix}.json"):
        keep = file.read_bytes()
        flip(file, int(share * len(keep)))
        with pytest.raises(InputError):
            sk.read_embeddings(path)
        file.write_bytes(keep)


@pytest.mark.parametrize("place", [-1, -5, -20])
def test_compressed_files_are_read_to_their_checksum(tmp_path: Path, place: int) -> None:
    file = tmp_path / "x.nii.gz"
    with gzip.open(file, "wb") as stream:
        stream.write(np.random.default_rng(0).bytes(5000))
    check_stream(file)
    flip(file, place)
    with pytest.raises(InputError, match="cannot be read"):
        check_stream(file)


# Columns


@pytest.mark.parametrize("names", ["a b c", "a b c d e", "a"])
def test_header_must_name_every_column(tmp_path: Path, names: str) -> None:
    file = tmp_path / "x.1D"
    file.write_text("# " + names.replace(" ", "\t") + "\n1\t2\t3\t4\n5\t6\t7\t8\n")
    with pytest.raises(InputError, match=r"names \d ROIs"):
        read_text_table(file)


@pytest.mark.parametrize("prefix", ["7Networks_", "", "b'7Networks_"])
def test_labels_of_the_old_release_are_refused_by_name(prefix: str) -> None:
    atlas = sk.Atlas.load("schaefer400")
    old = [f"LH_Default_PCC_{i}" for i in range(1, 12)]
    names = [f"{prefix}{name}" for name in [*old, *atlas.labels[:50]]]
    if prefix.startswith("b'"):
        names = [f"{name}'" for name in names]
    with pytest.raises(InputError, match=r"v0\.14\.3"):
        match_labels(names, atlas)


@pytest.mark.parametrize("n", [6, 120])
def test_square_arrays_are_ambiguous(n: int) -> None:
    atlas = sk.Atlas.from_networks({"Vis": n // 2, "Default": n // 2})
    encoder = sk.SemantoksEncoder(atlas, dim=16, depth=1, head_dim=8)
    square = np.random.default_rng(0).standard_normal((n, n))
    for given in ([square], square[None], [square.T]):
        with pytest.raises(InputError, match="either axis may be time"):
            sk.SemantoksFeatures(encoder, t_r=2.0).fit_transform(given)


# Time


def test_series_remember_how_much_was_cut_off(source: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"scan_id": [f"p{i}" for i in range(6)], "n_non_steady": range(6)})
    table.to_csv(tmp_path / "t.csv", index=False)
    read = sk.read_scan_table(tmp_path / "t.csv")
    sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0, table=read)
    cut = seconds_cut(sk.Store.open(tmp_path / "store"))
    assert cut.tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("sidecar", "header", "given", "expected"),
    [(2.0, 1.0, 2.0, 2.0), (2.0, 2000.0, None, 2.0), (None, 2000.0, 2.0, 2.0), (2, None, None, 2)],
)
def test_repetition_times_that_contradict_can_be_settled(
    sidecar: float | None, header: float | None, given: float | None, expected: float
) -> None:
    assert agree_on_t_r(sidecar, header, Path("x.nii"), given) == expected


def test_advice_on_repetition_times_works() -> None:
    with pytest.raises(InputError, match=r"--t-r 2\b"):
        agree_on_t_r(2.0, 1.0, Path("x.nii"))
    with pytest.raises(InputError, match="milliseconds; give 2"):
        agree_on_t_r(None, 2000.0, Path("x.nii"))


# What lies in a folder


def test_walker_names_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "dangling.npy").symlink_to("nowhere.npy")
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    unread: list[str] = []
    found = [path.name for path in walk(tmp_path, unread)]
    assert sorted(found) == ["dangling.npy", "loop.npy"]  # refused by name where they are read
    told = "; ".join(unread)
    assert all(name in told for name in ("sub-1 is empty", "dangling", "loop", "pipe.npy"))


def test_linked_subject_folders_are_read(source: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "sub-1").symlink_to(source)
    assert len(find_scans(tmp_path / "all", ATLAS).scans) == 6


def test_names_that_are_not_utf8_are_refused_before_the_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(source / "p0.npy", os.fsencode(source) + b"/M\xfcller.npy")
    with pytest.raises(InputError, match=r"M\\xfcller\.npy is not UTF-8"):
        sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0)
    report = sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0, policy="keep-going")
    assert [(x.scan, x.category) for x in report.refused] == [("M\\xfcller", "unreadable")]
    assert report.n_written == 6


@pytest.mark.parametrize("error", [IndexError("x"), KeyError(7), RuntimeError("y"), MemoryError()])
def test_whatever_one_scan_raises_is_its_refusal(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    honest = np.load

    def load(path: Path, **options: object) -> object:
        if path.name == "p3.npy":
            raise error
        return honest(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "load", load)
    report = sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0, policy="keep-going")
    assert [x.scan for x in report.refused] == ["p3"]
    assert report.n_written == 5


def test_entities_behind_desc_and_padded_runs() -> None:
    first = parse_bids_name(Path("sub-1_task-rest_run-1_desc-preproc_bold.nii.gz"))
    again = parse_bids_name(Path("sub-1_task-rest_run-01_desc-confounds_timeseries.tsv"))
    other = parse_bids_name(Path("sub-1_task-rest_run-2_desc-confounds_timeseries.tsv"))
    echo = parse_bids_name(Path("sub-1_task-rest_run-1_echo-1_bold.dtseries.nii"))
    assert again.is_of(first)
    assert not other.is_of(first)
    assert not again.is_of(echo)
    assert again.is_of(echo, without="echo")


# Who is who


@pytest.mark.parametrize(
    ("one", "other"), [("Zo\u00eb", "Zoe\u0308"), ("bob", "bob\u200b"), ("a b", " a\u00a0 b\ufeff")]
)
def test_identifiers_that_look_alike_are_one_subject(one: str, other: str) -> None:
    assert plain_id(one) == plain_id(other)


def test_subjects_that_differ_in_case_are_named(source: Path, tmp_path: Path) -> None:
    ids = ["Anna", "anna", "bob", "bob\u200b", "c", "d"]
    table = pd.DataFrame({"scan_id": [f"p{i}" for i in range(6)], "participant_id": ids})
    table.to_csv(tmp_path / "t.csv", index=False)
    read = sk.read_scan_table(tmp_path / "t.csv")
    report = sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0, table=read)
    assert sk.Store.open(report.path).n_subjects == 5
    assert any("Anna and anna" in notice for notice in report.notices)


# Numbers without sense


@pytest.mark.parametrize(
    "change",
    [
        {"optimization.learning_rate": float("inf")},
        {"optimization.betas": [float("nan"), 0.9]},
        {"optimization.betas": [0.9, 1.0]},
        {"model.dim": 64_000_000},
        {"views.noise": float("nan")},
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        sk.configure(sk.tiny(), change)


def test_aliases_may_not_unfold_without_end() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for last, name in zip("abcdef", "bcdefg", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n"
    for text in (bomb, "a: &a [*a]\n"):
        with pytest.raises(ValueError, match="aliases"):
            parse_yaml(text)
    assert parse_yaml("a: &a [1]\nb: *a\n") == {"a": [1], "b": [1]}


def test_weights_that_are_not_finite_end_a_run_in_a_sentence(store: Path, tmp_path: Path) -> None:
    recipe = sk.configure(
        sk.tiny(),
        {
            "optimization.learning_rate": 1e10,
            "optimization.epochs": 4,
            "optimization.warmup_epochs": 1,
            "optimization.batch_size": 4,
        },
    )
    with pytest.raises(InputError, match=r"(loss|gradient|weights) .*the run in .* stops"):
        sk.pretrain(sk.Store.open(store), tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "model").exists()
    assert np.isnan(effective_rank(torch.full((3, 2), torch.nan)))


@pytest.mark.parametrize("change", [{"depth": 10**6}, {"dim": 32}, {"mlp_ratio": 10**5}])
def test_model_configuration_must_fit_the_weights(tmp_path: Path, change: dict[str, int]) -> None:
    from semantoks.model.checkpoint import _with_checksum

    sk.save_encoder(sk.SemantoksEncoder(ATLAS, dim=16, depth=1, head_dim=8), tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    del config["checksum"]
    config["arguments"] |= change
    file.write_text(_with_checksum(config))
    with pytest.raises(InputError, match=r"config\.json"):
        sk.load_encoder(tmp_path / "m")


@pytest.mark.parametrize("change", [0.02, -0.5, 2.0])
def test_models_test_themselves_when_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    sk.save_encoder(sk.SemantoksEncoder(ATLAS, dim=16, depth=1, head_dim=8), tmp_path / "m")
    sk.load_encoder(tmp_path / "m")
    honest = torch.nn.functional.layer_norm

    def shifted(*words: object, **options: object) -> torch.Tensor:
        return honest(*words, **options) + change  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "layer_norm", shifted)
    with pytest.raises(InputError, match="self-test"):
        sk.load_encoder(tmp_path / "m")


def test_volumes_that_do_not_overlap_are_told(tmp_path: Path) -> None:
    from semantoks.data.images import LabelGrid, average_rois

    image = nib.Nifti1Image(np.ones((4, 4, 4, 9), np.float32), np.eye(4))
    grid = LabelGrid(np.zeros((4, 4, 4), np.int32), np.array([8.0, 8.0]))
    with pytest.raises(InputError, match="hardly overlap"):
        average_rois(image, grid, np.ones((4, 4, 4), bool), 0.5)


# Two at once, and again


def test_one_process_a_run_folder(store: Path, tmp_path: Path) -> None:
    with (
        hold(tmp_path / ".run.lock", "pretrain"),
        pytest.raises(InputError, match="another pretrain is writing here"),
    ):
        sk.pretrain(sk.Store.open(store), tmp_path / "run", sk.tiny())


def test_resume_begins_where_nothing_was_written(store: Path, tmp_path: Path) -> None:
    settings = {"optimization.epochs": 2, "optimization.warmup_epochs": 1}
    recipe = sk.configure(sk.tiny(), settings | {"optimization.batch_size": 4})
    ended = sk.pretrain(sk.Store.open(store), tmp_path / "run", recipe, resume=True)
    assert ended.status == "finished"


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with replacing(tmp_path / "a.txt") as beside:
            beside.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.glob(".*.partial"))) == 1
    with replacing(tmp_path / "a.txt") as beside:
        beside.write_text("whole")
        with replacing(tmp_path / "a.txt") as other:  # what is being written stays
            other.write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with new_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b"]


def test_page_is_drawn_by_the_same_call_after_a_kill(source: Path, tmp_path: Path) -> None:
    atlas = tmp_path / "atlas.tsv"
    rows = [
        f"{label}\t{network}" for label, network in zip(ATLAS.labels, ATLAS.networks, strict=True)
    ]
    atlas.write_text("label\tnetwork\n" + "\n".join(rows) + "\n")
    words = ["prepare", str(source), "--atlas", str(atlas), "--t-r", "2", "--quiet"]
    words += ["--workers", "1", "--out", str(tmp_path / "store")]
    assert run(words) == 0
    page = tmp_path / "store" / "quality.html"
    assert run(words) == 1  # it is all there
    page.unlink()
    assert run(words) == 0
    assert page.is_file()


# Other ways in


def test_tables_with_labels_are_matched_by_label() -> None:
    encoder = sk.SemantoksEncoder(ATLAS, dim=16, depth=1, head_dim=8)
    series = np.random.default_rng(0).standard_normal((6, 150))
    table = pd.DataFrame(series.T, columns=ATLAS.labels)
    model = sk.SemantoksFeatures(encoder, t_r=2.0, windows=2)
    expected = model.fit_transform([series])
    np.testing.assert_allclose(model.transform([table[table.columns[::-1]]]), expected)
    for wrong in (table.rename(columns={ATLAS.labels[0]: "nowhere"}), table.astype(str) + "x"):
        with pytest.raises(InputError):
            model.transform([wrong])


def test_one_recording_under_two_names_can_be_left_out(source: Path, tmp_path: Path) -> None:
    for i in range(6, 24):
        series = np.random.default_rng(i).standard_normal((6, 150))
        np.save(source / f"p{i}.npy", series)
    doubled = np.load(source / "p3.npy")
    np.save(source / "p3.npy", np.c_[doubled, doubled[:, :1]])  # not the same file, one recording
    np.save(source / "twin.npy", doubled)
    names = sorted(path.stem for path in source.glob("*.npy"))
    table = pd.DataFrame({"scan_id": names, "sex": ["f", "m"] * 12 + ["f"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    read = sk.read_scan_table(tmp_path / "t.csv")
    sk.prepare(source, tmp_path / "store", atlas=ATLAS, t_r=2.0, table=read)
    opened = sk.Store.open(tmp_path / "store")
    encoder = sk.SemantoksEncoder(ATLAS, dim=16, depth=1, head_dim=8)
    encoder.preprocessing = opened.preprocessing.to_dict()
    features = {"ours": sk.embed(opened, encoder)}
    with pytest.raises(InputError, match="--same-recordings leave-out"):
        sk.compare(opened, features, "sex", n_folds=2, repeats=1)
    done = sk.compare(
        opened, features, "sex", n_folds=2, repeats=1, same_recordings="leave-out", n_draws=20
    )
    assert done.settings["leave_out"] == ["p3", "twin"]


def test_one_array_a_file_in_folders_of_subjects(tmp_path: Path) -> None:
    kept = {}
    for i, person in enumerate(("NDAR_INVAA1", "NDAR_INVBB2")):
        folder = tmp_path / "in" / person
        folder.mkdir(parents=True)
        kept[person] = np.random.default_rng(i).standard_normal((6, 150))
        with h5py.File(folder / "task-rest_run-01_parcellated.h5", "w") as file:
            file["anything"] = kept[person]
    found = find_scans(tmp_path / "in", ATLAS).scans
    assert [scan.subject for scan in found] == ["sub-NDARINVAA1", "sub-NDARINVBB2"]
    assert found[1].scan == "NDAR_INVBB2_task-rest_run-01_parcellated"
    np.testing.assert_array_equal(found[1].load(), kept["NDAR_INVBB2"])
    file = tmp_path / "in" / "NDAR_INVBB2" / "task-rest_run-01_parcellated.h5"
    with h5py.File(file, "a") as opened:
        opened["more"] = np.zeros((6, 3))
    with pytest.raises(InputError, match="holds 2 arrays"):
        found[1].load()
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read as an HDF5 file"):
        found[1].load()
