"""Weights in the format of the released code, under the names that they have here."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
import yaml
from torch import Tensor

from semantoks.errors import InputError, nearest
from semantoks.files import parse_yaml
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head, LongBranch, patch_positions

Branch = Literal["teacher", "student"]
"""The two encoders of a checkpoint."""

BRANCHES: Final[tuple[Branch, ...]] = ("teacher", "student")
PARTS: Final = tuple(
    f"{branch}_{part}."
    for branch in BRANCHES
    for part in ("encoder", "predictor", "mask_predictor")
)
"""What the keys of a checkpoint begin with."""
_TRANSFORMER: Final = "inter_network_transformer."
_SINGLE: Final = {
    "cls_token": _TRANSFORMER + "cls_token",
    "mask_token": _TRANSFORMER + "mask_embedding",
    "network_position": _TRANSFORMER + "network_learnable_pos_embedding.weight",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_BLOCK: Final = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "scale1.gain": "ls1.gamma",
    "scale2.gain": "ls2.gamma",
    "mlp.2": "mlp.3",
}
_LONG: Final = {
    "long.pieces.": "slconv.kernel_list.",
    "long.gain": "slconv.D",
    "long.norm": "slconv.kernel_norm",
    "project.": "projection.",
}
# Never used: a LayerNorm inside the transformer (and tokenizers of further atlases, below).
_DEAD: Final = frozenset(_TRANSFORMER + name for name in ("norm.weight", "norm.bias"))
_POSITIONS: Final = _TRANSFORMER + "temporal_pos_embedding"
_FLAG: Final = ".slconv.kernel_norm_initialized"
_NORM: Final = ".slconv.kernel_norm"
_DECAY: Final = ".slconv.multiplier"


class ReleasedWeights(NamedTuple):
    """The weights of one encoder of a released checkpoint."""

    weights: dict[str, Tensor]
    dead: dict[str, int]


def released_encoder(
    state: Mapping[str, Tensor],
    encoder: SemantoksEncoder,
    *,
    branch: Branch = "teacher",
    order: Sequence[int] | None = None,
    atlas: str | None = None,
) -> ReleasedWeights:
    """Translate the encoder of a released checkpoint."""
    prefix = f"{branch}_encoder."
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise InputError(f"the checkpoint has no keys that begin with {prefix!r}.")
    places = range(len(encoder.network_position)) if order is None else order
    live = _live_set(found, atlas)
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    names = {name: _released_name(name, live, places) for name in shapes}
    if encoder.spatial == "maximal":
        names |= _shared_projection(found, encoder)
    constants = _constants(found, encoder, live, places)
    used = {*names.values()}
    dead = {key for key in found if key in _DEAD or _live_twin(key, live) in used}
    spare = {key for key in found if _live_twin(key, live) in constants}
    check_keys(found, required=used, allowed=used | dead | constants | spare, prefix=prefix)
    weights = {name: shaped(found, names[name], shapes[name], prefix) for name in names}
    weights["network_position"] = weights["network_position"][list(places)]
    for key in dead:
        shaped(found, key, found[_live_twin(key, live) or "norm.weight"].shape, prefix)
    dropped = {
        prefix + key: 0 if key.endswith(_NORM) else value.numel()
        for key, value in found.items()
        if key in dead
    }
    return ReleasedWeights(weights, dropped)


def check_keys(
    found: Mapping[str, Tensor], *, required: Iterable[str], allowed: Iterable[str], prefix: str
) -> None:
    """Refuse keys that are missing or not known."""
    unknown = [key for key in found if key not in {*allowed}]
    missing = [key for key in required if key not in found]
    if unknown:
        raise InputError(
            f"the released format has no parameter {_listed(unknown, prefix)} in this "
            f"architecture; the checkpoint or its configuration is another model's."
            + nearest(unknown[0], missing)
        )
    if missing:
        raise InputError(
            f"the checkpoint lacks {_listed(missing, prefix)}; it is not whole, or its "
            "configuration is another model's."
        )


def _released_name(name: str, live: str, order: Sequence[int]) -> str:
    """Translate the name of one weight into the released one, without its prefix."""
    if name in _SINGLE:
        return _SINGLE[name]
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"{_TRANSFORMER}transformer_blocks.{block[1]}.{_replaced(block[2], _BLOCK)}"
    if network := re.fullmatch(r"tokenizer\.networks\.(\d+)\.((?:branches\.\d+\.)?)(.+)", name):
        number = order[int(network[1])]
        return f"network_tokenizers.{live}.{number}.{network[2]}{_replaced(network[3], _LONG)}"
    return name


def _replaced(name: str, names: Mapping[str, str]) -> str:
    """Replace the first of some names that a name begins with."""
    for old, new in names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _atlas_of(key: str) -> str:
    """Return the atlas that a tokenizer's key names."""
    parts = key.split(".")
    return parts[1] if parts[0] == "network_tokenizers" and len(parts) > 2 else ""


