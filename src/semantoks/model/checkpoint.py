"""An encoder as a folder: weights, arguments, atlas, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from semantoks import __version__
from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.files import new_folder
from semantoks.model.encoder import SemantoksEncoder

FORMAT_VERSION: Final = 1


class SavedModel(NamedTuple):
    """A model folder as read.

    Parameters
    ----------
    encoder : SemantoksEncoder
        The encoder, in evaluation mode.
    preprocessing : dict
        How series must be prepared for it; empty if unknown.
    provenance : dict
        What it was trained on and how.
    """

    encoder: SemantoksEncoder
    preprocessing: dict[str, Any]
    provenance: dict[str, Any]


def save_encoder(
    encoder: SemantoksEncoder,
    folder: str | Path,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write an encoder to a new folder, whole or not at all.

    Parameters
    ----------
    encoder : SemantoksEncoder
        What to save.
    folder : str or Path
        Where to; it must not exist.
    preprocessing : mapping, optional
        How series must be prepared for it.
    provenance : mapping, optional
        What it was trained on and how; anything that JSON can hold.

    Returns
    -------
    Path
        The folder, with ``model.safetensors`` and ``config.json``.

    Raises
    ------
    InputError
        If the folder exists.
    """
    folder = Path(folder)
    config = {
        "format_version": FORMAT_VERSION,
        "semantoks_version": __version__,
        "arguments": encoder.arguments,
        "atlas": encoder.atlas.to_dict(),
        "preprocessing": dict(preprocessing or {}),
        "provenance": dict(provenance or {}),
    }
    weights = {name: value.contiguous().cpu() for name, value in encoder.state_dict().items()}
    try:
        with new_folder(folder) as beside:
            save_file(weights, beside / "model.safetensors", metadata={"format": "pt"})
            (beside / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{folder} exists; choose another folder or remove it.") from error
    return folder


def load_encoder(folder: str | Path) -> SemantoksEncoder:
    """Load an encoder from a model folder or from the run folder above it.

    Parameters
    ----------
    folder : str or Path
        A folder that `save_encoder` wrote, or a run that `pretrain` finished.

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
    return load_model(folder).encoder


def load_model(folder: str | Path) -> SavedModel:
    """Load an encoder with what its folder says about it.

    Parameters
    ----------
    folder : str or Path
        A folder that `save_encoder` wrote, or a run that `pretrain` finished.

    Returns
    -------
    SavedModel
        Encoder, preprocessing and provenance.

    Raises
    ------
    InputError
        If a file is missing, damaged, or does not fit the other.
    """
    folder = _model_folder(Path(folder))
    config = _read_config(folder / "config.json")
    atlas = Atlas.from_dict(config["atlas"])
    encoder = SemantoksEncoder(atlas, **config["arguments"])
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy the model again.") from error
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"the weights in {path} do not fit its config.json: {' '.join(str(error).split())}"
        ) from error
    return SavedModel(encoder.eval(), config["preprocessing"], config["provenance"])


def _model_folder(folder: Path) -> Path:
    """Find the model in a model folder or a run folder."""
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
        missing = {"arguments", "atlas", "preprocessing", "provenance"} - set(config)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); copy it again.") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this semantoks ({__version__}) reads up to "
            f"{FORMAT_VERSION}; install a newer semantoks."
        )
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}; copy the model again.")
    return config
