"""Released weights by the name of their family."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import semantoks
from semantoks.cli.application import run
from semantoks.errors import ConfigurationError, InputError
from semantoks.peers import families
from semantoks.peers.families import FAMILIES, card, load_released
from semantoks.peers.weights import read_weights

CASES: dict[str, tuple[str, str, str, str]] = {
    # family: (file, golden file, key of the input, key of the output)
    "bnt": ("bnt/checkpoint.pth", "bnt/golden", "fc", "logits"),
    "bolt": ("bolt/checkpoint.pth", "bolt/golden", "timeseries", "logits"),
    "brainmass": (
        "brainmass/checkpoint.pth", "brainmass/golden", "fc_full", "features_full",
    ),
    "brainjepa": (
        "brainjepa/checkpoint.pth.tar", "brainjepa/golden", "x", "features",
    ),
    "brainlm": (
        "brainlm/roi/pytorch_model.bin", "brainlm/golden_roi", "x", "features_cls",
    ),
    "swift": ("neurostorm/swift_checkpoint.pth", "neurostorm/swift_golden", "main.input",
              "main.pooled"),
    "neurostorm": ("neurostorm/checkpoint.pth", "neurostorm/golden", "main.input", "main.pooled"),
}  # fmt: skip


def _inputs(shared: Path, family: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    file, golden, _, _ = CASES[family]
    with np.load(shared / "peers" / f"{golden}.npz") as arrays:
        content = {name: arrays[name] for name in arrays.files}
    keywords: dict[str, Any] = {}
    text = str(content.get("config", content.get("main.config")))
    if family in {"brainmass", "brainjepa", "swift", "neurostorm"}:
        config = json.loads(text.replace("'", '"').replace("True", "true"))
        keywords["config"] = config
    if family == "brainjepa":
        keywords["gradients"] = torch.from_numpy(content["gradients"])
    if family == "brainlm":
        keywords["coordinates"] = torch.from_numpy(content["xyz"])
    return shared / "peers" / file, content, keywords


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_computes(shared: Path, family: str) -> None:
    file, golden, keywords = _inputs(shared, family)
    model = semantoks.load_released(family, file, **keywords)
    assert not model.training
    _, _, name, wanted = CASES[family]
    x = torch.from_numpy(np.asarray(golden[name])).float()
    x = x[:2] if family == "swift" else x
    found: Tensor = model(x[:, 0] if family == "brainjepa" else x)
    expected = torch.from_numpy(np.asarray(golden[wanted])).float()
    assert float((found - expected).detach().abs().max() / expected.abs().max()) < 1e-5


WRONG = [
    # Neighbours in the list always, all pairs in the longer proofs.
    pytest.param(a, b, marks=[] if (i + 1) % len(FAMILIES) == j else [pytest.mark.slow])
    for i, a in enumerate(FAMILIES)
    for j, b in enumerate(FAMILIES)
    if a != b
]


@pytest.mark.parametrize(("family", "other"), WRONG)
def test_the_wrong_family_is_refused(shared: Path, family: str, other: str) -> None:
    file, _, _ = _inputs(shared, other)
    _, _, keywords = _inputs(shared, family)
    keywords.setdefault("config", {"heads": 4})
    with pytest.raises((InputError, ConfigurationError)):
        load_released(family, file, **keywords)


def _mutate(value: Tensor) -> list[Any]:
    return [torch.tensor(1.0), value.flatten()[:1], value[None], value.flatten(), "text", None]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_senseless_shapes_are_refused(
    shared: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    file, _, keywords = _inputs(shared, family)
    whole = dict(read_weights(file))
    parts = [whole] + [part for part in whole.values() if isinstance(part, dict)]
    monkeypatch.setattr(families, "read_weights", lambda path: whole)
    as_it_is = load_released(family, file, **keywords).state_dict()
    refused = 0
    for part in parts:
        names = [name for name, value in part.items() if isinstance(value, Tensor)]
        for name in names[:: max(1, len(names) // 12)]:
            value = part[name]
            for other in _mutate(value):
                part[name] = other
                try:
                    model = load_released(family, file, **keywords)
                except InputError:
                    refused += 1
                    continue
                # Nothing of the model was read from it, or its shape is what it was.
                assert all(x.equal(as_it_is[key]) for key, x in model.state_dict().items()), name
            part[name] = value
    assert refused > 30


@pytest.mark.parametrize("family", FAMILIES)
def test_cards_say_what_a_user_must_know(family: str) -> None:
    described = card(family)
    assert described.licence
    assert described.atlas
    assert described.scaling


def test_unknown_families_are_named() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'brainmass'"):
        load_released("brainmas", "x.pth")


class _Harm:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("harm",))


def test_files_that_are_no_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_weights(tmp_path / "none.pth")
    harmful = tmp_path / "harm.pth"
    harmful.write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(InputError, match="nothing in it was run"):
        read_weights(harmful)
    assert "harm" not in capsys.readouterr().out
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth"):
        read_weights(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds list"):
        read_weights(tmp_path / "list.pth")


def test_flipped_bits_are_found(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"weight": torch.arange(1000.0)}, file)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place = next(x for x in archive.infolist() if x.filename.endswith("data/0"))
    content[place.header_offset + 900] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_weights(file)


def test_a_configuration_beside_the_weights_is_read(shared: Path, tmp_path: Path) -> None:
    file, _, keywords = _inputs(shared, "brainlm")
    copy = tmp_path / "pytorch_model.bin"
    copy.write_bytes(file.read_bytes())
    with pytest.raises(ConfigurationError, match="leave that file beside"):
        load_released("brainlm", copy, **keywords)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_released("brainlm", copy, **keywords)
    (tmp_path / "config.json").write_bytes(file.with_name("config.json").read_bytes())
    assert not load_released("brainlm", copy, **keywords).training


@pytest.mark.parametrize("family", FAMILIES)
def test_imported_folders_compute_the_same(shared: Path, tmp_path: Path, family: str) -> None:
    file, golden, keywords = _inputs(shared, family)
    model = semantoks.import_released(family, file, tmp_path / "model", **keywords)
    x = torch.from_numpy(np.asarray(golden[CASES[family][2]])).float()
    x = x[:, 0] if family == "brainjepa" else x
    assert model(x).equal(load_released(family, file, **keywords)(x))
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        load_released(family, tmp_path / "model")


def test_import_from_the_command_line(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, golden, keywords = _inputs(shared, "brainlm")
    np.savetxt(tmp_path / "places.csv", golden["xyz"].astype(float), delimiter=",")
    words = ["import-checkpoint", str(file), "--family", "brainlm", "--out", str(tmp_path / "m")]
    assert run(words) == 2
    assert "keyword coordinates" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    words += ["--coordinates", str(tmp_path / "places.csv")]
    assert run(words) == 0
    assert "CC BY-NC-ND" in capsys.readouterr().out
    x = torch.from_numpy(golden["x"]).float()
    found = load_released("brainlm", tmp_path / "m")(x)
    torch.testing.assert_close(found, load_released("brainlm", file, **keywords)(x))
    assert run(words) == 1  # the folder is there
    (tmp_path / "places.csv").write_text("x,y,z\n1,2,3\n")
    assert run([*words[:-3], str(tmp_path / "n"), *words[-2:]]) == 1
    assert "without a header" in capsys.readouterr().err
    with pytest.raises(InputError, match="no imported bnt, but brainlm"):
        load_released("bnt", tmp_path / "m")