def _live_set(found: Mapping[str, Tensor], named: str | None) -> str:
    """Return the atlas whose tokenizers were used; the order of keys says nothing about it."""
    sets = list(dict.fromkeys(atlas for key in found if (atlas := _atlas_of(key))))
    if named is None:
        if len(sets) > 1:
            raise InputError(
                f"the checkpoint holds a set of tokenizers for each of {', '.join(sets)}, of which "
                "only that of the first atlas of the training was used, and its configuration does "
                "not name that one (data.schaefer_atlas); give its whole configuration by --config."
            )
        return sets[0] if sets else ""
    if sets and named not in sets:
        raise InputError(
            f"the checkpoint lacks the tokenizers of {named!r}, the first atlas of its "
            f"configuration and the only one whose tokenizers were used; it has those of "
            f"{', '.join(sets)}. It is not whole, or its configuration is another model's."
        )
    return named


def _live_twin(key: str, live: str) -> str:
    """Return what a tokenizer's key is called in the set that is used."""
    atlas = _atlas_of(key)
    return key.replace(f".{atlas}.", f".{live}.", 1) if atlas not in ("", live) else ""


def _shared_projection(found: Mapping[str, Tensor], encoder: SemantoksEncoder) -> dict[str, str]:
    """Find the one projection that all ROIs share, by its shape: its name is not documented."""
    shape = (encoder.dim, encoder.patch)
    fitting = [k for k, v in found.items() if k.endswith(".weight") and tuple(v.shape) == shape]
    if len(fitting) != 1:
        raise InputError(
            f"the checkpoint is of the maximal spatial mode, but {len(fitting)} of its weights "
            f"have the shape {shape} of the projection that ROIs share, instead of one; it cannot "
            "be told which to use."
        )
    return {
        "tokenizer.project.weight": fitting[0],
        "tokenizer.project.bias": fitting[0].removesuffix("weight") + "bias",
    }


def _constants(
    found: Mapping[str, Tensor], encoder: SemantoksEncoder, live: str, order: Sequence[int]
) -> set[str]:
    """Name what is computed anew here, after comparing it with what is stored."""
    names = {_POSITIONS}
    patches = encoder.window // encoder.patch
    _compare(found, _POSITIONS, patch_positions(patches, encoder.dim))
    if encoder.spatial == "maximal" or encoder.tokenization == "linear":
        return names
    for network, size in zip(order, encoder.token_atlas.network_sizes, strict=True):
        for number, branch in enumerate(encoder.branches):
            if isinstance(branch, LongBranch):
                key = f"network_tokenizers.{live}.{network}.branches.{number}"
                _compare(found, key + _DECAY, torch.linspace(*_decay(branch), size))
                _check_norm_is_set(found, key + _FLAG)
                names |= {key + _DECAY, key + _FLAG}
    return names


def _check_norm_is_set(found: Mapping[str, Tensor], key: str) -> None:
    """Refuse long kernels whose norm the released code would still set at their first use."""
    if key in found and not bool(found[key].all()):
        raise InputError(
            f"{key!r} of the checkpoint is false: the norm of this kernel was never set, so the "
            "weights are those of a model that has not seen any data. Give a later checkpoint."
        )


def _decay(branch: LongBranch) -> tuple[float, float]:
    """Return the decay of the first and of the last ROI."""
    return branch.decay_min, branch.decay_max


def _compare(found: Mapping[str, Tensor], key: str, computed: Tensor) -> None:
    """Refuse a stored constant that is another than ours."""
    if key not in found:
        return
    stored, tolerance = found[key].float(), 1e-5
    if found[key].is_floating_point():  # float16 rounds more than 1e-5
        largest = max(1.0, float(computed.abs().max()))
        tolerance = max(tolerance, torch.finfo(found[key].dtype).eps * largest)
    same = stored.numel() == computed.numel() and bool(
        ((stored.reshape(computed.shape) - computed).abs() <= tolerance).all()  # NaN is not
    )
    if not same:
        raise InputError(
            f"the constant {key!r} of the checkpoint (shape {tuple(stored.shape)}) is not what its "
            f"configuration makes it (shape {tuple(computed.shape)}); give the configuration of "
            "this training run by --config, or the atlas by --atlas."
        )


def shaped(found: Mapping[str, Tensor], key: str, shape: Sequence[int], prefix: str) -> Tensor:
    """Return a weight in the shape that it has here."""
    value = found[key]
    if key in (_SINGLE["cls_token"], _SINGLE["mask_token"]) and value.numel() == shape[0]:
        value = value.reshape(-1)
    if tuple(value.shape) != tuple(shape):
        raise InputError(
            f"{prefix + key!r} of the checkpoint has the shape {tuple(value.shape)}, but its "
            f"configuration and the atlas ask for {tuple(shape)}. Give the configuration of this "
            "training run by --config and its network map by --atlas."
        )
    if not value.is_floating_point() or not bool(value.isfinite().all()):
        raise InputError(f"{prefix + key!r} of the checkpoint holds values that are no numbers.")
    return value.float()


