"""The other models by name: what they ask for, and their released weights."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, get_args

from torch import Tensor, nn

from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.peers.weights import Card, read_weights

Family = Literal["bnt", "bolt", "brainmass", "brainlm", "brainjepa"]
"""Models of others that are built here."""

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
        bnt, bolt, brainmass, brainlm or brainjepa.
    file : Path or str
        The checkpoint, as its authors save it.
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
        for BrainLM, nothing hidden.

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
    module, path = _module(family), Path(file)
    found = read_weights(path)
    beside = path.with_name("config.json")
    if config is None and beside.is_file():
        config = _read_config(beside)
    model: nn.Module = module.load(
        found, where=str(path), config=config, gradients=gradients, coordinates=coordinates
    )
    return model


def card(family: str) -> Card:
    """Look up what a user must know of a model."""
    described: Card = _module(family).CARD
    return described


def _module(family: str) -> ModuleType:
    """Import the file of a family."""
    if family not in FAMILIES:
        raise ConfigurationError(
            f"there is no family {family!r}; choose among {', '.join(FAMILIES)}."
            + nearest(family, FAMILIES)
        )
    return importlib.import_module(f"semantoks.peers.{family}")


def _read_config(path: Path) -> Mapping[str, Any]:
    """Read the configuration that lies beside weights."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} beside the weights cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} beside the weights must hold names and values.")
    return content
