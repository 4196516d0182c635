"""Released weights of other models: read as numbers only, names and sizes checked."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semantoks.errors import InputError, nearest


@dataclass(frozen=True)
class Card:
    """What a user must know of a model of others before its features mean anything.

    Parameters
    ----------
    title, paper : str
        Name, and where it was published.
    licence : str
        Licence of code and weights, with every restriction.
    atlas : str
        Regions that it expects, and their order.
    repetition_time : float or None
        Seconds between the frames that it expects; None where any will do.
    frames : int or None
        Frames of a window; None where any number will do.
    scaling : str
        Scaling of what goes in.
    asks : tuple of str
        Keywords of `load_released` for what a file does not carry.
    """

    title: str
    paper: str
    licence: str
    atlas: str
    repetition_time: float | None
    frames: int | None
    scaling: str
    asks: tuple[str, ...] = ()


def read_weights(file: Path | str) -> Mapping[str, Any]:
    """Read a checkpoint of PyTorch as numbers only; code in it is never run."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; check the path.")
    try:
        if zipfile.is_zipfile(path):  # torch.load does not compare checksums
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise InputError(f"{path} is damaged; copy or download it again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols; the error is clearer
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no checkpoint of PyTorch or holds more than numbers, and nothing in it was "
            "run; give a file that torch.load(..., weights_only=True) accepts."
        ) from error
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged; copy or download it again.") from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"{path} is no checkpoint of PyTorch, or damaged; copy it again."
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must hold weights by name, but holds {type(content).__name__}.")
    return content


def check_weights(
    found: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], *, where: str, family: str
) -> dict[str, Tensor]:
    """Refuse tensors that are missing, unknown, of other sizes or not finite."""
    missing = [name for name in shapes if name not in found]
    extra = [name for name in found if name not in shapes]
    if missing or extra:
        say = [f"{len(missing)} missing, such as {missing[0]!r}"] if missing else []
        say += [f"{len(extra)} unknown, such as {extra[0]!r}"] if extra else []
        hint = nearest(extra[0], missing) if extra else ""
        raise InputError(
            f"{where} does not hold the weights of {family} at these sizes: {' and '.join(say)}."
            f"{hint} Check the family, the file and its configuration."
        )
    for name, shape in shapes.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise InputError(f"{where} must hold a dense tensor in {name!r}; download it again.")
        if tuple(value.shape) != tuple(shape):
            raise InputError(
                f"{where} holds {name!r} of shape {tuple(value.shape)}, but {family} at these "
                f"sizes has {tuple(shape)}; give the configuration of this very file."
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(
                f"{where} holds values in {name!r} that are not finite; copy it again."
            )
    return dict(found)
