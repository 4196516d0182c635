"""An encoder as a folder: weights, arguments, atlas, and where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from semantoks import __version__
from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.files import new_folder
from semantoks.model.card import model_card, relicensed
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.hub import fetch_model, looks_like_hub_id

FORMAT_VERSION: Final = 2
_FIELDS: Final = {"arguments", "atlas", "preprocessing", "provenance"}
_SINCE_2: Final = {"license", "weights", "checksum"}
# How version 1 called the parts of a network's tokenizer.
_VERSION_1: Final = {
    ".dense.": ".branches.0.",
    ".long.": ".branches.1.long.",
    ".project.": ".branches.1.project.",
}


class SavedModel(NamedTuple):
    """A model folder as read."""

    encoder: SemantoksEncoder
    preprocessing: dict[str, Any]
    provenance: dict[str, Any]


def save_encoder(
    encoder: SemantoksEncoder,
    folder: str | Path,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> Path:
    """Write an encoder to a new folder, whole or not at all.

    Parameters
    ----------
    encoder : SemantoksEncoder
        What to save.
    folder : str or Path
        Where to; it must not exist.
    preprocessing : mapping, optional
        How series must be prepared for it; by default what the encoder was loaded with.
    provenance : mapping, optional
        What it was trained on and how; anything that JSON can hold. By default what the encoder was
        loaded with.
    license : str, optional
        The hub's identifier of the licence of the weights, such as "cc-by-4.0"; by default that
        which the encoder was loaded with, or "unknown".

    Returns
    -------
    Path
        The folder, with ``model.safetensors``, ``config.json`` and the card ``README.md``.

    Raises
    ------
    InputError
        If the folder exists.
    """
    folder = Path(folder)
    weights = {name: value.contiguous().cpu() for name, value in encoder.state_dict().items()}
    # Written here, since safetensors lets only the owner read the files that it writes.
    content = safetensors.torch.save(weights, metadata={"format": "pt"})
    try:
        with new_folder(folder) as beside:
            (beside / "model.safetensors").write_bytes(content)
            config = {
                "format_version": FORMAT_VERSION,
                "semantoks_version": __version__,
                "arguments": encoder.arguments,
                "atlas": encoder.atlas.to_dict(),
                "preprocessing": dict(
                    encoder.preprocessing if preprocessing is None else preprocessing
                ),
                "provenance": dict(encoder.provenance if provenance is None else provenance),
                "license": encoder.license if license is None else license,
                "weights": {
                    "parameters": sum(p.numel() for p in encoder.parameters()),
                    "sha256": _sha256(content),
                },
            }
            (beside / "config.json").write_text(_with_checksum(config), encoding="utf-8")
            (beside / "README.md").write_text(model_card(config), encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{folder} exists; choose another folder or remove it.") from error
    return folder


def load_encoder(folder_or_hub_id: str | Path, *, revision: str | None = None) -> SemantoksEncoder:
    """Load an encoder from a folder or from the hub.

    Parameters
    ----------
    folder_or_hub_id : str or Path
        A folder that `save_encoder` wrote, a run that `pretrain` finished, or ``owner/name`` on the
        hub; without a network, the hub's cache is looked up.
    revision : str, optional
        Branch, tag or commit on the hub.

    Returns
    -------
    SemantoksEncoder
        The encoder, in evaluation mode, on the CPU.

    Raises
    ------
    InputError
        If a file is missing, damaged, or does not fit the other.

    Examples
    --------
    >>> import tempfile
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=1)
    >>> folder = save_encoder(encoder, Path(tempfile.mkdtemp()) / "model")
    >>> load_encoder(folder).dim
    64
    """
    return load_model(folder_or_hub_id, revision=revision).encoder


def load_model(folder_or_hub_id: str | Path, *, revision: str | None = None) -> SavedModel:
    """Load an encoder with what its folder says about it.

    Nothing is ever unpickled: weights are safetensors, everything else is JSON.
    """
    folder = find_model(folder_or_hub_id, revision=revision)
    config = _read_config(folder / "config.json")
    path = folder / "model.safetensors"
    try:
        encoder = SemantoksEncoder(Atlas.from_dict(config["atlas"]), **config["arguments"])
    except TypeError as error:
        raise InputError(f"{folder / 'config.json'} has impossible arguments: {error}.") from error
    weights = _read_weights(path, config)
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"the weights in {path} do not fit its config.json: {' '.join(str(error).split())}"
        ) from error
    encoder.preprocessing, encoder.provenance = config["preprocessing"], config["provenance"]
    encoder.license = config.get("license", encoder.license)
    return SavedModel(encoder.eval(), config["preprocessing"], config["provenance"])


def change_license(folder: str | Path, license: str) -> None:
    """Name another licence in the configuration and the card of a model folder."""
    path, card = Path(folder) / "config.json", Path(folder) / "README.md"
    config = _read_config(path)
    text = relicensed(card.read_text(encoding="utf-8"), config["license"], license)
    card.write_text(text, encoding="utf-8")
    path.write_text(_with_checksum(config | {"license": license}), encoding="utf-8")


def find_model(folder_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """Find the folder of a model."""
    folder = Path(folder_or_hub_id)
    if not folder.exists() and looks_like_hub_id(folder.as_posix()):
        folder = fetch_model(folder.as_posix(), revision=revision)
    elif revision is not None:
        raise InputError(
            f"{folder} is looked for on this machine, where models have no revisions; leave the "
            "revision out, or give owner/name on the hub."
        )
    for candidate in (folder, folder / "model"):
        if (candidate / "model.safetensors").is_file():
            return candidate
    raise InputError(
        f"{folder} holds no model.safetensors, nor does {folder / 'model'}. Give the folder of a "
        "saved model or of a run that has finished."
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Read and check config.json."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); copy it again.") from error
    if type(version) is not int or version < 1:
        raise InputError(
            f"{path} is damaged: its format_version is {version!r}, not a whole number from 1 to "
            f"{FORMAT_VERSION}. Copy the model again."
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this semantoks ({__version__}) reads up to "
            f"{FORMAT_VERSION}; install a newer semantoks."
        )
    missing = (_FIELDS | _SINCE_2 if version >= 2 else _FIELDS) - set(config)
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}; copy the model again.")
    Atlas.from_dict(config["atlas"])  # its own fingerprint says best what was changed
    # A checksum counts wherever there is one: a version that was edited must not switch it off.
    if "checksum" in config and config.pop("checksum") != _checksum(config):
        raise InputError(
            f"{path} was changed after the model was saved (its checksum differs); copy the model "
            "again. What the card README.md says may be changed freely."
        )
    return config


def _read_weights(path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the weights and compare their checksum."""
    try:
        content = path.read_bytes()
        if "weights" in config and _sha256(content) != config["weights"]["sha256"]:
            raise InputError(
                f"{path} is damaged: its SHA-256 is not the one in config.json. Copy the model "
                "again."
            )
        weights = safetensors.torch.load(content)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy the model again.") from error
    return weights if config["format_version"] >= 2 else _from_version_1(weights)


def _from_version_1(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names that they have today."""
    renamed = {}
    for name, value in weights.items():
        if name.startswith("tokenizer.networks."):
            for old, new in _VERSION_1.items():
                name = name.replace(old, new, 1) if old in name else name
        renamed[name] = value
    return renamed


def _with_checksum(config: Mapping[str, Any]) -> str:
    """Write a configuration with its checksum as JSON."""
    return json.dumps({**config, "checksum": _checksum(config)}, indent=1)


def _checksum(config: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a configuration, whatever its layout."""
    plain = json.loads(json.dumps(config))  # as it will be read, with texts as all keys
    return _sha256(json.dumps(plain, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    """Compute a SHA-256."""
    return hashlib.sha256(content).hexdigest()
