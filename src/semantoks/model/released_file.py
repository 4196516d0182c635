"""Files of the released code: read whole, as numbers only, or refused."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import yaml
from torch import Tensor

from semantoks.errors import InputError
from semantoks.model.released import PARTS

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"configuration {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"configuration {path} must hold sections such as 'model:'.")
    return content, str(path)