def _listed(keys: Sequence[str], prefix: str) -> str:
    """Name some keys."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(repr(prefix + key) for key in keys[:5]) + more


def released_head(
    state: Mapping[str, Tensor], head: Head, *, branch: Branch = "teacher", separate: bool = False
) -> dict[str, Tensor]:
    """Translate the head of a released checkpoint, and check the others that are in it."""
    shapes = {name: value.shape for name, value in head.state_dict().items()}
    found: dict[str, dict[str, Tensor]] = {}
    for prefix in (f"{branch}_predictor.", *(part for part in PARTS if "predictor" in part)):
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if weights or prefix == f"{branch}_predictor.":
            check_keys(weights, required=shapes, allowed=shapes, prefix=prefix)
            found[prefix] = {k: shaped(weights, k, shapes[k], prefix) for k in shapes}
    for twin in BRANCHES if not separate else ():
        plain, masked = found.get(f"{twin}_predictor."), found.get(f"{twin}_mask_predictor.")
        if plain and masked:
            _check_twins(plain, masked, f"{twin}_mask_predictor.")
    return found[f"{branch}_predictor."]


def _check_twins(plain: Mapping[str, Tensor], masked: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse a head of masked tokens that differs though it is said to be the same."""
    for name, value in plain.items():
        if not torch.equal(value, masked[name]):
            raise InputError(
                f"{prefix + name!r} of the checkpoint differs from the head of all tokens, though "
                "dino.use_separate_mask_predictor of its configuration is not set; the checkpoint "
                "is damaged, or its configuration is another model's."
            )


_ZIP: Final = b"PK\x03\x04"  # what torch.load goes by
_PARALLEL: Final = frozenset({"module", "_orig_mod"})
_BESIDE: Final = ("config_used.yaml", "config.yaml")
_UNCHECKED: Final = (
    "{name} is in the old format of PyTorch, which has no checksums: a damaged weight cannot be "
    "noticed. Compare its SHA-256, which the model's config.json names, with that of its authors."
)


class ReleasedFile(NamedTuple):
    """A checkpoint file as read."""

    state: dict[str, Tensor]
    config: Mapping[str, Any]
    origin: str
    epoch: int | None
    notices: tuple[str, ...]


def read_released_file(file: Path, config: Path | None = None) -> ReleasedFile:
    """Read a checkpoint file and its configuration; no code in it is run."""
    whole = _check_whole(file)
    checkpoint = _load(file)
    state = _state(checkpoint, file)
    content, origin = _configuration(checkpoint, file, config)
    notices = [] if whole else [_UNCHECKED.format(name=file.name)]
    coarse = {v.dtype for v in state.values() if v.is_floating_point() and v.itemsize < 4}
    if coarse:
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in coarse))
        notices.append(
            f"{file.name} holds weights in {kinds}: features differ from those of the model that "
            "was trained by what that rounding does."
        )
    return ReleasedFile(state, content, origin, _epoch(checkpoint.get("epoch")), tuple(notices))


def _check_whole(file: Path) -> bool:
    """Refuse a file whose parts are not what their checksums say; tell whether it has any.

    torch.load does not compare them.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(len(_ZIP)) != _ZIP:
                return False
        with zipfile.ZipFile(file) as archive:
            member = archive.testzip()
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {file} does not exist.") from error
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file} is no checkpoint of PyTorch, or damaged ({error}).") from error
    if member is not None:
        raise InputError(
            f"{file} is damaged: its part {member!r} does not have the checksum (CRC-32) that the "
            "file states. Copy or download it again."
        )
    return True


def _epoch(value: Any) -> int | None:
    """Return the epoch as a number, whatever it was stored as."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return int(value) if isinstance(value, int | float) and value == value // 1 else None


def _load(file: Path) -> dict[str, Any]:
    """Read the numbers of a checkpoint; never run what it may hold beside them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols; the error says it better
            content = torch.load(file, map_location="cpu", weights_only=True)
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
    odd = [key for key, value in state.items() if value.layout is not torch.strided]
    if odd:
        raise InputError(
            f"{file} holds {odd[0]!r} as {state[odd[0]].layout}, but plain (strided) weights were "
            "expected. Save the checkpoint with dense weights (tensor.to_dense())."
        )
    if not all(isinstance(key, str) for key in state):
        raise InputError(f"{file} holds weights that have no names; it is no released checkpoint.")
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
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"configuration {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"configuration {path} must hold sections such as 'model:'.")
    return content, str(path)
