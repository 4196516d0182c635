"""One row a scan, whatever its length, its batch and its missing networks."""

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
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import (
    Embeddings,
    embed,
    embedding_provenance,
    preprocessing_differences,
    read_embeddings,
    write_embeddings,
)
from semantoks.evaluation.features import SemantoksFeatures
from semantoks.evaluation.readout import Scans, encode_scans, window_starts
from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import SemantoksEncoder

DIM = 16


@pytest.fixture
def encoder(store: Store) -> SemantoksEncoder:
    torch.manual_seed(0)
    return SemantoksEncoder(store.atlas, dim=DIM, depth=2, head_dim=8, window=20, patch=5)


def features_of(frame: pd.DataFrame) -> np.ndarray:
    return Embeddings(frame).features


@pytest.mark.parametrize("length", [100, 101, 107, 150, 316, 490])
@pytest.mark.parametrize("n_windows", [1, 2, 8])
def test_windows_cover_a_scan_from_its_first_to_its_last_sample(length, n_windows):
    starts = window_starts(length, 100, n_windows)
    assert starts[0] == 0
    assert len(starts) == min(n_windows, length - 99)
    if n_windows > 1:
        assert starts[-1] == length - 100
        assert np.ptp(np.diff(starts)) <= 1 if len(starts) > 1 else length == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((99, 100, 8), "shorter"),
        ((200, 100, 0), "windows is 0"),
        ((200, 100, 2.5), "windows is 2.5; it must be a whole"),
    ],
)
def test_impossible_windows_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        window_starts(*arguments)


def test_features_are_the_mean_over_windows_of_mean_token_and_cls(store, encoder):
    frame = embed(store, encoder, windows=3).frame
    assert list(frame.columns[:5]) == ["scan", "subject", "session", "site", "mean_0000"]
    assert list(frame["scan"]) == list(store.scans["scan"])
    assert frame.shape == (5, 4 + 2 * DIM)
    assert frame.columns[4 + DIM] == "cls_0000"
    expected = []
    with torch.no_grad():
        for start in (0, 12, 24):
            window = torch.from_numpy(store.series(4)[None, :, start : start + 20])
            summary, tokens = encoder(window)
            expected.append(torch.cat([tokens[0].flatten(0, 1).mean(0), summary[0]]).numpy())
    np.testing.assert_allclose(features_of(frame)[4], np.mean(expected, axis=0), atol=1e-5)


def test_network_without_a_valid_roi_is_masked(store, encoder):
    found = features_of(embed(store, encoder).frame)[1]
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, 1] = True
    with torch.no_grad():
        window = torch.from_numpy(store.series(1)[None])
        summary, tokens = encoder(window, mask)
        unmasked = encoder(window).summary[0].numpy()
    np.testing.assert_allclose(found[:DIM], tokens[0].mean((0, 1)).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[DIM:], summary[0].numpy(), atol=1e-5)
    assert np.abs(found[DIM:] - unmasked).max() > 1e-3


def test_features_depend_neither_on_the_batch_nor_on_the_mode_nor_on_seeds(store, encoder):
    expected = features_of(embed(store, encoder).frame)
    encoder.train()
    state = torch.get_rng_state()
    np.testing.assert_allclose(
        features_of(embed(store, encoder, batch_size=3).frame), expected, atol=1e-5
    )
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in encoder.parameters())


def test_progress_counts_windows(store, encoder):
    calls: list[tuple[int, int]] = []
    embed(
        store, encoder, windows=2, batch_size=4, progress=lambda done, of: calls.append((done, of))
    )
    assert calls == [(4, 8), (8, 8)]


def test_store_of_another_atlas_is_refused_with_both_names(store):
    other = Atlas.from_networks({"Vis": 3, "Cont": 2, "Limbic": 4}, name="another")
    encoder = SemantoksEncoder(other, dim=DIM, depth=1, head_dim=8, window=20, patch=5)
    with pytest.raises(InputError, match=r"'tiny' \(fingerprint .*'another' \(fingerprint"):
        embed(store, encoder)


def test_scan_shorter_than_a_window_is_named(store):
    encoder = SemantoksEncoder(store.atlas, dim=DIM, depth=1, head_dim=8, window=25, patch=5)
    with pytest.raises(
        InputError, match=r"3 scan\(s\) are shorter .*'000' with 20.*min_samples=25"
    ):
        embed(store, encoder)


def test_broken_weights_are_not_written_down_as_features(store, encoder):
    with torch.no_grad():
        encoder.cls_token[0] = float("nan")
    with pytest.raises(InputError, match="not finite, the first is '000'"):
        embed(store, encoder)


def test_batch_of_nothing_is_refused(store, encoder):
    with pytest.raises(InputError, match="batch_size is 0; it must be a whole number"):
        embed(store, encoder, batch_size=0)
    with pytest.raises(InputError, match=r"window is 20\.0; it must be a whole number"):
        embed(store, encoder, window=20.0)  # type: ignore[arg-type]


