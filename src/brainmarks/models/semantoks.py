"""Plug-in of the Brainmarks harness, which finds it by its place: any saved semantoks model."""

from __future__ import annotations

import os

from brainmarks.models.registry import register_model

from semantoks.errors import InputError
from semantoks.evaluation.harness_guest import GuestModel, GuestTransform, make_guest


@register_model  # type: ignore[untyped-decorator]
def semantoks(model: str | None = None, windows: int = 8) -> tuple[GuestTransform, GuestModel]:
    """Load a model folder, a run, or a repository on the hub.

    Parameters
    ----------
    model : str, optional
        Folder or hub repository; by default what the environment variable SEMANTOKS_MODEL says.
    windows : int
        Windows that are read of every scan.

    Returns
    -------
    GuestTransform
        Prepares a sample.
    GuestModel
        Encodes a batch of samples.

    Raises
    ------
    InputError
        If no model is named, or it is for an atlas that the harness does not have.
    """
    name = model or os.environ.get("SEMANTOKS_MODEL", "")
    if not name:
        raise InputError(
            "no model is named: give --overrides model_kwargs.model=FOLDER, or set the environment "
            "variable SEMANTOKS_MODEL to a model folder or a repository on the hub."
        )
    return make_guest(name, windows=windows)
