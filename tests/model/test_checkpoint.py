"""Model folders: round trip, damage, and messages."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import (
    hash_subjects,
    load_encoder,
    load_model,
    save_encoder,
    seen_subjects,
)
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import DenseBranch, LongBranch

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
    model.encoder.license = "cc0-1.0"
    again = save_encoder(model.encoder, tmp_path / "again")
    assert load_model(again)[1:] == model[1:]  # preprocessing and provenance travel on
    assert load_encoder(again).license == "cc0-1.0"
    assert "license: cc0-1.0" in (again / "README.md").read_text()
    bare = save_encoder(model.encoder, tmp_path / "bare", preprocessing={}, provenance={})
    assert load_model(bare)[1:] == ({}, {})
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
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_no_model_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_encoder(tmp_path)


def damage(path: Path, place: int = -5) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [20, -5])
def test_flipped_bit_in_the_weights(folder: Path, place: int) -> None:
    damage(folder / "model.safetensors", place)
    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        load_encoder(folder)


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged"):
        load_encoder(folder)


def test_changed_number_in_the_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"target_t_r": 2.0', '"target_t_r": 3.0'))
    with pytest.raises(InputError, match="was changed after the model was saved"):
        load_encoder(folder)


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = save_encoder(SemantoksEncoder(ATLAS, dim=32, depth=1, head_dim=16), tmp_path / "other")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not the one in config"):
        load_encoder(folder)


def test_pickle_under_the_name_of_the_weights(folder: Path) -> None:
    version_1(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps({"cls_token": 1}))
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        load_encoder(folder)


def version_1(folder: Path) -> None:
    """Rewrite a folder as the first version did: no checksums, no card, other names."""
    weights = {}
    for name, value in load_file(folder / "model.safetensors").items():
        name = name.replace(".branches.0.", ".dense.").replace(".branches.1.long.", ".long.")
        weights[name.replace(".branches.1.project.", ".project.")] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    old = ("dim", "depth", "head_dim", "window", "patch", "mlp_ratio", "layer_scale")
    config = {
        "format_version": 1,
        "semantoks_version": "0.1.0",
        "arguments": {name: config["arguments"][name] for name in old},
        "atlas": config["atlas"],
        "preprocessing": config["preprocessing"],
        "provenance": config["provenance"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "README.md").unlink()


def test_version_1_is_read(folder: Path) -> None:
    today, series = load_encoder(folder), torch.randn(2, 12, 40)
    version_1(folder)
    assert any(".dense." in name for name in load_file(folder / "model.safetensors"))
    model = load_model(folder)
    torch.testing.assert_close(model.encoder(series), today(series), rtol=0, atol=0)
    assert model.provenance == {"seed": 3}


def test_renamed_weight(folder: Path) -> None:
    version_1(folder)  # before there were checksums
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["cls"] = weights.pop("cls_token")
    save_file(weights, path)
    with pytest.raises(InputError, match="do not fit its config") as caught:
        load_encoder(folder)
    assert "cls_token" in str(caught.value)


def test_architecture_travels(tmp_path: Path) -> None:
    encoder = SemantoksEncoder(
        ATLAS,
        dim=32,
        depth=0,
        head_dim=16,
        spatial="minimal",
        pooling="attention",
        branches=[DenseBranch(kernel_size=5, width=8), LongBranch(decay_min=1.5)],
    )
    again = load_encoder(save_encoder(encoder, tmp_path / "model"))
    assert again.arguments == encoder.arguments
    assert again.branches == (DenseBranch(kernel_size=5, width=8), LongBranch(decay_min=1.5))
    series = torch.randn(2, 12, 40)
    torch.testing.assert_close(again(series), encoder.eval()(series), rtol=0, atol=0)


def test_card_is_in_the_hubs_format(tmp_path: Path) -> None:
    provenance = {
        "store": {"fingerprint": "f00d", "n_subjects": 2},
        "subjects": hash_subjects(["anna", "bert"], salt="f00d"),
    }
    folder = save_encoder(
        SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16),
        tmp_path / "model",
        preprocessing={"target_t_r": 2.0},
        provenance=provenance,
        license="cc-by-nc-4.0",
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "semantoks"
    for words in ("n_subjects: 2", "2, hashed in config.json", "target_t_r", "## Limits", "Vis"):
        assert words in card.text
    assert "anna" not in (folder / "config.json").read_text()
    assert provenance["subjects"]["hashes"][0] in (folder / "config.json").read_text()


def test_seen_subjects() -> None:
    provenance = {"subjects": hash_subjects(["01", "02", "02"], salt="a")}
    assert len(provenance["subjects"]["hashes"]) == 2
    assert seen_subjects(provenance, ["02", "03"]) == ["02"]
    assert seen_subjects({}, ["02"]) == []
    assert hash_subjects(["01"], salt="b")["hashes"][0] not in provenance["subjects"]["hashes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "install a newer semantoks"),
        ({"format_version": 1}, "was changed after the model was saved"),
        ({"format_version": 0}, "whole number from 1 to 2"),
        ({"format_version": True}, "whole number from 1 to 2"),
        ({"format_version": 1.5}, "whole number from 1 to 2"),
        ({"format_version": "2"}, "whole number from 1 to 2"),
        ({"format_version": None}, "whole number from 1 to 2"),
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


def test_an_edited_version_does_not_switch_checksums_off(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"format_version": 1}
    del config["checksum"]
    path.write_text(json.dumps(config))
    damage(folder / "model.safetensors")
    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        load_encoder(folder)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        folder = save_encoder(
            SemantoksEncoder(ATLAS, dim=32, depth=0, head_dim=16), tmp_path / "model"
        )
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {mode}
