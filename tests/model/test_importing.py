"""Checkpoints of the released code: read whole, read safely, or refused with a reason."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import load_encoder, load_model
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.importing import import_checkpoint, read_checkpoint
from semantoks.model.layers import Head, patch_positions
from semantoks.model.released import released_encoder

ATLAS = Atlas.from_networks({"Vis": 5, "Cont": 3, "Default": 7})
DENSE = {"type": "dense", "kernel_size": 3, "depthwise": False, "out_channels": 32}
LONG = {
    "type": "sgconv",
    "kernel_size": 4,
    "num_scales": 3,
    "decay_min": 2.0,
    "decay_max": 2.0,
    "out_channels": 32,
}
CONFIG: dict[str, Any] = {
    "run_name": "test",
    "data": {
        "target_signal_length": 40,
        "patch_size": 20,
        "network_map_path": "./map.npz",
        "schaefer_atlas": "cortex",
    },
    "model": {
        "backbone_type": "cnn_tf",
        "cnn_dim": 64,
        "cnn_final_norm": "layer",
        "embedding_dim": 64,
        "depth": 1,
        "heads": 0,
        "mlp_dim": 0,
        "global_pooling": "cls",
        "projection_hidden_dim": 8,
        "projection_output_dim": 512,
        "projection_bottleneck_dim": 4,
        "projection_nlayers": 2,
        "drop_path_rate": 0.0,
        "layer_scale_init_value": 0.1,
        "emb_dropout": 0.0,
        "tokenizer": {"pooling_type": "mean", "config": [DENSE, LONG], "final_norm": "layer"},
    },
    "optimizer": {"type": "AdamW"},
    "training": {"output_dir": "./private", "seed": 21, "epochs": 100, "use_cuda": True},
}
ENCODER: dict[str, Any] = {"dim": 64, "depth": 1, "head_dim": 64, "mlp_ratio": 4, "window": 40}
LONG_PARTS = {
    "long.gain": "slconv.D",
    "long.norm": "slconv.kernel_norm",
    "long.pieces": "slconv.kernel_list",
    "project": "projection",
}
BLOCK_PARTS = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "scale1.gain": "ls1.gamma",
    "scale2.gain": "ls2.gamma",
    "mlp.2": "mlp.3",
}


class Released(NamedTuple):
    """A checkpoint in the released format, and the encoder that it holds."""

    content: dict[str, Any]
    encoder: SemantoksEncoder

    @property
    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.content["model_state_dict"]
        return state

    def save(self, folder: Path, name: str = "checkpoint.pth") -> Path:
        torch.save(self.content, folder / name)
        return folder / name


def changed(**changes: Any) -> dict[str, Any]:
    """Return the configuration with other values, by key with __ for a dot."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    return config


def write_tokenizers(
    state: dict[str, Tensor],
    prefix: str,
    encoder: SemantoksEncoder,
    order: list[int],
    first: str,
) -> None:
    """Store the tokenizers once an atlas, as the released code does; the first set counts."""
    for atlas in (first, "a-further-one"):
        for number, network in sorted(zip(order, encoder.tokenizer.networks, strict=True)):
            start = f"{prefix}network_tokenizers.{atlas}.{number}."
            for name, value in network.state_dict().items():
                for ours, theirs in LONG_PARTS.items():
                    name = name.replace(ours, theirs)
                state[start + name] = value.clone() if atlas == first else value + 1
            for i, branch in enumerate(network.branches):
                if hasattr(branch, "long"):
                    decay = branch.long.scales[-2] if len(branch.long.scales) > 1 else 2.0
                    state[f"{start}branches.{i}.slconv.multiplier"] = decay[None]
                    state[f"{start}branches.{i}.slconv.kernel_norm_initialized"] = torch.tensor(
                        True
                    )


def write_transformer(
    state: dict[str, Tensor], prefix: str, encoder: SemantoksEncoder, order: list[int]
) -> None:
    """Store everything behind the tokenizers."""
    start = prefix + "inter_network_transformer."
    state[start + "mask_embedding"] = encoder.mask_token.detach()[None]
    state[start + "cls_token"] = encoder.cls_token.detach()[None, None]
    state[start + "temporal_pos_embedding"] = patch_positions(2, 64)
    positions = encoder.network_position.detach().clone()
    positions[order] = encoder.network_position.detach()
    state[start + "network_learnable_pos_embedding.weight"] = positions
    for name, value in encoder.blocks.state_dict().items():
        for ours, theirs in BLOCK_PARTS.items():
            name = name.replace(ours, theirs)
        state[f"{start}transformer_blocks.{name}"] = value
    for part in ("weight", "bias"):
        state[f"{start}norm.{part}"] = torch.ones(64)
        state[f"{prefix}norm.{part}"] = getattr(encoder.norm, part).detach()


