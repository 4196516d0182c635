"""Heads in the format of the released code, under the names that they have here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from semantoks.errors import InputError
from semantoks.model.layers import Head
from semantoks.model.released import BRANCHES, PARTS, Branch, check_keys, shaped


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
