"""Checkpoints of the released code, read without running code, as models of today."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.model.released import (
    PARTS,
    Branch,
    check_keys,
    released_encoder,
    released_head,
)
from semantoks.model.released_config import (
    ReleasedConfiguration,
    read_released_config,
    recipe_of,
)

PREPROCESSING: Final = {"target_t_r": 2.0, "high_pass": 0.01, "low_pass": 0.1}
"""What the released models were trained on: repetition time in s, band in Hz."""
_PARALLEL: Final = frozenset({"module", "_orig_mod"})
_BESIDE: Final = ("config_used.yaml", "config.yaml")


@dataclass(frozen=True)
class ImportedModel:
    """A released checkpoint as read.

    Parameters
    ----------
    encoder : SemantoksEncoder
        The encoder, in evaluation mode.
    head : Head
        The head that belongs to it, in evaluation mode.
    branch : str
        "teacher" or "student".
    dropped : dict of str to int
        What was never used, by its released key, with its number of parameters.
    provenance : dict
        Where the weights come from, for JSON.
    """

    encoder: SemantoksEncoder
    head: Head
    branch: str
    dropped: dict[str, int]
    provenance: dict[str, Any]


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

    Parameters
    ----------
    file : str or Path
        The checkpoint, ``.pth``.
    out : str or Path
        Folder of the model; it must not exist.
    config : str or Path, optional
        YAML of the training run; by default the configuration inside the checkpoint or, if it has
        none, the file of the same name, ``config_used.yaml`` or ``config.yaml`` beside it.
    atlas : Atlas, optional
        Order of the ROIs and the network of each; by default the built-in atlas that the
        configuration names.
    branch : {"teacher", "student"}
        Which of the two encoders.
    license : str
        The hub's identifier of the licence of the weights.

    Returns
    -------
    ImportedModel
        What was read.

    Raises
    ------
    InputError
        If the file cannot be used or `out` exists.

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

    Parameters
    ----------
    file : str or Path
        The checkpoint, ``.pth``.
    config : str or Path, optional
        YAML of the training run; by default the configuration inside the checkpoint or beside it.
    atlas : Atlas, optional
        Order of the ROIs and the network of each; by default the built-in atlas that the
        configuration names.
    branch : {"teacher", "student"}
        Which of the two encoders.

    Returns
    -------
    ImportedModel
        Encoder and head.

    Raises
    ------
    InputError
        If the file holds code, is damaged, has keys missing or too many, or does not fit its
        configuration or the atlas.
    """
    file = Path(file)
    checkpoint = _load(file)
    state = _state(checkpoint, file)
    content, origin = _configuration(checkpoint, file, None if config is None else Path(config))
    released = read_released_config(content, origin=origin)
    atlas = _atlas(released, atlas)
    encoder = SemantoksEncoder(atlas, **released.encoder_arguments())
    order = _order(released, encoder)
    weights, dead = _with_context(file, state, encoder, branch, order)
    encoder.load_state_dict(weights)
    head = _head(state, released, branch)
    provenance = {
        "imported_from": {
            "file": file.name,
            "sha256": _sha256(file),
            "branch": branch,
            "epoch": checkpoint.get("epoch"),
        },
        "recipe": recipe_of(content),
        "dropped_keys": len(dead),
        "dropped_parameters": sum(dead.values()),
        "versions": {"torch": str(torch.__version__)},
    }
    return ImportedModel(encoder.eval(), head.eval(), branch, dead, provenance)


def _load(file: Path) -> dict[str, Any]:
    """Read the numbers of a checkpoint; never run what it may hold beside them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols; the error says it better
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {file} does not exist.") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"it would call {found[1]!r}" if found else "or it is no checkpoint of PyTorch at all"
        )
        raise InputError(
            f"{file} is refused because it holds more than numbers ({what}). It was not loaded, "
            "and nothing in it was run. Ask its authors for a file that torch.load(..., "
            "weights_only=True) accepts."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{file} is no checkpoint of PyTorch, or damaged ({reason}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not a checkpoint.")
    return content


def _state(checkpoint: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """Return the weights without what data-parallel training and compilation add to names."""
    state = checkpoint.get("model_state_dict", checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"{file} has no 'model_state_dict' of weights, but {', '.join(map(repr, checkpoint))}. "
            "Give a checkpoint that the released training code wrote."
        )
    plain = {
        ".".join(part for part in key.split(".") if part not in _PARALLEL): value
        for key, value in state.items()
    }
    if len(plain) < len(state):
        raise InputError(f"{file} holds weights twice, with and without 'module.' in their names.")
    strange = [key for key in plain if not key.startswith(PARTS)]
    if strange:
        raise InputError(
            f"{file} holds {len(strange)} parameter(s) that the released format has not, the first "
            f"is {strange[0]!r}; keys begin with {', '.join(PARTS)}"
        )
    return plain


def _configuration(
    checkpoint: Mapping[str, Any], file: Path, named: Path | None
) -> tuple[Mapping[str, Any], str]:
    """Find the configuration: named, inside, or beside."""
    if named is None and isinstance(checkpoint.get("config"), Mapping):
        return checkpoint["config"], str(file)
    beside = [file.with_suffix(".yaml"), *(file.parent / name for name in _BESIDE)]
    path = named or next((path for path in beside if path.is_file()), None)
    if path is None:
        raise InputError(
            f"{file} holds no configuration, and none of {', '.join(p.name for p in beside)} is "
            "beside it; give the YAML of the training run by --config."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"configuration {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"configuration {path} must hold sections such as 'model:'.")
    return content, str(path)


def _atlas(released: ReleasedConfiguration, atlas: Atlas | None) -> Atlas:
    """Take the atlas that was given, or the one that the configuration names."""
    name = released.atlas_name()
    if atlas is None:
        if name is None:
            raise InputError(
                "the configuration does not name a network map that is built in; give the atlas "
                "(ROIs in the order of the recordings, with their networks) by --atlas."
            )
        return Atlas.load(name)
    expected = released.data.schaefer_rois + released.data.tian_rois + released.data.buckner_rois
    if expected and len(atlas) != expected:
        raise InputError(
            f"atlas {atlas.name!r} has {len(atlas)} ROIs, but the checkpoint was trained on "
            f"{expected}; give its atlas{f' ({name})' if name else ''} by --atlas."
        )
    return atlas


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
    return [names.index(name) for name in found]


def _with_context(
    file: Path,
    state: Mapping[str, Tensor],
    encoder: SemantoksEncoder,
    branch: Branch,
    order: list[int],
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Translate the encoder after comparing the size of its networks with the atlas."""
    _check_network_map(state, encoder, branch, order)
    try:
        return released_encoder(state, encoder, branch=branch, order=order)
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


def _head(state: Mapping[str, Tensor], released: ReleasedConfiguration, branch: Branch) -> Head:
    """Make the head and load its weights."""
    head = Head(**released.head_arguments())
    weights, shapes = released_head(state, branch=branch), head.state_dict()
    prefix = f"{branch}_predictor."
    check_keys(weights, required=shapes, allowed=shapes, prefix=prefix)
    for name, value in weights.items():
        if value.shape != shapes[name].shape:
            raise InputError(
                f"{prefix + name!r} of the checkpoint has the shape {tuple(value.shape)}, but its "
                f"configuration asks for {tuple(shapes[name].shape)}."
            )
    head.load_state_dict(weights)
    return head


def _sha256(file: Path) -> str:
    """Compute the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