def released(
    config: dict[str, Any] = CONFIG,
    atlas: Atlas = ATLAS,
    order: list[int] | None = None,
    layers: int = 2,
    **arguments: Any,
) -> Released:
    """Make a checkpoint; the student's weights differ from the teacher's."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    for branch in ("student", "teacher"):
        encoder = SemantoksEncoder(atlas, **(ENCODER | arguments)).eval()
        places = order or list(range(len(encoder.network_position)))
        if arguments.get("spatial") == "maximal":
            for part, value in encoder.tokenizer.project.state_dict().items():
                state[f"{branch}_encoder.roi_projection.{part}"] = value
        else:
            first = config["data"].get("schaefer_atlas") or "cortex"
            write_tokenizers(state, f"{branch}_encoder.", encoder, places, first)
        write_transformer(state, f"{branch}_encoder.", encoder, places)
        head = Head(64, hidden_dim=8, output_dim=4, hidden_layers=layers - 1)
        for part in ("predictor", "mask_predictor"):
            state |= {f"{branch}_{part}.{k}": v.clone() for k, v in head.state_dict().items()}
    content = {"epoch": 100, "model_state_dict": state, "config": copy.deepcopy(config)}
    return Released(content, encoder)


@torch.no_grad()
def assert_same(found: SemantoksEncoder, expected: SemantoksEncoder, time: int = 40) -> None:
    series = torch.randn(2, len(expected.atlas), time)
    for a, b in zip(found(series), expected(series), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# The golden checkpoint


@torch.no_grad()
def test_golden_features(shared: Path, tmp_path: Path) -> None:
    file, model = shared / "golden" / "checkpoint.pth", tmp_path / "model"
    assert run(["import-checkpoint", str(file), "--out", str(model), "--quiet"]) == 0
    numbers = np.load(shared / "golden" / "golden.npz")
    encoder = load_encoder(model)
    summary, tokens = encoder(torch.from_numpy(numbers["view1"]))
    features = torch.cat([tokens.mean((1, 2)), summary], dim=1).numpy()
    assert np.abs(features - numbers["teacher_cls_avg"]).max() <= 1e-5
    config = json.loads((model / "config.json").read_text())
    provenance = config["provenance"]
    assert (provenance["dropped_keys"], provenance["dropped_parameters"]) == (200, 310168)
    assert provenance["imported_from"]["branch"] == "teacher"
    assert load_model(model).preprocessing["target_t_r"] == 2.0


@torch.no_grad()
def test_golden_student_and_head(shared: Path) -> None:
    file = shared / "golden" / "checkpoint.pth"
    numbers = np.load(shared / "golden" / "golden.npz")
    student, teacher = (read_checkpoint(file, branch=name) for name in ("student", "teacher"))
    summary, tokens = student.encoder(torch.from_numpy(numbers["view1"]))
    found = torch.cat([summary[:, None], tokens.flatten(1, 2)], dim=1).numpy()
    assert np.abs(found - numbers["student_tokens"]).max() <= 1e-5
    projection = teacher.head(torch.from_numpy(numbers["teacher_tokens"])).numpy()
    assert np.abs(projection - numbers["teacher_projection"]).max() <= 1e-5


@pytest.mark.parametrize(
    ("atlas", "words"),
    [
        ("cc200", "has 200 ROIs, but the checkpoint was trained on 457"),
        ("schaefer400-tian3", "has 450 ROIs"),
        ("schaefer400-17networks-tian3-buckner7", "are not those of the checkpoint"),
    ],
)
def test_golden_with_a_wrong_atlas(
    shared: Path, tmp_path: Path, atlas: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = str(shared / "golden" / "checkpoint.pth"), tmp_path / "model"
    assert run(["import-checkpoint", file, "--out", str(out), "--atlas", atlas]) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_size_of_what_the_paper_never_used() -> None:
    # Released: 62.75 M parameters in the encoder, of which 4.03 M are dead.
    encoder = SemantoksEncoder(Atlas.load("schaefer400-tian3-buckner7"))
    live = sum(p.numel() for p in encoder.parameters())
    dead = 2 * sum(p.numel() for p in encoder.tokenizer.parameters()) + 2 * 768
    assert (live, dead, live + dead) == (58_720_931, 4_029_766, 62_750_697)


# Architectures


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (CONFIG, {}),
        (changed(model__tokenizer__pooling_type="max"), {"pooling": "max"}),
        (changed(data__min_spatial=True), {"spatial": "minimal"}),
        (
            changed(data__max_spatial=True),
            {"spatial": "maximal", "tokenization": "linear"},
        ),
        (changed(model__projection_nlayers=3), {"layers": 3}),
        (changed(model__projection_nlayers=1), {"layers": 1}),
        (
            changed(model__tokenizer__config=[DENSE | {"kernel_size": 7, "out_channels": 64}]),
            {"branches": [{"kind": "dense", "kernel_size": 7}]},
        ),
        (
            changed(
                model__tokenizer__config=[
                    LONG
                    | {"kernel_size": 5, "num_scales": 2, "decay_min": 1.0, "out_channels": 16},
                    DENSE | {"out_channels": 16},
                    DENSE | {"kernel_size": 9},
                ]
            ),
            {
                "branches": [
                    {"kind": "long", "taps": 5, "pieces": 2, "decay_min": 1.0, "width": 16},
                    {"kind": "dense", "width": 16},
                    {"kind": "dense", "kernel_size": 9, "width": 32},
                ]
            },
        ),
    ],
)
def test_architectures(tmp_path: Path, config: dict[str, Any], arguments: dict[str, Any]) -> None:
    made = released(config, **arguments)
    file = made.save(tmp_path)
    imported = import_checkpoint(file, tmp_path / "model", atlas=ATLAS)
    assert_same(load_encoder(tmp_path / "model"), made.encoder)
    linear = sum(isinstance(m, torch.nn.Linear) for m in imported.head.modules())
    assert linear == config["model"]["projection_nlayers"]
    assert any("inter_network_transformer.norm" in key for key in imported.dropped)
    text = (tmp_path / "model" / "config.json").read_text()
    assert "private" not in text
    training = json.loads(text)["provenance"]["recipe"]["training"]
    assert training == {"seed": 21, "epochs": 100, "use_cuda": True}


def test_seventeen_networks(tmp_path: Path) -> None:
    atlas = Atlas.load("schaefer400-17networks-tian3")
    # Numbered in the released way; in the atlas, networks come as its ROIs name them.
    names = ["VisCent", "VisPeri", "SomMotA", "SomMotB", "DorsAttnA", "DorsAttnB", "SalVentAttnA"]
    names += ["SalVentAttnB", "LimbicB", "LimbicA", "ContA", "ContB", "ContC"]
    names += ["DefaultA", "DefaultB", "DefaultC", "TempPar", "Subcortical"]
    order = [names.index(name) for name in atlas.network_names]
    assert order[:3] == [4, 15, 0]
    data = {
        "target_signal_length": 40,
        "patch_size": 20,
        "schaefer_atlas": "schaefer400",
        "schaefer_rois": 400,
        "schaefer_networks": 17,
        "tian_atlas": "tian3",
        "tian_rois": 50,
        "tian_networks": 1,
    }
    made = released(changed(data=data), atlas=atlas, order=order)
    found = read_checkpoint(made.save(tmp_path)).encoder
    assert found.atlas == atlas
    assert_same(found, made.encoder)


def test_seventeen_networks_are_the_published_ones(shared: Path) -> None:
    table = np.genfromtxt(
        shared / "data" / "atlases" / "schaefer400_17networks_in_7network_order.csv",
        delimiter=",",
        names=True,
        dtype=None,
        encoding="utf-8",
    )
    atlas = Atlas.load("schaefer400-17networks")
    assert list(atlas.networks) == list(table["network17"])
    assert list(atlas.labels) == list(table["label_7networks"])
    from semantoks.model.importing import SCHAEFER_NETWORKS

    assert [SCHAEFER_NETWORKS[17].index(n) for n in atlas.networks] == list(table["network17_id"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_prefixes_of_parallel_training(tmp_path: Path, prefix: str, place: str) -> None:
    made = released()
    renamed = {}
    for key, value in made.state.items():
        part, _, rest = key.partition(".")
        renamed[prefix + key if place == "before" else f"{part}.{prefix}{rest}"] = value
    made.content["model_state_dict"] = renamed
    assert_same(read_checkpoint(made.save(tmp_path), atlas=ATLAS).encoder, made.encoder)


def test_the_branches_differ(tmp_path: Path) -> None:
    file = released().save(tmp_path)
    teacher, student = (
        read_checkpoint(file, atlas=ATLAS, branch=name).encoder for name in ("teacher", "student")
    )
    assert not torch.equal(teacher.cls_token, student.cls_token)


@pytest.mark.parametrize("name", ["checkpoint.yaml", "config_used.yaml", "elsewhere.yaml"])
def test_configuration_beside_or_named(tmp_path: Path, name: str) -> None:
    made = released()
    config = made.content.pop("config")
    (tmp_path / name).write_text(yaml.safe_dump(config))
    named = tmp_path / name if name == "elsewhere.yaml" else None
    found = read_checkpoint(made.save(tmp_path), config=named, atlas=ATLAS)
    assert_same(found.encoder, made.encoder)


# Refusals


class Code:
    """What runs when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.trace}",))


