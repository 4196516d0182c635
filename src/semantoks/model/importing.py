"""Checkpoints of the released code, read without running code, as models of today."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.model.released import (
    BRANCHES,
    Branch,
    ReleasedWeights,
    released_encoder,
)
from semantoks.model.released_config import (
    ReleasedConfiguration,
    read_released_config,
    recipe_of,
)
from semantoks.model.released_file import read_released_file
from semantoks.model.released_heads import released_head

PREPROCESSING: Final = {"target_t_r": 2.0, "high_pass": 0.01, "low_pass": 0.1}
"""What the released models were trained on: repetition time in s, band in Hz."""


@dataclass(frozen=True)
class ImportedModel:
    """A released checkpoint as read."""

    encoder: SemantoksEncoder
    head: Head
    branch: str
    dropped: dict[str, int]
    provenance: dict[str, Any]
    notices: tuple[str, ...] = ()


def import_checkpoint(
    file: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    atlas: Atlas | None = None,
    branch: Branch = "teacher",
    license: str = "unknown",
) -> ImportedModel:
    """Turn a checkpoint of the released code into a model folder.

    See Also
    --------
    read_checkpoint : The same without writing a folder.
    """
    if Path(out).exists():
        raise InputError(f"{out} exists; choose another folder or remove it.")
    imported = read_checkpoint(file, config=config, atlas=atlas, branch=branch)
    save_encoder(
        imported.encoder,
        out,
        preprocessing=PREPROCESSING,
        provenance=imported.provenance,
        license=license,
    )
    return imported


def read_checkpoint(
    file: str | Path,
    *,
    config: str | Path | None = None,
    atlas: Atlas | None = None,
    branch: Branch = "teacher",
) -> ImportedModel:
    """Read a checkpoint of the released code.

    The file is read as numbers only: one that holds code is refused, and none is run.
    """
    file = Path(file)
    read = read_released_file(file, None if config is None else Path(config))
    released = read_released_config(read.config, origin=read.origin)
    atlas, notices = _atlas(released, atlas)
    encoder = SemantoksEncoder(atlas, **released.encoder_arguments())
    order = _order(released, encoder)
    # The encoder that is not wanted is checked as well: damage there may not be alone.
    present = [b for b in BRANCHES if any(key.startswith(f"{b}_encoder.") for key in read.state)]
    found = {
        name: _with_context(file, read.state, encoder, name, order, released.data.first_atlas)
        for name in dict.fromkeys((branch, *present))
    }
    encoder.load_state_dict(found[branch].weights)
    head = Head(**released.head_arguments())
    separate = released.dino.use_separate_mask_predictor
    head.load_state_dict(released_head(read.state, head, branch=branch, separate=separate))
    dead = found[branch].dead
    provenance = {
        "imported_from": {
            "file": file.name,
            "sha256": _sha256(file),
            "branch": branch,
            **({} if read.epoch is None else {"epoch": read.epoch}),
        },
        "recipe": recipe_of(read.config),
        "dropped_keys": len(dead),
        "dropped_parameters": sum(dead.values()),
        "notices": [*read.notices, *notices],
        "versions": {"torch": str(torch.__version__)},
    }
    encoder.preprocessing, encoder.provenance = dict(PREPROCESSING), provenance
    return ImportedModel(
        encoder.eval(), head.eval(), branch, dead, provenance, (*read.notices, *notices)
    )


def _atlas(released: ReleasedConfiguration, atlas: Atlas | None) -> tuple[Atlas, tuple[str, ...]]:
    """Take the atlas that was given, or the one that the configuration names, with notices."""
    name = released.atlas_name()
    if atlas is None:
        if name is None:
            raise InputError(
                "the configuration does not name a network map that is built in; give the atlas "
                "(ROIs in the order of the recordings, with their networks) by --atlas."
            )
        return Atlas.load(name), ()
    expected = released.data.schaefer_rois + released.data.tian_rois + released.data.buckner_rois
    if expected and len(atlas) != expected:
        raise InputError(
            f"atlas {atlas.name!r} has {len(atlas)} ROIs, but the checkpoint was trained on "
            f"{expected}; give its atlas{f' ({name})' if name else ''} by --atlas."
        )
    if name is not None:
        _check_rois(atlas, Atlas.load(name))
        return atlas, ()
    return atlas, (
        f"the configuration names no built-in atlas, so the order of ROIs within the networks of "
        f"{atlas.name!r} cannot be checked; features are only right if it is that of the training.",
    )


def _check_rois(atlas: Atlas, built_in: Atlas) -> None:
    """Refuse ROIs in another order than the checkpoint's; sizes of networks do not show it."""
    for number, (found, expected) in enumerate(zip(atlas.labels, built_in.labels, strict=True), 1):
        if found != expected:
            raise InputError(
                f"ROI {number} of atlas {atlas.name!r} is {found!r}, but the checkpoint was "
                f"trained on {built_in.name}, where it is {expected!r}. Leave --atlas out, or give "
                "the same labels in the same order."
            )