def test_provenance_names_store_atlas_and_weights(store, encoder):
    provenance = embedding_provenance(store, encoder, windows=8)
    assert provenance["store"]["fingerprint"] == store.fingerprint
    assert provenance["atlas"]["fingerprint"] == store.atlas.fingerprint
    assert provenance["model"]["dim"] == DIM
    assert json.loads(json.dumps(provenance)) == provenance
    with torch.no_grad():
        encoder.mask_token[0] += 1
    changed = embedding_provenance(store, encoder, windows=8)
    assert changed["model"]["weights_sha256"] != provenance["model"]["weights_sha256"]


# --- series that were filtered before


def filtered(*band: float | None, **settings: Any) -> Preprocessing:
    return Preprocessing(high_pass=None, low_pass=None, filtered_before=band, **settings)  # type: ignore[arg-type]


EXPECTED = Preprocessing().to_dict()


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        (Preprocessing(), EXPECTED, None),
        (Preprocessing(min_samples=50, min_coverage=0.5), EXPECTED, None),
        (Preprocessing(high_pass=None), EXPECTED, "high_pass is None, expected 0.01"),
        # Ours is either the same or another.
        (Preprocessing(low_pass=0.09), EXPECTED, "low_pass is 0.09, expected 0.1"),
        (Preprocessing(detrend=False), EXPECTED, "detrend is False, expected True"),
        (filtered(0.008, 0.08), EXPECTED, None),
        (filtered(0.01, 0.15), EXPECTED, None),
        (filtered(0.01, 0.151), EXPECTED, "low_pass is 0.151 (filtered before), expected 0.1"),
        (filtered(0.0066, 0.1), EXPECTED, "high_pass is 0.0066 (filtered before), expected 0.01"),
        (filtered(0.01, None), EXPECTED, "low_pass is None (filtered before), expected 0.1"),
        # The lower edge takes the trend as well.
        (filtered(0.01, 0.1, detrend=False), EXPECTED, None),
        (
            filtered(None, 0.1, detrend=False),
            Preprocessing(high_pass=None).to_dict(),
            "detrend is False, expected True",
        ),
        (filtered(0.01, 0.1, target_t_r=1.0), EXPECTED, "target_t_r is 1.0, expected 2.0"),
        (Preprocessing(), filtered(0.008, 0.08).to_dict(), None),
        (Preprocessing(), filtered(0.008, 0.05).to_dict(), "low_pass is 0.1, expected 0.05"),
        (filtered(0.02, 0.08), {"target_t_r": 2.0}, None),
        (filtered(0.02, 0.08), {}, None),
    ],
)
def test_what_counts_as_prepared_otherwise(found, expected, words):
    assert preprocessing_differences(found, expected) == ([words] if words else [])


def write_store(path: Path, preprocessing: Preprocessing, atlas: Atlas) -> Store:
    random = np.random.default_rng(0)
    with StoreWriter(path, atlas, preprocessing, {}) as writer:
        series = random.standard_normal((len(atlas), 30)).astype(np.float32)
        recording = Recording(series, t_r=2.0, atlas=atlas, scan="a", subject="a")
        writer.add(recording, np.ones(len(atlas), dtype=bool))
        return writer.finish(())


def test_store_that_was_filtered_before_is_embedded_where_the_band_is_near(encoder, tmp_path):
    encoder.preprocessing = EXPECTED
    near = write_store(tmp_path / "near", filtered(0.008, 0.08), encoder.atlas)
    table = embed(near, encoder)
    assert table.provenance["preprocessing"]["of_store"]["filtered_before"] == [0.008, 0.08]
    np.testing.assert_allclose(
        SemantoksFeatures(encoder).fit_transform(near), table.features, atol=1e-6
    )
    far = write_store(tmp_path / "far", filtered(0.02, 0.08), encoder.atlas)
    for attempt in (lambda: embed(far, encoder), lambda: SemantoksFeatures(encoder).fit(far)):
        with pytest.raises(InputError, match=r"far was .*high_pass is 0\.02 .*--filtered-before"):
            attempt()


def test_other_preprocessing_can_be_ignored_and_is_recorded(encoder, tmp_path):
    store = write_store(tmp_path / "s", Preprocessing(high_pass=None), encoder.atlas)
    expected = embed(store, encoder).features
    encoder.preprocessing = EXPECTED
    with pytest.raises(InputError, match=r"high_pass is None.*preprocessing='ignore'"):
        embed(store, encoder)
    with pytest.raises(ConfigurationError, match="'check' or 'ignore', not 'no'"):
        embed(store, encoder, preprocessing="no")  # type: ignore[arg-type]
    table = embed(store, encoder, preprocessing="ignore")
    np.testing.assert_array_equal(table.features, expected)
    recorded = table.provenance["preprocessing"]
    assert recorded["check"] == "ignore"
    assert recorded["differences"] == ["high_pass is None, expected 0.01"]
    with pytest.raises(InputError, match=r"high_pass is None.*ignore_preprocessing=True"):
        SemantoksFeatures(encoder).fit(store)
    found = SemantoksFeatures(encoder, ignore_preprocessing=True).fit_transform(store)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- the released format, from the checkpoint to the table


