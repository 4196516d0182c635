"""From recordings to features in one command: the same as in two, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import read_embeddings
from semantoks.model.checkpoint import load_encoder, save_encoder
from semantoks.model.encoder import SemantoksEncoder

NETWORKS = ("Vis", "Vis", "Vis", "Default", "Default", "Default", "Limbic", "Limbic", "Limbic")
LABELS = [f"{network}_{i}" for i, network in enumerate(NETWORKS)]
WINDOW = 20


def write_atlas(path: Path, rois: slice = slice(None)) -> Path:
    rows = zip(LABELS[rois], NETWORKS[rois], range(9)[rois], strict=True)
    lines = [f"{label}\t{network}\t{10 * i}\t0\t0" for label, network, i in rows]
    path.write_text("\n".join(["label\tnetwork\tx\ty\tz", *lines]) + "\n")
    return path


def write_scan(folder: Path, name: str, columns: list[str], n_volumes: int = 130) -> Path:
    seed = int("".join(filter(str.isdigit, name)) or 0)
    values = 100 + np.random.default_rng(seed).standard_normal((n_volumes, 9))
    frame = pd.DataFrame(values, columns=LABELS)[columns]
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return folder / f"{name}.tsv"


def save_model(folder: Path, atlas: Path, preprocessing: Preprocessing) -> Path:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(
        Atlas.load(atlas), dim=16, depth=2, head_dim=8, window=WINDOW, patch=5
    )
    return save_encoder(encoder, folder, preprocessing=preprocessing.to_dict())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects of whom one lacks a network and one is too short, a model, and atlases."""
    home = tmp_path_factory.mktemp("home")
    write_atlas(home / "whole.tsv")
    write_atlas(home / "part.tsv", slice(6))
    save_model(home / "model", home / "whole.tsv", Preprocessing())
    write_scan(home / "scans", "sub-01_ses-1_task-rest", LABELS)
    write_scan(home / "scans", "sub-02_ses-1_task-rest", LABELS[::-1])
    write_scan(home / "scans", "sub-03_ses-1_task-rest", LABELS, 12)
    return home


def succeed(*words: object) -> None:
    assert run([str(word) for word in [*words, "--quiet", "--workers", 1]]) == 0


def features(path: Path) -> np.ndarray:
    return read_embeddings(path).features


def test_one_command_gives_what_two_give(home: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "features", tmp_path / "store"
    how = ["--t-r", 2, "--min-samples", 100]
    atlas = ["--atlas", home / "whole.tsv"]
    succeed("prepare", home / "scans", *atlas, *how, "--out", store, "--no-quality-page")
    succeed("embed", "--data", store, "--model", home / "model", "--out", tmp_path / "two.parquet")
    succeed("embed", home / "scans", "--model", home / "model", *how, "--out", out)
    one, two = read_embeddings(out / "features.parquet"), read_embeddings(tmp_path / "two.parquet")
    pd.testing.assert_frame_equal(one.frame, two.frame, check_exact=True)
    assert one.provenance["preprocessing"] == two.provenance["preprocessing"]
    assert one.provenance["store"]["fingerprint"] == Store.open(store).fingerprint
    assert one.frame["scan"].tolist() == ["sub-01_ses-1_task-rest", "sub-02_ses-1_task-rest"]
    # The store has passed; the dataset says where the features come from, and who was refused.
    assert {path.name for path in tmp_path.iterdir()} == {
        *("features", "store", "two.parquet", "two.parquet.json")
    }
    sidecar = out / "sub-02/ses-1/func/sub-02_ses-1_task-rest_desc-semantoks_features.json"
    source = str(home / "scans" / "sub-02_ses-1_task-rest.tsv")
    assert json.loads(sidecar.read_text())["Sources"] == [source]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["SourceDatasets"] == [{"URL": (home / "scans").as_uri()}]
    refused = pd.read_csv(out / "refused.csv")
    assert refused[["scan", "category"]].to_numpy().tolist() == [
        ["sub-03_ses-1_task-rest", "short"]
    ]
    assert len(pd.read_parquet(out / "quality.parquet")) == 3
    assert "sub-03_ses-1_task-rest" in (out / "quality.html").read_text(encoding="utf-8")


def test_table_of_features_and_dataset_of_a_store(home: Path, tmp_path: Path) -> None:
    words = ["embed", home / "scans", "--model", home / "model", "--t-r", 2]
    succeed(*words, "--out", tmp_path / "a.csv", "--keep-store")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "a.csv.json", "a.store"}
    succeed("embed", "--data", tmp_path / "a.store", "--model", home / "model",
            "--out", tmp_path / "b")  # fmt: skip
    np.testing.assert_allclose(
        features(tmp_path / "b/features.parquet"), features(tmp_path / "a.csv")
    )
    assert (tmp_path / "b/coverage.csv").is_file()
    provenance = read_embeddings(tmp_path / "a.csv").provenance
    assert provenance["store"]["path"] == str(tmp_path / "a.store")
    # A store that was kept is used again by the same call only.
    (tmp_path / "a.csv").unlink()
    succeed(*words, "--out", tmp_path / "a.csv", "--keep-store")
    (tmp_path / "a.csv").unlink()
    assert run([*map(str, [*words, "--out", tmp_path / "a.csv", "--keep-store", "--no-such"])]) == 2
    other = [*words, "--out", tmp_path / "a.csv", "--keep-store", "--min-coverage", "0.5"]
    assert run([*map(str, other)]) == 1
    assert (tmp_path / "a.store").is_dir()