def _order(released: ReleasedConfiguration, encoder: SemantoksEncoder) -> list[int]:
    """Return the released number of each of the encoder's networks."""
    found = encoder.token_atlas.network_names
    names = released.networks()
    if names is None or encoder.spatial != "networks":
        return list(range(len(found)))
    if set(names) != set(found):
        raise InputError(
            f"the networks of atlas {encoder.atlas.name!r} ({', '.join(found)}) are not those of "
            f"the checkpoint ({', '.join(names)}); give its atlas ({released.atlas_name()}) by "
            "--atlas."
        )
    built_in = released.atlas_name()
    if built_in is not None and encoder.atlas.networks != Atlas.load(built_in).networks:
        raise InputError(
            f"atlas {encoder.atlas.name!r} puts ROIs into other networks than {built_in}, which "
            "the checkpoint was trained on. Leave --atlas out."
        )
    return [names.index(name) for name in found]


def _with_context(
    file: Path,
    state: Mapping[str, Tensor],
    encoder: SemantoksEncoder,
    branch: Branch,
    order: list[int],
    first_atlas: str | None,
) -> ReleasedWeights:
    """Translate the encoder after comparing the size of its networks with the atlas."""
    _check_network_map(state, encoder, branch, order)
    try:
        return released_encoder(state, encoder, branch=branch, order=order, atlas=first_atlas)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _check_network_map(
    state: Mapping[str, Tensor], encoder: SemantoksEncoder, branch: Branch, order: list[int]
) -> None:
    """Refuse an atlas whose networks have other sizes than the checkpoint's."""
    rows = state.get(
        f"{branch}_encoder.inter_network_transformer.network_learnable_pos_embedding.weight"
    )
    names, sizes = encoder.token_atlas.network_names, encoder.token_atlas.network_sizes
    if rows is not None and len(rows) != len(names):
        raise InputError(
            f"the checkpoint has {len(rows)} networks, but atlas {encoder.atlas.name!r} has "
            f"{len(names)} ({', '.join(names[:20])}); give its network map by --atlas."
        )
    counts: dict[int, int] = {}
    pattern = (
        rf"{branch}_encoder\.network_tokenizers\.\w+\.(\d+)\.branches\.\d+\.(?:weight|slconv\.D)"
    )
    for key, value in state.items():
        if found := re.fullmatch(pattern, key):
            counts.setdefault(int(found[1]), value.shape[1])
    wrong = [
        f"{name} has {counts[number]} ROIs in the checkpoint and {size} in the atlas"
        for name, size, number in zip(names, sizes, order, strict=True)
        if counts.get(number, size) != size
    ]
    if wrong:
        raise InputError(
            f"atlas {encoder.atlas.name!r} is not the checkpoint's: {'; '.join(wrong[:9])}. Give "
            "its network map by --atlas."
        )


def _sha256(file: Path) -> str:
    """Compute the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