def test_imported_checkpoint_has_the_golden_features(shared, tmp_path, capsys):
    golden = np.load(shared / "golden" / "golden.npz")
    views, expected = golden["view1"], golden["teacher_cls_avg"]
    model = tmp_path / "model"
    file = shared / "golden" / "checkpoint.pth"
    assert run(["import-checkpoint", str(file), "--out", str(model)]) == 0
    encoder = load_encoder(model)
    # As they are: the views are no band-passed series, and our z-score would change them.
    settings = Preprocessing(high_pass=None, low_pass=None, detrend=False)
    with StoreWriter(tmp_path / "store", encoder.atlas, settings, {}) as writer:
        for i, view in enumerate(views):
            who = Recording(view, t_r=2.0, atlas=encoder.atlas, scan=str(i), subject=str(i))
            writer.add(who, np.ones(len(encoder.atlas), dtype=bool))
        writer.finish(())
    words = ["embed", "--data", str(tmp_path / "store"), "--model", str(model), "--windows", "1"]
    words += ["--device", "cpu", "--out", str(tmp_path / "table.parquet")]
    assert run(words) == 1
    assert "high_pass is None, expected 0.01" in capsys.readouterr().err
    assert run([*words, "--ignore-preprocessing"]) == 0
    table = read_embeddings(tmp_path / "table.parquet")
    assert table.provenance["preprocessing"]["check"] == "ignore"
    # Measured: 8.1e-5, what float16 in the store costs; features are up to 3.3.
    np.testing.assert_allclose(table.features, expected, rtol=0, atol=2e-4)

    def read(which: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
        return np.stack([views[i, :, s : s + length] for i, s in zip(which, starts, strict=True)])

    valid = np.ones(views.shape[:2], dtype=bool)
    exact = encode_scans(encoder, Scans(np.full(len(views), 100), valid, read, str), windows=1)
    # Measured: 1.6e-6.
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5)
    # Measured: 1.8e-3. The views have an unbiased deviation of 1, our z-score a biased one.
    ours = SemantoksFeatures(encoder, 1, t_r=2.0, preprocessing=settings, ignore_preprocessing=True)
    np.testing.assert_allclose(ours.fit_transform(views), expected, rtol=0, atol=4e-3)
    z = (views - views.mean(2, keepdims=True)) / views.std(2, keepdims=True)
    exact = encode_scans(
        encoder,
        Scans(np.full(len(views), 100), valid, lambda which, *_: z[which], str),
        windows=1,
    )
    np.testing.assert_allclose(ours.transform(views), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_written_embeddings_come_back(store, encoder, tmp_path, suffix):
    embeddings, path = embed(store, encoder), tmp_path / "new" / f"features{suffix}"
    frame, provenance = embeddings.frame, embeddings.provenance
    expected = embedding_provenance(store, encoder, windows=8)
    assert provenance == expected | {"precision": "float32"}
    write_embeddings(embeddings, path)
    back = read_embeddings(path)
    assert list(back.frame["scan"]) == ["000", "001", "002", "003", "004"]
    assert list(back.frame["session"]) == list(frame["session"])
    assert back.provenance == provenance
    assert back.features.dtype == np.float64
    np.testing.assert_array_equal(back.features.astype(np.float32), features_of(frame))
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.json"]


def test_existing_file_is_not_overwritten(store, encoder, tmp_path):
    path = tmp_path / "features.csv"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_embeddings(embed(store, encoder), path)
    assert path.read_text() == "mine"


def test_nothing_half_written_stays_behind(store, encoder, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semantoks.evaluation.embedding.pq.write_table", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_embeddings(embed(store, encoder), tmp_path / "features.parquet")
    assert list(tmp_path.iterdir()) == []


def test_table_of_another_program_can_be_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("scan,a,b\n007,1,2.5\n008,3,4\n")
    embeddings = read_embeddings(path)
    assert list(embeddings.frame["scan"]) == ["007", "008"]
    np.testing.assert_array_equal(embeddings.features, [[1, 2.5], [3, 4]])
    assert embeddings.provenance == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,a\n1,2\n", "need a column scan"),
        ("scan,subject\n1,2\n", "without a single column of features"),
        ("scan,a,group\n1,2,x\n", "group of the embeddings are not numeric"),
        ("", "cannot be read as embeddings"),
    ],
)
def test_tables_that_are_no_embeddings_are_refused(tmp_path, content, message):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_embeddings(path)


def test_files_that_are_no_embeddings_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_embeddings(tmp_path / "absent.parquet")
    with pytest.raises(InputError, match="is neither"):
        read_embeddings(Path("features.npz"))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"broken.parquet .* cannot be read as embeddings"):
        read_embeddings(broken)