def test_missing_networks_are_masked_from_file_to_features(home: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "scans", "sub-01", LABELS)
    write_scan(tmp_path / "scans", "sub-04", LABELS[:6])
    words = ["embed", tmp_path / "scans", "--model", home / "model", "--t-r", 2, "--windows", 1]
    succeed(*words, "--min-coverage", 0.5, "--keep-store", "--out", tmp_path / "whole")
    store = Store.open(tmp_path / "whole.store")
    names = list(store.atlas.network_names)
    assert store.network_valid[0].all()
    assert [names[i] for i in np.flatnonzero(~store.network_valid[1])] == ["Limbic"]
    # Explicitly: the first window, with every token of the network masked.
    encoder = load_encoder(home / "model")
    series = torch.from_numpy(store.series(1)[None, :, :WINDOW])
    mask = torch.zeros((1, len(names), WINDOW // encoder.patch), dtype=torch.bool)
    mask[:, names.index("Limbic")] = True
    with torch.inference_mode():
        encoding = encoder(series, mask)
        unmasked = encoder(series).tokens.mean((1, 2)).numpy()[0]
    found = features(tmp_path / "whole/features.parquet")[1]
    masked = torch.cat([encoding.tokens.mean((1, 2)), encoding.summary], dim=1).numpy()[0]
    np.testing.assert_allclose(found, masked, atol=1e-6)
    assert np.abs(unmasked - masked[:16]).max() > 1e-3
    # The same by the smaller atlas that the file has.
    (tmp_path / "scans/sub-01.tsv").unlink()
    part = ["--atlas", home / "part.tsv", "--smaller-atlas", "mask"]
    succeed(*words, *part, "--out", tmp_path / "part.parquet")
    np.testing.assert_allclose(features(tmp_path / "part.parquet")[0], found, atol=1e-6)
    coverage = pd.read_csv(tmp_path / "whole/coverage.csv", dtype={"masked": str})
    assert coverage["Limbic"].tolist() == [1.0, 0.0]
    assert coverage["masked"].fillna("").tolist() == ["", "Limbic"]


def test_networks_with_too_few_rois_are_masked_as_if_missing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(tmp_path / "few", "sub-04", LABELS[:7])
    write_scan(tmp_path / "none", "sub-04", LABELS[:6])
    found = {}
    for name, words in {
        "few": ["--min-network-coverage", 0.5],
        "none": [],
        "seen": ["--min-network-coverage", 0.3],
    }.items():
        source = tmp_path / ("few" if name == "seen" else name)
        out = tmp_path / f"{name}.parquet"
        common = ["--model", home / "model", "--t-r", 2, "--min-coverage", 0.5, "--keep-store"]
        with monkeypatch.context() as patch:
            patch.setattr("semantoks.cli.embed.draw_quality_page", lambda *_: None)
            succeed("embed", source, *common, *words, "--out", out)
        found[name] = features(out)
    np.testing.assert_array_equal(found["few"], found["none"])
    assert np.abs(found["seen"] - found["none"]).max() > 1e-4
    coverage = pd.read_csv(tmp_path / "few.store/coverage.csv")
    assert coverage["masked"].tolist() == ["Limbic"]
    assert coverage["Limbic"].tolist() == [0.3333]
    store = Store.open(tmp_path / "few.store")
    assert not store.valid[0, 6:].any()
    assert not store.series(0)[6:].any()
    assert store.preprocessing.min_network_coverage == 0.5
    assert (
        Store.open(tmp_path / "none.store")
        .preprocessing.to_dict()
        .keys()
        .isdisjoint({"min_network_coverage"})
    )


def test_interrupted_while_encoding_it_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features.parquet"
    words = ["embed", home / "scans", "--model", home / "model", "--t-r", 2, "--out", out]

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    def stop(place: str, *more: object) -> None:
        """Run with an interruption at a place."""
        command = [str(word) for word in (*words, *more, "--quiet", "--workers", 1)]
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupt)
            with pytest.raises(SystemExit, match="130"):
                run(command)

    encoding, reading = (
        "semantoks.evaluation.embedding.embed",
        "semantoks.data.preparation.preprocess",
    )
    stop(encoding)
    assert [path.name for path in tmp_path.iterdir()] == [".features.store"]
    # Other options start over.
    stop(reading, "--min-coverage", 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["..features.store.partial"]
    stop(encoding)
    with monkeypatch.context() as patch:
        # What is prepared is not read again.
        patch.setattr(reading, interrupt)
        succeed(*words)
    assert {path.name for path in tmp_path.iterdir()} == {out.name, f"{out.name}.json"}


def test_an_error_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise InputError("features came out broken.")

    monkeypatch.setattr("semantoks.evaluation.embedding.embed", fail)
    words = ["embed", home / "scans", "--model", home / "model", "--t-r", 2]
    for out in ("features", "features.csv"):
        assert run([*map(str, words), "--out", str(tmp_path / out), "--quiet"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_damaged_passing_store_is_made_again(home: Path, tmp_path: Path) -> None:
    (tmp_path / ".f.store").mkdir()
    (tmp_path / ".f.store/series.npy").write_bytes(b"x")
    succeed("embed", home / "scans", "--model", home / "model", "--t-r", 2, "--out", tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("", 2, "recordings (semantoks embed SOURCE ...) or a store"),
        ("{home}/scans --data x", 2, "recordings (semantoks embed SOURCE ...) or a store"),
        ("--data x --t-r 2", 2, "prepared already"),
        ("--data x --task rest", 2, "prepared already"),
        ("--data x --keep-store", 2, "prepared already"),
        ("--data x --atlas cc200", 2, "prepared already"),
        ("{home}/scans", 1, "no repetition time"),
        ("{home}/nowhere --t-r 2", 1, "nowhere does not exist"),
        ("{home}/scans --t-r 2 --atlas {home}/part.tsv", 2, "add --smaller-atlas mask"),
        ("{home}/scans --t-r 2 --atlas cc200 --smaller-atlas mask", 1, "cannot be placed"),
        ("{home}/scans --t-r 2 --strict --keep-going", 2, "exclude each other"),
        ("{home}/scans --t-r 2 --high-pass 0.05", 1, "high_pass is 0.05, expected 0.01"),
        ("{home}/scans --t-r 2 --filtered-before 0.01 0.2", 1, "low_pass is 0.2"),
        ("{home}/scans --t-r 2 --min-network-coverage 2", 2, "a share between 0 and 1"),
        ("{home}/scans --t-r 2 --window 7", 1, "whole patches of 5"),
        ("{home}/scans --t-r 2 --window 1000", 1, "too short"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    expected: str,
) -> None:
    given = words.format(home=home).split()
    command = ["embed", *given, "--model", str(home / "model"), "--out", str(tmp_path / "f")]
    assert run([*command, "--workers", "1"]) == code
    message = capsys.readouterr().err
    assert expected in " ".join(message[message.rindex("error:") :].split())
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_taken_or_mean_something_else(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").mkdir()
    for name, expected in (("f", "exists already"), ("f.xlsx", ".parquet or .csv")):
        words = ["embed", home / "scans", "--model", home / "model", "--out", tmp_path / name]
        assert run([*map(str, words)]) == 1
        assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_model_of_filtered_series_asks_how_recordings_are(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Preprocessing(high_pass=None, low_pass=None, filtered_before=(0.01, 0.1))
    model = save_model(tmp_path / "model", home / "whole.tsv", before)
    words = ["embed", home / "scans", "--model", model, "--t-r", 2, "--out"]
    assert run([*map(str, words), str(tmp_path / "f.csv")]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "--high-pass 0.01 --low-pass 0.1 for raw ones" in message
    succeed(*words, tmp_path / "f.csv", "--high-pass", 0.01, "--low-pass", 0.1)
    succeed(*words, tmp_path / "g.csv", "--filtered-before", 0.008, 0.09)
    assert np.abs(features(tmp_path / "f.csv") - features(tmp_path / "g.csv")).max() > 1e-3


def test_two_people_of_one_label_are_refused_before_encoding(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("semantoks.evaluation.embedding.embed", None)
    for name in ("a_1", "a1"):
        write_scan(tmp_path / "scans", name, LABELS)
    words = ["embed", tmp_path / "scans", "--model", home / "model", "--t-r", 2]
    (tmp_path / "scans/a1.tsv").write_text(
        (tmp_path / "scans/a1.tsv").read_text().replace("9", "8")
    )
    assert run([*map(str, words), "--out", str(tmp_path / "f"), "--workers", "1"]) == 1
    assert "would both be sub-a1" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]
