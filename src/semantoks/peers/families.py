"""The other models by name: what they ask for, and their released weights."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, get_args

from safetensors.torch import load, save_file
from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.files import new_folder
from semantoks.peers.weights import Card, read_weights

Family = Literal["bnt", "bolt", "brainmass", "brainlm", "brainjepa", "swift", "neurostorm"]
"""Models of others that are built here."""

_FORMAT: Final = "semantoks-peer-1"
_UNREADABLE: Final = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What building a model of senseless sizes raises."""
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)


def load_released(
    family: str,
    file: Path | str,
    *,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> nn.Module:
    """Load the released weights of another model; no code in the file is run.

    Parameters
    ----------
    family : str
        bnt, bolt, brainmass, brainlm, brainjepa, swift or neurostorm.
    file : Path or str
        The checkpoint, as its authors save it; or the folder that `import_released` made of it.
    config : mapping, optional
        Sizes that shapes do not tell, under the names of the released configuration; by default
        those of config.json beside the file, if there is one.
    gradients : Tensor of shape (roi, 30), optional
        Connectivity gradients of the regions; Brain-JEPA asks for them.
    coordinates : Tensor of shape (roi, 3), optional
        Places of the regions in mm; BrainLM of regions asks for them.

    Returns
    -------
    nn.Module
        In evaluation mode. Called with a batch it gives logits (batch, class) of connectivity
        (batch, roi, roi) for BNT and of series (batch, roi, time) for BolT; 8 features a region of
        connectivity for BrainMass; the mean of all tokens of series for Brain-JEPA; [CLS] of series
        for BrainLM, nothing hidden; the mean of the last stage of volumes
        (batch, 1, x, y, z, time) for SwiFT and NeuroSTORM.

    Raises
    ------
    ConfigurationError
        If there is no such family, or something is needed that was not given.
    InputError
        If the file is missing, damaged, of another model or of other sizes.

    Examples
    --------
    >>> load_released("brainnet", "weights.pth")
    Traceback (most recent call last):
    ...
    semantoks.errors.ConfigurationError: there is no family 'brainnet'; choose among bnt, ...
    """
    take, path = _loader(family), Path(file)
    if path.is_dir():
        return _load_folder(path, family)
    found = read_weights(path)
    beside = path.with_name("config.json")
    if config is None and beside.is_file():
        config = _read_config(beside)
    return take(found, where=str(path), config=config, gradients=gradients, coordinates=coordinates)


def import_released(
    family: str,
    file: Path | str,
    out: Path | str,
    *,
    config: Mapping[str, Any] | None = None,
    gradients: Tensor | None = None,
    coordinates: Tensor | None = None,
) -> nn.Module:
    """Keep released weights, with all that they need, in a folder that holds no code.

    Parameters
    ----------
    family : str
        bnt, bolt, brainmass, brainlm, brainjepa, swift or neurostorm.
    file : Path or str
        The checkpoint, as its authors save it.
    out : Path or str
        Folder; it must not exist.
    config : mapping, optional
        As for `load_released`.
    gradients : Tensor of shape (roi, 30), optional
        As for `load_released`.
    coordinates : Tensor of shape (roi, 3), optional
        As for `load_released`.

    Returns
    -------
    nn.Module
        The model as it is read back from the folder.

    Raises
    ------
    ConfigurationError
        As `load_released`.
    InputError
        As `load_released`, and if the folder exists.
    """
    out, path = Path(out), Path(file)
    if out.exists():
        raise InputError(f"{out} exists; choose another --out.")
    beside = path.with_name("config.json")
    if config is None and beside.is_file():
        config = _read_config(beside)
    given = {"gradients": gradients, "coordinates": coordinates}
    load_released(family, path, config=config, **given)  # all is checked before anything is written
    kept = {name: value for name, value in given.items() if value is not None}
    tensors = {f"given/{name}": value.clone().contiguous() for name, value in kept.items()}
    for name, value in read_weights(path).items():
        if isinstance(value, Tensor):
            tensors[name] = value.clone().contiguous()
        elif isinstance(value, Mapping):
            parts = {f"{name}/{key}": part for key, part in value.items()}
            for key, part in parts.items():
                if isinstance(part, Tensor):
                    tensors[key] = part.clone().contiguous()
    described = asdict(card(family))
    content = {"format": _FORMAT, "family": family, "config": config, "card": described}
    with new_folder(out) as folder:
        save_file(tensors, folder / "model.safetensors")
        content["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        text = json.dumps(content, indent=2)
        (folder / "config.json").write_text(text, encoding="utf-8")
    return _load_folder(out, family)


def _load_folder(folder: Path, family: str) -> nn.Module:
    """Load a model from the folder that `import_released` made."""
    content = _read_config(folder / "config.json")
    if content.get("format") != _FORMAT or content.get("family") != family:
        raise InputError(
            f"{folder} holds no imported {family}, but {content.get('family', 'another model')}; "
            "give the folder that import-checkpoint --family made."
        )
    weights = folder / "model.safetensors"
    try:
        raw = weights.read_bytes()
    except OSError as error:
        raise InputError(f"{weights} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(raw).hexdigest() != content.get("sha256"):
        raise InputError(f"{weights} is not what was imported (checksum); import it again.")
    found: dict[str, Any] = {}
    for name, value in load(raw).items():
        part, slash, key = name.partition("/")
        if slash:
            found.setdefault(part, {})[key] = value
        else:
            found[name] = value
    given = found.pop("given", {})
    return _loader(family)(found, where=str(folder), config=content.get("config"), **given)


def card(family: str) -> Card:
    """Look up what a user must know of a model."""
    module = _module(family)
    described: Card = module.SWIFT_CARD if family == "swift" else module.CARD
    return described


def _loader(family: str) -> Callable[..., nn.Module]:
    """Find what takes the weights of a family."""
    module = _module(family)
    take: Callable[..., nn.Module] = module.load_swift if family == "swift" else module.load

    def checked(found: Mapping[str, Any], *, where: str, **given: Any) -> nn.Module:
        try:
            return take(found, where=where, **given)
        except InputError:
            raise
        except _UNREADABLE as error:
            raise InputError(
                f"{where} does not describe a model of {card(family).title}: sizes cannot be read "
                f"from its tensors and configuration ({error}). Check the family and the file."
            ) from error

    return checked


def _module(family: str) -> ModuleType:
    """Import the file of a family."""
    if family not in FAMILIES:
        raise ConfigurationError(
            f"there is no family {family!r}; choose among {', '.join(FAMILIES)}."
            + nearest(family, FAMILIES)
        )
    # SwiFT and NeuroSTORM are one skeleton.
    name = "neurostorm" if family == "swift" else family
    return importlib.import_module(f"semantoks.peers.{name}")


def _read_config(path: Path) -> Mapping[str, Any]:
    """Read the configuration that lies beside weights."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} beside the weights cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} beside the weights must hold names and values.")
    return content
