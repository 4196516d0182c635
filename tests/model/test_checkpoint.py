"""Model folders: round trip, damage, and messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import load_encoder, load_model, save_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.released import released_encoder

ATLAS = Atlas.from_networks({"Vis": 5, "Default": 7})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(ATLAS, dim=32, depth=1, head_dim=16)
    return save_encoder(
        encoder, tmp_path / "model", preprocessing={"target_t_r": 2.0}, provenance={"seed": 3}
    )


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    assert (model.preprocessing, model.provenance) == ({"target_t_r": 2.0}, {"seed": 3})
    assert model.encoder.atlas == ATLAS
    assert not model.encoder.training
    again = save_encoder(model.encoder, tmp_path / "again")
    series = torch.randn(2, 12, 40)
    torch.testing.assert_close(load_encoder(again)(series), model.encoder(series), rtol=0, atol=0)


def test_run_folder_holds_the_model(folder: Path) -> None:
    assert load_encoder(folder.parent).dim == 32


def test_existing_folder_is_kept(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists"):
        save_encoder(SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16), folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semantoks.model.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_no_model_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_encoder(tmp_path)


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        load_encoder(folder)


def test_renamed_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["cls"] = weights.pop("cls_token")
    save_file(weights, path)
    with pytest.raises(InputError, match="do not fit its config") as caught:
        load_encoder(folder)
    assert "cls_token" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "install a newer semantoks"),
        ({"atlas": None}, "lacks"),
    ],
)
def test_changed_config(folder: Path, change: dict[str, object], words: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | change
    if config["atlas"] is None:
        del config["atlas"]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=words):
        load_encoder(folder)


def test_shuffled_atlas_is_noticed(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["atlas"]["labels"].reverse()
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="description was changed"):
        load_encoder(folder)


def test_unknown_released_key() -> None:
    with pytest.raises(InputError, match="no parameter 'surprise'"):
        released_encoder({"teacher_encoder.surprise": torch.zeros(1)})
    with pytest.raises(InputError, match="no keys that begin with 'student_encoder"):
        released_encoder({"teacher_encoder.norm.weight": torch.zeros(1)}, branch="student")
