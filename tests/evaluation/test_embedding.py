"""One row a scan, whatever its length, its batch and its missing networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import (
    Embeddings,
    embed,
    embedding_provenance,
    read_embeddings,
    window_starts,
    write_embeddings,
)
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
    ("arguments", "message"), [((99, 100, 8), "shorter"), ((200, 100, 0), "at")]
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
    with pytest.raises(InputError, match="batch size"):
        embed(store, encoder, batch_size=0)


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


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_written_embeddings_come_back(store, encoder, tmp_path, suffix):
    embeddings, path = embed(store, encoder), tmp_path / "new" / f"features{suffix}"
    frame, provenance = embeddings.frame, embeddings.provenance
    assert provenance == embedding_provenance(store, encoder, windows=8)
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

    monkeypatch.setattr("semantoks.evaluation.embedding_file.pq.write_table", full)
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