@pytest.mark.parametrize("kind", ["torch", "torch before 1.6", "pickle 2", "pickle 5"])
def test_code_is_not_run(tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "it-ran"
    content = released().content | {"extra": Code(trace)}
    file = tmp_path / "checkpoint.pth"
    if kind.startswith("torch"):
        torch.save(content, file, _use_new_zipfile_serialization=kind == "torch")
    else:
        file.write_bytes(pickle.dumps({"extra": Code(trace)}, protocol=int(kind[-1])))
    with pytest.raises(InputError, match=r"holds more than numbers .*nothing in it was run"):
        import_checkpoint(file, tmp_path / "model", atlas=ATLAS)
    assert not trace.exists()
    assert not (tmp_path / "model").exists()


def test_code_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"model_state_dict": {}, "extra": Code(tmp_path / "it-ran")}, file)
    assert run(["import-checkpoint", str(file), "--out", str(tmp_path / "model")]) == 1
    message = capsys.readouterr().err
    assert "it would call 'posix.system'" in message
    assert "nothing in it was run" in message


DEFAULT = "teacher_encoder.inter_network_transformer."
VISUAL = "teacher_encoder.network_tokenizers.cortex.0."


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("teacher_encoder.norm.weight", "teacher_encoder.norm.wieght", "teacher_encoder.norm.wie"),
        (VISUAL + "norm.bias", VISUAL + "norm.offset", "cortex.0.norm.offset"),
        (VISUAL + "norm.bias", None, r"lacks 'teacher_encoder.network_tokenizers.cortex.0.norm.b"),
        (DEFAULT + "cls_token", None, "lacks 'teacher_encoder.inter_network_transformer.cls_token"),
        (DEFAULT + "norm.weight", DEFAULT + "norm.scale", "transformer.norm.scale"),
        ("teacher_predictor.mlp.2.bias", None, r"lacks 'teacher_predictor.mlp.2.bias'"),
        ("teacher_predictor.mlp.2.bias", "teacher_predictor.mlp.4.bias", "predictor.mlp.4.bias"),
        ("student_encoder.norm.bias", "student_encoder.norm.offset", "student_encoder.norm.off"),
        ("student_encoder.norm.bias", None, "lacks 'student_encoder.norm.bias"),
        ("student_predictor.mlp.2.bias", None, "lacks 'student_predictor.mlp.2.bias'"),
        ("teacher_mask_predictor.mlp.0.bias", "teacher_mask_predictor.mlp.1.bias", "mlp.1.bias"),
        ("teacher_predictor.mlp.2.bias", "head.bias", "the first is 'head.bias'"),
        ("teacher_predictor.mlp.2.bias", "module.teacher_encoder.norm.bias", "twice"),
    ],
)
def test_wrong_keys(tmp_path: Path, old: str, new: str | None, words: str) -> None:
    made = released()
    value = made.state.pop(old)
    if new is not None:
        made.state[new] = value
    with pytest.raises(InputError, match=words):
        read_checkpoint(made.save(tmp_path), atlas=ATLAS)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher_encoder.norm.weight", torch.ones(31), r"has the shape \(31,\)"),
        (DEFAULT + "cls_token", torch.ones(1, 1, 31), r"has the shape \(1, 1, 31\)"),
        (VISUAL + "branches.0.bias", torch.ones(15), r"ask for \(32,\)"),
        ("teacher_predictor.mlp.0.bias", torch.ones(9), r"ask for \(8,\)"),
        ("teacher_encoder.norm.weight", torch.full((64,), torch.nan), "no numbers"),
        ("student_encoder.norm.weight", torch.ones(31), r"student.* has the shape \(31,\)"),
        (VISUAL.replace("cortex", "a-further-one") + "norm.bias", torch.ones(31), r"\(31,\)"),
        ("student_predictor.mlp.0.bias", torch.ones(9), r"student_predictor.*ask for \(8,\)"),
        ("teacher_mask_predictor.mlp.0.bias", torch.ones(9), r"mask_predictor.*ask for \(8,\)"),
        ("teacher_predictor.mlp.0.bias", torch.full((8,), torch.inf), "no numbers"),
        ("teacher_mask_predictor.mlp.0.bias", torch.ones(8), "differs from the head of all"),
        (VISUAL + "branches.1.slconv.kernel_norm_initialized", torch.tensor(False), "never set"),
        (DEFAULT + "temporal_pos_embedding", torch.full((2, 64), torch.nan), "temporal_pos"),
        (VISUAL + "branches.1.slconv.multiplier", torch.full((1, 5, 1), 3.0), "slconv.multiplier"),
        (DEFAULT + "temporal_pos_embedding", torch.ones(2, 64), "temporal_pos_embedding"),
        (DEFAULT + "temporal_pos_embedding", patch_positions(3, 64), r"shape \(3, 64\)"),
        (DEFAULT + "network_learnable_pos_embedding.weight", torch.ones(4, 64), "has 4 networks"),
        ("epoch", "many", "no 'model_state_dict' of weights"),
    ],
)
def test_wrong_values(tmp_path: Path, key: str, value: Any, words: str) -> None:
    made = released()
    made.state[key] = value
    with pytest.raises(InputError, match=words):
        read_checkpoint(made.save(tmp_path), atlas=ATLAS)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (changed(model__tokenizer__pooling_type="attention"), "only mean and max"),
        (changed(model__tokenizer__config=[DENSE | {"depthwise": True}, LONG]), "depthwise"),
        (changed(model__tokenizer__config=[DENSE | {"kernel_size": 4}, LONG]), "odd number"),
        (changed(model__tokenizer__config=[DENSE]), "cannot fill a token"),
        (changed(model__tokenizer__config=[DENSE, LONG | {"num_scales": 4}]), "32 taps"),
        (changed(model__tokenizer__final_norm="batch"), "final_norm"),
        (changed(model__surprise=1), "model.surprise"),
        (changed(data__target_tr=0.735), "data.target_tr"),
        (changed(data__normalization="global"), "data.normalization"),
        (changed(data__channels=10), "data.channels"),
        (changed(model__global_pooling="mean"), "global_pooling"),
        (changed(model_type="mae"), "model_type"),
        (changed(data__schaefer_atlas="schaefer400", data__schaefer_rois=200), "has 400"),
        (changed(data__schaefer_atlas="tian3", data__schaefer_rois=50), "schaefer_atlas is tian3"),
        (changed(model__backbone_type="vit"), "backbone_type"),
        (changed(model__cnn_dim=16), "cnn_dim = 16 differs"),
        (changed(model__heads=2), "heads = 2"),
        (changed(model__mlp_dim=128), "mlp_dim = 128"),
        (changed(model__depth=2), "lacks 'teacher_encoder.*transformer_blocks.1"),
        (changed(model__depth=0), "no parameter 'teacher_encoder.*transformer_blocks.0"),
        (changed(data__patch_size=10), "16 taps, more than a patch of 10"),
        (changed(data__target_signal_length=60), "temporal_pos_embedding"),
        (changed(data={}), "patch_size"),
        (changed(data__max_spatial=True, data__min_spatial=True), "exclude each other"),
        (changed(data__max_spatial=True), "has 3 networks"),
        (changed(data__min_spatial=True), "has 3 networks"),
    ],
)
def test_wrong_configurations(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_checkpoint(released(config).save(tmp_path), atlas=ATLAS)


def test_maximal_without_its_projection(tmp_path: Path) -> None:
    made = released(changed(data__max_spatial=True), spatial="maximal", tokenization="linear")
    made.state["teacher_encoder.other.weight"] = torch.ones(64, 20)
    with pytest.raises(InputError, match="but 2 of its weights"):
        read_checkpoint(made.save(tmp_path), atlas=ATLAS)


def test_network_sizes_of_another_atlas(tmp_path: Path) -> None:
    file = released().save(tmp_path)
    other = Atlas.from_networks({"Vis": 5, "Cont": 4, "Default": 6})
    with pytest.raises(InputError, match="Cont has 3 ROIs in the checkpoint and 4 in the atlas"):
        read_checkpoint(file, atlas=other)
    with pytest.raises(InputError, match="by --atlas"):
        read_checkpoint(file)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pth")
    file = released().save(tmp_path)
    content = file.read_bytes()
    for damaged in (b"", b"no checkpoint", content[:3000], content[: len(content) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="no checkpoint of PyTorch"):
            read_checkpoint(file, atlas=ATLAS)
    torch.save([1, 2], file)
    with pytest.raises(InputError, match="holds a list"):
        read_checkpoint(file)


def test_no_configuration(tmp_path: Path) -> None:
    made = released()
    del made.content["config"]
    file = made.save(tmp_path)
    with pytest.raises(InputError, match="holds no configuration"):
        read_checkpoint(file, atlas=ATLAS)
    for text, words in (("- 1", "must hold sections"), ("a: [", "cannot be read")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=words):
            read_checkpoint(file, atlas=ATLAS)


def test_unknown_branch_and_existing_folder(tmp_path: Path) -> None:
    file = released().save(tmp_path)
    assert run(["import-checkpoint", str(file), "--out", "x", "--branch", "pupil"]) == 2
    with pytest.raises(InputError, match="exists"):
        import_checkpoint(file, tmp_path, atlas=ATLAS)


def test_a_checkpoint_without_the_branch() -> None:
    encoder = SemantoksEncoder(ATLAS, **ENCODER)
    with pytest.raises(InputError, match="no keys that begin with 'student_encoder"):
        released_encoder({"teacher_encoder.norm.weight": torch.ones(64)}, encoder, branch="student")


# Which tokenizers, which ROIs


def test_the_first_atlas_is_the_configurations(shared: Path, tmp_path: Path) -> None:
    content = torch.load(shared / "golden" / "checkpoint.pth", weights_only=True)
    expected = read_checkpoint(shared / "golden" / "checkpoint.pth").encoder
    state = content["model_state_dict"]
    content["model_state_dict"] = {key: state[key] for key in sorted(state)}  # buckner7 first
    torch.save(content, tmp_path / "sorted.pth")
    assert_same(read_checkpoint(tmp_path / "sorted.pth").encoder, expected, time=100)
    for key in [key for key in state if ".schaefer400." in key]:
        del content["model_state_dict"][key]
    torch.save(content, tmp_path / "dead.pth")
    with pytest.raises(InputError, match="lacks the tokenizers of 'schaefer400'"):
        read_checkpoint(tmp_path / "dead.pth")


def test_sets_of_tokenizers_that_nobody_names(tmp_path: Path) -> None:
    made = released(changed(data__schaefer_atlas=None))
    with pytest.raises(InputError, match=r"each of cortex, a-further-one.*data\.schaefer_atlas"):
        read_checkpoint(made.save(tmp_path), atlas=ATLAS)
    for key in [key for key in made.state if ".a-further-one." in key]:
        del made.state[key]
    assert_same(read_checkpoint(made.save(tmp_path), atlas=ATLAS).encoder, made.encoder)


def test_rois_in_another_order(shared: Path) -> None:
    file, atlas = shared / "golden" / "checkpoint.pth", Atlas.load("schaefer400-tian3-buckner7")
    first, second = [i for i, name in enumerate(atlas.networks) if name == "Vis"][:2]
    labels = list(atlas.labels)
    labels[first], labels[second] = labels[second], labels[first]
    permuted = dataclasses.replace(atlas, name="mine", labels=tuple(labels))
    with pytest.raises(InputError, match="ROI 1 of atlas 'mine' is"):
        read_checkpoint(file, atlas=permuted)
    networks = list(atlas.networks)
    other = networks.index("Default")
    networks[first], networks[other] = networks[other], networks[first]
    regrouped = dataclasses.replace(atlas, name="mine", networks=tuple(networks))
    with pytest.raises(InputError, match="puts ROIs into other networks"):
        read_checkpoint(file, atlas=regrouped)
    assert read_checkpoint(file, atlas=dataclasses.replace(atlas, name="mine")).notices == ()


def test_custom_network_maps_are_said_to_be_unchecked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, table, out = released().save(tmp_path), tmp_path / "map.tsv", tmp_path / "model"
    rows = [f"{label}\t{n}" for label, n in zip(ATLAS.labels, ATLAS.networks, strict=True)]
    table.write_text("\n".join(["label\tnetwork", *rows]) + "\n")
    assert run(["import-checkpoint", str(file), "--out", str(out), "--atlas", str(table)]) == 0
    assert "cannot be checked" in capsys.readouterr().out
    assert len(load_model(out).provenance["notices"]) == 1


# Damage, precision, odd values


@pytest.mark.parametrize("name", ["teacher_encoder.norm.weight", VISUAL + "branches.0.weight"])
def test_flipped_byte_in_a_weight(tmp_path: Path, name: str) -> None:
    made = released()
    file, weight = made.save(tmp_path), made.state[name].contiguous().numpy().tobytes()
    content = bytearray(file.read_bytes())
    place = content.index(weight) + len(weight) // 2
    content[place] ^= 1
    file.write_bytes(content)
    torch.load(file, weights_only=True)  # does not notice
    with zipfile.ZipFile(file) as archive:
        member = archive.testzip()
    with pytest.raises(InputError, match=f"is damaged: its part '{member}'"):
        import_checkpoint(file, tmp_path / "model", atlas=ATLAS)
    assert not (tmp_path / "model").exists()


def test_old_files_have_no_checksums(tmp_path: Path) -> None:
    made, file = released(), tmp_path / "old.pth"
    torch.save(made.content, file, _use_new_zipfile_serialization=False)
    imported = read_checkpoint(file, atlas=ATLAS)
    assert_same(imported.encoder, made.encoder)
    assert "old.pth is in the old format of PyTorch, which has no checksums" in imported.notices[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    made = released()
    for key, value in made.state.items():
        made.state[key] = value.to(dtype) if value.is_floating_point() else value
    imported = read_checkpoint(made.save(tmp_path), atlas=ATLAS)
    assert str(dtype).removeprefix("torch.") in " ".join(imported.notices)
    series = torch.randn(2, len(ATLAS), 40)
    expected = made.encoder(series).tokens
    torch.testing.assert_close(imported.encoder(series).tokens, expected, rtol=0, atol=0.1)
    made.state[DEFAULT + "temporal_pos_embedding"] += 0.05
    with pytest.raises(InputError, match="temporal_pos_embedding"):
        read_checkpoint(made.save(tmp_path), atlas=ATLAS)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(torch.tensor(7), 7), (7.0, 7), (torch.ones(2), None), ("seven", None), (torch.nan, None)],
)
def test_epochs(tmp_path: Path, epoch: Any, expected: int | None) -> None:
    made = released()
    made.content["epoch"] = epoch
    made.content["config"]["optimizer"]["lr"] = torch.tensor(0.5)  # not what JSON can hold
    import_checkpoint(made.save(tmp_path), tmp_path / "model", atlas=ATLAS)
    assert load_model(tmp_path / "model").provenance["imported_from"].get("epoch") == expected


def test_a_head_of_its_own_for_masked_tokens(tmp_path: Path) -> None:
    made = released(changed(dino={"use_separate_mask_predictor": True}))
    made.state["teacher_mask_predictor.mlp.0.bias"] += 1
    assert_same(read_checkpoint(made.save(tmp_path), atlas=ATLAS).encoder, made.encoder)


def test_a_checkpoint_with_the_teacher_alone(tmp_path: Path) -> None:
    made = released()
    for key in [k for k in made.state if k.startswith("student") or "mask_predictor" in k]:
        del made.state[key]
    assert_same(read_checkpoint(made.save(tmp_path), atlas=ATLAS).encoder, made.encoder)
